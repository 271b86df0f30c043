"""A program whose child processes send from one UDP port, one after the other.

    one_port.py ADDRESS TO CASES

CASES is a JSON object: for each port to send to, the local port, and a list of lists. Each of these
is a child process, with the way of each of its sockets. Writes the ids of the processes of each
case as a line of JSON. The namespace must be the test's: the kernel may choose no other local port.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def send(way: str, mine: tuple[str, int], to: tuple[str, int]) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        if way == "bind":
            one.bind(mine)
        if way == "connect":
            one.connect(to)
            one.send(b"x")
        else:
            one.sendto(b"x", to)
        assert one.getsockname()[1] == mine[1]


def run(ways: list[str], mine: tuple[str, int], to: tuple[str, int]) -> int:
    """Returns the process id of a child that has ended."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for way in ways:
                send(way, mine, to)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    return child


def main(address: str, to: str, cases: str) -> None:
    for dest_port, (port, children) in json.loads(cases).items():
        PORTS.write_text(f"{port} {port}")
        pids = [run(ways, (address, port), (to, int(dest_port))) for ways in children]
        print(json.dumps(pids))


if __name__ == "__main__":
    main(*sys.argv[1:])
