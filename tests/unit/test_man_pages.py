"""The man pages that the packages contain: each one is valid, and shows what the help shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from netsonde.cli import COMMANDS
from netsonde.cli.examples import EXAMPLES

WRITER = Path(__file__).parents[2] / "deploy/packages/man_pages.py"
NAMES = sorted(["netsonde", *(f"netsonde-{command.name}" for command in COMMANDS)])


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, WRITER, directory], check=True)
    return directory


def shown(page: Path) -> dict[str, str]:
    """Returns the text of each section, as a reader of the page sees it."""
    done = subprocess.run(
        ["mandoc", "-Tutf8", "-Owidth=300", page], capture_output=True, text=True, check=True
    )
    text = re.sub(".\x08", "", done.stdout)  # bold and underlined characters
    parts = re.split(r"^(\S.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_each_command_has_a_page(pages: Path) -> None:
    assert sorted(page.stem for page in pages.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_page_has_no_errors_and_no_warnings(pages: Path, name: str) -> None:
    done = subprocess.run(
        ["mandoc", "-Tlint", "-Wwarning", pages / f"{name}.1"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_page_shows_the_examples_of_the_command(pages: Path, command: str) -> None:
    sections = shown(pages / f"netsonde-{command}.1")
    assert "COMMENTS" not in sections
    lines = [line.strip() for line in sections["EXAMPLES"].strip().splitlines()]
    names = [name for name in EXAMPLES if name.split()[0] == command]
    assert sorted(lines) == sorted(example for name in names for example in EXAMPLES[name])


def test_columns_of_a_description_stay_aligned(pages: Path) -> None:
    sections = shown(pages / "netsonde-config.1")
    lines = [line.strip() for line in sections["DESCRIPTION"].splitlines()]
    assert "set     changes keys in the file" in lines
    assert "netsonde config init" in sections["COMMANDS"]


def test_main_page_lists_commands_and_exit_codes(pages: Path) -> None:
    sections = shown(pages / "netsonde.1")
    assert "COMMENTS" not in sections
    assert "69 NATS is unreachable\n" in sections["EXIT STATUS"]
    assert [name for name in NAMES if f"{name}(1)" not in sections.get("COMMANDS", "")] == [
        "netsonde"
    ]
