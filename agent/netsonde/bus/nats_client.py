"""nats-py's client, kept from ending by what a server or anybody's message brings.

Its read loop ends without a word at what it did not expect, and the connection is deaf from
then on: at a PONG for a flush that was cancelled, at a subject or a status line that is no
text. At a control character in a subject, which nats-server lets through, it drops the
connection. Anybody who may ask anything could do that to all agents at once.
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

# As nats-py's, but only what the protocol says parts words: a control character does not.
parser.MSG_RE = re.compile(
    rb"\AMSG[ \t]+([^ \t\r\n]+)[ \t]+(\d+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)\r\n"
)
parser.HMSG_RE = re.compile(
    rb"\AHMSG[ \t]+([^ \t\r\n]+)[ \t]+(\d+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n"
)


class GuardedClient(Client):
    """Refuses to send CONNECT, and with it credentials, in clear when TLS is configured. Logs
    in with the secrets as they are at that moment; one that cannot be read is an error that
    nats-py's reconnecting survives."""

    tls_expected = False
    login: Login | None = None

    def _connect_command(self) -> bytes:
        if self.tls_expected and not _is_encrypted(self):
            raise nats.errors.Error("nats: the server does not offer TLS")
        try:
            if self.login is not None:
                self.options.update(self.login.fields)
                self._public_nkey = self.login.public_nkey
            return bytes(super()._connect_command())
        except ConfigError as error:
            raise nats.errors.Error(error.detail) from None

    async def _process_pong(self) -> None:
        """As nats-py's, which a PONG for a flush that was cancelled ends the reading of."""
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pings_outstanding = 0
            return
        await super()._process_pong()

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        """As nats-py's, which a status line that is no text ends the reading of."""
        try:
            return await super()._process_headers(headers)
        except (UnicodeDecodeError, IndexError):
            return None

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        """As nats-py's, which a subject that is no text ends the reading of. Nobody can be
        answered on such a one."""
        text = subject.decode(errors="replace").encode()
        answerable = reply.decode(errors="ignore").encode() == reply
        reply_to = reply if answerable else b""
        message: Msg = super()._build_message(sid, text, reply_to, data, headers)
        return message

    async def flush(self, timeout: int = 10) -> None:
        """As nats-py's, but its PING does not overtake what waits for the flusher."""
        async with asyncio.timeout(timeout):
            await self._flush_pending(force_flush=True)
            await super().flush(timeout)


def _is_encrypted(client: Client) -> bool:
    writer = getattr(client._transport, "_io_writer", None)
    return writer is not None and writer.get_extra_info("ssl_object") is not None
