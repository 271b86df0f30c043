"""The demo's network: this process in one network namespace, sockets in a second one, and a veth
pair between them.

Both namespaces are anonymous. The kernel removes them and the link when the demo ends, even after
kill -9. The interfaces have addresses for the programs of the demo. The frames of the capture file
have other addresses, and the kernel ignores them.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess

from ..errors import PrivilegeError
from .demo_programs import FAR_ADDRESS, NEAR_ADDRESS, PREFIX_BITS, FarEnd, open_far_end

INTERFACE, FAR_INTERFACE = "sonde0", "sonde1"

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
THIS_NETWORK = "/proc/thread-self/ns/net"

libc = ctypes.CDLL(None, use_errno=True)


def open_link() -> FarEnd:
    """Moves this process into a new network namespace with INTERFACE in it. Returns the sockets
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


def build_link() -> FarEnd:
    run("ip", "link", "set", "lo", "up")
    near = os.open(THIS_NETWORK, os.O_RDONLY)
    require(libc.unshare(CLONE_NEWNET))
    peer = ("peer", "name", INTERFACE, "netns", f"/proc/{os.getpid()}/fd/{near}")
    run("ip", "link", "add", FAR_INTERFACE, "type", "veth", *peer)
    bring_up(FAR_INTERFACE, FAR_ADDRESS)
    far = open_far_end(FAR_INTERFACE)
    require(libc.setns(near, CLONE_NEWNET))
    os.close(near)
    bring_up(INTERFACE, NEAR_ADDRESS)
    # A /sys that shows the new namespace's interfaces.
    run("mount", "--make-rslave", "/")
    run("mount", "-t", "sysfs", "netsonde-demo", "/sys")
    return far


def bring_up(interface: str, address: str) -> None:
    """Sets the interface up without an IPv6 address, so that the kernel sends only ARP on it."""
    run("ip", "link", "set", interface, "addrgenmode", "none")
    run("ip", "link", "set", interface, "up")
    run("ip", "address", "add", f"{address}/{PREFIX_BITS}", "dev", interface)


def require(status: int) -> None:
    if status != 0:
        words = os.strerror(ctypes.get_errno()).lower()
        raise PrivilegeError(f"a network namespace cannot be made here ({words})")


def run(*command: str) -> None:
    # A fixed argument list, and no shell.
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise PrivilegeError(f"'{' '.join(command)}' failed: {done.stderr.strip()}")
