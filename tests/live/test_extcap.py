"""Wireshark's plug-in: a real tshark reads from real hosts, and nothing is left at each end.

All agents capture the same wire, so each packet comes once from each host.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import capturing
import unprivileged
from agents import COMMAND, Fleet
from bus import Bus
from capturing import settled
from deadlines import eventually
from netns import HOST_DEVICE, Sender
from packets import UDP, ethernet, ipv4, udp
from replay import check_conservation
from servers import NatsServer
from sharks import INTERFACE, PACKET, Shark, command_line, install, kinds, mounted, system_folder

A, B = "10.0.0.1", "10.0.0.2"
HOSTS = ("alpha", "beta", "gamma")
PAGE = Path(__file__).parents[2] / "docs" / "wireshark.md"
Run = Callable[..., Shark]


def datagram(number: int, size: int = 40) -> bytes:
    load = number.to_bytes(4) + bytes(size)
    return ethernet(ipv4(udp(load, 1000, 53), UDP, A, B, ident=number & 0xFFFF))


@pytest.fixture
def tshark(nats_server: NatsServer, tmp_path: Path) -> Iterator[Run]:
    made: list[Shark] = []

    def run(*words: str, url: str = nats_server.url, **fields: object) -> Shark:
        made.append(Shark(tmp_path / f"shark{len(made)}", url, *words, **fields))
        return made[-1]

    yield run
    for one in made:
        one.close()


async def start_all(fleet: Fleet, bus: Bus, **sections: Any) -> None:
    for host in HOSTS:
        fleet.start(host, **sections)
    for host in HOSTS:
        start = {"interface": HOST_DEVICE, "backend": "af_packet"}
        await bus.ok("start", start, host=host)


async def all_clean(bus: Bus, shark: Shark, hosts: tuple[str, ...]) -> float:
    """Returns the seconds until no tap, process and file was left."""
    began = time.monotonic()

    async def clean() -> bool:
        taps = [(await bus.ok("status", host=host)).get("taps") for host in hosts]
        return not any(taps) and not shark.left()

    try:
        await eventually(clean, "the taps, processes and files to be gone")
    except AssertionError:
        raise AssertionError(shark.left()) from None
    return time.monotonic() - began


async def test_three_hosts_live_in_order_and_named(
    fleet: Fleet, bus: Bus, sender: Sender, tshark: Run
) -> None:
    await start_all(fleet, bus)
    shark = await tshark("-f", "udp", hosts=",".join(HOSTS), reorderms=30_000).opened(3)
    for number in range(600):
        sender.send([datagram(number)])
        if number % 50 == 0:
            await asyncio.sleep(0.05)
    await eventually(lambda: shark.packets() == 1800, "1800 packets while the capture runs")
    shark.process.send_signal(signal.SIGINT)
    assert shark.wait() == 0, shark.said
    assert "Error" not in shark.said
    await all_clean(bus, shark, HOSTS)
    rows = shark.rows()
    assert sorted({name for name, _ in rows}) == [f"{host}/{HOST_DEVICE}" for host in HOSTS]
    times = [float(at) for _, at in rows]
    assert times == sorted(times)
    assert [sum(name.startswith(f"{host}/") for name, _ in rows) for host in HOSTS] == [600] * 3
    for host in HOSTS:
        check_conservation(await bus.ok("status", host=host))


# ---- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "quiet"])
@pytest.mark.parametrize("how", ["duration", "SIGINT", "SIGTERM", "SIGKILL", "plugin"])
async def test_nothing_is_left_after_an_end(
    fleet: Fleet, bus: Bus, sender: Sender, tshark: Run, how: str, busy: bool
) -> None:
    """Also if tshark is killed and no packet matches, so nothing is ever written to the pipe."""
    fleet.start(tap={"rate_kbps": 0})
    await capturing.start(bus)
    words = ("-a", "duration:3") if how == "duration" else ()
    shark = await tshark("-f", "udp port 53" if busy else "udp port 54", *words).opened()
    number = 0

    def send() -> None:
        nonlocal number
        sender.send(datagram(number + each) for each in range(20))
        number += 20

    send()
    if busy:
        await eventually(lambda: shark.packets() > 0, "packets")
    if how == "plugin":
        os.kill(shark.plugin_pid, signal.SIGTERM)
    elif how != "duration":
        os.kill(shark.process.pid, getattr(signal, how))
    while shark.process.poll() is None:
        send()
        await asyncio.sleep(0.02)
    took = await all_clean(bus, shark, ("alpha",))
    print(f"{how}, {'busy' if busy else 'quiet'}: nothing left after {took:.2f} s")
    assert took < 10
    assert shark.process.returncode == (-signal.SIGKILL if how == "SIGKILL" else 0), shark.said
    assert "Error" not in shark.said
    await settled(bus, sender.frames_sent)


async def test_a_session_that_stops_ends_the_capture(fleet: Fleet, bus: Bus, tshark: Run) -> None:
    fleet.start()
    await capturing.start(bus)
    shark = await tshark("-f", "udp").opened()
    await bus.ok("stop")
    shark.wait()
    assert "alpha: the tap ended early: session_stop" in shark.said
    await eventually(lambda: not shark.left(), "the processes and files to be gone")


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "fields", "message"),
    [
        (("-f", "udp prt 53"), {}, "can't parse filter expression"),
        (("-f", "-udp"), {}, "can't parse filter expression"),
        ((), {}, "A capture filter is required"),
        (("-f", "udp"), {"duration": "x\x1b"}, "Seconds: x\ufffd is not a number from 1 to 3600"),
        (("-f", "udp"), {"group": "site"}, "site"),
    ],
    ids=["filter", "dash", "no filter", "number", "group"],
)
async def test_a_wrong_field_is_reported(
    fleet: Fleet, bus: Bus, tshark: Run, words: tuple[str, ...], fields: Any, message: str
) -> None:
    fleet.start()
    await capturing.start(bus)
    shark = tshark(*words, **fields)
    shark.wait()
    assert message in shark.said
    assert not shark.left()
    assert (await bus.ok("status"))["taps"] == []


async def test_a_refusal_of_all_hosts_is_reported(fleet: Fleet, bus: Bus, tshark: Run) -> None:
    fleet.start()
    shark = tshark("-f", "udp", hosts="alpha")
    shark.wait()
    assert "alpha: 400 no_session" in shark.said
    assert not shark.left()


async def test_a_host_that_refuses_or_dies_costs_only_itself(
    fleet: Fleet, bus: Bus, sender: Sender, tshark: Run
) -> None:
    await start_all(fleet, bus)
    await bus.ok("stop", host="gamma")
    shark = await tshark("-f", "udp").opened(2)
    victim = fleet.agents.pop(1)
    victim.kill()
    sender.send(datagram(number) for number in range(50))
    await eventually(lambda: shark.packets() == 50, "the packets of alpha")
    shark.process.send_signal(signal.SIGINT)
    shark.wait()
    assert "beta: the tap ended early: gone" in shark.said
    assert "gamma: 400 no_session" in shark.said
    await all_clean(bus, shark, ("alpha", "gamma"))
    assert {name for name, _ in shark.rows()} == {f"alpha/{HOST_DEVICE}"}


async def test_a_host_that_appears_later_joins(
    fleet: Fleet, bus: Bus, sender: Sender, tshark: Run
) -> None:
    """tshark accepts an interface block after packets."""
    fleet.start()
    await capturing.start(bus)
    shark = await tshark("-f", "udp").opened()
    sender.send(datagram(number) for number in range(10))
    await eventually(lambda: shark.packets() == 10, "the packets of alpha")
    fleet.start("beta")
    await bus.ok("start", {"interface": HOST_DEVICE, "backend": "af_packet"}, host="beta")
    number = 10

    def joined() -> bool:
        nonlocal number
        sender.send([datagram(number)])
        number += 1
        return shark.packets() > number + 10

    await eventually(joined, "the packets of beta", interval_sec=0.1)
    shark.process.send_signal(signal.SIGINT)
    shark.wait()
    assert "Error" not in shark.said
    await all_clean(bus, shark, ("alpha", "beta"))
    assert {name for name, _ in shark.rows()} == {f"{one}/{HOST_DEVICE}" for one in HOSTS[:2]}
    for host in HOSTS[:2]:
        check_conservation(await bus.ok("status", host=host))


def refused(tshark: Run, *words: str, url: str) -> tuple[float, str]:
    """Returns how long a capture took that cannot start, and what tshark printed."""
    began = time.monotonic()
    shark = tshark(*words, url=url)
    shark.wait()
    assert not shark.left()
    return time.monotonic() - began, shark.said


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "silent"])
async def test_no_server_is_reported_within_5_s(tshark: Run, silent: bool) -> None:
    """The time that tshark and Python need to start and end depends on the machine. A capture
    without a filter, which does not connect, has the same."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        url = f"nats://127.0.0.1:{listening.getsockname()[1]}"
        if silent:
            listening.listen()
        start_sec, said = refused(tshark, url=url)
        assert "A capture filter is required" in said
        took_sec, said = refused(tshark, "-f", "udp", url=url)
    print(f"{took_sec:.2f} s, without a connection {start_sec:.2f} s")
    assert "NATS cannot be reached" in said
    assert took_sec - start_sec < 5


def test_listing_interfaces_needs_no_server(tmp_path: Path) -> None:
    """The plug-in does not connect, and needs little processor time."""
    plugin = install(tmp_path / "extcap")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        url = f"nats://127.0.0.1:{listening.getsockname()[1]}"
        began = time.monotonic()
        shown = subprocess.run(
            [*mounted(plugin.parent), "tshark", "-D"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "NATS_URL": url},
        )
        print(f"tshark -D: {time.monotonic() - began:.2f} s")
        assert f"{INTERFACE} (netsonde: live packets of hosts)" in shown.stdout
        with pytest.raises(BlockingIOError):
            listening.accept()
    for words in (["--extcap-interfaces", "--extcap-version=4.0"], ["--extcap-config"]):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        words = [*words, f"--extcap-interface={INTERFACE}"]
        subprocess.run([plugin, *words], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


# ---- what Wireshark asks -------------------------------------------------------------------------


async def asked(plugin: Path, *words: str, url: str) -> str:
    """Returns what the plug-in prints, as Wireshark reads it: only with exit code 0."""
    command = [str(plugin), "--extcap-interface", INTERFACE, "--nats", url, *words]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=True
    )
    return done.stdout


async def test_the_list_of_hosts_and_the_check_of_a_filter(
    fleet: Fleet, bus: Bus, nats_server: NatsServer, tmp_path: Path
) -> None:
    """Host names that are not names cannot add sentences."""
    fleet.start("alpha")
    fleet.start("beta")
    forged = "x}{display=y\nvalue {arg=0}{value=nats://evil}{display=z}"

    async def forge(message: Any) -> None:
        body = {"id": forged, "name": "netsonde", "host": forged, "metadata": {}}
        await message.respond(json.dumps(body).encode())

    for kind in ("PING", "INFO"):
        await bus.client.subscribe(f"$SRV.{kind}.netsonde", cb=forge)
    await bus.client.flush()
    plugin = install(tmp_path / "extcap")
    reload = ("--extcap-config", "--extcap-reload-option", "hosts", "--later-option", "x")
    shown = await asked(plugin, *reload, url=nats_server.url)
    assert shown.splitlines() == [
        "value {arg=4}{value=}{display=All hosts}{default=true}",
        "value {arg=4}{value=alpha}{display=alpha}",
        "value {arg=4}{value=beta}{display=beta}",
    ]
    for expression, answer in (("udp port 53", ""), ("udp prt 53", "syntax error"), ("", "filter")):
        shown = await asked(plugin, "--extcap-capture-filter", expression, url=nats_server.url)
        assert answer in shown
        assert bool(shown) == bool(answer)


async def test_wiresharks_log_window_shows_losses(
    fleet: Fleet, bus: Bus, sender: Sender, nats_server: NatsServer, tmp_path: Path
) -> None:
    """tshark has no log window, so the test has the ends of Wireshark."""
    fleet.start(tap={"rate_kbps": 400})
    await capturing.start(bus)
    plugin = install(tmp_path / "extcap")
    names = ("fifo", "extcap-control-in", "extcap-control-out")
    words = ["--capture", "--extcap-interface", INTERFACE, "--extcap-capture-filter", "udp"]
    words += ["--nats", nats_server.url, "--duration", "3", "--snaplen", "0"]
    ends = {}
    for name in names:
        path = tmp_path / name
        os.mkfifo(path)
        words += [f"--{name}", str(path)]
        ends[name] = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    running = started([str(plugin), *words])
    packets, log = bytearray(), bytearray()

    def read() -> bool:
        sender.send([datagram(1, size=1000)] * 10)
        for name, into in (("fifo", packets), ("extcap-control-out", log)):
            with contextlib.suppress(BlockingIOError):
                into += os.read(ends[name], 1 << 20)
        return running.poll() is not None

    await eventually(read, "the capture to end")
    read()
    for end in ends.values():
        os.close(end)
    lines = list(log_lines(bytes(log)))
    assert lines[0] == "hosts that send packets: 1\n"
    assert any("packets lost" in line for line in lines)
    assert "alpha: the tap ended: duration\n" in lines
    count = sum(kind == PACKET for kind in kinds(bytes(packets)))
    assert any(line.startswith(f"alpha: {count} packets, ") for line in lines)
    assert running.stderr is not None
    assert b"above the rate" in running.stderr.read()
    running.stderr.close()
    await settled(bus, sender.frames_sent)


def started(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def log_lines(data: bytes) -> Iterator[str]:
    """Yields the text of each control message, which adds to the log."""
    at = 0
    while at < len(data):
        mark, high, length, number, command = struct.unpack_from(">cBHBB", data, at)
        assert (mark, high, number, command) == (b"T", 0, 0, 2)
        yield data[at + 6 : at + 4 + length].decode()
        at += 4 + length


async def test_a_reader_that_does_not_read_does_not_hold_the_capture(
    fleet: Fleet, bus: Bus, sender: Sender, tshark: Run
) -> None:
    fleet.start(tap={"rate_kbps": 0})
    await capturing.start(bus)
    shark = await tshark("-f", "udp", snaplen=0).opened()
    plugin = shark.plugin_pid
    (dumpcap,) = shark.children - {plugin}
    os.kill(dumpcap, signal.SIGSTOP)

    async def losing() -> bool:
        sender.send(datagram(number, size=1000) for number in range(500))
        (tap,) = (await bus.ok("status"))["taps"]
        return bool(tap["packets_lost"])

    await eventually(losing, "a loss")
    os.kill(plugin, signal.SIGTERM)
    await eventually(lambda: not command_line(plugin), "the plug-in to end")
    os.kill(dumpcap, signal.SIGCONT)
    shark.wait()
    assert "lost: the reader was too slow" in shark.said
    await all_clean(bus, shark, ("alpha",))
    status = await settled(bus, sender.frames_sent)
    assert status["packets_dropped"] == 0


# ---- installation --------------------------------------------------------------------------------


def test_the_plug_in_runs_in_any_directory(tmp_path: Path) -> None:
    """Also if that directory has files that look like modules of Python or of netsonde; also if
    netsonde was started without the user's modules, as in the packages."""
    for name in ("os.py", "struct.py", "netsonde.py"):
        (tmp_path / name).write_text("raise SystemExit(9)")
    start = "import sys; from netsonde.__main__ import main; sys.exit(main())"
    words = ["extcap", "install", "--dir", str(tmp_path / "extcap")]
    for flags in ([], ["-E", "-s"]):
        subprocess.run([sys.executable, *flags, "-P", "-c", start, *words], check=True)
        command = [str(tmp_path / "extcap" / "netsonde-extcap"), "--extcap-interfaces"]
        shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "interface {value=netsonde}" in shown.stdout


def test_a_user_installs_it_in_an_own_folder() -> None:
    """tshark of users other than root has WIRESHARK_EXTCAP_DIR as the folder, and reports it."""
    with unprivileged.open_directory() as home, unprivileged.open_directory() as stage:
        drop = unprivileged.prefix((), stage)
        env = {**os.environ, "HOME": str(home), "WIRESHARK_EXTCAP_DIR": str(home / "extcap")}

        def run(*words: str) -> str:
            done = subprocess.run([*drop, *words], env=env, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stdout

        run(str(COMMAND), "extcap", "install")
        assert f"{INTERFACE} (netsonde: live packets of hosts)" in run("tshark", "-D")


def test_the_page_names_each_field(tmp_path: Path) -> None:
    """The page lists the fields that tshark reads from the plug-in. Its examples use them."""
    plugin = install(tmp_path / "extcap")
    words = [*mounted(plugin.parent), "tshark", "-G", "currentprefs"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    fields = set(re.findall(rf"^#?extcap\.{INTERFACE}\.(\w+):", shown, re.MULTILINE))
    page = PAGE.read_text()
    table = {
        name
        for line in re.findall(r"^\|.*?\|(.*?)\|", page, re.MULTILINE)[2:]
        for name in re.findall(r"`(\w+)`", line)
    }
    assert fields == table
    assert set(re.findall(rf"extcap\.{INTERFACE}\.(\w+)", page)) <= fields


def test_install_and_remove(tmp_path: Path) -> None:
    """In the folder that tshark reports, and not over a file of another program."""
    folder = tmp_path / "extcap"
    folder.mkdir()
    path = system_folder() / "netsonde-extcap"

    def run(action: str) -> subprocess.CompletedProcess[str]:
        words = [*mounted(folder), str(COMMAND), "extcap", action]
        return subprocess.run(words, capture_output=True, text=True)

    assert run("install").stdout == f"installed {path}\n"
    assert run("install").returncode == 0
    assert os.access(folder / "netsonde-extcap", os.X_OK)
    assert run("remove").stdout == f"removed {path}\n"
    assert list(folder.iterdir()) == []
    done = run("remove")
    assert (done.returncode, done.stderr) == (
        1, f"netsonde: {path}: no such file or directory\n",
    )  # fmt: skip
    (folder / "netsonde-extcap").write_text("#!/bin/sh\n")
    for action in ("install", "remove"):
        assert "is not netsonde's plug-in" in run(action).stderr
    assert (folder / "netsonde-extcap").read_text() == "#!/bin/sh\n"
