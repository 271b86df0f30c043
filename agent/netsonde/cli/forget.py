"""`netsonde forget`: removes hosts from the inventory."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace

from ..errors import EXIT_OK, EXIT_REFUSED
from ..fleet.targeting import parse_hosts
from .output import put, say
from .requests import add_connection_arguments, read_nats_section


class ForgetCommand:
    """Remove hosts from the inventory, for example after they were taken out of service.

    A host leaves the inventory in no other way. An agent that still runs writes its host again.
    """

    name = "forget"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("hosts", metavar="HOST", nargs="+", help="a host of the inventory")
        add_connection_arguments(parser)

    def run(self, args: Namespace) -> int:
        return asyncio.run(forget_hosts(args))


async def forget_hosts(args: Namespace) -> int:
    from ..fleet.changes import read_hosts
    from ..fleet.client import connect
    from ..fleet.inventory import forget
    from .policies import report_malformed

    unknown = 0
    async with connect(read_nats_section(args)) as client:
        inventory = await read_hosts(client)
        known = inventory.hosts
        report_malformed(inventory.malformed)
        for host in parse_hosts(args.hosts):
            if host in known:
                await forget(
                    client.connection,
                    client.address.root,
                    host,
                    domain=client.address.jetstream_domain,
                )
                put(host)
            else:
                say(f"{host}: not in the inventory")
                unknown += 1
    return EXIT_REFUSED if unknown else EXIT_OK
