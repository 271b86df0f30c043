"""A table of `netsonde top`: fixed columns, and a cursor that stays on its row between rounds."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.widgets import DataTable

from .columns import GAP, Column
from .model import Row

ALARM = "bold red"


class Grid(DataTable[Text]):
    def fill(self, columns: Sequence[Column[Row]], rows: Sequence[Row]) -> None:
        """Replaces all rows. The cursor stays on the row with its key, else on its line."""
        chosen, line, top = self.chosen, self.cursor_row, self.scroll_y
        with self.prevent(DataTable.RowHighlighted):
            self.clear(columns=True)
            for column in columns:
                heading = Text(column.heading, no_wrap=True)
                self.add_column(heading, width=column.width + GAP)
            for row in rows:
                self.add_row(*(_cell(column, row) for column in columns), key=row.key)
            keys = [row.key for row in rows]
            line = keys.index(chosen) if chosen in keys else min(line, len(rows) - 1)
            self.move_cursor(row=max(0, line), animate=False, scroll=False)
        self.scroll_to(y=top, animate=False, force=True)

    @property
    def chosen(self) -> str:
        """The key of the row under the cursor; empty without rows."""
        if not self.is_valid_row_index(self.cursor_row):
            return ""
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value or ""


def _cell(column: Column[Row], row: Row) -> Text:
    style = ALARM if column.alarm(row) else ""
    return Text(column.cell(row), style=style, no_wrap=True)
