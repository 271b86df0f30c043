"""Whether a follower of flows has subscribed, so that a test may publish records."""

from __future__ import annotations

import json
import time

from nats.aio.client import Client

from bus import settled


async def is_followed(client: Client, host: str, subject: str = "") -> bool:
    """Returns whether the host's flows have a subscriber. NATS reports "no responders" at once,
    unless a JetStream stream covers the subject."""
    empty = {"host": host, "boot": "1", "seq": time.time_ns(), "session_id": "s", "records": []}
    inbox = client.new_inbox()
    refusals = await client.subscribe(inbox)
    subject = subject or f"capture.stream.flows.{host}"
    await client.publish(subject, json.dumps(empty).encode(), reply=inbox)
    await settled(client)
    followed = refusals.pending_msgs == 0
    await refusals.unsubscribe()
    return followed
