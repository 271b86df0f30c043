"""Creates a fleet's JetStream assets: the streams, the buckets of inventory and policies, a
bucket per host, a consumer per collector and stream.

With separate roles (roles.py), agents and collectors may use these but not create them. An
administrator creates them with the key `streams`. Existing ones are not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..bus.kv import KeyValue, KeyValueError
from ..bus.objects import Bucket, SiteBucket, bucket_name, site_bucket_name
from ..collect.lease import collectors_bucket
from ..collect.source import ConsumerError, DurableSource
from ..errors import NetsondeError, ObjectStoreUnavailable
from ..spool.streams import StreamSettings, ensure_streams, flows_stream
from ..wire.inventory import changes_subject, hosts_bucket
from ..wire.policy import announcement_subject, policy_bucket
from ..wire.subjects import flows_subject
from .client import FleetClient

_SMALLER = "If the disk is too small for a bucket per host, use --site-bucket or --bucket-mb."


class StoresError(NetsondeError):
    """JetStream is unreachable, not enabled, or forbidden for this key."""


@dataclass(frozen=True, slots=True)
class Stores:
    hosts: Sequence[str]
    collectors: Sequence[str]  # names of collectors and of their consumers
    streams: StreamSettings
    bucket_bytes_max: int
    bucket_age_max_sec: int
    site_bucket: bool = False  # one bucket instead of one per host


async def make_stores(client: FleetClient, stores: Stores) -> list[str]:
    """Creates what is missing. Returns warnings about existing ones that could lose or duplicate
    records. Raises StoresError."""
    root, domain = client.address.root, client.address.jetstream_domain
    warnings = await ensure_streams(client, root, replace(stores.streams, domain=domain))
    if warnings is None:
        raise StoresError("JetStream does not reply: enable it, or use a key that may use it.")
    try:
        tables = [
            KeyValue(
                client, hosts_bucket(root), domain=domain, copied_to=changes_subject(root, "")
            ),
            KeyValue(
                client, policy_bucket(root), domain=domain, copied_to=announcement_subject(root, "")
            ),
        ]
        if stores.streams.shards > 1:
            tables.append(KeyValue(client, collectors_bucket(root), domain=domain))
        for store in tables:
            await store.ensure(replicas=stores.streams.replicas)
    except KeyValueError as error:
        raise StoresError(error.detail) from None
    await _make_buckets(client, root, stores)
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


async def _make_buckets(client: FleetClient, root: str, stores: Stores) -> None:
    bytes_max, age_max_sec = stores.bucket_bytes_max, stores.bucket_age_max_sec
    domain = client.address.jetstream_domain
    if stores.site_bucket:
        site = site_bucket_name(root)
        await SiteBucket(
            client, site, "", bytes_max=bytes_max, age_max_sec=age_max_sec, domain=domain
        ).ensure()
        return
    for host in stores.hosts:
        name = bucket_name(root, host)
        try:
            await Bucket(
                client, name, bytes_max=bytes_max, age_max_sec=age_max_sec, domain=domain
            ).ensure()
        except ObjectStoreUnavailable as error:
            raise StoresError(f"{error.detail} {_SMALLER}") from None
