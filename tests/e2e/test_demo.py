"""`netsonde demo`, as a newcomer runs it. It succeeds and leaves nothing behind, even when
interrupted."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import COMMAND
from deadlines import TIMEOUT_SEC, eventually_now

DURATION_SEC_MAX = 25.0


def environment(directory: Path) -> dict[str, str]:
    """Returns an environment in which the host's own agent keeps a persisted start."""
    directory.mkdir(exist_ok=True)
    state = directory.with_name("state")
    state.mkdir(exist_ok=True)
    kept = {"interface": "absent0", "backend": "af_packet"}
    (state / "session.json").write_text(json.dumps(kept))
    return {**os.environ, "TMPDIR": str(directory), "STATE_DIRECTORY": str(state)}


def processes_in(directory: Path) -> list[str]:
    """Returns command lines of processes that have a path in the demo's directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except (FileNotFoundError, ProcessLookupError):
                continue  # the process has just ended
            if str(directory) in words:
                found.append(words)
    return found


@pytest.mark.parametrize("flags", [[], ["--replay"]], ids=["live", "replay"])
def test_demo_succeeds_in_time(tmp_path: Path, flags: list[str]) -> None:
    directory = tmp_path / "demo"
    began = time.monotonic()
    done = subprocess.run(
        [COMMAND, "demo", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(directory),
    )
    assert time.monotonic() - began < DURATION_SEC_MAX
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.sub(r"1 asked: 1 ok(; request [0-9a-f]{32})?\n", "", done.stderr) == ""
    assert "MISSING" not in done.stdout
    for words in (
        "TCP download, IPv6",
        "packets came by",
        "metrics",
        "$ netsonde start",
        "vlan 42",
        "shop.netsonde.example",
        "peer.demo.netsonde.example",
    ):
        assert words in done.stdout
    # Two flows of the live demo have a name and a process.
    for program, name in (("demo-browser", "docs"), ("demo-resolver", "mail")):
        line = rf"  {name}\.netsonde\.example  {program} \[\d+\]"
        assert len(re.findall(line, done.stdout)) == (not flags), done.stdout
    assert list(directory.iterdir()) == []
    assert processes_in(directory) == []


@contextlib.contextmanager
def running_demo(directory: Path, *prefix: str) -> Iterator[subprocess.Popen[str]]:
    """Starts a demo. Kills it at the end if it still runs; its server and agent end with it."""
    with subprocess.Popen(
        [*prefix, COMMAND, "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(directory),
    ) as demo:
        try:
            yield demo
        finally:
            demo.kill()


IN_BACKGROUND = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")  # the `&` of a script


@pytest.mark.parametrize(
    ("number", "prefix"),
    [(signal.SIGINT, ()), (signal.SIGTERM, ()), (signal.SIGTERM, IN_BACKGROUND)],
    ids=["SIGINT", "SIGTERM", "SIGTERM in the background"],
)
def test_interrupted_demo_leaves_nothing(
    tmp_path: Path, number: signal.Signals, prefix: tuple[str, ...]
) -> None:
    directory = tmp_path / "demo"
    with running_demo(directory, *prefix) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("$ netsonde start"):
                break
        assert processes_in(directory)
        demo.send_signal(number)
        _, errors = demo.communicate(timeout=TIMEOUT_SEC)
    assert demo.returncode == 130
    assert "Traceback" not in errors
    assert list(directory.iterdir()) == []
    assert processes_in(directory) == []


def test_killed_demo_ends_its_processes(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    with running_demo(directory) as demo:
        eventually_now(lambda: len(processes_in(directory)) >= 2, "server and agent to run")
        demo.kill()
        demo.communicate()
        eventually_now(lambda: not processes_in(directory), "server and agent to end")
