"""The Debian package in a clean Debian 12: install, configure, start, capture, upgrade, purge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import machine
import pytest
from installed import Installed, built
from machine import Machine

from deadlines import eventually_now
from netns import Wire
from servers import NatsServer
from terminals import on_terminal

CONFIG = "/etc/netsonde/netsonde.toml"
# The line in the help of `netsonde doctor`.
AS_THE_UNIT = (
    "systemd-run", "--quiet", "--pipe", "--uid=netsonde", "-p", "AmbientCapabilities=CAP_NET_RAW",
)  # fmt: skip
COMPLETIONS = {
    "netsonde sta": {"start", "status"},
    "netsonde start --flow": {"--flow-timeout"},
}
COMPLETE = """
. /usr/share/bash-completion/bash_completion
_completion_loader netsonde
COMP_WORDS=({words}) COMP_CWORD={last} COMP_LINE="{words}" COMP_POINT=${{#COMP_LINE}}
function="$(complete -p netsonde | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
"$function"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def deb() -> Path:
    return built("*.deb")


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return machine.create(tmp_path_factory)


@pytest.fixture
def host(debian: Path, deb: Path, wire: Wire) -> Iterator[Machine]:
    """A machine in the wire's network namespace, with the package as a file in /srv."""
    with machine.booted(debian, deb) as made:
        made.apt("install", "--no-install-recommends", f"/srv/{deb.name}")
        yield made


def main_pid(host: Machine) -> str:
    return host.run("systemctl", "show", "--value", "-p", "MainPID", "netsonde").strip()


def await_reply(netsonde: Installed) -> None:
    eventually_now(lambda: netsonde.attempt("status", "--timeout", "1").returncode == 0, "a reply")


def check_manual_and_completion(host: Machine) -> None:
    manual = host.run("man", "--warnings", "netsonde-start")
    assert "NETSONDE-START(1)" in manual
    assert "--interface INTERFACE" in manual
    assert "netsonde-start(1)" in host.run("man", "netsonde")
    for words, expected in (
        ("netsonde sta", {"start", "status"}),
        ("netsonde start --flow", {"--flow-timeout"}),
    ):
        script = COMPLETE.format(words=words, last=words.count(" "))
        assert set(host.run("bash", "-ic", script).split()) == expected


def check_screen(host: Machine) -> None:
    """`netsonde top` draws its screen, which needs Textual, and leaves it with q."""
    with on_terminal([*host.prefix, "netsonde", "top"]) as terminal:
        terminal.wait_for("1 host, 0 capturing")
        terminal.press("q")
        terminal.wait_for_end()


def check_plugin(host: Machine) -> None:
    """Wireshark's plug-in runs with the package's Python, for any user."""
    host.run("netsonde", "extcap", "install", "--dir", "/usr/local/lib/extcap")
    command = (
        "setpriv",
        "--reuid=nobody",
        "--clear-groups",
        "/usr/local/lib/extcap/netsonde-extcap",
    )
    assert "interface {value=netsonde}" in host.run(*command, "--extcap-interfaces")
    filtered = host.run(*command, "--extcap-interface=netsonde", "--extcap-capture-filter=udp prt")
    assert "syntax error" in filtered


def test_install_configure_start_capture_upgrade_and_purge(
    host: Machine, deb: Path, wire: Wire, nats_server: NatsServer
) -> None:
    # Nothing starts before the operator has named the NATS servers.
    assert host.attempt("systemctl", "is-active", "netsonde").stdout == "inactive\n"
    assert host.attempt("systemctl", "is-enabled", "netsonde").stdout == "disabled\n"
    assert host.run("stat", "-c", "%U:%G %a", "/var/lib/netsonde", "/etc/netsonde") == (
        "netsonde:netsonde 700\nroot:netsonde 750\n"
    )

    line = f's|^#servers = .*4222.*|servers = ["{nats_server.url}"]|'
    host.run("sed", "-i", line, CONFIG)
    host.run("systemctl", "enable", "--now", "netsonde")
    netsonde = Installed(*host.prefix, "netsonde")
    await_reply(netsonde)
    doctor = (
        "systemd-run",
        "--quiet",
        "--pipe",
        "--uid=netsonde",
        "-p",
        "AmbientCapabilities=CAP_NET_RAW",
    )
    checks = Installed(*host.prefix, *doctor, "netsonde").doctor()
    assert "bad" not in checks.values(), checks
    netsonde.capture(wire, "af_packet")
    check_manual_and_completion(host)
    check_screen(host)
    check_plugin(host)

    # An upgrade keeps the configuration, and restarts the agent that runs.
    before = main_pid(host), host.run("cat", CONFIG)
    host.apt("install", "--reinstall", f"/srv/{deb.name}")
    after = main_pid(host), host.run("cat", CONFIG)
    assert after[0] not in (before[0], "0")
    assert after[1] == before[1]
    await_reply(netsonde)  # systemd takes an agent as started before it is connected to NATS
    netsonde.capture(wire, "af_packet")

    host.apt("purge", "netsonde")
    assert host.attempt("systemctl", "is-active", "netsonde").stdout == "inactive\n"
    assert host.attempt("getent", "passwd", "netsonde").returncode != 0
    left = ("/opt/netsonde", "/etc/netsonde", "/var/lib/netsonde", "/usr/bin/netsonde")
    assert [path for path in left if host.attempt("test", "-e", path).returncode == 0] == []
