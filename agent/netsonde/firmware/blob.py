"""A bare signature: the bytes themselves, or those in hexadecimal or base64.

The bytes do not say what they are, and need not: each trusted key reads them in its own way.
Ed25519: 64 bytes over the file itself. ECDSA P-256 and P-384: DER over a digest. RSA: as
many bytes as the key has, PSS over a digest. Which digest a key of a type may have signed is
a closed list.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from . import ed25519
from .keys import Key, Kind, TrustedKeys
from .verdict import Digests, Hashers, MalformedSignatureError, Rules, Verdict, accepted, prove

BYTES_MIN = 8  # the shortest thinkable ECDSA signature in DER
BYTES_MAX = 2048  # RSA of 16384 bits

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
        names = {name for key in trusted.keys if self._fits(key) for name in _digests(key)}
        made: Hashers = {name: hashlib.new(name) for name in sorted(names)}
        for key in trusted.of("ed25519"):
            if self._fits(key):
                made[_challenge(key)] = ed25519.challenge(key.raw, self.signature)
        return made

    def judge(self, trusted: TrustedKeys, digests: Digests, rules: Rules) -> Verdict:
        fitting = [key for key in trusted.keys if self._fits(key)]
        for key in fitting:
            algorithm = self._prove(key, digests, pkcs1v15=False)
            if algorithm:
                return accepted(key, algorithm)
        for key in fitting:
            algorithm = self._prove(key, digests, pkcs1v15=True)
            if algorithm and rules.rsa_pkcs1v15:
                return accepted(key, algorithm)
            if algorithm:
                return Verdict(
                    "Signed with RSA PKCS#1 v1.5, which this host does not take "
                    "([firmware] rsa_pkcs1v15); sign with PSS."
                )
        if not fitting:
            return Verdict(
                f"No trusted key makes signatures of this form ({len(self.signature)} bytes)."
            )
        return Verdict(
            "Not signed by any trusted key, or the file or its signature has been altered."
        )

    def _fits(self, key: Key) -> bool:
        length = len(self.signature)
        if key.kind == "ed25519":
            return length == ed25519.SIGNATURE_BYTES
        if key.kind == "rsa":
            return length == (getattr(key.public, "key_size", 0) + 7) // 8
        # SEQUENCE of two INTEGERs: 6 octets around two numbers of up to 33 or 49 octets.
        limit = {"p256": 72, "p384": 104}.get(key.kind, 0)
        return length <= limit and self.signature[:1] == b"\x30"

    def _prove(self, key: Key, digests: Digests, *, pkcs1v15: bool) -> str:
        if key.kind == "ed25519":
            digest = digests[_challenge(key)]
            return "Ed25519" if ed25519.verify_challenge(key.raw, self.signature, digest) else ""
        proofs = (
            prove(key, self.signature, digests[name], name, pkcs1v15=pkcs1v15)
            for name in _digests(key)
        )
        return next(filter(None, proofs), "")


def parse(data: bytes) -> Blob:
    """Text is taken for what it spells, when it spells bytes; else the bytes are it."""
    text = data.strip()
    joined = b"".join(text.split())
    if _HEX.fullmatch(joined):
        return _sized(bytes.fromhex(joined.decode()))
    if _BASE64.fullmatch(joined):
        try:
            return _sized(base64.b64decode(joined, validate=True))
        except binascii.Error:
            pass  # 64 bytes of a signature can look like damaged base64 only if they are bytes
    return _sized(data)


def _sized(signature: bytes) -> Blob:
    if not BYTES_MIN <= len(signature) <= BYTES_MAX:
        raise MalformedSignatureError(
            f"The signature file is malformed: {len(signature)} bytes are no signature."
        )
    return Blob(signature)


def _digests(key: Key) -> tuple[str, ...]:
    return _DIGESTS.get(key.kind, ())


def _challenge(key: Key) -> str:
    return f"ed25519:{key.id}"
