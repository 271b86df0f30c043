"""The public keys that this host trusts, read from one directory.

Accepts PEM public keys, PEM certificates (only the key matters, not the dates or the issuer) and
minisign `.pub` files. Skips, with a reason, a file without such a key, a weak key, a key of
another type, and a world-writable file. Each verification reads the directory again: it is
small, and a withdrawn key must stop working at once.
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
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

KEYS_MAX = 64
FILE_BYTES_MAX = 1 << 16
RSA_BITS_MIN = 2048

Kind: TypeAlias = Literal["ed25519", "p256", "p384", "rsa", "minisign"]
Public: TypeAlias = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n.*?-----END \1-----", re.DOTALL)
_CURVES: dict[str, Kind] = {"secp256r1": "p256", "secp384r1": "p384"}
_Y_MODULUS = 2**255 - 19
# The y coordinates of the Ed25519 points of order 1, 2, 4 and 8. Anyone can sign for such a key.
_SMALL_ORDER_Y = frozenset(
    {
        0,
        1,
        _Y_MODULUS - 1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    }
)


@dataclass(frozen=True, slots=True)
class Key:
    """id: 16 hex digits of the SHA-256 of the SubjectPublicKeyInfo, or minisign's id.
    name: the key's file."""

    id: str
    kind: Kind
    public: Public
    name: str


@dataclass(slots=True)
class TrustedKeys:
    """refused: the skipped files' names, with the reason for the log."""

    keys: list[Key] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def of(self, *kinds: Kind) -> list[Key]:
        return [key for key in self.keys if key.kind in kinds]


class UnfitKeyError(Exception):
    """The reason why a file's key is not trusted."""


def load(directory: str) -> TrustedKeys:
    """Returns no keys if no directory is configured or it is unreadable."""
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
            raise UnfitKeyError("it is world-writable (chmod o-w)")
        data = os.read(file, FILE_BYTES_MAX + 1)
    finally:
        os.close(file)
    if len(data) > FILE_BYTES_MAX:
        raise UnfitKeyError(f"larger than {FILE_BYTES_MAX} bytes")
    return data


def parse(data: bytes, name: str) -> list[Key]:
    """Raises UnfitKeyError if any key in the file is unfit."""
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
            raise UnfitKeyError(f"{label.lower()}: only public keys and certificates are accepted")
    except (ValueError, UnsupportedAlgorithm):
        raise UnfitKeyError("the key is damaged or of an unknown type") from None
    kind, key = classify(public)
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if isinstance(key, ed25519.Ed25519PublicKey):
        _check_point(key.public_bytes_raw())
    return Key(hashlib.sha256(spki).hexdigest()[:16], kind, key, name)


def classify(public: object) -> tuple[Kind, Public]:
    if isinstance(public, ed25519.Ed25519PublicKey):
        return "ed25519", public
    if isinstance(public, ec.EllipticCurvePublicKey):
        kind = _CURVES.get(public.curve.name)
        if kind is None:
            raise UnfitKeyError(f"curve {public.curve.name}: only P-256 and P-384 are accepted")
        return kind, public
    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size < RSA_BITS_MIN:
            raise UnfitKeyError(f"RSA key of {public.key_size} bits, minimum {RSA_BITS_MIN}")
        return "rsa", public
    raise UnfitKeyError("only Ed25519, ECDSA and RSA keys are accepted")


def _minisign(data: bytes, name: str) -> Key:
    """The format: a comment, then base64 of "Ed", the key id (8 bytes) and the key (32)."""
    lines = data.splitlines()
    try:
        decoded = base64.b64decode(lines[1], validate=True)
    except (IndexError, binascii.Error):
        decoded = b""
    if len(decoded) != 42 or decoded[:2] != b"Ed":
        raise UnfitKeyError("the minisign public key is damaged")
    raw = decoded[10:]
    _check_point(raw)
    public = ed25519.Ed25519PublicKey.from_public_bytes(raw)
    return Key(minisign_id(decoded[2:10]), "minisign", public, name)


def minisign_id(raw: bytes) -> str:
    """Returns the id as minisign prints it."""
    return f"{int.from_bytes(raw, 'little'):016X}"


def _check_point(raw: bytes) -> None:
    """Rejects what OpenSSL accepts: small order, and a y that RFC 8032 §5.1.3 forbids. OpenSSL
    rejects a key off the curve when it verifies."""
    y = int.from_bytes(raw, "little") & (1 << 255) - 1
    if y >= _Y_MODULUS or y in _SMALL_ORDER_Y:
        raise UnfitKeyError("an Ed25519 key of small order or in a non-canonical encoding")
