"""Asks a NATS server which subjects it permits, without a message to anybody.

A message with a reserved reply subject is never delivered: a client may not use one. The server
checks the message's subject first, so its error names the subject if that is denied, else the
reply subject. Subscriptions are real and end with the connection.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
from nats.aio.msg import Msg

from ...bus.nats_client import PermissionDeniedError
from ...bus.objects import NOT_STORED
from ...fleet.client import FleetClient

REPLY_TIMEOUT_SEC = 3.0
_RESERVED = "_R_.netsonde-doctor"
_AT_ONCE = 40  # the client keeps at most 100 errors


async def denied_to_publish(client: FleetClient, subjects: Sequence[str]) -> list[str]:
    """Returns the denied subjects. A final wildcard stands for any token."""
    denied = []
    for begin in range(0, len(subjects), _AT_ONCE):
        some = subjects[begin : begin + _AT_ONCE]
        client.errors.clear()
        for subject in some:
            await client.connection.publish(_plain(subject), b"", reply=_RESERVED)
        refused = await _refused(client)
        denied += [subject for subject in some if _plain(subject) in refused]
    return denied


async def denied_to_subscribe(client: FleetClient, subjects: Sequence[str]) -> list[str]:
    denied = []
    for begin in range(0, len(subjects), _AT_ONCE):
        some = subjects[begin : begin + _AT_ONCE]
        client.errors.clear()
        for subject in some:
            await client.connection.subscribe(subject, cb=_ignore)
        refused = await _refused(client)
        denied += [subject for subject in some if subject in refused]
    return denied


async def ask_jetstream(client: FleetClient, host: str, subject: str) -> dict[str, Any] | None:
    """Sends a request to JetStream's API. None without a reply."""
    reply = await ask(client, host, subject)
    try:
        return msgspec.json.decode(reply.data, type=dict[str, Any]) if reply else None
    except msgspec.DecodeError:  # a message without data: no responders
        return None


async def has_responder(client: FleetClient, host: str, subject: str) -> bool:
    reply = await ask(client, host, subject)
    return reply is not None and (reply.headers or {}).get("Status") != "503"


async def ask(client: FleetClient, host: str, subject: str) -> Msg | None:
    """Sends an empty request as the agent of this host. None without a reply."""
    arrived: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = f"_INBOX_{host}.doctor.{secrets.token_hex(8)}"
    await client.connection.subscribe(inbox, cb=arrived.put, max_msgs=1)
    await client.connection.publish(subject, b"", reply=inbox, headers=NOT_STORED)
    try:
        async with asyncio.timeout(REPLY_TIMEOUT_SEC):
            return await arrived.get()
    except TimeoutError:
        return None


def _plain(subject: str) -> str:
    return f"{subject[:-1]}C.doctor.doctor" if subject.endswith(">") else subject


async def _refused(client: FleetClient) -> set[str]:
    """Returns the subjects of the server's errors since the last call."""
    await client.connection.flush()
    return {one.subject for one in client.errors if isinstance(one, PermissionDeniedError)}


async def _ignore(_: Msg) -> None:
    pass
