"""Mutates the C core and runs the C tests, without sanitizers: they would take five times as long.

A mutant is compiled and linked before the library, so that its functions replace the library's.
A mutant with the same object code is equivalent. Only the tests of its folder run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "native"))

from c_tests import C_TESTS, ON_INTERFACES, WATCHING_THE_CLOCK
from mutants import REPOSITORY, TRIES, Judge, Mutant, Verdict, arguments, changed, run

NATIVE = REPOSITORY / "native"
BUILD = REPOSITORY / "build" / "mutation"
# The tests of a folder start with one of its words. A test with the file's name is added.
MATCHING = {
    "parse": ("decode",),
    "flow": ("flow", "merge"),
    "store": (
        "disk",
        "index",
        "keys",
        "names",
        "seal",
        "segment",
        "selection",
        "session_b",
        "store",
    ),
    "export": ("address", "columns", "community", "json", "msgpack", "netflow", "render", "uptime"),
    "core": ("filter", "own", "packet_clock", "registry", "session", "thread"),
    "exporter": ("collector", "exporter", "netflow_export"),
}
# Lines that these tests cannot judge: failed allocations, speed, locks (TSan) and leaks (LSan).
UNSEEN = re.compile(
    r"NO_MEMORY|prefetch|madvise|populated|setname_np|pthread_(mutex_lock|\w+_init|\w+_destroy)"
    r"|atomic_thread_fence|memory_order|\bfree\(|_(destroy|release)\(|unmap\(|OPENSSL_cleanse"
)
# Patterns of code, and the replacements that a mutant may have.
OPERATORS: list[tuple[str, tuple[str, ...]]] = [
    (r"(?<= )<(?= )", ("<=", ">=")),
    (r"(?<= )>(?= )", (">=", "<=")),
    (r"(?<= )<=(?= )", ("<",)),
    (r"(?<= )>=(?= )", (">",)),
    (r"(?<= )==(?= )", ("!=",)),
    (r"(?<= )!=(?= )", ("==",)),
    (r"(?<= )&&(?= )", ("||",)),
    (r"(?<= )\|\|(?= )", ("&&",)),
    (r"(?<= )\+(?= )", ("-",)),
    (r"(?<= )-(?= )", ("+",)),
    (r"(?<= )\*(?= )", ("/",)),
    (r"(?<= )/(?= )", ("*",)),
    (r"(?<= )%(?= )", ("/",)),
    (r"(?<= )<<(?= )", (">>",)),
    (r"(?<= )>>(?= )", ("<<",)),
    (r"(?<= )&(?= )", ("|",)),
    (r"(?<= )\|(?= )", ("&",)),
    (r"(?<= )\+=(?= )", ("-=", "=")),
    (r"(?<= )-=(?= )", ("+=",)),
    (r"(?<= )\|=(?= )", ("=",)),
    (r"\+\+", ("--",)),
    (r"\btrue\b", ("false",)),
    (r"\bfalse\b", ("true",)),
    (r"(?<![\w.\"])\d+(?=[;,)\]} ])", ("next",)),
    (r"(?<=\()!(?=\w)", ("",)),
    (r"\bcontinue;", ("break;",)),
    (r"(?<=^)\s+[\w>.\-]+(\([^;{]*\)|(\[\w+\])? [-+|&]?= [^;{]*|(\+\+|--));$", (";",)),
]


ON_INTERFACES_ONLY = {"monitor.c"}  # its tests need interfaces
LIVE = {"session_live_test"}  # has a network namespace, and ends soon
SLOW = {"sources.c": "interfaces_live_test"}  # the only tests of the file
# Memory from malloc holds no zeros, and freed memory no old values.
PERTURBED = {**os.environ, "MALLOC_PERTURB_": "165"}


def code_of(source: str) -> str:
    """Returns `source` with comments, strings and directives as blanks of the same length."""
    blank = r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|^#(?:\\\n|[^\n])*"
    return re.sub(
        blank,
        lambda found: re.sub(r"[^\n]", "\x00", found[0]),
        source,
        flags=re.DOTALL | re.MULTILINE,
    )


def line_of(source: str, at: int) -> str:
    return source[source.rfind("\n", 0, at) + 1 : source.find("\n", at)]


def mutate(path: Path, source: str, start: int, end: int, new: str) -> Mutant | None:
    old = source[start:end]
    if new == "next":  # a microsecond more of a second is nothing that a test could see
        new = str(int(old) + 1) if int(old) < 1000 else str(int(old) * 2)
    return changed(path, source, source[:start] + new + source[end:])


def candidates(only: str) -> Iterator[Callable[[], Mutant | None]]:
    for stage in MATCHING:
        for path in sorted((NATIVE / stage).rglob("*.c")):
            if only not in str(path) or path.name in ON_INTERFACES_ONLY:
                continue
            source = path.read_text()
            code = code_of(source)
            for pattern, replacements in OPERATORS:
                for found in re.finditer(pattern, code, flags=re.MULTILINE):
                    if UNSEEN.search(line_of(source, found.end())):
                        continue
                    for new in replacements:
                        yield partial(mutate, path, source, *found.span(), new)


def build() -> None:
    configure: list[str | Path] = [
        "cmake",
        "-S",
        NATIVE,
        "-B",
        BUILD,
        "-G",
        "Ninja",
        "-DSONDE_TESTS=ON",
    ]
    quick = ["-DCMAKE_BUILD_TYPE=None", "-DCMAKE_C_FLAGS=-O2"]
    subprocess.run([*configure, *quick], check=True, stdout=subprocess.PIPE)
    subprocess.run(["cmake", "--build", BUILD, "--parallel", "2"], check=True)


class Tests:
    """The built tests, in the order that kills soonest."""

    def __init__(self, worker: int) -> None:
        self.mutant = f"mutant{worker}"
        listed = json.loads((BUILD / "compile_commands.json").read_text())
        self.compile = {
            entry["file"]: entry["command"] for entry in listed if "sonde_core" in entry["command"]
        }
        self.seconds: dict[str, float] = {}
        self.links: dict[str, list[str]] = {}
        self.failing: set[str] = set()

    def link_command(self, name: str) -> list[str]:
        """Returns the link command with the mutant before the library."""
        done = subprocess.run(
            ["ninja", "-C", BUILD, "-t", "commands", name],
            check=True,
            capture_output=True,
            text=True,
        )
        words = shlex.split(done.stdout.splitlines()[-1].strip(": &"))
        words[words.index("libsonde_core.a")] = f"{self.mutant}.o libsonde_core.a"
        words[words.index("-o") + 1] = f"{self.mutant}_test"
        return " ".join(words).split()

    def run(self, name: str, program: str = "", *, timeout_sec: float) -> tuple[bool, float]:
        """Returns whether the test passes, and its seconds."""
        start = time.monotonic()
        try:
            done = subprocess.run(
                [BUILD / (program or name)],
                cwd=BUILD,
                capture_output=True,
                env=PERTURBED,
                timeout=timeout_sec,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False, timeout_sec
        return done.returncode == 0, time.monotonic() - start

    def compiled(self, path: Path, source: str) -> bytes | None:
        """Returns the object file, or None if `source` does not compile."""
        words = shlex.split(self.compile[str(path)])
        words = [word for word in words if not word.startswith("-W")]
        changed_file = BUILD / self.mutant / path.name
        changed_file.parent.mkdir(exist_ok=True)
        changed_file.write_text(source)
        words[words.index("-o") + 1], words[-1] = f"{self.mutant}.o", str(changed_file)
        command = [*words, "-w", f"-I{path.parent}"]
        done = subprocess.run(command, cwd=BUILD, capture_output=True, check=False)
        return (BUILD / f"{self.mutant}.o").read_bytes() if done.returncode == 0 else None

    def matching(self, path: Path) -> list[str]:
        """Returns the tests of the file's folder, the file's own and quick ones first."""
        folder = path.relative_to(NATIVE).parts[0]
        words = (*MATCHING[folder], path.stem)
        names = [name for name in C_TESTS if name.startswith(words)]
        names = [name for name in names if name not in ON_INTERFACES or name in LIVE]
        names += [SLOW[path.name]] if path.name in SLOW else []
        for name in names:
            if name not in self.seconds:
                self.links[name] = self.link_command(name)
                for _ in range(TRIES):
                    passed, self.seconds[name] = self.run(name, timeout_sec=120)
                    if passed:
                        break
                else:  # on a busy machine, a test that watches the clock
                    print(f"{name} fails without a change and is left out", flush=True)
                    self.failing.add(name)
        names = [name for name in names if name not in self.failing]
        return sorted(names, key=lambda name: (path.stem not in name, self.seconds[name]))

    def judge(self, mutant: Mutant) -> Verdict:
        unchanged = self.compiled(mutant.path, mutant.path.read_text())
        code = self.compiled(mutant.path, mutant.source)
        if code is None:
            return "does not compile"
        if code == unchanged:
            return "equivalent"
        for name in self.matching(mutant.path):
            subprocess.run(self.links[name], cwd=BUILD, check=True)
            if self.kills(name):
                return "killed"
        return "survived"

    def kills(self, name: str) -> bool:
        """Returns whether the mutant fails a test that passes without it right afterwards."""
        timeout_sec = 10 + 3 * self.seconds[name]
        for _ in range(TRIES):
            if self.run(name, f"{self.mutant}_test", timeout_sec=timeout_sec)[0]:
                return False
            passed, seconds = self.run(name, timeout_sec=3 * timeout_sec)
            if passed and 3 * seconds < timeout_sec and name not in WATCHING_THE_CLOCK:
                return True
            timeout_sec = max(timeout_sec, 10 + 4 * seconds)
        return passed


def make_judge(worker: int) -> Judge:
    return Tests(worker).judge


if __name__ == "__main__":
    options = arguments("Mutation test of the C core.")
    build()
    sys.exit(run(options, list(candidates(options.only)), make_judge))
