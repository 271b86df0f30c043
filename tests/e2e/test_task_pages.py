"""The pages of docs/ about one task each, typed into shells of two hosts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from typed import Hosts, blocks, check

DOCS = Path(__file__).parents[2] / "docs"
TASKS = (DOCS / "README.md").read_text().partition("## Tasks\n")[2].partition("\n## ")[0]
PAGES = re.findall(r"^\| \[(.+?\.md)\]", TASKS, re.MULTILINE)
ADDRESSES = {"switch": "192.0.2.1", "web1": "192.0.2.11", "web2": "192.0.2.12"}
# A person waits for a time. The test waits for the condition, also on a busy machine.
WAITS = {
    "sleep 3\n": "until netsonde ps --json 2>&1 | grep -q inventory; do sleep 0.2; done\n",
    "sleep 1\n": "while [ -e nfcapd.pid ]; do sleep 0.1; done\n",
}


def test_index_has_tasks() -> None:
    assert len(PAGES) >= 5


@pytest.mark.parametrize("page", [page for page in PAGES if page != "two-hosts.md"])
def test_page_works_as_typed(page: str, tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, ADDRESSES)
    try:
        for block in blocks((DOCS / page).read_text()):
            check(hosts, block, WAITS)
    finally:
        hosts.close()
