"""TLS without downgrade, every login method, and secrets that change during a capture."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agents import Agent, Fleet
from bus import Bus
from deadlines import eventually, eventually_now
from identities import USER, Identity, Operation, creds, secret_file
from netsonde.bus import nkey
from netsonde.bus.credentials import Login
from netsonde.bus.nats_client import GuardedClient
from netsonde.config.sections import NatsSection
from netsonde.errors import UnreachableError
from netsonde.fleet.client import connect
from packets import SECOND_NS, UDP, Packet, at, ethernet, ipv4, udp, write_pcap
from servers import NatsServer

START_NS = 1_767_225_600 * SECOND_NS


class Authority:
    """A CA and certificates signed by it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                 "-nodes", "-subj", "/CN=authority", "-days", "2", "-keyout", "ca.key",
                 "-out", "ca.pem")  # fmt: skip

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    def certify(self, name: str, address: str = "IP:127.0.0.1") -> tuple[Path, Path]:
        self.run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                 "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", "csr")  # fmt: skip
        (self.directory / "ext").write_text(f"subjectAltName={address}\n")
        self.run("x509", "-req", "-in", "csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                 "-days", "2", "-extfile", "ext", "-out", f"{name}.pem")  # fmt: skip
        return self.directory / f"{name}.pem", self.directory / f"{name}.key"

    def run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.directory, check=True, capture_output=True)

    def server_config(self, more: str = "", address: str = "IP:127.0.0.1") -> str:
        cert, key = self.certify("server", address)
        return f'tls {{\n cert_file: "{cert}"\n key_file: "{key}"\n {more}\n}}\n'


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Any]:
    """Makes servers and kills them when the test ends."""
    made: list[NatsServer] = []

    def make(config: str) -> NatsServer:
        made.append(NatsServer(tmp_path / f"server{len(made)}", config=config).start())
        return made[-1]

    yield make
    for server in made:
        server.kill()


@asynccontextmanager
async def controller(server: NatsServer, section: NatsSection) -> AsyncIterator[Bus]:
    async with connect(section) as fleet_client:
        yield Bus(fleet_client.connection)


def section(server: NatsServer, **keys: Any) -> NatsSection:
    texts: dict[str, Any] = {key: str(value) for key, value in keys.items()}
    return NatsSection(servers=[server.url], **texts)


async def answering(bus: Bus, host: str = "alpha") -> None:
    async def asked() -> bool:
        try:
            return (await bus.request("status", host=host, timeout_sec=1)).code in (200, 204)
        except Exception:
            return False

    await eventually(asked, f"{host} to answer")


# ---- TLS ------------------------------------------------------------------------------------


async def test_tls_with_client_certificates(
    authority: Authority, servers: Any, fleet: Fleet
) -> None:
    server = servers(authority.server_config(f'ca_file: "{authority.ca}"\n verify: true'))
    cert, key = authority.certify("client")
    keys = {"tls_ca": authority.ca, "tls_cert": cert, "tls_key": key}
    fleet.agent(nats={"servers": [server.url], **keys}).spawn()
    async with controller(server, section(server, **keys)) as bus:
        await answering(bus)


async def test_tls_first_handshake(authority: Authority, servers: Any, fleet: Fleet) -> None:
    server = servers(authority.server_config("handshake_first: true"))
    keys: dict[str, Any] = {"tls_ca": authority.ca, "tls_handshake_first": True}
    fleet.agent(nats={"servers": [server.url], **keys}).spawn()
    wanted = NatsSection(servers=[server.url], tls_ca=str(authority.ca), tls_handshake_first=True)
    async with controller(server, wanted) as bus:
        await answering(bus)


class PlainServer:
    """Claims to be a NATS server, offers no TLS, and keeps all received bytes."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.heard = b""
        self.visits = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                stream, _ = self.listener.accept()
            except OSError:
                return
            self.visits += 1
            with stream:
                stream.sendall(
                    b'INFO {"server_id":"X","version":"2.15.1","headers":true,'
                    b'"max_payload":1048576,"auth_required":true,"nonce":"n"}\r\n'
                )
                stream.settimeout(3)
                try:
                    while data := stream.recv(4096):
                        self.heard += data
                        if b"PING" in data:
                            stream.sendall(b"PONG\r\n")
                except OSError:
                    pass

    def close(self) -> None:
        self.listener.close()


@pytest.fixture
def plain() -> Iterator[PlainServer]:
    server = PlainServer()
    yield server
    server.close()


@pytest.mark.parametrize("scheme", ["nats", "tls"])
async def test_plaintext_server_receives_no_secret(
    scheme: str, plain: PlainServer, authority: Authority, fleet: Fleet, tmp_path: Path
) -> None:
    """Neither the agent nor the command line sends it a password or a signature."""
    secret = secret_file(tmp_path / "secret", "s3cret-w0rd")
    url = f"{scheme}://127.0.0.1:{plain.port}"
    keys: dict[str, Any] = {"tls_ca": str(authority.ca), "user": "agent"}
    keys["password_file"] = str(secret)
    agent = fleet.agent(nats={"servers": [url], **keys}).spawn()
    eventually_now(lambda: plain.visits >= 3, "three attempts by the agent")
    with pytest.raises(UnreachableError):
        async with connect(NatsSection(servers=[url], **keys)):
            pass
    assert b"CONNECT" not in plain.heard
    assert b"s3cret" not in plain.heard
    eventually_now(lambda: "TLS" in agent.log, "the reason in the log")
    assert "s3cret" not in agent.log
    assert agent.alive


@pytest.mark.parametrize("fault", ["stranger", "name"], ids=["unknown CA", "wrong name"])
async def test_server_with_another_ca_or_name_is_rejected(
    fault: str, authority: Authority, servers: Any, fleet: Fleet, tmp_path: Path
) -> None:
    signer = Authority(tmp_path / "stranger") if fault == "stranger" else authority
    address = "DNS:elsewhere.example" if fault == "name" else "IP:127.0.0.1"
    server = servers(signer.server_config(address=address))
    agent = fleet.agent(nats={"servers": [server.url], "tls_ca": authority.ca}).spawn()
    eventually_now(lambda: "certificate verify failed" in agent.log.lower(), "the refusal")
    with pytest.raises(UnreachableError):
        async with connect(section(server, tls_ca=authority.ca)):
            pass


# ---- logging in --------------------------------------------------------------------------------


def with_user(password: str) -> str:
    return f"authorization {{ users: [ {{user: agent, password: {password!r}}} ] }}\n"


def with_nkey(public: str) -> str:
    return f"authorization {{ users: [ {{nkey: {public}}} ] }}\n"


def reload(server: NatsServer, config: str) -> None:
    (server.directory / "nats-server.conf").write_text(config)
    os.kill(server.pid, signal.SIGHUP)


@pytest.fixture
def long_capture(tmp_path: Path) -> Path:
    """Writes a minute of traffic, ten packets a second, to be replayed at its original pace."""

    def packet(number: int) -> Packet:
        ip = ipv4(udp(bytes(60), 1000 + number, 53), UDP, "10.0.0.1", "10.1.0.1")
        return at(START_NS + number * SECOND_NS // 10, ethernet(ip))

    return write_pcap(tmp_path / "minute.pcap", [packet(n) for n in range(600)])


async def session_survives(
    change: Any, agent: Agent, server: NatsServer, keys: dict[str, Any], capture: Path
) -> None:
    """Checks that one session continues and that the agent reconnects without help."""
    async with controller(server, section(server, **keys)) as bus:
        await answering(bus)
        start = {"interface": str(capture), "backend": "file", "replay_speed": 1.0}
        started = await bus.ok("start", start)
    change()
    eventually_now(
        lambda: agent.log.count('"event": "connected"') >= 4, "both connections to be back"
    )
    async with controller(server, section(server, **keys)) as bus:
        await answering(bus)
        status = await bus.ok("status")
        assert status["session_id"] == started["session_id"]
        assert status["packets_dropped"] == 0
        first = status["packets_captured"]

        async def more() -> bool:
            return bool((await bus.ok("status"))["packets_captured"] > first)

        await eventually(more, "capture to continue")
        await bus.ok("stop")


async def test_rotated_password_is_used(servers: Any, fleet: Fleet, tmp_path: Path,
                                  long_capture: Path) -> None:  # fmt: skip
    secret = secret_file(tmp_path / "password", "old\n")
    server = servers(with_user("old"))
    keys = {"user": "agent", "password_file": secret}
    agent = fleet.agent(nats={"servers": [server.url], **keys}).spawn()

    def rotate() -> None:
        reload(server, with_user("new"))
        eventually_now(lambda: "uthorization" in agent.log, "the old password to be rejected")
        secret.write_text("")  # truncated, as during a write
        eventually_now(lambda: "password_file" in agent.log, "the agent to read the file")
        secret.write_text("new\n")

    await session_survives(rotate, agent, server, keys, long_capture)


async def test_rotated_nkey_is_used(servers: Any, fleet: Fleet, tmp_path: Path,
                              long_capture: Path) -> None:  # fmt: skip
    first, second = nkey.make_seed(), nkey.make_seed()
    seed = secret_file(tmp_path / "agent.nk", first)
    server = servers(with_nkey(nkey.public_key(first)))
    agent = fleet.agent(nats={"servers": [server.url], "nkey": seed}).spawn()

    def rotate() -> None:
        reload(server, with_nkey(nkey.public_key(second)))
        eventually_now(lambda: "uthorization" in agent.log, "the old nkey to be rejected")
        seed.write_text(second)

    await session_survives(rotate, agent, server, {"nkey": seed}, long_capture)


async def test_renewed_creds_are_used(servers: Any, fleet: Fleet, tmp_path: Path,
                                 long_capture: Path) -> None:  # fmt: skip
    operation, user = Operation(), Identity(USER)
    server = servers(operation.server_config())
    lasting = creds(tmp_path, operation.user_jwt(user), user.seed).rename(tmp_path / "own.creds")
    path = creds(tmp_path, operation.user_jwt(user, lives_sec=10), user.seed)
    agent = fleet.agent(nats={"servers": [server.url], "creds": path}).spawn()

    def rotate() -> None:
        eventually_now(
            lambda: re.search("Expired|Violation", agent.log), "the expired creds to be rejected"
        )
        creds(tmp_path, operation.user_jwt(user), user.seed)

    await session_survives(rotate, agent, server, {"creds": lasting}, long_capture)


async def test_token_login(servers: Any, fleet: Fleet, tmp_path: Path) -> None:
    token = secret_file(tmp_path / "token", "t0ken\n")
    server = servers('authorization { token: "t0ken" }\n')
    fleet.agent(nats={"servers": [server.url], "token_file": token}).spawn()
    async with controller(server, section(server, token_file=token)) as bus:
        await answering(bus)


async def test_wrong_password_is_rejected_and_not_logged(
    servers: Any, fleet: Fleet, tmp_path: Path
) -> None:
    secret = secret_file(tmp_path / "password", "wr0ng")
    server = servers(with_user("right"))
    agent = fleet.agent(
        nats={"servers": [server.url], "user": "agent", "password_file": secret}
    ).spawn()
    eventually_now(lambda: "uthorization" in agent.log, "the rejection in the log")
    assert agent.alive
    assert "wr0ng" not in agent.log
    client = GuardedClient()
    client.login = Login(section(server, user="agent", password_file=secret))
    with pytest.raises(Exception, match=r"(?i)authorization"):
        await client.connect(server.url, allow_reconnect=False, **client.login.options)
    await asyncio.sleep(0)


async def test_server_without_authentication_is_reported(servers: Any, fleet: Fleet) -> None:
    server = servers("")
    agent = fleet.start(nats={"servers": [server.url]})
    async with controller(server, section(server)) as bus:
        assert (await bus.request("status")).body["bus_authenticated"] is False
    assert agent.log.count("connected without authentication") == 1


async def test_server_with_authentication_is_not_reported(
    servers: Any, fleet: Fleet, tmp_path: Path
) -> None:
    server = servers(with_user("right"))
    keys = {"user": "agent", "password_file": secret_file(tmp_path / "password", "right")}
    agent = fleet.agent(nats={"servers": [server.url], **keys}).spawn()
    async with controller(server, section(server, **keys)) as bus:
        await answering(bus)
        assert (await bus.request("status")).body["bus_authenticated"] is True
    assert "without authentication" not in agent.log
