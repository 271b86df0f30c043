"""The agent's own endpoints: connections are known before their first packet, listeners follow the
addresses of the host."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import subprocess
from collections.abc import Iterator

import pytest

import netns
from deadlines import eventually
from netsonde.core import own_traffic
from netsonde.core.own_traffic import OwnListener
from servers import free_port


@pytest.fixture
def namespace() -> Iterator[str]:
    wire = netns.Wire()
    try:
        wire.create()
        with netns.entered(wire.host):
            yield wire.host
    finally:
        wire.delete()


def listening() -> socket.socket:
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    return server


async def test_a_connection_is_own_until_it_is_forgotten() -> None:
    before = own_traffic.count()
    with listening() as server:
        opened = await own_traffic.connect("localhost", server.getsockname()[1])
        peer, _ = server.accept()
        with peer, opened.socket:
            assert own_traffic.count() == before + 1
            assert opened.socket.getpeername() == server.getsockname()
    opened.forget()
    assert own_traffic.count() == before


async def test_the_endpoint_is_added_before_the_socket_connects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    before, seen = own_traffic.count(), []

    async def connecting(opened: socket.socket, peer: object) -> None:
        assert opened.getsockname()[1] != 0
        seen.append(own_traffic.count())
        raise OSError(errno.ECONNREFUSED, "refused")

    monkeypatch.setattr(type(loop), "sock_connect", lambda _, *words: connecting(*words))
    with pytest.raises(OSError, match="refused"):
        await own_traffic.connect("127.0.0.1", 1)
    assert seen == [before + 1]
    assert own_traffic.count() == before


async def test_a_refused_connection_is_forgotten() -> None:
    before = own_traffic.count()
    with pytest.raises(ConnectionRefusedError):
        await own_traffic.connect("127.0.0.1", free_port())
    assert own_traffic.count() == before


def test_a_listener_on_one_address_is_one_endpoint() -> None:
    before = own_traffic.count()
    with OwnListener(("127.0.0.1", 9300)).followed():
        assert own_traffic.count() == before + 1
    with contextlib.suppress(KeyError), OwnListener(("::1", 9300)).followed():
        raise KeyError
    assert own_traffic.count() == before


async def test_a_listener_on_any_address_follows_the_host(namespace: str) -> None:
    before = own_traffic.count()

    def change(verb: str) -> None:
        subprocess.run(["ip", "addr", verb, "10.9.9.9/32", "dev", "lo"], check=True)

    with OwnListener(("0.0.0.0", 9300)).followed():
        assert own_traffic.count() == before + 1  # 127.0.0.1
        change("add")
        await eventually(lambda: own_traffic.count() == before + 2, "the new address")
        change("del")
        await eventually(lambda: own_traffic.count() == before + 1, "the address to go")
    assert own_traffic.count() == before
