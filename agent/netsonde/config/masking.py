"""Removes passwords and tokens from text that a command prints or logs."""

from __future__ import annotations

import re
from typing import Any

MASK = "***"

# The login of a URL ends at the last "@" before the path. A password may hold "@" and %-escapes.
_LOGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?P<login>[^\s/\"',]*)@", re.IGNORECASE)


def mask(text: str) -> str:
    """Replaces the password of each URL. A login without a colon is a token, so all of it goes."""
    return _LOGIN.sub(_masked, text)


def mask_all(value: Any) -> Any:
    """Masks each string in lists and dictionaries."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, list):
        return [mask_all(item) for item in value]
    if isinstance(value, dict):
        return {key: mask_all(item) for key, item in value.items()}
    return value


def _masked(found: re.Match[str]) -> str:
    user, colon, _ = found["login"].partition(":")
    return f"{found['scheme']}{user}:{MASK}@" if colon else f"{found['scheme']}{MASK}@"
