"""A process that replies to one subject at once: the control of tests that measure an agent's
replies. It shows what a reply takes at least, with the load that the machine has at that moment."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nats.aio.msg import Msg

from netsonde.bus.credentials import Login
from netsonde.bus.nats_client import GuardedClient
from netsonde.config.sections import NatsSection


@contextmanager
def echoing(url: str, subject: str, key: Path | None = None) -> Iterator[None]:
    """Returns when the process has subscribed."""
    words = [sys.executable, __file__, url, subject, *([str(key)] if key else [])]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.kill()


async def echo(url: str, subject: str, key: str = "") -> None:
    client = GuardedClient()
    client.login = Login(NatsSection(nkey=key))

    async def reply(message: Msg) -> None:
        await client.publish(message.reply, b"{}")

    await client.connect(url, **client.login.options)
    await client.subscribe(subject, cb=reply)
    await client.flush()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(echo(*sys.argv[1:]))
