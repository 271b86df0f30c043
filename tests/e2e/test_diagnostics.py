"""The archive of `netsonde diagnostics`: what it has, and that no secret is in it.

Secrets are planted wherever a host keeps one, and wherever something may print one.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from agents import COMMAND, Fleet
from deadlines import TIMEOUT_SEC, eventually_now
from recording import make_key
from servers import NatsServer, free_port

SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
PASSWORD = 'p@ss/w"rd-of-the-url'
JWT = "eyJ0eXAiOiJKV1QifQ.eyJqdGkiOiJwbGFudGVkIn0.c2lnbmF0dXJl"
PEM = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49planted\n-----END PRIVATE KEY-----\n"
UNIT_LOG = f"""\
agent: connecting to nats://agent:{quote(PASSWORD, safe="")}@n1:4222
agent: {json.dumps({"password": "planted-in-json", "detail": PASSWORD})}
agent: token=planted-assignment Authorization: Bearer planted-bearer
agent: login {SEED} {JWT}
agent: {PEM}
agent: still readable
"""


def archive(path: Path) -> dict[str, str]:
    """Returns the files of the archive, without their directory."""
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as opened:
        found = {}
        for member in opened:
            assert member.mode == 0o600
            content = opened.extractfile(member)
            assert content is not None
            found[member.name.partition("/")[2]] = content.read().decode()
        return found


def diagnose(
    directory: Path, *flags: str, environment: Mapping[str, str] | None = None
) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """Runs the command with a journalctl that prints UNIT_LOG, as a journal may."""
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    (directory / "journal").write_text(UNIT_LOG)
    program = programs / "journalctl"
    program.write_text(f"#!/bin/sh\ncat {directory}/journal\n")
    program.chmod(0o755)
    path = directory / "report.tar.gz"
    done = subprocess.run(
        [COMMAND, "diagnostics", "-o", path, *flags],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SEC,
        env={
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(directory),
            "STATE_DIRECTORY": str(directory / "state"),
            **(environment or {}),
        },
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{path}\n"
    return done, archive(path)


def assert_hidden(files: Mapping[str, str], secrets: list[bytes]) -> None:
    for secret in secrets:
        forms = [secret.hex(), base64.b64encode(secret).decode().rstrip("=")]
        text = secret.decode(errors="ignore")
        if text.isprintable() and text:
            forms += [text, quote(text, safe=""), json.dumps(text)[1:-1]]
        for form in forms:
            assert [name for name, content in files.items() if form in content] == [], form


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    login = f"authorization {{ user: agent, password: {json.dumps(PASSWORD)} }}"
    server = NatsServer(tmp_path / "nats", config=login).start()
    yield server
    server.kill()


def test_archive_of_a_running_agent_has_every_part_and_no_secret(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    key = make_key(tmp_path / "keys" / "seal.key", os.urandom(32))
    (tmp_path / "state").mkdir()
    seed = tmp_path / "state" / "embedded-4222.nkey"
    seed.write_text("SUAplanted-seed-of-the-embedded-server\n")
    url = nats_server.url.replace("://", f"://agent:{quote(PASSWORD, safe='')}@")
    http = f"127.0.0.1:{free_port()}"
    configuration: dict[str, dict[str, Any]] = {
        "nats": {"servers": [url]},
        "encryption": {"key_dirs": [str(key.parent)]},
        "http": {"listen": http},
    }
    fleet = Fleet(nats_server, tmp_path)
    agent = fleet.agent("alpha", **configuration).spawn()
    try:
        files = diagnose_when_up(tmp_path, agent.config_path)
    finally:
        problems = fleet.dismiss()
    assert problems == []
    status = json.loads(files["status.json"])
    assert (status["host"], status["running"]) == ("alpha", False)
    assert json.loads(files["versions.json"])["netsonde"]
    assert "netsonde_" in files["prometheus.txt"]
    assert "still readable" in files["log.txt"]
    assert "agent:***@" in files["config.toml"]
    assert str(key.parent) in files["config.toml"]
    assert {"doctor.json", "system/facts.json", "system/net-dev.txt"} <= files.keys()
    assert files["CONTENTS.txt"].split() == sorted(files.keys() - {"CONTENTS.txt", "MISSING.txt"})
    planted = [PASSWORD, SEED, JWT, "planted", "MIGHAgEAMBMGByqGSM49planted"]
    assert_hidden(files, [key.read_bytes(), *(one.encode() for one in planted)])


def diagnose_when_up(directory: Path, config: Path) -> dict[str, str]:
    def ask() -> dict[str, str] | None:
        files = diagnose(directory, "--config", str(config))[1]
        return files if '"running"' in files.get("status.json", "") else None

    return eventually_now(ask, "the agent to answer")


LOGINS = {
    "password": 'user = "u"\npassword_file = "{file}"',
    "token": 'token_file = "{file}"',
    "nkey": 'nkey = "{file}"',
    "creds": 'creds = "{file}"',
    "inline": 'token_file = "planted-token/with-slash"',
    "unknown": 'password = "planted-password"',
    "broken": 'password = "planted-password"\n[nats',
}


@pytest.mark.parametrize("login", LOGINS)
def test_without_nats_the_archive_names_what_is_missing(login: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"planted-{login}-content\n")
    config = tmp_path / "netsonde.toml"
    server = f"nats://127.0.0.1:{free_port()}"
    config.write_text(f'[nats]\nservers = ["{server}"]\n' + LOGINS[login].format(file=file))
    variables = {
        "NATS_URL": "nats://planted-token-of-a-url@127.0.0.1:1",
        "NETSONDE__FLOWS__SERVERS": "nats://u:planted-variable@127.0.0.1:1",
    }
    done, files = diagnose(tmp_path, "--config", str(config), environment=variables)
    assert "netsonde: missing: status.json" in done.stderr
    assert "status.json" in files["MISSING.txt"]
    assert "status.json" not in files
    assert {"versions.json", "doctor.json", "log.txt"} <= files.keys()
    assert ("config.toml" in files) == (login not in ("unknown", "broken"))
    assert_hidden(files | {"stderr": done.stderr}, [b"planted", SEED.encode(), JWT.encode()])


def test_without_a_journal_the_rest_is_there(tmp_path: Path, nats_server: NatsServer) -> None:
    path = tmp_path / "report.tar.gz"
    done = subprocess.run(
        [COMMAND, "diagnostics", "--output", path, "--config", os.devnull],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SEC,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = archive(path)
    assert "log.txt: journalctl is not installed" in files["MISSING.txt"]
    assert "system/meminfo.txt" in files
