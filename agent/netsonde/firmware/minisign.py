"""minisign signatures, after the published description of the format.

    untrusted comment: anything
    base64( "Ed" | "ED", key id (8), signature (64) )      Ed: over the file, ED: over its BLAKE2b
    trusted comment: words
    base64( signature (64) )                               over the first signature ‖ the words

Both signatures must be valid. The key id selects the minisign key. If no minisign key has that
id, the PEM Ed25519 keys, which have no such id, are tried.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from .keys import Key, TrustedKeys, minisign_id
from .verdict import (
    MESSAGE,
    Digests,
    Hashers,
    MalformedSignatureError,
    Message,
    Rules,
    Verdict,
    accepted,
    prove_ed25519,
    prove_message,
    too_long,
)

MAGIC = b"untrusted comment:"
_TRUSTED = b"trusted comment: "
_COMMENT_SHOWN_MAX = 200


@dataclass(frozen=True, slots=True)
class Minisign:
    key_id: str
    prehashed: bool
    signature: bytes
    comment: bytes
    comment_signature: bytes

    def hashers(self, trusted: TrustedKeys) -> Hashers:
        if self.prehashed:
            return {"blake2b": hashlib.blake2b()}
        return {MESSAGE: Message()} if self._candidates(trusted) else {}

    def judge(self, trusted: TrustedKeys, digests: Digests, rules: Rules) -> Verdict:
        candidates = self._candidates(trusted)
        if candidates and not self.prehashed and MESSAGE not in digests:
            return too_long()
        for key in candidates:
            if not self._proves_file(key, digests, rules):
                continue
            if not prove_ed25519(key, self.comment_signature, self.signature + self.comment):
                return Verdict("The signature's trusted comment has been altered.")
            algorithm = "minisign-Ed25519-BLAKE2b" if self.prehashed else "minisign-Ed25519"
            words = self.comment.decode(errors="replace")[:_COMMENT_SHOWN_MAX]
            return accepted(key, algorithm, f"Trusted comment: {words}" if words else "")
        if any(key.kind == "minisign" for key in candidates):
            return Verdict(f"The file or its signature by key {self.key_id} has been altered.")
        return Verdict(f"Not signed by any trusted key: it names minisign key {self.key_id}.")

    def _candidates(self, trusted: TrustedKeys) -> list[Key]:
        named = [key for key in trusted.of("minisign") if key.id == self.key_id]
        return named or trusted.of("ed25519")

    def _proves_file(self, key: Key, digests: Digests, rules: Rules) -> bool:
        if self.prehashed:
            return prove_ed25519(key, self.signature, digests["blake2b"])
        return prove_message(key, self.signature, digests, rules)


def parse(data: bytes) -> Minisign:
    lines = [line.rstrip(b"\r") for line in data.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    if len(lines) != 4 or not lines[2].startswith(_TRUSTED):
        raise _malformed("it is not two comments with a signature after each")
    body, comment_signature = _decode(lines[1]), _decode(lines[3])
    if len(body) != 74 or len(comment_signature) != 64:
        raise _malformed("a signature has the wrong length")
    if body[:2] not in (b"Ed", b"ED"):
        raise _malformed("its algorithm is unknown")
    return Minisign(
        key_id=minisign_id(body[2:10]),
        prehashed=body[:2] == b"ED",
        signature=body[10:],
        comment=lines[2][len(_TRUSTED) :],
        comment_signature=comment_signature,
    )


def _decode(line: bytes) -> bytes:
    try:
        return base64.b64decode(line, validate=True)
    except binascii.Error:
        raise _malformed("a line is not base64") from None


def _malformed(why: str) -> MalformedSignatureError:
    return MalformedSignatureError(f"The minisign signature is malformed: {why}.")
