"""The Vector configuration of examples/, applied to a real stream.

Vector is in no package index that the tests can use. The test checks the option names against
Vector's documentation, reads through the consumer that the file names, and applies the transforms.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents import COMMAND, Fleet, client_flags
from bus import Bus
from exports import conversations
from packets import Packet
from servers import NatsServer
from stored import batches, store_flows

pytestmark = pytest.mark.jetstream

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/vector/vector.toml"
FLOWS = 2500
# https://vector.dev/docs/reference/configuration/, read on 2026-11-29.
OPTIONS = {
    "nats": {"url", "connection_name", "subject", "decoding", "jetstream"},
    "remap": {"inputs", "source"},
    "file": {"inputs", "path", "encoding", "acknowledgements"},
    "clickhouse": {
        *("inputs", "endpoint", "database", "table", "skip_unknown_fields", "acknowledgements")
    },
}


def apply(source: str, event: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the events that a transform makes of one: `unnest` or `merge`."""
    if found := re.fullmatch(r"\. = unnest!\(\.(\w+)\)", source):
        return [event | {found[1]: one} for one in event[found[1]]]
    found = re.fullmatch(r'\. = merge!\(\.(\w+), \{"(\w+)": \.(\w+)\}\)', source)
    assert found, source
    return [event[found[1]] | {found[2]: event[found[3]]}]


def create_consumer(server: NatsServer, hosts: Path, name: str) -> None:
    hosts.write_text("alpha\n")
    command = [str(COMMAND), "nats", "streams", "--hosts", str(hosts), "--collector", name]
    done = subprocess.run([*command, *client_flags(server.url)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_options_and_inputs_exist() -> None:
    config = tomllib.loads(EXAMPLE.read_text())
    parts = {name: part for kind in config.values() for name, part in kind.items()}
    for name, part in parts.items():
        assert part.keys() - {"type"} <= OPTIONS[part["type"]], name
        assert set(part.get("inputs", [])) <= parts.keys(), name


async def test_each_record_becomes_one_event(
    nats_server: NatsServer,
    fleet: Fleet,
    bus: Bus,
    tmp_path: Path,
    capture_file: Callable[[list[Packet]], Path],
) -> None:
    config = tomllib.loads(EXAMPLE.read_text())
    source = config["sources"]["batches"]
    jetstream = source["jetstream"]
    stopped = await store_flows(fleet, bus, capture_file(conversations(FLOWS)))
    create_consumer(nats_server, tmp_path / "hosts", jetstream["consumer"])
    found = await batches(bus, jetstream["stream"], jetstream["consumer"])
    subject = re.escape(source["subject"]).replace(">", ".+")
    assert all(re.fullmatch(subject, batch["subject"]) for batch in found)
    split, merged = (config["transforms"][name]["source"] for name in ("split", "records"))
    events = [
        event for batch in found for one in apply(split, batch) for event in apply(merged, one)
    ]
    assert len(events) == len({event["flow_id"] for event in events}) == FLOWS
    assert {event["host"] for event in events} == {"alpha"}
    packets = sum(event["packets"] for event in events)
    assert packets + stopped["packets_non_flow"] == stopped["packets_captured"]
