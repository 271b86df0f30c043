"""Writes the man pages of netsonde(1) and of each command, from the command line's own help.

python deploy/packages/man_pages.py DIRECTORY
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

# Lines of help must be as wide for every builder.
os.environ["COLUMNS"] = "80"

from argparse_manpage.manpage import Manpage

from netsonde import __version__
from netsonde.cli import build_parser

MACROS = r"\.(?:TH|SH|SS|TP|B|RS|RE|nf|fi)\b"


def page(parser: argparse.ArgumentParser, name: str, summary: str, see_also: str) -> str:
    made = Manpage(parser, format="single-commands-section")
    made.prog = made.mf._prog = name
    made.description = summary
    made.source, made.manual = f"netsonde {__version__}", "netsonde"
    made.add_section("see also", ">", see_also)
    # The text of a line that starts with a quote or a dot is not a request to the formatter.
    return re.sub(rf"^(?!{MACROS})(?=[.'])", r"\\&", str(made), flags=re.MULTILINE)


def commands(
    parser: argparse.ArgumentParser,
) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    (found,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return found


def pages() -> Iterator[tuple[str, str]]:
    """Yields the name and the text of each page."""
    parser = build_parser()
    action = commands(parser)
    summaries = {one.dest: (one.help or "").rstrip(".") for one in action._choices_actions}
    references = ", ".join(f"\\fBnetsonde\\-{name}\\fR(1)" for name in sorted(summaries))
    for name, command in action.choices.items():
        title = f"netsonde-{name}"
        yield title, page(command, title, summaries[name], "\\fBnetsonde\\fR(1)")
    # The pages of the commands have their options: this page has one line for each.
    action._name_parser_map.clear()
    listed = "".join(
        f".TP\n\\fBnetsonde\\-{name}\\fR(1)\n{text}\n" for name, text in summaries.items()
    )
    # argparse-manpage reads this attribute, which argparse does not declare.
    parser._manpage = [{"heading": "commands", "content": listed}]  # type: ignore[attr-defined]
    text = page(parser, "netsonde", "packet capture and flow metering", references)
    yield "netsonde", text.replace(".SH\nPOSITIONAL ARGUMENTS\n", "")  # an empty section


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for title, text in pages():
        (directory / f"{title}.1").write_text(text)
