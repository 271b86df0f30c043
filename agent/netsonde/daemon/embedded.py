"""The NATS server of an agent that runs one (`run --embedded-nats`), and the settings for it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from ..bus import nkey
from ..bus.embedded import EmbeddedServer
from ..bus.embedded_login import state_directories, write_seed
from ..config.sections import Config
from ..sinks.jetstream import spool_directory

Reload = Callable[[], Config]
Adapt = Callable[[Config], Config]


@asynccontextmanager
async def embedded_server(settings: Config) -> AsyncIterator[Adapt]:
    """Runs the server with JetStream, which the verb `packets` needs. Yields a function that
    points settings at it.

    The server accepts only the nkey of this run. With `[flows] jetstream` its streams are stored
    next to the spool: the spool deletes what the stream acks, so the stream must outlive the
    agent."""
    flows = settings.flows
    seed = nkey.make_seed()
    server = EmbeddedServer(
        port=_port(settings.nats.servers[0]),
        jetstream=True,
        streams_dir=spool_directory(flows) / "nats" if flows.jetstream else None,
        config=f"authorization {{ users = [ {{ nkey: {nkey.public_key(seed)} }} ] }}\n",
        monitoring=False,
    )
    async with server:
        path = write_seed(state_directories()[0], server.port, seed)
        try:
            yield lambda config: _with_server(config, server.url, str(path))
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def reload_with(reload: Reload | None, adapt: Adapt) -> Reload | None:
    """Adds the embedded server, which is not in the file, to each reload."""
    if reload is None:
        return None
    return lambda: adapt(reload())


def _with_server(settings: Config, url: str, seed_path: str) -> Config:
    login = {"creds": "", "user": "", "password_file": "", "token_file": "", "nkey": seed_path}
    tls = {"tls_ca": "", "tls_cert": "", "tls_key": "", "tls_handshake_first": False}
    nats = msgspec.structs.replace(settings.nats, servers=[url], **login, **tls)
    return msgspec.structs.replace(settings, nats=nats)


def _port(server: str) -> int:
    """The port of a server URL. Port 0 means any free port, which nats-server calls -1."""
    _, _, port = server.rstrip("/").rpartition(":")
    return (int(port) or -1) if port.isdigit() else 4222
