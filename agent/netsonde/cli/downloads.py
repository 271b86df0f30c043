"""Downloads objects of the hosts' buckets to files, a pipe, or a viewer."""

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
    """An object cannot be downloaded or written."""


async def write_files(
    client: FleetClient, replies: Sequence[Reply], path: str, timeout_sec: float
) -> None:
    """Writes one file; for several hosts one each: `cap.pcapng` becomes `cap-web1.pcapng`."""
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
    """Writes all objects to one stream, as pcapng files can be concatenated."""
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
        reason = str(error).removeprefix("nats: ") or f"timeout after {timeout_sec:g} s"
        name = reply.body["object"]
        raise FetchError(f"{reply.host}: cannot download {name}: {reason}") from None


def find_viewer() -> list[str]:
    """Returns the command of Wireshark if there is a display, else of tshark."""
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if display and shutil.which("wireshark"):
        return ["wireshark", "-k", "-i", "-"]
    if shutil.which("tshark"):
        return ["tshark", "-r", "-"]
    raise FetchError("Neither wireshark nor tshark is installed; use --write FILE.")


@contextlib.contextmanager
def opened_viewer(command: Sequence[str]) -> Iterator[IO[bytes]]:
    """Runs the viewer; yields its standard input. Waits for its end. An early end is allowed."""
    # A fixed argument list without a shell.
    viewer = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603
    assert viewer.stdin is not None  # noqa: S101 - for mypy
    try:
        with contextlib.suppress(BrokenPipeError):
            yield viewer.stdin
    finally:
        with contextlib.suppress(BrokenPipeError):
            viewer.stdin.close()
        viewer.wait()
