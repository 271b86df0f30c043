"""Gaps in an answer of `packets`, and the directory of segment files."""

from __future__ import annotations

from pathlib import Path

import pytest

from netsonde.capture.checks import make_buffer_directory
from netsonde.core.values import PacketGap, PacketQuery, PacketSummary
from netsonde.errors import BackendUnavailable
from netsonde.recorder.retrieval import add_gap, packets_reply

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("start_ns", "end_ns", "reached"),
    [
        (0, 0, True),
        (20, 0, True),
        (21, 0, False),
        (0, 10, True),
        (0, 9, False),
        (12, 15, True),
        (5, 30, True),
    ],
)
def test_gap_is_in_the_reply_if_the_query_reaches_into_it(
    start_ns: int, end_ns: int, reached: bool
) -> None:
    own = PacketGap(30 * SECOND, 31 * SECOND, "dropped")
    summary = PacketSummary(
        packets=2, bytes=90, first_ns=SECOND, last_ns=2 * SECOND, chunks_read=1, chunks_skipped=0,
        complete=True, gaps=(own,),
    )  # fmt: skip
    reply = packets_reply(summary, "00")
    query = PacketQuery("", start_ns * SECOND, end_ns * SECOND, 0, 0)
    add_gap(reply, query, PacketGap(10 * SECOND, 20 * SECOND, "not_captured"))
    assert [gap.reason for gap in reply.gaps] == (["not_captured"] if reached else []) + ["dropped"]
    assert reply.complete is not reached
    if reached:
        assert (reply.gaps[0].from_, reply.gaps[0].to) == (
            "1970-01-01T00:00:10.000000000Z", "1970-01-01T00:00:20.000000000Z",
        )  # fmt: skip


def test_reply_without_packets_has_no_times() -> None:
    summary = PacketSummary(
        packets=0, bytes=0, first_ns=0, last_ns=0, chunks_read=3, chunks_skipped=4,
        complete=True, gaps=(),
    )  # fmt: skip
    reply = packets_reply(summary, "ff")
    assert (reply.first_time, reply.last_time, reply.sha256) == (None, None, "ff")
    assert (reply.chunks_read, reply.chunks_skipped, reply.complete) == (3, 4, True)


def test_directory_of_segments_is_private(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    make_buffer_directory(str(directory))
    make_buffer_directory(str(directory))  # again
    assert directory.stat().st_mode & 0o777 == 0o700
    make_buffer_directory("")
    (tmp_path / "file").touch()
    with pytest.raises(BackendUnavailable, match="file/b: not a directory"):
        make_buffer_directory(str(tmp_path / "file" / "b"))
