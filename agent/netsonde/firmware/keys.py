"""The public keys that this host trusts, read from one directory.

PEM public keys, PEM certificates (only their key counts, not their dates or their issuer)
and minisign `.pub` files. A file that holds none of them, a key that is weak or of a kind
that is not taken, and a file that anyone may write are left out, each with its reason.
Read anew for each verification: the directory is small, and a withdrawn key must not linger.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from .ed25519 import is_sound

KEYS_MAX = 64
FILE_BYTES_MAX = 1 << 16
RSA_BITS_MIN = 2048

Kind: TypeAlias = Literal["ed25519", "p256", "p384", "rsa", "minisign"]
Public: TypeAlias = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n.*?-----END \1-----", re.DOTALL)
_CURVES: dict[str, Kind] = {"secp256r1": "p256", "secp384r1": "p384"}


@dataclass(frozen=True, slots=True)
class Key:
    """`id`: 16 hex digits of the SHA-256 of the SubjectPublicKeyInfo, or minisign's own.
    `raw`: an Ed25519 key's 32 bytes. `name`: the file it came from."""

    id: str
    kind: Kind
    public: Public
    raw: bytes
    name: str


@dataclass(slots=True)
class TrustedKeys:
    """`refused`: file names with the reason, for the log."""

    keys: list[Key] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def of(self, *kinds: Kind) -> list[Key]:
        return [key for key in self.keys if key.kind in kinds]


class UnfitKeyError(Exception):
    """Why a file's key is not taken."""


def load(directory: str) -> TrustedKeys:
    """Empty when no directory is configured or it cannot be read."""
    trusted = TrustedKeys()
    if not directory:
        return trusted
    try:
        files = sorted(os.fsencode(name) for name in os.listdir(directory))
    except OSError as error:
        trusted.refused[directory] = os.strerror(error.errno or 0)
        return trusted
    for file in files:
        name = file.decode(errors="replace")
        if name.startswith("."):
            continue
        try:
            found = parse(_read(os.fsencode(directory) + b"/" + file), name)
            if len(trusted.keys) + len(found) > KEYS_MAX:
                raise UnfitKeyError(f"more than {KEYS_MAX} keys")
            trusted.keys += found
        except OSError as error:
            trusted.refused[name] = os.strerror(error.errno or 0)
        except UnfitKeyError as error:
            trusted.refused[name] = str(error)
    return trusted


def _read(path: bytes) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise UnfitKeyError("not a regular file")
        if status.st_mode & stat.S_IWOTH:
            raise UnfitKeyError("anyone may write it")
        data = os.read(file, FILE_BYTES_MAX + 1)
    finally:
        os.close(file)
    if len(data) > FILE_BYTES_MAX:
        raise UnfitKeyError("too large for a key")
    return data


def parse(data: bytes, name: str) -> list[Key]:
    """Raises UnfitKeyError; one bad key spoils its file."""
    if data.startswith(b"untrusted comment:"):
        return [_minisign(data, name)]
    blocks = list(_BLOCK.finditer(data))
    if not blocks:
        raise UnfitKeyError("neither PEM nor a minisign public key")
    return [_pem(block[0], block[1].decode(), name) for block in blocks]


def _pem(block: bytes, label: str, name: str) -> Key:
    try:
        if label == "CERTIFICATE":
            public: object = x509.load_pem_x509_certificate(block).public_key()
        elif label == "PUBLIC KEY":
            public = load_pem_public_key(block)
        else:
            raise UnfitKeyError(f"{label.lower()}: only public keys and certificates are taken")
    except (ValueError, UnsupportedAlgorithm):
        raise UnfitKeyError("a damaged key, or of a kind that is not known") from None
    kind, key = classify(public)
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    raw = b""
    if isinstance(key, ed25519.Ed25519PublicKey):
        raw = key.public_bytes_raw()
        _check_point(raw)
    return Key(hashlib.sha256(spki).hexdigest()[:16], kind, key, raw, name)


def classify(public: object) -> tuple[Kind, Public]:
    if isinstance(public, ed25519.Ed25519PublicKey):
        return "ed25519", public
    if isinstance(public, ec.EllipticCurvePublicKey):
        kind = _CURVES.get(public.curve.name)
        if kind is None:
            raise UnfitKeyError(f"curve {public.curve.name}: only P-256 and P-384 are taken")
        return kind, public
    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size < RSA_BITS_MIN:
            raise UnfitKeyError(f"RSA of {public.key_size} bits: at least {RSA_BITS_MIN} are taken")
        return "rsa", public
    raise UnfitKeyError("only Ed25519, ECDSA and RSA keys are taken")


def _minisign(data: bytes, name: str) -> Key:
    """A comment, then base64 of "Ed", the key's id (8 bytes) and the key (32)."""
    lines = data.splitlines()
    try:
        decoded = base64.b64decode(lines[1], validate=True)
    except (IndexError, binascii.Error):
        decoded = b""
    if len(decoded) != 42 or decoded[:2] != b"Ed":
        raise UnfitKeyError("a damaged minisign public key")
    raw = decoded[10:]
    _check_point(raw)
    public = ed25519.Ed25519PublicKey.from_public_bytes(raw)
    return Key(minisign_id(decoded[2:10]), "minisign", public, raw, name)


def minisign_id(raw: bytes) -> str:
    """As minisign shows it."""
    return f"{int.from_bytes(raw, 'little'):016X}"


def _check_point(raw: bytes) -> None:
    if not is_sound(raw):
        raise UnfitKeyError("not a sound Ed25519 key")
