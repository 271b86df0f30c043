"""Screens of `netsonde top` as text, its tables without the screen, and the program that renews
the kept texts and the picture.

.venv/bin/python tests/top_screens.py
"""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from textual.pilot import Pilot

import top_rounds
from netsonde.cli.top import rank_flows, rank_hosts
from netsonde.cli.top_tables import flow_lines, host_lines
from netsonde.cli.tui.feed import Round
from netsonde.cli.tui.grid import Grid as Grid
from netsonde.cli.tui.model import Model
from netsonde.cli.tui.view import TopApp

KEPT = Path(__file__).parent / "unit" / "top_screens"
PICTURE = Path(__file__).parents[1] / "docs" / "top.svg"
SIZES = ((80, 24), (200, 50))
PICTURE_SIZE = (110, 30)
TABLE_WIDTHS = (80, 200)
KEYS: dict[str, Sequence[str]] = {"tables": (), "packets": ("down", "enter"), "help": ("h",)}


@asynccontextmanager
async def opened(
    size: tuple[int, int], rounds: Sequence[Round]
) -> AsyncIterator[tuple[TopApp, Pilot[None]]]:
    """Runs the screen without a terminal. All rounds but the last are in the model; the screen
    gets the last one."""
    model = Model()
    for one in rounds[:-1]:
        model.add(one)
    taken = asyncio.Event()

    async def take() -> Round:
        if taken.is_set():
            await asyncio.Event().wait()
        taken.set()
        return rounds[-1]

    app = TopApp(take, model, connection=("--nats", "nats://viewer:secret@nats.example.com:4222"))
    async with app.run_test(size=size) as pilot:
        await taken.wait()
        await pilot.pause()
        await pilot.pause(0.1)
        yield app, pilot


def screen_text(app: TopApp) -> str:
    """Returns the characters of the screen, without styles."""
    strips = app.screen._compositor.render_strips()
    lines = ["".join(part.text for part in strip) for strip in strips]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def picture_text(svg: str) -> list[str]:
    """Returns the words of a picture. Its identifiers change from run to run."""
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    return html.unescape(" ".join(texts)).replace("\xa0", " ").split()


async def render(size: tuple[int, int], keys: Sequence[str]) -> str:
    async with opened(size, top_rounds.rounds()) as (app, pilot):
        await pilot.press(*keys)
        await pilot.pause()
        return screen_text(app)


def render_tables(width: int) -> str:
    """Returns what `netsonde top` prints without the screen."""
    metrics, flows = top_rounds.replies()
    hosts = host_lines(rank_hosts(metrics), width)
    return "\n".join(
        [*hosts, "", *flow_lines(rank_flows(flows, order="bytes", limit=20), width), ""]
    )


async def draw_picture() -> str:
    async with opened(PICTURE_SIZE, top_rounds.rounds()) as (app, _):
        drawn = app.export_screenshot(title="netsonde top")
    return re.sub(r"@font-face \{.*?\}\n", "", drawn, flags=re.DOTALL)  # fonts of a server


async def renew() -> None:
    KEPT.mkdir(exist_ok=True)
    for size in SIZES:
        for name, keys in KEYS.items():
            path = KEPT / f"{name}-{size[0]}x{size[1]}.txt"
            path.write_text(await render(size, keys))
    for width in TABLE_WIDTHS:
        (KEPT / f"plain-{width}.txt").write_text(render_tables(width))
    PICTURE.write_text(await draw_picture())


if __name__ == "__main__":
    asyncio.run(renew())
