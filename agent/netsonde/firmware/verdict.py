"""Parts that the signature formats share: digests, verdicts, and the check of one key.

A `Claim` is a parsed signature file. It exists before the firmware is read. Digests are named, and
`sha256` is always made. All signature arithmetic is `cryptography`'s, chosen over libcrypto through
the C core because its verify calls release the interpreter lock too and need no C code.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from .keys import Key, Kind, TrustedKeys

MESSAGE = "message"  # names the firmware itself among the digests
MESSAGE_BYTES_MAX = 256 << 20

Digest: TypeAlias = bytes | bytearray
Digests: TypeAlias = Mapping[str, Digest]


class Hasher(Protocol):
    """The part of hashlib's objects that is used here."""

    def update(self, data: memoryview, /) -> None: ...

    def digest(self) -> Digest | None: ...


Hashers: TypeAlias = dict[str, Hasher]
HashAlgorithm: TypeAlias = hashes.SHA256 | hashes.SHA384 | hashes.SHA512

HASHES: dict[str, type[HashAlgorithm]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
CURVE_NAMES: dict[Kind, str] = {"p256": "P256", "p384": "P384"}


class MalformedSignatureError(Exception):
    """The signature file has no known form. The text goes into the reply."""


class AbandonedError(Exception):
    """The caller no longer waits for the verification."""


class Message:
    """Collects the firmware for Ed25519 over the file itself.

    RFC 8032 §5.1.7 hashes R and A before the message, so each key needs its own pass, and
    OpenSSL has no interface that takes the message in pieces. `digest` returns the whole
    message, or None if it is longer than MESSAGE_BYTES_MAX.
    """

    def __init__(self) -> None:
        self._message: bytearray | None = bytearray()

    def update(self, data: memoryview, /) -> None:
        if self._message is None:
            return
        if len(self._message) + len(data) > MESSAGE_BYTES_MAX:
            self._message = None
        else:
            self._message += data

    def digest(self) -> bytearray | None:
        return self._message


@dataclass(frozen=True, slots=True)
class Verdict:
    """`key` and `algorithm` are set only if the signature is valid."""

    message: str
    key: Key | None = None
    algorithm: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """The configured permissions, and whether the caller still waits."""

    rsa_pkcs1v15: bool = False
    abandoned: threading.Event = field(default_factory=threading.Event)


class Claim(Protocol):
    def hashers(self, trusted: TrustedKeys) -> Hashers:
        """Returns the named hashers to feed with the whole firmware."""
        ...

    def judge(self, trusted: TrustedKeys, digests: Digests, rules: Rules) -> Verdict: ...


def prove(key: Key, signature: bytes, digest: Digest, name: str, *, pkcs1v15: bool = False) -> str:
    """Returns the algorithm's name if `key` signed the digest of hash `name`, else "".

    Only for ECDSA and RSA keys. pkcs1v15 selects RSA's older padding instead of PSS.
    """
    algorithm = HASHES[name]()
    prehashed = Prehashed(algorithm)
    public = key.public
    try:
        if isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(signature, digest, ec.ECDSA(prehashed))
            return f"ECDSA-{CURVE_NAMES[key.kind]}-{name.upper()}"
        if isinstance(public, rsa.RSAPublicKey):
            if pkcs1v15:
                public.verify(signature, bytes(digest), padding.PKCS1v15(), prehashed)
                return f"RSA-PKCS1v15-{name.upper()}"
            pss = padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO)
            public.verify(signature, bytes(digest), pss, prehashed)
            return f"RSA-PSS-{name.upper()}"
    except (InvalidSignature, ValueError):
        return ""
    return ""


def prove_ed25519(key: Key, signature: bytes, message: Digest) -> bool:
    """OpenSSL rejects S at or above the group's order, a non-canonical R, and an A off the curve.
    `keys` rejects the other unsound keys."""
    if not isinstance(key.public, ed25519.Ed25519PublicKey):
        return False
    try:
        key.public.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def prove_message(key: Key, signature: bytes, digests: Digests, rules: Rules) -> bool:
    """Checks Ed25519 over the file itself. Raises AbandonedError if the caller has gone."""
    if rules.abandoned.is_set():
        raise AbandonedError
    return prove_ed25519(key, signature, digests[MESSAGE])


def too_long() -> Verdict:
    return Verdict(
        f"The firmware file is too large for Ed25519 over the file itself: more than "
        f"{MESSAGE_BYTES_MAX >> 20} MiB. Sign it with minisign, which signs a digest."
    )


def accepted(key: Key, algorithm: str, comment: str = "") -> Verdict:
    message = f"Signed by the trusted key {key.name} ({key.id})."
    return Verdict(f"{message} {comment}".rstrip(), key, algorithm)
