"""NATS nkeys: a prefix for the kind, an Ed25519 key and a CRC-16, in base32.

    public  "U…"   prefix 20, 32 bytes                seed  "SU…"   prefixes 18 and 20, 32 bytes

Users have the prefix 20 ("U"), accounts 0 ("A"), operators 14 ("O").

`cryptography` is imported only when a key is made or used.
"""

from __future__ import annotations

import base64
import binascii

_SEED = 18 << 3
USER, ACCOUNT, OPERATOR = 20 << 3, 0, 14 << 3
_NAMES = {USER: "a user", ACCOUNT: "an account", OPERATOR: "an operator"}
SEED_BYTES = 32


class DamagedSeedError(Exception):
    """The text is not the seed of an nkey of the expected kind."""


def make_seed(kind: int = USER) -> str:
    """Returns a new seed."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    head = bytes([_SEED | kind >> 5, (kind & 31) << 3])
    return _encode(head + Ed25519PrivateKey.generate().private_bytes_raw())


def public_key(seed: str, kind: int = USER) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(seed_bytes(seed, kind))
    return _encode(bytes([kind]) + key.public_key().public_bytes_raw())


def is_public(text: str, kind: int = USER) -> bool:
    """Returns whether the text is a public key of this kind."""
    raw = _decode(text)
    return len(raw) == 35 and raw[0] == kind and _checked(raw)


def sign(seed: str, nonce: str) -> bytes:
    """Returns the signature in base64, for CONNECT."""
    return base64.b64encode(raw_signature(seed, nonce.encode()))


def raw_signature(seed: str, data: bytes, kind: int = USER) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed_bytes(seed, kind)).sign(data)


def seed_bytes(seed: str, kind: int = USER) -> bytes:
    """Returns the 32 secret bytes of a seed of this kind. Raises DamagedSeedError."""
    raw = _decode(seed)
    if len(raw) != 36 or not _checked(raw):
        raise DamagedSeedError("the seed is malformed or its checksum is wrong")
    if (raw[0] & 0xF8, (raw[0] & 7) << 5 | raw[1] >> 3) != (_SEED, kind):
        raise DamagedSeedError(f"the seed does not belong to {_NAMES[kind]}")
    return raw[2:-2]


def _encode(body: bytes) -> str:
    checked = body + binascii.crc_hqx(body, 0).to_bytes(2, "little")
    return base64.b32encode(checked).decode().rstrip("=")


def _decode(text: str) -> bytes:
    try:
        return base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        return b""


def _checked(raw: bytes) -> bool:
    return binascii.crc_hqx(raw[:-2], 0) == int.from_bytes(raw[-2:], "little")
