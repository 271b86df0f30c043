"""The screens above the tables of `netsonde top`: help, and the packets of one flow."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Footer, Static

from ..output import visible
from .feed import FlowSample
from .keys import HELP, HELP_KEYS, PACKETS_KEYS
from .packets import packets_words, run_command, shown_command

CSS = """
HelpScreen, PacketsScreen { align: center middle; }
#box { width: 78; max-width: 100%; height: auto; max-height: 90%; padding: 0 1; }
#box { border: round $primary; background: $surface; }
"""


class HelpScreen(ModalScreen[None]):
    BINDINGS = HELP_KEYS

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="box"):
            yield Static(Text(HELP))
        yield Footer(compact=True)

    def action_close(self) -> None:
        self.dismiss()


class PacketsScreen(ModalScreen[None]):
    """Shows the `packets` command of a flow, and runs it."""

    BINDINGS = PACKETS_KEYS

    def __init__(self, flow: FlowSample, connection: Sequence[str]) -> None:
        super().__init__()
        self._flow = flow
        self._words = packets_words(flow, connection)
        self._fetching = False

    def compose(self) -> ComposeResult:
        flow = self._flow
        text = f"{flow.host}  {flow.protocol}  {flow.source} → {flow.dest}\n\n"
        with VerticalScroll(id="box"):
            yield Static(Text(text + visible(shown_command(self._words)) + "\n"), id="command")
            yield Static(id="result")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self._show("w: fetch the packets and write the file in this directory")

    def action_fetch(self) -> None:
        if not self._fetching:
            self._fetching = True
            self.run_worker(self._fetch())

    async def _fetch(self) -> None:
        self._show("fetching …")
        try:
            code, output = await run_command(self._words)
            lines = [visible(line) for line in output.splitlines()]
            self._show("\n".join([*lines, f"exit code {code}"]))
        finally:
            self._fetching = False

    def action_close(self) -> None:
        self.dismiss()

    def _show(self, text: str) -> None:
        self.query_one("#result", Static).update(Text(text))
