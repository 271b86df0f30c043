"""`netsonde nats setup --jwt` on a real server: credentials made offline, revocation, rotation."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats.errors import Error as NatsError

from agents import COMMAND
from deadlines import eventually
from roles import entered, setup
from servers import NatsServer


def nats(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    action, *rest = words
    command = [str(COMMAND), "nats", action, "--out", str(directory), *rest]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def done(directory: Path, *words: str) -> None:
    result = nats(directory, *words)
    assert result.returncode == 0, result.stderr


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    config = setup(tmp_path, "--jwt", "--jetstream", str(tmp_path / "jetstream")).read_text()
    server = NatsServer(tmp_path / "nats", config=config).start()
    yield server
    server.kill()


def reload(server: NatsServer, directory: Path) -> None:
    text = (directory / "nats-server.conf").read_text()
    (server.directory / "nats-server.conf").write_text(text)
    os.kill(server.pid, signal.SIGHUP)


async def enters(server: NatsServer, directory: Path, name: str) -> bool:
    try:
        async with entered(server, directory, name):
            return True
    except NatsError:
        return False


async def test_leaked_credential_is_refused_after_its_revocation(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with (
        entered(nats_server, tmp_path, "alpha", inbox="_INBOX_alpha") as thief,
        entered(nats_server, tmp_path, "beta", inbox="_INBOX_beta") as other,
        entered(nats_server, tmp_path, "ctl") as controller,
    ):
        done(tmp_path, "revoke", "alpha")
        reload(nats_server, tmp_path)
        await eventually(lambda: thief.client.is_closed, "the thief to be disconnected")
        assert not await enters(nats_server, tmp_path, "alpha")
        assert not other.client.is_closed
        assert not controller.client.is_closed
    done(tmp_path, "host", "alpha", "site=ams")  # no reload: the server does not list hosts
    assert await enters(nats_server, tmp_path, "alpha")
    done(tmp_path, "revoke", "ctl")
    reload(nats_server, tmp_path)

    async def refused() -> bool:
        return not await enters(nats_server, tmp_path, "ctl")

    await eventually(refused, "the controller to be refused")
    assert await enters(nats_server, tmp_path, "alpha")


async def test_signing_key_is_replaced_in_two_steps(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    done(tmp_path, "setup", "--add", "--rotate", "agents")
    reload(nats_server, tmp_path)
    done(tmp_path, "host", "alpha", "site=ams")
    await eventually(lambda: enters(nats_server, tmp_path, "alpha"), "the new key to be valid")
    assert await enters(nats_server, tmp_path, "beta"), "signed with the earlier key"
    done(tmp_path, "setup", "--add", "--drop-earlier")
    reload(nats_server, tmp_path)

    async def refused() -> bool:
        return not await enters(nats_server, tmp_path, "beta")

    await eventually(refused, "the earlier key to be refused")
    assert await enters(nats_server, tmp_path, "alpha")


async def test_a_thousand_hosts_are_made_without_the_server(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """The signing key and the public file are enough, and the server's file stays as it is."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "keys").mkdir(parents=True)
    for name in ("operator.json", "keys/AGENTS.nk"):
        (elsewhere / name).write_bytes((tmp_path / name).read_bytes())
    hosts = tmp_path / "many"
    hosts.write_text("".join(f"h{number} site=ams rack=r{number % 9}\n" for number in range(1000)))
    before = (tmp_path / "nats-server.conf").read_bytes()
    done(elsewhere, "host", "--hosts", str(hosts))
    made = list((elsewhere / "agents").glob("*.creds"))
    assert len(made) == 1000
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600}
    assert (tmp_path / "nats-server.conf").read_bytes() == before
    async with entered(nats_server, elsewhere, "h907", inbox="_INBOX_h907") as host:
        for subject in (
            "capture.group.rack.r7.>",
            "capture.group.site.ams.>",
            "capture.host.h907.>",
        ):
            await host.listen(subject)
        assert host.refusals == []
        for subject in ("capture.group.rack.r1.>", "capture.host.h90.>", "capture.group.>"):
            await host.listen(subject)
            await host.refused(subject)


async def test_expired_credential_is_refused(nats_server: NatsServer, tmp_path: Path) -> None:
    done(tmp_path, "host", "alpha", "--days", "1")
    assert await enters(nats_server, tmp_path, "alpha")
    path = tmp_path / "agents" / "alpha.creds"
    path.write_text(path.read_text().replace("eyJ", "eyK", 1))
    assert not await enters(nats_server, tmp_path, "alpha"), "a changed credential"


def test_operator_without_a_name_is_the_jwt_form(tmp_path: Path) -> None:
    done(tmp_path, "setup", "--operator", "--operator", "ops", "--host", "alpha")
    assert (tmp_path / "operator.json").exists()
    assert {path.name for path in tmp_path.glob("*/*.creds")} >= {"alpha.creds", "ops.creds"}
    assert "ops" not in {path.stem for path in (tmp_path / "agents").glob("*")}


def test_secrets_are_files_of_their_owner(nats_server: NatsServer, tmp_path: Path) -> None:
    secrets = [*tmp_path.glob("keys/*.nk"), *tmp_path.glob("*/*.creds")]
    assert {path.name for path in secrets} == {
        "operator.nk", "SYS.nk", "AGENTS.nk", "STORE.nk", "ctl.nk", "ops.nk", "col.nk",
        "alpha.creds", "beta.creds", "sys.creds", "streams.creds",
        "ctl.creds", "ops.creds", "col.creds",
    }  # fmt: skip
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}
    public = [tmp_path / name for name in ("nats-server.conf", "operator.json", "issued.jsonl")]
    seeds = [path.read_text().strip() for path in tmp_path.glob("keys/*.nk")]
    assert not [seed for seed in seeds for path in public if seed in path.read_text()]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("host",), "no hosts"),
        (("host", "alpha", "site"), "is not key=value"),
        (("revoke", "nobody"), "nobody: no credential of that name"),
        (("setup", "--add", "--rotate", "nobody"), "nobody: no such client"),
    ],
    ids=["no host", "malformed label", "unknown name", "unknown client"],
)
def test_invalid_arguments_are_named(
    nats_server: NatsServer, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    result = nats(tmp_path, *words)
    assert result.returncode == 78, result
    assert message in result.stderr


def test_credentials_need_a_setup(tmp_path: Path) -> None:
    result = nats(tmp_path, "host", "alpha")
    assert result.returncode == 78
    assert "run `netsonde nats setup --jwt` first" in result.stderr
