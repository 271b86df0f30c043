"""Passes a sealing key from its file to the core, with the state for the reply.

The key exists from the check of a request until the request succeeded or failed, and is then
zeroised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.packets import key_id, seal_with
from ..errors import RequestError, UnsupportedCipher
from ..wire.replies import EncryptionState
from ..wire.requests import EncryptionOptions
from .key_file import read_key, zeroise

CIPHER_SUITES = ("AES-256-GCM",)


class Sealing:
    def __init__(self, request: EncryptionOptions, key: bytearray) -> None:
        self._key = key
        self.state = EncryptionState(
            cipher_suite=request.cipher_suite, key_file=request.key_file, key_id=key_id(key)
        )

    def apply(self, handle: Any) -> None:
        """Sets the key in the core. Blocks."""
        seal_with(handle, self.state.cipher_suite, self._key)

    def apply_once(self, handle: Any) -> None:
        """Applies and zeroises the key. For a thread whose caller may be cancelled."""
        try:
            self.apply(handle)
        finally:
            self.forget()

    def forget(self) -> None:
        zeroise(self._key)


def read_sealing(directories: Sequence[str], request: EncryptionOptions, at: str) -> Sealing | None:
    """Returns None if the request turns encryption off. `at` is the request's JSON path. Raises
    UnsupportedCipher, PathNotAllowed or InvalidKey."""
    if request.cipher_suite not in CIPHER_SUITES:
        raise UnsupportedCipher(field=f"{at}.cipher_suite")
    if not request.enable:
        return None
    try:
        return Sealing(request, read_key(directories, request.key_file))
    except RequestError as error:
        error.field = f"{at}.key_file"
        raise
