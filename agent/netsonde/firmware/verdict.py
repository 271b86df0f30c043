"""What a signature format owes the verification: which digests it wants, and a verdict.

A `Claim` is a signature file that has been understood, before the firmware is read. Digests
are named; `sha256` is always made. `prove` checks one digest against one key by the one
algorithm that the key's type allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from .keys import Key, Kind, TrustedKeys


class Hasher(Protocol):
    """What hashlib's objects have in common."""

    def update(self, data: memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


Hashers: TypeAlias = dict[str, Hasher]
Digests: TypeAlias = Mapping[str, bytes]
HashAlgorithm: TypeAlias = hashes.SHA256 | hashes.SHA384 | hashes.SHA512

HASHES: dict[str, type[HashAlgorithm]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
CURVE_NAMES: dict[Kind, str] = {"p256": "P256", "p384": "P384"}


class MalformedSignatureError(Exception):
    """The signature file is of no known form; the text is for the reply."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`key` and `algorithm` only of a signature that holds."""

    message: str
    key: Key | None = None
    algorithm: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration leaves to choose."""

    rsa_pkcs1v15: bool = False


class Claim(Protocol):
    def hashers(self, trusted: TrustedKeys) -> Hashers:
        """States to feed with the whole firmware, by name."""
        ...

    def judge(self, trusted: TrustedKeys, digests: Digests, rules: Rules) -> Verdict: ...


def prove(key: Key, signature: bytes, digest: bytes, name: str, *, pkcs1v15: bool = False) -> str:
    """The algorithm's name if the signature over a digest of hash `name` is the key's, else "".
    Of ECDSA and RSA keys only. pkcs1v15: RSA's older padding instead of PSS."""
    algorithm = HASHES[name]()
    prehashed = Prehashed(algorithm)
    public = key.public
    try:
        if isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(signature, digest, ec.ECDSA(prehashed))
            return f"ECDSA-{CURVE_NAMES[key.kind]}-{name.upper()}"
        if isinstance(public, rsa.RSAPublicKey):
            if pkcs1v15:
                public.verify(signature, digest, padding.PKCS1v15(), prehashed)
                return f"RSA-PKCS1v15-{name.upper()}"
            pss = padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO)
            public.verify(signature, digest, pss, prehashed)
            return f"RSA-PSS-{name.upper()}"
    except (InvalidSignature, ValueError):
        return ""
    return ""


def accepted(key: Key, algorithm: str, comment: str = "") -> Verdict:
    message = f"Signed by the trusted key {key.name} ({key.id})."
    return Verdict(f"{message} {comment}".rstrip(), key, algorithm)
