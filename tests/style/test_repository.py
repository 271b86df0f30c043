"""House rules: sizes, file heads, names, includes, paths."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LINES_MAX = 600
FUNCTION_LINES_MAX = 70

SOURCES = (".py", ".c", ".h")
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc"}
STAGES = ("host", "backend", "parse", "flow", "store", "export")


def tracked(*suffixes: str) -> list[Path]:
    """Files in git, and new files that git does not ignore."""
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


def test_files_stay_below_the_line_limit() -> None:
    lengths = {shown(path): path.read_text().count("\n") for path in tracked(*SOURCES)}
    assert {name: lines for name, lines in lengths.items() if lines > LINES_MAX} == {}


def test_every_source_file_has_a_head() -> None:
    """A C file starts with a comment, a Python file with a docstring."""
    mute = []
    for path in tracked(*SOURCES):
        text = path.read_text()
        if path.suffix == ".py":
            if text.strip() and not re.match(r'(#![^\n]*\n)?(r?"""|#)', text):
                mute.append(shown(path))
        elif text.count("\n") > 1 and not text.startswith("/*"):
            mute.append(shown(path))
    assert mute == []


def test_file_names_state_a_purpose() -> None:
    bad = [
        shown(path)
        for path in tracked()
        if FORBIDDEN_NAMES & set(re.split(r"[_\W]", path.stem.lower()))
        or FORBIDDEN_NAMES & {part.lower() for part in path.relative_to(REPOSITORY).parts[:-1]}
    ]
    assert bad == []


def test_c_functions_stay_short() -> None:
    """Counts from the line with the opening brace to the closing brace in column one."""
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


def test_c_stages_include_only_public_and_own_headers() -> None:
    """A stage includes include/, host/ and its own folder, each backend being a stage. Only core/
    and exporter/ include every stage."""
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
    """No file contains a path of the machine where it was written."""
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


def test_sources_have_no_reminders_and_no_skipped_tests() -> None:
    reminders = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
    skips = re.compile(r"pytest\.(mark\.)?(skip|importor" + r"skip)|mark\.xfail")
    found = []
    for path in tracked(*SOURCES):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if reminders.search(line) or (path.name.startswith("test_") and skips.search(line)):
                found.append(f"{shown(path)}:{number} {line.strip()[:80]}")
    assert found == []


def test_tests_own_their_ports_and_directories() -> None:
    """No test connects to a fixed port of the machine or searches /tmp, which others use too."""
    shared = re.compile(
        r"""(nats|tls)://(127\.0\.0\.1|localhost):\d"""
        r"""|create_(connection|server)\(\("[^"]*", [1-9]"""
        r"""|Path\("/tmp"\)|opendir\("/tmp"\)|gettempdir\(\)"""
    )
    tests = [path for path in tracked(".py", ".c", ".h") if "tests" in path.parts]
    found = [
        f"{shown(path)}:{number} {line.strip()[:80]}"
        for path in tests
        if path != Path(__file__) and path.name != "test_cli_commands.py"  # it only reads addresses
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if shared.search(line)
    ]
    assert found == []


def test_architecture_names_files_that_exist() -> None:
    text = (REPOSITORY / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`((?:agent|native|tests|docs|schemas)/[\w./]+)`", text))
    missing = [
        name for name in sorted(named) if "NAME" not in name and not (REPOSITORY / name).exists()
    ]
    assert len(named) > 50
    assert missing == []
