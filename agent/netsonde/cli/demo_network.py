"""The demo's stage: this process in a network namespace of its own, a peer in another, and
a veth pair between them.

Both namespaces are anonymous. The kernel removes them, and the link with them, when the last
process inside has gone, so nothing is left behind even by kill -9. The peer ends when its
standard input closes. Addresses come from 198.18.0.0/15 (RFC 2544, for benchmarks) and a
unique local prefix, and no route leads anywhere else.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..bus.embedded import die_with_parent
from ..errors import NetsondeError, PrivilegeError
from .demo_packets import CLIENT_IP, CLIENT_IP6

INTERFACE = "sonde0"

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
PEER_READY_SEC_MAX = 10.0

libc = ctypes.CDLL(None, use_errno=True)


def unshare_network() -> None:
    """Moves this process into a new network namespace, with a /sys that shows it. Call it
    before any thread or event loop exists. Raises PrivilegeError."""
    if shutil.which("ip") is None:
        raise PrivilegeError("the command 'ip' (iproute2) is not installed")
    if libc.unshare(CLONE_NEWNET | CLONE_NEWNS) != 0:
        words = os.strerror(ctypes.get_errno()).lower()
        raise PrivilegeError(f"a network namespace cannot be made here ({words})")
    run("ip", "link", "set", "lo", "up")
    run("mount", "--make-rslave", "/")
    run("mount", "-t", "sysfs", "netsonde-demo", "/sys")


def find_obstacle() -> str:
    """Why the stage cannot be built here, or "": tried out in a child process, because there
    is no way back from a namespace that turns out to be of no use."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        words = ""
        try:
            unshare_network()
            run("ip", "link", "add", INTERFACE, "type", "veth", "peer", "name", "sonde1")
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
        except (PrivilegeError, OSError) as error:
            words = str(error)
        finally:
            os.write(writer, words.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        words = pipe.read()
    os.waitpid(child, 0)
    return words


def run(*command: str) -> None:
    # An argument list of our own making, and no shell.
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise PrivilegeError(f"'{' '.join(command)}' failed: {done.stderr.strip()}")


def make_link(peer_pid: int) -> None:
    """The veth pair: one end stays here, the other goes to the peer's namespace."""
    pair = ("ip", "link", "add", INTERFACE, "type", "veth", "peer")
    run(*pair, "name", INTERFACE, "netns", str(peer_pid))


def configure_link(ip: str, ip6: str) -> None:
    """Addresses this namespace's end."""
    run("ip", "link", "set", INTERFACE, "up")
    run("ip", "address", "add", f"{ip}/24", "dev", INTERFACE)
    # nodad: the addresses are usable at once; nobody else is on this wire.
    run("ip", "address", "add", f"{ip6}/64", "dev", INTERFACE, "nodad")


@asynccontextmanager
async def open_link() -> AsyncIterator[None]:
    """Starts the peer and joins it to this namespace."""
    peer = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "netsonde.cli.demo_traffic",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=die_with_parent,
        start_new_session=True,  # Ctrl-C is for the demo, which ends the peer last
    )
    if peer.stdin is None or peer.stdout is None:
        raise NetsondeError("The demo's peer has no pipes.")
    try:
        async with asyncio.timeout(PEER_READY_SEC_MAX):
            await expect(peer.stdout, "unshared")
            make_link(peer.pid)
            configure_link(CLIENT_IP, CLIENT_IP6)
            peer.stdin.write(b"serve\n")
            await peer.stdin.drain()
            await expect(peer.stdout, "serving")
        yield
    except TimeoutError as error:
        raise NetsondeError("The demo's peer namespace did not come up.") from error
    finally:
        peer.stdin.close()
        try:
            async with asyncio.timeout(2):
                await peer.wait()
        except TimeoutError:
            peer.kill()
            await peer.wait()


async def expect(stream: asyncio.StreamReader, word: str) -> None:
    line = (await stream.readline()).decode().strip()
    if line != word:
        raise NetsondeError(f"The demo's peer said {line!r} instead of {word!r}.")
