"""The embedded nats-server: starts quickly, stays private, and cleans up when it stops."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import urllib.request
from pathlib import Path

import nats
import pytest

from netsonde.bus import embedded
from netsonde.bus.embedded import EmbeddedServer, EmbeddedServerError
from servers import free_port, hold_port


async def test_stop_removes_process_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A separate directory: other tests use the default one at the same time.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with EmbeddedServer() as server:
        assert os.listdir(tmp_path)
        client = await nats.connect(server.url)
        await client.flush()
        await client.close()
        assert server.process is not None
        process = server.process
    assert process.returncode is not None
    assert os.listdir(tmp_path) == []


async def test_two_servers_run_at_once() -> None:
    async with EmbeddedServer() as one, EmbeddedServer() as two:
        assert one.url != two.url


async def test_restart_keeps_the_port() -> None:
    server = EmbeddedServer()
    await server.start()
    url = server.url
    await server.stop()
    hold_port(server.port)  # else another process may use it meanwhile
    await server.start()
    assert server.url == url
    await server.stop()


async def test_jetstream_is_off_by_default() -> None:
    async with EmbeddedServer() as without, EmbeddedServer(jetstream=True) as with_it:

        def config(server: EmbeddedServer) -> dict[str, object]:
            with urllib.request.urlopen(f"{server.monitoring_url}/jsz?config=1") as answer:
                return dict(json.load(answer))

        assert (await asyncio.to_thread(config, without)).get("disabled") is True
        assert not (await asyncio.to_thread(config, with_it)).get("disabled")


async def test_streams_dir_is_locked_and_kept(tmp_path: Path) -> None:
    streams = tmp_path / "spool" / "nats"
    async with EmbeddedServer(jetstream=True, streams_dir=streams):
        assert (streams / "jetstream").is_dir()
        with pytest.raises(EmbeddedServerError, match="another nats-server uses it"):
            await EmbeddedServer(jetstream=True, streams_dir=streams).start()
    async with EmbeddedServer(jetstream=True, streams_dir=streams):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedServerError, match="not a directory"):
        await EmbeddedServer(jetstream=True, streams_dir=tmp_path / "file" / "nats").start()


async def test_taken_port_error_quotes_the_server() -> None:
    port = free_port()
    async with EmbeddedServer(port=port):
        with pytest.raises(EmbeddedServerError, match="in use"):
            await EmbeddedServer(port=port).start()


def test_missing_binary_error_says_how_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert embedded.find_server().name == "nats-server"
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedServerError, match="install"):
        embedded.find_server()
