"""Names of flows from captures: TLS, QUIC, DNS and HTTP/1, through the `file` backend.

The expected values are those of tshark and of the projects that the captures come from.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agents import Fleet
from bus import Bus
from labelled import PROTOCOLS, TRACES, differences, expectations
from packets import Packet, read_capture
from replay import Replay, replay

PACKETS_MAX, CUT_STEP = 60, 10
# Names of later messages in flows of the captures, which a random order can put first.
LATER = {"www.allyourbasesare\\001\\002\\003ongto.cn", "secure.newegg.com", "www.example.com"}


async def test_flows_of_captures_have_the_expected_labels(fleet: Fleet, bus: Bus) -> None:
    """Passes without the shared captures: then no file has a value to compare."""
    fleet.replay_dirs.append(TRACES)
    fleet.start("alpha", flows={"labels": PROTOCOLS})
    wrong = []
    for case in expectations():
        wrong += differences(case, (await replay(bus, TRACES / case["file"])).records)
    assert wrong == []


def blocks(packets: Sequence[Packet]) -> bytes:
    """A pcapng file with an interface for each link type and time stamps in nanoseconds."""
    linktypes = list(dict.fromkeys(one.linktype for one in packets))
    made = [struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)]
    made += [
        struct.pack("<IIHHIHHB3xHHI", 1, 32, linktype, 0, 0, 9, 1, 9, 0, 0, 32)
        for linktype in linktypes
    ]
    for one in packets:
        data = one.data + bytes(-len(one.data) % 4)
        size = 32 + len(data)
        high, low = divmod(one.time_ns, 1 << 32)
        made.append(struct.pack("<IIIII", 6, size, linktypes.index(one.linktype), high, low))
        made.append(struct.pack("<II", len(one.data), one.wirelen) + data)
        made.append(struct.pack("<I", size))
    return b"".join(made)


def names_of(replayed: Replay) -> set[str]:
    return {record["name"] for record in replayed.records if record["name"]}


async def test_cut_and_shuffled_captures_give_no_other_name(
    fleet: Fleet, bus: Bus, tmp_path: Path
) -> None:
    """Each capture with packets cut at every tenth length, then in random order and doubled."""
    fleet.replay_dirs.append(tmp_path)
    fleet.start("alpha", flows={"labels": PROTOCOLS})
    packets = [
        one for case in expectations() for one in read_capture(TRACES / case["file"])[:PACKETS_MAX]
    ]
    path, drawn = tmp_path / "all.pcapng", random.Random(7)
    path.write_bytes(blocks(packets))
    whole = names_of(await replay(bus, path)) if packets else set()
    lengths = range(40, 1600, CUT_STEP) if packets else range(0)
    for length in lengths:
        path.write_bytes(blocks([replace(one, data=one.data[:length]) for one in packets]))
        assert names_of(await replay(bus, path)) <= whole, length
    for _ in range(len(lengths) // 10):
        mixed = packets * 2
        drawn.shuffle(mixed)
        times = sorted(one.time_ns for one in mixed)
        ordered = [replace(one, time_ns=time) for one, time in zip(mixed, times, strict=True)]
        path.write_bytes(blocks(ordered))
        assert names_of(await replay(bus, path)) <= whole | LATER
