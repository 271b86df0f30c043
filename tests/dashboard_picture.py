"""Draws the fleet dashboard of deploy/grafana with data of real agents, for docs/metrics.md:

.venv/bin/python tests/dashboard_picture.py

Four agents on one network capture for some minutes while the traffic changes. The shipped
Prometheus configuration scrapes them each second. Grafana is not part of it.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import netns
from dashboard_svg import Series, draw
from scraping import REPOSITORY, Prometheus
from typed import Hosts

DASHBOARD = REPOSITORY / "deploy/grafana/fleet.json"
PICTURE = REPOSITORY / "docs/fleet-dashboard.svg"
ROWS = 31  # height of the picture on the grid; the rows "Agents" and "Hosts" are below
ADDRESSES = {
    "hub": "192.0.2.1", "ams-web1": "192.0.2.11", "ams-web2": "192.0.2.12",
    "fra-db1": "192.0.2.21", "fra-edge1": "192.0.2.22",
}  # fmt: skip
SECONDS = 120
VALUES = {"$job": "netsonde", "$site": ".*", "$host": ".*", "$__rate_interval": "8s"}
CONFIG = """
[agent]
host = "{host}"
labels = {{ site = "{site}", role = "web" }}
[nats]
servers = ["nats://admin:secret@192.0.2.1:4222"]
[flows]
jetstream = true
spool_dir = "{directory}/spool"
[metrics]
interval_sec = 1
[http]
listen = "{address}:9461"
[session]
interface = "eth0"
backend = "af_packet"
metering = {{ enable = true }}
"""
# Mbit/s, one after the other.
LOADS = {
    ("ams-web2", "192.0.2.11"): "4 12 12 30 22 8 4 16",
    ("fra-edge1", "192.0.2.21"): "8 8 20 10 6 18 26 12",
}


def shown_panels() -> list[dict[str, Any]]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in panels if panel["gridPos"]["y"] < ROWS]


def prepare(hosts: Hosts) -> None:
    """Starts the NATS server, the agents and their traffic."""
    server = "nats-server -a 192.0.2.1 -js -sd streams --user admin --pass secret > nats.log 2>&1 &"
    hosts.shells["hub"].type(f"{server}\nuntil grep -q 'is ready' nats.log; do sleep 0.1; done")
    url = "nats://admin:secret@192.0.2.1:4222"
    names = [name for name in ADDRESSES if name != "hub"]
    listed = " ".join(f"--host {name}" for name in names)
    hosts.shells["hub"].type(
        f"export NETSONDE__NATS__SERVERS={url}; netsonde nats streams {listed}"
    )
    for name in names:
        shell = hosts.shells[name]
        config = CONFIG.format(
            host=name, site=name[:3], address=ADDRESSES[name], directory=shell.directory
        )
        (shell.directory / "netsonde.toml").write_text(config)
        shell.type("iperf3 -s -D\nnetsonde run --config netsonde.toml > agent.log 2>&1 &")
    hosts.shells["hub"].type("until netsonde status > status.log 2>&1; do sleep 0.2; done")
    for (name, address), loads in LOADS.items():
        each = SECONDS // len(loads.split())
        load = f"iperf3 -c {address} -u -t {each} -b ${{rate}}M"
        hosts.shells[name].type(f"(for rate in {loads}; do {load}; done) > load.log 2>&1 &")


def answers(prometheus: Prometheus, panel: Mapping[str, Any]) -> Iterator[Series]:
    now = time.time()
    for target in panel.get("targets", ()):
        expression = target["expr"]
        for name, value in VALUES.items():
            expression = expression.replace(name, value)
        for labels, points in prometheus.query_range(expression, now - SECONDS + 10, now):
            yield Series(written(target["legendFormat"], labels), points)


def written(template: str, labels: Mapping[str, str]) -> str:
    """Fills `{{label}}` in a legend."""
    return re.sub(r"{{(\w+)}}", lambda name: labels.get(name[1], ""), template)


def renew() -> None:
    with tempfile.TemporaryDirectory(prefix="netsonde-picture-") as directory:
        hosts = Hosts(Path(directory), ADDRESSES)
        try:
            prepare(hosts)
            targets = [f"{address}:9461" for name, address in ADDRESSES.items() if name != "hub"]
            with netns.entered(hosts.namespace("hub")):
                prometheus = Prometheus(Path(directory) / "prometheus", targets).start()
                try:
                    time.sleep(SECONDS)
                    panels = shown_panels()
                    found = {panel["id"]: list(answers(prometheus, panel)) for panel in panels}
                finally:
                    prometheus.stop()
        finally:
            hosts.close()
    PICTURE.write_text(draw(panels, found))


if __name__ == "__main__":
    renew()
