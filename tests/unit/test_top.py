"""The screen of `netsonde top`: kept screens at two sizes, its keys, and what it computes."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from textual.widgets import Input

import packets
import top_rounds
import top_screens
from netsonde.cli import build_parser, tui
from netsonde.cli.tables import cut_endpoint, endpoint, scaled
from netsonde.cli.top import has_screen
from netsonde.cli.tui.columns import flow_columns, host_columns, sparkline
from netsonde.cli.tui.feed import HostSample, Round, read_flow, read_flows, read_hosts, resolve
from netsonde.cli.tui.model import Model
from netsonde.cli.tui.packets import connection_words, flow_filter, packets_words
from netsonde.core.filters import FilterChecks
from netsonde.fleet import Absence, Outcome, Reply
from top_screens import (
    KEPT,
    KEYS,
    PICTURE,
    SIZES,
    TABLE_WIDTHS,
    opened,
    picture_text,
    render,
    render_tables,
    screen_text,
)

# The loop is only the test's, so one is enough.
one_loop = pytest.mark.asyncio(loop_factories=["uvloop"])

NARROW = SIZES[0]


# ---- screens -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", KEYS)
@one_loop
async def test_screen_is_the_kept_one(name: str, size: tuple[int, int]) -> None:
    kept = KEPT / f"{name}-{size[0]}x{size[1]}.txt"
    shown = await render(size, KEYS[name])
    assert shown == kept.read_text()
    assert max(map(len, shown.splitlines())) <= size[0]


@pytest.mark.parametrize("width", TABLE_WIDTHS)
def test_tables_without_the_screen_are_the_kept_ones(width: int) -> None:
    shown = render_tables(width)
    assert shown == (KEPT / f"plain-{width}.txt").read_text()
    assert max(map(len, shown.splitlines())) <= width
    for *_, source, from_port, dest, to_port, _, _, _, _ in (*top_rounds.FLOWS, top_rounds.LONGEST):
        for address in (endpoint(source, from_port), endpoint(dest, to_port)):
            assert address in shown


@one_loop
async def test_picture_in_the_docs_is_the_screen() -> None:
    assert picture_text(PICTURE.read_text()) == picture_text(await top_screens.draw_picture())
    assert "http" not in PICTURE.read_text().replace("http://www.w3.org/2000/svg", "").replace(
        "https://www.textualize.io", ""
    )


# ---- keys ----------------------------------------------------------------------------------------


def flow_lines(text: str) -> list[str]:
    lines = text.splitlines()
    (head,) = [number for number, line in enumerate(lines) if "DESTINATION" in line]
    return [line for line in lines[head + 1 : -2] if line.strip()]


@one_loop
async def test_filter_keeps_rows_with_every_word() -> None:
    async with opened(NARROW, top_rounds.rounds()) as (app, pilot):
        assert len(flow_lines(screen_text(app))) == 6
        await pilot.press("slash", *"ud ca", "enter")
        await pilot.pause()
        (line,) = flow_lines(screen_text(app))
        assert "10.10.0.5:443" in line
        assert not app.query_one("#search", Input).display
        await pilot.press("escape")
        await pilot.pause()
        assert len(flow_lines(screen_text(app))) == 6


@one_loop
async def test_sort_and_reverse_change_the_order_of_the_focused_table() -> None:
    async with opened(NARROW, top_rounds.rounds()) as (app, pilot):
        await pilot.press("r")
        await pilot.pause()
        assert "ICMP" in flow_lines(screen_text(app))[0]
        await pilot.press("tab", *"sssss")
        await pilot.pause()
        text = screen_text(app)
        assert "hosts by name" in text
        assert text.splitlines()[2].startswith("ams-web1")
        assert "ICMP" in flow_lines(text)[0]


@one_loop
async def test_own_traffic_appears_on_request() -> None:
    async with opened(NARROW, top_rounds.rounds()) as (app, pilot):
        assert "192.0.2.10:4222" not in screen_text(app)
        await pilot.press("o")
        await pilot.pause()
        assert "192.0.2.10:4222" in screen_text(app)


@one_loop
async def test_enter_on_a_host_leaves_its_flows() -> None:
    async with opened(NARROW, top_rounds.rounds()) as (app, pilot):
        await pilot.press("tab", "down", "enter")
        await pilot.pause()
        lines = flow_lines(screen_text(app))
        assert len(lines) == 2  # one of them is counted by another host too
        assert "of fra-db1" in screen_text(app)


@one_loop
async def test_frozen_screen_stays_while_rounds_arrive() -> None:
    rounds = top_rounds.rounds()
    async with opened(NARROW, rounds[:-5]) as (app, pilot):
        before = app.model.shown
        await pilot.press("f")
        for one in rounds[-5:]:
            app.model.add(one)
        app.draw()
        await pilot.pause()
        assert app.model.shown is before
        assert "FROZEN" in screen_text(app)
        await pilot.press("f")
        await pilot.pause()
        assert app.model.shown.clock == rounds[-1].clock


@one_loop
async def test_cursor_follows_its_flow() -> None:
    async with opened(NARROW, top_rounds.rounds()) as (app, pilot):
        await pilot.press("down", "down")
        chosen = app.query_one("#flows", top_screens.Grid).chosen
        await pilot.press("r")
        await pilot.pause()
        assert app.query_one("#flows", top_screens.Grid).chosen == chosen


# ---- the model -----------------------------------------------------------------------------------


def test_flow_of_two_hosts_is_one_row_with_one_rate() -> None:
    model = Model()
    for one in top_rounds.rounds(3):
        model.add(one)
    (row,) = [row for row in model.flow_rows() if len(row.hosts) > 1]
    assert (row.hosts, row.sample.host) == (("ams-web1", "fra-db1"), "ams-web1")
    assert row.rate_bps == pytest.approx(8 * 21e6)


def test_rates_need_two_rounds_of_one_session() -> None:
    model, sample = Model(), HostSample("a", "capturing", "lo", "s1", 1000, 10, uptime_sec=1.0)
    model.add(Round(1.0, "", (sample,)))
    assert model.host_rows()[0].rate_bps is None
    grown = replace(sample, bytes=2000, packets=30, uptime_sec=3.0)
    model.add(Round(3.0, "", (grown,)))
    row = model.host_rows()[0]
    assert (row.rate_bps, row.packets_per_sec) == (4000.0, 10.0)
    model.add(Round(5.0, "", (replace(grown, session_id="s2", bytes=5, packets=1),)))
    row = model.host_rows()[0]
    assert (row.rate_bps, row.history) == (None, (None, 4000.0, None))


def test_silent_and_refusing_hosts_have_a_row_with_the_reason() -> None:
    outcome = Outcome(
        replies=[
            Reply("b", 403, {"error": "denied"}),
            Reply("c", 200, {"running": "?"}),
            Reply("d\x1b[2J", 200, {"running": False}),
        ],
        absences=[Absence("a", "lost")],
    )
    states = {one.host: one.state for one in read_hosts(outcome)}
    assert states == {"a": "lost", "b": "refused", "c": "malformed", "d\ufffd[2J": "idle"}


def test_malformed_flow_is_left_out() -> None:
    good = top_rounds.make_flows(1, 0)[0].record
    rows = [good, None, {"flow_id": "x"}, good | {"total_bytes": None}]
    assert len(read_flows(Outcome(replies=[Reply("a", 200, {"flows": rows})]))) == 1
    assert read_flows(Outcome(replies=[Reply("a", 200, {"flows": 7})])) == []


@one_loop
async def test_name_of_a_nats_server_becomes_addresses() -> None:
    assert await resolve("127.0.0.1:4222") == {("127.0.0.1", 4222)}
    assert await resolve("[::1]:4222") == {("::1", 4222)}
    assert await resolve("nonsense") == frozenset()


# ---- cells ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (999, "999"), (999.6, "1.0k"), (12_345, "12k"), (3.4e9, "3.4G")],
)
def test_numbers_have_a_decimal_unit(value: float | None, text: str) -> None:
    assert scaled(value) == text


def test_cut_endpoint_keeps_the_port() -> None:
    assert cut_endpoint("[2001:db8:10:4::beef:1001]:52044", 21) == "[2001:db8:10:…]:52044"
    assert cut_endpoint("198.51.100.77:61022", 21) == "198.51.100.77:61022"


def test_sparkline_scales_to_the_largest_rate() -> None:
    assert sparkline([None, 0.0, 1.0, 2.0], 9) == " ▁▅█"
    assert sparkline([0.0, 0.0], 1) == "▁"


@pytest.mark.parametrize("width", [80, 100, 119, 120, 150, 200, 300])
def test_columns_fit_the_width(width: int) -> None:
    model = Model()
    model.add(top_rounds.make_round(1))
    for columns in (host_columns(width - 1), flow_columns(width - 1, model.flow_rows())):
        assert sum(column.width + 1 for column in columns) <= width - 1
        assert min(column.width for column in columns) > 0


# ---- packets of a flow ---------------------------------------------------------------------------

TCP = {
    "protocol": "TCP",
    "protocol_number": 6,
    "source_ip": "10.0.0.1",
    "source_port": 1000,
    "dest_ip": "fd00::2",
    "dest_port": 443,
}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"dest_ip": "10.0.0.2"},
            "tcp and ((src host 10.0.0.1 and src port 1000 and dst host 10.0.0.2 and dst port 443)"
            " or (src host 10.0.0.2 and src port 443 and dst host 10.0.0.1 and dst port 1000))",
        ),
        (
            {"protocol": "ICMP", "protocol_number": 1, "dest_ip": "10.0.0.2"},
            "ip proto 1 and host 10.0.0.1 and host 10.0.0.2",
        ),
        (
            {"fragments": 3, "protocol": "UDP", "protocol_number": 17, "source_ip": "fd00::1"},
            "ip6 proto 17 and host fd00::1 and host fd00::2",
        ),
        (
            {"vlan": [7], "protocol": "GRE", "protocol_number": 47, "dest_ip": "10.0.0.2"},
            "vlan 7 and ip proto 47 and host 10.0.0.1 and host 10.0.0.2",
        ),
        (
            {"tunnel": {"outer_source_ip": "192.0.2.1", "outer_dest_ip": "192.0.2.2"}},
            "host 192.0.2.1 and host 192.0.2.2",
        ),
    ],
)
@one_loop
async def test_filter_of_a_flow(changes: dict[str, object], text: str) -> None:
    found = flow_filter(TCP | changes)
    assert found == text
    await FilterChecks().check(found, [packets.ETHERNET], kernel=False)


def test_packets_command_is_one_that_the_parser_takes() -> None:
    given = ["--nats", "nats://n:1", "--root", "x.y", "--creds", "/c", "--jetstream-domain", "d"]
    connection = connection_words(build_parser().parse_args(["top", *given]))
    flow = read_flow("we b/1", top_rounds.make_flows(1, 0)[0].record)
    args = build_parser().parse_args(packets_words(flow, connection))
    assert (args.host, args.write) == (["we b/1"], "we_b_1-0000000000000000.pcapng")
    assert args.start == flow.record["flow_start"]
    assert (args.nats, args.root, args.creds, args.jetstream_domain) == (
        *("nats://n:1", "x.y", "/c"),
        "d",
    )


# ---- when there is no screen ---------------------------------------------------------------------


class Terminal:
    def isatty(self) -> bool:
        return True


def has(monkeypatch: pytest.MonkeyPatch, *words: str, terminal: bool = True) -> bool:
    args: argparse.Namespace = build_parser().parse_args(["top", *words])
    with monkeypatch.context() as patched:
        patched.setenv("TERM", "xterm")
        if terminal:
            patched.setattr(sys, "stdin", Terminal())
            patched.setattr(sys, "stdout", Terminal())
        return has_screen(args)


def test_tables_are_printed_without_textual_a_terminal_or_with_a_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert has(monkeypatch)
    assert not has(monkeypatch, "--json")
    assert not has(monkeypatch, "-n", "3")
    monkeypatch.setattr(tui, "available", lambda: False)
    assert not has(monkeypatch)


def test_only_the_view_imports_textual() -> None:
    importers = {
        path.name
        for path in Path(tui.__file__).parent.glob("*.py")
        if "from textual" in path.read_text()
    }
    assert importers == {"grid.py", "keys.py", "screens.py", "view.py"}
