"""Dry runs of `make build` and `make setup`: the extras that each installs, and their versions."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[2]
USER, DEVELOPER = "--editable '.[demo,tui]'", "--editable '.[collect,demo,tui,dev,packages]'"


def dry_run(target: str, environment: Path) -> str:
    command = ["make", "--dry-run", target, f"VENV={environment}"]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("target", ["build", "demo"])
def test_a_user_gets_no_tools_of_developers(target: str, tmp_path: Path) -> None:
    steps = dry_run(target, tmp_path / "venv")
    assert USER in steps
    assert DEVELOPER not in steps


def test_a_build_keeps_what_setup_installed(tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    assert DEVELOPER in dry_run("setup", environment)
    (environment / "bin").mkdir(parents=True)
    (environment / "bin/pip").touch()
    stamp = environment / ".netsonde-stamp"
    stamp.touch()
    assert "pip install" not in dry_run("build", environment)
    stamp.unlink()
    assert USER in dry_run("build", environment)


def test_setup_has_a_version_of_each_dependency() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][name] for name in re.findall(r"\w+", DEVELOPER)[1:]]
    text = (REPOSITORY / ".ci/requirements.txt").read_text()
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))
    for requirement in map(Requirement, sum(extras, project["dependencies"])):
        assert requirement.specifier.contains(pinned[requirement.name]), requirement
