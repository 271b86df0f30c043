"""A bare signature: raw bytes, or their hexadecimal or base64 text.

The bytes carry no algorithm. Each trusted key reads them by its own type:
Ed25519 takes 64 bytes over the file itself. ECDSA P-256 and P-384 take DER over a digest. RSA
takes PSS over a digest, with as many bytes as the key. The digests that a key type may sign are
a closed list.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from .keys import Key, Kind, TrustedKeys
from .verdict import (
    MESSAGE,
    Digests,
    Hashers,
    MalformedSignatureError,
    Message,
    Rules,
    Verdict,
    accepted,
    prove,
    prove_message,
    too_long,
)

BYTES_MIN = 8  # the shortest possible ECDSA signature in DER
BYTES_MAX = 2048  # RSA with 16384 bits
ED25519_BYTES = 64

_DIGESTS: dict[Kind, tuple[str, ...]] = {
    "p256": ("sha256",),
    "p384": ("sha384", "sha256"),
    "rsa": ("sha256", "sha384", "sha512"),
}
_HEX = re.compile(rb"([0-9a-fA-F]{2})+")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True, slots=True)
class Blob:
    signature: bytes

    def hashers(self, trusted: TrustedKeys) -> Hashers:
        fitting = [key for key in trusted.keys if self._fits(key)]
        names = {name for key in fitting for name in _DIGESTS.get(key.kind, ())}
        made: Hashers = {name: hashlib.new(name) for name in sorted(names)}
        if any(key.kind == "ed25519" for key in fitting):
            made[MESSAGE] = Message()
        return made

    def judge(self, trusted: TrustedKeys, digests: Digests, rules: Rules) -> Verdict:
        fitting = [key for key in trusted.keys if self._fits(key)]
        if not fitting:
            return Verdict(
                f"No trusted key makes signatures of this form ({len(self.signature)} bytes)."
            )
        for key in fitting:
            algorithm = self._prove(key, digests, rules)
            if algorithm:
                return accepted(key, algorithm)
        for key in fitting:
            algorithm = self._prove_digest(key, digests, pkcs1v15=True)
            if algorithm and rules.rsa_pkcs1v15:
                return accepted(key, algorithm)
            if algorithm:
                return Verdict(
                    "Signed with RSA PKCS#1 v1.5, which this host does not accept "
                    "([firmware] rsa_pkcs1v15). Sign with PSS."
                )
        if MESSAGE not in digests and any(key.kind == "ed25519" for key in fitting):
            return too_long()
        return Verdict(
            "Not signed by any trusted key, or the file or its signature has been altered."
        )

    def _fits(self, key: Key) -> bool:
        length = len(self.signature)
        if key.kind == "ed25519":
            return length == ED25519_BYTES
        if key.kind == "rsa":
            return length == (getattr(key.public, "key_size", 0) + 7) // 8
        # SEQUENCE of two INTEGERs: 6 octets around two numbers of up to 33 or 49 octets.
        limit = {"p256": 72, "p384": 104}.get(key.kind, 0)
        return length <= limit and self.signature[:1] == b"\x30"

    def _prove(self, key: Key, digests: Digests, rules: Rules) -> str:
        if key.kind != "ed25519":
            return self._prove_digest(key, digests, pkcs1v15=False)
        if MESSAGE not in digests:
            return ""
        return "Ed25519" if prove_message(key, self.signature, digests, rules) else ""

    def _prove_digest(self, key: Key, digests: Digests, *, pkcs1v15: bool) -> str:
        proofs = (
            prove(key, self.signature, digests[name], name, pkcs1v15=pkcs1v15)
            for name in _DIGESTS.get(key.kind, ())
        )
        return next(filter(None, proofs), "")


def parse(data: bytes) -> Blob:
    """Decodes hexadecimal and base64 text. Takes any other content as raw bytes."""
    text = data.strip()
    joined = b"".join(text.split())
    if _HEX.fullmatch(joined):
        return _sized(bytes.fromhex(joined.decode()))
    if _BASE64.fullmatch(joined):
        try:
            return _sized(base64.b64decode(joined, validate=True))
        except binascii.Error:
            pass  # raw bytes that happen to look like base64
    return _sized(data)


def _sized(signature: bytes) -> Blob:
    if not BYTES_MIN <= len(signature) <= BYTES_MAX:
        raise MalformedSignatureError(
            f"The signature file is malformed: {len(signature)} bytes are not a signature."
        )
    return Blob(signature)
