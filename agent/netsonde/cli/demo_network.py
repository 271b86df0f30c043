"""The demo's network: this process in one network namespace, a raw socket in a second one, and
a veth pair between them.

Both namespaces are anonymous and no interface has an address or a route. The kernel removes the
namespaces and the link when the demo ends, even after kill -9.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess

from ..errors import PrivilegeError

INTERFACE, FAR_INTERFACE = "sonde0", "sonde1"

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
THIS_NETWORK = "/proc/thread-self/ns/net"

libc = ctypes.CDLL(None, use_errno=True)


def open_wire() -> socket.socket:
    """Moves this process into a new network namespace with INTERFACE in it. Returns a raw socket
    at the far end of that link. Call it before any thread or event loop exists.

    Raises PrivilegeError, in the namespace that it started in, if this machine does not allow it.
    """
    if shutil.which("ip") is None:
        raise PrivilegeError("the command 'ip' (iproute2) is not installed")
    original = os.open(THIS_NETWORK, os.O_RDONLY)
    require(libc.unshare(CLONE_NEWNET | CLONE_NEWNS))
    try:
        return build_link()
    except (OSError, PrivilegeError) as error:
        require(libc.setns(original, CLONE_NEWNET))
        raise PrivilegeError(str(error)) from error
    finally:
        os.close(original)


def build_link() -> socket.socket:
    run("ip", "link", "set", "lo", "up")
    near = os.open(THIS_NETWORK, os.O_RDONLY)
    require(libc.unshare(CLONE_NEWNET))
    peer = ("peer", "name", INTERFACE, "netns", f"/proc/{os.getpid()}/fd/{near}")
    run("ip", "link", "add", FAR_INTERFACE, "type", "veth", *peer)
    bring_up(FAR_INTERFACE)
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)  # keeps the far namespace alive
    wire.bind((FAR_INTERFACE, 0))
    wire.setblocking(False)
    require(libc.setns(near, CLONE_NEWNET))
    os.close(near)
    bring_up(INTERFACE)
    # A /sys that shows the new namespace's interfaces.
    run("mount", "--make-rslave", "/")
    run("mount", "-t", "sysfs", "netsonde-demo", "/sys")
    return wire


def bring_up(interface: str) -> None:
    """Sets the interface up without an IPv6 address, so that the kernel sends nothing on it."""
    run("ip", "link", "set", interface, "addrgenmode", "none")
    run("ip", "link", "set", interface, "up")


def require(status: int) -> None:
    if status != 0:
        words = os.strerror(ctypes.get_errno()).lower()
        raise PrivilegeError(f"a network namespace cannot be made here ({words})")


def run(*command: str) -> None:
    # A fixed argument list, and no shell.
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise PrivilegeError(f"'{' '.join(command)}' failed: {done.stderr.strip()}")
