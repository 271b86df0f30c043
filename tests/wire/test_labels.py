"""Names of flows from captures: TLS, QUIC, DNS and HTTP/1, through the `file` backend.

The expected values are those of tshark and of the projects that the captures come from.
"""

from __future__ import annotations

import json
import os
import random
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents import Fleet
from bus import Bus
from packets import Packet, read_capture
from replay import Replay, replay

TRACES = Path(
    os.environ.get("NETSONDE_TRACES", Path(__file__).parents[3] / "shared" / "traces")
).resolve()
LABELS = TRACES / "LABELS.json"
PROTOCOLS = ["tls", "quic", "dns", "http"]
PACKETS_MAX, CUT_STEP = 60, 10
# Names of later messages in flows of the captures, which a random order can put first.
LATER = {"www.allyourbasesare\\001\\002\\003ongto.cn", "secure.newegg.com", "www.example.com"}
STATES = {"complete", "partial", "skipped", "not_seen"}


def expectations() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(LABELS.read_text()) if LABELS.exists() else []
    return found


def is_of(record: dict[str, Any], match: dict[str, Any]) -> bool:
    ends = [(record[f"{side}_ip"], record[f"{side}_port"]) for side in ("source", "dest")]
    wanted = [(match[f"{side}_ip"], match[f"{side}_port"]) for side in ("source", "dest")]
    return record["protocol"] == match["protocol"] and ends in (wanted, wanted[::-1])


def shown(record: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    found = {name: record[name] for name in wanted if name != "match"}
    if isinstance(found.get("name"), str) and found.get("app") == "dns":
        found["name"] = found["name"].lower()
    return found


def expected(wanted: dict[str, Any]) -> dict[str, Any]:
    values = {name: value for name, value in wanted.items() if name != "match"}
    if values.get("alpn"):
        values["alpn"] = values["alpn"][:2]
    return values


def differences(case: dict[str, Any], replayed: Replay) -> list[str]:
    texts = []
    for wanted in case["expect"]:
        records = [one for one in replayed.records if is_of(one, wanted["match"])]
        first, values = [shown(one, wanted) for one in records], expected(wanted)
        if values not in first:
            texts.append(f"{case['id']}: {values} is not among {first}")
    names = Counter(one["name"] for one in replayed.records if one["segment"] == 0)
    for name, count in case.get("counts", {}).items():
        if names[name] != count:
            texts.append(f"{case['id']}: {names[name]} flows of {name}, not {count}")
    texts += [
        f"{case['id']}: {one['label_state']}"
        for one in replayed.records
        if one["label_state"] not in STATES
    ]
    return texts


async def test_flows_of_captures_have_the_expected_labels(fleet: Fleet, bus: Bus) -> None:
    """Passes without the shared captures: then no file has a value to compare."""
    fleet.replay_dirs.append(TRACES)
    fleet.start("alpha", flows={"labels": PROTOCOLS})
    wrong = []
    for case in expectations():
        wrong += differences(case, await replay(bus, TRACES / case["file"]))
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
