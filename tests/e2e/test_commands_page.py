"""docs/commands.md: each example, typed in a fleet of two hosts, prints what the page shows."""

from __future__ import annotations

from pathlib import Path

from commands_page import PAGE, differences, examples, mask, run_all


def test_examples_print_what_the_page_shows(tmp_path: Path) -> None:
    wrong = []
    for example, printed in run_all(tmp_path):
        found = differences(example.shown, printed)
        if found:
            wrong.append("\n".join([f"$ {example.command}", *found]))
    assert wrong == [], "\n\n".join(wrong)


def test_comparison_notices_what_does_not_vary() -> None:
    shown = [
        "HOST  PACKETS  UPTIME",
        "web1  98  1m02s",
        "1 asked: 1 ok; request 1f59b982af724d72a6b8",
    ]
    printed = [
        "HOST   PACKETS  UPTIME",
        "web1  1.2k  21s",
        "1 asked: 1 ok; request 3d73dbd40e48499ab2a1",
    ]
    assert differences(shown, printed) == []
    assert differences(shown[:2], printed) == ["+ # asked: # ok; request *"]
    assert differences(["HOST  PACKETS", "…"], printed) == ["- HOST PACKETS"]
    assert differences([*shown[:1], "…"], printed) == []
    assert mask('{"packets":12}') == mask('{"packets":3}') != mask('{"bytes":3}')
    assert len(examples(PAGE.read_text())) >= 40
