"""The benchmarks: `make bench`. Prints one table. README.md in this directory explains it.

Runs of netsonde and of the peer alternate within one session on one core. The packets of every
replay are accounted for. Exits with 1 if a limit is missed or could not be checked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import agent_replay
import dpdk
import engine
import exporting
import firmware
import libraries
import recorder
import softflowd
import stream
import stream_requests
import workbench
from pinned import CORES, METER_CORE, Measured, keep_off_the_meter_core
from table import (
    BELOW_GOAL,
    MISSED,
    UNMEASURED,
    Row,
    compare_rates,
    latency_row,
    memory_row,
    p99_ms,
    rate_row,
    render,
    unmeasured_row,
)  # fmt: skip
from workbench import Trace

PEER_RATIO = 3.0
TABLE_SIZE = 1 << 20
TABLE_FLOWS = 1_100_000  # more than fit: measures a full table
TABLE_MIB = 256.0
IDLE_MIB = 60.0
STATUS_P99_MS = 20.0
STREAM_P99_MS = 10.0
STREAM_SEC = 1.0  # per measurement
JSON_GOAL_PER_SEC = 1.5e6
MSGPACK_GOAL_PER_SEC = 2.5e6
RENDERED_RECORDS = 3_000_000
RECORDS_WORTH_A_RATE = 100_000
EXPORTED_FLOWS = 1_500_000  # with one packet each
TIMED_EVERY_US = 10  # 100,000 flows begin per second
COLLISION_RATIO = 0.5
COLLIDING_PACKETS = 4 << 20


def log_progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def rate(trace: Trace, measured: Measured) -> float:
    return trace.packets / measured.seconds


def replay_rows(trace: Trace, label: str, runs: int, peer: str | None) -> list[Row]:
    """Alternates netsonde in three forms and the peer in two, `runs` times."""
    forms: dict[str, Callable[[], Measured]] = {
        # mypy infers no type for a lambda bound by its default.
        mode: lambda mode=mode: engine.replay(trace, mode)[0]  # type: ignore[misc]
        for mode in ("json", "msgpack", "unmetered")
    }
    if peer is not None:
        for name, size in (
            ("fitting", softflowd.FITTING_TABLE),
            ("default", softflowd.DEFAULT_TABLE),
        ):
            # mypy infers no type for a lambda bound by its default.
            forms[name] = lambda size=size: softflowd.replay(peer, trace, size)  # type: ignore[misc]
    rates: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(runs):
        log_progress(f"replay {label}: run {number + 1} of {runs}")
        for name, measure in forms.items():
            rates[name].append(rate(trace, measure()))
    title = f"replay {label}, M packets/s"
    if peer is None:
        rows = [
            unmeasured_row(f"{title}, JSON", "softflowd is not installed"),
            rate_row(title, rates["json"]),
        ]
    else:
        rows = [
            compare_rates(
                f"{title}, JSON", rates["json"], rates["fitting"], "softflowd", PEER_RATIO
            ),
            compare_rates(
                f"{title}, JSON", rates["json"], rates["default"], "softflowd -m 8192", PEER_RATIO
            ),
        ]
    return [
        *rows,
        rate_row(f"{title}, MessagePack", rates["msgpack"]),
        rate_row(f"{title}, no records", rates["unmetered"]),
    ]


def agent_rows(trace: Trace, label: str, runs: int) -> list[Row]:
    rows = []
    for encoding, shown in (("json", "JSON"), ("msgpack", "MessagePack")):
        title = f"agent over NATS, {label}, {shown}"
        log_progress(title)
        done = [agent_replay.replay(trace, encoding) for _ in range(runs)]
        rows.append(rate_row(f"{title}, M packets/s", [trace.packets / r.seconds for r in done]))
        if done[0].records >= RECORDS_WORTH_A_RATE:
            rows.append(rate_row(f"{title}, M records/s", [r.records / r.seconds for r in done]))
    return rows


def rendering_rows(runs: int) -> list[Row]:
    log_progress("rendering")
    json_rates, msgpack_rates = [], []
    for _ in range(runs):
        json_rates.append(engine.render("json", RENDERED_RECORDS))
        msgpack_rates.append(engine.render("msgpack", RENDERED_RECORDS))
    return [
        rate_row("rendering JSON, M records/s", json_rates, JSON_GOAL_PER_SEC),
        rate_row("rendering MessagePack, M records/s", msgpack_rates, MSGPACK_GOAL_PER_SEC),
    ]


def export_rows(runs: int, peer: str | None) -> list[Row]:
    log_progress("export")
    kept = workbench.make_synthetic("flows-of-one", EXPORTED_FLOWS, EXPORTED_FLOWS)
    timed = workbench.make_synthetic(
        "flows-of-one-timed", EXPORTED_FLOWS, EXPORTED_FLOWS, every_us=TIMED_EVERY_US
    )
    return exporting.encode_rows(runs) + exporting.replay_rows(timed, kept, runs, peer)


def table_memory_row() -> Row:
    """Memory of the whole core without file pages, with a full table of 1 M entries."""
    log_progress("memory")
    trace = workbench.make_synthetic("flows-1m", TABLE_FLOWS, TABLE_FLOWS)
    _, result = engine.replay(trace, "json", table_size=TABLE_SIZE, ring_size=64)
    finished = result["finished"]
    if finished["flows_active"] < 0.99 * TABLE_SIZE:
        raise engine.ConservationError(f"the table of {TABLE_SIZE} is not full: {finished}")
    measure = f"memory with {finished['flows_active']:,} active flows"
    return memory_row(measure, finished["memory_kib"] / 1024, TABLE_MIB)


def collision_rows(runs: int) -> list[Row]:
    """A million keys that collide without the table's secret: secret unknown, then known."""
    log_progress("collisions")
    done = [engine.collide(TABLE_SIZE, COLLIDING_PACKETS) for _ in range(runs)]
    rates = {way: [one[way] for one in done] for way in done[0]}
    title = "a million flows whose keys collide unkeyed, M packets/s"
    return [
        compare_rates(title, rates["aimed"], rates["scattered"], "scattered keys", COLLISION_RATIO),
        rate_row(f"{title}, secret known", rates["known"]),
    ]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="per replay (default %(default)s)")
    parser.add_argument("--packets", type=int, default=3_000_000, help="per trace")
    return parser.parse_args()


def measure_all(runs: int, packets: int) -> list[Row]:
    few = workbench.make_synthetic("flows-1k", packets, 1000)
    many = workbench.make_synthetic("flows-200k", packets, 200_000)
    mix = workbench.make_mix("mix", packets)
    peer = softflowd.find()
    rows = replay_rows(few, "1 k flows", runs, peer) + replay_rows(many, "200 k flows", runs, peer)
    if mix is None:
        rows.append(unmeasured_row("replay mix", f"no traces in {workbench.SHARED_TRACES}"))
    else:
        rows += replay_rows(mix, "mix", runs, peer)
    rows += rendering_rows(runs)
    rows += export_rows(runs, peer)
    log_progress("recording")
    rows += recorder.rows(runs)
    log_progress("dpdk")
    rows += dpdk.rows(runs)
    rows += collision_rows(runs)
    rows.append(table_memory_row())
    reason = agent_replay.missing()
    if reason is not None:
        return [*rows, unmeasured_row("agent", reason)]
    log_progress("firmware")
    taken = firmware.measure_status_sec()
    rows.append(latency_row("status while 2 GiB of firmware are verified", taken, STATUS_P99_MS))
    log_progress("idle agent")
    rows.append(
        memory_row("idle agent, resident", agent_replay.measure_idle_kib() / 1024, IDLE_MIB)
    )
    log_progress("optional libraries")
    rows += libraries.rows(runs)
    rows += agent_rows(few, "1 k flows", runs) + agent_rows(many, "200 k flows", runs)
    return rows + stream_rows()


def stream_rows() -> list[Row]:
    rows = []
    trace = workbench.make_synthetic("flows-of-one", stream_requests.FLOWS, stream_requests.FLOWS)
    for apart, server in ((True, "a separate server"), (False, "the same server")):
        for encoding in ("json", "msgpack", "ipfix"):
            log_progress(f"requests during the stream, {server}, {encoding}")
            asked = stream_requests.measure(trace, encoding, apart=apart)
            rate = f"{asked.records_per_sec / 1e6:.1f} M records/s"
            measure = f"status by {server} while {rate} leave, {encoding}"
            reference = f"bare responder {p99_ms(asked.bare_sec):.1f} ms"
            reference += f", PING {p99_ms(asked.ping_sec):.1f} ms"
            rows.append(
                latency_row(
                    measure, asked.taken_sec, STREAM_P99_MS, reference=reference, miss=BELOW_GOAL
                )
            )
    log_progress("stream")
    rows += stream.rows(STREAM_SEC)
    keep_off_the_meter_core()
    return rows


def main() -> int:
    arguments = parse_arguments()
    if len(CORES) == 1:
        log_progress("only one core: the meter shares it with everything else")
    keep_off_the_meter_core()
    log_progress("building")
    workbench.build_generator()
    workbench.build_core()
    for driver in ("replay", "rendering", "collisions", "export/encode", "export/send"):
        workbench.build_driver(driver)
    rows = measure_all(arguments.runs, arguments.packets)
    print(f"\n{arguments.packets / 1e6:g} M packets per trace, median of {arguments.runs} "
          f"(lowest–highest), meter on core {METER_CORE}")  # fmt: skip
    print(render(rows))
    return 1 if any(row.verdict in (MISSED, UNMEASURED) for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
