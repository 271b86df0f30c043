"""A message that exceeds max_payload: streams count it as unsent, events raise."""

from __future__ import annotations

from typing import cast

import pytest

from netsonde.bus.connection import Connection, PayloadTooLargeError
from netsonde.bus.publisher import Publisher


class SmallConnection:
    """A connection that accepts no payload."""

    max_payload = 1024

    async def publish(self, *_: object) -> bool:
        raise PayloadTooLargeError("too large")

    publish_ready = publish


async def test_too_large_payload_is_not_sent() -> None:
    publisher = Publisher(cast(Connection, SmallConnection()), root="capture", host="alpha")
    assert not await publisher.flows(b"subject", b"", b"x")
    assert not await publisher.metrics(b"x")
    with pytest.raises(PayloadTooLargeError):
        await publisher.event("alarm", b"x", seq=1)
    assert publisher.payload_bytes_max == 1
