"""The privileges of this process, and those that each backend and owners of flows need.

The agent runs as a separate user with the ambient capability CAP_NET_RAW, plus those of its
backends. It sets no_new_privs, and refuses to start where no backend could capture.
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

# Documentation, systemd units and `netsonde doctor` follow this table. CAP_NET_RAW covers
# promiscuous mode. Without CAP_PERFMON the kernel's verifier rejects the xdp programs. DPDK's
# entry is for kernel interfaces; other devices need what their driver needs.
NEEDED: Mapping[str, tuple[str, ...]] = {
    "af_packet": (NET_RAW,),
    "pcap": (NET_RAW,),
    "xdp": (NET_RAW, NET_ADMIN, PERFMON, BPF),
    "dpdk": (NET_RAW, IPC_LOCK),
    "pf_ring": (NET_RAW,),
    "file": (),
}

OWNERS = (NET_ADMIN, PERFMON, BPF)  # to find the owners of flows; optional

_PR_SET_NO_NEW_PRIVS = 38
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Standing:
    """This process in /proc/self/status."""

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


def forbid_new() -> None:
    """Sets no_new_privs: no program started from here gains privileges."""
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise PrivilegeError(f"cannot set no_new_privs: {os.strerror(number)}")


def require_capture(settings: CaptureSection) -> None:
    """Raises PrivilegeError if no live backend could run and live capture is wanted."""
    if not settings.live or _opens_packet_socket():
        return
    has = standing()
    if not has.missing("xdp"):
        return
    raise PrivilegeError(
        f"cannot capture: this process (uid {has.uid}) lacks CAP_NET_RAW in this network "
        "namespace. Set AmbientCapabilities=CAP_NET_RAW in the systemd unit, or start as root. "
        "`netsonde doctor` lists what each backend needs. An agent that only reads capture "
        "files needs no capability: set [capture] live = false."
    )


def _opens_packet_socket() -> bool:
    """Tries it: in a user namespace a capability may have no effect."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0).close()
    except OSError:
        return False
    return True
