"""House rules that a reader would otherwise have to check: size, includes, paths, names."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LINES_MAX = 450
FUNCTION_LINES_MAX = 70

# Files that may be longer, each with its reason.
LONGER: dict[str, str] = {
    "tests/e2e/test_export.py": "one exporter, and everything that a collector may be to it",
    "native/tests/netflow_encode_test.c": "one row after the other of messages, byte by byte",
    "native/tests/segment_test.c": "one row after the other of damaged segment files",
}

SOURCES = (".py", ".c", ".h")
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc"}
STAGES = ("host", "backend", "parse", "flow", "store", "export", "firmware")


def tracked(*suffixes: str) -> list[Path]:
    """Files in git, and those that are about to be."""
    listed = subprocess.run(
        ["git", "-C", str(REPOSITORY), "ls-files", "-coz", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    paths = [REPOSITORY / name for name in listed if name]
    return [path for path in paths if path.is_file() and (not suffixes or path.suffix in suffixes)]


def shown(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def test_files_stay_readable_in_one_sitting() -> None:
    long = {shown(path): path.read_text().count("\n") for path in tracked(*SOURCES)}
    found = {name: lines for name, lines in long.items() if lines > LINES_MAX}
    assert found.keys() <= LONGER.keys(), found


def test_every_source_file_says_what_it_is() -> None:
    """A head of 3 to 12 lines in C; a docstring in Python."""
    mute = []
    for path in tracked(*SOURCES):
        text = path.read_text()
        if path.suffix == ".py":
            if text.strip() and not re.match(r'(#![^\n]*\n)?(r?"""|#)', text):
                mute.append(shown(path))
        elif text.count("\n") > 1 and not text.startswith("/*"):
            mute.append(shown(path))
    assert mute == []


def test_no_module_is_named_for_nothing() -> None:
    bad = [
        shown(path)
        for path in tracked()
        if FORBIDDEN_NAMES & set(re.split(r"[_\W]", path.stem.lower()))
        or FORBIDDEN_NAMES & {part.lower() for part in path.relative_to(REPOSITORY).parts[:-1]}
    ]
    assert bad == []


def test_c_functions_stay_short() -> None:
    """From the line with the opening brace in column one's definition to its closing brace."""
    long = []
    for path in tracked(".c"):
        lines = path.read_text().splitlines()
        start = None
        for number, line in enumerate(lines, 1):
            if re.match(r"[A-Za-z_].*\)\s*\{$", line) or (
                line.endswith("{") and start is None and re.match(r"\s+.*\)\s*\{$", line)
            ):
                start = start or number
            elif line.startswith("}") and start is not None:
                if number - start + 1 > FUNCTION_LINES_MAX:
                    long.append(f"{shown(path)}:{start} {number - start + 1} lines")
                start = None
    assert long == []


def test_c_stages_know_only_the_seams_and_themselves() -> None:
    """Each stage includes include/, host/ and its own folder; a backend its own, not its
    siblings'. Only core/ and exporter/ know every stage."""
    native = REPOSITORY / "native"
    public = {path.name for path in (native / "include").glob("*.h")}
    stray = []
    for stage in STAGES:
        for path in sorted((native / stage).rglob("*.[ch]")):
            owner = native / Path(*path.relative_to(native).parts[: 2 if stage == "backend" else 1])
            own = {*owner.rglob("*.h"), *(native / "host").glob("*.h")}
            included = re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.M)
            stray += [
                f"{shown(path)} includes {name}"
                for name in included
                if name not in public
                and own.isdisjoint((root / name).resolve() for root in (path.parent, owner, native))
            ]
    assert stray == []


def test_library_code_neither_prints_nor_exits() -> None:
    loud = []
    calls = re.compile(r"\b(printf|fprintf|puts|perror|exit|_exit|syslog)\s*\(")
    for stage in (*STAGES, "core", "exporter"):
        for path in sorted((REPOSITORY / "native" / stage).rglob("*.[ch]")):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if calls.search(line) and not line.lstrip().startswith(("*", "/*", "//")):
                    loud.append(f"{shown(path)}:{number} {line.strip()}")
    assert loud == []


def test_repository_names_no_machine() -> None:
    """No path of the machine it was written on."""
    places = re.compile("|".join(("/wor" + r"k/", "/hom" + r"e/[a-z]", "/roo" + r"t/")))
    found = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [
            f"{shown(path)}:{number} {line.strip()[:80]}"
            for number, line in enumerate(text.splitlines(), 1)
            if places.search(line)
        ]
    assert found == []


def test_nothing_is_left_for_later() -> None:
    """No reminders in the code, no test that is skipped."""
    reminders = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
    skips = re.compile(r"pytest\.(mark\.)?(skip|importor" + r"skip)|mark\.xfail")
    found = []
    for path in tracked(*SOURCES):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if reminders.search(line) or (path.name.startswith("test_") and skips.search(line)):
                found.append(f"{shown(path)}:{number} {line.strip()[:80]}")
    assert found == []
