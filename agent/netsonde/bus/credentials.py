"""NATS login of the agent and the commands: creds file, nkey, password, token, or none.

Each secret is in a separate file, which is read at every connect. A rotated secret needs no
restart. A file that group or others can read is rejected. Errors name the configuration key and
never contain the secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

from ..config.paths import access_fault
from ..config.sections import NatsSection
from ..errors import ConfigError
from . import nkey

SECRET_BYTES_MAX = 1 << 16

_JWT = re.compile(r"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END NATS USER JWT-+")
_SEED = re.compile(r"-+BEGIN USER NKEY SEED-+\s+(\S+)\s+-+END USER NKEY SEED-+")
_BARE_SEED = re.compile(r"^\s*(SU[A-Z2-7]+)\s*$", re.MULTILINE)
_T = TypeVar("_T")


class Login:
    """The login of one [nats] section. Every property reads the files again.

    `fields` are CONNECT fields by nats-py's names."""

    def __init__(self, settings: NatsSection) -> None:
        self._settings = settings

    @property
    def fields(self) -> dict[str, str]:
        settings = self._settings
        if settings.password_file:
            secret = _secret("password_file", settings.password_file)
            return {"user": settings.user, "password": secret}
        if settings.token_file:
            return {"token": _secret("token_file", settings.token_file)}
        return {}

    @property
    def public_nkey(self) -> str | None:
        if not self._settings.nkey:
            return None
        return _with_seed("nkey", self._settings.nkey, nkey.public_key)

    @property
    def options(self) -> dict[str, Any]:
        """Options of nats-py's connect. Reads every file, so errors show before connecting."""
        settings = self._settings
        options: dict[str, Any] = dict(self.fields)
        if settings.tls_key:
            _text("tls_key", settings.tls_key)
        if settings.creds:
            credentials = Credentials(settings.creds)
            options["user_jwt_cb"] = credentials.jwt
            options["signature_cb"] = credentials.sign
        elif self.public_nkey is not None:
            options["signature_cb"] = self._sign
        return options

    def _sign(self, nonce: str) -> bytes:
        return _with_seed("nkey", self._settings.nkey, lambda seed: nkey.sign(seed, nonce))


class Credentials:
    """A NATS credentials file. Returns its JWT and signs with its seed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._read()

    def jwt(self) -> bytes:
        return self._read()[0].encode()

    def sign(self, nonce: str) -> bytes:
        """Returns the signature in base64, for CONNECT."""
        try:
            return nkey.sign(self._read()[1], nonce)
        except nkey.DamagedSeedError as error:
            raise ConfigError(f"nats.creds: {self._path}: {error}") from None

    def _read(self) -> tuple[str, str]:
        text = _text("creds", self._path)
        jwt, seed = _JWT.search(text), _SEED.search(text)
        if jwt is None or seed is None:
            raise ConfigError(f"nats.creds: {self._path} holds no user JWT or no seed")
        return jwt[1], seed[1]


def _with_seed(key: str, path: str, work: Callable[[str], _T]) -> _T:
    """Calls `work` with the seed from a seed file or a creds file."""
    text = _text(key, path)
    seed = _SEED.search(text) or _BARE_SEED.search(text)
    if seed is None:
        raise ConfigError(f"nats.{key}: {path} holds no user's nkey seed")
    try:
        return work(seed[1])
    except nkey.DamagedSeedError as error:
        raise ConfigError(f"nats.{key}: {path}: {error}") from None


def _secret(key: str, path: str) -> str:
    secret = _text(key, path).strip()
    if not secret:
        raise ConfigError(f"nats.{key}: {path} is empty")
    return secret


def _text(key: str, path: str) -> str:
    """Returns the text of a secret file. Raises ConfigError, also if others could read it."""
    try:
        # O_NONBLOCK: opening a FIFO must not block.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        with open(fd, encoding="utf-8") as file:
            fault = access_fault(os.fstat(fd), any_owner=os.geteuid() == 0)
            if fault:
                raise ConfigError(f"nats.{key}: {path}: {fault}")
            return file.read(SECRET_BYTES_MAX)
    except UnicodeDecodeError:
        raise ConfigError(f"nats.{key}: {path} is not text") from None
    except OSError as error:
        raise ConfigError(f"nats.{key}: {path}: {error.strerror}") from None
