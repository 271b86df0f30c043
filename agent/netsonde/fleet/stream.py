"""Following the flows stream: which batches are missing.

Batches carry (host, boot, seq). An agent may send one again (the same seq), and a slow reader
may lose some; Ledger tells both. Memory is bounded whatever the fleet sends.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

HOSTS_MAX = 65_536
WINDOW = 1_024  # how far back a repeated or late batch is recognised


@dataclass(slots=True)
class Page:
    """One host's run of its agent: the highest seq, and which of the latest have not come."""

    boot: str
    highest: int
    missing: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Ledger:
    """Which batches came. The first batch seen of a host opens its page: joining a stream
    late is no gap."""

    pages: OrderedDict[str, Page] = field(default_factory=OrderedDict)
    missed: int = 0
    repeated: int = 0

    def note(self, host: str, boot: str, seq: int) -> bool:
        """Enters a batch; False if it was here before."""
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
