"""Messages of the flow stream: numbers, headers and envelope of each encoding."""

from __future__ import annotations

import json
from typing import cast

import msgspec
import pytest

from netsonde.bus.connection import Connection
from netsonde.bus.publisher import Publisher
from netsonde.core.values import Batch
from netsonde.sinks.composer import Composer, Encoding
from netsonde.spool.format import Message

FIRST_NS, LAST_NS = 1_700_000_000_000_000_005, 1_700_000_001_000_000_000
RECORDS: dict[Encoding, bytes] = {
    "json": b'[{"packets":7}]',
    "msgpack": msgspec.msgpack.encode([{"packets": 7}]),
    "ipfix": b"\x00\x0a rendered",
}


def headers_of(message: Message) -> dict[str, str]:
    first, *lines = bytes(message.head).decode().removesuffix("\r\n\r\n").split("\r\n")
    assert first == "NATS/1.0"
    return dict(line.split(": ", 1) for line in lines)


@pytest.mark.parametrize("encoding", RECORDS)
def test_message_names_its_batch(encoding: Encoding) -> None:
    publisher = Publisher(cast(Connection, None), root="capture", host="alpha", boot="b1")
    composer = Composer(publisher)
    assert composer.subject == "capture.stream.flows.alpha"
    for seq in (1, 2):
        batch = Batch(memoryview(RECORDS[encoding]), 1, 7, FIRST_NS, LAST_NS)
        message = composer.compose("s1", encoding, batch)
        assert (message.subject, message.records, message.packets) == (
            b"capture.stream.flows.alpha", 1, 7,
        )  # fmt: skip
        headers = headers_of(message)
        assert headers.pop("Nats-Msg-Id") == publisher.message_id(seq)
        assert headers.pop("Content-Type") == f"application/{encoding}"
        if encoding == "ipfix":
            assert message.payload == RECORDS[encoding]
            assert headers == {
                "Host": "alpha", "Boot": "b1", "Seq": str(seq), "Session-Id": "s1", "Records": "1",
                "First-Time": str(FIRST_NS), "Last-Time": str(LAST_NS),
            }  # fmt: skip
            continue
        binary = encoding == "msgpack"
        decode = msgspec.msgpack.decode if binary else json.loads
        assert headers == {}
        assert decode(message.payload) == {
            "host": "alpha", "boot": "b1", "seq": seq, "session_id": "s1",
            "first_time": FIRST_NS if binary else "2023-11-14T22:13:20.000000005Z",
            "last_time": LAST_NS if binary else "2023-11-14T22:13:21.000000000Z",
            "records": [{"packets": 7}],
        }  # fmt: skip
