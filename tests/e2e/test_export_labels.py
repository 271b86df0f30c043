"""IPFIX with the profile `full` ends records with the labels of flows, in enterprise elements.

nfcapd and tshark read the same datagrams. The files have no sockets, so owners are tested live.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents import Fleet
from bus import Bus
from collectors import HOST, Inbox, Nfcapd, Sniffer, Tshark, totals, uniflows
from netns import Wire
from netsonde.core.ipfix import ENTERPRISE, ExportDecoder
from packets import SECOND_NS, TCP, UDP, at, ethernet, ipv4, tcp, udp, write_pcap
from quic import client_hello, initial
from replay import Replay, replay

START_NS = 1_767_225_600 * SECOND_NS
CLIENTS = 40
LABEL = ("name", "name_source", "tls_version", "ech", "label_state")
NAME_ELEMENT = 1


@pytest.fixture(autouse=True)
def inside(wire: Wire) -> Wire:
    """Runs first, as autouse: everything below is in the wire's host namespace."""
    return wire


@pytest.fixture
def collected(tmp_path: Path) -> Iterator[tuple[Nfcapd, Inbox, Sniffer]]:
    inbox = Inbox()
    with Nfcapd(tmp_path / "nfcapd") as nfcapd, Sniffer(tmp_path / "sniffer") as sniffer:
        yield nfcapd, inbox, sniffer
    inbox.close()


def capture_file(path: Path) -> Path:
    """QUIC, HTTP and plain flows; the longest names have 239 characters."""
    frames = []
    for number in range(CLIENTS):
        name = ".".join([f"h{number}", *["x" * 55] * (number % 5), "example.com"])
        hello = initial(number.to_bytes(8), client_hello(name))
        request = f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()
        ends = f"10.0.0.{number + 1}", "192.0.2.1"
        frames += [
            ethernet(ipv4(udp(hello, 40_000, 443), UDP, *ends)),
            ethernet(ipv4(tcp(request, 40_000, 80), TCP, *ends)),
            ethernet(ipv4(udp(b"plain", 40_000, 9), UDP, *ends)),
            ethernet(ipv4(udp(b"reply", 9, 40_000), UDP, *reversed(ends))),
        ]
    return write_pcap(path, [at(START_NS + n * 1000, frame) for n, frame in enumerate(frames)])


async def exported(
    fleet: Fleet, bus: Bus, tmp_path: Path, collected: tuple[Nfcapd, Inbox, Sniffer], **export: Any
) -> tuple[Replay, list[dict[str, Any]]]:
    """Returns the replay and the records that the inbox got. nfcapd and tshark have no fault."""
    nfcapd, inbox, sniffer = collected
    standing = [{"ip": HOST, "port": one.port, "version": 10} for one in (nfcapd, inbox)]
    settings = {"profile": "full", "collectors": standing, **export}
    fleet.start("alpha", flows={"labels": ["quic", "http"]}, export=settings)
    replayed = await replay(bus, capture_file(tmp_path / "labels.pcap"))
    sent = replayed.stopped["export"]["collectors"]
    sniffer.finish(sum(one["messages_sent"] for one in sent))
    assert all(set(one["records_lost"].values()) == {0} for one in sent)

    expected = uniflows(replayed.records)
    summary = nfcapd.summary()
    assert summary["Sequence Errors"] == summary["Bad Packets"] == 0, summary
    assert nfcapd.flows() == expected
    assert totals(expected)[0] == summary["Flows"]
    tshark = Tshark(sniffer.path, [nfcapd.port, inbox.port])
    assert tshark.complaints() == ""

    decoder, rows = ExportDecoder(export.get("enterprise_number", ENTERPRISE)), list[Any]()
    for datagram in inbox.take():
        message = decoder.decode(0, datagram)
        assert message is not None
        assert message.malformed == message.sets_unknown == 0
        rows += [json.loads(line) for line in message.text.splitlines()]
    return replayed, [row for row in rows if row["kind"] == "flow"]


@pytest.mark.parametrize("enterprise", [ENTERPRISE, 4_294_967_294])
async def test_records_end_with_their_labels(
    fleet: Fleet,
    bus: Bus,
    tmp_path: Path,
    collected: tuple[Nfcapd, Inbox, Sniffer],
    enterprise: int,
) -> None:
    replayed, rows = await exported(fleet, bus, tmp_path, collected, enterprise_number=enterprise)
    by_id = {record["flow_id"]: record for record in replayed.records}
    assert len(rows) == 5 * CLIENTS - CLIENTS
    for row in rows:
        record = by_id[row["flow_id"]]
        assert {name: row[name] or None for name in LABEL if name != "ech"} == {
            name: record[name] for name in LABEL if name != "ech"
        }
        assert row["ech"] == record["ech"]
        assert row["app"] == (record["app"] or "")
        assert row["alpn"] == ",".join(record["alpn"] or [])
        assert "process_pid" not in row
    named = [row["name"] for row in rows if row["name"]]
    assert len(named) == 2 * CLIENTS
    assert max(map(len, named)) == 239

    tshark = Tshark(collected[2].path, [collected[1].port])
    shown = tshark.run("-T", "pdml")
    for name in (named[0], max(named, key=len)):
        assert name.encode().hex() in shown
    assert f"Enterprise {enterprise}" in tshark.run("-V") or str(enterprise) in shown


async def test_small_messages_leave_out_long_names(
    fleet: Fleet, bus: Bus, tmp_path: Path, collected: tuple[Nfcapd, Inbox, Sniffer]
) -> None:
    replayed, rows = await exported(fleet, bus, tmp_path, collected, max_message_bytes=512)
    by_id = {record["flow_id"]: record for record in replayed.records}
    assert len(rows) == 4 * CLIENTS
    for row in rows:
        name = by_id[row["flow_id"]]["name"] or ""
        assert row["name"] == (name if len(name) < 100 else ""), row
