"""The language check itself: every rule has a bad and a good example; code is left out."""

from __future__ import annotations

from pathlib import Path

import language
import pytest


def kind(rule: language.Rule) -> str:
    return sorted(rule.kinds)[0] if rule.kinds else "text"


@pytest.mark.parametrize("rule", language.RULES, ids=lambda rule: rule.bad)
def test_rule_rejects_its_bad_example_and_accepts_the_good_one(rule: language.Rule) -> None:
    bad = list(language.check(language.Prose(kind(rule), [(7, rule.bad)])))
    assert (7, rule.write) in [(line, write) for line, _, write in bad]
    assert list(language.check(language.Prose(kind(rule), [(7, rule.good)]))) == []


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.py", "x = {'@': y is None}  # {}\n", [1]),
        ("a.py", "def test_starts_{}() -> None:\n    pass\n", [1]),
        ("a.py", 'def f() -> None:\n    """Text.\n\n    More {}.\n    """\n', [4]),
        ("a.py", 'raise E(\n    "at first"\n    " {}"\n)\n', [3]),
        ("a.py", 'x = f"a {y} {}"\n', [1]),
        ("a.c", 'int @; /* one\n * two {}\n */\nf("a {}"); // {}\n', [2, 4, 4]),
        ("a.md", "# {}\n\n`@` {}\n\n```\n@\n```\n\n| a | {} |\n", [1, 3, 9]),
        ("Makefile", "all: ## {}\n\techo @\n\techo 'a {}'\n", [1, 3]),
        ("run.sh", '#!/bin/sh\n@ # {}\necho "a {}"\n', [2, 3]),
        ("a.toml", '# {}\n@ = "a {}"\n', [1, 2]),
        ("a.yml", "name: {}\n", [1]),
        ("a.service", "[Unit]\nDescription={}\n", [2]),
        ("COMMIT_EDITMSG", "Start {}\n\nBody {}\n# @\n", [1, 3]),
    ],
)
def test_only_prose_is_checked(tmp_path: Path, name: str, text: str, lines: list[int]) -> None:
    file = tmp_path / name
    word = "an" + "ew"
    file.write_text(text.replace("@", word).replace("{}", word))
    assert sorted(hit.line for hit in language.hits(file)) == lines


def test_a_phrase_is_found_across_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.c"
    file.write_text("/* all the\n * sa" + "me\n */\n")
    assert [hit.line for hit in language.hits(file)] == [1]


def test_a_long_table_cell_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    words = "word " * language.CELL_WORDS_MAX
    file.write_text(f"| {words}|\n|---|\n| {words} `one more` |\n")
    assert [hit.line for hit in language.hits(file)] == [3]


def test_every_file_follows_the_language_rules() -> None:
    found = [
        str(hit)
        for path in language.tracked()
        if path.is_file()
        for hit in language.hits(path, str(path.relative_to(language.REPOSITORY)))
    ]
    assert not found, "\n" + "\n".join(found)
