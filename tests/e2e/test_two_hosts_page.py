"""docs/two-hosts.md, typed into shells of three hosts."""

from __future__ import annotations

from pathlib import Path

from typed import Block, Hosts, blocks, check

PAGE = Path(__file__).parents[2] / "docs/two-hosts.md"
ADDRESSES = {"hub": "192.0.2.1", "web1": "192.0.2.11", "web2": "192.0.2.12"}
BOTH = "until netsonde ps --json 2>&1 | grep -c inventory | grep -q 2; do sleep 0.2; done\n"
SCRAPED = "promtool query instant http://localhost:9090 'count(netsonde_capture_running == 1)'"
# Agents and commands never print these on a correct page.
COMPLAINTS = ("permission denied", "permission_denied", "warning: ")
# A person waits for a time. The test waits for the condition, also on a busy machine.
WAITS = {
    "sleep 1\nnetsonde nats": "until grep -q 'Server is ready' nats.log; do sleep 0.1; done\n"
    "netsonde nats",
    "sleep 1\nnfdump": "while [ -e nfcapd.pid ]; do sleep 0.1; done\nnfdump",
    "sleep 15\n": f"until {SCRAPED} 2> /dev/null | grep -q '=> 2'; do sleep 0.2; done\n",
    "netsonde ps\n": f"{BOTH}netsonde ps\n",
}


def test_page_works_as_typed(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, ADDRESSES)
    printed: list[str] = []
    try:
        for block in blocks(PAGE.read_text()):
            printed += check(hosts, block, WAITS)
            if "HOST=web1" in block.commands:  # "The other lines are the same."
                other = block.commands.replace("web1", "web2").replace("192.0.2.11", "192.0.2.12")
                printed += check(hosts, Block("web2", other, []), WAITS)
        printed += hosts.shells["web2"].type("kill %1; wait")
    finally:
        hosts.close()
    assert [line for line in printed if any(one in line for one in COMPLAINTS)] == []
