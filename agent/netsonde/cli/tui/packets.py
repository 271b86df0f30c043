"""The `netsonde packets` command that fetches the packets of one flow.

The screen shows the command and runs it as a process, so what runs is what is shown.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from ...config.masking import mask
from .feed import FlowSample

PORTS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}
CONNECTION = ("nats", "config", "root", "jetstream_domain", "creds", "nkey", "tls_ca", "tls_cert",
              "tls_key")  # fmt: skip


def flow_filter(record: dict[str, Any]) -> str:
    """Returns a BPF filter for both directions of a flow.

    A flow inside a tunnel is found by the tunnel's endpoints. Fragments after the first have no
    ports, so a flow with fragments is found by addresses and protocol.
    """
    tunnel = record.get("tunnel")
    if tunnel:
        return f"host {tunnel['outer_source_ip']} and host {tunnel['outer_dest_ip']}"
    protocol = str(record.get("protocol", ""))
    source, dest = record["source_ip"], record["dest_ip"]
    if protocol in PORTS and not record.get("fragments"):
        ends = ((source, record["source_port"]), (dest, record["dest_port"]))
        one = direction(*ends)
        other = direction(*reversed(ends))
        text = f"{PORTS[protocol]} and (({one}) or ({other}))"
    else:
        kind = "ip6" if ":" in source else "ip"
        number = record.get("protocol_number")
        proto = f"{kind} proto {number} and " if number is not None else ""
        text = f"{proto}host {source} and host {dest}"
    tags = [f"vlan {tag}" for tag in record.get("vlan") or ()]
    if record.get("mpls_label") is not None:
        tags.append(f"mpls {record['mpls_label']}")
    return " and ".join([*tags, text])


def direction(source: tuple[str, int], dest: tuple[str, int]) -> str:
    ends = f"src host {source[0]} and src port {source[1]}"
    return f"{ends} and dst host {dest[0]} and dst port {dest[1]}"


def connection_words(args: Namespace) -> list[str]:
    """Returns the connection options as the user gave them to `top`."""
    words = []
    for name in CONNECTION:
        value = getattr(args, name, None)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def packets_words(flow: FlowSample, connection: Sequence[str] = ()) -> list[str]:
    """Returns the words after `netsonde`. The file has the names of host and flow."""
    start = flow.record.get("flow_start")
    since = ["--start", start] if isinstance(start, str) else []
    name = re.sub(r"[^\w.-]", "_", f"{flow.host}-{flow.flow_id}")
    return [
        *("packets", "--host", flow.host, "--filter", flow_filter(flow.record), *since),
        *("--write", f"{name}.pcapng", *connection),
    ]


def shown_command(words: Sequence[str]) -> str:
    """Returns the command as a shell takes it, without passwords."""
    return shlex.join(["netsonde", *(mask(word) for word in words)])


async def run_command(words: Sequence[str]) -> tuple[int, str]:
    """Runs the command. Returns its exit code and what it printed. A cancelled call ends it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "netsonde", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
    return process.returncode or 0, output.decode(errors="replace")
