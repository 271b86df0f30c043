"""Objects of the hosts' buckets, brought to this machine: into files, a pipe, or a viewer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from nats.errors import Error as NatsError

from ..errors import NetsondeError

if TYPE_CHECKING:
    from ..fleet.client import FleetClient
    from ..fleet.scatter import Reply

STANDARD_OUTPUT = "-"


class FetchError(NetsondeError):
    """An object does not arrive, or cannot be put where it was wanted."""


async def write_files(
    client: FleetClient, replies: Sequence[Reply], path: str, timeout_sec: float
) -> None:
    """One file, or with several hosts one each: `cap.pcapng` becomes `cap-web1.pcapng`."""
    for reply in replies:
        chosen = Path(path)
        if len(replies) > 1:
            chosen = chosen.with_name(f"{chosen.stem}-{reply.host}{chosen.suffix}")
        try:
            file = os.open(chosen, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FetchError(f"{chosen}: {os.strerror(error.errno or 5).lower()}") from None
        with os.fdopen(file, "wb") as out:
            await fetch(client, reply, out, timeout_sec)
        print(f"{reply.host}: {chosen}", file=sys.stderr)


async def pipe_all(
    client: FleetClient, replies: Sequence[Reply], out: IO[bytes], timeout_sec: float
) -> None:
    """One after the other: pcapng files may be strung together."""
    for reply in replies:
        await fetch(client, reply, out, timeout_sec)
    out.flush()


async def fetch(client: FleetClient, reply: Reply, out: IO[bytes], timeout_sec: float) -> None:
    from ..fleet.download import DownloadError, download

    if sys.stderr.isatty():
        print(f"{reply.host}: fetching {reply.body['bytes']:,} bytes", file=sys.stderr)
    try:
        async with asyncio.timeout(timeout_sec):
            await download(client.connection, reply.body["bucket"], reply.body["object"], out)
    except (DownloadError, NatsError, TimeoutError) as error:
        words = str(error).removeprefix("nats: ") or f"not within {timeout_sec:g} s"
        raise FetchError(f"{reply.host}: {reply.body['object']} does not arrive: {words}") from None


def find_viewer() -> list[str]:
    """Wireshark where there is a display, else tshark."""
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if display and shutil.which("wireshark"):
        return ["wireshark", "-k", "-i", "-"]
    if shutil.which("tshark"):
        return ["tshark", "-r", "-"]
    raise FetchError("Neither wireshark nor tshark is installed here; use --write FILE.")


@contextlib.contextmanager
def opened_viewer(command: Sequence[str]) -> Iterator[IO[bytes]]:
    """Its standard input. Waits until it is closed; one that ends early is no fault."""
    # An argument list of our own making, and no shell.
    viewer = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603
    # Popen was asked for a pipe: this tells mypy.
    assert viewer.stdin is not None  # noqa: S101
    try:
        with contextlib.suppress(BrokenPipeError):
            yield viewer.stdin
    finally:
        with contextlib.suppress(BrokenPipeError):
            viewer.stdin.close()
        viewer.wait()
