"""The command line without a bus: parsing, request bodies, configuration, exit codes."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tomllib
from collections import defaultdict
from itertools import repeat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from netsonde import cli
from netsonde.cli.backends import list_backends
from netsonde.cli.collect import flow_subjects
from netsonde.cli.encrypt import describe_sealing
from netsonde.cli.export import describe_export
from netsonde.cli.files import WriteError, replaced_file
from netsonde.cli.firmware import describe_verification
from netsonde.cli.flow_filters import matches
from netsonde.cli.flows import describe_record, flows_body, list_flows
from netsonde.cli.meter import describe_meter, meter_body
from netsonde.cli.metrics import describe_rates
from netsonde.cli.override import override_body
from netsonde.cli.packets import describe_packets, packets_body
from netsonde.cli.requests import (
    Rows,
    print_failures,
    read_nats_section,
    read_pace,
    read_target,
    readable_rows,
)
from netsonde.cli.run import make_overrides
from netsonde.cli.start import describe_session, start_body
from netsonde.cli.status import describe_status
from netsonde.cli.stop import describe_end
from netsonde.cli.tables import align_table
from netsonde.cli.top import rank_flows, rank_hosts
from netsonde.config import file as config
from netsonde.config.file import load
from netsonde.config.schema import json_schema
from netsonde.config.sections import AgentSection, Config
from netsonde.errors import EXIT_CONFIG, EXIT_OK, EXIT_UNREACHABLE, EXIT_USAGE
from netsonde.fleet.client import Outcome, Pace
from netsonde.fleet.scatter import Reply
from netsonde.fleet.targeting import Limit, Target, parse_target
from netsonde.wire.requests import (
    EncryptionOptions,
    FlowsRequest,
    MeterOptions,
    MeterRequest,
    PacketsRequest,
    StartRequest,
)
from servers import free_port


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hides this machine's configuration and environment."""
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "absent.toml")
    monkeypatch.delenv("NATS_URL", raising=False)


def parse(*argv: str) -> argparse.Namespace:
    return cli.build_parser().parse_args(argv)


# ---- request bodies ------------------------------------------------------------------------


def test_start_request_has_only_the_given_fields() -> None:
    body = start_body(parse("start", "-i", "eth0", "--backend", "af_packet"))
    assert body == {"interface": "eth0", "backend": "af_packet"}


def test_each_start_flag_sets_a_request_field() -> None:
    args = parse(
        *("start", "-i", "eth0", "-b", "file", "--filter", "tcp", "--buffer-mb", "64"),
        *("--snaplen", "96", "--no-promiscuous", "--workers", "2", "--dedicated"),
        *(
            "--encrypt",
            "/k/one",
            "--replay-speed",
            "1.5",
            "--meter",
            "--flow-timeout",
            "10",
            "--active-timeout",
            "5",
            "--persist",
        ),
    )
    request = msgspec.convert(start_body(args), StartRequest)
    assert request == StartRequest(
        interface="eth0",
        backend="file",
        filter="tcp",
        buffer_size_mb=64,
        snaplen=96,
        promiscuous=False,
        workers=2,
        dedicated=True,
        replay_speed=1.5,
        metering=MeterOptions(enable=True, flow_timeout_sec=10, active_timeout_sec=5),
        encryption=EncryptionOptions(cipher_suite="AES-256-GCM", key_file="/k/one"),
        persist=True,
    )


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ([], {}),
        (["--override"], {"override": True}),
        (["--override", "90"], {"override": True, "override_sec": 90}),
    ],
)
def test_override_is_a_time_or_the_default(given: list[str], fields: dict[str, object]) -> None:
    assert override_body(parse("stop", *given)) == fields


def test_packets_request_has_only_the_given_fields() -> None:
    assert packets_body(parse("packets")) == {"to": "object_store"}
    args = parse(
        *("packets", "--filter", "tcp", "--start", "-5m", "--end", "-90s", "--to", "file"),
        *("--max-bytes", "1000", "--max-packets", "7"),
    )
    request = msgspec.convert(packets_body(args), PacketsRequest)
    assert request == PacketsRequest(
        filter="tcp", start="-5m", end="-90s", to="file", max_bytes=1000, max_packets=7
    )


@pytest.mark.parametrize(("switch", "enable"), [("on", True), ("off", False)])
def test_meter_sets_enable(switch: str, *, enable: bool) -> None:
    body = meter_body(parse("meter", switch, "--flow-timeout", "7"), enable=enable)
    request = msgspec.convert(body, MeterRequest)
    assert request == MeterRequest(enable=enable, flow_timeout_sec=7)


def test_flows_flags_set_the_request_filter() -> None:
    assert flows_body(parse("flows")) == {}
    args = parse(
        *("flows", "-n", "5", "--sort", "recent", "--min-packets", "2"),
        *("--ip", "FD00::1", "--port", "53", "--protocol", "udp"),
    )
    request = msgspec.convert(flows_body(args), FlowsRequest)
    assert request.limit == 5
    assert request.filter is not None
    assert (request.filter.ip, request.filter.port) == ("fd00::1", 53)
    args = parse(
        *("flows", "--unit", "web*", "--process", "0042", "--not-process", "4x", "--pod", "p")
    )
    assert flows_body(args) == {
        "filter": {"unit": "web*", "pod": "p", "process": 42, "not": {"process": "4x"}}
    }
    msgspec.convert(flows_body(args), FlowsRequest)


def test_run_flags_override_the_configuration() -> None:
    args = parse(
        *("run", "--nats", "nats://a:1,nats://b:2", "--host", "web1"),
        *("--label", "site=ams", "--label", "rack=r1", "--log-level", "debug"),
    )
    loaded = load(environ={}, overrides=make_overrides(args))
    assert loaded.nats.servers == ["nats://a:1", "nats://b:2"]
    assert loaded.agent == AgentSection(host="web1", labels={"site": "ams", "rack": "r1"})
    assert loaded.log.level == "debug"


# ---- the NATS address ------------------------------------------------------------------------


def test_nats_address_prefers_flag_then_file_then_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "netsonde.toml"
    file.write_text('[nats]\nservers = ["nats://file:4222"]\nroot = "acme.capture"\n')
    assert read_nats_section(parse("status")).servers == ["nats://127.0.0.1:4222"]
    monkeypatch.setenv("NATS_URL", "nats://env:4222")
    assert read_nats_section(parse("status")).servers == ["nats://env:4222"]
    section = read_nats_section(parse("status", "--config", str(file)))
    assert (section.servers, section.root) == (["nats://file:4222"], "acme.capture")
    section = read_nats_section(parse("status", "--config", str(file), "--nats", "nats://flag:1"))
    assert section.servers == ["nats://flag:1"]
    assert read_nats_section(parse("status", "--root", "x.y")).root == "x.y"


# ---- exit codes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["start"],
        ["meter", "maybe"],
        ["status", "--timeout", "0"],
        ["status", "--timeout", "soon"],
        ["status", "--batch", "0"],
        ["status", "--max-failures", "-1"],
        ["flows", "--ip", "198.18.0"],
        ["flows", "--port", "65536"],
        ["run", "--label", "Site=Ams"],
        ["events", "--since", "yesterday"],
        ["events", "--since", ""],
        ["config"],
    ],
)
def test_wrong_usage_exits_in_argparse(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == EXIT_USAGE
    assert "usage: netsonde" in capsys.readouterr().err


def test_console_is_another_name_of_top(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["console", "--help"])
    assert caught.value.code == EXIT_OK
    assert capsys.readouterr().out.startswith("usage: netsonde top ")


@pytest.mark.parametrize(
    "flags",
    [
        ["--group", "site"],
        ["--host", "a", "--group", "k=v"],
        ["--nodes", "/nonexistent"],
        ["--limit", "0"],
    ],
)
@pytest.mark.parametrize("command", ["status", "ps", "top"])
def test_invalid_targets_are_usage_errors(
    command: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, *flags]) == EXIT_USAGE
    assert capsys.readouterr().err.startswith("netsonde: ")


@pytest.mark.parametrize(
    "words",
    [
        *(["ps"], ["backends"], ["start", "-i", "eth0", "-b", "pcap"], ["stop"], ["status"]),
        *(["metrics"], ["meter", "on"], ["flows"], ["flows", "--follow"], ["encrypt", "off"]),
        ["export", "on", "--collector-ip", "198.18.0.9", "--collector-port", "2055"],
        *(["firmware", "f", "s"], ["packets"], ["collect"], ["collect", "--live"], ["top"]),
        ["schema"],
    ],
)
def test_every_command_takes_target_and_pace_flags(words: list[str]) -> None:
    flags = ["--timeout", "3", "--limit", "10%", "--batch", "2", "--max-failures", "1"]
    pace = Pace(timeout_sec=3, limit=Limit(10, percent=True), batch=2, failures_max=1)
    args = parse(*words, "--group", "site=ams", *flags)
    assert (read_target(args), read_pace(args)) == (Target(groups=(("site", "ams"),)), pace)
    assert read_target(parse(*words, "--host", "b", "--host", "a")).hosts == ("b", "a")


def test_collect_takes_host_and_nodes_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = tmp_path / "nodes"
    nodes.write_text("db1\nWeb1.example  # twice\n")
    target = parse_target(["Web1.example"], [], str(nodes))
    assert flow_subjects("acme.capture", target.hosts) == [
        "acme.capture.stream.flows.web1_example",
        "acme.capture.stream.flows.db1",
    ]
    assert flow_subjects("capture", None) == ["capture.stream.flows.*"]
    assert cli.main(["collect", "--nodes", str(tmp_path / "none")]) == EXIT_USAGE
    assert capsys.readouterr().err.startswith("netsonde: The nodes file ")


@pytest.mark.parametrize(
    "command", [["status"], ["ps"], ["top"], ["flows", "--follow"], ["schema"]]
)
def test_unreachable_nats_exits_69_with_one_sentence(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.main([*command, "--nats", f"nats://127.0.0.1:{free_port()}"])
    captured = capsys.readouterr()
    assert code == EXIT_UNREACHABLE
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "connection refused" in captured.err


def test_invalid_configuration_exits_78_and_names_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "netsonde.toml"
    file.write_text("[nats]\nserver = 1\n")
    for argv in (["config", "check"], ["config", "show"], ["status"], ["run"]):
        assert cli.main([*argv, "--config", str(file)]) == EXIT_CONFIG
        assert "nats.server" in capsys.readouterr().err


# ---- output ------------------------------------------------------------------------------------


def test_config_show_prints_equivalent_toml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "netsonde.toml"
    file.write_text(
        '[agent]\nhost = "a"\n[agent.labels]\nsite = "ams"\nrack = "r-1"\n'
        '[[export.collectors]]\nip = "10.0.0.1"\nport = 2055\n'
        '[policy.allow]\n"*" = ["status"]\n"on call" = ["read"]\n'
    )
    assert cli.main(["config", "show", "--config", str(file)]) == EXIT_OK
    shown = tomllib.loads(capsys.readouterr().out)
    assert msgspec.convert(shown, Config) == load(file, environ={})
    assert cli.main(["config", "show", "--json", "--config", str(file)]) == EXIT_OK
    assert json.loads(capsys.readouterr().out) == shown


def test_full_output_device_is_reported_in_one_sentence() -> None:
    command = [str(Path(sys.executable).with_name("netsonde")), "config", "schema"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == ("netsonde: cannot write all of the output: no space left on device\n")


def test_config_schema_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "schema"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out) == json_schema()


def test_completion_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh"):
        with pytest.raises(SystemExit) as caught:
            cli.main(["--print-completion", shell])
        assert not caught.value.code
        script = capsys.readouterr().out
        assert all(command.name in script for command in cli.COMMANDS)


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert len({command.name for command in cli.COMMANDS}) == len(cli.COMMANDS)
    for command in cli.COMMANDS:
        with pytest.raises(SystemExit):
            cli.main([command.name, "--help"])
        summary = (command.__doc__ or "").partition("\n")[0]
        assert summary
        assert summary in capsys.readouterr().out


@pytest.mark.parametrize("words", [["status"], ["stop"], ["firmware", "f", "s"], ["packets"]])
def test_help_shows_the_default_timeout(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([words[0], "--help"])
    assert f"timeout for replies ({parse(*words).timeout:g} s)" in capsys.readouterr().out


RECORD = {
    "source_ip": "fd00::1",
    "source_port": 40000,
    "dest_ip": "fd00::2",
    "dest_port": 53,
    "protocol": "UDP",
    "protocol_number": 17,
    "vlan": [42],
    "icmp_type": None,
    "packets": 2,
    "bytes": 180,
    "last_seen": "2026-01-02T03:04:05.678901234Z",
    "end_reason": "idle",
}
OWNERS = {
    "process": {
        "pid": 42,
        "name": "gunicorn",
        "exe": "/usr/bin/python3.11",
        "unit": "nginx.service",
        "container": "4f1c09",
        "pod": None,
    },
    "peer_process": {"pid": 43, "name": None, "exe": None, "unit": None},
}


def test_describe_record_prints_one_line_for_each_encoding() -> None:
    line = (
        "03:04:05.678  UDP     [fd00::1]:40000 → [fd00::2]:53 vlan 42  2 packets  180 bytes  idle"
    )
    assert describe_record(RECORD) == line
    assert describe_record({**RECORD, "last_seen": 1_767_323_045_678_901_234}) == line


def test_unselected_field_is_a_dash() -> None:
    assert describe_record({}) == "-  -       - → -  - packets  - bytes  -"
    few = {"source_ip": "fd00::1", "dest_ip": "fd00::2", "dest_port": 53, "packets": 2}
    assert describe_record(few) == "-  -       fd00::1 → [fd00::2]:53  2 packets  - bytes  -"
    assert not matches(few, parse("flows", "--follow", "--protocol", "udp"))


def test_top_ranks_hosts_by_rate_and_flows_across_hosts() -> None:
    def rates(host: str, mbps: float) -> Reply:
        named = "packets_per_sec avg_packet_size drop_rate_percent buffer_usage_percent"
        body = {**dict.fromkeys([*named.split(), "active_flows"], 1), "throughput_mbps": mbps}
        return Reply(host, 200, body)

    def totals(host: str, *packets: int) -> Reply:
        flows = [{**RECORD, "packets": count, "bytes": 100 - count} for count in packets]
        return Reply(host, 200, {"flows": flows})

    idle = Reply("idle", 400, {"error": "no_session", "detail": "none"})
    metrics = Outcome(replies=[rates("a", 1.5), rates("b", 20.0), idle])
    assert [row[0] for row in rank_hosts(metrics)] == ["b", "a"]
    flows = Outcome(replies=[totals("a", 9, 2), totals("b", 5, 1)])
    by_packets = rank_flows(flows, order="packets", limit=3)
    assert [(row[0], row[4]) for row in by_packets] == [("a", 9), ("b", 5), ("a", 2)]
    assert rank_flows(flows, order="bytes", limit=1)[0][4:6] == (1, 99)


@pytest.mark.parametrize(
    "rows",
    [
        *(describe_status, describe_rates, list_backends, list_flows, describe_end, describe_meter),
        *(describe_export, describe_packets, describe_verification, describe_sealing),
        describe_session,
    ],
)
def test_malformed_reply_counts_as_failure_of_its_host(rows: Rows) -> None:
    """Such a reply comes from another version or from a foreign responder."""
    wrong: tuple[Any, ...] = (None, [{}], {"a": 1})
    bodies = [{}, *(defaultdict[str, Any](repeat(one).__next__) for one in wrong)]
    for body in bodies:
        outcome = Outcome(replies=[Reply("web1", 200, body), Reply("web2", 400, {})])
        assert list(readable_rows(outcome, rows)) == []
        first, second = outcome.replies
        assert (first.host, first.code, first.body["error"]) == ("web1", 500, "unreadable")
        assert second.code == 400


def test_control_characters_in_replies_are_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    body = {"error": "x\x1b]0;y\x07", "detail": "two\nlines\x9b\u202e", "code": 400}
    print_failures(Outcome(replies=[Reply("a", 400, body)]), "all hosts",
                   with_refusals=True)  # fmt: skip
    assert capsys.readouterr().err == "a: 400 x\ufffd]0;y\ufffd: two\ufffdlines\ufffd\ufffd\n"
    assert align_table(("A",), [("\x1b[2J\r",)]) == "A\n\ufffd[2J\ufffd\n"


def test_describe_record_shows_icmp_type_without_ports() -> None:
    ping = {**RECORD, "protocol": "ICMPv6", "source_port": 128, "dest_port": 129, "icmp_type": 128}
    assert " fd00::1 → fd00::2 vlan 42 type 128  2 packets" in describe_record(ping)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], True),
        (["--ip", "fd00:0::2"], True),
        (["--ip", "fd00::3"], False),
        (["--port", "53"], True),
        (["--port", "54"], False),
        (["--protocol", "udp"], True),
        (["--protocol", "17"], True),
        (["--protocol", "6"], False),
        (["--min-packets", "3"], False),
        (["--not-port", "53"], False),
        (["--not-port", "53", "--not-ip", "fd00::3"], True),
        (["--unit", "NGINX"], True),
        (["--unit", "nginx.serv*"], True),
        (["--unit", "ngin"], False),
        (["--container", "4F1C"], True),
        (["--container", "*c9"], False),
        (["--container", "*09"], True),
        (["--pod", "8a*"], False),
        (["--process", "python*"], True),
        (["--process", "gunicorn"], True),
        (["--process", "42"], True),
        (["--process", "43"], True),
        (["--process", "44"], False),
        (["--unit", "nginx", "--process", "42"], True),
        (["--unit", "nginx", "--process", "43"], False),  # they are two owners
        (["--not-process", "43"], False),
        (["--not-process", "44"], True),
    ],
)
def test_follow_filters_like_the_listing(flags: list[str], *, expected: bool) -> None:
    assert matches(RECORD | OWNERS, parse("flows", "--follow", *flags)) == expected


@pytest.mark.parametrize("role", ["segment", "key"])
def test_decrypt_rejects_a_fifo_without_waiting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], role: str
) -> None:
    fifo, other = tmp_path / "fifo", tmp_path / "other"
    os.mkfifo(fifo)
    other.write_bytes(b"k" * 32)
    segment, key = (fifo, other) if role == "segment" else (other, fifo)
    done = cli.main(["decrypt", str(segment), "--key", str(key), "-o", str(tmp_path / "out")])
    assert done == 1
    assert f"{fifo}: not a regular file" in capsys.readouterr().err


def test_usage_error_prints_the_message_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["start", "-b", "pcap"])
    message, usage, hint = capsys.readouterr().err.splitlines()
    assert message.startswith("netsonde start: the following arguments are required: -i")
    assert usage.startswith("usage: netsonde start -i INTERFACE -b BACKEND")
    assert hint == "See 'netsonde start --help'."


def test_completion_into_a_closed_pipe_ends_quietly() -> None:
    command = f"{Path(sys.executable).with_name('netsonde')} --print-completion bash"
    done = subprocess.run(["bash", "-c", f"{command} | head -n 1"], capture_output=True, text=True)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_file_is_replaced_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(TypeError), replaced_file(path) as file:
        file.writelines([b"half", None])  # type: ignore[list-item]
    assert path.read_text() == "old"
    with replaced_file(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert (path.read_text(), os.listdir(tmp_path)) == ("new", ["out"])
    with pytest.raises(WriteError, match="no such file"), replaced_file(tmp_path / "a" / "b"):
        pass


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("sttaus",), "status"),
        (("flows", "--sort", "byte"), "bytes"),
        (("version",), "--version"),
        (("help",), "--help"),
    ],
)
def test_a_misspelt_word_gets_a_suggestion(
    words: tuple[str, ...], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.build_parser().parse_args(words)
    assert caught.value.code == 2
    assert f"did you mean {near}?" in capsys.readouterr().err
