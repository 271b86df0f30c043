"""The Grafana dashboards as files: what an import needs, and that they fit together."""

from __future__ import annotations

import html
import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from dashboard_picture import PICTURE, shown_panels
from dashboard_svg import number, round_step

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


def test_picture_in_the_docs_has_the_panels_of_the_dashboard() -> None:
    """tests/dashboard_picture.py draws it."""
    picture = PICTURE.read_text()
    words = [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", picture)]
    panels = shown_panels()
    assert len(panels) > 15
    assert [panel["title"] for panel in panels if panel["title"] not in words] == []
    assert "No data" not in words
    assert picture.count("http") == 1  # the name space of SVG: nothing is loaded from elsewhere


def test_steps_of_an_axis_are_round() -> None:
    spans = (0.0252, 0.9, 1, 3.1, 31.1e6)
    assert [round_step(span, 4) for span in spans] == pytest.approx([0.01, 0.25, 0.25, 1, 1e7])
    shown = [
        number(1234567, "bps"),
        number(0.25, "percentunit"),
        number(180, "s"),
        number(4, "short"),
    ]
    assert shown == ["1.23 Mb/s", "25%", "3 min", "4"]
