-- Tables and views for batches of flow records. Docs: README.md in this directory.

-- One row per record. A repeated batch has the same key, so a merge or FINAL removes it.
CREATE TABLE flows (
    host LowCardinality(String),
    boot String,
    seq UInt64,
    flow_id FixedString(16),
    segment UInt32,
    first_seen DateTime64(9, 'UTC'),
    last_seen DateTime64(9, 'UTC'),
    source_ip String,
    source_port UInt16,
    dest_ip String,
    dest_port UInt16,
    protocol LowCardinality(String),
    community_id Nullable(String),
    interface LowCardinality(String),
    direction LowCardinality(String),
    vlan Array(UInt16),
    packets UInt64,
    bytes UInt64,
    reverse_packets UInt64,
    reverse_bytes UInt64,
    tcp_flags UInt8,
    reverse_tcp_flags UInt8,
    retransmissions UInt32,
    handshake_rtt_us Nullable(UInt32),
    final Bool,
    end_reason LowCardinality(Nullable(String)),
    app LowCardinality(Nullable(String)),
    name Nullable(String)
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(last_seen)
ORDER BY (host, boot, seq, flow_id, segment, last_seen);

-- What is inserted: one row per batch. The table keeps nothing.
CREATE TABLE batches (
    host String,
    boot String,
    seq UInt64,
    records Array(Tuple(
        flow_id String,
        segment UInt32,
        first_seen String,
        last_seen String,
        source_ip String,
        source_port UInt16,
        dest_ip String,
        dest_port UInt16,
        protocol String,
        community_id Nullable(String),
        interface String,
        direction String,
        vlan Array(UInt16),
        packets UInt64,
        bytes UInt64,
        reverse_packets UInt64,
        reverse_bytes UInt64,
        tcp_flags UInt8,
        reverse_tcp_flags UInt8,
        retransmissions UInt32,
        handshake_rtt_us Nullable(UInt32),
        final Bool,
        end_reason Nullable(String),
        app Nullable(String),
        name Nullable(String)
    ))
) ENGINE = Null;

CREATE MATERIALIZED VIEW batches_to_flows TO flows AS
SELECT
    host, boot, seq,
    tupleElement(record, 'flow_id') AS flow_id,
    tupleElement(record, 'segment') AS segment,
    parseDateTime64BestEffort(tupleElement(record, 'first_seen'), 9, 'UTC') AS first_seen,
    parseDateTime64BestEffort(tupleElement(record, 'last_seen'), 9, 'UTC') AS last_seen,
    tupleElement(record, 'source_ip') AS source_ip,
    tupleElement(record, 'source_port') AS source_port,
    tupleElement(record, 'dest_ip') AS dest_ip,
    tupleElement(record, 'dest_port') AS dest_port,
    tupleElement(record, 'protocol') AS protocol,
    tupleElement(record, 'community_id') AS community_id,
    tupleElement(record, 'interface') AS interface,
    tupleElement(record, 'direction') AS direction,
    tupleElement(record, 'vlan') AS vlan,
    tupleElement(record, 'packets') AS packets,
    tupleElement(record, 'bytes') AS bytes,
    tupleElement(record, 'reverse_packets') AS reverse_packets,
    tupleElement(record, 'reverse_bytes') AS reverse_bytes,
    tupleElement(record, 'tcp_flags') AS tcp_flags,
    tupleElement(record, 'reverse_tcp_flags') AS reverse_tcp_flags,
    tupleElement(record, 'retransmissions') AS retransmissions,
    tupleElement(record, 'handshake_rtt_us') AS handshake_rtt_us,
    tupleElement(record, 'final') AS final,
    tupleElement(record, 'end_reason') AS end_reason,
    tupleElement(record, 'app') AS app,
    tupleElement(record, 'name') AS name
FROM batches
ARRAY JOIN records AS record;

-- Traffic of each pair of addresses per minute. Records carry deltas, so sums are right.
CREATE VIEW pairs AS
SELECT
    toStartOfMinute(last_seen) AS minute,
    host, source_ip, dest_ip,
    sum(packets) AS packets,
    sum(bytes) AS bytes
FROM flows FINAL
GROUP BY minute, host, source_ip, dest_ip;
