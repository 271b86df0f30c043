"""Flows of live traffic get the names that their clients sent.

The host talks to itself over loopback: a TLS client, an HTTP client, and a client that connects to
an address from a DNS answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agents import COMMAND, Fleet, client_flags
from bus import Bus
from deadlines import eventually
from replay import check_conservation
from servers import NatsServer

TLS_PORT, HTTP_PORT, DNS_PORT, PLAIN_PORT = 443, 8000, 53, 5432  # inside the test's namespace
HANDSHAKE_PACKETS = 3
LABELS = {"labels": ["tls", "quic", "dns", "http"]}
QUESTION = b"\0\x07\1\0\0\1\0\0\0\0\0\0\3db1\7example\3org\0\0\1\0\1"
ANSWER = (
    b"\0\x07\x81\x80\0\1\0\1\0\0\0\0" + QUESTION[12:] + b"\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4\x7f\0\0\2"
)


@contextlib.contextmanager
def serving(address: str, port: int, serve: Callable[[socket.socket], object]) -> Iterator[None]:
    """Accepts one connection."""
    with socket.create_server((address, port)) as listener:

        def run() -> None:
            accepted, _ = listener.accept()
            with accepted:
                serve(accepted)

        thread = threading.Thread(target=run)
        thread.start()
        yield
        thread.join()


def talk_tls() -> None:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        serving("127.0.0.1", TLS_PORT, lambda peer: peer.recv(4096)),
        socket.create_connection(("127.0.0.1", TLS_PORT)) as plain,
        contextlib.suppress(OSError),
    ):
        context.wrap_socket(plain, server_hostname="www.example.com")


def talk_http() -> None:
    with (
        serving("127.0.0.1", HTTP_PORT, lambda peer: peer.recv(4096)),
        socket.create_connection(("127.0.0.1", HTTP_PORT)) as client,
    ):
        client.sendall(b"GET /secret HTTP/1.1\r\nUser-Agent: x\r\nHost: api.example.com\r\n\r\n")
        client.recv(1)


def resolve_and_connect() -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as server,
        socket.socket(type=socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", DNS_PORT))
        client.sendto(QUESTION, ("127.0.0.1", DNS_PORT))
        server.sendto(ANSWER, server.recvfrom(512)[1])
        client.recv(512)
    with (
        serving("127.0.0.2", PLAIN_PORT, lambda peer: peer.recv(16)),
        socket.create_connection(
            ("127.0.0.2", PLAIN_PORT), source_address=("127.0.0.1", 0)
        ) as client,
    ):
        client.sendall(b"\x00\x01plain")
        client.recv(1)


@pytest.mark.parametrize("backend", ["af_packet", "pcap"])
async def test_live_flows_have_names(
    fleet: Fleet, bus: Bus, nats_server: NatsServer, backend: str
) -> None:
    fleet.start("alpha", flows=LABELS)
    await bus.ok("start", {"interface": "lo", "backend": backend}, host="alpha")
    for talk in (talk_tls, talk_http, resolve_and_connect):
        talk()

    async def named() -> dict[int, dict[str, Any]] | None:
        rows = (await bus.ok("flows", {"limit": 1000}, host="alpha"))["flows"]
        by_port = {row["dest_port"]: row for row in rows}
        plain = by_port.get(PLAIN_PORT, {"packets": 0})  # the last of the four
        return by_port if plain["packets"] > HANDSHAKE_PACKETS else None

    rows = await eventually(named, "the four flows with their payloads")
    assert {TLS_PORT, HTTP_PORT, DNS_PORT, PLAIN_PORT} <= rows.keys()
    shown = {port: (rows[port]["app"], rows[port]["name"], rows[port]["name_source"])
             for port in (TLS_PORT, HTTP_PORT, DNS_PORT, PLAIN_PORT)}  # fmt: skip
    assert shown == {
        TLS_PORT: ("tls", "www.example.com", "sni"),
        HTTP_PORT: ("http", "api.example.com", "host"),
        DNS_PORT: ("dns", "db1.example.org", "qname"),
        PLAIN_PORT: (None, "db1.example.org", "dns"),
    }
    assert rows[TLS_PORT]["alpn"] == ["h2", "http/1.1"]
    assert rows[TLS_PORT]["tls_version"] == "1.3"
    assert rows[PLAIN_PORT]["label_state"] == "not_seen"
    command = [str(COMMAND), "flows", "--json", "--name", "*.EXAMPLE.com"]
    found = await asyncio.to_thread(
        lambda: subprocess.run(
            [*command, *client_flags(nats_server.url)], check=True, capture_output=True, text=True
        )
    )
    names = {row["name"] for line in found.stdout.splitlines() for row in json.loads(line)["flows"]}
    assert names == {"www.example.com", "api.example.com"}
    status = await bus.ok("status", host="alpha")
    check_conservation(status)
    assert status["labels_complete"] == 3
    assert "secret" not in json.dumps(rows)
