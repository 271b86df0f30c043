"""The settings of an agent that runs its own NATS server (`run --embedded-nats`)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..bus.embedded import EmbeddedServer
from ..config.sections import Config
from ..sinks.jetstream import spool_directory

Reload = Callable[[], Config]


def embedded_server(settings: Config) -> EmbeddedServer:
    """Returns the server with JetStream, which the verb `packets` needs. With `[flows] jetstream`
    its streams are stored next to the spool: the spool deletes what the stream acks, so the stream
    must outlive the agent."""
    flows = settings.flows
    streams_dir = spool_directory(flows) / "nats" if flows.jetstream else None
    return EmbeddedServer(
        port=_port(settings.nats.servers[0]), jetstream=True, streams_dir=streams_dir
    )


def with_server(settings: Config, url: str) -> Config:
    nats = msgspec.structs.replace(settings.nats, servers=[url])
    return msgspec.structs.replace(settings, nats=nats)


def reload_with(reload: Reload | None, url: str) -> Reload | None:
    """Adds the embedded server's URL, which is not in the file, to each reload."""
    if reload is None:
        return None
    return lambda: with_server(reload(), url)


def _port(server: str) -> int:
    """The port of a server URL. Port 0 means any free port, which nats-server calls -1."""
    _, _, port = server.rstrip("/").rpartition(":")
    return (int(port) or -1) if port.isdigit() else 4222
