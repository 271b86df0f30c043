"""The examples of docs/commands.md, typed into a shell of a real fleet, and the program that
renews their output:

.venv/bin/python tests/commands_page.py

A block that begins with "$ " has commands, each followed by its output. A line "…" stands for
output that the page leaves out. The fleet has a NATS server and the hosts web1 and web2.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from deadlines import eventually_now
from typed import Hosts

PAGE = Path(__file__).parents[1] / "docs/commands.md"
ADDRESSES = {"hub": "192.0.2.1", "web1": "192.0.2.11", "web2": "192.0.2.12"}
URL = "nats://admin:secret@192.0.2.1:4222"
LEFT_OUT = "…"
# The sections whose examples do not run in the order of the page.
FIRST = ("nats", "run", "config")
LATE = ("meter", "encrypt", "stop", "decrypt", "collect", "decode", "plan", "apply", "drift",
        "rollback", "forget", "demo")  # fmt: skip
CONFIG = """
[agent]
host = "{host}"
labels = {{ site = "ams", role = "web" }}
[nats]
servers = ["{url}"]
[flows]
jetstream = true
spool_dir = "{directory}/spool"
[buffer]
dir = "{directory}/segments"
[metrics]
interval_sec = 1
[encryption]
key_dirs = ["{directory}/keys"]
[firmware]
dirs = ["{directory}/firmware"]
trusted_keys = "{directory}/trusted"
"""
FILES = """
mkdir -p segments spool trusted firmware && mkdir -m 700 keys
head -c 32 /dev/urandom > keys/2026.key && chmod 600 keys/2026.key
echo firmware > firmware/router-1.4.bin
minisign -G -W -p trusted/vendor.pub -s vendor.key > minisign.log
minisign -S -s vendor.key -t 'router 1.4' -m firmware/router-1.4.bin > minisign.log
printf 'web1 site=ams role=web\\nweb2 site=ams role=web\\n' > hosts.example
cat > fleet.toml <<FLEET
[[policy]]
name = "web-edge"
select = "role = web"
capture = { interface = "eth0", backend = "af_packet", metering = { enable = true } }
FLEET
"""
READY = "until netsonde status --host $NETSONDE__AGENT__HOST > /dev/null 2>&1; do sleep 0.1; done\n"
LISTED = "until netsonde ps --json 2>&1 | grep -c inventory | grep -q 2; do sleep 0.2; done\n"
CONNECT = "exec 3<> /dev/tcp/192.0.2.11/80"
PINGS = "ping -c 20 -i 0.01 192.0.2.11 > /dev/null"
RECEIVER = """
import socket
receiver = socket.socket(type=socket.SOCK_DGRAM)
receiver.bind(("192.0.2.1", 2055))
with open("export.nf", "wb", buffering=0) as file:
    while True:
        file.write(receiver.recv(65536))
"""


class Example(NamedTuple):
    """A command of a section, and the output that the page shows."""

    section: str
    command: str
    shown: tuple[str, ...]


def sections(text: str) -> dict[str, str]:
    """Returns the text below each heading "netsonde COMMAND"."""
    parts = re.split(r"^## netsonde (.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.partition("\n## ")[0] for part in parts[2::2]), strict=True))


def examples(text: str) -> list[Example]:
    """Returns all examples in the order in which they run."""
    found = [
        Example(section, command, tuple(shown))
        for section, content in sections(text).items()
        for block in re.findall(r"^```console\n(.*?)^```$", content, re.MULTILINE | re.DOTALL)
        for command, *shown in (
            part.splitlines() for part in re.split(r"^\$ ", block, flags=re.M)[1:]
        )
    ]
    order = [*FIRST, *(name for name in sections(text) if name not in FIRST + LATE), *LATE]
    return sorted(found, key=lambda one: order.index(one.section))


def mask(line: str) -> str:
    """Returns a line without what varies: numbers, ids, widths of columns."""
    line = re.sub(r"\b(?=[\w-]*\d)[\w-]{16,}\b", "*", line)
    line = re.sub(r"\b\d+[smhd](\d\d[smh])?\b", "#s", line)  # durations
    return " ".join(re.sub(r"\d[\d.,:]*[kMGT]?", "#", line).split())


def differences(shown: Sequence[str], printed: Sequence[str]) -> list[str]:
    """Returns the lines that are only on the page, and those that only the command printed."""
    wanted = Counter(mask(line) for line in shown if line.strip() != LEFT_OUT)
    found = Counter(mask(line) for line in printed)
    missing = [f"- {line}" for line in wanted - found]
    if any(line.strip() == LEFT_OUT for line in shown):
        return missing
    return missing + [f"+ {line}" for line in found - wanted]


class Stage:
    """The fleet. `before` has what happens between the examples, which the page does not show."""

    def __init__(self, directory: Path) -> None:
        self.hosts = Hosts(directory, ADDRESSES)
        self.before: dict[str, Callable[[], None]] = {
            "netsonde run": self.write_files,
            "netsonde config": self.start_second_agent,
            "netsonde metrics": self.send,
            "netsonde stop": self.send_pings,
            "netsonde decode": self.copy_export,
            "netsonde forget": self.end_second_agent,
        }
        self.type("hub", "sysctl -qw net.ipv6.conf.all.disable_ipv6=1")
        self.type("hub", "nats-server -a 192.0.2.1 -js -sd streams --user admin --pass secret "
                         "> nats.log 2>&1 &\nuntil grep -q 'Server is ready' nats.log; "
                         "do sleep 0.1; done")  # fmt: skip
        self.type("hub", f"cat > receiver.py <<END\n{RECEIVER}END\npython3 receiver.py &")
        for host in ("web1", "web2"):
            self.type(host, f"sysctl -qw net.ipv6.conf.all.disable_ipv6=1\n{FILES}")
            self.type(host, f"export NETSONDE__NATS__SERVERS={URL}")

    def type(self, host: str, commands: str) -> list[str]:
        printed = self.hosts.shells[host].type(commands)
        assert not any("FAILED" in line for line in printed), "\n".join([commands, *printed])
        return printed

    def run(self, example: Example) -> list[str]:
        """Types an example and returns what it prints. A last line FAILED follows a failure."""
        for words in list(self.before):
            if example.command.startswith(words):
                self.before.pop(words)()
        command = example.command
        if command.startswith("netsonde run"):  # the page shows the first lines of the log
            command = f"{command} > agent.log 2>&1 &\n{READY}cat agent.log"
        return self.hosts.shells["web1"].type(command)

    def close(self) -> None:
        self.hosts.close()

    # ---- between the examples ------------------------------------------------------------------

    def write_files(self) -> None:
        for host in ("web1", "web2"):
            directory = self.hosts.shells[host].directory
            config = CONFIG.format(host=host, url=URL, directory=directory)
            (directory / "netsonde.toml").write_text(config)

    def start_second_agent(self) -> None:
        run = "netsonde run --config netsonde.toml > agent.log 2>&1 &"
        self.type("web2", f"{run}\n{READY}{LISTED}")

    def end_second_agent(self) -> None:
        self.type("web2", "netsonde stop --host web2 > /dev/null 2>&1 || true\nkill %%\nwait")

    def send(self) -> None:
        """Sends pings from web2 to web1, and opens a TCP connection that stays: a flow that has
        ended is not listed."""
        self.type("web1", f"python3 -m http.server 80 > /dev/null 2>&1 &\n"
                          f"until ({CONNECT}) 2> /dev/null; do sleep 0.1; done")  # fmt: skip
        self.type("web2", f"{PINGS}\n{CONNECT}")

    def send_pings(self) -> None:
        self.type("web2", PINGS)

    def copy_export(self) -> None:
        source = self.hosts.shells["hub"].directory / "export.nf"
        flows = f'netsonde decode {source} | grep -c \'"kind":"flow"\' || true'
        eventually_now(lambda: self.type("web1", flows)[-1] not in ("", "0"), "exported flows")
        shutil.copy(source, self.hosts.shells["web1"].directory)


def run_all(directory: Path) -> Iterator[tuple[Example, list[str]]]:
    """Types all examples. Yields each one with what it printed."""
    stage = Stage(directory)
    try:
        for example in examples(PAGE.read_text()):
            yield example, stage.run(example)
    finally:
        stage.close()


def renew() -> None:
    """Replaces each output in the page. Lines "…" stay: what they stand for is not written."""
    text = PAGE.read_text()
    with tempfile.TemporaryDirectory(prefix="netsonde-page-") as directory:
        for example, printed in run_all(Path(directory)):
            if LEFT_OUT in example.shown:
                fresh = {mask(line): line for line in printed}
                lines = [
                    one if one in printed else fresh.get(mask(one), one) for one in example.shown
                ]
            else:
                lines = printed
            old = "\n".join([f"$ {example.command}", *example.shown])
            new = "\n".join([f"$ {example.command}", *(line.rstrip() for line in lines)])
            print(new, flush=True)
            assert old in text, old
            text = text.replace(f"{old}\n", f"{new}\n")
    PAGE.write_text(text)


if __name__ == "__main__":
    renew()
