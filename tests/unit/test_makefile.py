"""Dry runs of `make build` and `make setup`: the extras that each installs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

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
