"""Reads the inventory (wire/inventory.py) as a client, and forgets hosts.

The bucket keeps one message per key, so reading its messages in order of their sequence numbers
reads every entry. Each page is one request to the Direct Get API. A consumer could do the same;
but a client that may create consumers may also deliver messages to any subject. An entry that
is written during the read moves to the end and is found there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from ..bus import jetstream
from ..bus.nats_client import GuardedClient, PermissionDeniedError
from ..errors import NetsondeError
from ..wire.instant import NS_PER_SEC, parse_rfc3339
from ..wire.inventory import LOST_AFTER_SEC, HostEntry, hosts_bucket

PAGE_ENTRIES = 1000  # at about 1 KB each; a page fits the client's buffers
API_SEC = 5.0
PAGE_SEC = 5.0  # without a further message
_END_OF_PAGE, _NOTHING_FOUND = "204", "404"
_DELETION = {"KV-Operation": "PURGE"}
_UNAVAILABLE = (10008, 10118)  # err_code: no leader now, stream offline


class InventoryError(NetsondeError):
    """The inventory was found, but could not be read or written."""


class NoInventoryError(InventoryError):
    """Policies need the inventory."""

    def __init__(self) -> None:
        super().__init__(
            "There is no inventory: JetStream is off, or this key may not read it. "
            "See `netsonde nats streams`."
        )


@dataclass(frozen=True, slots=True)
class Host:
    """age_sec: since the last write, by the server's clock. skew_sec: the host's clock minus the
    server's at the write; negative also by the time that the write travelled."""

    entry: HostEntry
    age_sec: float
    skew_sec: float

    @property
    def lost(self) -> bool:
        return self.age_sec > LOST_AFTER_SEC

    @property
    def absent(self) -> bool:
        """Whether the host is lost, or its agent was stopped in order."""
        return self.lost or self.entry.stopped


@dataclass(slots=True)
class Inventory:
    """hosts: by name, sorted. malformed: keys whose value is not an entry of that host."""

    hosts: dict[str, Host] = field(default_factory=dict)
    malformed: list[str] = field(default_factory=list)


class _Error(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Info(msgspec.Struct):
    """The used fields of the reply to STREAM.INFO. ts: the server's clock."""

    ts: str = ""
    error: _Error | None = None


async def server_time_ns(connection: GuardedClient, bucket: str, *, domain: str = "") -> int | None:
    """Returns the clock of the server that answers for a bucket, in nanoseconds since the epoch;
    None without JetStream, without the bucket, or without permission. Raises InventoryError if
    JetStream is there and cannot answer now: without a leader, busy, or a named domain away."""
    try:
        subject = jetstream.api(domain, f"STREAM.INFO.KV_{bucket}")
        reply = await _unless_denied(connection, subject)
        if reply is None:
            return None
        info = msgspec.json.decode(reply.data, type=_Info)
        if info.error is None:
            return parse_rfc3339(info.ts)
    except TimeoutError:
        raise InventoryError(f"Bucket {bucket}: no reply in {API_SEC:g} s.") from None
    except NoRespondersError:
        if domain:
            raise InventoryError(f"Bucket {bucket}: domain {domain} cannot be reached.") from None
        return None
    except (NatsError, msgspec.DecodeError, ValueError):
        return None
    if info.error.err_code in _UNAVAILABLE:
        raise InventoryError(f"Bucket {bucket}: {info.error.description}.")
    return None


async def _unless_denied(connection: GuardedClient, subject: str) -> Msg | None:
    """Sends a request without a body; None as soon as the server denies it."""
    denied = asyncio.Event()

    def note(denial: PermissionDeniedError) -> None:
        if jetstream.denies(denial.subject, subject):
            denied.set()

    with connection.denials.watch(note):
        request = asyncio.ensure_future(connection.request(subject, b"", timeout=API_SEC))
        denial = asyncio.ensure_future(denied.wait())
        try:
            await asyncio.wait({request, denial}, return_when=asyncio.FIRST_COMPLETED)
            return await request if request.done() else None
        finally:
            denial.cancel()
            request.cancel()


async def read_inventory(
    connection: GuardedClient, root: str, *, domain: str = ""
) -> Inventory | None:
    """Returns None without an inventory: no JetStream, no bucket, or no permission. Raises
    InventoryError."""
    bucket = hosts_bucket(root)
    now_ns = await server_time_ns(connection, bucket, domain=domain)
    if now_ns is None:
        return None
    found = Inventory()
    async for message in _read_messages(connection, bucket, domain):
        _add_entry(found, f"$KV.{bucket}.", message, now_ns)
    found.hosts = dict(sorted(found.hosts.items()))
    return found


async def forget(connection: GuardedClient, root: str, host: str, *, domain: str = "") -> None:
    """Removes a host's entry. A host that still runs writes it again."""
    try:
        subject = jetstream.key_subject(domain, hosts_bucket(root), host)
        reply = await connection.request(subject, b"", timeout=API_SEC, headers=_DELETION)
        error = msgspec.json.decode(reply.data, type=_Info).error
    except (NatsError, TimeoutError, msgspec.DecodeError) as fault:
        raise InventoryError(f"{host}: the inventory cannot be written: {fault}.") from None
    if error is not None:
        raise InventoryError(f"{host}: the inventory cannot be written: {error}.")


async def _read_messages(connection: GuardedClient, bucket: str, domain: str) -> AsyncIterator[Msg]:
    """Yields the last message of each key, page by page."""
    subject = jetstream.api(domain, f"DIRECT.GET.KV_{bucket}")
    keys = f"$KV.{bucket}.>"
    next_sequence = 1
    while next_sequence:
        inbox = connection.new_inbox()
        page = await connection.subscribe(inbox, pending_msgs_limit=2 * PAGE_ENTRIES)
        try:
            body = {"seq": next_sequence, "next_by_subj": keys, "batch": PAGE_ENTRIES}
            await connection.publish(subject, msgspec.json.encode(body), reply=inbox)
            next_sequence = 0
            async for message in _page_messages(page, bucket):
                headers = message.headers or {}
                if headers.get("Nats-Num-Pending", "0") != "0":
                    next_sequence = int(headers["Nats-Sequence"]) + 1
                else:
                    next_sequence = 0
                yield message
        finally:
            with contextlib.suppress(NatsError):
                await page.unsubscribe()


async def _page_messages(page: Subscription, bucket: str) -> AsyncIterator[Msg]:
    """Yields until the server says that the page has ended."""
    while True:
        try:
            message = await page.next_msg(timeout=PAGE_SEC)
        except (NatsError, TimeoutError) as error:
            raise InventoryError(f"Bucket {bucket}: the server sends no further entry.") from error
        status = (message.headers or {}).get("Status")
        if status in (_END_OF_PAGE, _NOTHING_FOUND):
            return
        if status is not None:
            raise InventoryError(f"Bucket {bucket} cannot be read (status {status}).")
        yield message


def _add_entry(found: Inventory, prefix: str, message: Msg, now_ns: int) -> None:
    headers = message.headers or {}
    key = headers.get("Nats-Subject", "").removeprefix(prefix)
    if "KV-Operation" in headers:
        return
    try:
        entry = msgspec.json.decode(message.data, type=HostEntry)
        written_ns = parse_rfc3339(headers.get("Nats-Time-Stamp", ""))
        skew_sec = (parse_rfc3339(entry.time) - written_ns) / NS_PER_SEC
    except (msgspec.DecodeError, ValueError):
        found.malformed.append(key)
        return
    if entry.host != key:
        found.malformed.append(key)
        return
    found.hosts[key] = Host(entry, (now_ns - written_ns) / NS_PER_SEC, skew_sec)
