"""An operator of a fleet: the commands, a policy file, and the inventory as it is now."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents import COMMAND, client_flags, literal
from deadlines import eventually
from netsonde.bus.nats_client import GuardedClient
from netsonde.fleet.inventory import Host, Inventory, InventoryError, read_inventory
from netsonde.wire.inventory import HostEntry
from servers import NatsServer


async def listed(client: GuardedClient) -> Inventory:
    """Reads the inventory. Waits while JetStream does not reply: a client that lost its server
    tries it again after up to 16 s."""

    async def read() -> tuple[Inventory | None] | None:
        try:
            return (await read_inventory(client, "capture"),)
        except InventoryError:
            return None

    (found,) = await eventually(read, "a reply about the inventory")
    return found if found is not None else Inventory()


async def entries(client: GuardedClient) -> dict[str, HostEntry]:
    return {name: host.entry for name, host in (await listed(client)).hosts.items()}


async def host_of(client: GuardedClient, name: str) -> Host:
    """Returns a host of the inventory as soon as its entry is there."""

    async def present() -> Host | None:
        return (await listed(client)).hosts.get(name)

    return await eventually(present, f"{name} in the inventory")


async def known(client: GuardedClient, *hosts: str) -> None:
    """Returns when the inventory has all of these hosts."""
    for host in hosts:
        await host_of(client, host)


def policy(name: str, select: str, rollout: Mapping[str, Any] | None = None, **capture: Any) -> str:
    """Returns one [[policy]] of a policy file, by default a capture of `lo`."""
    options = {"interface": "lo", "backend": "af_packet", "buffer_size_mb": 1, **capture}
    lines = ["[[policy]]", f"name = {literal(name)}", f"select = {literal(select)}"]
    lines.append(f"capture = {toml_inline(options)}")
    if rollout is not None:
        lines.append(f"rollout = {toml_inline(rollout)}")
    return "\n".join(lines) + "\n"


def toml_inline(table: Mapping[str, Any]) -> str:
    return "{ " + ", ".join(f"{key} = {literal(value)}" for key, value in table.items()) + " }"


class Operator:
    """A user with a policy file and the commands."""

    def __init__(self, server: NatsServer, directory: Path, *, state: Path | None = None) -> None:
        """state: the state directory of the commands, instead of the tests' common one."""
        self.server = server
        self.file = directory / "fleet.toml"
        self.environment = dict(os.environ)
        if state is not None:
            self.environment["XDG_STATE_HOME"] = str(state)

    def write(self, *policies: str) -> None:
        self.file.write_text("\n".join(policies))

    def command(self, *words: str) -> list[str]:
        return [str(COMMAND), *words, *client_flags(self.server.url)]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            timeout=170,
            env=self.environment,
        )

    def spawn(self, *words: str, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command(*words), stdout=stdout, env=self.environment)

    def rows(self, *words: str) -> dict[str, dict[str, Any]]:
        """Returns the rows of a command's `--json` output by host."""
        done = self.run(*words, "--json")
        found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return {row["host"]: row for row in found}
