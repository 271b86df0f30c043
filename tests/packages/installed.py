"""An installed netsonde, driven through its command line alone."""

from __future__ import annotations

import fcntl
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deadlines import TIMEOUT_SEC, eventually_now
from netns import HOST_DEVICE, Wire
from packets import UDP, ethernet, ipv4, udp
from replay import check_conservation

REPOSITORY = Path(__file__).resolve().parents[2]
DIST = REPOSITORY / "dist"
FLOWS, FRAMES = 5, 100


def build() -> None:
    """Brings dist/ up to date. One process at a time: workers of one test run share it."""
    (REPOSITORY / "build").mkdir(exist_ok=True)
    with (REPOSITORY / "build" / "packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            ["make", "packages"], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr


def built(pattern: str) -> Path:
    """Returns the one file of dist/ that matches."""
    build()
    (found,) = DIST.glob(pattern)
    return found


class Installed:
    """`command` starts netsonde: its path, after words that enter a namespace or a root."""

    def __init__(self, *command: str | Path) -> None:
        self.command = [str(word) for word in command]

    def attempt(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *words], capture_output=True, text=True, timeout=TIMEOUT_SEC
        )

    def run(self, *words: str) -> str:
        done = self.attempt(*words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def ask(self, *words: str) -> dict[str, Any]:
        """Returns the reply of the only host."""
        (reply,) = map(json.loads, self.run(*words, "--json").splitlines())
        assert isinstance(reply, dict)
        return reply

    def doctor(self) -> dict[str, str]:
        """Returns the state of each check. Fails if one of them is an error."""
        lines = map(json.loads, self.run("doctor", "--json").splitlines())
        return {line["check"]: line["state"] for line in lines}

    @contextmanager
    def agent(self, log: Path, command: Sequence[str | Path]) -> Iterator[int]:
        """Runs `command`, an agent on the bus that this netsonde uses. Yields the process id once
        the agent replies. Checks that SIGTERM ends the agent with 0."""
        with log.open("w") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

        def replies() -> bool:
            assert process.poll() is None, log.read_text()
            return self.attempt("status", "--timeout", "1").returncode == 0

        try:
            eventually_now(replies, f"the agent to reply: {log}")
            yield process.pid
            process.terminate()
            assert process.wait(TIMEOUT_SEC) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()

    def capture(self, wire: Wire, backend: str) -> None:
        """Captures frames on the wire, and checks that each is in a record or counted."""
        self.run("start", "-i", HOST_DEVICE, "-b", backend, "--meter")
        sender = wire.sender()
        sender.send(
            ethernet(ipv4(udp(b"x" * 60, 1000 + n % FLOWS, 53), UDP, "10.0.0.1", "10.0.0.2"))
            for n in range(FRAMES)
        )
        sender.close()

        def settled() -> dict[str, Any] | None:
            status = self.ask("status")
            seen = status["packets_captured"] + status["packets_dropped"]
            return status if seen >= FRAMES else None

        status = eventually_now(settled, f"{FRAMES} packets to be captured or dropped")
        check_conservation(status)
        assert (status["packets_captured"], status["packets_dropped"]) == (FRAMES, 0)
        stopped = self.ask("stop")
        assert (stopped["packets_captured"], stopped["records_sent"]) == (FRAMES, FLOWS)
