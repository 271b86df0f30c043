"""The screen of `netsonde top` with real agents. Both see the same flows; one also sees itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from textual.pilot import Pilot

from agents import COMMAND, Fleet, client_flags
from bus import Bus
from capturing import at_rest
from deadlines import eventually
from netns import HOST_DEVICE, Wire
from netsonde import fleet as library
from netsonde.cli.tui.feed import Feed
from netsonde.cli.tui.model import Model
from netsonde.cli.tui.view import TopApp
from packets import UDP, ethernet, ipv4, read_capture, udp
from servers import NatsServer
from terminals import on_terminal
from top_screens import screen_text

pytestmark = [pytest.mark.jetstream, pytest.mark.asyncio(loop_factories=["uvloop"])]

LARGE = ethernet(ipv4(udp(b"x" * 900, 4000, 9), UDP, "198.18.0.2", "198.18.0.1"))
SMALL = ethernet(ipv4(udp(b"y", 4001, 9), UDP, "198.18.0.2", "198.18.0.1"))
SESSION = {"interface": HOST_DEVICE, "backend": "af_packet", "buffer_size_mb": 1}


@contextlib.asynccontextmanager
async def opened(server: NatsServer) -> AsyncIterator[tuple[TopApp, Pilot[None]]]:
    flags = client_flags(server.url)
    async with library.connect(server.url, lasting=True) as client:
        feed = Feed(client, library.ALL, library.Pace(timeout_sec=5.0))
        app = TopApp(feed.take, Model(), interval_sec=0.2, connection=flags)
        async with app.run_test(size=(80, 24)) as pilot:
            yield app, pilot
    assert app.failure is None, app.failure


async def sending(wire: Wire) -> None:
    """Sends ten large packets for each small one until it is cancelled."""
    sender = wire.sender()
    try:
        while True:
            sender.send([*[LARGE] * 10, SMALL])
            await asyncio.sleep(0.02)
    finally:
        sender.close()


async def test_screen_shows_a_shared_flow_once_and_fetches_its_packets(
    wire: Wire,
    nats_server: NatsServer,
    fleet: Fleet,
    bus: Bus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet.start("alpha")
    fleet.start("beta", capture={"own_traffic": "include"})
    gone = fleet.start("gone")
    await bus.ok("start", SESSION, host="alpha")
    await bus.ok("start", SESSION | {"interface": f"{HOST_DEVICE},lo"}, host="beta")
    monkeypatch.chdir(tmp_path)
    traffic = asyncio.create_task(sending(wire))
    async with opened(nats_server) as (app, pilot):
        model = app.model

        def rates() -> list[str]:
            return [row.sample.source for row in model.flow_rows() if row.rate_bps]

        def seen_by_both() -> bool:  # one host may have counted the packets earlier
            hosts = [row.hosts for row in model.flow_rows()]
            return len(rates()) == 2 and hosts == [("alpha", "beta")] * 2

        await eventually(seen_by_both, "rates of both flows, with both hosts")
        assert rates() == ["198.18.0.2:4000", "198.18.0.2:4001"]
        # beta sees its connection to the NATS server on lo.
        await eventually(lambda: model.own_flows() > 0, "the agent's own flows")
        gone.kill()
        fleet.agents.remove(gone)
        await eventually(
            lambda: (
                {row.key: row.sample.replied for row in model.host_rows()}
                == {"alpha": True, "beta": True, "gone": False}
            ),
            "the killed agent to be shown as silent",
        )
        traffic.cancel()
        await asyncio.wait([traffic])

        await pilot.press("slash", *"4001", "enter", "enter", "w")
        await eventually(lambda: "exit code" in screen_text(app), "the packets command to end")
        assert "exit code 0" in screen_text(app)
    assert fetched(tmp_path) == {SMALL}

    await bus.ok("stop", host="beta")
    await at_rest(bus)


def fetched(directory: Path) -> set[bytes]:
    """Returns the different frames of the only packet file."""
    (file,) = directory.glob("*.pcapng")
    return {packet.data for packet in read_capture(file)}


async def test_command_draws_on_a_terminal_and_quits(
    nats_server: NatsServer, fleet: Fleet, bus: Bus
) -> None:
    fleet.start("alpha")
    await bus.ok("start", SESSION | {"interface": "lo"})
    await asyncio.to_thread(use_terminal, client_flags(nats_server.url))


def use_terminal(flags: Sequence[str]) -> None:
    command: tuple[str | Path, ...] = (COMMAND, "top", *flags)
    with on_terminal(command) as terminal:
        terminal.wait_for("1 capturing")
        terminal.press("q")
        terminal.wait_for_end()
    # With a count, it restores the terminal after the last round, and the tables stay.
    with on_terminal([*command, "-n", "2"]) as terminal:
        terminal.wait_for("DESTINATION")
        terminal.wait_for_end()
        kept = terminal.drawn.partition("\x1b[?1049l")[2]
        assert [kept.count(one) for one in ("MBIT/S", "DESTINATION", "1 asked: 1 ok")] == [1, 1, 1]
    with on_terminal([COMMAND, "status", *flags]) as terminal:
        terminal.wait_for("running  lo         af_packet")
        terminal.wait_for_end()
