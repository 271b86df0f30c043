"""Lists the results of `packets` that the buckets of hosts hold, with Direct Get only.

A host that is away has its objects listed too. The bucket of a site holds those of several hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nats.errors import Error as NatsError

from ..bus.objects import StoredObject, bucket_name, read_object, site_bucket_name
from ..errors import NetsondeError
from .download import DirectGet, DownloadError, direct_get_subject, read_header, read_number

if TYPE_CHECKING:
    from .client import FleetClient

BATCH = 64


async def list_stored(
    client: FleetClient, hosts: Sequence[str]
) -> dict[str, list[tuple[str, StoredObject]]]:
    """Returns bucket and object by host, oldest first. Raises DeniedError, NetsondeError."""
    root = client.address.root
    site = site_bucket_name(root)
    found: dict[str, list[tuple[str, StoredObject]]] = {host: [] for host in hosts}
    for one in await read_bucket(client, site):
        host = one.subject.removeprefix(f"$O.{site}.M.").partition(".")[0]
        if host in found:
            found[host].append((site, one))
    for host in hosts:
        bucket = bucket_name(root, host)
        found[host] += [(bucket, one) for one in await read_bucket(client, bucket)]
    return found


async def read_bucket(client: FleetClient, bucket: str) -> list[StoredObject]:
    """Returns an empty list without the bucket. Raises DeniedError, NetsondeError."""
    connection, domain = client.connection, client.address.jetstream_domain
    inbox = connection.new_inbox()
    replies = await connection.subscribe(inbox)
    try:
        reader = DirectGet(connection, replies, inbox, bucket, domain)
        work = _read(reader, f"$O.{bucket}.M.>")
        return await client.allowed(work, direct_get_subject(bucket, domain))
    except (DownloadError, NatsError, TimeoutError) as error:
        reason = str(error).removeprefix("nats: ")
        raise NetsondeError(f"Bucket {bucket} cannot be read: {reason}.") from None
    finally:
        await replies.unsubscribe()


async def _read(reader: DirectGet, subject: str) -> list[StoredObject]:
    found: dict[str, StoredObject | None] = {}
    seq = 0
    while True:
        before = seq
        await reader.ask({"seq": seq + 1, "next_by_subj": subject, "batch": BATCH})
        while (message := await reader.next(missing=not seq)) is not None:
            seq = read_number(message, "Nats-Sequence")
            name = read_header(message, "Nats-Subject")
            found[name] = read_object(message.data, name)  # a later entry replaces an earlier one
            if not read_header(message, "Nats-Num-Pending"):
                break  # a server before 2.11 ignores `batch`
        if seq == before:
            return [one for one in found.values() if one is not None]
