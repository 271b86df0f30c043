"""The servers of deploy/nats/sites: a cluster as the hub, leaf nodes, and a gateway.

The files are used as they are. Each test adds `no_auth_user`, so that its clients need no password.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

from servers import NatsServer, free_port

FILES = Path(__file__).parents[1] / "deploy" / "nats" / "sites"
DOMAIN = "hub"
PASSWORD = "secret"


class Link:
    """A TCP proxy. `cut` resets its connections and refuses new ones until `heal`. `pause` holds
    back every byte until `resume`, as a network does that drops all packets."""

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self._target = port
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._open = threading.Event()
        self._open.set()
        self.heal()

    def pause(self) -> None:
        self._open.clear()

    def resume(self) -> None:
        self._open.set()

    def heal(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        with self._lock:
            self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        self._open.set()
        with self._lock:
            listener, self._listener = self._listener, None
            sockets, self._sockets = self._sockets, []
        for one in [listener, *sockets]:
            if one is not None:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed by `cut`
            while True:
                near, _ = listener.accept()
                with contextlib.suppress(OSError):
                    far = socket.create_connection(("127.0.0.1", self._target), 5)
                    far.settimeout(None)
                    with self._lock:
                        cut = self._listener is not listener
                        self._sockets += [near, far]
                    if cut:
                        near.close()
                        far.close()
                    else:
                        threading.Thread(
                            target=_carry, args=(near, far, self._open), daemon=True
                        ).start()
                    continue
                near.close()


def _carry(near: socket.socket, far: socket.socket, passes: threading.Event) -> None:
    with contextlib.suppress(OSError, ValueError), selectors.DefaultSelector() as selector:
        selector.register(near, selectors.EVENT_READ, far)
        selector.register(far, selectors.EVENT_READ, near)
        while True:
            for key, _ in selector.select():
                assert isinstance(key.fileobj, socket.socket)
                data = key.fileobj.recv(65536)
                if not data:
                    near.close()
                    far.close()
                    return
                passes.wait()
                key.data.sendall(data)


class Sites:
    """Start what the test needs; `kill` ends all of it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports: dict[str, int] = {}
        self.hub: list[NatsServer] = []
        self.servers: list[NatsServer] = []
        self.links: list[Link] = []

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.hub]

    def start_hub(self) -> list[NatsServer]:
        self.hub = [self._hub_server(f"hub{number}") for number in (1, 2, 3)]
        return self.hub

    def _hub_server(self, name: str) -> NatsServer:
        routes = [f"nats://127.0.0.1:{self._port(f'hub{n} cluster')}" for n in (1, 2, 3)]
        variables = {
            "CLUSTER_LISTEN": self._listen(f"{name} cluster"),
            "CLUSTER_ROUTES": routes,
            "LEAF_LISTEN": self._listen(f"{name} leaf"),
            "GATEWAY_LISTEN": self._listen(f"{name} gateway"),
        }
        return self._start("hub.conf", name, variables)

    def start_west(self) -> NatsServer:
        variables = {
            "CLUSTER_LISTEN": self._listen("west1 cluster"),
            "CLUSTER_ROUTES": [f"nats://127.0.0.1:{self._port('west1 cluster')}"],
            "GATEWAY_LISTEN": self._listen("west1 gateway"),
            "HUB_GATEWAYS": [self._gateway(f"hub{number}") for number in (1, 2, 3)],
        }
        return self._start("west.conf", "west1", variables)

    def start_leaf(self, file: str) -> NatsServer:
        """The leaf's link to the hub is the last of `links`."""
        self.links.append(Link(self._port("hub1 leaf")))
        url = f"nats-leaf://fleet:{PASSWORD}@127.0.0.1:{self.links[-1].port}"
        return self._start(file, Path(file).stem, {"HUB_LEAFS": [url]})

    def kill(self) -> None:
        for link in self.links:
            link.cut()
        for server in self.servers:
            server.kill()

    def _start(self, file: str, name: str, variables: Mapping[str, object]) -> NatsServer:
        directory = self._directory / name
        more = {"NAME": name, "PASSWORD": PASSWORD, "STORE": str(directory), **variables}
        settings = [f"{key}={json.dumps(value)}" for key, value in more.items()]
        port = free_port()
        server = NatsServer(
            directory,
            config=(FILES / file).read_text() + "\nno_auth_user: fleet\n",
            prefix=("env", f'LISTEN="127.0.0.1:{port}"', *settings),
        )
        server.port = port
        self.servers.append(server.start())
        return server

    def _port(self, name: str) -> int:
        return self._ports.setdefault(name, free_port())

    def _listen(self, name: str) -> str:
        return f"127.0.0.1:{self._port(name)}"

    def _gateway(self, name: str) -> str:
        return f"nats://127.0.0.1:{self._port(f'{name} gateway')}"
