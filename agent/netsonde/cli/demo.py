"""`netsonde demo`: the whole product at work on one machine, in under half a minute.

The demo only uses what users have: an agent process (`netsonde run`), a nats-server, and the
commands of this program, each shown before it runs. It checks what it shows, and exits with 1
if a flow is missing or a packet is not accounted for.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from argparse import ArgumentParser, Namespace
from contextlib import AsyncExitStack
from pathlib import Path

from ..config.environment import ENVIRONMENT_PREFIX
from ..errors import EXIT_OK, EXIT_REFUSED, NetsondeError

DURATION_SEC_MAX = 25.0


class DemoCommand:
    """See it work: an agent, a capture and its flows on this machine alone, in 25 seconds.

    As root, the demo moves into a network namespace of its own, joins it to a second one by
    a veth pair, and lets the two talk TCP, UDP, DNS and ICMP over IPv4, IPv6 and a VLAN. It
    starts a nats-server and an agent there, starts a capture through NATS, turns metering on,
    and shows flow records and metrics as they arrive. No packet leaves the machine, and
    nothing remains afterwards. Without the privilege for that (or with --replay) the agent
    replays a capture file instead, which the demo writes itself.

    At the end the demo checks that each kind of traffic was metered and that every packet is
    accounted for, and exits with 1 if not.
    """

    name = "demo"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--replay", action="store_true", help="replay a capture file even if root"
        )

    def run(self, args: Namespace) -> int:
        from .demo_network import find_obstacle, unshare_network

        obstacle = "--replay was given" if args.replay else find_obstacle()
        if obstacle:
            print(f"No live traffic: {obstacle}.\nA capture file is replayed instead.")
        else:
            unshare_network()
        for name in [name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX)]:
            del os.environ[name]  # the demo's agent has the demo's configuration, no other
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return asyncio.run(perform(live=not obstacle))


async def perform(*, live: bool) -> int:
    """Sets the stage, plays, takes everything down again however it ends."""
    from .demo_play import play_live, play_replay
    from .demo_stage import open_stage

    try:
        async with asyncio.timeout(DURATION_SEC_MAX), AsyncExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="netsonde-demo-"))
            stage = await stack.enter_async_context(open_stage(Path(directory)))
            problems = await (play_live(stage) if live else play_replay(stage))
    except TimeoutError:
        raise NetsondeError(f"The demo took longer than {DURATION_SEC_MAX:g} s.") from None
    for problem in problems:
        print(f"\nMISSING: {problem}")
    if problems:
        return EXIT_REFUSED
    print("\nEverything arrived and adds up. Nothing of the demo remains on this machine.")
    return EXIT_OK
