"""Rounds of a made-up fleet, for tests of the screen of `netsonde top` and for its picture.

Everything is a function of the round's number, so each screen is the same in every run.
"""

from __future__ import annotations

import math
from typing import Any

from netsonde.cli.tui.feed import CAPTURING, FINISHED, FlowSample, HostSample, Round, read_flow
from netsonde.fleet import Outcome, Reply

ROUNDS = 40
INTERVAL_SEC = 2.0
NATS = ("192.0.2.10", 4222)
# host, bytes per second, period of its wave in rounds, drops per round
HOSTS = (
    ("ams-web1", 42_000_000, 17, 0),
    ("ams-web2", 31_500_000, 11, 0),
    ("fra-db1", 118_000_000, 23, 7),
    ("fra-edge-router-with-a-long-name", 6_250_000, 7, 0),
    ("lon-cache1", 900_000, 5, 0),
)
# hosts, protocol, source, port, destination, port, bytes per second, name, app, process
FLOWS = (
    (("fra-db1",), 6, "10.20.0.7", 51514, "10.20.0.31", 5432, 96e6, None, None, "postgres"),
    (
        *(("ams-web1", "fra-db1"), 6, "10.10.0.4", 40112, "10.20.0.7", 443, 21e6),
        *("api.example.com", "tls", "nginx"),
    ),
    (
        *(("ams-web1",), 6, "2001:db8:10:4::beef:1001", 52044, "2001:db8:20:7::cafe:2002", 443),
        *(9.5e6, "static.example.com", "tls", "nginx"),
    ),
    (("ams-web2",), 17, "10.10.0.5", 443, "198.51.100.77", 61022, 7.25e6, "video.example.org",
     "quic", "caddy"),
    (("ams-web2",), 17, "10.10.0.5", 33412, "10.10.0.2", 53, 8_000, "mail.example.net", "dns",
     "systemd-resolved"),
    (("lon-cache1",), 1, "10.30.0.9", 0, "10.30.0.1", 0, 168, None, None, None),
    (("ams-web1",), 6, "10.10.0.4", 41000, *NATS, 64_000, None, None, "netsonde"),
)  # fmt: skip
PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP"}


def rounds(count: int = ROUNDS) -> list[Round]:
    return [make_round(number) for number in range(count)]


def make_round(number: int) -> Round:
    time_sec = number * INTERVAL_SEC
    hosts = [make_host(number, *host) for host in HOSTS]
    hosts += [
        HostSample("lon-web9", "lost"),
        HostSample("par-lab3", "idle"),
        HostSample("zrh-replay", FINISHED, "day.pcap", "s9", 7_000_000, 9_000, 0, 0, 60.0, 12.0),
    ]
    minutes, seconds = divmod(int(time_sec), 60)
    return Round(
        1000.0 + time_sec,
        f"14:{minutes:02d}:{seconds:02d}",
        tuple(sorted(hosts, key=lambda one: one.host)),
        tuple(flow for index in range(len(FLOWS)) for flow in make_flows(number, index)),
        frozenset({NATS}),
    )


def make_host(number: int, host: str, bytes_per_sec: int, period: int, drops: int) -> HostSample:
    sent = sum(
        bytes_per_sec * INTERVAL_SEC * (1.0 + 0.6 * math.sin(2 * math.pi * step / period))
        for step in range(number + 1)
    )
    uptime_sec = 86_400.0 + number * INTERVAL_SEC
    return HostSample(
        *(host, CAPTURING, "eth0", f"session-{host}", int(sent), int(sent / 820)),
        *(drops * number, 1_200 + bytes_per_sec // 1_000_000, uptime_sec, 5_400.0),
    )


def make_flows(number: int, index: int) -> list[FlowSample]:
    hosts, kind, source, from_port, dest, to_port, rate, name, app, process = FLOWS[index]
    counted = int(rate * INTERVAL_SEC * (number + 1))
    row: dict[str, Any] = {
        "flow_id": f"{index:016x}",
        "community_id": f"1:{index:027d}=",
        "protocol": PROTOCOLS[kind],
        "protocol_number": kind,
        "source_ip": source,
        "source_port": from_port,
        "dest_ip": dest,
        "dest_port": to_port,
        "icmp_type": 8 if kind == 1 else None,
        "total_bytes": counted,
        "total_packets": max(1, counted // 900),
        "flow_start": "2026-01-02T14:00:00.000000001Z",
        "vlan": [],
        "mpls_label": None,
        "tunnel": None,
        "fragments": 0,
        "name": name,
        "app": app,
        "process": process and {"name": process, "pid": 1000 + index, "how": "connect"},
    }
    # The second host counted a little less of the flow.
    return [
        read_flow(host, row | {"total_bytes": counted - position})
        for position, host in enumerate(hosts)
    ]


# The longest texts that agents send.
LONGEST = (
    ("fra-edge-router-with-a-long-name",), 6, "2001:db8:1234:5678:9abc:def0:1234:5678", 65535,
    "2001:db8:1234:5678:9abc:def0:8765:4321", 65534, 123e6, None, None, None,
)  # fmt: skip


def replies() -> tuple[Outcome, Outcome]:
    """Returns replies to `metrics` and `flows`, one of each for a host."""
    metrics = [
        Reply(
            host,
            200,
            {
                "throughput_mbps": rate * 8 / 1e6,
                "packets_per_sec": rate // 820,
                "avg_packet_size": 820.0,
                "drop_rate_percent": drops / 100,
                "buffer_usage_percent": 100.0,
                "active_flows": 1_200 + rate // 1_000_000,
            },
        )
        for host, rate, _, drops in HOSTS
    ]
    flows = [Reply(one[0][0], 200, {"flows": [list_row(*one[1:7])]}) for one in (*FLOWS, LONGEST)]
    return Outcome(replies=metrics), Outcome(replies=flows)


def list_row(
    kind: int, source: str, from_port: int, dest: str, to_port: int, rate: float
) -> dict[str, Any]:
    """Returns a row of a reply to `flows`."""
    return {
        "protocol": PROTOCOLS[kind],
        "source_ip": source,
        "source_port": from_port,
        "dest_ip": dest,
        "dest_port": to_port,
        "icmp_type": 8 if kind == 1 else None,
        "packets": int(rate * 60) // 900 + 1,
        "bytes": int(rate * 60),
        "last_seen": "2026-01-02T14:00:00.000000001Z",
    }
