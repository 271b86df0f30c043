"""Events of hosts: those that the stream of events holds, and new ones.

An event is believed only if its host is the one in its subject, which the server authorises.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from ..bus.nats_client import PermissionDeniedError
from ..errors import NetsondeError
from ..spool.streams import events_stream
from ..wire.events import Event
from ..wire.instant import NS_PER_SEC
from .client import FleetClient
from .denied import DeniedError

FETCH = 256
API_SEC = 5.0
FETCH_SEC = 2.0


@dataclass(frozen=True, slots=True)
class StoredEvents:
    """The messages of the stream since a time, on some subjects. NATS filters the subjects."""

    since_ns: int
    subjects: Sequence[str]


def read_event(message: Msg, root: str) -> Event:
    """Raises ValueError for a malformed event, or one of another host than its subject's."""
    tokens = message.subject.removeprefix(f"{root}.stream.events.").split(".")
    try:
        event = msgspec.json.decode(message.data, type=Event)
    except msgspec.DecodeError as error:
        raise ValueError(f"not an event: {error}") from None
    if tokens != [event.host, event.kind]:
        raise ValueError(f"names host {event.host} and kind {event.kind}")
    return event


async def read_stored(client: FleetClient, wanted: StoredEvents) -> AsyncGenerator[Msg, None]:
    """Yields the messages in order, up to those that the stream has now. Raises DeniedError, or
    NetsondeError without the stream."""
    stream = events_stream(client.address.root)
    denied: list[PermissionDeniedError] = []
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_TIME,
        opt_start_time=datetime.fromtimestamp(wanted.since_ns / NS_PER_SEC, UTC),
        ack_policy=AckPolicy.NONE,
        filter_subjects=list(wanted.subjects),
        inactive_threshold=30.0,
        mem_storage=True,
    )
    domain = client.address.jetstream_domain or None
    jetstream = client.connection.jetstream(domain=domain, timeout=API_SEC)
    with client.connection.denials.watch(denied.append):
        try:
            made = await jetstream.add_consumer(stream, config)
            pending = made.num_pending or 0
            reader = await jetstream.pull_subscribe_bind(made.name, stream)
            while pending > 0:
                try:
                    messages = await reader.fetch(min(FETCH, pending), timeout=FETCH_SEC)
                except NatsTimeoutError:
                    break  # the limits of the stream removed the rest meanwhile
                pending -= len(messages)
                for message in messages:
                    yield message
            await reader.unsubscribe()
        except NatsError as error:
            if denied:
                raise DeniedError(denied[0], client.address.root) from None
            raise NetsondeError(
                f"Stream {stream} cannot be read: {str(error).removeprefix('nats: ')}. Create it "
                "with `netsonde nats streams`, or use --follow."
            ) from None
