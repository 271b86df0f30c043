"""`netsonde collect --shards`: one collector per shard that this process holds the lease of."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..collect.lease import Lease, LeaseLostError, Slots, collectors_bucket
from ..errors import NetsondeError
from ..wire.subjects import shard_of
from .collect import Job, notify, run_collector

if TYPE_CHECKING:
    from ..collect.state import State
    from ..fleet.client import FleetClient

RETRY_SEC = 1.0


async def collect_shards(job: Job) -> tuple[list[State], NetsondeError | None]:
    """Collects until it is stopped, or every shard is idle. Returns the state of each shard that
    this process read, and the first failure."""
    from ..fleet.client import connect

    slots = Slots(job.args.max_shards)
    async with connect(job.address, lasting=True, notify=notify) as client:
        found = await asyncio.gather(
            *(
                collect_shard(replace(job, shard=shard), client, slots)
                for shard in shards_of(job.target.hosts, job.args.shards)
            )
        )
    states = [state for state, _ in found if state is not None]
    return states, next((failure for _, failure in found if failure is not None), None)


def shards_of(hosts: Sequence[str], shards: int) -> list[int]:
    """Returns the shards of the named hosts; all without names."""
    if not hosts:
        return list(range(shards))
    return sorted({shard for host in hosts if (shard := shard_of(host, shards)) is not None})


async def collect_shard(
    job: Job, client: FleetClient, slots: Slots
) -> tuple[State | None, NetsondeError | None]:
    """Reads the shard whenever no other collector does. With --until-idle, leaves a shard that
    another collector reads for so long."""
    from ..bus.kv import KeyValue, KeyValueError
    from ..collect.source import OtherReaderError
    from ..collect.state import DirectoryInUseError
    from ..fleet.policies import user_name

    bucket = KeyValue(
        client, collectors_bucket(job.address.root), domain=job.address.jetstream_domain
    )
    key = f"{job.args.durable}.{job.shard}"
    noticed = ""
    while not job.stopping.is_set():
        lease = Lease(bucket, key, by=user_name(), slots=slots)
        try:
            if not await acquired(lease, job):
                break
            async with lease.held():
                return await run_collector(replace(job, lease=lease))
        except (KeyValueError, LeaseLostError, OtherReaderError, DirectoryInUseError) as error:
            if error.detail != noticed:
                notify(f"{job.stream}: {error.detail} Retrying.")
            noticed = error.detail
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETRY_SEC):
                await job.stopping.wait()
    return None, None


async def acquired(lease: Lease, job: Job) -> bool:
    """Returns False if the process is stopped first, or has waited for --until-idle."""
    waiting = asyncio.ensure_future(lease.acquire())
    stopping = asyncio.ensure_future(job.stopping.wait())
    try:
        done, _ = await asyncio.wait(
            {waiting, stopping},
            timeout=job.args.until_idle,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if waiting in done:
            await waiting
        return waiting in done
    finally:
        stopping.cancel()
        waiting.cancel()
        await asyncio.gather(stopping, waiting, return_exceptions=True)
