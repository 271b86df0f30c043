"""Downloads objects of the hosts' buckets to files, a pipe, or a viewer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from nats.errors import Error as NatsError

from ..errors import NetsondeError
from ..fleet.scatter import Reply
from .files import WriteError, replaced_file
from .output import say

if TYPE_CHECKING:
    from ..fleet.client import FleetClient
    from ..fleet.outcome import Outcome

TOKEN = re.compile(r"[A-Za-z0-9_-]+")
STANDARD_OUTPUT = "-"


class FetchError(NetsondeError):
    """An object cannot be downloaded or written."""


async def write_files(client: FleetClient, outcome: Outcome, path: str, timeout_sec: float) -> None:
    """Writes one file; for several hosts one each: `cap.pcapng` becomes `cap-web1.pcapng`. A
    download that fails counts as that host's failure; the other downloads continue."""
    wanted = [reply for reply in outcome.replies if reply.accepted]
    left = list(wanted)
    try:
        for reply in wanted:
            chosen = Path(path)
            if len(wanted) > 1:
                chosen = chosen.with_name(f"{chosen.stem}-{reply.host}{chosen.suffix}")
            try:
                with replaced_file(chosen) as out:
                    await fetch(client, reply, out, timeout_sec)
            except (FetchError, WriteError) as error:
                fail(outcome, reply, error)
            else:
                say(f"{reply.host}: {chosen}")
            left.remove(reply)
    finally:
        for reply in left:
            fail(outcome, reply, FetchError("not downloaded: the run was cut off"))


async def pipe_all(
    client: FleetClient, outcome: Outcome, out: IO[bytes], timeout_sec: float
) -> None:
    """Writes all objects to one stream, as pcapng files can be concatenated."""
    for reply in [reply for reply in outcome.replies if reply.accepted]:
        with tempfile.TemporaryFile() as whole:
            try:
                await fetch(client, reply, whole, timeout_sec)
            except FetchError as error:
                fail(outcome, reply, error)
                continue
            whole.seek(0)
            shutil.copyfileobj(whole, out)
    out.flush()


def fail(outcome: Outcome, reply: Reply, error: NetsondeError) -> None:
    body = {"host": reply.host, "code": 500, "error": "download_failed", "detail": error.detail}
    failed = Reply(reply.host, 500, body, reply.elapsed_sec)
    outcome.replies[outcome.replies.index(reply)] = failed


async def fetch(client: FleetClient, reply: Reply, out: IO[bytes], timeout_sec: float) -> None:
    """Writes the object and compares it with the host's digest. Raises FetchError."""
    from ..bus.objects import site_bucket_name
    from ..fleet.download import DownloadError, direct_get_subject, download

    bucket, name, sha256 = (reply.body.get(key) for key in ("bucket", "object", "sha256"))
    if not (isinstance(bucket, str) and isinstance(name, str) and TOKEN.fullmatch(bucket)):
        raise FetchError("malformed reply: it names no bucket and object")
    if sys.stderr.isatty():
        say(f"{reply.host}: fetching {reply.body.get('bytes')} bytes")
    domain = client.address.jetstream_domain
    try:
        async with asyncio.timeout(timeout_sec):
            host = reply.host if bucket == site_bucket_name(client.address.root) else ""
            work = download(
                client.connection,
                bucket,
                name,
                out,
                sha256=str(sha256),
                domain=domain,
                host=host,
            )
            await client.allowed(work, direct_get_subject(bucket, domain))
    except (DownloadError, NatsError, TimeoutError) as error:
        reason = str(error).removeprefix("nats: ") or f"timeout after {timeout_sec:g} s"
        raise FetchError(f"cannot download {name}: {reason}") from None


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
    viewer = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - no shell
    assert viewer.stdin is not None  # noqa: S101 - for mypy
    try:
        with contextlib.suppress(BrokenPipeError):
            yield viewer.stdin
    finally:
        with contextlib.suppress(BrokenPipeError):
            viewer.stdin.close()
        viewer.wait()
