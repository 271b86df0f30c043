"""Two network namespaces and the wire between them.

    ┌ host ───────────┐ veth ┌ peer ───────────┐
    │ agent on sonde0 ├──────┤ peer0, senders  │
    └─────────────────┘      └─────────────────┘

The test's thread enters `host`, so nats-server, the agent and the client's sockets are in there
too. Neither side has addresses, IPv6 or ARP: only the test's packets are on the wire. Names contain
this process's id. Both namespaces are deleted when the test ends.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import itertools
import json
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")

HOST_DEVICE, PEER_DEVICE = "sonde0", "peer0"
MTU_MAX = 65535
HOST_ADDRESS, PEER_ADDRESS = "10.77.0.1", "10.77.0.2"

# Local ports lie above those that traceroute probes (33435 and higher), because tshark flags every
# datagram on those.
_LOCAL_PORTS = "40000 60999"

_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)

_SIOCETHTOOL = 0x8946
_ETHTOOL_SET = {"gro": 0x2C, "gso": 0x24, "tso": 0x1F}
_PACKET_QDISC_BYPASS = 20


class Wire:
    def __init__(self) -> None:
        stem = f"nst{os.getpid()}n{next(_numbers)}"
        self.host = f"{stem}h"
        self.peer = f"{stem}p"

    def create(self) -> Wire:
        for name in (self.host, self.peer):
            namespace_add(name)
        self.connect()
        return self

    def connect(self, device: str = HOST_DEVICE, peer_device: str = PEER_DEVICE) -> None:
        """Creates the veth pair with the largest MTU and sets both ends up."""
        one = ("link", "add", device, "mtu", str(MTU_MAX), "netns", self.host, "type", "veth")
        ip(*one, "peer", "name", peer_device, "mtu", str(MTU_MAX), "netns", self.peer)
        self.host_ip("link", "set", device, "arp", "off", "up")
        self.peer_ip("link", "set", peer_device, "arp", "off", "up")

    def address(self) -> None:
        """Gives both ends IP addresses."""
        self.host_ip("link", "set", HOST_DEVICE, "arp", "on")
        self.peer_ip("link", "set", PEER_DEVICE, "arp", "on")
        self.host_ip("addr", "add", f"{HOST_ADDRESS}/24", "dev", HOST_DEVICE)
        self.peer_ip("addr", "add", f"{PEER_ADDRESS}/24", "dev", PEER_DEVICE)

    def delete(self) -> None:
        for name in (self.host, self.peer):
            namespace_delete(name)

    def host_ip(self, *arguments: str) -> str:
        return ip("-n", self.host, *arguments)

    def peer_ip(self, *arguments: str) -> str:
        return ip("-n", self.peer, *arguments)

    def link(self, device: str = HOST_DEVICE) -> dict[str, Any]:
        """Returns `ip -details -statistics link` of the host side's interface."""
        shown = self.host_ip("-json", "-details", "-statistics", "link", "show", "dev", device)
        return json.loads(shown)[0]  # type: ignore[no-any-return]

    def sender(self, device: str = PEER_DEVICE) -> Sender:
        return Sender(self.peer, device)

    @property
    def prefix(self) -> tuple[str, ...]:
        """Words before a command that run it in the host namespace, with that namespace's /sys."""
        return ("ip", "netns", "exec", self.host)

    @property
    def peer_prefix(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.peer)


class Sender:
    """Sends raw frames unchanged and counts them."""

    def __init__(self, namespace: str, device: str) -> None:
        self.socket = in_namespace(namespace, lambda: _raw_socket(device))
        self.frames_sent = 0
        self.bytes_sent = 0

    def send(self, frames: Iterable[bytes]) -> int:
        """Returns the number of frames sent. Retries while the transmit queue is full."""
        count = 0
        for frame in frames:
            while True:
                try:
                    self.socket.send(frame)
                    break
                except (BlockingIOError, OSError) as error:
                    if error.errno not in (11, 105):  # EAGAIN, ENOBUFS
                        raise
                    time.sleep(0)
            count += 1
            self.bytes_sent += len(frame)
        self.frames_sent += count
        return count

    def close(self) -> None:
        self.socket.close()


def _raw_socket(device: str) -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    raw.setsockopt(263, _PACKET_QDISC_BYPASS, 1)  # SOL_PACKET
    raw.bind((device, 0))
    return raw


# ---- namespaces ---------------------------------------------------------------------------


def namespace_add(name: str) -> None:
    """Adds a namespace without IPv6, with `lo` up."""
    ip("netns", "add", name)
    with entered(name):
        for which in ("all", "default"):
            Path(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6").write_text("1")
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(_LOCAL_PORTS)
        ip("link", "set", "lo", "up")


def namespace_delete(name: str) -> None:
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"
    return done.stdout


@contextlib.contextmanager
def entered(namespace: str) -> Iterator[None]:
    """Moves this thread, and the processes it starts, into `namespace`."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(namespace)
        yield
    finally:
        _setns_fd(before)
        os.close(before)


def in_namespace(namespace: str, make: Callable[[], Result]) -> Result:
    """Runs `make` in a new thread that has entered `namespace`."""
    made: list[Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            _setns(namespace)
            made.append(make())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def _setns(namespace: str) -> None:
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns_fd(fd)
    finally:
        os.close(fd)


def _setns_fd(fd: int) -> None:
    if _libc.setns(fd, 0x40000000) != 0:  # CLONE_NEWNET
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")


# ---- interface settings and counters ----------------------------------------------------------


def offload_set(namespace: str, device: str, **wanted: bool) -> None:
    """Sets offloads as `ethtool -K` does: offload_set(ns, "sonde0", gso=False, tso=False)."""

    def apply() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for name, on in wanted.items():
                value = array.array("I", [_ETHTOOL_SET[name], int(on)])
                request = struct.pack("16sP16x", device.encode(), value.buffer_info()[0])
                fcntl.ioctl(control, _SIOCETHTOOL, request)

    in_namespace(namespace, apply)


def queue_add(namespace: str, device: str) -> None:
    """Adds a queueing discipline, which counts packets as they leave; veth has none by default."""
    tc = ["ip", "netns", "exec", namespace, "tc"]
    add = [*tc, "qdisc", "replace", "dev", device, "root", "pfifo", "limit", "100000"]
    subprocess.run(add, check=True, capture_output=True)


def queue_counters(namespace: str, device: str) -> tuple[int, int]:
    """Returns (packets, bytes) sent. A GSO super-packet counts as the packets it is split into."""
    tc = ["ip", "netns", "exec", namespace, "tc", "-statistics", "-json"]
    shown = subprocess.run(
        [*tc, "qdisc", "show", "dev", device], check=True, capture_output=True, text=True
    )
    (queue,) = (one for one in json.loads(shown.stdout) if one.get("root"))
    assert queue["drops"] == 0, queue
    return queue["packets"], queue["bytes"]
