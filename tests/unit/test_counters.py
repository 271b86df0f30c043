"""The counters that the C core and the agent declare are the same."""

from __future__ import annotations

from dataclasses import fields

from netsonde.core.library import ffi
from netsonde.core.values import Stats


def test_stats_has_every_member_of_the_core_struct() -> None:
    members = {name for name, _ in ffi.typeof("struct sonde_stats").fields}
    assert {field.name for field in fields(Stats)} == members
