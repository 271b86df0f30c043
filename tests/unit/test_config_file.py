"""`netsonde config init` and `config set`: a file with comments that people and commands edit."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from netsonde.cli import main
from netsonde.config.edit import with_key
from netsonde.config.file import parse
from netsonde.config.sections import Config
from netsonde.config.template import template
from netsonde.errors import ConfigError

ORIGIN = Path("netsonde.toml")


def test_template_is_accepted_and_changes_nothing() -> None:
    assert parse(template(), origin=ORIGIN) == Config()


def test_template_has_each_key_with_its_default() -> None:
    text = template()
    for section, keys in msgspec.to_builtins(Config()).items():
        for key, value in (keys or {}).items():
            (line,) = re.findall(
                rf"^\[{section}\]\n(?:#.*\n)*?#({key} = .*)$", text, flags=re.MULTILINE
            )
            assert tomllib.loads(line)[key] == value


def test_init_writes_a_file_that_check_accepts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "netsonde.toml"
    assert main(["config", "init", str(path)]) == 0
    assert main(["config", "check", "--config", str(path)]) == 0
    capsys.readouterr()
    assert main(["config", "init"]) == 0
    assert capsys.readouterr().out.rstrip() == path.read_text().rstrip()


def test_init_does_not_overwrite_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "netsonde.toml"
    path.write_text("# mine\n")
    assert main(["config", "init", str(path)]) == 1
    assert f"{path} exists" in capsys.readouterr().err
    assert path.read_text() == "# mine\n"


@pytest.mark.parametrize(
    ("before", "key", "value", "after"),
    [
        ("", "flows.spool_mb", "12", "[flows]\nspool_mb = 12\n"),
        ("[flows]\n#spool_mb = 256\n", "flows.spool_mb", "12", "[flows]\nspool_mb = 12\n"),
        ("[flows]\nspool_mb = 9 # a\n[log]\n", "flows.spool_mb", "12",
         "[flows]\nspool_mb = 12\n[log]\n"),
        ("[log]\n[flows] # b\n# c\n", "flows.jetstream", "true",
         "[log]\n[flows] # b\njetstream = true\n# c\n"),
        ("[agent]\nhost = 'a'\n", "agent.labels.site", "ams",
         "[agent]\nhost = 'a'\n\n[agent.labels]\nsite = \"ams\"\n"),
        ("[nats]\n", "nats.servers", "nats://a,nats://b",
         '[nats]\nservers = ["nats://a", "nats://b"]\n'),
    ],
)  # fmt: skip
def test_set_changes_one_line(before: str, key: str, value: str, after: str) -> None:
    assert with_key(before, key, value) == after


@pytest.mark.parametrize(
    ("before", "key", "value"),
    [
        ("", "flows.nothing", "1"),
        ("", "flows", "1"),
        ("", "flows.spool_mb", "many"),
        ("[flows]\nfields = [\n  'seq',\n]\n", "flows.fields", "boot"),
        ("[flows", "flows.spool_mb", "1"),
    ],
)
def test_set_rejects_what_it_cannot_change(before: str, key: str, value: str) -> None:
    with pytest.raises(ConfigError):
        with_key(before, key, value)


def test_set_fills_the_session_of_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "netsonde.toml"
    assert main(["config", "init", str(path)]) == 0
    size = len(path.read_text().splitlines())
    words = ["session.interface", "eth0,en*", "session.backend", "af_packet"]
    assert main(["config", "set", "--config", str(path), *words]) == 0
    session = parse(path.read_text(), origin=path).session
    assert session is not None
    assert (session.interface, session.backend) == ("eth0,en*", "af_packet")
    assert len(path.read_text().splitlines()) == size
    assert main(["config", "set", "--config", str(path), "session.interface"]) == 2


def test_set_keeps_a_file_that_would_become_invalid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "netsonde.toml"
    path.write_text("[buffer]\n")
    path.chmod(0o640)
    assert main(["config", "set", "buffer.dir", "relative", "--config", str(path)]) == 78
    assert "buffer.dir" in capsys.readouterr().err
    assert path.read_text() == "[buffer]\n"
    assert main(["config", "set", "buffer.dir", "/spill", "--config", str(path)]) == 0
    assert path.read_text() == '[buffer]\ndir = "/spill"\n'
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[flows]\njetstream = 7\n", "flows.jetstream: expected `bool`, got `int`"),
        ("[flows]\nabsent = 7\n", "unknown key flows.absent"),
        ("absent = 7\n", "unknown key absent"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(text, origin=ORIGIN)
    assert str(refused.value).endswith(words)
