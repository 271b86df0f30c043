"""The tours of the README, typed into a shell: each command works and prints what the page shows.

The shell has a network namespace, because the embedded NATS server listens on its usual port.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TOURS = re.split(r"^### Without root$", re.split(
    r"^## ", (REPOSITORY / "README.md").read_text().partition("## A tour\n")[2],
    flags=re.MULTILINE,
)[0], flags=re.MULTILINE)  # fmt: skip
COMMANDS = ("netsonde ", "export ", "cat ", "sed ")
# Lines whose text does not depend on the host or the time.
FIXED = re.compile(r"HOST  |revision |\d+ hosts|\d+ asked: \d+ ok")


# A person waits for a time. The test waits for the condition, also on a busy machine.
READY = "until netsonde ps --json 2>&1 | grep -q inventory; do sleep 0.2; done\n"
DRIFTS = "while netsonde drift > drift.log 2>&1; do sleep 0.2; done\n"
CONVERGED = "until netsonde drift > drift.log 2>&1; do sleep 0.2; done\n"
WAITS = {
    "sleep 3\n": READY,
    "--override 5\n": f"--override 15\n{DRIFTS}",
    "sleep 8\n": CONVERGED,
}


def blocks(text: str) -> tuple[str, list[str]]:
    """Returns the commands, and the lines of the output that do not vary."""
    fences = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    commands = [fence for fence in fences if fence.startswith(COMMANDS)]
    shown = [line for fence in fences if fence not in commands for line in fence.splitlines()]
    return "".join(commands), [words(line) for line in shown if FIXED.match(line)]


def words(line: str) -> str:
    return " ".join(line.partition("; request")[0].split())


@pytest.mark.parametrize("tour", TOURS, ids=["live", "replay"])
def test_tour_prints_what_the_page_shows(tour: str, tmp_path: Path) -> None:
    commands, shown = blocks(tour)
    for typed, waited in WAITS.items():
        commands = commands.replace(typed, waited.replace("drift.log", f"{tmp_path}/drift.log"))
    script = f"ip link set lo up\n{commands}wait\n".replace("/tmp/icmp", f"{tmp_path}/icmp")
    script = script.replace("/tmp/fleet", f"{tmp_path}/fleet")
    done = subprocess.run(
        ["unshare", "--net", "bash", "-c", script],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=170,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "STATE_DIRECTORY": str(tmp_path / "state"),
            "XDG_STATE_HOME": str(tmp_path / "xdg"),
            "NETSONDE__AGENT__HOST": "web1",
        },
    )
    printed = [words(line) for line in done.stdout.splitlines()]
    missing = [line for line in shown if line not in printed]
    assert len(shown) >= 2
    assert missing == [], done.stdout
