"""The orderly end of an agent: requests, then records, then connections, by one deadline.

Records that are not sent by the deadline are counted as lost. Then every task is cancelled, and
the process exits even if a thread is still blocked in the core or in a library.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import structlog

from ..errors import EXIT_OK, NetsondeError
from .parts import Parts

DRAIN_SEC = 10.0  # for everything; systemd's TimeoutStopSec is longer
REQUESTS_SEC = 3.0
RECORDS_SEC = 4.0
CONNECTION_SEC = 1.0
TASKS_SEC = 1.0  # for tasks to end once they are cancelled
THREADS_SEC = 1.0
_THREADS = "netsonde-call"


async def drain(parts: Parts) -> None:
    """Refuses new requests with 503, stops the session, sends its records, flushes."""
    until_sec = asyncio.get_running_loop().time() + DRAIN_SEC
    parts.events.emit("lifecycle", "stopping")
    await parts.responder.drain(REQUESTS_SEC)
    await _close_session(parts, until_sec - 2 * CONNECTION_SEC)
    await parts.presence.close()
    try:
        async with asyncio.timeout_at(until_sec):
            await _flush(parts)
    except TimeoutError:
        structlog.get_logger().warning("draining took too long", limit_sec=DRAIN_SEC)


async def _close_session(parts: Parts, until_sec: float) -> None:
    deliverable = parts.bus.records.connected or parts.spooled is not None
    sessions = parts.features.sessions
    closing = asyncio.create_task(sessions.close(RECORDS_SEC if deliverable else 0.0))
    left_sec = max(until_sec - asyncio.get_running_loop().time(), 0.0)
    await asyncio.wait({closing}, timeout=left_sec)
    if closing.done():
        with contextlib.suppress(NetsondeError):
            closing.result()
    else:
        sessions.abandon()


async def _flush(parts: Parts) -> None:
    bus = parts.bus
    if bus.data.connected:
        await parts.events.flushed(CONNECTION_SEC)
        await bus.data.drain(CONNECTION_SEC)
    if bus.control.connected:
        await bus.control.drain(CONNECTION_SEC)


async def cancel_tasks() -> bool:
    """Cancels every other task of the loop. Returns False if some have not ended in time."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if not others:
        return True
    _, running = await asyncio.wait(others, timeout=TASKS_SEC)
    return not running


def use_own_threads() -> ThreadPoolExecutor:
    """Runs blocking calls of the event loop on threads that `threads_ended` knows."""
    threads = ThreadPoolExecutor(thread_name_prefix=_THREADS)
    asyncio.get_running_loop().set_default_executor(threads)
    return threads


async def threads_ended(threads: ThreadPoolExecutor) -> bool:
    """Ends the idle threads. Returns False if one is still in a blocking call."""
    threads.shutdown(wait=False, cancel_futures=True)
    loop = asyncio.get_running_loop()
    until_sec = loop.time() + THREADS_SEC
    while any(thread.name.startswith(_THREADS) for thread in threading.enumerate()):
        if loop.time() >= until_sec:
            return False
        await asyncio.sleep(0.01)
    return True


def exit_now() -> None:
    """Ends the process without waiting for its threads. The kernel closes all it holds."""
    structlog.get_logger().warning("exiting although some calls have not returned")
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_OK)
