"""Request-Id: the first reply is repeated for ten minutes, within bounds."""

from __future__ import annotations

import asyncio

import pytest

from deadlines import TIMEOUT_SEC
from netsonde.errors import RequestIdReused
from netsonde.service import replays
from netsonde.service.replays import Replays, StoredReply

REPLY = StoredReply(b"{}", {"Status-Code": "200"})


async def test_retry_gets_the_first_reply() -> None:
    cache = Replays()
    assert cache.find("a", b"1", 0.0) is None
    cache.begin("a", b"1", 0.0, changes=True)
    cache.end("a", REPLY)
    found = cache.find("a", b"1", replays.LIFETIME_SEC - 1)
    assert found is not None
    assert await found is REPLY


async def test_retry_waits_for_the_first_reply() -> None:
    cache = Replays()
    cache.begin("a", b"1", 0.0, changes=True)
    waiting = cache.find("a", b"1", 1.0)
    assert waiting is not None
    assert not waiting.done()
    cache.end("a", REPLY)
    assert await asyncio.wait_for(waiting, TIMEOUT_SEC) is REPLY


async def test_same_id_with_another_body_is_rejected() -> None:
    cache = Replays()
    cache.begin("a", b"1", 0.0, changes=True)
    with pytest.raises(RequestIdReused):
        cache.find("a", b"2", 1.0)


async def test_reply_expires_after_ten_minutes() -> None:
    cache = Replays()
    cache.begin("a", b"1", 0.0, changes=True)
    cache.end("a", REPLY)
    assert cache.find("a", b"2", replays.LIFETIME_SEC) is None
    assert len(cache) == 0


async def test_turned_away_request_may_retry() -> None:
    cache = Replays()
    cache.begin("a", b"1", 0.0, changes=True)
    waiting = cache.find("a", b"1", 0.0)
    assert waiting is not None
    cache.end("a", StoredReply(b"{}", {}, keep=False))
    assert waiting.done()
    assert cache.find("a", b"1", 0.0) is None


async def test_replies_of_reads_are_evicted_first() -> None:
    cache = Replays()
    big = StoredReply(b"x" * (replays.BYTES_MAX // 4), {})
    cache.begin("change", b"1", 0.0, changes=True)
    cache.end("change", REPLY)
    for number in range(8):
        cache.begin(f"read{number}", b"1", 0.0, changes=False)
        cache.end(f"read{number}", big)
    assert cache.find("change", b"1", 0.0) is not None
    assert cache.find("read0", b"1", 0.0) is None
    assert cache.find("read7", b"1", 0.0) is not None


async def test_replies_to_malformed_requests_are_evicted_first() -> None:
    cache = Replays()
    cache.begin("change", b"1", 0.0, changes=True)
    cache.end("change", REPLY)
    for number in range(replays.ENTRIES_MAX + 10):
        cache.begin(str(number), b"1", 0.0, changes=True)
        cache.end(str(number), StoredReply(b"{}", {}, light=True))
    assert cache.find("change", b"1", 0.0) is not None
    assert cache.find("0", b"1", 0.0) is None


async def test_replies_of_changes_are_bounded() -> None:
    cache = Replays()
    for number in range(replays.ENTRIES_MAX + 10):
        cache.begin(str(number), b"1", 0.0, changes=True)
        cache.end(str(number), REPLY)
    assert len(cache) == replays.ENTRIES_MAX
    assert cache.find("0", b"1", 0.0) is None
