"""The guides in docs/ name every key, verb, error, event and command, and their links work."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, _SubParsersAction
from pathlib import Path
from typing import Any

import pytest

from netsonde import errors
from netsonde.cli import build_parser
from netsonde.config.changes import LIVE_KEYS

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted(
    page
    for page in {*REPOSITORY.glob("*.md"), *DOCS.glob("*.md"), *REPOSITORY.glob("*/**/README.md")}
    if not {".venv", "build"} & set(page.parts)
)
SCHEMA: dict[str, Any] = json.loads((REPOSITORY / "schemas/config.json").read_text())["$defs"]
ASYNCAPI: dict[str, Any] = json.loads((REPOSITORY / "schemas/asyncapi.json").read_text())
SECTIONS = {
    name: SCHEMA[re.findall(r"\$defs/(\w+)", json.dumps(section))[0]]["properties"]
    for name, section in SCHEMA["Config"]["properties"].items()
}


def sections(page: str) -> dict[str, str]:
    """Text by second-level heading."""
    parts = re.split(r"^## (.*)$", (DOCS / page).read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# ---- configuration.md ----------------------------------------------------------------------------


@pytest.mark.parametrize("section", SECTIONS)
def test_configuration_page_has_each_key_with_its_default(section: str) -> None:
    text = sections("configuration.md")[f"[{section}]"]
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", text, re.MULTILINE))
    for key, kind in SECTIONS[section].items():
        assert key in rows
        default, live, _ = (cell.strip() for cell in rows.pop(key).split("|", 2))
        if "default" in kind:
            assert default == f"`{json.dumps(kind['default'])}`", key
        assert (live == "yes") == (f"{section}.{key}" in LIVE_KEYS), key
    inner = SCHEMA["StandingCollector"]["properties"] if section == "export" else {}
    assert rows.keys() == inner.keys()


# ---- requests.md, operations.md ------------------------------------------------------------------


def resolve(reference: dict[str, str]) -> dict[str, Any]:
    found: Any = ASYNCAPI
    for key in reference["$ref"].removeprefix("#/").split("/"):
        found = found[key]
    return dict(found)


def verbs() -> dict[str, dict[str, Any]]:
    """The properties of each verb's request."""
    found = {}
    for name, channel in ASYNCAPI["channels"].items():
        if name.endswith("-all"):
            message = resolve(channel["messages"]["request"])
            found[channel["title"]] = resolve(message["payload"])["properties"]
    return found


def test_requests_page_has_each_verb_with_its_fields() -> None:
    page = sections("requests.md")
    for verb, fields in verbs().items():
        text = page[f"`{verb}`"]
        assert f"nats req capture.{verb}" in text or f".{verb} '" in text, f"{verb}: no example"
        assert [name for name in fields if f"`{name}`" not in text] == [], verb


def test_requests_page_has_each_error() -> None:
    text = (DOCS / "requests.md").read_text()
    kinds = errors.RequestError.__subclasses__()
    assert [kind.error for kind in kinds if f"`{kind.error}`" not in text] == []


def test_operations_page_has_each_event() -> None:
    text = (DOCS / "operations.md").read_text()
    source = "".join(path.read_text() for path in (REPOSITORY / "agent/netsonde").rglob("*.py"))
    named = set(
        re.findall(r'(?:emit\(|: \()\s*"(?:alarm|lifecycle|capture)",\s*"([a-z_]+)"', source)
    )
    named |= set(re.findall(r'[a-z_]*alarm\(\s*"([a-z_]+)"', source))
    assert len(named) > 20
    assert sorted(name for name in named if f"`{name}`" not in text) == []


# ---- commands.md ---------------------------------------------------------------------------------


def commands(parser: ArgumentParser, path: str = "") -> dict[str, list[str]]:
    """The options of each command, those of a group of commands included."""
    found = {}
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            for name, inner in action.choices.items():
                found[f"{path}{name}"] = [
                    option for each in inner._actions for option in each.option_strings
                ]
                found |= commands(inner, f"{path}{name} ")
    return found


def test_commands_page_has_each_command_with_its_options() -> None:
    page = sections("commands.md")
    shared = set(re.findall(r"--?[a-z-]+", page["Shared options"]))
    for command, options in commands(build_parser()).items():
        text = page[f"netsonde {command.split()[0]}"]
        assert f"netsonde {command}" in text, command
        missing = [
            one for one in options if one not in shared and not re.search(rf"`{one}\b", text)
        ]
        assert missing == [], command


def test_commands_page_has_an_example_of_each_command_with_its_output() -> None:
    """tests/e2e/test_commands_page.py types them."""
    typed = re.findall(r"^\$ (netsonde .+)$", (DOCS / "commands.md").read_text(), re.MULTILINE)
    groups = {"config", "nats"}
    assert [
        name
        for name in commands(build_parser())
        if name not in groups
        and not any(f"{one} ".startswith(f"netsonde {name} ") for one in typed)
    ] == []


# ---- all pages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_to_files_in_the_repository(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [link for link in links if "://" not in link]
    targets = [(page.parent / link).resolve().relative_to(REPOSITORY) for link in local]
    dead = [str(target) for target in targets if not (REPOSITORY / target).exists()]
    assert dead == []


def test_index_lists_each_page() -> None:
    index = (DOCS / "README.md").read_text()
    assert [
        page.name for page in DOCS.glob("*.md") if f"({page.name})" not in index + "(README.md)"
    ] == []
