"""Network interfaces as the kernel's ioctls describe them. They act in the caller's namespace,
unlike /sys."""

from __future__ import annotations

import array
import contextlib
import fcntl
import socket
import struct
from collections.abc import Iterator

_SIOCGIFFLAGS = 0x8913  # linux/sockios.h
_SIOCETHTOOL = 0x8946
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8  # linux/if.h
_ETHTOOL_GSET, _ETHTOOL_GFLAGS, _ETHTOOL_GGRO = 0x1, 0x25, 0x2B  # linux/ethtool.h
_ETH_FLAG_LRO = 1 << 15
_SPEED_UNKNOWN = 0xFFFFFFFF
_IFREQ_BYTES = 40


def is_up(name: str) -> bool:
    return bool(_flags(name) & _IFF_UP)


def is_loopback(name: str) -> bool:
    return bool(_flags(name) & _IFF_LOOPBACK)


def merging_offloads(name: str) -> list[str]:
    """Returns those of `gro` and `lro` that are on."""
    found = []
    if _value(name, _ETHTOOL_GGRO):
        found.append("gro")
    if _value(name, _ETHTOOL_GFLAGS) & _ETH_FLAG_LRO:
        found.append("lro")
    return found


def speed_mbps(name: str) -> int:
    """Returns 0 if the driver does not report a speed."""
    answer = _ethtool(name, struct.pack("=I40x", _ETHTOOL_GSET))
    if answer is None:
        return 0
    low, high = struct.unpack_from("=H", answer, 12)[0], struct.unpack_from("=H", answer, 28)[0]
    speed = low | high << 16
    return 0 if speed in (_SPEED_UNKNOWN, 0xFFFF) else speed


def _value(name: str, command: int) -> int:
    answer = _ethtool(name, struct.pack("=II", command, 0))
    return int(struct.unpack_from("=I", answer, 4)[0]) if answer is not None else 0


def _ethtool(name: str, request: bytes) -> bytes | None:
    """Returns the answer. None if the driver does not support the request."""
    data = array.array("B", request)
    address, _ = data.buffer_info()
    with _socket() as descriptor:
        try:
            fcntl.ioctl(descriptor, _SIOCETHTOOL, _request(name, struct.pack("@P", address)))
        except OSError:
            return None
    return data.tobytes()


def _flags(name: str) -> int:
    with _socket() as descriptor:
        answer = fcntl.ioctl(descriptor, _SIOCGIFFLAGS, _request(name, b""))
    return int(struct.unpack_from("=H", answer, 16)[0])


def _request(name: str, value: bytes) -> bytes:
    return name.encode().ljust(16, b"\0") + value.ljust(_IFREQ_BYTES - 16, b"\0")


@contextlib.contextmanager
def _socket() -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        yield sock.fileno()
