"""NATS identities as an operator has them: nkeys, the JWTs that they sign, creds files.

Written from the published description of the JWTs and verified by nats-server.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

OPERATOR, ACCOUNT, USER, SEED = 14 << 3, 0, 20 << 3, 18 << 3
UNLIMITED = {"subs": -1, "data": -1, "payload": -1}


class Identity:
    """An nkey of one type, encoded as nats-server expects."""

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.key = Ed25519PrivateKey.generate()

    @property
    def public(self) -> str:
        return encoded(bytes([self.kind]) + self.key.public_key().public_bytes_raw())

    @property
    def seed(self) -> str:
        prefix = bytes([SEED | self.kind >> 5, (self.kind & 31) << 3])
        return encoded(prefix + self.key.private_bytes_raw())

    def token(self, subject: str, claims: dict[str, object], **more: object) -> str:
        """Returns a NATS JWT about `subject`, signed by this identity."""
        now = int(time.time())
        body = {"jti": "x", "iat": now, "iss": self.public, "sub": subject, "nats": claims, **more}
        head = segment({"typ": "JWT", "alg": "ed25519-nkey"})
        signed = f"{head}.{segment(body)}"
        signature = base64.urlsafe_b64encode(self.key.sign(signed.encode())).rstrip(b"=")
        return f"{signed}.{signature.decode()}"


def encoded(raw: bytes) -> str:
    checked = raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(checked).rstrip(b"=").decode()


def segment(value: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def creds(directory: Path, jwt: str, seed: str) -> Path:
    return secret_file(
        directory / "agent.creds",
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n",
    )


def secret_file(path: Path, text: str = "") -> Path:
    """Writes a file that only its owner can read."""
    path.touch(0o600)
    path.chmod(0o600)
    path.write_text(text)
    return path


class Operation:
    """An operator with one account, with or without JetStream."""

    def __init__(self, *, jetstream: bool = False) -> None:
        self.jetstream = jetstream
        self.operator, self.account = Identity(OPERATOR), Identity(ACCOUNT)

    def user_jwt(self, user: Identity, *, lives_sec: int = 0) -> str:
        """Returns a creds file. `lives_sec` 0 means that it does not expire."""
        claims: dict[str, object] = {"type": "user", "version": 2, **UNLIMITED}
        expires = {"exp": int(time.time()) + lives_sec} if lives_sec else {}
        return self.account.token(user.public, claims, **expires)

    def server_config(self) -> str:
        limits = {**UNLIMITED, "imports": -1, "exports": -1, "conn": -1, "leaf": -1}
        if self.jetstream:
            limits |= {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        claims: dict[str, object] = {"type": "account", "version": 2, "limits": limits}
        account = self.operator.token(self.account.public, claims)
        operator = self.operator.token(self.operator.public, {"type": "operator", "version": 2})
        preload, system = f"{self.account.public}: {account}", ""
        if self.jetstream:  # the server requires a separate system account
            own = Identity(ACCOUNT)
            claims["limits"] = {**UNLIMITED, "conn": -1}
            preload += f", {own.public}: {self.operator.token(own.public, claims)}"
            system = f"system_account: {own.public}\n"
        return (
            f"operator: {operator}\nresolver: MEMORY\n{system}resolver_preload: {{ {preload} }}\n"
        )
