"""Counts missing and duplicate batches of the flows stream.

Batches carry (host, boot, seq). An agent may resend a batch with the same seq, and a slow
reader may miss some. Memory is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

HOSTS_MAX = 65_536
WINDOW = 1_024  # late and duplicate batches are recognised this far back


@dataclass(slots=True)
class Page:
    """One run of an agent: the highest seq, and the missing ones within WINDOW."""

    boot: str
    highest: int
    missing: set[int] = field(default_factory=set)


@dataclass(slots=True)
class GapCounter:
    """The received batches by host. A host's first batch starts its page, so joining a stream
    late is not a gap."""

    pages: OrderedDict[str, Page] = field(default_factory=OrderedDict)
    missed: int = 0
    repeated: int = 0

    def note(self, host: str, boot: str, seq: int) -> bool:
        """Adds a batch. Returns False for a duplicate."""
        page = self.pages.get(host)
        if page is None or page.boot != boot:
            self.pages[host] = Page(boot, seq)
            self.pages.move_to_end(host)
            if len(self.pages) > HOSTS_MAX:
                self.pages.popitem(last=False)
            return True
        if seq > page.highest:
            gap = seq - page.highest - 1
            self.missed += gap
            page.missing |= set(range(max(page.highest + 1, seq - WINDOW), seq))
            page.missing = {number for number in page.missing if number >= seq - WINDOW}
            page.highest = seq
            return True
        if seq in page.missing:
            page.missing.discard(seq)
            self.missed -= 1
            return True
        self.repeated += 1
        return False
