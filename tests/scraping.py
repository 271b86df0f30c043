"""A Prometheus server of one test, with the shipped configuration and rules, and its queries."""

from __future__ import annotations

import json
import math
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deadlines import TIMEOUT_SEC, eventually_now
from servers import free_port

REPOSITORY = Path(__file__).resolve().parents[1]
SHIPPED = REPOSITORY / "deploy/prometheus"
RULES = SHIPPED / "netsonde-alerts.yml"
EXAMPLE_TARGETS = ("web-1.example.net:9461", "web-2.example.net:9461")


class Point(NamedTuple):
    labels: Mapping[str, str]
    value: float


class Prometheus:
    """Scrapes `targets` each second."""

    def __init__(self, directory: Path, targets: Sequence[str]) -> None:
        self._directory = directory
        self._address = f"127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True)
        config = (SHIPPED / "prometheus.yml").read_text().replace(": 15s", ": 1s")
        first, second = EXAMPLE_TARGETS
        assert first in config
        lines = "\n          - ".join(targets)
        config = config.replace(f"          - {second}\n", "").replace(first, lines)
        (directory / "prometheus.yml").write_text(config)
        (directory / RULES.name).write_text(RULES.read_text())

    def start(self) -> Prometheus:
        command = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, f"--web.listen-address={self._address}"],
                cwd=self._directory,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        eventually_now(self._ready, "Prometheus to be ready")
        return self

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._directory / "log").read_text()
        try:
            return bool(self._get("/-/ready"))
        except OSError:
            return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def query(self, expression: str) -> list[Point]:
        """Returns the points of an instant query, without NaN."""
        result = self._data("query", query=expression)["result"]
        points = [Point(one["metric"], float(one["value"][1])) for one in result]
        return [one for one in points if not math.isnan(one.value)]

    def query_range(
        self, expression: str, start_sec: float, end_sec: float
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """Returns the labels and the points of each series, one point each second."""
        found = self._data(
            "query_range", query=expression, start=f"{start_sec}", end=f"{end_sec}", step="1"
        )
        return [
            (one["metric"], [(float(at), float(value)) for at, value in one["values"]])
            for one in found["result"]
        ]

    def series(self, selector: str) -> list[dict[str, str]]:
        return list(self._data("series", **{"match[]": selector}))

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self._data("rules")["groups"] for rule in group["rules"]]

    def _data(self, call: str, **arguments: str) -> Any:
        reply = json.loads(self._get(f"/api/v1/{call}?{urllib.parse.urlencode(arguments)}"))
        assert reply["status"] == "success", reply
        return reply["data"]

    def _get(self, path: str) -> bytes:
        try:
            with urllib.request.urlopen(f"http://{self._address}{path}", timeout=TIMEOUT_SEC) as it:
                return bytes(it.read())
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 503:  # it starts
                    return b""
                raise AssertionError(f"{path}: {error.read().decode()}") from None
