"""Mutates the agent with operators of cosmic-ray and runs the unit tests that execute the line.

The mutants are in a copy of the package, which the tests import. The first run of all unit tests
records which tests execute which lines; a later run records the changed test files again. Delete
build/mutation-agent after a change of the agent. The quickest tests run first.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from cosmic_ray.ast import get_ast
from cosmic_ray.mutating import MutationVisitor, mutate_code
from cosmic_ray.plugins import get_operator
from coverage import Coverage, CoverageData
from mutants import REPOSITORY, TRIES, Judge, Mutant, Verdict, arguments, changed, run

for library in ("cffi", "hypothesis", "nats", "pyarrow", "rich.console", "structlog"):
    __import__(library)  # once, not in each run of tests

AGENT = REPOSITORY / "agent"
UNIT_TESTS = REPOSITORY / "tests" / "unit"
BUILD = REPOSITORY / "build" / "mutation-agent"
RECORDED = BUILD / "coverage.sqlite"
SECONDS = BUILD / "seconds.json"  # the duration of each test
TIMEOUT_SEC = 60
# The screens of cli/ are tested by tests/e2e.
PACKAGES = "bus capture collect config core daemon firmware fleet recorder service sinks spool wire"
# Lines that no test can judge: declarations that only forbid, log messages, durations.
UNSEEN = re.compile(
    r"slots=True|frozen=True|\b_?log\.|TYPE_CHECKING|__main__|_SEC(_MAX)?\b.* = |^ *\*,|\(\*,|, \*,"
)
# `|` is left out: it is mostly a type.
OPERATORS = [
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr"),
    *("ReplaceOrWithAnd", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak"),
    *("ExceptionReplacer", "NumberReplacer", "ZeroIterationForLoop"),
    "ReplaceUnaryOperator_Delete_Not",
    *(f"ReplaceBinaryOperator_{pair}" for pair in (
        "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul", "LShift_RShift",
        "RShift_LShift", "BitAnd_BitOr",
    )),
    *(f"ReplaceComparisonOperator_{pair}" for pair in (
        "Eq_NotEq", "NotEq_Eq", "Lt_LtE", "Lt_Gt", "LtE_Lt", "Gt_GtE", "Gt_Lt", "GtE_Gt",
        "Is_IsNot", "IsNot_Is",
    )),
]  # fmt: skip
# Loaded by each Python that the tests start: imports the copy instead of the editable install.
START = """import sys
sys.meta_path[:] = [f for f in sys.meta_path if "ScikitBuild" not in type(f).__name__]
"""


class Counter(MutationVisitor):  # type: ignore[misc]
    """Counts the places that an operator changes."""

    def __init__(self, operator: object) -> None:
        super().__init__(-1, operator)
        self.places = 0

    def visit(self, node: object) -> object:
        self.places += len(list(self.operator.mutation_positions(node)))
        return node


def mutate(path: Path, source: str, name: str, occurrence: int) -> Mutant | None:
    try:
        mutated = mutate_code(source, get_operator(name)(), occurrence)
    except AttributeError:  # cosmic-ray 8 cannot replace a dotted name after `except`
        return None
    mutant = changed(path, source, mutated) if mutated is not None else None
    return None if mutant is None or UNSEEN.search(mutant.before) else mutant


def candidates(only: str) -> Iterator[Callable[[], Mutant | None]]:
    for package in PACKAGES.split():
        for path in sorted((AGENT / "netsonde" / package).glob("*.py")):
            if only not in str(path):
                continue
            source = path.read_text()
            tree = get_ast(source)
            for name in (f"core/{operator}" for operator in OPERATORS):
                counter = Counter(get_operator(name)())
                counter.walk(tree)
                for occurrence in range(counter.places):
                    yield partial(mutate, path, source, name, occurrence)


def in_function(mutant: Mutant) -> bool:
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body[0].lineno <= mutant.line <= (node.end_lineno or 0)
        for node in ast.walk(ast.parse(mutant.path.read_text()))
    )


class Recording:
    """A pytest plugin that records the lines and the seconds of each test."""

    def __init__(self, files: list[str]) -> None:
        known = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}
        paths = {test: REPOSITORY / test.split("::")[0] for test in known}
        self.seconds = {
            test: known[test]
            for test, path in paths.items()
            if path.exists() and str(path) not in files
        }
        self.coverage = Coverage(
            data_file=str(RECORDED), source_pkgs=["netsonde"], config_file=False
        )
        self.coverage.load()
        self.coverage.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)
        self.seconds[nodeid] = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration

    def finish(self) -> None:
        self.coverage.stop()
        self.coverage.save()
        SECONDS.write_text(json.dumps(self.seconds))


class Failure:
    """A pytest plugin that writes the name of the test that fails."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.file.write_text(report.nodeid)


def record() -> None:
    """Runs the test files that changed since the last record."""
    BUILD.mkdir(parents=True, exist_ok=True)
    last = SECONDS.stat().st_mtime if SECONDS.exists() else 0
    files = [str(path) for path in UNIT_TESTS.glob("test_*.py") if path.stat().st_mtime > last]
    if not files:
        return
    child = os.fork()
    if child == 0:
        os.chdir(REPOSITORY)
        recording = Recording(files)
        status = pytest.main(["-q", "-p", "no:cacheprovider", *sorted(files)], [recording])
        recording.finish()
        os._exit(status)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit("the unit tests fail without a change")


class Tests:
    """The unit tests, which run on a copy of the package."""

    def __init__(self, worker: int) -> None:
        self.copy = BUILD / f"agent{worker}"
        self.failed = BUILD / f"failed{worker}"
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(AGENT, self.copy, ignore=shutil.ignore_patterns("__pycache__"))
        (self.copy / "sitecustomize.py").write_text(START)
        core = subprocess.run(
            [sys.executable, "-c", "import netsonde._core; print(netsonde._core.__file__)"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        (self.copy / "netsonde" / Path(core).name).symlink_to(core)
        (self.copy / "netsonde" / "backends").symlink_to(Path(core).parent / "backends")
        self.environment = {**os.environ, "PYTHONPATH": str(self.copy)}
        self.recorded = CoverageData(str(RECORDED))
        self.recorded.read()
        self.seconds: dict[str, float] = json.loads(SECONDS.read_text())
        self.imports = {path: path.read_text() for path in UNIT_TESTS.glob("test_*.py")}

    def selected(self, mutant: Mutant) -> list[str]:
        """Returns the tests that execute the line. A line that runs at import: those of the files
        that import its module or name it."""
        contexts = self.recorded.contexts_by_lineno(str(mutant.path)).get(mutant.line, [])
        tests = {test for test in contexts if test in self.seconds}
        if not tests or not in_function(mutant):
            parts = mutant.path.relative_to(AGENT / "netsonde").with_suffix("").parts
            name = rf"{parts[0]}\.{parts[1]}\b"
            named = rf"netsonde\.{name}|netsonde\.{parts[0]} import [^\n]*\b{parts[1]}\b|\"{name}"
            files = {path.name for path, text in self.imports.items() if re.search(named, text)}
            tests |= {test for test in self.seconds if Path(test.split("::")[0]).name in files}
        return sorted(tests, key=lambda test: self.seconds[test])

    def place(self, path: Path, source: str) -> None:
        copied = self.copy / path.relative_to(AGENT)
        copied.write_text(source)
        for compiled in copied.parent.glob(f"__pycache__/{copied.stem}.*.pyc"):
            compiled.unlink()  # two changes within a second can have one size

    def judge(self, mutant: Mutant) -> Verdict:
        tests = self.selected(mutant)
        if not tests:
            return "survived"
        unchanged = mutant.path.read_text()
        timeout_sec = TIMEOUT_SEC + 3 * sum(self.seconds[test] for test in tests)
        for _ in range(TRIES):
            self.place(mutant.path, mutant.source)
            passed = self.passes(tests, timeout_sec)
            failed = [self.failed.read_text()] if self.failed.exists() else tests
            self.place(mutant.path, unchanged)
            if passed:
                return "survived"
            if self.passes(failed, timeout_sec / 2):
                return "killed"
            timeout_sec *= 2  # the machine is busy
        return "survived"

    def passes(self, tests: list[str], timeout_sec: float) -> bool:
        """Runs pytest in a fork of this process, which has the libraries loaded."""
        self.failed.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            os.setsid()
            os.chdir(REPOSITORY)
            os.environ.update(self.environment)
            for descriptor in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
            sys.path.insert(0, str(self.copy))
            exec(START)
            failure = Failure(self.failed)
            os._exit(pytest.main(["-qx", "-p", "no:cacheprovider", *tests], [failure]))
        deadline = time.monotonic() + timeout_sec
        while time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status == 0
            time.sleep(0.02)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False


def make_judge(worker: int) -> Judge:
    return Tests(worker).judge


if __name__ == "__main__":
    options = arguments("Mutation test of the agent.")
    record()
    sys.exit(run(options, list(candidates(options.only)), make_judge))
