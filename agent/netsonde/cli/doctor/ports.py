"""Check of [http] listen: the port is free, or this host's agent has it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException

from .finding import Finding, Subject

TIMEOUT_SEC = 2.0


def examine_http(subject: Subject) -> Iterator[Finding]:
    listen = subject.settings.http.listen
    if not listen:
        yield Finding("http.listen", "note", "off")
        return
    host, _, port = listen.rpartition(":")
    address = (host.strip("[]"), int(port))
    try:
        _bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _is_agent(address):
            yield Finding("http.listen", "ok", f"{listen}: the agent of this host listens")
            return
        detail = f"{listen}: {os.strerror(error.errno or 5).lower()}; the agent runs without HTTP"
        repair = subject.set_key("http.listen", f"{host}:{_free_port()}")
        yield Finding("http.listen", "warning", detail, repair=repair)
    else:
        yield Finding("http.listen", "ok", f"{listen} is free")


def _bind(address: tuple[str, int]) -> None:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)


def _is_agent(address: tuple[str, int]) -> bool:
    connection = HTTPConnection(*address, timeout=TIMEOUT_SEC)
    try:
        connection.request("GET", "/metrics")
        return b"netsonde_build_info" in connection.getresponse().read(1 << 16)
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
