"""Mutates the agent with operators of cosmic-ray and runs the unit tests that execute the line.

The mutants are in a copy of the package, which the tests import. The first run of all unit tests
records which tests execute which lines; delete build/mutation-agent to record them again. A line
that runs at import or in another thread is tested by the files that import its module.
"""

from __future__ import annotations

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
from coverage import CoverageData
from mutants import REPOSITORY, Mutant, Verdict, arguments, changed, run

for library in ("cffi", "hypothesis", "nats", "pyarrow", "rich.console", "structlog"):
    __import__(library)  # once, not in each run of tests

AGENT = REPOSITORY / "agent"
UNIT_TESTS = REPOSITORY / "tests" / "unit"
BUILD = REPOSITORY / "build" / "mutation-agent"
COPY = BUILD / "agent"
RECORDED = BUILD / "coverage.sqlite"
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


class Tests:
    """The unit tests, which run on a copy of the package."""

    def __init__(self) -> None:
        shutil.rmtree(COPY, ignore_errors=True)
        shutil.copytree(AGENT, COPY, ignore=shutil.ignore_patterns("__pycache__"))
        (COPY / "sitecustomize.py").write_text(START)
        core = subprocess.run(
            [sys.executable, "-c", "import netsonde._core; print(netsonde._core.__file__)"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        (COPY / "netsonde" / Path(core).name).symlink_to(core)
        (COPY / "netsonde" / "backends").symlink_to(Path(core).parent / "backends")
        self.environment = {**os.environ, "PYTHONPATH": str(COPY)}
        if not RECORDED.exists():
            self.record()
        self.recorded = CoverageData(str(RECORDED))
        self.recorded.read()
        self.imports = {path: path.read_text() for path in UNIT_TESTS.glob("test_*.py")}

    def record(self) -> None:
        settings = BUILD / "coverage.ini"
        settings.write_text(
            "[run]\nsource_pkgs = netsonde\ndynamic_context = test_function\n"
            f"data_file = {RECORDED}\n"
        )
        command = [sys.executable, "-m", "coverage", "run", f"--rcfile={settings}"]
        subprocess.run(
            [*command, "-m", "pytest", "-q", "-p", "no:cacheprovider", UNIT_TESTS], check=True
        )

    def selected(self, mutant: Mutant) -> list[str]:
        """Returns the tests that execute the line, or those of the files that import its module."""
        tests = set[str]()
        for context in self.recorded.contexts_by_lineno(str(mutant.path)).get(mutant.line, []):
            module, _, name = context.rpartition(".")
            if (UNIT_TESTS / f"{module}.py").exists():
                tests.add(f"{UNIT_TESTS / module}.py::{name}")
        package, module = mutant.path.relative_to(AGENT / "netsonde").with_suffix("").parts[:2]
        named = rf"netsonde\.{package}\.{module}\b|netsonde\.{package} import [^\n]*\b{module}\b"
        files = {str(path) for path, text in self.imports.items() if re.search(named, text)}
        if not tests:
            return sorted(files)
        return sorted(tests)

    def place(self, path: Path, source: str) -> None:
        copied = COPY / path.relative_to(AGENT)
        copied.write_text(source)
        for compiled in copied.parent.glob(f"__pycache__/{copied.stem}.*.pyc"):
            compiled.unlink()  # two changes within a second can have one size

    def judge(self, mutant: Mutant) -> Verdict:
        tests = self.selected(mutant)
        if not tests:
            return "survived"
        self.place(mutant.path, mutant.source)
        try:
            return "survived" if self.passes(tests) else "killed"
        finally:
            self.place(mutant.path, mutant.path.read_text())

    def passes(self, tests: list[str]) -> bool:
        """Runs pytest in a fork of this process, which has the libraries loaded."""
        child = os.fork()
        if child == 0:
            os.setsid()
            os.chdir(REPOSITORY)
            os.environ.update(self.environment)
            for descriptor in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
            sys.path.insert(0, str(COPY))
            exec(START)
            os._exit(pytest.main(["-qx", "-p", "no:cacheprovider", *tests]))
        deadline = time.monotonic() + TIMEOUT_SEC
        while time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status == 0
            time.sleep(0.02)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False


if __name__ == "__main__":
    options = arguments("Mutation test of the agent.")
    sys.exit(run(options, list(candidates(options.only)), Tests().judge))
