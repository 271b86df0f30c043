"""A key on its way from its file into the core, with what is said about it.

The key lives from the check of a request to its carrying out, and is zeroised then, whatever
came of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.packets import key_id, seal_with
from ..errors import RequestError, UnsupportedCipher
from ..wire.replies import EncryptionState
from ..wire.requests import EncryptionRequest
from .key_file import read_key, zeroise

CIPHER_SUITES = ("AES-256-GCM",)


class Sealing:
    def __init__(self, request: EncryptionRequest, key: bytearray) -> None:
        self._key = key
        self.state = EncryptionState(
            cipher_suite=request.cipher_suite, key_file=request.key_file, key_id=key_id(key)
        )

    def apply(self, handle: Any) -> None:
        """Blocks; see core_buffer.seal_with."""
        seal_with(handle, self.state.cipher_suite, self._key)

    def apply_once(self, handle: Any) -> None:
        """For a thread whose caller may go away: the key is forgotten here."""
        try:
            self.apply(handle)
        finally:
            self.forget()

    def forget(self) -> None:
        zeroise(self._key)


def read_sealing(directories: Sequence[str], request: EncryptionRequest, at: str) -> Sealing | None:
    """None: turned off, for which no key is needed. at: JSON path of the request. Raises
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
