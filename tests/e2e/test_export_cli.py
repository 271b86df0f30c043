"""`netsonde export`, `start --export` and `decode`, as processes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents import COMMAND, Agent, Fleet, client_flags
from collectors import HOST, Inbox
from deadlines import TIMEOUT_SEC, eventually_now
from packets import SECOND_NS, UDP, at, ethernet, ipv4, udp, write_pcap
from servers import NatsServer

START_NS = 1_767_225_600 * SECOND_NS
FLOWS = 25
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(nats_server: NatsServer) -> Run:
    def run_command(*words: str, given: bytes = b"") -> subprocess.CompletedProcess[str]:
        offline = words[0] == "decode"
        done = subprocess.run(
            [COMMAND, *words, *(() if offline else client_flags(nats_server.url))],
            input=given,
            capture_output=True,
            timeout=TIMEOUT_SEC,
        )
        text = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )
        assert "Traceback" not in text.stderr, text.stderr
        return text

    return run_command


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    frames = [
        ethernet(ipv4(udp(b"query", 5000 + n, 53), UDP, "10.0.0.1", "10.0.0.2"))
        for n in range(FLOWS)
    ]
    return write_pcap(tmp_path / "trace.pcap", [at(START_NS + n, f) for n, f in enumerate(frames)])


@pytest.fixture
def inbox() -> Any:
    made = Inbox()
    yield made
    made.close()


def one_object(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return json.loads(line)  # type: ignore[no-any-return]


def test_export_on_and_off(run: Run, alpha: Agent, trace: Path, inbox: Inbox) -> None:
    where = ("--collector-ip", HOST, "--collector-port", str(inbox.port))
    refused = run("export", "on", *where)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "no_session" in refused.stderr
    run("start", "-i", str(trace), "--backend", "file")
    done = run("export", "on", *where, "--version", "ipfix", "--interval", "30")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == [
        "alpha", "enabled", f"{HOST}:{inbox.port}", "30s",
    ]  # fmt: skip
    (reported,) = one_object(run("status", "--json"))["export"]["collectors"]
    assert (reported["version"], reported["export_interval_sec"]) == (10, 30)
    assert one_object(run("export", "off", *where, "--json"))["status"] == "disabled"
    assert one_object(run("status", "--json"))["export"] is None
    bad = run("export", "on", "--collector-ip", "0.0.0.0", "--collector-port", "9")
    assert (bad.returncode, "invalid_collector" in bad.stderr) == (1, True)
    assert run("export", "on", "--collector-ip", HOST).returncode == 2
    assert run("export", "on", *where, "--version", "7").returncode == 2


def test_decode_reads_what_start_exported(
    run: Run, alpha: Agent, trace: Path, inbox: Inbox, tmp_path: Path
) -> None:
    where = f"{HOST}:{inbox.port}"
    started = run("start", "-i", str(trace), "-b", "file", "--export", where, "--export-version",
                  "10", "--export-interval", "5")  # fmt: skip
    assert started.returncode == 0, started.stderr
    eventually_now(lambda: one_object(run("status", "--json"))["finished"], "the file to be read")
    stopped = one_object(run("stop", "--json"))
    (reported,) = stopped["export"]["collectors"]
    messages = inbox.take()
    assert len(messages) == reported["messages_sent"]

    raw = b"".join(messages)
    datagrams = [at(START_NS, ethernet(ipv4(udp(m, 4000, 4739), UDP, "10.1.1.1", "10.1.1.2")))
                 for m in messages]  # fmt: skip
    captured = write_pcap(tmp_path / "export.pcap", datagrams)
    (tmp_path / "raw.ipfix").write_bytes(raw)
    decoded = run("decode", str(captured), "--summary")
    assert decoded.returncode == 0, decoded.stderr
    assert f"{len(messages)} messages" in decoded.stderr
    records = [one for one in map(json.loads, decoded.stdout.splitlines()) if "source_ip" in one]
    assert len(records) == FLOWS
    assert {one["source_port"] for one in records} == set(range(5000, 5000 + FLOWS))
    assert sum(one["packets"] for one in records) == FLOWS == reported["packets_sent"]
    assert run("decode", str(tmp_path / "raw.ipfix")).stdout == decoded.stdout
    assert run("decode", "-", given=raw).stdout == decoded.stdout
    assert run("start", "-i", str(trace), "-b", "file", "--export", "nowhere").returncode == 2


def test_stop_waits_for_a_slow_collector(
    run: Run, fleet: Fleet, inbox: Inbox, tmp_path: Path
) -> None:
    """At about 50 bytes a record and 125,000 bytes a second, this takes longer than the default
    timeout."""
    count = 9000
    fleet.start("alpha", export={"pace_mbps": 1})
    frames = [
        ethernet(ipv4(udp(b"", 5000 + n, 53), UDP, "10.0.0.1", "10.0.0.2")) for n in range(count)
    ]
    trace = write_pcap(tmp_path / "many.pcap", [at(START_NS, frame) for frame in frames])
    run("start", "-i", str(trace), "-b", "file", "--export", f"{HOST}:{inbox.port}")
    eventually_now(lambda: one_object(run("status", "--json"))["finished"], "the file to be read")
    (reported,) = one_object(run("stop", "--json"))["export"]["collectors"]
    assert (reported["records_sent"], reported["records_lost"]["no_room"]) == (count, 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no NetFlow or IPFIX"),
        (b"not a message at all", "are not NetFlow"),
        (b"\xd4\xc3\xb2\xa1", "truncated"),
        (b"\0\x0a\0\x10" + bytes(12) + b"\0\x09", "the last 2 bytes"),
    ],
    ids=["empty", "text", "truncated pcap", "trailing bytes"],
)
def test_decode_reports_invalid_files(run: Run, content: bytes, words: str) -> None:
    done = run("decode", "-", given=content)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr


def test_decode_reports_an_absent_file(run: Run, tmp_path: Path) -> None:
    done = run("decode", str(tmp_path / "absent"))
    assert done.returncode == 1
    assert "No such file" in done.stderr
