"""Writes the man pages of netsonde(1) and of each command, from the command line's own help.

python deploy/packages/man_pages.py DIRECTORY
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

# Lines of help must be as wide for every builder.
os.environ["COLUMNS"] = "80"

from argparse_manpage.manpage import Manpage

from netsonde import __version__
from netsonde.cli import EPILOG, build_parser
from netsonde.cli.examples import EXAMPLES

MACROS = r"\.(?:TH|SH|SS|TP|B|RS|RE|nf|fi)\b"
ALIGNED = re.compile(r"^(?:.+\n)*?(?:  \S|\S+  ).*\n(?:.+\n)*", re.MULTILINE)


def page(
    parser: argparse.ArgumentParser, name: str, summary: str, sections: Mapping[str, str]
) -> str:
    """Returns the text of a page. sections: those after the options, by heading."""
    for one in (parser, *actions(parser).values()):
        one.epilog = None  # examples and exit codes have sections
    made = Manpage(parser, format="single-commands-section")
    made.prog = made.mf._prog = name
    made.description = summary
    made.source, made.manual = f"netsonde {__version__}", "netsonde"
    for heading, content in sections.items():
        made.add_section(heading, ">", content)
    title, _, rest = str(made).partition("\n")
    start, opening, rest = rest.partition("\n.SH DESCRIPTION\n")
    description, closing, rest = rest.partition("\n.SH")
    # The formatter would fill lines whose columns are aligned.
    description = ALIGNED.sub(r".nf\n\g<0>.fi\n", f"{description}\n")
    text = title.replace("\\-", "-") + "\n" + start + opening + description + closing + rest
    text = text.replace(".SH\nPOSITIONAL ARGUMENTS", ".SH COMMANDS")
    text = text.replace(f".SS \\fB{name.replace('-', chr(92) + '-')} ", f".SS \\fB{parser.prog} ")
    # The text of a line that starts with a quote or a dot is not a request to the formatter.
    return re.sub(rf"^(?!{MACROS})(?=[.'])", r"\\&", text, flags=re.MULTILINE)


def verbatim(lines: Iterable[str]) -> str:
    text = "\n".join(lines).replace("\\", "\\e").replace("-", "\\-")
    return f".nf\n{text}\n.fi"


def examples(name: str, command: argparse.ArgumentParser) -> str:
    """Lists the examples of a command and of its actions."""
    names = (name, *(f"{name} {action}" for action in actions(command)))
    return verbatim(example for one in names for example in EXAMPLES[one])


def actions(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """Returns the commands of a group."""
    return {
        name: inner
        for one in parser._actions
        if isinstance(one, argparse._SubParsersAction)
        for name, inner in one.choices.items()
    }


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
        after = {"examples": examples(name, command), "see also": "\\fBnetsonde\\fR(1)"}
        yield title, page(command, title, summaries[name], after)
    # The pages of the commands have their options: this page has one line for each.
    action._name_parser_map.clear()
    listed = "".join(
        f".TP\n\\fBnetsonde\\-{name}\\fR(1)\n{text}\n" for name, text in summaries.items()
    )
    codes = EPILOG.partition(": ")[2].replace("\n", " ").strip(" .").split("; ")
    after = {"commands": listed, "exit status": verbatim(codes), "see also": references}
    text = page(parser, "netsonde", "packet capture and flow metering", after)
    yield "netsonde", text.replace(".SH COMMANDS\n", "", 1)  # an empty section


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for title, text in pages():
        (directory / f"{title}.1").write_text(text)
