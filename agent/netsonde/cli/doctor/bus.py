"""Checks of NATS: reach, login, encryption, each subject, streams and buckets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import msgspec

from ...bus import jetstream
from ...bus.connection import wants_tls
from ...bus.objects import PROBE, STREAM_NOT_FOUND, bucket_name, site_bucket_name
from ...config.sections import NatsSection
from ...errors import EXIT_UNREACHABLE, ConfigError, UnreachableError
from ...fleet.client import FleetClient, connect
from ...fleet.roles import Host, agent_permissions
from ...spool.streams import complaints, events_stream, flows_streams
from ...wire.inventory import hosts_bucket
from ...wire.quantity import counted
from ...wire.subjects import shard_of
from . import permissions
from .finding import Finding, State, Subject, command, owner
from .secrets import SERVER_DIRECTORY

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SERVER_STORE = "/var/lib/nats"
_REFUSALS = ("authorization", "authentication", "expired", "revoked")


def examine_nats(subject: Subject) -> Iterator[Finding]:
    settings = subject.settings
    yield from _examine(subject, "nats", settings.nats, streams=not settings.flows.servers)
    if settings.flows.servers:
        nats = msgspec.structs.replace(settings.nats, servers=settings.flows.servers)
        yield from _examine(subject, "flows.servers", nats, streams=True)


def _examine(subject: Subject, name: str, nats: NatsSection, *, streams: bool) -> list[Finding]:
    async def examine() -> list[Finding]:
        async with connect(nats) as client:
            return [one async for one in _examine_connection(subject, name, client, streams)]

    try:
        return asyncio.run(examine())
    except ConfigError as error:
        return [Finding(name, "note", f"not examined: {error.detail}")]
    except UnreachableError as error:
        return [_unreachable(subject, name, nats, error)]


def _unreachable(
    subject: Subject, name: str, nats: NatsSection, error: UnreachableError
) -> Finding:
    if any(word in error.detail.lower() for word in _REFUSALS):
        repair = f"{_add_host(subject)} && {_install_key(subject)}"
        return Finding(name, "bad", error.detail, EXIT_UNREACHABLE, repair)
    server = nats.servers[0]
    parts = urlsplit(server if "://" in server else f"nats://{server}")
    where, port = parts.hostname or "", parts.port or 4222
    if where in LOOPBACK:
        repair = command("nats-server", "-a", where, "-p", port, "-js")
    else:
        repair = command("ssh", where, "systemctl start nats-server")
    return Finding(name, "bad", error.detail, EXIT_UNREACHABLE, repair)


async def _examine_connection(
    subject: Subject, name: str, client: FleetClient, streams: bool
) -> AsyncIterator[Finding]:
    encrypted = wants_tls(client.address)
    detail = "connected with TLS" if encrypted else "connected without encryption"
    yield Finding(name, "ok" if encrypted else "note", detail)
    if client.connection.authenticated:
        yield Finding(f"{name}.login", "ok", "the server requires a login")
    else:
        yield _unauthenticated(subject, name, client.connection.server)
    stored_denied: list[str] = []
    async for finding in _examine_subjects(subject, name, client, stored_denied):
        yield finding
    if streams and subject.settings.flows.jetstream:
        async for finding in _examine_streams(subject, client, stored_denied):
            yield finding
    if name == "nats":
        yield await _examine_bucket(subject, client, stored_denied)
        yield await _examine_inventory(subject, client, stored_denied)


# ---- login and permissions -----------------------------------------------------------------------


def _unauthenticated(subject: Subject, name: str, server: str) -> Finding:
    detail = (
        f"{server} requires no login: any program that reaches this server can control the agent"
    )
    setup = command(
        "netsonde", "nats", "setup", "--out", SERVER_DIRECTORY, "--host", _host_line(subject),
        "--controller", "admin", *_setup_options(subject),
    )  # fmt: skip
    start = command("nats-server", "--config", f"{SERVER_DIRECTORY}/nats-server.conf")
    repair = f"{setup} && {_install_key(subject)} && {start}"
    return Finding(f"{name}.login", "warning", detail, repair=repair)


async def _examine_subjects(
    subject: Subject, name: str, client: FleetClient, stored_denied: list[str]
) -> AsyncIterator[Finding]:
    """Yields each denied subject. Adds those of JetStream to stored_denied."""
    settings = subject.settings
    host = Host(settings.host, settings.agent.labels)
    allowed = _subjects(subject, host)
    publish = [one for one in allowed["publish"] if not one.startswith("$")]
    stored = [one for one in allowed["publish"] if one.startswith("$")]
    subscribe = allowed["subscribe"]
    if name != "nats":  # a server for flow records only
        publish, subscribe = publish[:1], []
    create = [_api(subject, f"STREAM.CREATE.{stream}") for stream in _stream_names(subject)]
    stored_denied += await permissions.denied_to_publish(client, [*stored, *create])
    for action, wanted, denied in (
        ("publish to", publish, await permissions.denied_to_publish(client, publish)),
        ("subscribe to", subscribe, await permissions.denied_to_subscribe(client, subscribe)),
    ):
        check = f"{name}.{action.partition(' ')[0]}"
        for one in denied:
            detail = f"the server denies this login to {action} {one}"
            yield Finding(check, "bad", detail, repair=_add_host(subject))
        if len(denied) < len(wanted):
            subjects = counted(len(wanted), "subject is", "subjects are")
            permitted = f"{len(wanted) - len(denied)} of {subjects} permitted"
            yield Finding(check, "ok", permitted)
    if settings.flows.jetstream:
        for one in stored_denied:
            if one in stored and ".$KV." not in one and not one.startswith("$KV."):
                detail = f"the server denies this login to publish to {one}"
                yield Finding(f"{name}.publish", "bad", detail, repair=_add_host(subject))


def _subjects(subject: Subject, host: Host) -> dict[str, list[str]]:
    nats = subject.settings.nats
    found = msgspec.convert(
        agent_permissions(
            nats.root,
            host,
            jetstream=True,
            shards=subject.settings.flows.shards,
            domain=nats.jetstream_domain,
        ),
        type=dict[str, dict[str, object]],
    )
    return {
        action: msgspec.convert(found[action]["allow"], type=list[str])
        for action in ("publish", "subscribe")
    }


def _host_line(subject: Subject) -> str:
    """Returns this host as a line of the file for `netsonde nats setup --hosts`."""
    settings = subject.settings
    labels = (f"{key}={value}" for key, value in sorted(settings.agent.labels.items()))
    return " ".join((settings.host, *labels))


def _add_host(subject: Subject) -> str:
    """Returns the commands that give this host its permissions, to run on the NATS server."""
    setup = command(
        "netsonde", "nats", "setup", "--out", SERVER_DIRECTORY, "--add",
        "--host", _host_line(subject), *_setup_options(subject),
    )  # fmt: skip
    return f"{setup} && nats-server --signal reload"


def _setup_options(subject: Subject) -> list[str]:
    settings = subject.settings
    options = [] if settings.nats.root == "capture" else ["--root", settings.nats.root]
    return [*options, "--jetstream", SERVER_STORE]


def _install_key(subject: Subject) -> str:
    """Returns the commands that copy this host's key from the server's directory."""
    settings, nats = subject.settings, subject.settings.nats
    target = nats.nkey or os.path.join(os.path.abspath(subject.path.parent), f"{settings.host}.nk")
    user, _, group = owner().partition(":")
    source = f"{SERVER_DIRECTORY}/agents/{settings.host}.nk"
    words = [command("install", "-m", "0600", "-o", user, "-g", group, source, target)]
    words += [
        subject.set_key(f"nats.{key}", "")
        for key in ("creds", "user", "password_file", "token_file")
        if getattr(nats, key)
    ]
    if nats.nkey != target:
        words.append(subject.set_key("nats.nkey", target))
    return " && ".join(words)


# ---- streams and buckets -------------------------------------------------------------------------


def _api(subject: Subject, verb: str) -> str:
    return jetstream.api(subject.settings.nats.jetstream_domain, verb)


def _stream_names(subject: Subject) -> list[str]:
    root = subject.settings.nats.root
    bucket = f"OBJ_{bucket_name(root, subject.settings.host)}"
    flows, _ = _flows_stream(subject)
    return [flows, events_stream(root), bucket, f"KV_{hosts_bucket(root)}"]


def _flows_stream(subject: Subject) -> tuple[str, str]:
    """Returns the name and the subject of the stream of this host's flow records."""
    settings = subject.settings
    shards = settings.flows.shards
    shard = shard_of(settings.host, shards)
    return next(iter(flows_streams(settings.nats.root, shards, shard).items()))


async def _examine_streams(
    subject: Subject, client: FleetClient, denied: list[str]
) -> AsyncIterator[Finding]:
    root, host = subject.settings.nats.root, subject.settings.host
    for stream, bound in (
        _flows_stream(subject),
        (events_stream(root), f"{root}.stream.events.>"),
    ):
        api = _api(subject, f"STREAM.INFO.{stream}")
        if api in denied:
            continue  # reported as a denied subject
        reply = await permissions.ask_jetstream(client, host, api)
        if reply is None:
            yield _without_jetstream(subject, "nats.streams", "bad")
            return
        error = reply.get("error", {})
        if error.get("err_code") == STREAM_NOT_FOUND:
            yield _missing_stream(subject, stream, denied, "warning")
        elif error:
            detail = f"{stream}: {error.get('description', 'rejected')}"
            yield Finding("nats.streams", "bad", detail, repair=_make_streams(subject))
        else:
            wrong = complaints(reply.get("config", {}), bound)
            for fault in wrong:
                repair = command("nats", "stream", "edit", stream)
                yield Finding("nats.streams", "warning", fault, repair=repair)
            if not wrong:
                yield Finding("nats.streams", "ok", f"{stream} exists")


async def _examine_inventory(subject: Subject, client: FleetClient, denied: list[str]) -> Finding:
    """An agent may read only its entry. The reply shows whether the bucket exists."""
    host, stream = subject.settings.host, _stream_names(subject)[3]
    api = _api(subject, f"DIRECT.GET.{stream}.$KV.{stream.removeprefix('KV_')}.{host}")
    if api in denied:
        detail = f"the server denies {api}: this host has no entry in the inventory"
        return Finding("nats.inventory", "warning", detail, repair=_add_host(subject))
    if await permissions.has_responder(client, host, api):
        return Finding("nats.inventory", "ok", f"{stream} exists")
    bucket = _api(subject, f"STREAM.INFO.{_stream_names(subject)[2]}")  # agents may ask for it
    if bucket not in denied and await permissions.ask_jetstream(client, host, bucket) is None:
        return _without_jetstream(subject, "nats.inventory", "note")
    return _missing_stream(subject, stream, denied, "note")


async def _examine_bucket(subject: Subject, client: FleetClient, denied: list[str]) -> Finding:
    """Checks the bucket of the verb `packets`. The agent creates it at the first use."""
    stream = _stream_names(subject)[2]
    api = _api(subject, f"STREAM.INFO.{stream}")
    if api in denied:
        detail = f"the server denies {api}: `packets` cannot use the object store"
        return Finding("nats.bucket", "note", detail, repair=_add_host(subject))
    reply = await permissions.ask_jetstream(client, subject.settings.host, api)
    if reply is None:
        return _without_jetstream(subject, "nats.bucket", "note")
    if reply.get("error", {}).get("err_code") == STREAM_NOT_FOUND:
        root, host = subject.settings.nats.root, subject.settings.host
        site = site_bucket_name(root)
        probe = f"$O.{site}.C.{host}.{PROBE}"
        if probe not in denied and await permissions.has_responder(client, host, probe):
            return Finding("nats.bucket", "ok", f"OBJ_{site} exists; the host shares it")
        return _missing_stream(subject, stream, denied, "note")
    if "error" in reply:
        detail = f"{stream}: {reply['error'].get('description', 'rejected')}"
        return Finding("nats.bucket", "warning", detail, repair=_make_streams(subject))
    return Finding("nats.bucket", "ok", f"{stream} exists")


def _without_jetstream(subject: Subject, check: str, state: State) -> Finding:
    inventory = check == "nats.inventory"
    users = "the inventory needs" if inventory else "flow streams and `packets` need"
    detail = (
        f"JetStream does not reply; {users} it: set `jetstream {{ store_dir: … }}` in the"
        " configuration of the NATS server, or start the server with -js"
    )
    start = command("nats-server", "--config", f"{SERVER_DIRECTORY}/nats-server.conf", "-js")
    return Finding(check, state, detail, repair=start)


def _missing_stream(subject: Subject, stream: str, denied: list[str], mild: State) -> Finding:
    """mild: the state if the agent may create it."""
    checks = {"OBJ": "nats.bucket", "KV": "nats.inventory"}
    check = checks.get(stream.partition("_")[0], "nats.streams")
    if _api(subject, f"STREAM.CREATE.{stream}") in denied:
        detail = f"{stream} is missing and the agent may not create it"
        state: State = "bad" if check == "nats.streams" else "warning"
        return Finding(check, state, detail, repair=_make_streams(subject, administrator=True))
    detail = f"{stream} is missing; the agent creates it"
    return Finding(check, mild, detail, repair=_make_streams(subject))


def _make_streams(subject: Subject, *, administrator: bool = False) -> str:
    words: list[object] = ["netsonde", "nats", "streams", "--host", _host_line(subject)]
    if administrator:
        words += ["--nkey", f"{SERVER_DIRECTORY}/clients/streams.nk"]
    return command(*words, "--config", subject.path)
