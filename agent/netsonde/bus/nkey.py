"""NATS nkeys: an Ed25519 key in base32, with a prefix that tells its kind and a CRC-16 behind.

    public  "U…"   prefix 20, 32 bytes                seed  "SU…"   prefixes 18 and 20, 32 bytes

`cryptography` is loaded only when there is a key to make or to sign with.
"""

from __future__ import annotations

import base64
import binascii

_SEED, _USER = 18 << 3, 20 << 3
SEED_BYTES = 32


class DamagedSeedError(Exception):
    """Not the seed of a user's nkey; the text says why."""


def make_seed() -> str:
    """A new user's secret."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    head = bytes([_SEED | _USER >> 5, (_USER & 31) << 3])
    return _encode(head + Ed25519PrivateKey.generate().private_bytes_raw())


def public_key(seed: str) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(seed_bytes(seed))
    return _encode(bytes([_USER]) + key.public_key().public_bytes_raw())


def sign(seed: str, nonce: str) -> bytes:
    """The signature in base64, as CONNECT wants it."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(seed_bytes(seed))
    return base64.b64encode(key.sign(nonce.encode()))


def seed_bytes(seed: str) -> bytes:
    """The 32 secret bytes of a user's seed."""
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 36 or binascii.crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little"):
        raise DamagedSeedError("the seed is damaged")
    if (raw[0] & 0xF8, (raw[0] & 7) << 5 | raw[1] >> 3) != (_SEED, _USER):
        raise DamagedSeedError("the seed is not a user's")
    return raw[2:-2]


def _encode(body: bytes) -> str:
    checked = body + binascii.crc_hqx(body, 0).to_bytes(2, "little")
    return base64.b32encode(checked).decode().rstrip("=")
