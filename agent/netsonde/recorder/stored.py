"""The verb `packets.delete`: removes results of `packets` from this host's bucket.

An object names its owner: the caller whose request made it. A caller deletes its own objects, and
those of others only with `all_owners`, which `[policy] allow` may restrict.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..bus.objects import Bucket
from ..errors import InvalidRequest
from ..wire.instant import instant_ns
from ..wire.replies import PacketsDeleteReply, RefusedObject
from ..wire.requests import PacketsDeleteRequest


async def delete_objects(
    bucket: Bucket, request: PacketsDeleteRequest, owner: Mapping[str, str]
) -> PacketsDeleteReply:
    """owner: the caller, as `packets` stored it. Raises InvalidRequest, ObjectStoreUnavailable."""
    if not request.objects and request.older_than is None:
        raise InvalidRequest("name $.objects or $.older_than", field="$.objects")
    before_ns = None
    if request.older_than is not None:
        before_ns = instant_ns(request.older_than, time.time_ns(), field="$.older_than")
    reply = PacketsDeleteReply(deleted=[], bytes=0, refused=[])
    missing = dict.fromkeys(request.objects)
    for stored in await bucket.objects():
        if request.objects and stored.name not in missing:
            continue
        missing.pop(stored.name, None)
        if before_ns is not None and stored.time_ns >= before_ns:
            if request.objects:
                reply.refused.append(RefusedObject(object=stored.name, reason="newer"))
            continue
        if not request.all_owners and stored.owner != owner:
            if request.objects:
                reply.refused.append(RefusedObject(object=stored.name, reason="other_owner"))
            continue
        await bucket.remove(stored)
        reply.deleted.append(stored.name)
        reply.bytes += stored.size
    reply.refused += [RefusedObject(object=name, reason="not_found") for name in missing]
    return reply
