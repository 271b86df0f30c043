"""nats-py's client, hardened against malformed messages.

nats-py's read loop ends silently at unexpected input, and the connection then receives nothing:
at a PONG for a cancelled flush, and at a subject or status line that is not UTF-8. nats-server
allows control characters in subjects, and nats-py disconnects at one. Any client with publish
rights could do this to all agents at once.
"""

from __future__ import annotations

import asyncio
import re

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.protocol import parser

from ..errors import ConfigError
from .credentials import Login

# nats-py's patterns, but only space and tab separate words; control characters do not.
parser.MSG_RE = re.compile(
    rb"\AMSG[ \t]+([^ \t\r\n]+)[ \t]+(\d+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)\r\n"
)
parser.HMSG_RE = re.compile(
    rb"\AHMSG[ \t]+([^ \t\r\n]+)[ \t]+(\d+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n"
)


class GuardedClient(Client):
    """Sends CONNECT, and so credentials, only over TLS if TLS is configured. Reads the secrets
    at each login. nats-py retries after a secret that cannot be read."""

    tls_expected = False
    login: Login | None = None

    def _connect_command(self) -> bytes:
        if self.tls_expected and not _is_encrypted(self):
            raise nats.errors.Error("nats: TLS is configured, but the server does not offer it")
        try:
            if self.login is not None:
                self.options.update(self.login.fields)
                self._public_nkey = self.login.public_nkey
            return bytes(super()._connect_command())
        except ConfigError as error:
            raise nats.errors.Error(error.detail) from None

    async def _process_pong(self) -> None:
        """Ignores a PONG for a cancelled flush."""
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pings_outstanding = 0
            return
        await super()._process_pong()

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        """Returns None for a malformed status line."""
        try:
            return await super()._process_headers(headers)
        except (UnicodeDecodeError, IndexError):
            return None

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        """Replaces bytes of the subject that are not UTF-8. Drops such a reply subject."""
        text = subject.decode(errors="replace").encode()
        answerable = reply.decode(errors="ignore").encode() == reply
        reply_to = reply if answerable else b""
        message: Msg = super()._build_message(sid, text, reply_to, data, headers)
        return message

    async def flush(self, timeout: int = 10) -> None:
        """Flushes pending publishes before the PING, which would overtake them."""
        async with asyncio.timeout(timeout):
            await self._flush_pending(force_flush=True)
            await super().flush(timeout)


def _is_encrypted(client: Client) -> bool:
    writer = getattr(client._transport, "_io_writer", None)
    return writer is not None and writer.get_extra_info("ssl_object") is not None
