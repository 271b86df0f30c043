"""The Telegraf configuration of examples/, applied to metrics of a real agent.

Telegraf is in no package index that the tests can use. The test checks the option names against
Telegraf's documentation, subscribes to the same subjects, and applies each path and type.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from nats.aio.msg import Msg

from agents import Agent
from bus import Bus, settled
from deadlines import eventually
from exports import conversations
from packets import Packet

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/telegraf/telegraf.conf"
# https://docs.influxdata.com/telegraf/v1/, read on 2026-11-29.
CONSUMER = {"servers", "subjects", "queue_group", "data_format", "json_v2"}
PARSER = {"measurement_name", "timestamp_path", "timestamp_format", "tag", "field"}
FLOWS = 200


def test_options_exist() -> None:
    config = tomllib.loads(EXAMPLE.read_text())
    (consumer,) = config["inputs"]["nats_consumer"]
    (parser,) = consumer["json_v2"]
    assert config.keys() == {"agent", "inputs", "outputs"}
    assert config["agent"].keys() == {"omit_hostname"}
    assert consumer.keys() == CONSUMER
    assert parser.keys() == PARSER
    assert {key for tag in parser["tag"] for key in tag} == {"path"}
    assert {key for field in parser["field"] for key in field} == {"path", "type"}


async def test_each_metric_has_its_tag_time_and_fields(
    alpha: Agent, bus: Bus, capture_file: Callable[[list[Packet]], Path]
) -> None:
    (consumer,) = tomllib.loads(EXAMPLE.read_text())["inputs"]["nats_consumer"]
    (parser,) = consumer["json_v2"]
    messages: list[Msg] = []

    async def keep(message: Msg) -> None:
        messages.append(message)

    for subject in consumer["subjects"]:
        await bus.client.subscribe(subject, queue=consumer["queue_group"], cb=keep)
    await settled(bus.client)
    trace = str(capture_file(conversations(FLOWS)))
    await bus.ok("start", {"interface": trace, "backend": "file", "metering": {"enable": True}})

    def counted() -> bool:
        return any(json.loads(one.data).get("packets_captured") == FLOWS for one in messages)

    await eventually(counted, "a metric with each packet")
    body = json.loads(messages[-1].data)
    assert messages[-1].subject == "capture.stream.metrics.alpha"
    assert [body[tag["path"]] for tag in parser["tag"]] == ["alpha"]
    assert datetime.fromisoformat(body[parser["timestamp_path"]]) < datetime.now(UTC)
    for field in parser["field"]:
        value = body[field["path"]]
        assert value >= 0, field
        assert isinstance(value, int if field["type"] == "uint" else (int, float)), field
