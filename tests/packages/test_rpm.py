"""The rpm: the same files as the Debian package, and an installation into an empty root."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from installed import built


@pytest.fixture(scope="module")
def rpm() -> Path:
    return built("*.rpm")


def run(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_rpm_has_the_files_of_the_debian_package(rpm: Path) -> None:
    listed = run("rpm", "--query", "--package", "--dump", rpm).splitlines()
    in_rpm = {line.split()[0] for line in listed if not line.split()[4].startswith("04")}
    contents = run("dpkg-deb", "--contents", built("*.deb")).splitlines()
    in_deb = {line.split()[5].removeprefix(".") for line in contents if line[0] != "d"}
    assert in_rpm == {path.replace("/vendor-completions/", "/site-functions/") for path in in_deb}
    assert "/usr/share/man/man1/netsonde-start.1.gz" in in_rpm
    assert (
        run("rpm", "--query", "--package", "--configfiles", rpm) == "/etc/netsonde/netsonde.toml\n"
    )


def test_rpm_installs_into_an_empty_root(rpm: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    # A root without other packages: rpm cannot find what the system provides, nor run scripts.
    options = ("--root", root, "--nodeps", "--noscripts")
    run("rpm", *options, "--install", rpm)
    assert run("rpm", "--root", root, "-q", "netsonde").startswith("netsonde-")
    run("rpm", "--root", root, "--verify", "--nodeps", "netsonde")
    run("rpm", *options, "--erase", "netsonde")
    assert not (root / "opt/netsonde/bin/netsonde").exists()
