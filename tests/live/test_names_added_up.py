"""Labels with the xdp backend while it adds packets up in the kernel.

The kernel sends the first payloads of a connection, QUIC Initials and DNS to user space and adds
the rest up. Names are those of the other backends, and every packet is counted once.
"""

from __future__ import annotations

from typing import Any

from xdp_modes import ATTACH

import capturing
from agents import Fleet
from bus import Bus, Collector
from labelled import PROTOCOLS, TRACES, differences, expectations, is_of
from netns import Sender
from packets import ACK, ETHERNET, FIN, SYN, TCP, UDP, ethernet, ipv4, read_capture, tcp, udp
from replay import check_lives, records_of

A, B = "10.0.0.1", "10.0.0.2"
BULK = 4000
REQUEST = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n"


async def replayed(bus: Bus, sender: Sender, frames: list[bytes]) -> tuple[Any, Any]:
    """Returns the status before the end, and the records."""
    collector = await Collector.listen(bus)
    metering = {"enable": True, "flow_timeout_sec": 300, "active_timeout_sec": 86_400}
    started = await capturing.start(bus, "xdp", record=False, metering=metering)
    offered = sender.send(frames)
    status = await capturing.settled(bus, offered)
    assert ATTACH["added_up"] in status["attach"]
    records = await records_of(collector, started["session_id"], await bus.ok("stop"))
    await collector.close()
    check_lives(records)
    counted = sum(record["packets"] for record in records)
    assert counted + status["packets_non_flow"] + status["packets_dropped"] == offered
    return status, records


async def test_captures_get_the_expected_labels(fleet: Fleet, bus: Bus, sender: Sender) -> None:
    """The expected values of the `file` backend, for the captures of Ethernet frames."""
    fleet.start("alpha", flows={"labels": PROTOCOLS})
    wrong, compared = [], 0
    for case in expectations():
        packets = read_capture(TRACES / case["file"])
        if any(one.linktype != ETHERNET or one.wirelen != len(one.data) for one in packets):
            continue
        status, records = await replayed(bus, sender, [one.data for one in packets])
        assert status["packets_dropped"] == 0
        wrong += differences(opened(case, records), records)
        compared += 1
    assert not wrong, "\n".join(wrong)
    assert compared > 20 or not expectations()


def opened(case: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the case without connections whose SYN was not captured: they get no name."""
    older = [
        one
        for one in records
        if one["protocol"] == "TCP" and not (one["tcp_flags"] | one["reverse_tcp_flags"]) & SYN
    ]
    wanted = [
        expect for expect in case["expect"] if not any(is_of(one, expect["match"]) for one in older)
    ]
    return case | {"expect": wanted, "counts": {} if older else case.get("counts", {})}


def connection(port: int) -> list[bytes]:
    """Returns a connection whose client sends one request and receives a long answer."""

    def forward(payload: bytes, sequence: int, flags: int = ACK) -> bytes:
        return ethernet(ipv4(tcp(payload, port, 80, flags, seq=sequence), TCP, A, B))

    def back(payload: bytes, sequence: int, flags: int = ACK) -> bytes:
        return ethernet(ipv4(tcp(payload, 80, port, flags, seq=sequence), TCP, B, A))

    answer = [
        frame
        for number in range(BULK // 2)
        for frame in (back(bytes(1000), 1 + 1000 * number), forward(b"", 1 + len(REQUEST)))
    ]
    opening = [forward(b"", 0, SYN), back(b"", 0, SYN | ACK), forward(b"", 1), forward(REQUEST, 1)]
    return [*opening, *answer, forward(b"", 1 + len(REQUEST), FIN | ACK)]


async def test_long_flows_keep_their_counts(fleet: Fleet, bus: Bus, sender: Sender) -> None:
    fleet.start("alpha", flows={"labels": PROTOCOLS})
    stream = [ethernet(ipv4(udp(b"\x40" * 1000, 5000, 443), UDP, A, B))] * BULK
    _, records = await replayed(bus, sender, [*connection(40_000), *stream])
    assert {(one["app"], one["name"]) for one in records} == {
        ("http", "www.example.com"), (None, None),
    }  # fmt: skip
    assert sum(one["packets"] for one in records) == 2 * BULK + 5
    named = [one for one in records if one["name"]]
    assert sum(one["retransmissions"] + one["out_of_order"] for one in named) == 0
