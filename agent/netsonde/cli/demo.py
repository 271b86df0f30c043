"""`netsonde demo`: the agent at work on one machine, in under half a minute.

The demo uses only what users have: an agent process (`netsonde run`), a nats-server, and the
commands of this program, which it prints and runs. It exits with 1 if a flow is missing or a
packet is not accounted for.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.environment import ENVIRONMENT_PREFIX
from ..errors import EXIT_OK, EXIT_REFUSED, NetsondeError, PrivilegeError
from .output import put_lines

if TYPE_CHECKING:
    from .demo_programs import FarEnd

DURATION_SEC_MAX = 25.0


class DemoCommand:
    """See it work: an agent, a capture and its flows on this machine alone, in 25 seconds.

    As root, the demo moves into a new network namespace and joins it to a second one by a
    veth pair. It starts a nats-server and an agent, starts a capture through NATS, and turns
    metering on. Then it sends TCP, UDP, DNS and ICMP packets over IPv4, IPv6 and a VLAN
    through the link, and shows flow records and metrics as they arrive. The packets come from
    a capture file that is part of netsonde. Two programs talk through the link too: their
    records have the process, and the name that it asked for. No packet leaves the machine,
    and nothing remains afterwards. Without the privilege for that (or with --replay) the
    agent reads the capture file instead.

    At the end the demo checks that the packets and bytes of each kind of traffic were metered
    exactly and that every packet is accounted for, and exits with 1 if not.
    """

    name = "demo"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--replay", action="store_true", help="replay a capture file even if root"
        )

    def run(self, args: Namespace) -> int:
        from .demo_network import open_link

        far: FarEnd | None = None
        try:
            if args.replay:
                raise PrivilegeError("--replay was given")
            far = open_link()
        except PrivilegeError as error:
            put_lines(f"No live traffic: {error}.\nA capture file is replayed instead.")
        for name in [name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX)]:
            del os.environ[name]  # only the demo's configuration applies to the demo's agent
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return asyncio.run(perform(far))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


async def perform(far: FarEnd | None) -> int:
    """Runs the demo. Stops its processes and removes its files, whatever happens."""
    from .demo_agent import open_lab
    from .demo_play import play

    async def run() -> list[str]:
        with tempfile.TemporaryDirectory(prefix="netsonde-demo-") as directory:
            async with asyncio.timeout(DURATION_SEC_MAX), open_lab(Path(directory)) as lab:
                return await play(lab, far)

    running = asyncio.create_task(run())
    # An exception could end any callback. SIGINT may be ignored: shells do that for `demo &`.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        problems = await running
    except TimeoutError:
        raise NetsondeError(f"The demo took longer than {DURATION_SEC_MAX:g} s.") from None
    for problem in problems:
        put_lines(f"\nMISSING: {problem}")
    if problems:
        return EXIT_REFUSED
    put_lines("\nEverything arrived and adds up. Nothing of the demo remains on this machine.")
    return EXIT_OK
