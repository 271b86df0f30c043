"""Credentials files: parsing, and signatures that nats-server accepts."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from deadlines import TIMEOUT_SEC
from identities import ACCOUNT, USER, Identity, Operation, creds, secret_file
from netsonde.bus import nkey
from netsonde.bus.connection import Connection
from netsonde.bus.credentials import Credentials, Login
from netsonde.bus.embedded import EmbeddedServer
from netsonde.config.sections import NatsSection
from netsonde.errors import ConfigError


async def test_server_with_an_operator_accepts_the_credentials(tmp_path: Path) -> None:
    operation = Operation()
    user = Identity(USER)
    path = creds(tmp_path, operation.user_jwt(user), user.seed)
    async with EmbeddedServer(config=operation.server_config()) as server:
        settings = NatsSection(servers=[server.url], creds=str(path))
        connection = Connection(settings, host="alpha", purpose="test")
        task = asyncio.create_task(connection.run())
        await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
        assert await connection.barrier(TIMEOUT_SEC)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_credentials_reads_jwt_and_seed(tmp_path: Path) -> None:
    user = Identity(USER)
    found = Credentials(str(creds(tmp_path, "the.jwt.text", user.seed)))
    assert found.jwt() == b"the.jwt.text"
    user.key.public_key().verify(base64.b64decode(found.sign("nonce")), b"nonce")


def test_damaged_or_non_user_seed_raises(tmp_path: Path) -> None:
    good = Identity(USER).seed
    # Not the last letter, because two of its bits are padding.
    damaged = good[:20] + ("A" if good[20] != "A" else "B") + good[21:]
    for seed in (Identity(ACCOUNT).seed, damaged, good[:-8], "SU!!"):
        with pytest.raises(nkey.DamagedSeedError, match="seed"):
            nkey.seed_bytes(seed)
        with pytest.raises(ConfigError, match="seed"):
            Credentials(str(creds(tmp_path, "jwt", seed))).sign("nonce")


def test_make_seed_makes_a_user_seed() -> None:
    seed = nkey.make_seed()
    assert seed.startswith("SU")
    assert len(seed) == 58
    public = nkey.public_key(seed)
    assert public.startswith("U")
    key = Ed25519PublicKey.from_public_bytes(base64.b32decode(public)[1:33])
    key.verify(base64.b64decode(nkey.sign(seed, "nonce")), b"nonce")


def test_each_login_method(tmp_path: Path) -> None:
    seed = secret_file(tmp_path / "seed", f"# the agent's\n{nkey.make_seed()}\n")
    secret = secret_file(tmp_path / "secret", "s3cret\n")
    assert Login(NatsSection()).options == {}
    by_password = Login(NatsSection(user="a", password_file=str(secret)))
    assert by_password.options == {"user": "a", "password": "s3cret"}
    secret.write_text("rotated")
    assert by_password.fields["password"] == "rotated"
    assert Login(NatsSection(token_file=str(secret))).options == {"token": "rotated"}
    by_nkey = Login(NatsSection(nkey=str(seed)))
    assert by_nkey.public_nkey == nkey.public_key(seed.read_text().split("\n")[1])
    assert by_nkey.options["signature_cb"]("nonce")


@pytest.mark.parametrize("key", ["nkey", "token_file", "password_file"])
def test_unreadable_secret_error_names_the_key_only(tmp_path: Path, key: str) -> None:
    path = tmp_path / "secret"
    for content in (None, b"", b"\xff\xfe"):
        if content is not None:
            secret_file(path).write_bytes(content)
        keys: dict[str, Any] = {key: str(path)}
        with pytest.raises(ConfigError, match=f"nats.{key}"):
            _ = Login(NatsSection(**keys)).options


@pytest.mark.parametrize("text", ["", "-----BEGIN NATS USER JWT-----\nx\n"])
def test_file_without_credentials_raises(tmp_path: Path, text: str) -> None:
    path = secret_file(tmp_path / "agent.creds", text)
    with pytest.raises(ConfigError, match="holds no user JWT"):
        Credentials(str(path))


def test_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nats\.creds"):
        Credentials(str(tmp_path / "absent"))


@pytest.mark.parametrize("mode", [0o666, 0o640, 0o604, 0o620, 0o610])
@pytest.mark.parametrize("key", ["creds", "nkey", "password_file", "token_file", "tls_key"])
def test_secret_that_others_can_access_is_rejected(tmp_path: Path, key: str, mode: int) -> None:
    user = Identity(USER)
    path = creds(tmp_path, "the.jwt.text", user.seed)
    keys: dict[str, Any] = {key: str(path)}
    _ = Login(NatsSection(**keys)).options
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"nats\.{key}: {path}: mode {mode:04o}, expected 0600"):
        _ = Login(NatsSection(**keys)).options
    path.chmod(0o400)
    _ = Login(NatsSection(**keys)).options


def test_fifo_is_rejected_without_waiting_for_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        _ = Login(NatsSection(nkey=str(path))).options
