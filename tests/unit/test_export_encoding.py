"""Random records through the encoders and back through an independent decoder.

The `netflow` package implements NetFlow 5, 9 and IPFIX from the RFCs. It must read the same
records that went in. No record straddles two messages, no message exceeds the limit, and each
is numbered as its protocol requires.
"""

from __future__ import annotations

import ipaddress
import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any

import netflow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netsonde.core.library import ffi, lib

NOW_NS = 1_767_225_600_123_456_789
SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS
ICMP, ICMPV6 = 1, 58
V5_COUNT_MAX = 2**32 - 1
HEADER_BYTES = {5: 24, 9: 20, 10: 16}

# The decoder's name of each field, by version.
V5 = ("IPV4_SRC_ADDR", "IPV4_DST_ADDR", "SRC_PORT", "DST_PORT", "PROTO", "IN_PACKETS",
      "IN_OCTETS", "TCP_FLAGS", "TOS")  # fmt: skip
V9 = ("IPV{}_SRC_ADDR", "IPV{}_DST_ADDR", "L4_SRC_PORT", "L4_DST_PORT", "PROTOCOL", "IN_PKTS",
      "IN_BYTES", "TCP_FLAGS", "SRC_TOS")  # fmt: skip
IPFIX = ("sourceIPv{}Address", "destinationIPv{}Address", "sourceTransportPort",
         "destinationTransportPort", "protocolIdentifier", "packetDeltaCount",
         "octetDeltaCount", "tcpControlBits", "ipClassOfService")  # fmt: skip


@dataclass(frozen=True)
class Flow:
    """One record, reduced to the fields that all versions have."""

    version: int
    source: bytes
    dest: bytes
    source_port: int
    dest_port: int
    protocol: int
    icmp_type: int
    icmp_code: int
    packets: tuple[int, int]
    octets: tuple[int, int]
    flags: tuple[int, int]
    tos: int
    vlan: int
    first_ns: int
    last_ns: int
    end_reason: int


counts = st.one_of(st.integers(0, 3), st.integers(0, 2**34))
octet = st.integers(0, 255)


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    version = draw(st.sampled_from((4, 6)))
    size = 4 if version == 4 else 16
    first_ns = NOW_NS - draw(st.integers(0, DAY_NS))
    packets = draw(st.tuples(counts, counts))
    return Flow(
        version,
        draw(st.binary(min_size=size, max_size=size)),
        draw(st.binary(min_size=size, max_size=size)),
        draw(st.integers(0, 65535)),
        draw(st.integers(0, 65535)),
        draw(st.sampled_from((6, 17, 132, 47, ICMP if version == 4 else ICMPV6))),
        draw(octet),
        draw(octet),
        packets,
        tuple(draw(st.integers(n, n * 1500)) for n in packets),  # type: ignore[arg-type]
        draw(st.tuples(octet, octet)),
        draw(octet),
        draw(st.integers(0, 4095)),
        first_ns,
        min(NOW_NS, first_ns + draw(st.integers(0, DAY_NS))),
        draw(st.integers(1, 5)),
    )


def fill(record: Any, flow: Flow) -> None:
    record.flow_id = 1 + hash(flow) % 2**63
    record.first_ns, record.last_ns = flow.first_ns, flow.last_ns
    record.flow_start_ns = flow.first_ns
    record.packets, record.bytes = flow.packets, flow.octets
    record.l2_bytes = record.total_bytes = flow.octets
    ffi.memmove(record.source_ip, flow.source, len(flow.source))
    ffi.memmove(record.dest_ip, flow.dest, len(flow.dest))
    record.source_port, record.dest_port = flow.source_port, flow.dest_port
    record.ip_version, record.protocol = flow.version, flow.protocol
    record.icmp_type, record.icmp_code = flow.icmp_type, flow.icmp_code
    record.tcp_flags, record.tos = flow.flags, flow.tos
    record.vlan[0], record.vlan_depth = flow.vlan, 1
    record.mpls_label = record.handshake_rtt_us = 2**32 - 1
    record.sampling_interval, record.end_reason = 1, flow.end_reason


def encode(version: int, profile: int, bytes_max: int, given_flows: list[Flow]) -> list[bytes]:
    config = ffi.new("struct sonde_encoder_config *")
    name = ffi.new("char[]", b"sonde0")
    config.version, config.profile, config.message_bytes_max = version, profile, bytes_max
    config.template_refresh_sec, config.template_refresh_messages = 60, 20
    config.observation_domain, config.ifindex, config.interface = 7, 3, name
    config.start_ns = NOW_NS - DAY_NS
    encoder = ffi.new("struct sonde_encoder **")
    error = ffi.new("struct sonde_error *")
    assert lib.sonde_encoder_create(config, encoder, error) == 0
    records = ffi.new("struct sonde_record[]", len(given_flows))
    for record, flow in zip(records, given_flows, strict=True):
        fill(record, flow)
    buffer = ffi.new("uint8_t[]", 2 * bytes_max)
    listed = ffi.new("struct sonde_message[]", 64)
    found: list[bytes] = []
    done = 0
    try:
        while done < len(given_flows):
            into = {"buffer": buffer, "capacity": 2 * bytes_max, "list": listed, "max": 64}
            messages = ffi.new("struct sonde_messages *", into)
            taken = lib.sonde_encoder_add(
                encoder[0], records + done, len(given_flows) - done, NOW_NS, messages
            )
            assert taken or messages.count, "no progress"
            done += taken
            found += [
                bytes(ffi.buffer(buffer + one.offset, one.bytes))
                for one in listed[0 : messages.count]
            ]
    finally:
        lib.sonde_encoder_destroy(encoder[0])
    return found


# ---- the expected records ------------------------------------------------------------------


def expected(version: int, given_flows: list[Flow]) -> Counter[tuple[Any, ...]]:
    found: Counter[tuple[Any, ...]] = Counter()
    for flow in given_flows:
        if not (version == 5 and flow.version == 6):
            for way in (0, 1):
                if flow.packets[way]:
                    found[_side(version, flow, way)] += 1
    return found


def _side(version: int, flow: Flow, way: int) -> tuple[Any, ...]:
    ends = [(flow.source, flow.source_port), (flow.dest, flow.dest_port)]
    (source, source_port), (dest, dest_port) = ends[way], ends[1 - way]
    if flow.protocol in (ICMP, ICMPV6):
        kind = (flow.icmp_type, flow.icmp_code) if way == 0 else (flow.dest_port & 255, 0)
        source_port, dest_port = 0, kind[0] << 8 | kind[1]
    common = (
        ipaddress.ip_address(source),
        ipaddress.ip_address(dest),
        source_port,
        dest_port,
        flow.protocol,
        flow.packets[way],
        flow.octets[way],
        flow.flags[way],
        flow.tos,
        flow.first_ns // 1_000_000,
        flow.last_ns // 1_000_000,
    )
    more = {5: (), 9: (flow.vlan,), 10: (flow.vlan, flow.end_reason)}
    return (*common, *more[version])


# ---- the decoded records ---------------------------------------------------------------------


def decode(version: int, messages: list[bytes]) -> list[tuple[Any, ...]]:
    templates: dict[str, Any] = {"netflow": {}, "ipfix": {}}
    found: list[tuple[Any, ...]] = []
    sequence = 0
    for data in messages:
        message = netflow.parse_packet(data, templates)
        assert message.header.version == version
        if version == 10:
            assert message.header.length == len(data)
        number = message.header.sequence_number if version == 10 else message.header.sequence
        assert number == sequence, "wrong sequence number"
        sequence += 1 if version == 9 else len(message.flows)
        found += [_read(version, message, one) for one in message.flows]
    return found


def _read(version: int, message: Any, one: Any) -> tuple[Any, ...]:
    data = dict(one.data)
    more: tuple[Any, ...]
    if version == 10:
        family = "6" if "sourceIPv6Address" in data else "4"
        times = (data["flowStartMilliseconds"], data["flowEndMilliseconds"])
        names, more = IPFIX, (data["vlanId"], data["flowEndReason"])
    else:
        header = message.header
        clock = (
            header.timestamp * 1000 + header.timestamp_nano // 1_000_000
            if version == 5
            else header.timestamp * 1000
        )
        base_ms = clock - header.uptime
        times = (base_ms + data["FIRST_SWITCHED"], base_ms + data["LAST_SWITCHED"])
        family = "6" if "IPV6_SRC_ADDR" in data else "4"
        names = V5 if version == 5 else V9
        more = () if version == 5 else (data["SRC_VLAN"],)
    values = [data[name.format(family)] for name in names]
    address = ipaddress.IPv6Address if family == "6" else ipaddress.IPv4Address
    return (*map(address, values[:2]), *values[2:], *times, *more)


def joined(found: list[tuple[Any, ...]]) -> Counter[tuple[Any, ...]]:
    """Adds up the parts into which version 5 splits counts above 32 bits."""
    sums: dict[tuple[Any, ...], list[int]] = {}
    for flow in found:
        entry = sums.setdefault((*flow[:5], *flow[7:]), [0, 0])
        entry[0] += flow[5]
        entry[1] += flow[6]
    return Counter((*key[:5], *counts_, *key[5:]) for key, counts_ in sums.items())


@pytest.mark.parametrize("version", [5, 9, 10])
@settings(max_examples=40, deadline=None)
@given(
    given_flows=st.lists(flows(), min_size=1, max_size=80),
    bytes_max=st.sampled_from((512, 513, 700, 1400, 9000, 65507)),
    profile=st.sampled_from((0, 1)),
)
def test_decoded_records_equal_the_encoded_ones(
    version: int, given_flows: list[Flow], bytes_max: int, profile: int
) -> None:
    # The package does not support the variable-length fields of RFC 7011, so IPFIX skips "full".
    messages = encode(version, profile if version == 9 else 0, bytes_max, given_flows)
    assert all(HEADER_BYTES[version] < len(data) <= bytes_max for data in messages)
    found = decode(version, messages)
    wanted = expected(version, given_flows)
    if version == 5:
        assert all(max(flow[5:7]) <= V5_COUNT_MAX for flow in found)
        assert joined(found) == joined(list(wanted.elements()))
    else:
        assert Counter(found) == wanted


def test_decoding_resumes_at_the_next_template_refresh() -> None:
    """After the first datagrams are lost, one template refresh is enough."""
    flow = Flow(4, b"\n\0\0\1", b"\n\0\0\2", 1, 2, 17, 0, 0, (1, 0), (40, 0), (0, 0), 0, 0,
                NOW_NS, NOW_NS, 1)  # fmt: skip
    messages = encode(10, 0, 512, [flow] * 400)
    known: dict[str, dict[Any, Any]] = {"netflow": {}, "ipfix": {}}
    lost = 0
    for data in messages[2:]:
        try:
            netflow.parse_packet(data, known)
        except netflow.ipfix.IPFIXTemplateNotRecognized:
            lost += 1
    assert 0 < lost <= 20
    assert struct.unpack("!H", messages[0][:2]) == (10,)
