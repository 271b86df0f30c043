"""Masks secrets in text: those that this host knows, and everything that looks like one.

Known secrets are the contents of the files that the configuration names, passwords in URLs, and
values of keys and variables whose name says so. They are masked as they are, and in base64, in hex
and quoted for URLs and JSON.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import tomllib
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from ...bus.embedded_login import state_directories
from ...config.file import DEFAULT_PATH
from ...config.masking import MASK
from ...config.masking import mask as mask_urls
from ...config.sections import Config

LENGTH_MIN = 4  # a shorter one would mask parts of other words
FILE_BYTES_MAX = 1 << 20
KEY_FILES_MAX = 1000
SECRET_NAME = re.compile(r"pass|token|secret|seed|creds|nkey|private|credential", re.IGNORECASE)
# Lines of credential files that are the same for everybody.
PUBLIC_LINE = re.compile(r"[-*=# ]|IMPORTANT|NKEYs are|Any compromise", re.IGNORECASE)
LOOKS_SECRET = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S),
    re.compile(r"\bS[UANOCXP][A-Z2-7]{56}\b"),  # an nkey seed
    re.compile(r"\beyJ[\w-]{10,}\.[\w-]{10,}(\.[\w-]*)?"),  # a JWT
    re.compile(r"\bRWRTY0I[\w+/=]{20,}"),  # a minisign secret key
)
# `password=…`, `"token": "…"`, `Authorization: Bearer …`. A path is not masked.
ASSIGNED = re.compile(
    r"(?P<key>[\w-]*(?:password|passwd|passphrase|token|secret|authorization|api[_-]?key)[\w-]*"
    r"[\"']?\s*[=:]\s*)(?P<value>\"(?:[^\"\\]|\\.)*\"|'[^']*'|(?:Bearer |Basic )?[^\s\"',;/]+)",
    re.IGNORECASE,
)
PLAIN_VALUE = re.compile(r"[\"']?(/.*|true|false|null|none|\d{1,3}|)[\"']?", re.IGNORECASE)


class Masker:
    def __init__(self, secrets: Iterable[bytes]) -> None:
        forms = {form for secret in secrets for form in spelled(secret)}
        self._known = sorted(forms, key=len, reverse=True)

    def mask(self, text: str) -> str:
        for form in self._known:
            text = text.replace(form, MASK)
        for pattern in LOOKS_SECRET:
            text = pattern.sub(MASK, text)
        return ASSIGNED.sub(_assigned, mask_urls(text))


def _assigned(found: re.Match[str]) -> str:
    value = found["value"]
    if PLAIN_VALUE.fullmatch(value):
        return found[0]
    mark = value[0] if value[0] in "\"'" else ""
    return f"{found['key']}{mark}{MASK}{mark}"


def spelled(secret: bytes) -> Iterator[str]:
    """Yields the forms in which a program may print a secret."""
    if len(secret) < LENGTH_MIN:
        return
    yield secret.hex()
    yield secret.hex().upper()
    yield base64.b64encode(secret).decode().rstrip("=")
    yield base64.urlsafe_b64encode(secret).decode().rstrip("=")
    with contextlib.suppress(UnicodeDecodeError):
        text = secret.decode()
        yield from {text, quote(text), quote(text, safe=""), unquote(text)}
        for ascii_only in (True, False):
            yield json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield repr(text)[1:-1]


# ---- known secrets -----------------------------------------------------------------------------


def find_secrets(path: Path | None, settings: Config, args: Namespace) -> list[bytes]:
    """Returns the secrets that this host knows. A file that cannot be read has none to leak."""
    raw = read_raw(path or DEFAULT_PATH)
    texts = [*strings(raw, ""), ("", os.environ.get("NATS_URL", ""))]
    texts += [(key, value) for key, value in os.environ.items() if key.startswith("NETSONDE__")]
    texts += [(key, str(value)) for key, value in vars(args).items() if isinstance(value, str)]
    texts += [("nats.servers", server) for server in settings.nats.servers]
    texts += [("flows.servers", server) for server in settings.flows.servers]
    found: list[bytes] = []
    for key, text in texts:
        found += in_urls(text)
        if SECRET_NAME.search(key):
            # A file's name stays. A secret in place of the name is masked.
            found += in_file(Path(text)) if os.path.exists(text) else []
            found += [text.encode()] if not text.startswith(("/", "./", "../")) else []
    for file in secret_files(settings, raw):
        found += in_file(file)
    return found


def read_raw(path: Path) -> dict[str, Any]:
    """Returns the tables of the file, also of one that is not a valid configuration. A file that
    is not TOML counts as one table of strings."""
    try:
        text = path.read_text(errors="replace")
        return tomllib.loads(text)
    except OSError:
        return {}
    except tomllib.TOMLDecodeError:
        return dict(re.findall(r"^\s*([\w.-]+)\s*=\s*[\[\"' ]*([^\"'\n]*)", text, re.M))


def strings(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yields the strings of nested tables with the name of their key."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from strings(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner, key)
    elif isinstance(value, str):
        yield key, value


def in_urls(text: str) -> list[bytes]:
    """Returns the passwords and tokens of a list of URLs."""
    found = []
    for one in text.replace('"', " ").replace("'", " ").replace(",", " ").split():
        with contextlib.suppress(ValueError):
            login = urlsplit(one).netloc.rpartition("@")[0]
            secret = login.partition(":")[2] or login
            found += [secret.encode(), unquote(secret).encode()] if secret else []
    return found


def secret_files(settings: Config, raw: dict[str, Any]) -> Iterator[Path]:
    nats = settings.nats
    for name in (nats.creds, nats.nkey, nats.password_file, nats.token_file, nats.tls_key):
        yield Path(name)
    directories = set(settings.encryption.key_dirs)
    directories |= {text for key, text in strings(raw, "") if key == "key_dirs"}
    for directory in sorted(directories):
        yield from inside(Path(directory))[:KEY_FILES_MAX]
    for state in state_directories():
        yield from (one for one in inside(state) if one.suffix in (".nkey", ".creds"))


def inside(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def in_file(path: Path) -> list[bytes]:
    """Returns the content of a secret's file, and each line of it."""
    try:
        if not path.is_file() or path.stat().st_size > FILE_BYTES_MAX:
            return []
        content = path.read_bytes()
    except (OSError, ValueError):
        return []
    lines = [line.strip() for line in content.splitlines()]
    kept = [line for line in lines if not PUBLIC_LINE.match(line.decode(errors="replace"))]
    return [content, content.strip(), *kept]
