"""A TCP proxy in front of a nats-server that cuts connections after a number of bytes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Proxy:
    """cut_after: bytes to the client after which its connection is cut, once for each entry.
    sent: bytes to the client so far. down: new connections are cut at once."""

    def __init__(self, port: int, *cut_after: int) -> None:
        self.server_port = port
        self.cuts = list(cut_after)
        self.sent = 0
        self.connections = 0
        self.down = False
        self.down_after_cuts = False
        self.port = 0
        self.tasks: list[asyncio.Task[None]] = []

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.down:
            writer.transport.abort()
            return
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        theirs, ours = await asyncio.open_connection("127.0.0.1", self.server_port)
        up = asyncio.create_task(copy(reader, ours))
        try:
            while data := await theirs.read(65536):
                self.sent += len(data)
                writer.write(data)
                await writer.drain()
                if self.cuts and self.sent >= self.cuts[0]:
                    self.cuts.pop(0)
                    self.down = self.down_after_cuts and not self.cuts
                    break
        except OSError:
            pass
        finally:
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)
            for one in (writer, ours):
                one.transport.abort()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def proxied(port: int, *cut_after: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(port, *cut_after)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in proxy.tasks:
            task.cancel()
        await asyncio.gather(*proxy.tasks, return_exceptions=True)
