-- Queries over the Parquet files of `netsonde collect --format parquet -o flows`.
-- Run them in the directory that has `flows`: duckdb < queries.sql

-- Totals. Records carry deltas, so sums are right.
SELECT count(*) AS records, sum(packets) AS packets, sum(bytes) AS bytes
FROM 'flows/*.parquet';

-- The pairs of hosts with the most bytes.
SELECT source_ip, dest_ip, sum(bytes) AS bytes
FROM 'flows/*.parquet'
GROUP BY ALL ORDER BY bytes DESC, source_ip LIMIT 10;

-- The sources that sent to 10.200.0.1.
SELECT DISTINCT source_ip
FROM 'flows/*.parquet'
WHERE dest_ip = '10.200.0.1' ORDER BY source_ip;
