"""Hosts of a fleet: a network namespace each, joined by a bridge.

    ┌ h00 ──────────────┐ veth ┌ hub ─────────────────────────────────┐
    │ agent, up0, lan0  ├──────┤ port0                                │
    └───────────────────┘      │   …    bridge br0: nats-server, test │
    ┌ h01 ──────────────┐ veth │                                      │
    │ agent, up0, lan0  ├──────┤ port1                                │
    └───────────────────┘      └──────────────────────────────────────┘

The agent of a host can be killed, frozen, or cut off: its port leaves the bridge, so packets vanish
while the link stays up. Names contain this process's id. FLEET_HOSTS sets the number of hosts.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from dataclasses import dataclass, field

from agents import Agent, Fleet
from netns import in_namespace, ip, namespace_add, namespace_delete

COUNT = int(os.environ.get("FLEET_HOSTS", "10"))
HUB_ADDRESS = "10.78.0.1"
LAN_DEVICE = "lan0"  # an empty bridge, on each host
TRAFFIC_PACKETS = 20

_numbers = itertools.count(1)


class Network:
    """The namespaces. Nothing runs in them yet."""

    def __init__(self, count: int = COUNT) -> None:
        self.stem = f"nst{os.getpid()}m{next(_numbers)}"
        self.hub = f"{self.stem}hub"
        self.hosts = tuple(f"h{number:02}" for number in range(count))

    def create(self) -> Network:
        namespace_add(self.hub)
        ip("-n", self.hub, "link", "add", "br0", "type", "bridge")
        ip("-n", self.hub, "addr", "add", f"{HUB_ADDRESS}/16", "dev", "br0")
        ip("-n", self.hub, "link", "set", "br0", "up")
        for number, host in enumerate(self.hosts):
            name, port = self.namespace(host), self.port(host)
            namespace_add(name)
            link = ("link", "add", "up0", "netns", name, "type", "veth")
            ip(*link, "peer", "name", port, "netns", self.hub)
            ip("-n", name, "addr", "add", f"10.78.{1 + number // 200}.{1 + number % 200}/16",
               "dev", "up0")  # fmt: skip
            ip("-n", name, "link", "set", "up0", "up")
            ip("-n", self.hub, "link", "set", port, "master", "br0", "up")
            self.lan_add(host)
        return self

    def delete(self) -> None:
        for name in (*map(self.namespace, self.hosts), self.hub):
            namespace_delete(name)

    def namespace(self, host: str) -> str:
        return f"{self.stem}{host}"

    def port(self, host: str) -> str:
        return f"port{self.hosts.index(host)}"

    def cut(self, host: str) -> None:
        ip("-n", self.hub, "link", "set", self.port(host), "nomaster")

    def heal(self, host: str) -> None:
        ip("-n", self.hub, "link", "set", self.port(host), "master", "br0")

    def lan_add(self, host: str) -> None:
        name = self.namespace(host)
        ip("-n", name, "link", "add", LAN_DEVICE, "type", "bridge")
        ip("-n", name, "link", "set", LAN_DEVICE, "up")

    def lan_delete(self, host: str) -> None:
        ip("-n", self.namespace(host), "link", "delete", LAN_DEVICE)


@dataclass(slots=True)
class Machines:
    """The hosts with their agents."""

    network: Network
    fleet: Fleet
    agents: dict[str, Agent] = field(default_factory=dict)

    def start(self, *hosts: str) -> None:
        """Starts the agents at the same time, and returns when all reply."""
        for host in hosts:
            self.agent(host).spawn()
        for host in hosts:
            self.agents[host].wait_answers()

    def agent(self, host: str) -> Agent:
        if host not in self.agents:
            self.fleet.prefix = ("ip", "netns", "exec", self.network.namespace(host))
            self.agents[host] = self.fleet.agent(host, labels={"site": "ams"})
        return self.agents[host]

    def kill(self, host: str) -> None:
        self.agents[host].kill()

    def freeze(self, host: str) -> None:
        self.agents[host].freeze()

    def thaw(self, host: str) -> None:
        self.agents[host].thaw()

    def send_traffic(self, *hosts: str) -> None:
        """Sends TRAFFIC_PACKETS UDP datagrams over `lo` of each host."""
        for host in hosts:
            in_namespace(self.network.namespace(host), _send_datagrams)


def _send_datagrams() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.bind(("127.0.0.1", 0))
        for _ in range(TRAFFIC_PACKETS):
            sending.sendto(b"x" * 64, sending.getsockname())


class Stopwatch:
    """Prints how long each step took, for `pytest -s`."""

    def __init__(self) -> None:
        self._began_sec = time.monotonic()

    @property
    def elapsed_sec(self) -> float:
        return time.monotonic() - self._began_sec

    def lap(self, what: str) -> float:
        """Returns the seconds since the last lap. Prints nothing if `what` is empty."""
        now_sec = time.monotonic()
        took_sec, self._began_sec = now_sec - self._began_sec, now_sec
        if what:
            print(f"{COUNT} hosts: {what}: {took_sec:.2f} s")
        return took_sec
