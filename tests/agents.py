"""Agents as processes, started as users start them: `netsonde run --config …`.

An agent is ready when it replies to $SRV.PING. A minimal NATS client asks, not the one under test.
The agent's log is kept, and pytest shows it when a test fails.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import oracle
from deadlines import TIMEOUT_SEC, eventually_now
from netsonde.bus.connection import order_servers
from processes import freeze
from servers import NatsServer

COMMAND = Path(sys.executable).with_name("netsonde")

Config = Mapping[str, Mapping[str, Any]]


def client_flags(url: str) -> tuple[str, ...]:
    """Returns flags that point a command at a test's server and away from the machine's own
    configuration file."""
    return ("--nats", url, "--config", os.devnull)


class Agent:
    """One agent. `prefix` is put before the command, for example `ip netns exec …`."""

    def __init__(
        self, host: str, config: Config, directory: Path, *, prefix: Sequence[str] = ()
    ) -> None:
        self.host = host
        self.config = config
        self.directory = directory
        self.prefix = tuple(prefix)
        self.config_path = directory / f"{host}.toml"
        self.log_path = directory / f"{host}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the agent is not running"
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def spawn(self) -> Agent:
        """Starts the process and returns at once."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config_path.write_text(toml(self.config))
        state = {"STATE_DIRECTORY": str(self.directory / "state")}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.prefix, str(COMMAND), "run", "--config", str(self.config_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**state, **os.environ},
            )
        return self

    def start(self) -> Agent:
        """Starts the process and returns when the agent replies on the bus."""
        self.spawn()
        self.wait_answers()
        return self

    def wait_answers(self) -> None:
        """Returns when the agent replies on the bus."""
        url = order_servers(self.config["nats"]["servers"], self.host)[0]
        eventually_now(lambda: self._answers(url), f"{self.host} to answer")

    def _answers(self, url: str) -> bool:
        assert self.alive, f"{self.host} exited with {self.exit_code}:\n{self.log}"
        return answers(url, f"$SRV.PING.netsonde.{self.host}")

    @property
    def exit_code(self) -> int | None:
        return self._process.poll() if self._process is not None else None

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def freeze(self) -> None:
        """Returns when the agent has stopped."""
        freeze(self.pid)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """Sends SIGKILL and waits for the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def terminate(self) -> int:
        """Sends SIGTERM and returns the exit code. Kills an agent that does not exit, and raises
        AssertionError."""
        assert self._process is not None
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)  # a test may have left it frozen
        try:
            return process.wait(TIMEOUT_SEC)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(
                f"{self.host} still ran {TIMEOUT_SEC} s after SIGTERM:\n{self.log}"
            ) from None


class Fleet:
    """The agents of one test, on its nats-server."""

    def __init__(self, server: NatsServer, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.prefix: tuple[str, ...] = ()
        self.replay_dirs: list[Path] = []  # added to the traces and the test's directory
        self.agents: list[Agent] = []

    def agent(
        self, host: str = "alpha", *, labels: Mapping[str, str] | None = None, **sections: Any
    ) -> Agent:
        """Returns an agent that is not started. `sections` override the common configuration."""
        config: dict[str, dict[str, Any]] = {
            "agent": {"host": host, "labels": dict(labels or {})},
            "nats": {"servers": [self.server.url]},
            "capture": {"replay_dirs": [oracle.DIRECTORY, self.directory, *self.replay_dirs]},
            "http": {"listen": ""},
            "log": {"level": "debug", "format": "json"},
        }
        for section, keys in sections.items():
            config.setdefault(section, {}).update(keys)
        agent = Agent(host, config, self.directory / host, prefix=self.prefix)
        self.agents.append(agent)
        return agent

    def start(self, host: str = "alpha", **options: Any) -> Agent:
        return self.agent(host, **options).start()

    def dismiss(self) -> list[str]:
        """Stops all agents and returns what was wrong: an early exit, an exit code, a traceback."""
        problems = []
        for agent in self.agents:
            if agent.exit_code is not None:
                problems.append(f"{agent.host} exited on its own with {agent.exit_code}")
            elif agent.alive:
                code = agent.terminate()
                if code != 0:
                    problems.append(f"{agent.host} exited with {code} on SIGTERM")
            if "Traceback" in agent.log or "Sanitizer" in agent.log:
                problems.append(f"{agent.host} logged a traceback")
        return problems


def answers(url: str, subject: str, *, within_sec: float = 0.25) -> bool:
    """Returns whether `subject` has a responder. Speaks the NATS protocol on one connection."""
    address = urlsplit(url)
    try:
        with socket.create_connection((address.hostname, address.port), within_sec) as stream:
            stream.sendall(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\n')
            stream.sendall(b"SUB ready 1\r\nPUB %s ready 0\r\n\r\n" % subject.encode())
            heard = b""
            while b"MSG ready" not in heard:
                chunk = stream.recv(65536)
                heard += chunk
                if not chunk or b" 503\r\n" in heard:  # no responders
                    return False
            return True
    except OSError:
        return False


def toml(config: Config) -> str:
    """Returns TOML: tables of scalars, of lists of scalars or tables, and of string tables."""
    lines = []
    for section, keys in config.items():
        lines.append(f"[{section}]")
        tables = {name: value for name, value in keys.items() if isinstance(value, Mapping)}
        lines += [f"{k} = {literal(v)}" for k, v in keys.items() if k not in tables]
        for name, table in tables.items():
            lines.append(f"[{section}.{name}]")
            lines += [f"{literal(k)} = {literal(v)}" for k, v in table.items()]
    return "\n".join(lines) + "\n"


def literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | Path):
        return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {literal(one)}" for name, one in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(literal, value)) + "]"
    return repr(value)
