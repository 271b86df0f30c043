"""`netsonde doctor`: a broken host, the name of each fault, and the commands that repair it.

The tests run the printed commands. Only two things are replaced: the directories of the NATS
server, and the program `nats-server`, which an operator runs as a service.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import netns
import unprivileged
from agents import COMMAND, toml
from deadlines import TIMEOUT_SEC, eventually_now
from identities import secret_file
from netsonde.bus import nkey
from netsonde.cli.doctor.finding import Subject
from netsonde.cli.doctor.limits import judge_speed
from netsonde.config.sections import Config, NatsSection
from servers import BINARY

SERVICE = """\
#!/bin/sh
# nats-server as a service: a start replaces the running server and returns when it listens.
cd {directory}
case "$1" in --signal) exec kill -HUP "$(cat pid)";; esac
if [ -e pid ]; then
  kill "$(cat pid)"
  while kill -0 "$(cat pid)" 2>/dev/null; do sleep 0.05; done
fi
rm -f ports/*
{binary} "$@" -a 127.0.0.1 -p {port} -P {directory}/pid --ports_file_dir {directory}/ports \\
  >>log 2>&1 &
until ls ports/*.ports >/dev/null 2>&1; do sleep 0.05; done
"""
PORT = urlsplit(NatsSection().servers[0]).port or 0  # the default server
# The sandbox may have no time service. `timedatectl` needs systemd.
CANNOT_RUN_HERE = ("clock",)

SERVER_CHECK = re.compile(r"nats(\.(login|publish|subscribe|streams|bucket|inventory))?")

Finding = dict[str, Any]


class Host:
    """A host with a configuration file, in the namespace of the test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "netsonde.toml"
        self.server = directory / "nats"
        self.prelude = "true"  # commands that change the limits of later ones
        self.named: list[Finding] = []
        (self.server / "ports").mkdir(parents=True)
        (directory / "bin").mkdir()
        service = directory / "bin" / "nats-server"
        service.write_text(SERVICE.format(directory=self.server, binary=BINARY, port=PORT))
        service.chmod(0o755)

    def configure(self, **sections: dict[str, Any]) -> None:
        self.config.write_text(toml({"agent": {"host": "alpha"}, **sections}))

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.directory / 'bin'}:{COMMAND.parent}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", f"{self.prelude}; {command}"],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SEC,
        )

    def doctor(self, *options: str, command: str = "doctor") -> tuple[int, list[Finding]]:
        """Also checks that each line about a fault ends with its repair."""
        words = shlex.join([*options, "--config", str(self.config)])
        unlocked = "setpriv --bounding-set -ipc_lock"  # this capability ignores the limit
        done = self.shell(f"{unlocked} netsonde {command} --json {words}")
        assert "Traceback" not in done.stderr, done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines()]
        return done.returncode, found

    def repair(self, command: str) -> None:
        command = command.replace("/etc/nats/netsonde", str(self.server / "setup"))
        command = command.replace("/var/lib/nats", str(self.server / "streams"))
        (self.server / "setup").mkdir(exist_ok=True)
        if command.startswith("ulimit"):
            self.prelude += f"; {command}"
            return
        done = self.shell(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def repair_all(self, *options: str) -> tuple[int, list[Finding]]:
        """Runs the printed commands until no fault remains. One fault may hide another. After a
        change of the NATS server its remaining faults are examined again."""
        for _ in range(10):
            code, found = self.doctor(*options)
            faults = faulty(found)
            self.named += faults
            if not faults:
                return code, found
            assert all(fault["repair"] for fault in faults)
            local = [fault for fault in faults if not SERVER_CHECK.fullmatch(fault["check"])]
            remote = [fault for fault in faults if fault not in local]
            for fault in [*local, *remote[:1]]:
                self.repair(fault["repair"])
        raise AssertionError(f"faults remain: {faults}")

    def stop(self) -> None:
        pid = self.server / "pid"
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGKILL)


def faulty(found: list[Finding]) -> list[Finding]:
    return [
        one
        for one in found
        if one["state"] in ("bad", "warning") and one["check"] not in CANNOT_RUN_HERE
    ]


@pytest.fixture
def host(wire: netns.Wire, tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def file_systems(tmp_path: Path) -> Iterator[Path]:
    """A directory with two file systems: `small`, and `fixed`, which is read-only."""
    for name, options in (("small", "size=32m,mode=700"), ("fixed", "size=4m,ro")):
        (tmp_path / name).mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", tmp_path / name], check=True)
    yield tmp_path
    for name in ("small", "fixed"):
        subprocess.run(["umount", tmp_path / name], check=True)


def test_printed_commands_repair_a_broken_host(
    wire: netns.Wire, host: Host, file_systems: Path
) -> None:
    at, taken = host.directory, socket.create_server(("127.0.0.1", 0))
    keys, trusted = at / "keys", at / "trusted"
    keys.mkdir()
    trusted.mkdir()
    secret_file(keys / "open", "ab" * 32).chmod(0o644)
    secret_file(keys / "short", "ab")
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", at / "key"], check=True)
    public = f"openssl pkey -in {at / 'key'} -pubout -out {trusted / 'release.pem'}"
    subprocess.run(shlex.split(public), check=True)
    (trusted / "release.pem").chmod(0o666)
    (trusted / "notes.txt").write_text("not a key")
    (at / "spool").write_text("a file instead of a directory")
    secret_file(at / "alpha.nk", nkey.make_seed()).chmod(0o666)
    host.prelude = "ulimit -S -l 0"
    netns.offload_set(wire.host, netns.HOST_DEVICE, gro=True)
    wire.host_ip("link", "set", netns.HOST_DEVICE, "down")
    host.configure(
        nats={"nkey": at / "alpha.nk"},
        capture={"replay_dirs": [at / "absent"]},
        buffer={"dir": file_systems / "small", "disk_mb": 4096, "export_mb": 2,
                "export_dir": file_systems / "fixed"},
        flows={"jetstream": True, "spool_dir": at / "spool", "spool_mb": 1,
               "flow_table_size": 1 << 26, "record_ring_size": 1 << 24},
        encryption={"key_dirs": [keys]},
        firmware={"dirs": [at], "trusted_keys": trusted},
        http={"listen": f"127.0.0.1:{taken.getsockname()[1]}"},
    )  # fmt: skip
    expected = [
        ("capture.replay_dirs", "is not a directory"),
        ("flows.spool_dir", "is not a directory"),
        ("buffer.export_dir", "read-only"),
        ("space", "not enough"),
        ("key_file", "mode 0644"),
        ("key_file", "expected 32 bytes"),
        ("nats.nkey", "mode 0666"),
        ("firmware.trusted_keys", "world-writable"),
        ("firmware.trusted_keys", "notes.txt"),
        ("interface", "is down"),
        ("offloads", "gro"),
        ("memory", "do not fit"),
        ("locked_memory", "limit 0 KiB"),
        ("http.listen", "in use"),
        ("nats", "refused"),
        ("nats.login", "requires no login"),
        ("nats.streams", "CAPTURE_FLOWS is missing"),
        ("nats.streams", "CAPTURE_EVENTS is missing"),
    ]
    with taken:
        code, _ = host.doctor("-i", netns.HOST_DEVICE)
        assert code != 0
        code, _ = host.repair_all("-i", netns.HOST_DEVICE)
    named = [(one["check"], one["detail"]) for one in host.named]
    missed = [
        (check, words)
        for check, words in expected
        if not any(check == one and words in detail for one, detail in named)
    ]
    assert missed == [], named
    assert code == 0
    assert host.doctor(command="config check --environment")[0] == 0


def test_printed_commands_repair_the_permissions_of_a_server(host: Host) -> None:
    """The server knows another host only, then gives this host too few rights."""
    setup = host.server / "setup"
    host.repair(
        "netsonde nats setup --out /etc/nats/netsonde --host beta --jetstream"
        " /var/lib/nats && nats-server --config /etc/nats/netsonde/nats-server.conf"
    )
    seed = secret_file(host.directory / "alpha.nk", nkey.make_seed())
    spool = host.directory / "spool"
    spool.mkdir(mode=0o700)
    host.configure(
        nats={"nkey": seed},
        flows={"jetstream": True, "spool_dir": spool, "spool_mb": 1},
        http={"listen": ""},
    )
    code, found = host.doctor()
    assert code == 69
    (refused,) = faulty(found)
    assert (refused["check"], refused["state"]) == ("nats", "bad")
    assert "authorization" in refused["detail"].lower()
    host.repair(refused["repair"])

    config = setup / "nats-server.conf"
    lines = config.read_text().splitlines()
    (mine,) = (n for n, line in enumerate(lines) if "stream.flows.alpha" in line)
    for subject in ("stream.metrics.alpha", "stop"):
        lines[mine] = lines[mine].replace(f'"capture.{subject}"', '"nothing"')
    lines[mine] = lines[mine].replace('"$JS.API.STREAM.INFO.CAPTURE_EVENTS"', '"nothing"')
    config.write_text("\n".join(lines))
    host.repair("nats-server --signal reload")
    eventually_now(lambda: "capture.stop" in str(faulty(host.doctor()[1])), "the reload")
    code, found = host.doctor()
    assert code == 1
    denied = {
        (one["check"], one["detail"].rpartition(" ")[2]) for one in found if one["state"] == "bad"
    }
    assert {
        ("nats.publish", "capture.stream.metrics.alpha"),
        ("nats.subscribe", "capture.stop"),
        ("nats.publish", "$JS.API.STREAM.INFO.CAPTURE_EVENTS"),
    } <= denied
    missing = [one for one in faulty(found) if "may not create it" in one["detail"]]
    assert {one["check"] for one in missing} == {"nats.streams", "nats.bucket", "nats.inventory"}
    assert all("streams.nk" in one["repair"] for one in missing)
    code, found = host.repair_all()
    assert code == 0
    stored = ("nats.streams", "nats.bucket", "nats.inventory")
    assert {one["detail"] for one in found if one["check"] in stored} == {
        "CAPTURE_FLOWS exists", "CAPTURE_EVENTS exists", "OBJ_capture-packets-alpha exists",
        "KV_capture-hosts exists",
    }  # fmt: skip


def test_a_server_of_an_older_setup_gets_what_taps_need(host: Host) -> None:
    """The files of a version without taps: no subject of a tap in any permission or account."""
    host.repair(
        "netsonde nats setup --out /etc/nats/netsonde --host alpha --controller admin"
        " --jetstream /var/lib/nats && nats-server --config /etc/nats/netsonde/nats-server.conf"
    )
    setup = host.server / "setup"
    host.configure(nats={"nkey": setup / "agents" / "alpha.nk"}, http={"listen": ""})
    assert host.repair_all()[0] == 0
    config = setup / "nats-server.conf"
    lines = [
        line.replace('"capture.tapped.*.*.alpha", ', "").replace('"capture.tap", ', "")
        for line in config.read_text().splitlines()
        if not re.match(r' +\{"stream": .*"capture\.tapped\.', line)
    ]
    assert any("alpha" in line for line in lines)
    old = "\n".join(lines)
    assert "tapped.*" not in old
    config.write_text(old)
    host.repair("nats-server --signal reload")
    eventually_now(lambda: faulty(host.doctor()[1]), "the reload")
    _, found = host.doctor()
    denied = {(one["check"], one["detail"].rpartition(" ")[2]) for one in faulty(found)}
    assert denied == {
        ("nats.publish", "capture.tapped.*.*.alpha"),
        ("nats.subscribe", "capture.tap"),
    }
    code, _ = host.repair_all()
    assert code == 0
    for subject in ("capture.tapped.*.*.alpha", "capture.tap", "capture.tapped.mine.>"):
        assert f'"{subject}"' in config.read_text()


def test_a_server_without_jetstream_is_named(host: Host) -> None:
    """No command of netsonde can create a stream or a bucket there."""
    host.repair("nats-server")
    host.configure(flows={"jetstream": True, "spool_dir": host.directory}, http={"listen": ""})
    found = {one["check"]: one for one in host.doctor()[1]}
    for check in ("nats.streams", "nats.bucket", "nats.inventory"):
        assert found[check]["state"] != "ok"
        assert "set `jetstream {" in found[check]["detail"]
        assert found[check]["repair"].endswith("nats-server.conf -js")


def test_permissions_are_examined_without_a_message(host: Host) -> None:
    """Nobody hears from the doctor: not the collectors, and not the agents."""
    host.repair("nats-server")
    host.configure(flows={"jetstream": True, "spool_dir": host.directory}, http={"listen": ""})
    with socket.create_connection(("127.0.0.1", PORT), TIMEOUT_SEC) as listener:
        listener.sendall(
            b'CONNECT {"verbose":false,"headers":true}\r\nSUB capture.> 1\r\n'
            b"SUB $O.> 2\r\nSUB $JS.> 3\r\nPING\r\n"
        )
        heard = b""
        while b"PONG" not in heard:
            heard += listener.recv(65536)
        found = {one["check"]: one for one in host.doctor()[1]}
        assert "subjects are permitted" in found["nats.publish"]["detail"]
        listener.sendall(b"PING\r\n")
        heard = b""
        while b"PONG" not in heard:
            heard += listener.recv(65536)
    subjects = {line.split()[1] for line in heard.split(b"\r\n") if b"MSG" in line[:4]}
    reading = (b"$JS.API.STREAM.INFO.", b"$JS.API.DIRECT.GET.")
    assert all(subject.startswith(reading) for subject in subjects), subjects


def test_missing_key_file_and_interface_are_named(host: Host) -> None:
    absent = host.directory / "alpha.nk"
    host.configure(nats={"nkey": absent}, http={"listen": ""})
    code, found = host.doctor("-i", "sonde9")
    assert code == 78
    checks = {one["check"]: one for one in found}
    assert "No such file" in checks["nats.nkey"]["detail"]
    assert checks["nats.nkey"]["repair"].endswith(f"/agents/alpha.nk {absent}")
    assert checks["interface"]["state"] == "bad"
    assert "no interface 'sonde9'" in checks["interface"]["detail"]
    _, found = host.doctor("-i", "sonde9*,sonde*")
    states = [(one["state"], one["detail"]) for one in found if one["check"] == "interface"]
    assert [state for state, _ in states] == ["warning", "ok"]
    assert states[1][1].startswith(f"{netns.HOST_DEVICE} is up")


def test_directories_of_another_user_are_named(host: Host) -> None:
    """The agent's user may not use them. Root runs the repairs."""
    with unprivileged.open_directory() as shared:
        for name in ("spill", "captures"):
            (shared / name).mkdir(mode=0o700)
        host.config = shared / "netsonde.toml"
        host.configure(
            buffer={"dir": shared / "spill", "disk_mb": 4},
            capture={"replay_dirs": [shared / "captures"]},
            http={"listen": ""},
        )
        (shared / "stage").mkdir()
        words = [*unprivileged.prefix(("CAP_NET_RAW",), shared / "stage"), COMMAND, "doctor"]
        words += ["--json", "--config", host.config]

        def examine() -> dict[str, Finding]:
            done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
            assert done.stderr == ""
            return {one["check"]: one for one in map(json.loads, done.stdout.splitlines())}

        found = examine()
        for check in ("buffer.dir", "capture.replay_dirs"):
            assert (found[check]["state"], found[check]["exit_code"]) == ("bad", 1)
            assert f"permission for uid {unprivileged.USER_ID}" in found[check]["detail"]
            host.repair(found[check]["repair"])
        found = examine()
        assert {found[check]["state"] for check in ("buffer.dir", "capture.replay_dirs")} == {"ok"}
        assert found["space"]["state"] == "ok"


def test_printed_commands_repair_the_session(wire: netns.Wire, host: Host) -> None:
    keys = host.directory / "keys"
    keys.mkdir()
    host.configure(
        session={"interface": "sonde9", "backend": "af_packet", "buffer_size_mb": 65536,
                 "encryption": {"cipher_suite": "AES-256-GCM", "key_file": "key"}},
        encryption={"key_dirs": [keys]},
        http={"listen": ""},
    )  # fmt: skip
    netns.offload_set(wire.host, netns.HOST_DEVICE, gro=False)
    code, found = host.doctor()
    assert code == 69
    checks = {one["check"]: one for one in found}
    assert "no interface 'sonde9'" in checks["interface"]["detail"]
    assert checks["session.encryption"]["detail"] == "key: no such file"
    assert "session.buffer_size_mb 65536 MiB" in checks["memory"]["detail"]
    code, found = host.doctor(command="config check --environment")
    assert code == 1, "the key file"
    assert {one["check"]: one for one in found}["interface"]["state"] == "warning"
    for check in ("interface", "session.encryption", "memory"):
        host.repair(checks[check]["repair"])
    checks = {one["check"]: one for one in host.doctor()[1]}
    assert checks["interface"]["detail"].startswith(f"{netns.HOST_DEVICE} is up")
    for check in ("interface", "session.encryption", "key_file", "memory"):
        assert checks[check]["state"] == "ok", checks[check]


def test_repairs_under_systemd_change_the_unit(
    host: Host, file_systems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVOCATION_ID", "1")
    host.prelude = "ulimit -S -l 0"
    host.configure(
        buffer={"dir": file_systems / "fixed"},
        encryption={"key_dirs": [host.directory]},
        http={"listen": ""},
    )
    found = {one["check"]: one for one in host.doctor()[1]}
    assert f"ReadWritePaths={file_systems / 'fixed'}" in found["buffer.dir"]["repair"]
    assert "LimitMEMLOCK=infinity" in found["locked_memory"]["repair"]


def test_each_line_of_a_fault_ends_with_its_repair(host: Host) -> None:
    host.configure(capture={"replay_dirs": [host.directory / "absent"]}, http={"listen": ""})
    done = host.shell(f"netsonde doctor --config {host.config}")
    repairs = [one["repair"] for one in faulty(host.doctor()[1])]
    assert len(repairs) == 2
    for repair in repairs:
        assert any(line.endswith(f"; run: {repair}") for line in done.stdout.splitlines())


def test_invalid_configuration_is_named_and_can_be_created(host: Host) -> None:
    code, found = host.doctor()
    assert code == 78
    assert "no such file" in found[0]["detail"]
    host.repair(found[0]["repair"])
    _, found = host.doctor()
    assert (found[0]["check"], found[0]["state"]) == ("configuration", "ok")


def test_unreachable_server_does_not_stop_the_start_of_an_agent(host: Host) -> None:
    host.configure(http={"listen": ""})
    assert host.doctor()[0] == 69
    code, found = host.doctor(command="config check --environment")
    assert code == 0
    assert {one["check"]: one["state"] for one in found}["nats"] == "warning"
    host.configure(capture={"replay_dirs": ["/absent"]}, http={"listen": ""})
    assert host.doctor(command="config check --environment")[0] == 1


def test_files_open_to_others_are_named_but_not_changed(host: Host) -> None:
    key = secret_file(host.directory / "alpha.nk", nkey.make_seed())
    key.chmod(0o640)
    host.configure(nats={"nkey": key}, http={"listen": ""})
    found = {one["check"]: one for one in host.doctor()[1]}
    assert found["nats.nkey"]["repair"] == f"chmod 600 {key}"
    assert stat.S_IMODE(key.stat().st_mode) == 0o640


@pytest.mark.parametrize(("disk", "wire", "state"), [(2e8, 1.25e8, "ok"), (1e8, 1.25e8, "warning"),
                                                     (1e6, 0, "ok")])  # fmt: skip
def test_disk_slower_than_the_interfaces_is_a_warning(disk: float, wire: float, state: str) -> None:
    subject = Subject(Config(), Path("/etc/netsonde/netsonde.toml"))
    finding = judge_speed(subject, "/var/lib/netsonde", disk, wire)
    assert finding.state == state
    assert ("config set buffer.dir ''" in finding.repair) == (state == "warning")
