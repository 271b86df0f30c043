"""Parts of replies about the source of packets: interfaces, a cut file, unknown link types."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import UNSET, UnsetType

from ..core.values import InterfaceStats, Stats
from ..wire.replies import FileState, InterfaceState, UndecodedState


def file_state(stats: Stats, backend: str) -> FileState | UnsetType:
    """Returns the state of the replayed file, UNSET for other backends."""
    if backend != "file":
        return UNSET
    return FileState(truncated=stats.file_state, detail=stats.file_detail)


def interface_states(stats: Iterable[InterfaceStats]) -> list[InterfaceState]:
    return [
        InterfaceState(
            name=one.name,
            ifindex=one.ifindex,
            captured=one.captured,
            link_up=one.link_up,
            packets_captured=one.packets_captured,
            packets_dropped=one.packets_dropped,
            packets_non_flow=one.packets_non_flow,
            bytes_captured=one.bytes_captured,
        )
        for one in stats
    ]


def _name(linktype: int) -> str:
    """Names a link type that libpcap has no name for."""
    user = linktype - 147
    return f"USER{user}" if 0 <= user < 16 else f"LINKTYPE {linktype}"


def undecoded_states(stats: Stats) -> list[UndecodedState]:
    found = [
        UndecodedState(
            linktype=one.linktype,
            name=one.name or _name(one.linktype),
            packets=one.packets,
            detail=f"{one.description or 'no description'}: this link type is not decoded",
        )
        for one in stats.undecoded
    ]
    rest = dict(stats.non_flow).get("other_linktype", 0) - sum(one.packets for one in found)
    if rest > 0:
        detail = "more link types than are listed"
        found.append(UndecodedState(linktype=None, name="other", packets=rest, detail=detail))
    return found
