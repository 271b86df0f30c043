"""Downloads objects of the hosts' buckets to files, a pipe, or a viewer.

Several hosts' packets are merged by time. Downloads for a file go to the directory
`FILE.<run>.parts` first. It is removed at the end, unless a download broke that `--resume` can
continue.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from nats.errors import Error as NatsError

from ..errors import NetsondeError
from ..fleet.denied import DeniedError
from ..fleet.scatter import Reply
from ..wire.quantity import counted
from .files import WriteError, is_special, move_file, replaced_file
from .output import notify, say

if TYPE_CHECKING:
    from ..fleet.client import FleetClient
    from ..fleet.outcome import Outcome
    from ..fleet.pcapng import Part

TOKEN = re.compile(r"[A-Za-z0-9_-]+")
DOMAIN = re.compile(r"[^\s.*>]*")
FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}")
STANDARD_OUTPUT = "-"


class FetchError(NetsondeError):
    """An object cannot be downloaded or written."""


class BrokenError(FetchError):
    """A download broke. What arrived is kept for another try."""


class Downloads:
    """The downloads of one run. A download that fails counts as that host's failure; the others
    continue. Use it with `with`: hosts that were not finished count as failed."""

    def __init__(
        self, client: FleetClient, outcome: Outcome, directory: Path, timeout_sec: float
    ) -> None:
        self.wanted = [reply for reply in outcome.replies if reply.accepted]
        self.broken = False
        self._client = client
        self._outcome = outcome
        self._directory = directory
        self._timeout_sec = timeout_sec
        self._left = list(self.wanted)

    def __enter__(self) -> Downloads:
        self._client.outlast_breaks()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        denied = kind is not None and issubclass(kind, DeniedError)
        for reply in list(self._left):
            self.broken = self.broken or not denied  # a resumed run is denied again
            self.fail(reply, FetchError("not downloaded: the run was cut off"))

    def done(self, *replies: Reply) -> None:
        for reply in replies:
            self._left.remove(reply)

    def fail(self, reply: Reply, error: NetsondeError) -> None:
        self.done(reply)
        fail(self._outcome, reply, error)

    async def fetch(self, reply: Reply) -> Path | None:
        """Returns the complete file; None if the host has failed."""
        try:
            return await self._fetch(reply)
        except BrokenError as error:
            self.broken = True
            self.fail(reply, error)
        except FetchError as error:
            self.fail(reply, error)
        return None

    async def _fetch(self, reply: Reply) -> Path:
        from ..bus.objects import site_bucket_name
        from ..fleet.download import (
            BrokenDownloadError,
            DownloadError,
            direct_get_subject,
            download,
        )
        from ..fleet.part_file import PartFile

        bucket, name, sha256 = (reply.body.get(key) for key in ("bucket", "object", "sha256"))
        if not (isinstance(bucket, str) and isinstance(name, str) and TOKEN.fullmatch(bucket)):
            raise FetchError("malformed reply: it names no bucket and object")
        if sys.stderr.isatty():
            say(f"{reply.host}: fetching {reply.body.get('bytes')} bytes")
        client = self._client
        domain = domain_of(reply) or client.address.jetstream_domain
        host = reply.host if bucket == site_bucket_name(client.address.root) else ""
        stem = name if FILE_NAME.fullmatch(name) else "object"
        part = PartFile(self._directory / f"{reply.host}-{stem}")
        try:
            with part:
                async with asyncio.timeout(self._timeout_sec):
                    work = download(
                        client.connection,
                        bucket,
                        name,
                        part,
                        sha256=str(sha256),
                        domain=domain,
                        host=host,
                    )
                    await client.allowed(work, direct_get_subject(bucket, domain))
        except (DownloadError, NatsError, TimeoutError, OSError) as error:
            reason = str(error).removeprefix("nats: ") or f"timeout after {self._timeout_sec:g} s"
            if isinstance(error, OSError) and error.errno:
                reason = os.strerror(error.errno).lower()
            if part.chunks and isinstance(error, BrokenDownloadError | NatsError | TimeoutError):
                raise BrokenError(f"cannot download {name}: {reason}") from None
            part.remove()
            raise FetchError(f"cannot download {name}: {reason}") from None
        return part.path


def domain_of(reply: Reply) -> str:
    """Returns the JetStream domain that the host names; empty if it names none."""
    domain = reply.body.get("domain", "")
    if not (isinstance(domain, str) and DOMAIN.fullmatch(domain)):
        raise FetchError("malformed reply: `domain` is no name of a JetStream domain")
    return domain


async def write_files(
    client: FleetClient, outcome: Outcome, path: str, timeout_sec: float, *, split: bool
) -> None:
    """Writes the packets of all hosts to one file, in order of time; with `split`, one file for
    each host: `cap.pcapng` becomes `cap-web1.pcapng`."""
    try:
        directory = make_directory(path, outcome.request_id)
    except WriteError as error:
        for reply in [reply for reply in outcome.replies if reply.accepted]:
            fail(outcome, reply, error)
        return
    downloads = Downloads(client, outcome, directory, timeout_sec)
    try:
        with downloads:
            if split:
                await write_each(downloads, Path(path))
            else:
                await write_one(downloads, path)
    finally:
        if downloads.broken and not is_special(path):
            words = ["--resume", outcome.request_id, *(["--split"] if split else []), "-w", path]
            notify(f"to continue: netsonde packets {shlex.join(words)}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


async def write_each(downloads: Downloads, path: Path) -> None:
    for reply in downloads.wanted:
        part = await downloads.fetch(reply)
        if part is None:
            continue
        chosen = path.with_name(f"{path.stem}-{reply.host}{path.suffix}")
        finish(downloads, reply, part, chosen)


def finish(downloads: Downloads, reply: Reply, part: Path, chosen: Path) -> None:
    try:
        move_file(part, chosen)
    except WriteError as error:
        downloads.fail(reply, error)
    else:
        downloads.done(reply)
        say(f"{reply.host}: {chosen}")


async def write_one(downloads: Downloads, path: str) -> None:
    """One host's file is written as it is, and moved there unless another run will need it."""
    found = await fetch_all(downloads)
    if len(found) == 1 and not downloads.broken:
        finish(downloads, *found[0], Path(path))
        return
    with opened_parts(downloads, found) as parts:
        if not parts:
            return
        try:
            with replaced_file(path) as out:
                await write_merged([part for _, part in parts], out)
        except WriteError as error:
            for reply, _ in parts:
                downloads.fail(reply, error)
            return
        downloads.done(*(reply for reply, _ in parts))
        packets = sum(part.packets for _, part in parts)
        say(f"{path}: {counted(packets, 'packet')} of {counted(len(parts), 'host')}")


async def fetch_all(downloads: Downloads) -> list[tuple[Reply, Path]]:
    found = [(reply, await downloads.fetch(reply)) for reply in downloads.wanted]
    return [(reply, path) for reply, path in found if path is not None]


@contextlib.contextmanager
def opened_parts(
    downloads: Downloads, found: Sequence[tuple[Reply, Path]]
) -> Iterator[list[tuple[Reply, Part]]]:
    """Yields the files that are well-formed. A malformed one is its host's failure."""
    from ..fleet.pcapng import Part, PcapngError

    with contextlib.ExitStack() as stack:
        parts = []
        for reply, path in found:
            file = stack.enter_context(path.open("rb"))
            try:
                parts.append((reply, Part(reply.host, file.fileno()).read()))
            except PcapngError as error:
                downloads.fail(reply, error)
        yield parts


async def write_merged(parts: Sequence[Part], out: IO[bytes]) -> None:
    from ..fleet.pcapng import merge

    for piece in merge(parts):
        out.write(piece)
        await asyncio.sleep(0)  # Ctrl-C ends it here


async def pipe_all(
    client: FleetClient, outcome: Outcome, out: IO[bytes], timeout_sec: float
) -> None:
    """Writes the packets of all hosts to one stream, in order of time."""
    with tempfile.TemporaryDirectory() as name:
        downloads = Downloads(client, outcome, Path(name), timeout_sec)
        with downloads:
            found = await fetch_all(downloads)
            if len(found) == 1:
                with found[0][1].open("rb") as whole:
                    shutil.copyfileobj(whole, out)
                downloads.done(found[0][0])
            elif found:
                with opened_parts(downloads, found) as parts:
                    await write_merged([part for _, part in parts], out)
                    downloads.done(*(reply for reply, _ in parts))
    out.flush()


def make_directory(path: str, request_id: str) -> Path:
    """Returns the directory for the downloads; a run that is resumed finds its own. For a device or
    pipe it is a temporary one."""
    if is_special(path):
        return Path(tempfile.mkdtemp())
    target = Path(os.path.realpath(path))
    run = hashlib.sha256(request_id.encode(errors="replace")).hexdigest()[:8]
    directory = target.with_name(f"{target.name}.{run}.parts")
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{path}: {os.strerror(error.errno or 5).lower()}") from None
    return directory


def fail(outcome: Outcome, reply: Reply, error: NetsondeError) -> None:
    body = {"host": reply.host, "code": 500, "error": "download_failed", "detail": error.detail}
    failed = Reply(reply.host, 500, body, reply.elapsed_sec)
    outcome.replies[outcome.replies.index(reply)] = failed


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
