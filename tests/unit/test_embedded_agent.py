"""The NATS server of `run --embedded-nats`: which port, which login, where its streams are."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import nats
import pytest
from nats.errors import Error as NatsError

from netsonde.bus.credentials import Login
from netsonde.bus.embedded_login import write_seed
from netsonde.bus.nats_client import GuardedClient
from netsonde.config.sections import Config, FlowsSection, NatsSection
from netsonde.daemon.embedded import embedded_server, reload_with
from netsonde.errors import ConfigError
from servers import free_port


@pytest.fixture(autouse=True)
def own_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def url(port: int) -> str:
    return f"nats://127.0.0.1:{port}"


def settings(server: str, flows: FlowsSection | None = None) -> Config:
    secured = NatsSection(servers=[server], user="u", password_file="p", tls_ca="ca", tls_cert="c")
    return Config(nats=secured, flows=flows or FlowsSection())


@asynccontextmanager
async def client_of(config: Config) -> AsyncIterator[GuardedClient]:
    client = GuardedClient()
    client.login = Login(config.nats)
    await client.connect(config.nats.servers, **client.login.options)
    yield client
    await client.close()


async def test_settings_point_at_the_server_with_its_login_only(tmp_path: Path) -> None:
    config = settings(url(port := free_port()) + "/")
    async with embedded_server(config) as adapt:
        adapted = adapt(config)
        assert adapted.nats.servers == [url(port)]
        assert (adapted.nats.user, adapted.nats.password_file) == ("", "")
        assert (adapted.nats.tls_ca, adapted.nats.tls_cert) == ("", "")
        assert msgspec.structs.replace(adapted, nats=config.nats) == config
        seed = adapted.nats.nkey
        assert os.stat(seed).st_mode & 0o077 == 0
        async with client_of(adapted) as client:
            assert (await client.jetstream().account_info()).streams == 0
        with pytest.raises(NatsError, match="Authorization Violation"):
            await nats.connect(adapted.nats.servers, allow_reconnect=False)
        reload = reload_with(lambda: settings("nats://elsewhere:1"), adapt)
        assert reload is not None
        assert reload().nats.servers == adapted.nats.servers
    assert not os.access(seed, os.F_OK)
    assert reload_with(None, lambda config: config) is None


async def test_port_0_is_any_free_port() -> None:
    anywhere = settings(url(0))
    async with embedded_server(anywhere) as one, embedded_server(anywhere) as two:
        urls = [adapt(Config()).nats.servers[0] for adapt in (one, two)]
    ports = {int(url.rpartition(":")[2]) for url in urls}
    assert len(ports) == 2
    assert min(ports) > 0


async def test_streams_outlive_the_agent_with_the_spool(tmp_path: Path) -> None:
    flows = FlowsSection(jetstream=True, spool_dir=str(tmp_path / "spool"))
    config = settings(url(0), flows)
    for turn in range(2):
        async with embedded_server(config) as adapt, client_of(adapt(config)) as client:
            if turn == 0:
                await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
            assert (await client.jetstream().account_info()).streams == 1
    assert (tmp_path / "spool" / "nats" / "jetstream").is_dir()


def test_a_seed_that_cannot_be_written_names_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"File exists.*Set STATE_DIRECTORY"):
        write_seed(tmp_path / "file", 4222, "S")
    path = write_seed(tmp_path / "new", 4222, "S1")
    assert write_seed(tmp_path / "new", 4222, "S2") == path
    assert path.read_text() == "S2\n"
    assert list(path.parent.iterdir()) == [path]
