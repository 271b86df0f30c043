"""NATS nkeys: a prefix for the kind, an Ed25519 key and a CRC-16, in base32.

    public  "U…"   prefix 20, 32 bytes                seed  "SU…"   prefixes 18 and 20, 32 bytes

`cryptography` is imported only when a key is made or used.
"""

from __future__ import annotations

import base64
import binascii

_SEED, _USER = 18 << 3, 20 << 3
SEED_BYTES = 32


class DamagedSeedError(Exception):
    """The text is not the seed of a user's nkey."""


def make_seed() -> str:
    """Returns a new user seed."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    head = bytes([_SEED | _USER >> 5, (_USER & 31) << 3])
    return _encode(head + Ed25519PrivateKey.generate().private_bytes_raw())


def public_key(seed: str) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(seed_bytes(seed))
    return _encode(bytes([_USER]) + key.public_key().public_bytes_raw())


def sign(seed: str, nonce: str) -> bytes:
    """Returns the signature in base64, for CONNECT."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(seed_bytes(seed))
    return base64.b64encode(key.sign(nonce.encode()))


def seed_bytes(seed: str) -> bytes:
    """Returns the 32 secret bytes of a user seed. Raises DamagedSeedError."""
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 36 or binascii.crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little"):
        raise DamagedSeedError("the seed is malformed or its checksum is wrong")
    if (raw[0] & 0xF8, (raw[0] & 7) << 5 | raw[1] >> 3) != (_SEED, _USER):
        raise DamagedSeedError("the seed does not belong to a user")
    return raw[2:-2]


def _encode(body: bytes) -> str:
    checked = body + binascii.crc_hqx(body, 0).to_bytes(2, "little")
    return base64.b32encode(checked).decode().rstrip("=")
