"""`netsonde packets -w` from several hosts: one file in order of time, and downloads that break.

tshark and capinfos read the merged file. Each host's own file is the reference.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from agents import COMMAND, Fleet, client_flags
from bus import Bus
from deadlines import eventually
from netsonde.bus.objects import CHUNK_BYTES
from netsonde.fleet.download import BATCH_CHUNKS
from packets import SECOND_NS, Packet, at, read_capture, write_pcap
from proxies import proxied
from recording import numbered
from replay import check_conservation
from servers import NatsServer

pytestmark = pytest.mark.jetstream

HOSTS = [f"web{number}" for number in range(10)]
LARGE = 20_000  # packets of 1 KB: an object of 21 MB
BATCH_BYTES = BATCH_CHUNKS * CHUNK_BYTES


async def packets(
    url: str, *words: str | Path, command: str = "packets"
) -> subprocess.CompletedProcess[str]:
    full = [str(COMMAND), command, *map(str, words), *client_flags(url)]
    return await asyncio.to_thread(
        lambda: subprocess.run(full, capture_output=True, text=True, timeout=120)
    )


async def recorded(fleet: Fleet, bus: Bus, directory: Path, host: str, made: list[Packet]) -> None:
    """Starts an agent and a session that has read all the packets."""
    fleet.start(host)
    path = write_pcap(directory / f"{host}.pcap", made)
    meter = {"enable": True}
    body = {"interface": str(path), "backend": "file", "buffer_size_mb": 64, "metering": meter}
    await bus.ok("start", body, host=host)

    async def read() -> bool:
        return bool((await bus.ok("status", host=host)).get("finished"))

    await eventually(read, f"{host} to read its file")
    status = await bus.ok("status", host=host)
    assert status["packets_captured"] + status["packets_dropped"] == len(made)
    check_conservation(status)


def shifted(made: list[Packet], by_ns: int) -> list[Packet]:
    return [at(one.time_ns + by_ns, one.data) for one in made]


def parts(directory: Path) -> list[Path]:
    """Returns the downloads that are kept."""
    return list(directory.glob("*.parts/*.pcapng"))


def tshark(path: Path) -> list[tuple[str, int, str]]:
    """Returns interface, time and UDP payload of each packet."""
    fields = ("frame.interface_name", "frame.time_epoch", "udp.payload")
    options = [word for field in fields for word in ("-e", field)]
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = []
    for line in done.stdout.splitlines():
        interface, time, payload = line.split("\t")
        seconds, _, rest = time.partition(".")
        found.append((interface, int(seconds) * SECOND_NS + int(rest), payload))
    return found


def capinfos(path: Path) -> str:
    done = subprocess.run(["capinfos", str(path)], capture_output=True, text=True, check=True)
    return done.stdout


async def test_ten_hosts_merge_into_the_union_of_their_files(
    fleet: Fleet, bus: Bus, nats_server: NatsServer, tmp_path: Path
) -> None:
    """The times of the hosts interleave; some are equal."""
    for number, host in enumerate(HOSTS):
        made = shifted(numbered(200 + number), number // 2 * 9973)
        await recorded(fleet, bus, tmp_path, host, made)
    fleet.start("idle")  # without a session: it fails and costs only itself
    merged = tmp_path / "merged.pcapng"
    done = await packets(nats_server.url, "-w", merged)
    assert done.returncode == 1
    assert "idle: 400 no_session" in done.stderr
    assert f"{merged}: {sum(range(200, 210))} packets of 10 hosts" in done.stderr
    done = await packets(nats_server.url, "--split", "-w", tmp_path / "each.pcapng")
    assert done.returncode == 1, done.stderr

    expected: list[tuple[str, int, str]] = []
    for host in HOSTS:
        own = tshark(tmp_path / f"each-{host}.pcapng")
        assert {interface.split("/")[0] for interface, _, _ in own} == {host}
        expected += own
    assert len(expected) == sum(range(200, 210))
    found = tshark(merged)
    assert Counter(found) == Counter(expected)
    times = [time for _, time, _ in found]
    assert times == sorted(times)
    for host in HOSTS:  # packets of one host keep their order
        assert [one for one in found if one[0].startswith(f"{host}/")] == [
            one for one in expected if one[0].startswith(f"{host}/")
        ]
    text = capinfos(merged)
    assert re.search(r"Strict time order:\s+True", text)
    assert re.search(r"Number of interfaces in file:\s+10", text)
    assert not parts(tmp_path)

    piped = await asyncio.to_thread(
        lambda: subprocess.run(
            [str(COMMAND), "packets", "-w", "-", *client_flags(nats_server.url)],
            capture_output=True,
            timeout=120,
        )
    )
    assert piped.stdout == merged.read_bytes()


@pytest.mark.parametrize("words", [("--split",), ("--split", "-w", "-")])
async def test_split_needs_a_file(nats_server: NatsServer, words: tuple[str, ...]) -> None:
    done = await packets(nats_server.url, *words)
    assert (done.returncode, "--split needs --write FILE" in done.stderr) == (2, True)


async def test_download_continues_when_the_connection_is_back(
    fleet: Fleet, bus: Bus, nats_server: NatsServer, tmp_path: Path
) -> None:
    """The connection is cut twice within one object. Each time at most the batch in flight is sent
    again. From the start, 40 MiB would be."""
    packets_made = 3 * LARGE
    await recorded(fleet, bus, tmp_path, "alpha", numbered(packets_made))
    out = tmp_path / "out.pcapng"
    async with proxied(nats_server.port, 20 << 20, 40 << 20) as proxy:
        done = await packets(proxy.url, "-w", out)
        assert done.returncode == 0, done.stderr
        assert proxy.connections == 3
        assert proxy.sent < out.stat().st_size + 2 * BATCH_BYTES + (1 << 20)
    assert len(read_capture(out)) == packets_made
    assert not parts(tmp_path)


async def test_resumed_run_fetches_only_the_rest(
    fleet: Fleet, bus: Bus, nats_server: NatsServer, tmp_path: Path
) -> None:
    """The server stays unreachable during the second host's download. The complete download of the
    first and the part of the second are kept."""
    for host in ("alpha", "beta"):
        await recorded(fleet, bus, tmp_path, host, numbered(LARGE))
    out = tmp_path / "out.pcapng"
    async with proxied(nats_server.port, 32 << 20) as proxy:
        proxy.down_after_cuts = True
        done = await packets(proxy.url, "-w", out, "--timeout", "20")
        assert done.returncode == 1
        assert "beta: 500 download_failed" in done.stderr
        assert "alpha: 500" not in done.stderr
        (hint,) = re.findall(r"to continue: netsonde packets (.*)", done.stderr)
        assert len(parts(tmp_path)) == 2
        proxy.down, before = False, proxy.sent
        done = await packets(proxy.url, *hint.split())
        assert done.returncode == 0, done.stderr
        assert proxy.sent - before < 36 << 20
    merged = read_capture(out)
    assert len(merged) == 2 * LARGE
    assert not parts(tmp_path)
