"""The spool: order, bounds, exact losses, and recovery from a crash at any byte."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netsonde.errors import ConfigError
from netsonde.spool import spool as spool_module
from netsonde.spool.format import SEGMENT_HEAD_BYTES, Message, Recovery, Taken
from netsonde.spool.spool import Spool, SpoolError, SpoolFullError
from processes import descriptors

MIB = 1 << 20


def message(number: int, *, size: int = 1000, records: int = 3) -> Message:
    payload = b"%08d" % number + b"x" * (size - 8)
    return Message(b"capture.stream.flows.a", b"NATS/1.0\r\n\r\n", payload, records, records * 2)


def opened(directory: Path, *, mib: int = 4) -> tuple[Spool, Recovery]:
    spool = Spool(directory, bytes_max=mib * MIB)
    return spool, spool.open()


def take_all(spool: Spool) -> list[Taken]:
    taken = []
    while (one := spool.take()) is not None:
        taken.append(one)
    return taken


def number_of(taken: Taken) -> int:
    return int(taken.message.payload[:8])


def crash(spool: Spool, directory: Path) -> Path:
    """Copies the directory as kill -9 leaves it, without a call of `close`."""
    copy = directory.with_name(directory.name + "-crashed")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(directory, copy)
    return copy


def test_messages_are_taken_once_and_in_order(tmp_path: Path) -> None:
    spool, found = opened(tmp_path / "s")
    assert found == Recovery()
    for number in range(10):
        assert spool.append(message(number)) == 0
    assert spool.records_unfinished == 30
    taken = take_all(spool)
    assert [number_of(one) for one in taken] == list(range(10))
    assert taken[4].message == message(4)
    for one in reversed(taken):
        spool.finish(one)
    assert spool.empty
    assert spool.records_unfinished == 0
    assert spool.records_lost == 0
    spool.close()


def test_unfinished_messages_are_taken_again_after_a_crash(tmp_path: Path) -> None:
    spool, _ = opened(tmp_path / "s")
    for number in range(10):
        spool.append(message(number))
    taken = take_all(spool)
    for one in (*taken[:4], *taken[6:8]):  # 4 and 5 are still in flight
        spool.finish(one)
    again, found = opened(crash(spool, tmp_path / "s"))
    assert [number_of(one) for one in take_all(again)] == [4, 5, 6, 7, 8, 9]
    assert (found.records, found.packets, found.records_lost, found.torn) == (18, 36, 0, False)
    again.append(message(10))
    assert number_of(take_all(again)[0]) == 10


def test_finished_spool_reopens_empty(tmp_path: Path) -> None:
    spool, _ = opened(tmp_path / "s")
    for number in range(5):
        spool.append(message(number))
    for one in take_all(spool):
        spool.finish(one)
    again, found = opened(crash(spool, tmp_path / "s"))
    assert found.messages == 0
    assert again.empty
    again.append(message(7))
    assert [number_of(one) for one in take_all(again)] == [7]


def test_recycled_segment_file_is_found_at_its_new_position(tmp_path: Path) -> None:
    spool, _ = opened(tmp_path / "s")
    for number in range(1, 9):  # two per segment
        spool.append(message(number, size=MIB // 5))
    for taken in take_all(spool)[:5]:
        spool.finish(taken)
    for number in range(9, 13):
        spool.append(message(number, size=MIB // 5))
    assert len(list((tmp_path / "s").glob("*.spool"))) == 4
    again = Spool(crash(spool, tmp_path / "s"), bytes_max=4 * MIB)
    found = again.open()
    assert (found.messages, found.records_lost, found.torn) == (7, 0, False)
    assert [number_of(taken) for taken in take_all(again)] == list(range(6, 13))


def test_disk_space_is_freed_after_an_outage(tmp_path: Path) -> None:
    spool, _ = opened(tmp_path / "s")
    for number in range(1, 15):
        spool.append(message(number, size=MIB // 5))
    assert len(list((tmp_path / "s").glob("*.spool"))) == 7
    for taken in take_all(spool):
        spool.finish(taken)
    assert spool.empty
    assert spool.wants_sync
    spool.prepare_sync()()
    assert len(list((tmp_path / "s").glob("*.spool"))) == 1 + 2  # a quarter of eight
    assert not spool.wants_sync
    spool.append(message(15))
    assert number_of(take_all(spool)[0]) == 15


def test_full_spool_evicts_the_oldest_and_counts_it(tmp_path: Path) -> None:
    spool, _ = opened(tmp_path / "s", mib=2)
    lost = appended = 0
    while appended < 300:
        lost += spool.append(message(appended, size=150_000), force=True)
        appended += 3
    assert lost > 0
    assert spool.records_lost == lost
    assert spool.packets_lost == lost * 2
    assert spool.records_unfinished == appended - lost
    assert sum(one.message.records for one in take_all(spool)) == appended - lost
    assert _disk_bytes(tmp_path / "s") <= 2 * MIB + 4096


def appended(spool: Spool, one: Message) -> bool:
    try:
        spool.append(one)
    except SpoolFullError:
        return False
    return True


def _disk_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def test_append_without_force_evicts_nothing(tmp_path: Path) -> None:
    spool, _ = opened(tmp_path / "s", mib=1)
    kept = 0
    while appended(spool, message(kept, size=100_000)):
        kept += 1
    assert spool.records_lost == 0
    taken = take_all(spool)
    assert len(taken) == kept
    for one in taken:
        spool.finish(one)
    spool.append(message(kept, size=100_000))  # room again, without a reopen


def test_losses_survive_restarts_and_count_once(tmp_path: Path) -> None:
    spool, _ = opened(tmp_path / "s", mib=1)
    spool.append(message(0, size=100_000))
    first = spool.take()  # in flight while its segment is evicted
    assert first is not None
    lost = sum(spool.append(message(n, size=100_000), force=True) for n in range(1, 60))
    unfinished = spool.records_unfinished
    assert lost + unfinished == 180
    again, found = opened(crash(spool, tmp_path / "s"), mib=1)
    # The message in flight is on no disk any more: only it is counted now.
    assert found.records_lost == 3
    assert again.records_lost == lost + 3
    assert found.records == unfinished - 3
    spool.finish(first)
    assert spool.records_lost == lost


def test_torn_tail_is_truncated(tmp_path: Path) -> None:
    spool, _ = opened(tmp_path / "s")
    for number in range(3):
        spool.append(message(number))
    copy = crash(spool, tmp_path / "s")
    path = next(copy.glob("*.spool"))
    last_frame = bytearray(path.read_bytes())
    at = last_frame.rindex(b"00000002xxx")
    last_frame[at + 500 : at + 992] = bytes(492)  # the kernel wrote half of it
    path.write_bytes(last_frame)
    again, found = opened(copy)
    assert found.torn
    assert [number_of(one) for one in take_all(again)] == [0, 1]
    again.append(message(9))
    assert [number_of(one) for one in take_all(again)] == [9]
    third, found = opened(crash(again, copy))
    assert not found.torn
    assert [number_of(one) for one in take_all(third)] == [0, 1, 9]


@pytest.mark.parametrize("where", ["head", "payload"])
def test_damage_loses_only_the_damaged_messages_and_counts_them(tmp_path: Path, where: str) -> None:
    spool, _ = opened(tmp_path / "s", mib=2)
    for number in range(9):
        spool.append(message(number, size=150_000))
    copy = crash(spool, tmp_path / "s")
    path = sorted(copy.glob("*.spool"))[0]
    data = bytearray(path.read_bytes())
    at = data.index(b"00000001xxx")
    data[at + (100 if where == "payload" else -90)] ^= 1
    path.write_bytes(data)
    again, _ = opened(copy, mib=2)
    taken = take_all(again)
    came = [number_of(one) for one in taken]
    assert 0 in came
    assert 1 not in came
    assert came[-1] == 8
    assert again.records_lost + 3 * len(came) == 27


@pytest.mark.parametrize("reopened", [False, True])
def test_bad_sector_counts_as_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, reopened: bool
) -> None:
    pread = os.pread

    def read(fd: int, size: int, offset: int) -> bytes:
        data = pread(fd, size, offset)
        if b"00000002xxx" in data:
            raise OSError(5, "Input/output error")
        return data

    monkeypatch.setattr(os, "pread", read)
    monkeypatch.setattr(spool_module, "CACHED_BYTES_MAX", 0)
    spool, _ = opened(tmp_path / "s", mib=2)
    for number in range(9):
        spool.append(message(number, size=150_000))
    if reopened:
        spool, _ = opened(crash(spool, tmp_path / "s"), mib=2)
    came = [number_of(one) for one in take_all(spool)]
    assert came[:2] == [0, 1]
    assert 2 not in came
    assert came[-1] == 8
    assert spool.records_lost + 3 * len(came) == 27


@pytest.mark.parametrize("gone", ["segments", "all"])
def test_removed_files_are_counted_as_lost(tmp_path: Path, gone: str) -> None:
    before = descriptors()
    spool, _ = opened(tmp_path / "s", mib=2)
    for number in range(9):
        spool.append(message(number, size=150_000))
    taken = take_all(spool)[:6]
    for path in (tmp_path / "s").glob("*.spool" if gone == "segments" else "*"):
        path.unlink()
    for one in taken:
        spool.finish(one)
    for number in range(9, 40):
        spool.append(message(number, size=150_000), force=True)
    came = [number_of(one) for one in take_all(spool)]
    assert came == list(range(40 - len(came), 40))
    assert len(came) > 6
    assert descriptors() - before
    spool.close()
    assert not descriptors() - before


def test_unsendable_message_is_counted(tmp_path: Path) -> None:
    spool, _ = opened(tmp_path / "s")
    spool.append(message(0))
    taken = spool.take()
    assert taken is not None
    spool.finish(taken, lost=True)
    assert (spool.records_lost, spool.packets_lost) == (3, 6)
    assert spool.empty


def test_bytes_used_are_whole_segments_and_the_end_of_the_newest(tmp_path: Path) -> None:
    spool, _ = opened(tmp_path / "s", mib=8)
    assert spool.bytes_used == 0
    assert spool.bytes_max == 8 * MIB
    one = message(0, size=200_000)
    segment_bytes = MIB // 2
    in_segment = (segment_bytes - SEGMENT_HEAD_BYTES) // one.bytes
    for number in range(3 * in_segment + 1):
        spool.append(message(number, size=200_000))
        full, rest = divmod(number, in_segment)
        used = full * segment_bytes + SEGMENT_HEAD_BYTES + (rest + 1) * one.bytes
        assert spool.bytes_used == used
    assert spool.messages_waiting == 3 * in_segment + 1
    spool.close()


def test_cached_messages_stay_within_the_memory_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message beyond the bound is read from disk. Taken messages make room."""
    one = message(0)
    monkeypatch.setattr(spool_module, "CACHED_BYTES_MAX", 3 * one.bytes)
    spool, _ = opened(tmp_path / "s")
    for round_ in range(3):
        for number in range(5):
            spool.append(message(round_ * 5 + number))
            assert len(spool._cache) == min(number + 1, 3)
        taken = take_all(spool)
        assert [number_of(each) for each in taken] == [round_ * 5 + number for number in range(5)]
        assert not spool._cache
        for each in taken:
            spool.finish(each)
    spool.close()


def test_second_agent_cannot_open_the_spool(tmp_path: Path) -> None:
    spool, _ = opened(tmp_path / "s")
    with pytest.raises(ConfigError, match="another agent"):
        opened(tmp_path / "s")
    spool.close()
    opened(tmp_path / "s")


def test_unusable_directory_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"flows\.spool_dir"):
        opened(tmp_path / "file" / "s")


def test_full_disk_raises_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, _ = opened(tmp_path / "s")

    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(SpoolError, match="No space left"):
            spool.append(message(0))
    spool.append(message(1))
    assert [number_of(one) for one in take_all(spool)] == [1]


STEPS = st.lists(
    st.sampled_from(["append", "append", "append", "take", "take", "finish", "newest", "crash"]),
    max_size=120,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_every_record_is_finished_waiting_or_lost(
    steps: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After any sequence of steps no record vanishes and none counts twice."""
    directory = tmp_path_factory.mktemp("walk") / "s"
    spool, _ = opened(directory, mib=1)
    taken: list[Taken] = []
    appended = 0
    finished: set[int] = set()
    for step in steps:
        if step == "append":
            spool.append(message(appended, size=90_000, records=1), force=True)
            appended += 1
        elif step == "take" and (one := spool.take()) is not None:
            taken.append(one)
        elif step in ("finish", "newest") and taken:
            one = taken.pop(0 if step == "finish" else -1)
            spool.finish(one)
            finished.add(number_of(one))
        elif step == "crash":
            directory = crash(spool, directory)
            spool, _ = opened(directory, mib=1)
            taken.clear()
    taken += take_all(spool)
    waiting = {number_of(one) for one in taken}
    assert spool.records_unfinished == len(waiting)
    gone = set(range(appended)) - finished - waiting
    # If a crash hits while messages of an evicted segment are in flight, messages finished out
    # of order just before may count as lost as well. None is ever missed.
    assert len(gone) <= spool.records_lost
    if "crash" not in steps or "newest" not in steps:
        assert spool.records_lost == len(gone)
