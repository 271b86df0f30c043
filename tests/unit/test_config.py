"""Configuration: the file, its overlays, and which key each error names."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import pytest

from netsonde.cli import main
from netsonde.config.changes import LIVE_KEYS, changed_keys, flatten
from netsonde.config.file import load
from netsonde.config.schema import json_schema
from netsonde.config.sections import TOKEN, Config, host_token
from netsonde.errors import ConfigError
from netsonde.wire.requests import CaptureOptions, MeterOptions

SCHEMAS = Path(__file__).parents[2] / "schemas"

SESSION = "[session]\ninterface = 'eth0'\nbackend = 'pcap'\n"


def load_text(tmp_path: Path, text: str, **overlays: object) -> Config:
    path = tmp_path / "netsonde.toml"
    path.write_text(text)
    overlays.setdefault("environ", {})
    return load(path, **overlays)  # type: ignore[arg-type]


# ---- the file ------------------------------------------------------------------------------


def test_highest_port_is_accepted(tmp_path: Path) -> None:
    text = "[http]\nlisten = '127.0.0.1:65535'"
    assert load_text(tmp_path, text).http.listen == "127.0.0.1:65535"


def test_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    settings = load_text(tmp_path, "")
    assert settings.nats.root == "capture"
    assert settings.metrics.interval_sec == 5
    assert settings.http.listen.startswith("127.0.0.1:")
    assert settings.capture.replay_dirs == []


def test_file_accepts_every_key_of_the_contract(tmp_path: Path) -> None:
    settings = load_text(
        tmp_path,
        """
        [agent]
        host = "alpha"
        [agent.labels]
        site = "ams"
        [nats]
        servers = ["nats://user:secret@127.0.0.1:4222", "tls://bus:4223"]
        root = "acme.capture"
        creds = "/etc/netsonde/agent.creds"
        tls_ca = "/ca.pem"
        tls_cert = "/cert.pem"
        tls_key = "/key.pem"
        [capture]
        replay_dirs = ["/var/captures"]
        [buffer]
        dir = "/var/lib/netsonde"
        disk_mb = 1024
        [flows]
        encoding = "msgpack"
        tunnel = "inner"
        jetstream = true
        spool_dir = "/var/spool/netsonde"
        spool_mb = 64
        flow_table_size = 4096
        [metrics]
        interval_sec = 1
        [export]
        max_message_bytes = 1400
        profile = "full"
        biflow = true
        [encryption]
        key_dirs = ["/etc/netsonde/keys"]
        [firmware]
        dirs = ["/var/firmware"]
        trusted_keys = "/etc/netsonde/trusted"
        [log]
        level = "debug"
        [http]
        listen = "[::1]:9461"
        """,
    )
    assert settings.host == "alpha"
    assert settings.nats.root == "acme.capture"
    assert settings.metrics.interval_sec == 1.0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[nats]\nrood = 'x'", "nats.rood"),
        ("[nets]", "nets"),
        ("colour = 1", "colour"),
        ("[metrics]\ninterval_sec = 0", "metrics.interval_sec"),
        ("[metrics]\ninterval_sec = 'often'", "metrics.interval_sec"),
        ("[flows]\nencoding = 'xml'", "flows.encoding"),
        ("[flows]\nflow_table_size = 3", "flows.flow_table_size"),
        ("[agent.labels]\nSite = 'ams'", "agent.labels.Site"),
        ("[agent.labels]\nsite = 'a.b'", "agent.labels.site"),
        ("[agent.labels]\nsite = 1", "agent.labels"),
        ("[nats]\nroot = 'capture.*'", "nats.root"),
        ("[nats]\nroot = 'capture.'", "nats.root"),
        ("[nats]\nservers = []", "nats.servers"),
        ("[nats]\nservers = ['http://x']", "nats.servers"),
        ("[nats]\nservers = ['nats://x:port']", "nats.servers"),
        ("[nats]\nservers = ['x:65536']", "nats.servers"),
        ("[nats]\nservers = ['tls://:4222']", "nats.servers"),
        ("[nats]\nservers = ['nats://[::1']", "nats.servers"),
        ("[flows]\nservers = ['http://x']", "flows.servers"),
        ("[nats]\ntls_cert = '/c.pem'", "nats.tls_cert"),
        ("[capture]\nreplay_dirs = ['captures']", "capture.replay_dirs"),
        ("[http]\nlisten = '9461'", "http.listen"),
        ("[http]\nlisten = '127.0.0.1:65536'", "http.listen"),
        ("[session]\ninterface = 'eth0'", "session"),
        ("[session]\ninterface = 'eth0'\nbackend = 'sniffer'", "session.backend"),
        (f"{SESSION}workers = 0", "session.workers"),
        (
            f"{SESSION}replay_speed = nan",
            "session.replay_speed",
        ),
        (f"{SESSION}persist = true", "session.persist"),
        (
            f"{SESSION}metering = {{enable = 1}}",
            "session.metering.enable",
        ),
        (
            f"{SESSION}export = {{collector_ip = 'x', collector_port = 1}}",
            "session.export.collector_ip",
        ),
        ("[nats", "TOML"),
    ],
)
def test_error_names_the_key_and_the_file(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, text)
    assert named in caught.value.detail
    assert "netsonde.toml" in caught.value.detail
    assert caught.value.exit_code == 78


def test_session_may_come_from_the_environment(tmp_path: Path) -> None:
    given = {"INTERFACE": "eth0", "BACKEND": "pcap", "WORKERS": "2", "METERING__ENABLE": "true"}
    settings = load_text(
        tmp_path, "", environ={f"NETSONDE__SESSION__{name}": text for name, text in given.items()}
    )
    metering = MeterOptions(enable=True)
    assert settings.session == CaptureOptions(
        interface="eth0", backend="pcap", workers=2, metering=metering
    )


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "absent.toml", environ={})


# ---- overlays --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "key", "expected"),
    [
        ("NATS__ROOT", "acme", "nats.root", "acme"),
        ("METRICS__INTERVAL_SEC", "0.5", "metrics.interval_sec", 0.5),
        ("FLOWS__FLOW_TABLE_SIZE", "4096", "flows.flow_table_size", 4096),
        ("FLOWS__JETSTREAM", "true", "flows.jetstream", True),
        ("FLOWS__JETSTREAM", "0", "flows.jetstream", False),
        ("NATS__SERVERS", "nats://a:1, nats://b:2", "nats.servers", ["nats://a:1", "nats://b:2"]),
        ("NATS__SERVERS", '["nats://a:1"]', "nats.servers", ["nats://a:1"]),
        ("CAPTURE__REPLAY_DIRS", "", "capture.replay_dirs", []),
        ("AGENT__LABELS", "site=ams,role=edge", "agent.labels", {"site": "ams", "role": "edge"}),
        ("AGENT__LABELS", '{site = "ams"}', "agent.labels", {"site": "ams"}),
        ("AGENT__LABELS__SITE", "ams", "agent.labels", {"site": "ams"}),
        ("AGENT__HOST", "7", "agent.host", "7"),
    ],
)
def test_environment_values_are_converted(
    tmp_path: Path, name: str, value: str, key: str, expected: object
) -> None:
    settings = load_text(tmp_path, "", environ={f"NETSONDE__{name}": value, "PATH": "/bin"})
    assert flatten(settings)[key] == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NATS__ROOD", "x"),
        ("NETS__ROOT", "x"),
        ("NATS", "x"),
        ("FLOWS__JETSTREAM", "perhaps"),
        ("METRICS__INTERVAL_SEC", "often"),
        ("AGENT__LABELS", "site"),
        ("NATS__SERVERS", "[broken"),
    ],
)
def test_invalid_variable_is_named(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"NETSONDE__{name}"):
        load_text(tmp_path, "", environ={f"NETSONDE__{name}": value})


@pytest.mark.parametrize(
    ("environ", "overrides", "where"),
    [
        ({"NETSONDE__METRICS__INTERVAL_SEC": "0"}, {}, "NETSONDE__METRICS__INTERVAL_SEC"),
        ({"NETSONDE__NATS__ROOT": "a..b"}, {}, "NETSONDE__NATS__ROOT"),
        ({"NETSONDE__AGENT__LABELS": "site=AMS"}, {}, "NETSONDE__AGENT__LABELS"),
        ({"NETSONDE__NATS__ROOT": "a"}, {"nats.root": "a.*"}, "command line"),
        ({}, {"nats.servers": ["http://x"]}, "command line"),
    ],
)
def test_error_names_the_source_of_the_value(
    tmp_path: Path, environ: dict[str, str], overrides: dict[str, object], where: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, "[log]\nlevel = 'info'", environ=environ, overrides=overrides)
    assert caught.value.detail.startswith(f"{where}: ")


def test_flags_override_environment_overrides_file(tmp_path: Path) -> None:
    settings = load_text(
        tmp_path,
        "[nats]\nroot = 'file'\n[agent.labels]\nsite = 'ams'\nrole = 'edge'",
        environ={"NETSONDE__NATS__ROOT": "environment", "NETSONDE__AGENT__LABELS__SITE": "fra"},
        overrides={"nats.root": "flag", "agent.host": None, "agent.labels.site": "lhr"},
    )
    assert settings.nats.root == "flag"
    assert settings.agent.labels == {"site": "lhr", "role": "edge"}


# ---- the host token --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("alpha", "alpha"),
        ("Alpha", "alpha"),
        ("edge-1.ams.example.com", "edge-1_ams_example_com"),
        ("a_b", "a_b"),
    ],
)
def test_host_token_keeps_ordinary_names(name: str, token: str) -> None:
    assert host_token(name) == token


@pytest.mark.parametrize("name", ["büro", "a b", "x*", "a>b", "host/1"])
def test_host_token_appends_a_digest_to_changed_names(name: str) -> None:
    token = host_token(name)
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    assert token.endswith(f"-{digest}")
    assert TOKEN.fullmatch(token)


def test_host_token_accepts_undecodable_names() -> None:
    digest = hashlib.sha256(b"h\xffst").hexdigest()[:8]
    assert host_token("h\udcffst") == f"h-st-{digest}"


def test_host_token_differs_for_similar_names() -> None:
    assert host_token("a b") != host_token("a*b")


# ---- changes, and the schema -------------------------------------------------------------------


def test_changed_keys_lists_live_and_other_keys(tmp_path: Path) -> None:
    old = load_text(tmp_path, "[log]\nlevel = 'info'")
    new = load_text(tmp_path, "[log]\nlevel = 'debug'\n[nats]\nroot = 'other'")
    assert changed_keys(old, new) == ["log.level", "nats.root"]
    assert "log.level" in LIVE_KEYS
    assert "nats.root" not in LIVE_KEYS


def test_live_keys_are_configuration_keys() -> None:
    assert flatten(Config()).keys() >= LIVE_KEYS


def test_published_schema_is_current() -> None:
    assert json.loads((SCHEMAS / "config.json").read_text()) == json_schema(), (
        "run: python -m netsonde.config.schema schemas"
    )


def test_defaults_pass_their_own_validation() -> None:
    settings = Config()
    assert msgspec.convert(msgspec.to_builtins(settings), Config) == settings


# ---- masking ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://bus:4222", "nats://bus:4222"),
        ("nats://agent:s3cret@bus:4222", "nats://agent:***@bus:4222"),
        ("tls://agent:s%403cr%2Fet@[fd00::1]:4222", "tls://agent:***@[fd00::1]:4222"),
        ("nats://agent:s3cret:x@y@[::1]:4222/", "nats://agent:***@[::1]:4222/"),
        ("nats://t0ken-s3cret@bus", "nats://***@bus"),
        ("nats://:s3cret@bus", "nats://:***@bus"),
    ],
)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_config_show_masks_passwords(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str, shown: str, form: list[str]
) -> None:
    path = tmp_path / "netsonde.toml"
    for section in ("nats", "flows"):
        path.write_text(f"[{section}]\nservers = ['nats://bus1', '{url}']\n")
        assert main(["config", "show", "--config", str(path), *form]) == 0
        output = capsys.readouterr().out
        assert f'"{shown}"' in output
        assert "s3cret" not in output


def test_malformed_variable_error_masks_passwords(tmp_path: Path) -> None:
    environ = {"NETSONDE__NATS__SERVERS": '["nats://agent:s3cret@bus"'}
    with pytest.raises(ConfigError, match=r"agent:\*\*\*@bus"):
        load_text(tmp_path, "", environ=environ)
