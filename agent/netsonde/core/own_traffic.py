"""The sockets of this agent, whose packets captures leave out.

Wraps native/include/own_endpoint.h. The set belongs to the process; sessions started with
`exclude_own` follow it. A socket is added before its first packet, so its port must be bound
before it connects.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from typing import Any

import structlog

from .library import check_status, ffi, lib

ADDRESSES_MAX = 512
_NETLINK_ROUTE = 0
_ADDRESS_GROUPS = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_CHANGES_BYTES = 1 << 16

Address = tuple[str, int]
Endpoint = Any  # struct sonde_own_endpoint *


def _packed(host: str) -> bytes:
    """Returns the address without its zone."""
    return ipaddress.ip_address(host.partition("%")[0]).packed


def endpoint(local: Address, remote: Address | None = None) -> Endpoint:
    """A TCP endpoint. Local address 0.0.0.0 or ::: any. remote None: any peer."""
    made = ffi.new("struct sonde_own_endpoint *")
    address = _packed(local[0])
    made.ip_version = 4 if len(address) == 4 else 6
    made.protocol = socket.IPPROTO_TCP
    made.local_port = local[1]
    ffi.memmove(made.local_ip, address, len(address))
    if remote is not None:
        peer = _packed(remote[0])
        ffi.memmove(made.remote_ip, peer, len(peer))
        made.remote_port = remote[1]
    return made


def add(one: Endpoint) -> None:
    """Adds it. Logs a warning if the set is full: the packets are captured like others."""
    status = lib.sonde_own_traffic_add(one)
    if status == lib.SONDE_TOO_SMALL:
        structlog.get_logger().warning("too many connections of the agent, capturing some of them")
        return
    check_status(status)


def remove(one: Endpoint, *, lingers: bool) -> None:
    """lingers: keeps it while the kernel may still send for the closed socket."""
    lib.sonde_own_traffic_remove(one, int(lingers))


def count() -> int:
    """Returns the number of open endpoints."""
    return int(lib.sonde_own_traffic_count())


# ---- connections -------------------------------------------------------------------------


class OwnSocket:
    """A connected TCP socket of the agent. `forget` it after it is closed."""

    def __init__(self, connected: socket.socket, one: Endpoint) -> None:
        self.socket = connected
        self._endpoint = one

    def forget(self) -> None:
        remove(self._endpoint, lingers=True)


async def connect(host: str, port: int) -> OwnSocket:
    """Tries each address of the host in turn. Raises the last OSError."""
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for family, _, _, _, peer in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            return await _connect(family, peer)
        except OSError as error:
            failure = error
    raise failure or OSError(f"{host}: no address")


async def _connect(family: int, peer: Any) -> OwnSocket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    one = None
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.bind(("", 0))
        one = endpoint(opened.getsockname()[:2], peer[:2])
        add(one)
        await asyncio.get_running_loop().sock_connect(opened, peer)
        # The local address is known now. Another host may use the same port.
        exact = endpoint(opened.getsockname()[:2], peer[:2])
        add(exact)
        remove(one, lingers=False)
    except BaseException:
        opened.close()
        if one is not None:
            remove(one, lingers=True)
        raise
    return OwnSocket(opened, exact)


# ---- a listener --------------------------------------------------------------------------


class OwnListener:
    """A listening TCP socket of the agent. On 0.0.0.0 or :: it follows the host's addresses."""

    def __init__(self, local: Address) -> None:
        self._local = local
        self._version = ipaddress.ip_address(local[0].partition("%")[0]).version
        self._added: dict[bytes, Endpoint] = {}

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """Enter before the socket listens."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._set, [])
            if any(_packed(self._local[0])):
                self._set([endpoint(self._local)])
            else:
                self._watch(stack)
            yield

    def _watch(self, stack: contextlib.ExitStack) -> None:
        loop = asyncio.get_running_loop()
        changes = stack.enter_context(
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)
        )
        changes.setblocking(False)
        changes.bind((0, _ADDRESS_GROUPS))
        loop.add_reader(changes, self._on_change, changes)
        stack.callback(loop.remove_reader, changes)
        self._refresh()

    def _on_change(self, changes: socket.socket) -> None:
        with contextlib.suppress(OSError):  # empty, or an overflow: all addresses are read below
            while True:
                changes.recv(_CHANGES_BYTES)
        self._refresh()

    def _refresh(self) -> None:
        found = [one for one in _host_addresses() if one.ip_version == self._version]
        for one in found:
            one.protocol, one.local_port = socket.IPPROTO_TCP, self._local[1]
        self._set(found)

    def _set(self, endpoints: list[Endpoint]) -> None:
        found = {bytes(ffi.buffer(one)): one for one in endpoints}
        for key in self._added.keys() - found.keys():
            remove(self._added[key], lingers=True)
        for key in found.keys() - self._added.keys():
            add(found[key])
        self._added = found


def _host_addresses() -> list[Endpoint]:
    listed = ffi.new("struct sonde_own_endpoint[]", ADDRESSES_MAX)
    found = check_status(lib.sonde_own_traffic_addresses(listed, ADDRESSES_MAX))
    shown = range(min(found, ADDRESSES_MAX))
    return [ffi.new("struct sonde_own_endpoint *", listed[index]) for index in shown]
