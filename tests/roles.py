"""The clients that `netsonde nats setup` gives keys to, and their use of the bus."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from agents import COMMAND
from bus import Reply, settled
from deadlines import TIMEOUT_SEC, eventually
from netsonde.bus import nkey
from netsonde.bus.credentials import Login
from netsonde.bus.nats_client import GuardedClient
from netsonde.config.sections import NatsSection
from servers import NatsServer, free_port

RELOADED = "Reloaded server configuration"
HOSTS = "alpha site=ams\nbeta site=fra\n"
CLIENTS = ("--controller", "ctl", "--operator", "ops", "--collector", "col")


def setup(directory: Path, *more: str) -> Path:
    hosts = directory / "hosts"
    hosts.write_text(HOSTS)
    command = [str(COMMAND), "nats", "setup", "--out", str(directory), "--hosts", str(hosts)]
    done = subprocess.run([*command, *CLIENTS, *more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return directory / "nats-server.conf"


DOMAIN = "hub"
FORMS = {
    "static": (),
    "jwt": ("--jwt",),
    "static-leaf": ("--leaf-listen",),
    "jwt-leaf": ("--jwt", "--leaf-listen"),
}


@dataclass
class RoleServers:
    """The servers of one form of `netsonde nats setup`. site: the server of the agents, a leaf
    node or the hub. domain: of the hub's JetStream, empty if the server has none."""

    hub: NatsServer
    site: NatsServer
    domain: str = ""
    leaf_port: int = 0

    @classmethod
    def start(cls, directory: Path, form: str) -> RoleServers:
        words = ["--jetstream", str(directory / "jetstream"), *FORMS[form]]
        leaf_port = free_port()
        if form.endswith("leaf"):
            words += [f"127.0.0.1:{leaf_port}", "--jetstream-domain", DOMAIN]
        config = setup(directory, *words).read_text()
        hub = NatsServer(directory / "nats", config=config).start()
        if not form.endswith("leaf"):
            return cls(hub, hub)
        key = login_of(directory, "leaf")
        value = key.get("creds") or Path(key["nkey"]).read_text().strip()
        port, store = free_port(), directory / "edge"
        settings = {
            "NAME": "site1",
            "LISTEN": json.dumps(f"127.0.0.1:{port}"),
            "HUB_LEAFS": json.dumps([f"nats-leaf://127.0.0.1:{leaf_port}"]),
            "LEAF_KEY": json.dumps(value),
        }
        # JetStream of the site, in another domain.
        own = f"jetstream {{ store_dir: {json.dumps(str(store))}, domain: edge }}\n"
        site = NatsServer(
            directory / "site",
            config=(directory / "leaf.conf").read_text() + own,
            prefix=("env", *(f"{name}={text}" for name, text in settings.items())),
        )
        site.port = port
        return cls(hub, site.start(), DOMAIN, leaf_port)

    @property
    def each(self) -> list[NatsServer]:
        return [self.hub] if self.hub is self.site else [self.hub, self.site]

    def spellings(self, subject: str) -> list[str]:
        """Returns the subject, and the same with the hub's domain."""
        if not self.domain or not subject.startswith(("$JS.API.", "$KV.")):
            return [subject]
        return [subject, self.spelled(subject)]

    def spelled(self, subject: str) -> str:
        """Returns the subject that an agent of the site uses."""
        if not self.domain or not subject.startswith(("$JS.API.", "$KV.")):
            return subject
        return f"$JS.{self.domain}.API.{subject.removeprefix('$JS.API.')}"

    async def reload(self) -> None:
        """Reloads the configuration of each server."""
        for server in self.each:
            log = server.directory / "nats-server.log"
            before = log.read_text().count(RELOADED)

            def reloaded(log: Path = log, before: int = before) -> bool:
                return log.read_text().count(RELOADED) > before

            os.kill(server.pid, signal.SIGHUP)
            await eventually(reloaded, "the reload")

    def kill(self) -> None:
        for server in self.each:
            server.kill()


def key_of(directory: Path, name: str) -> Path:
    return next(directory.glob(f"*/{name}.nk"))


def login_of(directory: Path, name: str) -> dict[str, str]:
    """Returns the login of a key or of credentials, as in the section [nats]."""
    for found in directory.glob(f"*/{name}.creds"):
        return {"creds": str(found)}
    return {"nkey": str(key_of(directory, name))}


@dataclass
class RoleClient:
    """A client with one of the keys. `refusals` holds the server's permission errors."""

    client: Client
    refusals: list[str]

    async def refused(self, *subjects: str) -> None:
        """Returns when the server has refused one of these subjects."""
        await settled(self.client)
        names = [f'"{subject.lower()}"' for subject in subjects]
        await eventually(
            lambda: any(name in refusal for refusal in self.refusals for name in names),
            f"a refusal of {subjects}, in {self.refusals}",
        )

    async def publish(self, subject: str, body: bytes = b"{}", reply: str = "") -> None:
        await self.client.publish(subject, body, reply=reply)

    async def listen(self, subject: str) -> list[Msg]:
        heard: list[Msg] = []

        async def keep(message: Msg) -> None:
            heard.append(message)

        await self.client.subscribe(subject, cb=keep)
        await settled(self.client)
        return heard


@asynccontextmanager
async def entered(
    server: NatsServer, directory: Path, name: str, *, inbox: str = "_INBOX"
) -> AsyncIterator[RoleClient]:
    login = Login(msgspec.convert(login_of(directory, name), NatsSection))
    client, refusals = GuardedClient(), []
    client.login = login

    async def note(error: Exception) -> None:
        refusals.append(str(error).lower())  # nats-py lowercases the subjects

    await client.connect(
        server.url,
        error_cb=note,
        inbox_prefix=inbox,
        allow_reconnect=False,
        connect_timeout=int(TIMEOUT_SEC),
        **login.options,
    )
    try:
        yield RoleClient(client, refusals)
    finally:
        await client.close()


async def both_answer(someone: RoleClient) -> None:
    async def count() -> bool:
        inbox = someone.client.new_inbox()
        heard = await someone.listen(inbox)
        await someone.publish("capture.backends", reply=inbox)
        try:
            await eventually(lambda: len(heard) == 2, "two replies", within_sec=1)
        except AssertionError:
            return False
        return True

    await eventually(count, "both agents to answer")


async def ask(someone: RoleClient, subject: str, body: Any = None, **headers: str) -> Reply:
    payload = json.dumps(body).encode() if body is not None else b""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply.of(
        await someone.client.request(subject, payload, timeout=10, headers=named or None)
    )


async def file_read(controller: RoleClient, host: str) -> bool:
    """Returns whether the host has read its whole file. A stop would end the reading."""
    return bool((await ask(controller, f"capture.host.{host}.status")).body.get("finished"))


async def records_stored(someone: RoleClient, host: str) -> bool:
    """Returns whether the stream has acknowledged each record of the host's spool."""
    spool = (await ask(someone, f"capture.host.{host}.status")).body["spool"]
    return bool(spool["records_waiting"] == 0)


async def answers(someone: RoleClient, subject: str) -> bool:
    try:
        await someone.client.request(subject, timeout=1)
    except (NatsTimeoutError, NoRespondersError):
        return False
    return True


def raw_client(server: NatsServer, seed: str) -> socket.socket:
    """Speaks the bare NATS protocol, to send what a client library would not."""
    stream = socket.create_connection(("127.0.0.1", server.port), 5)
    info = json.loads(stream.recv(65536).partition(b" ")[2])
    # The server accepts base64 of either alphabet, without padding.
    signature = nkey.sign(seed, info["nonce"]).decode()
    login = {"nkey": nkey.public_key(seed), "sig": signature, "headers": True, "verbose": False}
    stream.sendall(b"CONNECT " + json.dumps(login).encode() + b"\r\nPING\r\n")
    assert b"PONG" in stream.recv(65536)
    return stream
