"""`netsonde run --embedded-nats`: one host without any other program."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agents import COMMAND, answers, client_flags
from deadlines import TIMEOUT_SEC, eventually_now
from netsonde.errors import EXIT_UNREACHABLE
from packets import SECOND_NS, UDP, Packet, at, ethernet, ipv4, udp
from servers import free_port

FLOWS = 3
PCAPNG = b"\x0a\x0d\x0d\x0a"


def attempt(url: str, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *words, *client_flags(url)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SEC,
    )


def run(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    done = attempt(url, *words)
    assert done.returncode == 0, done.stderr
    return done


def status(url: str) -> dict[str, Any]:
    """Returns the status of the only host."""
    (reply,) = map(json.loads, run(url, "status", "--json").stdout.splitlines())
    assert isinstance(reply, dict)
    return reply


@contextmanager
def embedded(config: Path, port: int) -> Iterator[str]:
    """Runs an agent with an embedded server. Yields the server's URL."""
    url = f"nats://127.0.0.1:{port}"
    words = ["run", "--embedded-nats", "--config", str(config), "--nats", url, "--host", "alpha"]
    with config.with_suffix(".log").open("ab") as log:
        agent = subprocess.Popen([COMMAND, *words], stderr=log)
    try:
        ask = ("backends", "--host", "alpha", "--timeout", "1")
        eventually_now(lambda: attempt(url, *ask).returncode == 0, "the agent to answer")
        yield url
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(TIMEOUT_SEC) == 0
    finally:
        agent.kill()
        agent.wait()


def test_packets_return_and_records_outlast_the_server(
    tmp_path: Path, capture_file: Callable[[list[Packet]], Path]
) -> None:
    frames = [
        ethernet(ipv4(udp(b"", 1000 + n, 53), UDP, "10.0.0.1", "10.0.0.2")) for n in range(FLOWS)
    ]
    trace = capture_file([at(1_767_225_600 * SECOND_NS, frame) for frame in frames])
    spool, config, port = tmp_path / "spool", tmp_path / "netsonde.toml", free_port()
    config.write_text(
        f'[capture]\nreplay_dirs = ["{tmp_path}"]\n[http]\nlisten = ""\n'
        f'[flows]\njetstream = true\nspool_dir = "{spool}"\n'
    )
    fetched = tmp_path / "fetched.pcapng"
    with embedded(config, port) as url:
        run(url, "start", "-i", str(trace), "-b", "file", "--meter")
        eventually_now(lambda: status(url)["finished"], "the end of the file")
        run(url, "packets", "-w", str(fetched))
        assert fetched.read_bytes()[:4] == PCAPNG
        (stopped,) = map(json.loads, run(url, "stop", "--json").stdout.splitlines())
        assert stopped["records_sent"] == FLOWS
    with embedded(config, port) as url:
        # The records are in the stream, or in the spool until the server is up again.
        eventually_now(lambda: status(url)["spool"]["records_waiting"] == 0, "the records stored")
        collected = run(url, "collect", "--until-idle", "2").stdout.splitlines()
    assert [json.loads(record)["source_port"] for record in collected] == [1000, 1001, 1002]


def test_only_the_same_user_controls_the_agent(tmp_path: Path) -> None:
    config, port = tmp_path / "netsonde.toml", free_port()
    config.write_text('[http]\nlisten = ""\n')
    seed = Path(os.environ["XDG_STATE_HOME"]) / "netsonde" / f"embedded-{port}.nkey"
    other = tmp_path / "other"
    with embedded(config, port) as url:
        status = seed.stat()
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert status.st_uid == os.geteuid()
        assert not answers(url, "$SRV.PING.netsonde.alpha")
        assert refusal(port).startswith(b"-ERR 'Authorization Violation'")
        stranger = attempt(url, "ps", XDG_STATE_HOME=str(other), HOME=str(other))
        assert stranger.returncode == EXIT_UNREACHABLE
        assert "authorization" in stranger.stderr.lower()
        assert attempt(url, "ps", "--nkey", str(seed), XDG_STATE_HOME=str(other)).returncode == 0
        (reply,) = map(json.loads, run(url, "status", "--json").stdout.splitlines())
        assert reply["bus_authenticated"] is True
    assert not seed.exists()


def refusal(port: int) -> bytes:
    """Returns what the server sends to a client without a login, after its INFO line."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_SEC) as stream:
        stream.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
        heard = b""
        while chunk := stream.recv(65536):
            heard += chunk
    return heard.partition(b"\r\n")[2]
