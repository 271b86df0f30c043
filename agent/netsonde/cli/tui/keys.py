"""The keys of `netsonde top`, and the help that lists them."""

from __future__ import annotations

from textual.binding import Binding, BindingType

KEYS: list[BindingType] = [
    Binding("q", "quit", "Quit"),
    Binding("s", "sort", "Sort"),
    Binding("r", "reverse", "Reverse", show=False),
    Binding("slash", "search", "Filter", key_display="/"),
    Binding("f,space", "freeze", "Freeze", key_display="f"),
    Binding("tab", "switch", "Hosts/flows", key_display="tab", priority=True),
    Binding("o", "own", "Own traffic"),
    Binding("escape", "clear", "Clear", show=False),
    Binding("question_mark,h", "help", "Help", key_display="?"),
]
PACKETS_KEYS: list[BindingType] = [
    Binding("w", "fetch", "Write the file"),
    Binding("escape,q", "close", "Close", key_display="esc"),
]
HELP_KEYS: list[BindingType] = [
    Binding("escape,q,enter,question_mark", "close", "Close", key_display="esc")
]

HELP = """\
↑ ↓ PgUp PgDn  move in the table
tab            change between hosts and flows
s              sort by the next column
r              reverse the order
/              filter the table: words that a row must all contain
enter          on a host: only its flows; on a flow: its packets
f, space       freeze the screen; again: continue
o              show or leave out the flows to and from NATS servers
esc            clear the filter and the chosen host
q              quit

A flow that several hosts see is shown once. Rates are those since the
round before; "-" is a flow or host that was not in that round.
BUFFER is the time that the capture buffer reaches back.
"""
