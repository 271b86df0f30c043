"""Notices from the kernel that an interface was created or changed.

One netlink socket in the group of link messages. The content of a message does not matter: a
waiting capture tries to start again and finds out what exists.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import structlog

_RTMGRP_LINK = 1
_MESSAGE_BYTES_MAX = 65536


@contextlib.contextmanager
def link_changes(notice: Callable[[], None]) -> Iterator[None]:
    """Calls `notice` on the running event loop after each change. Without netlink it never does,
    and a waiting capture depends on its back-off."""
    try:
        messages = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            socket.NETLINK_ROUTE,
        )
    except OSError as error:
        structlog.get_logger().info("no notices of new interfaces", error=str(error))
        yield
        return

    def on_readable() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    messages.recv(_MESSAGE_BYTES_MAX)
                except BlockingIOError:
                    raise
                except OSError:  # ENOBUFS: messages were lost, and the rest is readable
                    break
        notice()

    loop = asyncio.get_running_loop()
    with messages:
        messages.bind((0, _RTMGRP_LINK))
        loop.add_reader(messages, on_readable)
        try:
            yield
        finally:
            loop.remove_reader(messages)
