"""Builds the benchmarks' prerequisites on demand below out/: the core, the drivers, the traces.

Everything is cached. A trace is made again only if its generator or its parameters change. The
project's CMake files build the core in release mode.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
OUT = HERE / "out"
CORE = OUT / "core"
PLUGINS = CORE / "backends"
SHARED_TRACES = Path(os.environ.get("NETSONDE_TRACES") or REPOSITORY.parent / "shared" / "traces")
SEED = 20261122
COMPILER = ("cc", "-O2", "-g", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True)
class Trace:
    name: str
    path: Path
    packets: int
    flows: int | None  # None: unknown


def run(*command: str | Path) -> str:
    """Returns the output of a command. Raises with the output if the command fails."""
    done = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} exited with {done.returncode}:\n{done.stdout}")
    return done.stdout


def build_core() -> None:
    OUT.mkdir(exist_ok=True)
    # CMake writes C files here that `make lint` would find and reject.
    (OUT / ".clang-format").write_text("DisableFormat: true\nSortIncludes: Never\n")
    run("cmake", "-S", REPOSITORY / "native", "-B", CORE, "-DCMAKE_BUILD_TYPE=Release")
    run("cmake", "--build", CORE, "--parallel", "2", "--target", "sonde_core", "backend_file")


def build_driver(name: str) -> Path:
    """Builds a C program with the core's static library, whose symbols plugins use."""
    libraries = run("pkg-config", "--libs", "libpcap", "libcrypto").split()
    native = REPOSITORY / "native"
    binary = OUT / name
    binary.parent.mkdir(parents=True, exist_ok=True)
    run(*COMPILER, f"-I{native / 'include'}", f"-I{native}", HERE / f"{name}.c",
        CORE / "libsonde_core.a", CORE / "libsonde_host.a", "-o", binary, "-rdynamic", *libraries,
        "-pthread", "-ldl", "-lm")  # fmt: skip
    return binary


def build_generator() -> Path:
    OUT.mkdir(exist_ok=True)
    binary = OUT / "tracegen"
    run(*COMPILER, HERE / "tracegen.c", "-o", binary)
    return binary


def make_trace(name: str, *arguments: str | Path, packets: int, flows: int | None) -> Trace:
    """`arguments` are those of the generator, with {} for the output."""
    path = OUT / f"{name}.pcap"
    recipe = OUT / f"{name}.recipe"
    source = (HERE / "tracegen.c").read_bytes()
    wanted = hashlib.sha256(source + repr(arguments).encode()).hexdigest()
    if not (path.exists() and recipe.exists() and recipe.read_text() == wanted):
        recipe.unlink(missing_ok=True)
        run(OUT / "tracegen", *[path if part == "{}" else part for part in arguments])
        recipe.write_text(wanted)
    path.read_bytes()  # into the page cache
    return Trace(name, path, packets, flows)


def make_synthetic(name: str, packets: int, flows: int, every_us: int = 1) -> Trace:
    numbers = (str(packets), str(flows), str(SEED), str(every_us))
    return make_trace(name, "synthetic", "{}", *numbers, packets=packets, flows=flows)


def make_mix(name: str, packets: int) -> Trace | None:
    """Returns None if the shared traces are missing."""
    traces = sorted(SHARED_TRACES.glob("*.pcap"))
    if not traces:
        return None
    return make_trace(
        name, "mix", "{}", str(packets), str(SEED), *traces, packets=packets, flows=None
    )
