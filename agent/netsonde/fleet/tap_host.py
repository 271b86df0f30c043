"""One host of a live retrieval, across its taps.

A tap ends early if the host's agent or its capture ends. The host may then open another tap. Its
interfaces keep their numbers in the merged file, its counts are added up, and the time between the
taps is a gap.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from ..wire.quantity import counted
from .tap_blocks import Block
from .tap_reply import Interface, Loss

MALFORMED = "malformed"  # an end of this side: the host's messages cannot be read
GONE = "gone"  # an end of this side: the host is silent
PASSING = (GONE, "session_stop", "drain")  # the host may open another tap
FAILURES = (*PASSING, "lease", "no_responders", "sealed", MALFORMED)

SHORT_SEC = 60.0  # a tap that ends earlier makes the next one wait longer

InterfaceKey = tuple[str, int, int]  # name, link type, snaplen


@dataclass(slots=True)
class HostTap:
    """The open tap of a host, and the sums of all its taps.

    waiting: packets that are not written yet, with their arrival. earlier: the interface numbers of
    earlier taps. away: the host may open another tap.
    """

    host: str
    id: str
    window: int
    number: int | None = None  # the interface that has the statistics
    interfaces: list[tuple[InterfaceKey, int]] = field(default_factory=list)
    earlier: dict[InterfaceKey, int] = field(default_factory=dict)
    waiting: deque[tuple[Block, float]] = field(default_factory=deque)
    inherited: int = 0  # packets of an earlier tap in `waiting`
    seq: int = 0
    sent: int = 0  # bytes, as the host says
    queued: int = 0  # bytes in `waiting`, of this tap
    sent_before: int = 0  # bytes of earlier taps
    granted: int = 0
    granted_sec: float = 0.0
    opened_sec: float = field(default_factory=time.monotonic)
    short_taps: int = 0  # in a row before this one
    heard_sec: float = field(default_factory=time.monotonic)
    through_ns: int = 0
    packets: int = 0
    late: int = 0
    missing: int = 0  # messages that did not arrive
    loss: Loss = field(default_factory=Loss)
    end: str = ""
    silent: bool = False
    away: bool = False
    lost_sec: float = 0.0  # when the tap ended early
    gaps: int = 0
    gap_sec: float = 0.0  # sum of the gaps
    comment: str = ""  # for the next packet
    clock_error_ns: int | None = None

    @property
    def written(self) -> int:
        """Bytes of this tap that have left `waiting`, or never arrived."""
        return self.sent - self.queued

    @property
    def received(self) -> int:
        """Packets of all taps."""
        return self.packets + len(self.waiting)

    @property
    def bytes_received(self) -> int:
        """Bytes of all taps."""
        return self.sent_before + self.sent

    @property
    def failed(self) -> bool:
        return self.end in FAILURES

    @property
    def faulty(self) -> bool:
        """Whether packets are missing."""
        return bool(self.failed or self.missing or self.loss.total or self.gaps)

    def add_interface(self, interface: Interface, new: int) -> bool:
        """Gives the interface its number of an earlier tap, or `new`. Returns whether it is new."""
        key = interface.name, interface.linktype, interface.snaplen
        number = self.earlier.pop(key, None)
        known = number is not None
        number = new if number is None else number
        self.number = number if self.number is None else self.number
        self.interfaces.append((key, number))
        return not known

    def add_gap(self, until_sec: float) -> float:
        """Counts the time since the last message as a gap. Returns its length."""
        length_sec = max(until_sec - self.heard_sec, 0.0)
        self.gaps += 1
        self.gap_sec += length_sec
        return length_sec

    def continue_from(self, old: HostTap) -> float:
        """Takes over the sums, the interfaces and the waiting packets of the host's earlier tap.
        Returns the length of the gap between the taps."""
        gap_sec = old.add_gap(self.opened_sec)
        self.number, self.earlier = old.number, old.earlier | dict(old.interfaces)
        self.sent_before = old.bytes_received
        short = old.heard_sec - old.opened_sec < SHORT_SEC
        self.short_taps = old.short_taps + 1 if short else 0
        self.waiting, self.inherited = old.waiting, len(old.waiting)
        self.packets, self.late, self.missing = old.packets, old.late, old.missing
        self.loss, self.gaps, self.gap_sec = old.loss, old.gaps, old.gap_sec
        self.clock_error_ns = old.clock_error_ns or self.clock_error_ns
        self.comment = f"gap of {gap_sec:.1f} s before this packet ({old.end})"
        if old.comment:
            self.comment = f"{old.comment}; {self.comment}"
        return gap_sec

    def take(self) -> Block:
        """Returns the next packet to write."""
        block, _ = self.waiting.popleft()
        if self.inherited:
            self.inherited -= 1
        else:
            self.queued -= len(block.data)
        return block

    def lines(self) -> list[str]:
        """Returns a sentence for the host, and one for each of its losses."""
        lines = [f"{self.host}: {counted(self.packets, 'packet')}, {self.loss.total} lost"]
        if self.loss.ring:
            lines.append(f"{self.host}: {self.loss.ring} lost: the reader was too slow")
        if self.loss.rate:
            lines.append(f"{self.host}: {self.loss.rate} lost: above the rate")
        if self.late:
            lines.append(f"{self.host}: {self.late} came too late to be in order")
        if self.missing:
            lines.append(f"{self.host}: {counted(self.missing, 'message')} did not arrive")
        if self.gaps:
            lines.append(
                f"{self.host}: gone for {self.gap_sec:.1f} s, in {counted(self.gaps, 'gap')}"
            )
        if self.failed:
            lines.append(f"{self.host}: the tap ended early: {self.end}")
        return lines
