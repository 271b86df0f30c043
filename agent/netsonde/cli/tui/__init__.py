"""The screen of `netsonde top`, made with Textual (extra `[tui]`).

feed.py asks the fleet, model.py computes what to show, columns.py chooses columns and writes cells,
view.py draws, keys.py lists the keys, packets.py makes the `packets` request of a flow. Only
view.py and keys.py import Textual.
"""

from __future__ import annotations

from importlib.util import find_spec


def available() -> bool:
    """Returns whether Textual is installed."""
    return find_spec("textual") is not None
