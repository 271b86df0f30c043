"""The Grafana dashboards as files: what an import needs, and that they fit together."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

FILES = sorted((Path(__file__).parents[2] / "deploy/grafana").glob("*.json"))
BUILT_IN = {"__all", "__rate_interval", "__value"}


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read(request.param)


def test_panels_have_an_id_and_a_place_each(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids) > 20
    for panel in panels:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24, panel["title"]
    for one, other in combinations(panels, 2):
        a, b = one["gridPos"], other["gridPos"]
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, (one["title"], other["title"])


def test_queries_use_the_chosen_data_source(dashboard: dict[str, Any]) -> None:
    wanted = {"type": "prometheus", "uid": "${datasource}"}
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == wanted, panel["title"]
        assert panel["targets"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        for target in panel["targets"]:
            assert target["datasource"] == wanted
            assert "job=~" in target["expr"] or "netsonde_host_info" in target["expr"]


def test_each_variable_is_defined(dashboard: dict[str, Any]) -> None:
    defined = {one["name"] for one in dashboard["templating"]["list"]}
    assert {"datasource", "job", "site", "host"} == defined
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard)))
    assert used <= defined | BUILT_IN
    assert dashboard["templating"]["list"][0]["type"] == "datasource"


def test_links_lead_to_the_other_dashboard() -> None:
    known = {read(path)["uid"] for path in FILES}
    assert len(known) == len(FILES) == 2
    for path in FILES:
        links = set(re.findall(r"/d/([\w-]+)", path.read_text()))
        assert links == known - {read(path)["uid"]}
