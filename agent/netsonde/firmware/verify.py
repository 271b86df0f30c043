"""The verb `firmware.verify`: open both files, read the firmware once, judge the signature.

All file access runs in a worker thread. hashlib and cryptography release the interpreter lock,
so the event loop stays responsive. At most RUNNING_MAX verifications run at a time; more are
rejected. All digests come from the same pass over one descriptor. The file is read, not mapped,
because another process may truncate it.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading

import structlog

from ..config.paths import NotAFileError, open_below
from ..config.sections import FirmwareSection
from ..errors import Draining, NotFound, PathNotAllowed, TooManyRequests
from ..wire.replies import FirmwareReply
from ..wire.requests import FirmwareRequest
from . import blob, cms, minisign
from .keys import TrustedKeys, load
from .verdict import AbandonedError, Claim, Digest, Hashers, MalformedSignatureError, Rules, Verdict

RUNNING_MAX = 2
CHUNK_BYTES = 1 << 20
SIGNATURE_BYTES_MAX = 1 << 18  # a CMS signature contains certificates
SMIME_MAGIC = b"MIME-Version:"

_log = structlog.get_logger()


class Firmware:
    """Runs verifications. A configuration reload replaces `settings`."""

    def __init__(self, settings: FirmwareSection) -> None:
        self.settings = settings
        self._running: set[threading.Event] = set()
        self._closed = False

    async def verify(self, request: FirmwareRequest) -> FirmwareReply:
        if self._closed:
            raise Draining
        if len(self._running) >= RUNNING_MAX:
            raise TooManyRequests(
                f"{RUNNING_MAX} firmware files are being verified on this host; try again later."
            )
        abandoned = threading.Event()
        self._running.add(abandoned)
        try:
            return await asyncio.to_thread(verify, self.settings, request, abandoned)
        except AbandonedError:
            raise Draining from None
        finally:
            abandoned.set()  # after a cancellation the thread still reads
            self._running.discard(abandoned)

    def close(self) -> None:
        """Rejects new verifications. Running ones stop after their current chunk or key."""
        self._closed = True
        for abandoned in self._running:
            abandoned.set()


def verify(
    settings: FirmwareSection, request: FirmwareRequest, abandoned: threading.Event
) -> FirmwareReply:
    """Blocks until done. Raises PathNotAllowed, NotFound or AbandonedError."""
    firmware, signature = _open(settings.dirs, request)
    try:
        trusted = load(settings.trusted_keys)
        for name, reason in trusted.refused.items():
            _log.warning("trusted key skipped", file=name, reason=reason)
        claim, complaint = _understand(signature, trusted)
        hashers: Hashers = claim.hashers(trusted) if claim is not None else {}
        hashers.setdefault("sha256", hashlib.sha256())
        head = _feed(firmware, hashers, settings.max_mb << 20, abandoned)
        if head is None:
            limit = f"[firmware] max_mb is {settings.max_mb}"
            return _reply(Verdict(f"The firmware file is too large: {limit}."), b"")
        made = {name: hasher.digest() for name, hasher in hashers.items()}
        digests = {name: digest for name, digest in made.items() if digest is not None}
        verdict = Verdict(complaint)
        if cms.is_signed_part(head):
            verdict = Verdict("The firmware file is part of a CMS signature, not firmware.")
        elif claim is not None:
            verdict = claim.judge(trusted, digests, Rules(settings.rsa_pkcs1v15, abandoned))
        return _reply(verdict, digests["sha256"])
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO).lower()
        raise NotFound(f"The firmware or the signature file cannot be read: {reason}.") from None
    finally:
        os.close(firmware)
        os.close(signature)


def _reply(verdict: Verdict, sha256: Digest) -> FirmwareReply:
    good = verdict.key is not None
    reply = FirmwareReply(
        valid=good, signature_valid=good, firmware_hash=sha256.hex(), message=verdict.message
    )
    if verdict.key is not None:
        reply.key_id, reply.algorithm = verdict.key.id, verdict.algorithm
    return reply


def _open(directories: list[str], request: FirmwareRequest) -> tuple[int, int]:
    """Opens both files or none. Reports a path outside first, so that the error does not reveal
    whether the other file exists."""
    wanted = {"$.firmware_path": request.firmware_path, "$.signature_path": request.signature_path}
    opened: list[int] = []
    outside: list[str] = []
    missing: list[tuple[str, str]] = []
    for field, path in wanted.items():
        try:
            opened.append(open_below(directories, path))
        except PathNotAllowed:
            outside.append(field)
        except NotAFileError as error:
            missing.append((field, str(error)))
    if len(opened) == len(wanted):
        return opened[0], opened[1]
    for file in opened:
        os.close(file)
    if outside:
        raise PathNotAllowed(field=outside[0])
    field, reason = missing[0]
    what = "firmware" if field == "$.firmware_path" else "signature"
    raise NotFound(f"The {what} file cannot be read: {reason}.", field=field)


def _understand(signature: int, trusted: TrustedKeys) -> tuple[Claim | None, str]:
    """Returns the parsed signature file, or None and the reason for the reply."""
    if not trusted.keys:
        return None, "This host trusts no keys: [firmware] trusted_keys has no usable key."
    data = _read_small(signature)
    if len(data) > SIGNATURE_BYTES_MAX:
        return None, f"The signature file is too large: more than {SIGNATURE_BYTES_MAX} bytes."
    if not data.strip():
        return None, "The signature file is malformed: it is empty."
    try:
        return understand(data), ""
    except MalformedSignatureError as error:
        return None, str(error)


def understand(data: bytes) -> Claim:
    """Detects the format by the content. Raises MalformedSignatureError."""
    if data.startswith(minisign.MAGIC):
        return minisign.parse(data)
    if data.startswith(SMIME_MAGIC):
        raise MalformedSignatureError(
            "The signature file is malformed: it is an S/MIME message; write it with -outform DER."
        )
    if cms.is_cms(data):
        return cms.parse(data)
    return blob.parse(data)


def _read_small(file: int) -> bytes:
    parts, size = [], 0
    while size <= SIGNATURE_BYTES_MAX and (part := os.read(file, CHUNK_BYTES)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _feed(file: int, hashers: Hashers, bytes_max: int, abandoned: threading.Event) -> bytes | None:
    """Feeds the whole file to every hasher and returns the first chunk. Returns None if the file
    is larger than the limit, or grows beyond it during the pass."""
    if os.fstat(file).st_size > bytes_max:
        return None
    chunk = bytearray(CHUNK_BYTES)
    view = memoryview(chunk)
    taken, head = 0, b""
    while count := os.readv(file, [chunk]):
        if abandoned.is_set():
            raise AbandonedError
        head = head or bytes(view[:count])
        taken += count
        if taken > bytes_max:
            return None
        for hasher in hashers.values():
            hasher.update(view[:count])
    return head
