"""A program that makes flows whose processes are known, and writes each end as a line of JSON.

    owner_traffic.py PEER servers ADDRESS         first four lines: the ports
    owner_traffic.py PEER clients ADDRESS PORTS   PORTS is a JSON object of the servers' ports

PEER is the program of owner_peer.c. Both run until their standard input ends. The four clients that
keep their connection open write {"kept": true} last.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

SHORT, PREFORK, INETD, LONG, INHERITED, PLAIN = 100, 20, 10, 4, 15, 3
CONNECTED, UNCONNECTED = 20, 20
WORKERS = 5
ASK, ANSWER = b"a" * 100, b"b" * 200

PEER = sys.argv[1] if len(sys.argv) > 1 else ""


def put(**members: Any) -> None:
    os.write(1, json.dumps(members).encode() + b"\n")  # whole lines: below PIPE_BUF


def own_pid() -> int:
    """The process id in the namespace that mounted /proc."""
    return int(os.readlink("/proc/self"))


def put_end(case: str, one: socket.socket, protocol: str = "TCP", peer: int = 0) -> None:
    port = peer or one.getpeername()[1]
    put(case=case, protocol=protocol, port=one.getsockname()[1], peer_port=port, pid=own_pid())


def fork(run: Callable[[], object]) -> int:
    """Runs in a child process, which then ends."""
    child = os.fork()
    if child:
        return child
    code = 1
    with contextlib.suppress(BaseException):
        run()
        code = 0
    os._exit(code)


def wait(child: int) -> None:
    _, status = os.waitpid(child, 0)
    assert status == 0, status


def execute(connection: socket.socket, *words: str) -> None:
    os.dup2(connection.fileno(), 0)
    os.execv(PEER, [PEER, *words])


# ---- servers -------------------------------------------------------------------------------------


def listen(address: str, name: str) -> socket.socket:
    listener = socket.create_server((address, 0), backlog=128)
    put(server=name, port=listener.getsockname()[1])
    return listener


def reply(listener: socket.socket, case: str) -> None:
    connection, _ = listener.accept()
    with connection:
        put_end(case, connection)
        if connection.recv(len(ASK), socket.MSG_WAITALL):
            connection.sendall(ANSWER)
        connection.recv(1)


def serve(listener: socket.socket, case: str) -> None:
    while True:
        reply(listener, case)


def serve_by_programs(listener: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        with connection:
            fork(partial(execute, connection, "reply", "inetd"))


def serve_prefork(listener: socket.socket) -> None:
    for _ in range(WORKERS):
        fork(lambda: serve(listener, "prefork"))
    signal.pause()


def serve_datagrams(address: str) -> None:
    server = socket.socket(type=socket.SOCK_DGRAM)
    server.bind((address, 0))
    put(server="udp", port=server.getsockname()[1])
    while True:
        _, client = server.recvfrom(4096)
        put_end("datagrams", server, "UDP", client[1])
        server.sendto(ANSWER, client)


def run_servers(address: str) -> None:
    fork(lambda: serve(listen(address, "plain"), "plain"))
    fork(lambda: serve_prefork(listen(address, "prefork")))
    fork(lambda: serve_by_programs(listen(address, "inetd")))
    fork(lambda: serve_datagrams(address))


# ---- clients -------------------------------------------------------------------------------------


def talk(connection: socket.socket, case: str) -> None:
    put_end(case, connection)
    connection.sendall(ASK)
    assert len(connection.recv(len(ANSWER), socket.MSG_WAITALL)) == len(ANSWER)


def connect_and_talk(to: tuple[str, int], case: str) -> None:
    with socket.create_connection(to) as connection:
        talk(connection, case)


def run_short(to: tuple[str, int]) -> None:
    """Programs that end at once."""
    for _ in range(SHORT):
        wait(os.posix_spawn(PEER, [PEER, "connect", to[0], str(to[1]), "short"], {}))


def run_inherited(to: tuple[str, int]) -> None:
    """A process connects, and another one uses the connection: its child, a program, or one that
    gets the descriptor through a socket. Any of the two may be the last to close. In the last six,
    the process that connected is the last. In three of them, it also sends, and the other process
    only receives."""
    for number in range(INHERITED):
        what = "take" if number >= INHERITED - 3 else "talk"
        mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        receiver = fork(partial(receive, other, what)) if number % 3 == 2 else 0
        connection = socket.create_connection(to)
        if number % 3 == 0:
            receiver = fork(partial(DEEDS[what], connection, "inherited"))
        elif number % 3 == 1:
            receiver = fork(partial(execute, connection, what, "inherited"))
        else:
            socket.send_fds(mine, [b"x"], [connection.fileno()])
        if what == "take":
            connection.sendall(ASK)
        if number >= INHERITED - 6:
            wait(receiver)
            connection.close()
        else:
            connection.close()
            wait(receiver)
        mine.close()
        other.close()


def take(connection: socket.socket, case: str) -> None:
    put_end(case, connection)
    assert len(connection.recv(len(ANSWER), socket.MSG_WAITALL)) == len(ANSWER)


DEEDS = {"talk": talk, "take": take}


def receive(channel: socket.socket, what: str) -> None:
    _, (descriptor,), _, _ = socket.recv_fds(channel, 1, 1)
    with socket.socket(fileno=descriptor) as connection:
        DEEDS[what](connection, "inherited")


def run_datagrams(to: tuple[str, int]) -> None:
    """Holds each port after its client: the packets of two clients with one port are one flow."""
    held = []
    for send in (*[send_connected] * CONNECTED, *[send_unconnected] * UNCONNECTED):
        reading, writing = os.pipe()
        wait(fork(partial(send, to, writing)))
        port = int(os.read(reading, 8))
        os.close(reading)
        os.close(writing)
        one = socket.socket(type=socket.SOCK_DGRAM)
        one.bind(("", port))
        held.append(one)
    for one in held:
        one.close()


def send_connected(to: tuple[str, int], port: int) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.connect(to)
        one.send(ASK)
        one.recv(4096)
        put_end("connected", one, "UDP")
        os.write(port, str(one.getsockname()[1]).encode())


def send_unconnected(to: tuple[str, int], port: int) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.sendto(ASK, to)
        one.recv(4096)
        put_end("unconnected", one, "UDP", to[1])
        os.write(port, str(one.getsockname()[1]).encode())


def run_clients(address: str, ports: dict[str, int]) -> None:
    to = {name: (address, port) for name, port in ports.items()}
    run_short(to["plain"])
    for name, count, case in (
        ("prefork", PREFORK, "prefork"),
        ("inetd", INETD, "inetd"),
        ("plain", PLAIN, "plain"),
    ):
        for _ in range(count):
            wait(fork(partial(connect_and_talk, to[name], case)))
    run_inherited(to["plain"])
    run_datagrams(to["udp"])
    for _ in range(LONG):
        fork(lambda: keep_open(to["prefork"]))


def keep_open(to: tuple[str, int]) -> None:
    with socket.create_connection(to) as connection:
        talk(connection, "long")
        put(kept=True)
        signal.pause()


def main() -> None:
    what, address = sys.argv[2:4]
    os.setpgid(0, 0)
    if what == "servers":
        run_servers(address)
    else:
        run_clients(address, json.loads(sys.argv[4]))
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
