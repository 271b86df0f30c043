"""The screen of `netsonde top`. Draws what model.py and columns.py return, and passes keys on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from rich.text import Text
from textual.app import App, ComposeResult
from textual.widgets import DataTable, Footer, Input, Static

from ...errors import NetsondeError
from ...wire.quantity import counted
from ..tables import cut, visible
from .columns import describe_flow, flow_columns, headline, host_columns
from .feed import Round
from .grid import Grid
from .keys import KEYS
from .model import FlowRow, Listing, Model
from .screens import CSS as SCREENS_CSS
from .screens import HelpScreen, PacketsScreen

Take = Callable[[], Awaitable[Round]]
SCROLLBAR = 1
FIRST_WAIT_SEC = 1.0  # the second round comes sooner, because two rounds make a rate


class TopApp(App[None]):
    """Asks for a round every `interval_sec` and draws it. A failed round ends the app; `failure`
    has the error."""

    BINDINGS = KEYS
    ENABLE_COMMAND_PALETTE = False
    CSS = f"""{SCREENS_CSS}
    #head, #notes, #detail {{ height: 1; }}
    #head {{ background: $primary; color: $text; }}
    #hosts {{ height: auto; max-height: 35%; }}
    #flows {{ height: 1fr; }}
    DataTable {{ scrollbar-size-vertical: 1; overflow-x: hidden; }}
    DataTable > .datatable--header {{ text-style: bold; }}
    #search {{ height: 1; border: none; display: none; padding: 0; }}
    """

    def __init__(
        self, take: Take, model: Model, *, interval_sec: float = 2.0, connection: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.model = model
        self.failure: NetsondeError | None = None
        self.connection = connection
        self.notice = ""  # about the connection
        self._take = take
        self._interval_sec = interval_sec
        self._searched = "flows"  # the table of the filter line
        self._flows: dict[str, FlowRow] = {}

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        yield Grid(id="hosts", cursor_type="row", cell_padding=0)
        yield Static(id="notes")
        yield Grid(id="flows", cursor_type="row", cell_padding=0)
        yield Static(id="detail")
        yield Input(id="search", placeholder="words that a row must contain")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self.theme = "textual-ansi" if self.no_color else "textual-dark"
        self.query_one("#flows").focus()
        self.run_worker(self._feed(), exclusive=True)

    async def _feed(self) -> None:
        loop, wait_sec = asyncio.get_running_loop(), min(FIRST_WAIT_SEC, self._interval_sec)
        while True:
            started = loop.time()
            try:
                self.model.add(await self._take())
            except NetsondeError as error:
                self.failure = error
                self.exit()
                return
            self.draw()
            await asyncio.sleep(max(0.0, started + wait_sec - loop.time()))
            wait_sec = self._interval_sec

    # ---- drawing ---------------------------------------------------------------------------

    def draw(self) -> None:
        model, width = self.model, self.size.width
        if not width:
            return
        rows, flows = model.host_rows(), model.flow_rows()
        self._flows = {row.key: row for row in flows}
        self._grid("hosts").fill(host_columns(width - SCROLLBAR), rows)
        self._grid("flows").fill(flow_columns(width - SCROLLBAR, flows), flows)
        head = cut(headline(model), width - 9)
        self._write("head", f"{head:<{width - 9}} {model.shown.clock:>8}")
        self._write("notes", self._notes())
        self._draw_detail()

    def _notes(self) -> str:
        model = self.model
        parts = ["FROZEN"] if model.frozen else []
        parts += [f"flows by {model.flows.order}", f"hosts by {model.hosts.order}"]
        parts += [f"of {model.only_host}"] if model.only_host else []
        for name in ("hosts", "flows"):
            search = self._listing(name).search
            parts += [f"{name} with “{search}”"] if search else []
        own = model.own_flows()
        parts += [f"{counted(own, 'NATS flow')} left out"] if own else []
        parts += [part for part in (self.notice, model.shown.note) if part]
        return visible(" · ".join(parts))

    def _draw_detail(self) -> None:
        row = self._flows.get(self._grid("flows").chosen)
        self._write("detail", describe_flow(row) if row is not None else "")

    def _write(self, name: str, text: str) -> None:
        self.query_one(f"#{name}", Static).update(Text(cut(text, self.size.width), no_wrap=True))

    def _grid(self, name: str) -> Grid:
        return self.query_one(f"#{name}", Grid)

    def _listing(self, name: str) -> Listing[Any]:
        return self.model.hosts if name == "hosts" else self.model.flows

    @property
    def _focused(self) -> str:
        return "hosts" if self._grid("hosts").has_focus else "flows"

    def on_resize(self) -> None:
        self.call_after_refresh(self.draw)

    # ---- keys ------------------------------------------------------------------------------

    def action_sort(self) -> None:
        self._listing(self._focused).next_order()
        self.draw()

    def action_reverse(self) -> None:
        listing = self._listing(self._focused)
        listing.reverse = not listing.reverse
        self.draw()

    def action_freeze(self) -> None:
        self.model.toggle_frozen()
        self.draw()

    def action_own(self) -> None:
        self.model.with_own = not self.model.with_own
        self.draw()

    def action_switch(self) -> None:
        self._grid("flows" if self._focused == "hosts" else "hosts").focus()

    def action_help(self) -> None:
        self.push_screen(HelpScreen())

    def action_search(self) -> None:
        self._searched = self._focused
        entry = self.query_one("#search", Input)
        entry.value = self._listing(self._searched).search
        entry.display = True
        entry.focus()

    def action_clear(self) -> None:
        searching = self.query_one("#search", Input).has_focus
        self._listing(self._searched if searching else self._focused).search = ""
        self.model.only_host = ""
        self._end_search()

    def _end_search(self) -> None:
        entry = self.query_one("#search", Input)
        if entry.display:
            entry.display = False
            self._grid(self._searched).focus()
        self.draw()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.display:
            self._listing(self._searched).search = event.value
            self.draw()

    def on_input_submitted(self) -> None:
        self._end_search()

    def on_data_table_row_highlighted(self) -> None:
        self._draw_detail()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        key = event.row_key.value or ""
        if event.data_table.id == "hosts":
            self.model.only_host = "" if self.model.only_host == key else key
            self.draw()
        elif key in self._flows:
            self.push_screen(PacketsScreen(self._flows[key].sample, self.connection))
