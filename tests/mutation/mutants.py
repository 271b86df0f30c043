"""Draws mutants with a fixed seed, judges each, and prints the kill rate and the survivors.

A mutant is a source file with one change. A test that fails kills it. A mutant counts unless it
does not compile, compiles to the same code, or is listed in equivalent.txt with the reason.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

REPOSITORY = Path(__file__).resolve().parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.txt")

Verdict = Literal["killed", "survived", "equivalent", "does not compile"]
TRIES = 3  # a failure counts only if the same tests pass on the unchanged code


@dataclass(frozen=True)
class Mutant:
    path: Path
    line: int
    before: str  # the line
    after: str
    source: str  # the whole changed file

    def __str__(self) -> str:
        path = self.path.relative_to(REPOSITORY)
        return f"{path}:{self.line}: {self.before.strip()}  =>  {self.after.strip()}"

    @property
    def without_line(self) -> tuple[str, str, str]:
        path = str(self.path.relative_to(REPOSITORY))
        return path, self.before.strip(), self.after.strip()


def changed(path: Path, source: str, mutated: str) -> Mutant | None:
    """Returns the mutant that differs from `source`, or None if nothing differs."""
    lines = zip(source.splitlines(), mutated.splitlines(), strict=False)
    for number, (before, after) in enumerate(lines, start=1):
        if before != after:
            return Mutant(path, number, before, after, mutated)
    return None


def arguments(about: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--count", type=int, default=160, help="mutants to judge (%(default)s)")
    parser.add_argument("--seed", type=int, default=14, help="seed of the draw (%(default)s)")
    parser.add_argument("--minutes", type=float, default=60, help="time limit (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at once (%(default)s)")
    parser.add_argument("--only", default="", help="judge only files whose path contains this")
    return parser.parse_args()


def equivalent_by_hand() -> set[tuple[str, ...]]:
    """Each line is `path | line | changed line | reason`."""
    lines = [line for line in EQUIVALENT.read_text().splitlines() if not line.startswith("#")]
    return {tuple(part.strip() for part in line.split(" | ")[:3]) for line in lines if line}


Make = Callable[[], Mutant | None]
Judge = Callable[[Mutant], Verdict]


class Worker:
    """Judges one mutant at a time, in a process and a folder that other workers do not use."""

    judge: Judge

    @classmethod
    def start(cls, make_judge: Callable[[int], Judge], numbers: multiprocessing.Queue[int]) -> None:
        cls.judge = staticmethod(make_judge(numbers.get()))

    @classmethod
    def run(cls, make: Make) -> tuple[Mutant, Verdict] | None:
        mutant = make()
        if mutant is None:
            return None
        known = mutant.without_line in equivalent_by_hand()
        return mutant, "equivalent" if known else cls.judge(mutant)


def judged_in_order(
    options: argparse.Namespace, order: Sequence[Make], make_judge: Callable[[int], Judge]
) -> Iterator[tuple[Mutant, Verdict]]:
    forked = multiprocessing.get_context("fork")
    numbers = forked.Queue()
    for number in range(options.jobs):
        numbers.put(number)
    waiting: deque[Future[tuple[Mutant, Verdict] | None]] = deque()
    with ProcessPoolExecutor(options.jobs, forked, Worker.start, (make_judge, numbers)) as pool:
        try:
            for make in order:
                waiting.append(pool.submit(Worker.run, make))
                if len(waiting) > 4 * options.jobs and (done := waiting.popleft().result()):
                    yield done
            yield from filter(None, (future.result() for future in waiting))
        finally:
            pool.shutdown(cancel_futures=True)


def run(
    options: argparse.Namespace, candidates: Sequence[Make], make_judge: Callable[[int], Judge]
) -> int:
    """Judges mutants until `count` of them were killed or survived. Returns the exit code."""
    order = list(candidates)
    random.Random(options.seed).shuffle(order)
    verdicts, survivors = Counter[Verdict](), list[Mutant]()
    deadline = time.monotonic() + options.minutes * 60
    judged = 0
    for mutant, verdict in judged_in_order(options, order, make_judge):
        verdicts[verdict] += 1
        if verdict == "survived":
            survivors.append(mutant)
        print(f"{verdict:16} {mutant}", flush=True)
        judged = verdicts["killed"] + verdicts["survived"]
        if judged == options.count or time.monotonic() > deadline:
            break
    print(f"\n{len(survivors)} survivors:", *survivors, sep="\n  ")
    rate = 100 * verdicts["killed"] / judged if judged else 0
    print(f"\nseed {options.seed}: {verdicts['killed']} of {judged} mutants killed ({rate:.0f} %)")
    print(", ".join(f"{verdict} {count}" for verdict, count in sorted(verdicts.items())))
    return 0 if judged == options.count else 1
