"""NATS JWTs: claims as JSON, signed with an nkey.

nats-jwt 0.2.2 was tried: it brings a second cryptography library and eight more packages, to
encode and sign one JSON text.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from ..bus import nkey

VERSION = 2
_HEAD = {"typ": "JWT", "alg": "ed25519-nkey"}


def encode(
    claims: Mapping[str, Any], *, name: str, subject: str, seed: str, kind: int, lives_sec: int = 0
) -> str:
    """Returns a JWT about the public key `subject`. seed, kind: the key that signs. lives_sec: 0
    for a JWT that does not expire."""
    now = int(time.time())
    body: dict[str, Any] = {
        "iat": now,
        "iss": nkey.public_key(seed, kind),
        "name": name,
        "sub": subject,
        "nats": {"version": VERSION, **claims},
    }
    if lives_sec:
        body["exp"] = now + lives_sec
    digest = hashlib.sha256(msgspec.json.encode(body)).digest()
    body["jti"] = base64.b32encode(digest).decode().rstrip("=")
    signed = f"{_segment(_HEAD)}.{_segment(body)}"
    return f"{signed}.{_text(nkey.raw_signature(seed, signed.encode(), kind))}"


def credentials(jwt: str, seed: str) -> str:
    """Returns the text of a .creds file."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )


def _segment(value: Mapping[str, Any]) -> str:
    return _text(msgspec.json.encode(value))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
