"""Three real agents and a real Prometheus: the metrics page, each dashboard query, the alerts.

`alpha` captures live by a policy, with spool, export and segment files. `beta` captures by a
request and is killed at the end. `gamma` wants an interface that does not exist.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

import capturing
from agents import Agent, Fleet
from bus import Bus
from collectors import HOST, Inbox
from deadlines import eventually
from netns import HOST_DEVICE, Sender, Wire
from netsonde.bus.nats_client import GuardedClient
from operators import Operator, known, policy
from packets import UDP, ethernet, ipv4, udp
from scraping import REPOSITORY, RULES, Prometheus
from servers import NatsServer, free_port

pytestmark = pytest.mark.jetstream

DASHBOARDS = sorted((REPOSITORY / "deploy/grafana").glob("*.json"))
VARIABLES = {
    "fleet": {"job": ".*", "site": ".*", "host": ".*"},
    "host": {"job": "netsonde", "site": "ams", "host": "alpha"},
}
FRAMES = [
    ethernet(ipv4(udp(bytes(200), 1000 + n, 53), UDP, f"10.0.{n}.1", "10.1.0.1")) for n in range(50)
]


@dataclass
class Stage:
    agents: list[Agent]
    bus: Bus
    sender: Sender
    prometheus: Prometheus

    async def act(self) -> None:
        """Sends packets, and requests that succeed and fail."""
        self.sender.send(FRAMES)
        for verb in ("status", "metrics", "no.such.verb"):
            await self.bus.request(verb, host="alpha")

    async def acting(self, ask: Callable[[], object], what: str) -> None:
        async def step() -> bool:
            await self.act()
            return bool(ask())

        await eventually(step, what, interval_sec=0.2)

    def answer(self, expression: str) -> float | None:
        found = self.prometheus.query(expression)
        return found[0].value if found else None


def page(agent: Agent) -> str:
    with urllib.request.urlopen(f"http://{agent.config['http']['listen']}/metrics") as reply:
        return str(reply.read().decode())


def http() -> dict[str, str]:
    return {"listen": f"127.0.0.1:{free_port()}"}


@pytest.fixture
def inbox(wire: Wire) -> Iterator[Inbox]:
    inbox = Inbox()
    yield inbox
    inbox.close()


@pytest_asyncio.fixture
async def stage(
    wire: Wire,
    nats_server: NatsServer,
    inbox: Inbox,
    fleet: Fleet,
    bus: Bus,
    client: GuardedClient,
    operator: Operator,
    tmp_path: Path,
) -> AsyncIterator[Stage]:
    session = {"interface": "missing0", "backend": "af_packet"}
    alpha = fleet.start(
        "alpha",
        labels={"site": "ams", "role": "edge"},
        http=http(),
        flows={"jetstream": True, "spool_dir": str(tmp_path / "spool")},
        buffer={"dir": str(tmp_path / "segments"), "disk_mb": 64},
    )
    beta = fleet.start("beta", labels={"site": "fra"}, http=http())
    await known(client, "alpha", "beta")
    export = {"collector_ip": HOST, "collector_port": inbox.port, "export_interval_sec": 1}
    chosen: dict[str, Any] = {"interface": HOST_DEVICE, "buffer_size_mb": 8, "export": export}
    operator.write(policy("edge", "role = edge", **chosen))
    applied = operator.run("apply", str(operator.file))
    assert applied.returncode == 0, applied.stderr
    gamma = fleet.start("gamma", http=http(), session=session)
    await bus.ok(
        "start", {"interface": HOST_DEVICE, "backend": "af_packet", "metering": {"enable": True}},
        host="beta",
    )  # fmt: skip
    agents = [alpha, beta, gamma]
    targets = [agent.config["http"]["listen"] for agent in agents]
    prometheus = Prometheus(tmp_path / "prometheus", targets)
    sender = wire.sender()
    try:
        yield Stage(agents, bus, sender, prometheus.start())
    finally:
        prometheus.stop()
        sender.close()


# ---- the metrics page ----------------------------------------------------------------------------


def documented() -> dict[str, tuple[str, str, str]]:
    """Type, labels and help text of each metric in docs/metrics.md."""
    text = (REPOSITORY / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", text, re.M)
    return {name: (kind, labels, meaning) for name, kind, labels, meaning in rows}


def exposed(pages: list[str]) -> dict[str, tuple[str, str, str]]:
    labels: dict[str, set[str]] = {}
    heads: dict[str, tuple[str, str]] = {}
    for text in pages:
        for family in text_string_to_metric_families(text):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            heads[name] = (family.type, family.documentation)
            for sample in family.samples:
                labels.setdefault(name, set()).update(set(sample.labels) - {"le"})
    found = {}
    for name, (kind, meaning) in heads.items():
        shown = ", ".join(f"`{one}`" for one in sorted(labels.get(name, ())))
        found[name] = (kind, shown or "–", meaning)
    return found


async def test_the_page_lists_each_metric_of_a_scrape(stage: Stage) -> None:
    await stage.act()
    pages: list[str] = []

    def complete() -> bool:
        pages[:] = [page(agent) for agent in stage.agents]
        return exposed(pages) == documented()

    try:
        await eventually(complete, "each documented metric, and no other")
    finally:
        print(exposed(pages).items() ^ documented().items())
    for text in pages:
        accept(text)


def accept(text: str) -> None:
    """Checks the form of a scrape with promtool."""
    command = ["promtool", "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- dashboards ----------------------------------------------------------------------------------


def queries(dashboard: Path) -> dict[str, str]:
    """The expression of each target, with the variables filled in."""
    found = {}
    for panel in json.loads(dashboard.read_text())["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", "10s")
            for name, value in VARIABLES[dashboard.stem].items():
                expression = expression.replace(f"${name}", value)
            assert "$" not in expression
            found[f"{dashboard.stem}: {panel['title']} {target['refId']}"] = expression
    return found


def variables(dashboard: Path) -> list[tuple[str, str]]:
    """Selector and label of each variable that lists label values."""
    found = []
    for one in json.loads(dashboard.read_text())["templating"]["list"]:
        if one["type"] == "query":
            asked = re.fullmatch(r"label_values\((.*), (\w+)\)", one["query"]["query"])
            assert asked is not None, one
            found.append((re.sub(r"\$\w+", ".*", asked[1]), asked[2]))
    return found


async def test_each_query_of_each_dashboard_returns_data(stage: Stage) -> None:
    open_queries = {name: text for one in DASHBOARDS for name, text in queries(one).items()}
    assert len(open_queries) > 80

    def all_answered() -> bool:
        for name, expression in list(open_queries.items()):
            if stage.prometheus.query(expression):
                del open_queries[name]
        return not open_queries

    try:
        await stage.acting(all_answered, "data for each query")
    finally:
        print(json.dumps(open_queries, indent=1))
    for dashboard in DASHBOARDS:
        for selector, label in variables(dashboard):
            assert any(label in one for one in stage.prometheus.series(selector)), selector
    # Prometheus shows what the agent counts, and no packet is missing.
    status = await capturing.at_rest(stage.bus)
    captured = 'netsonde_packets_captured_total * on (instance) netsonde_host_info{host="alpha"}'
    await eventually(
        lambda: stage.answer(captured) == status["packets_captured"], "the last packets to be shown"
    )
    unaccounted = " - ".join(
        f"netsonde_packets_{part}"
        for part in ("captured_total", "recorded_total", "active", "non_flow_total")
    )
    assert {one.value for one in stage.prometheus.query(unaccounted)} == {0.0}


# ---- alerts --------------------------------------------------------------------------------------


def selectors() -> set[str]:
    """Each metric with its matchers in the expressions of the rules."""
    text = RULES.read_text()
    return {
        metric + matchers
        for metric, matchers in re.findall(
            r"\b(netsonde_\w+|process_\w+|up)((?:\{[^}]*\})?)(?=[\s)\[]|$)", text
        )
    }


def raised(prometheus: Prometheus) -> set[str]:
    rules = prometheus.rules()
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}, rules
    return {rule["name"] for rule in rules if rule["state"] in ("pending", "firing")}


async def test_alerts_read_metrics_that_exist_and_are_raised(stage: Stage) -> None:
    meter: dict[str, Any] = {"enable": True, "flow_timeout_sec": 30, "override": True}
    await stage.bus.ok("flow.meter.enable", meter, host="alpha")
    missing = selectors()
    assert len(missing) > 25

    def all_there() -> bool:
        for selector in list(missing):
            if stage.prometheus.series(selector):
                missing.discard(selector)
        return not missing

    try:
        await stage.acting(all_there, "series for each selector of the alerts")
    finally:
        print(missing)
    stage.agents[1].kill()
    expected = {
        "NetsondeAgentDown",  # beta
        "NetsondeAlarm",  # gamma: capture_waiting
        "NetsondeCaptureDrift",  # alpha: the override
        "NetsondeCaptureNotRunning",  # gamma
        "NetsondeHostError",  # gamma
        "NetsondeNatsUnauthenticated",
        "NetsondePolicyNotApplied",  # gamma
    }
    await eventually(
        lambda: raised(stage.prometheus) >= expected, "the alerts of this stage", interval_sec=0.2
    )
    assert raised(stage.prometheus) <= expected
