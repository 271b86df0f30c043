"""Every capture of the shared cases, replayed by the `file` backend, gives the right value.

test_golden.py covers the same kinds with captures of this repository, test_files.py with files that
are cut, compressed, or of another format or version.
"""

from __future__ import annotations

from pathlib import Path

import cases
from agents import Fleet
from bus import Bus
from replay import replay


async def test_cases_give_the_right_values(fleet: Fleet, bus: Bus) -> None:
    """Passes without the shared cases: then no file has a value to compare."""
    fleet.replay_dirs.append(cases.DIRECTORY)
    fleet.start("outer")
    fleet.start("inner", flows={"tunnel": "inner"})
    for path in cases.cases():
        if path.stem in cases.REFUSED:
            await check_refusal(bus, path)
            continue
        host, expected = cases.RECORDS[path.stem]
        replayed = await replay(bus, path, host=host)
        found = sorted(replayed.records, key=lambda record: record["flow_start"])
        shown = [
            {name: record[name] for name in fields}
            for record, fields in zip(found, expected, strict=True)
        ]
        assert shown == expected, path.stem
        cut = path.stem == "c05-cut"
        for body in (replayed.status, replayed.stopped):
            assert body["file"]["truncated"] is cut, path.stem
            assert bool(body["file"]["detail"]) is cut, path.stem


async def check_refusal(bus: Bus, path: Path) -> None:
    reply = await bus.request("start", {"interface": str(path), "backend": "file"}, host="outer")
    assert reply.code == 400
    assert cases.REFUSED[path.stem] in reply.body["detail"]
