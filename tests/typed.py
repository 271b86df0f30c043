"""Pages whose commands a test types: each host of the page is a shell in its own namespace.

A block of commands follows a line that ends with "On `HOST`:" or contains "On `HOST`,". A block
of output follows the commands that print it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import netns

MARK = "@@ done"
TIMEOUT_SEC = 120
BLOCKS = re.compile(r"(On `(\w+)`[^\n]*\n\n)?^```(?:sh)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """Commands of one host, and the output that the page shows after them."""

    host: str
    commands: str
    shown: list[str]


def blocks(text: str) -> list[Block]:
    """Returns the blocks of a page in order."""
    found: list[Block] = []
    for _, host, content in BLOCKS.findall(text):
        if host:
            found.append(Block(host, content, []))
        else:
            found[-1].shown.extend(content.splitlines())
    return found


class Shell:
    """A root shell on a host: a network namespace, a directory, and a stub of scp."""

    def __init__(self, namespace: str, directory: Path, variables: Mapping[str, str]) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        path = f"{directory.parent}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, "bash"],
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PATH": path, "HOME": str(directory), **variables},
        )
        self.type("trap 'echo FAILED: $BASH_COMMAND' ERR\n")

    def type(self, commands: str) -> list[str]:
        """Types commands and returns what is printed until the last one ends."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{commands}\necho '{MARK}'\n")
        process.stdin.flush()
        printed: list[str] = []
        late = threading.Timer(TIMEOUT_SEC, os.killpg, (process.pid, signal.SIGKILL))
        late.start()
        try:
            for line in process.stdout:
                if line.rstrip("\n").endswith(MARK):
                    return printed
                printed.append(line.rstrip("\n"))
        finally:
            late.cancel()
        raise AssertionError(f"the shell ended, or took {TIMEOUT_SEC} s: {commands}\n{printed}")

    def close(self) -> None:
        """Ends the shell and its jobs."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait()


class Hosts:
    """The hosts of a page on one network, by name and address. The first has the switch."""

    def __init__(self, directory: Path, addresses: Mapping[str, str], device: str = "eth0") -> None:
        self.shells: dict[str, Shell] = {}
        self._namespaces: list[str] = []
        self._directory = directory
        self._write_stub(addresses)
        try:
            for name, address in addresses.items():
                self._add(name, address, device)
        except BaseException:
            self.close()
            raise

    def _add(self, name: str, address: str, device: str) -> None:
        namespace = f"nsd{os.getpid()}{name}"
        netns.namespace_add(namespace)
        self._namespaces.append(namespace)
        hub = self._namespaces[0]
        if namespace == hub:
            netns.ip("-n", hub, "link", "add", "br0", "type", "bridge")
            netns.ip("-n", hub, "link", "set", "br0", "up")
            netns.ip("-n", hub, "address", "add", f"{address}/24", "dev", "br0")
        else:
            port = f"to-{name}"
            peer = ("peer", "name", device, "netns", namespace)
            netns.ip("-n", hub, "link", "add", port, "type", "veth", *peer)
            netns.ip("-n", hub, "link", "set", port, "master", "br0", "up")
            netns.ip("-n", namespace, "address", "add", f"{address}/24", "dev", device)
            netns.ip("-n", namespace, "link", "set", device, "up")
        state = {
            "XDG_STATE_HOME": str(self._directory / "state"),
            "STATE_DIRECTORY": str(self._directory / name / "state"),
            "NETSONDE__AGENT__HOST": name,
        }
        self.shells[name] = Shell(namespace, self._directory / name, state)

    def namespace(self, name: str) -> str:
        """Returns the network namespace of a host."""
        return self._namespaces[list(self.shells).index(name)]

    def _write_stub(self, addresses: Mapping[str, str]) -> None:
        """Writes an scp that copies between the directories, because the hosts run no sshd."""
        stub = self._directory / "bin/scp"
        stub.parent.mkdir()
        cases = "".join(f'{name}:) cp "$1" {self._directory}/{name}/;;\n' for name in addresses)
        stub.write_text(f'#!/bin/sh\ncase "$2" in\n{cases}*) exit 1;;\nesac\n')
        stub.chmod(0o755)

    def close(self) -> None:
        for shell in self.shells.values():
            shell.close()
        for namespace in self._namespaces:
            for pid in netns.ip("netns", "pids", namespace).split():  # daemons
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGTERM)
            netns.namespace_delete(namespace)


def shape(line: str) -> str:
    """Returns the words of a line without what varies: the request, ids and times."""
    words = " ".join(line.partition("; request")[0].split())
    return re.sub(r"\d+:\d+:\d+\.\d+|@\[[^]]*\]|id \d+", "*", words).strip(" *")


def check(hosts: Hosts, block: Block, waits: Mapping[str, str]) -> list[str]:
    """Types a block. Returns what is printed.

    `waits` replaces times that a person waits by conditions.
    """
    commands = block.commands
    for typed, waited in waits.items():
        commands = commands.replace(typed, waited)
    printed = hosts.shells[block.host].type(commands)
    text = "\n".join(printed)
    assert "FAILED" not in text, f"{block.commands}\n{text}"
    missing = [line for line in map(shape, block.shown) if line not in map(shape, printed)]
    assert missing == [], f"{block.commands}\n{text}"
    return printed
