"""Which privileges this process has, and which each backend needs.

The agent runs as a user of its own with CAP_NET_RAW among its ambient capabilities, and more
only for backends that need more. It never asks for privileges, it gives up the way to new
ones (`give_up_new`), and it does not start where it could capture nothing.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..config.sections import CaptureSection
from ..errors import PrivilegeError

NET_ADMIN, NET_RAW, IPC_LOCK = "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK"
PERFMON, BPF = "CAP_PERFMON", "CAP_BPF"
_BITS = {NET_ADMIN: 12, NET_RAW: 13, IPC_LOCK: 14, PERFMON: 38, BPF: 39}  # linux/capability.h

# What the documentation, the systemd units and `netsonde doctor` go by. Promiscuous mode is
# part of CAP_NET_RAW; without CAP_PERFMON the kernel's verifier refuses xdp's programs. DPDK's
# are for kernel interfaces; what else it needs depends on the device's driver.
NEEDED: Mapping[str, tuple[str, ...]] = {
    "af_packet": (NET_RAW,),
    "pcap": (NET_RAW,),
    "xdp": (NET_RAW, NET_ADMIN, PERFMON, BPF),
    "dpdk": (NET_RAW, IPC_LOCK),
    "pf_ring": (NET_RAW, NET_ADMIN),
    "file": (),
}

_PR_SET_NO_NEW_PRIVS = 38
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the kernel says of this process, as /proc/self/status has it."""

    uid: int
    capabilities: frozenset[str]
    no_new_privileges: bool
    seccomp: bool

    def missing(self, backend: str) -> list[str]:
        return [name for name in NEEDED.get(backend, ()) if name not in self.capabilities]


def standing(status: str | None = None) -> Standing:
    """status: the file's text, for tests."""
    text = Path("/proc/self/status").read_text() if status is None else status
    fields = {key: value.strip() for key, _, value in (x.partition(":") for x in text.splitlines())}
    effective = int(fields["CapEff"], 16)
    return Standing(
        uid=int(fields["Uid"].split()[1]),
        capabilities=frozenset(name for name, bit in _BITS.items() if effective >> bit & 1),
        no_new_privileges=fields.get("NoNewPrivs") == "1",
        seccomp=fields.get("Seccomp") == "2",
    )


def give_up_new() -> None:
    """From here on no program that this process runs can gain privileges by being run."""
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise PrivilegeError(f"no_new_privs cannot be set: {os.strerror(number)}")


def require_capture(settings: CaptureSection) -> None:
    """Raises PrivilegeError if no live backend could run and live capture is wanted."""
    if not settings.live or _opens_packet_socket():
        return
    has = standing()
    if not has.missing("xdp"):
        return
    raise PrivilegeError(
        f"this process (uid {has.uid}) may not capture: it lacks CAP_NET_RAW in this network "
        "namespace. Grant it with AmbientCapabilities=CAP_NET_RAW in the systemd unit, or start "
        "as root; `netsonde doctor` tells what each backend needs. An agent that only reads "
        "capture files needs none: set [capture] live = false."
    )


def _opens_packet_socket() -> bool:
    """Asked of the kernel itself: in a user namespace a capability may count for nothing."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0).close()
    except OSError:
        return False
    return True
