"""Real NetFlow and IPFIX collectors as processes, and the records that each one received.

nfcapd, nfacctd and tshark (on what tcpdump captured) all yield `Uniflow` records, so that tests can
compare them with each other and with the records that the agent sent over NATS.
"""

from __future__ import annotations

import calendar
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import packets
from deadlines import TIMEOUT_SEC, eventually_now
from processes import asleep

HOST = "127.0.0.1"
UTC = {**os.environ, "TZ": "UTC"}
ICMP, TCP, ICMPV6 = 1, 6, 58
FLAG_LETTERS = "CEUAPRSF"

_ports = itertools.count(20001)  # a port that is taken is skipped or fails the test


def next_port() -> int:
    return next(_ports)


class Uniflow(NamedTuple):
    """One direction of one record. ICMP: source_port 0, dest_port type · 256 + code."""

    source: str
    dest: str
    source_port: int
    dest_port: int
    protocol: int
    packets: int
    octets: int
    first_ms: int
    last_ms: int
    tcp_flags: int
    tos: int
    vlan: int
    input: int
    output: int


def uniflows(
    records: Iterable[Mapping[str, Any]], *, ifindex: int = 0, ipv4_only: bool = False
) -> Counter[Uniflow]:
    """Returns the uniflows that a collector must have, from the records sent over NATS."""
    found: Counter[Uniflow] = Counter()
    for record in records:
        if not (ipv4_only and record["ip_version"] == 6):
            found.update(_sides(record, ifindex))
    return found


def _sides(record: Mapping[str, Any], ifindex: int) -> Iterator[Uniflow]:
    ends = [
        (record["source_ip"], record["source_port"]),
        (record["dest_ip"], record["dest_port"]),
    ]
    icmp = record["protocol_number"] in (ICMP, ICMPV6)
    for reverse in (False, True):
        (source, source_port), (dest, dest_port) = reversed(ends) if reverse else ends
        packets, octets = record["reverse_packets"], record["reverse_bytes"]
        if not reverse:
            packets, octets = record["packets"] - packets, record["bytes"] - octets
        if icmp:
            kind = record["icmp_type"] << 8 | record["icmp_code"]
            source_port, dest_port = 0, record["dest_port"] << 8 if reverse else kind
        egress = record["direction"] == ("ingress" if reverse else "egress")
        if packets:
            yield Uniflow(
                source,
                dest,
                source_port,
                dest_port,
                record["protocol_number"],
                packets,
                octets,
                milliseconds(record["first_seen"]),
                milliseconds(record["last_seen"]),
                record["reverse_tcp_flags"] if reverse else record["tcp_flags"],
                record["tos"],
                (record["vlan"] or [0])[0],
                0 if egress else ifindex,
                ifindex if egress else 0,
            )


def milliseconds(text: str) -> int:
    """Parses an ISO time and truncates it to milliseconds."""
    whole, _, fraction = text.removesuffix("Z").replace(" ", "T").partition(".")
    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
    return seconds * 1000 + int((fraction + "000")[:3])


def without(flows: Counter[Uniflow], *fields: str) -> Counter[Uniflow]:
    """Sets those fields to 0, for a protocol or collector that does not report them."""
    blank: dict[str, Any] = dict.fromkeys(fields, 0)
    found: Counter[Uniflow] = Counter()
    for flow, count in flows.items():
        found[flow._replace(**blank)] += count
    return found


def totals(flows: Counter[Uniflow]) -> tuple[int, int, int]:
    """Returns (records, packets, octets)."""
    return (
        flows.total(),
        sum(flow.packets * count for flow, count in flows.items()),
        sum(flow.octets * count for flow, count in flows.items()),
    )


# ---- processes --------------------------------------------------------------------------------


class _Process:
    """A program that is running once `ready` is true, and that a signal stops."""

    end_signal = signal.SIGTERM

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log_path = directory / "log"
        directory.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self, command: Sequence[str | Path]) -> None:
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.directory,
                env=UTC,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            eventually_now(self._up, f"{command[0]} to be ready")
        except BaseException:
            self.stop()
            raise

    def _up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        return self.ready()

    def ready(self) -> bool:
        raise NotImplementedError

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(self.end_signal)
            self._process.wait(TIMEOUT_SEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def _udp_sockets(port: int) -> list[tuple[int, int]]:
    """Returns (queued bytes, dropped datagrams) of each socket bound to the port in this
    namespace."""
    found = []
    for table in ("udp", "udp6"):
        for line in Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if int(columns[1].rpartition(":")[2], 16) == port:
                found.append((int(columns[4].rpartition(":")[2], 16), int(columns[12])))
    return found


class _Collector(_Process):
    port: int

    def finish(self) -> None:
        """Stops the collector after it has read everything that was sent to it."""
        if not _udp_sockets(self.port):
            return
        eventually_now(self._done, f"{self.port} to be read")
        assert _udp_sockets(self.port) == [(0, 0)], "the collector's socket dropped datagrams"
        self.stop()

    def _done(self) -> bool:
        """Returns whether the collector is idle: socket empty, all threads asleep, checked in the
        order in which a datagram passes them. An empty socket is not enough. A collector that exits
        loses the datagram it has just read and what it has not passed to its child process."""
        assert self._process is not None
        return _udp_sockets(self.port)[0][0] == 0 and asleep(self._process.pid)


class Nfcapd(_Collector):
    def __init__(self, directory: Path, *, port: int = 0, address: str = HOST) -> None:
        super().__init__(directory)
        self.port = port or next_port()
        self.files = directory / "flows"
        self.files.mkdir()
        where = ("-6" if ":" in address else "-4", "-b", address, "-p", str(self.port))
        self.spawn(["nfcapd", *where, "-w", self.files, "-t", "86400", "-B", "8388608"])

    def ready(self) -> bool:
        return bool(_udp_sockets(self.port)) and "Startup nfcapd" in self.log

    def summary(self) -> dict[str, int]:
        """{"Flows": …, "Packets": …, "Bytes": …, "Sequence Errors": …, "Bad Packets": …}"""
        self.finish()
        found: Counter[str] = Counter()
        for line in re.findall(r"^Ident: 'none' (.*)$", self.log, re.MULTILINE):
            for name, count in re.findall(r"([A-Z][A-Za-z ]*): (\d+)", line):
                found[name] += int(count)
        assert {"Flows", "Sequence Errors", "Bad Packets"} <= found.keys(), self.log
        return dict(found)

    def flows(self) -> Counter[Uniflow]:
        self.finish()
        shown = subprocess.run(
            ["nfdump", "-R", str(self.files), "-o", "json", "-q"],
            check=True,
            capture_output=True,
            text=True,
            env=UTC,
        ).stdout
        # With -q, nfdump omits the brackets of the list; without flows it prints a sentence.
        found = json.loads(f"[{shown}]") if "{" in shown else []
        return Counter(map(_of_nfdump, found))


def _of_nfdump(one: Mapping[str, Any]) -> Uniflow:
    flags = one.get("tcp_flags", "")
    icmp = one["proto"] in (ICMP, ICMPV6)
    return Uniflow(
        one.get("src4_addr") or one["src6_addr"],
        one.get("dst4_addr") or one["dst6_addr"],
        0 if icmp else one.get("src_port", 0),
        one["icmp_type"] << 8 | one["icmp_code"] if icmp else one.get("dst_port", 0),
        one["proto"],
        one["in_packets"],
        one["in_bytes"],
        milliseconds(one["first"]),
        milliseconds(one["last"]),
        sum(0x80 >> place for place, letter in enumerate(flags) if letter in FLAG_LETTERS),
        one.get("src_tos", 0),
        one.get("src_vlan", 0),
        one.get("input_snmp", 0),
        one.get("output_snmp", 0),
    )


class Nfacctd(_Collector):
    """nfacctd adds up records with equal keys. `flows` does so too; compare with `added_up`
    records."""

    end_signal = signal.SIGINT

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.port = next_port()
        self.out = directory / "flows.json"
        settings = {
            "daemonize": "false",
            "nfacctd_ip": HOST,
            "nfacctd_port": self.port,
            "plugins": "print",
            "aggregate": "src_host, dst_host, src_port, dst_port, proto, vlan, in_iface, "
            "out_iface, tos, tcpflags, timestamp_start, timestamp_end",
            "print_output": "json",
            "print_output_file": self.out,
            "print_output_file_append": "true",
            "print_refresh_time": 86400,
            "print_cache_entries": 16411,
            "timestamps_since_epoch": "true",
            "plugin_pipe_size": 10240000,
        }
        config = directory / "nfacctd.conf"
        config.write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
        self.spawn(["nfacctd", "-f", config])

    def ready(self) -> bool:
        return bool(_udp_sockets(self.port)) and "setting object handlers" in self.log

    def flows(self) -> Counter[Uniflow]:
        self.finish()
        assert "ERROR" not in self.log, self.log
        eventually_now(self._purged, "nfacctd to write its cache")
        return added_up(map(_of_nfacctd, map(json.loads, self.out.read_text().splitlines())))

    def _purged(self) -> bool:
        return "Purging cache - END" in self.log


def added_up(flows: Iterable[Uniflow]) -> Counter[Uniflow]:
    """Merges records that differ only in packets, octets and TCP flags."""
    sums: dict[Uniflow, Uniflow] = {}
    for flow in flows:
        key = flow._replace(packets=0, octets=0, tcp_flags=0)
        one = sums.get(key, key)
        sums[key] = flow._replace(
            packets=one.packets + flow.packets,
            octets=one.octets + flow.octets,
            tcp_flags=one.tcp_flags | flow.tcp_flags,
        )
    return Counter(sums.values())


def _of_nfacctd(one: Mapping[str, Any]) -> Uniflow:
    return Uniflow(
        one["ip_src"],
        one["ip_dst"],
        one["port_src"],
        one["port_dst"],
        _protocol(one["ip_proto"]),
        one["packets"],
        one["bytes"],
        _seconds_to_ms(one["timestamp_start"]),
        _seconds_to_ms(one["timestamp_end"]),
        int(one["tcp_flags"]),
        one["tos"],
        one["vlan"],
        one["iface_in"],
        one["iface_out"],
    )


def _protocol(name: str) -> int:
    return int(name) if name.isdigit() else socket.getprotobyname(name)


def _seconds_to_ms(text: str) -> int:
    seconds, _, fraction = text.partition(".")
    return int(seconds) * 1000 + int((fraction + "000")[:3])


# ---- datagrams --------------------------------------------------------------------------------


class Sniffer(_Process):
    """tcpdump on loopback: captures the export datagrams."""

    def __init__(self, directory: Path, interface: str = "lo") -> None:
        super().__init__(directory)
        self.path = directory / "export.pcap"
        what = ("-i", interface, "-s", "0", "udp and dst portrange 20000-30000")
        self.spawn(["tcpdump", "-Z", "root", "-n", "-U", "-B", "16384", "-w", self.path, *what])

    def ready(self) -> bool:
        return "listening on" in self.log

    def finish(self, datagrams: int) -> None:
        """Stops tcpdump once exactly that many datagrams are in the file."""
        eventually_now(lambda: self._written() >= datagrams, f"{datagrams} datagrams")
        self.stop()
        assert self._written() == datagrams
        dropped = re.search(r"(\d+) packets? dropped by kernel", self.log)
        assert dropped is not None, self.log
        assert dropped[1] == "0", self.log

    def _written(self) -> int:
        started = self.path.exists() and self.path.stat().st_size > 0
        return len(packets.read_capture(self.path)) if started else 0


class Tshark:
    """tshark's dissection of an exporter's datagrams."""

    def __init__(self, path: Path, ports: Iterable[int]) -> None:
        self.path = path
        self._decode_as: list[str] = []
        for port in ports:
            self._decode_as += ["-d", f"udp.port=={port},cflow"]

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tshark", "-n", "-r", str(self.path), *self._decode_as, *arguments],
            check=True,
            capture_output=True,
            text=True,
            env=UTC,
        )
        return done.stdout

    def complaints(self) -> str:
        """Returns the dissector's complaints: malformed fields, sequence errors, unknown
        templates."""
        return self.run("-Y", "(_ws.expert || _ws.malformed || _ws.unreassembled) && cflow")

    def messages(self) -> int:
        return len(self.run("-Y", "cflow.version", "-T", "fields", "-e", "cflow.version").split())

    def payload_bytes(self) -> list[int]:
        """Returns the size of each datagram without the UDP header."""
        return [int(text) - 8 for text in self.run("-T", "fields", "-e", "udp.length").split()]


class Inbox:
    """A plain UDP socket as a collector."""

    def __init__(self, address: str = HOST, port: int = 0, *, buffer_bytes: int = 8 << 20) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, 33, buffer_bytes)  # SO_RCVBUFFORCE
        self.socket.setblocking(False)
        self.address = address
        self.port = port or self._bound_port()
        if port:
            self.socket.bind((address, port))

    def _bound_port(self) -> int:
        """Binds the first port that no other process holds."""
        while True:
            port = next_port()
            with contextlib.suppress(OSError):
                self.socket.bind((self.address, port))
                return port

    def take(self) -> list[bytes]:
        """Returns the datagrams received since the last call."""
        taken = []
        while True:
            try:
                taken.append(self.socket.recv(65535))
            except BlockingIOError:
                return taken

    def close(self) -> None:
        self.socket.close()
