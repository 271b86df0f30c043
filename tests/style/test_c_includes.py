"""The C includes form no circle, and none leads from a lower stage to an upper one.

A header and its source are one unit, named by their common stem: `a.c` that includes `b.h`
and `b.c` that includes `a.h` are a circle, even if the headers do not include each other.
"""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

NATIVE = Path(__file__).resolve().parents[2] / "native"
# A stage may include those to the right of it, and what shares its group.
LAYERS = (
    ("ffi", "core", "exporter"),
    ("backend", "parse", "flow", "label", "owner", "store", "tap", "export"),
    ("host",),
)
LEVELS = {stage: level for level, group in enumerate(LAYERS) for stage in group}


def units(root: Path) -> dict[str, set[str]]:
    """Returns the units that each unit includes, without system headers."""
    graph: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*.[ch]")):
        if path.relative_to(root).parts[0] in {"tests", "fuzz"}:
            continue
        unit = str(path.relative_to(root).with_suffix(""))
        included = graph.setdefault(unit, set())
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.M):
            places = (path.parent, path.parent.parent, root, root / "include")
            found = next((place / name for place in places if (place / name).is_file()), None)
            if found:
                other = str(found.resolve().relative_to(root.resolve()).with_suffix(""))
                included |= {other} - {unit}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_c_includes_form_no_circle() -> None:
    assert circle(units(NATIVE)) == []


def test_c_includes_lead_downwards() -> None:
    upward = [
        f"{unit} includes {other}"
        for unit, included in units(NATIVE).items()
        for other in included
        if LEVELS.get(unit.split("/")[0], 9) > LEVELS.get(other.split("/")[0], 9)
    ]
    assert upward == []


def test_a_circle_of_two_sources_is_found(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.h").write_text("")
        (tmp_path / f"{name}.c").write_text(f'#include "{name}.h"\n#include "{other}.h"\n')
    assert set(circle(units(tmp_path))) == {"a", "b"}
