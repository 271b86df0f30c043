"""`netsonde nats setup`: repeated runs and rejected arguments."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agents import COMMAND, client_flags
from roles import entered, key_of, setup
from servers import NatsServer


def test_setup_keeps_keys_and_rotates_on_demand(tmp_path: Path) -> None:
    config = setup(tmp_path)
    keys = {path.name: path.read_text() for path in tmp_path.glob("*/*.nk")}
    assert keys.keys() == {"alpha.nk", "beta.nk", "ctl.nk", "ops.nk", "col.nk"}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*/*.nk")} == {0o600}
    text = config.read_text()
    assert all(seed.strip() not in text for seed in keys.values())
    setup(tmp_path, "--host", "gamma", "--rotate", "ops")
    again = {path.name: path.read_text() for path in tmp_path.glob("*/*.nk")}
    assert again.keys() == keys.keys() | {"gamma.nk"}
    assert [name for name in keys if keys[name] != again[name]] == ["ops.nk"]


HUB = ("--jetstream", "js", "--jetstream-domain", "hub", "--leaf-listen", "127.0.0.1:7422")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--host", "a", "--host", "A"),
        ("--host", "a x"),
        ("--host", "a", "--controller", "AGENTS"),
        ("--host", "a", "--controller", "c.d"),
        ("--host", "a", "--controller", "c", "--operator", "c"),
        ("--host", "a", "--controller", "a"),
        ("--host", "a", "--rotate", "b"),
        ("--host", "a", "--tls-cert", "x"),
        ("--host", "a", "--jetstream-domain", "hub"),
        ("--host", "a", "--jetstream", "js", "--jetstream-domain", "a.b"),
        ("--host", "a", "--jetstream", "js", "--leaf-listen", "127.0.0.1:7422"),
        ("--host", "leaf", *HUB),
        ("--host", "a", "--controller", "leaf", *HUB),
    ],
    ids=[
        "no host",
        "host twice",
        "space in host",
        "reserved controller",
        "dot in controller",
        "controller and operator",
        "controller and host",
        "rotate unknown",
        "certificate without key",
        "domain without JetStream",
        "dot in domain",
        "leaf nodes without domain",
        "host leaf",
        "controller leaf",
    ],
)
def test_setup_rejects_invalid_arguments(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [str(COMMAND), "nats", "setup", "--out", str(tmp_path), *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 78, done
    assert not (tmp_path / "nats-server.conf").exists()


def test_setup_add_keeps_hosts_clients_and_options(tmp_path: Path) -> None:
    config = setup(tmp_path, "--jetstream", "/js", "--listen", "0.0.0.0:5222", "--root", "acme")
    before = config.read_text()
    command = [str(COMMAND), "nats", "setup", "--out", str(tmp_path), "--add"]
    subprocess.run([*command, "--host", "delta site=ber"], check=True)
    after = config.read_text()
    kept = [line.split(", ")[0] for line in before.splitlines() if "nkey" in line]
    assert len(kept) == 6  # two hosts, three clients, and `streams`
    assert all(line in after for line in kept)
    assert 'listen: "0.0.0.0:5222"' in after
    assert 'store_dir: "/js"' in after
    assert "acme.stream.flows.delta" in after
    assert "acme.group.site.ber.>" in after
    subprocess.run([*command, "--host", "delta site=rom"], check=True)
    assert "acme.group.site.ber.>" not in config.read_text()


def test_setup_add_needs_an_earlier_setup(tmp_path: Path) -> None:
    command = [str(COMMAND), "nats", "setup", "--out", str(tmp_path), "--add", "--host", "delta"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 78
    assert "--add needs an earlier setup" in done.stderr
    assert not (tmp_path / "nats-server.conf").exists()


async def test_one_bucket_serves_a_thousand_hosts(tmp_path: Path) -> None:
    """A bucket reserves its size, so buckets per host need more disk than there is."""
    text = setup(tmp_path, "--jetstream", str(tmp_path / "js")).read_text()
    small = text.replace("jetstream { ", "jetstream { max_file_store: 2GB, ")
    assert small != text
    hosts = tmp_path / "many"
    hosts.write_text("".join(f"h{number}\n" for number in range(1000)))
    server = NatsServer(tmp_path / "nats", config=small).start()
    try:

        def streams(*more: str) -> subprocess.CompletedProcess[str]:
            words = [str(COMMAND), "nats", "streams", "--hosts", str(hosts), *more]
            flags = [*client_flags(server.url), "--nkey", str(key_of(tmp_path, "streams"))]
            return subprocess.run([*words, *flags], capture_output=True, text=True, timeout=120)

        refused = streams()
        assert refused.returncode != 0
        assert "--site-bucket" in refused.stderr
        async with entered(server, tmp_path, "streams") as administrator:
            js = administrator.client.jetstream()
            for one in await js.streams_info():
                if (one.config.name or "").startswith("OBJ_"):
                    await js.delete_stream(one.config.name or "")
        done = streams("--site-bucket")
        assert (done.returncode, done.stderr) == (0, "")
        async with entered(server, tmp_path, "streams") as administrator:
            found = await administrator.client.jetstream().streams_info()
        assert [one.config.name for one in found if "packets" in (one.config.name or "")] == [
            "OBJ_capture-packets"
        ]
    finally:
        server.kill()
