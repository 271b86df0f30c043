"""Compares the processor time of idle agents of two checkouts: python idle.py OTHER [SECONDS].

OTHER is the directory of another checkout with its `.venv`. Two agents of each run at the same
time on one nats-server, first with JetStream and then without. The time is that of all threads by
the scheduler's count, so the load of the machine matters little. Prints the means and the ratio.
The exit code is 1 if this checkout needs more than LIMIT of the other's time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers import NatsServer

LIMIT = 1.03
AGENTS = 2
START_SEC = 10.0
SECONDS = 180.0
HERE = Path(__file__).parents[2]


def start(
    checkout: Path, name: str, server: NatsServer, directory: Path
) -> subprocess.Popen[bytes]:
    state = directory / name
    state.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "STATE_DIRECTORY": str(state),
        "NETSONDE__AGENT__HOST": name,
        "NETSONDE__NATS__SERVERS": f'["{server.url}"]',
        "NETSONDE__HTTP__LISTEN": "127.0.0.1:0",
    }
    command = [str(checkout / ".venv/bin/netsonde"), "run", "--config", os.devnull]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def used_ms(pid: int) -> float:
    """Returns the processor time of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6


def measure(other: Path, seconds: float, *, jetstream: bool) -> float:
    """Returns this checkout's time as a part of the other's."""
    with tempfile.TemporaryDirectory() as directory:
        store = f'jetstream {{ store_dir: "{directory}/js" }}\n' if jetstream else ""
        server = NatsServer(Path(directory) / "nats", config=store).start()
        sides = {"here": HERE, "other": other}
        agents = {
            f"{side}{number}": start(root, f"{side}{number}", server, Path(directory))
            for number in range(AGENTS)
            for side, root in sides.items()
        }
        try:
            time.sleep(START_SEC)
            before = {name: used_ms(agent.pid) for name, agent in agents.items()}
            time.sleep(seconds)
            rates = {name: (used_ms(agents[name].pid) - before[name]) / seconds for name in agents}
        finally:
            for agent in agents.values():
                agent.terminate()
            for agent in agents.values():
                agent.wait()
            server.kill()
    here, theirs = (
        sum(rate for name, rate in rates.items() if name.startswith(side)) / AGENTS
        for side in sides
    )
    words = "with" if jetstream else "without"
    print(f"{words} JetStream: {here:.3f} ms/s, other {theirs:.3f} ms/s, ratio {here / theirs:.2f}")
    return here / theirs


def main(other: str, seconds: float) -> int:
    ratios = [measure(Path(other), seconds, jetstream=one) for one in (True, False)]
    return int(max(ratios) > LIMIT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else SECONDS))
