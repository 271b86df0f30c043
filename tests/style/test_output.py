"""Nothing prints but cli/output.py, so no text of a host reaches a terminal unfiltered. extcap.py
prints text that does not come from hosts: it must not load cli, which takes half a second."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from netsonde.cli.output import json_text, visible

PACKAGE = Path(__file__).parents[2] / "agent" / "netsonde"
PRINTERS = {PACKAGE / "cli" / "output.py", PACKAGE / "extcap.py"}
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}


def writes_text(node: ast.AST) -> bool:
    """Returns whether this calls print(), or write() of sys.stdout or sys.stderr."""
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id == "print"
    called = node.func
    return (
        isinstance(called, ast.Attribute)
        and called.attr in ("write", "writelines")
        and isinstance(called.value, ast.Attribute)
        and called.value.attr in STREAMS
    )


def test_only_one_module_prints() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in sorted(set(PACKAGE.rglob("*.py")) - PRINTERS)
        for node in ast.walk(ast.parse(path.read_text()))
        if writes_text(node) and isinstance(node, ast.Call)
    ]
    assert found == []


@pytest.mark.parametrize(
    "one",
    [
        "\x00",
        "\x1b",
        "\x7f",
        "\x9b",
        "\u061c",
        "\u200f",
        "\u202e",
        "\u2066",
        "\u2028",
        "\U000e0001",
    ],
    ids=lambda one: f"U+{ord(one):04X}",
)
def test_unprintable_characters_do_not_reach_the_terminal(one: str) -> None:
    assert visible(f"a{one}b") == "a\ufffdb"
    text = json_text({"x": f"a{one}b→"})
    assert text.isprintable()
    assert json.loads(text) == {"x": f"a{one}b→"}
