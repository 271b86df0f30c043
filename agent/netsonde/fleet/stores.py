"""What a fleet keeps in JetStream: the two streams, a bucket a host, a consumer a collector.

Where roles are kept apart (roles.py) agents and collectors may use these and not make them:
an administrator does, with the key `streams`. What is there already is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..bus.objects import Bucket, bucket_name
from ..collect.source import ConsumerError, DurableSource
from ..errors import NetsondeError
from ..spool.streams import StreamSettings, ensure_streams, flows_stream
from .client import FleetClient


class StoresError(NetsondeError):
    """JetStream is away, not enabled, or closed to this key."""


@dataclass(frozen=True, slots=True)
class Stores:
    hosts: Sequence[str]
    collectors: Sequence[str]  # their names are those of their consumers
    streams: StreamSettings
    bucket_bytes_max: int
    bucket_age_max_sec: int


async def make_stores(client: FleetClient, stores: Stores) -> list[str]:
    """What in those that were there already could lose or double records, mostly nothing.
    Raises StoresError."""
    root = client.address.root
    wrong = await ensure_streams(client, root, stores.streams)
    if wrong is None:
        raise StoresError("JetStream does not answer: it is not enabled, or closed to this key.")
    for host in stores.hosts:
        bucket = Bucket(
            client,
            bucket_name(root, host),
            bytes_max=stores.bucket_bytes_max,
            age_max_sec=stores.bucket_age_max_sec,
        )
        await bucket.ensure()
    for name in stores.collectors:
        source = DurableSource(
            client.connection,
            stream=flows_stream(root),
            subjects=[f"{root}.stream.flows.*"],
            durable=name,
        )
        try:
            await source.ensure()
        except ConsumerError as error:
            wrong.append(error.detail)
    return wrong
