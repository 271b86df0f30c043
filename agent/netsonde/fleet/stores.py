"""Creates a fleet's JetStream assets: the streams, the buckets of inventory and policies, a
bucket per host, a consumer per collector and stream.

With separate roles (roles.py), agents and collectors may use these but not create them. An
administrator creates them with the key `streams`. Existing ones are not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..bus.kv import KeyValue, KeyValueError
from ..bus.objects import Bucket, bucket_name
from ..collect.lease import collectors_bucket
from ..collect.source import ConsumerError, DurableSource
from ..errors import NetsondeError
from ..spool.streams import StreamSettings, ensure_streams, flows_stream
from ..wire.inventory import hosts_bucket
from ..wire.policy import policy_bucket
from ..wire.subjects import flows_subject
from .client import FleetClient


class StoresError(NetsondeError):
    """JetStream is unreachable, not enabled, or forbidden for this key."""


@dataclass(frozen=True, slots=True)
class Stores:
    hosts: Sequence[str]
    collectors: Sequence[str]  # names of collectors and of their consumers
    streams: StreamSettings
    bucket_bytes_max: int
    bucket_age_max_sec: int


async def make_stores(client: FleetClient, stores: Stores) -> list[str]:
    """Creates what is missing. Returns warnings about existing ones that could lose or duplicate
    records. Raises StoresError."""
    root, domain = client.address.root, client.address.jetstream_domain
    warnings = await ensure_streams(client, root, replace(stores.streams, domain=domain))
    if warnings is None:
        raise StoresError("JetStream does not reply: enable it, or use a key that may use it.")
    try:
        buckets = [hosts_bucket(root), policy_bucket(root)]
        if stores.streams.shards > 1:
            buckets.append(collectors_bucket(root))
        for name in buckets:
            await KeyValue(client, name, domain=domain).ensure(replicas=stores.streams.replicas)
    except KeyValueError as error:
        raise StoresError(error.detail) from None
    for host in stores.hosts:
        bucket = Bucket(
            client,
            bucket_name(root, host),
            bytes_max=stores.bucket_bytes_max,
            age_max_sec=stores.bucket_age_max_sec,
            domain=domain,
        )
        await bucket.ensure()
    shards = stores.streams.shards
    for name in stores.collectors:
        for shard in range(shards) if shards > 1 else (None,):
            source = DurableSource(
                client.connection,
                stream=flows_stream(root, shard),
                subjects=[flows_subject(root, "*", shard)],
                durable=name,
                errors=client.errors,
                domain=domain,
            )
            try:
                await source.ensure()
            except ConsumerError as error:
                warnings.append(error.detail)
    return warnings
