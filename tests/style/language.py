"""Checks prose against the language rules in CONTRIBUTING.md.

    python tests/style/language.py [PATH...]

Prints `file:line: "text": write …` for each hit and exits with 1 if there are any. Without
arguments it checks every file in git. Code is left out by tokenizing: only comments, strings that
contain a space, docstrings, test names and Markdown outside code remain. A file named
COMMIT_EDITMSG is checked as a commit message.

The phrases below contain "~", which is removed on loading, so that this file passes its own check.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
CELL_WORDS_MAX = 15


class Prose(NamedTuple):
    """A run of text: its kind and its lines, each with its number."""

    kind: str  # comment, docstring, string, name, text, cell or subject
    lines: list[tuple[int, str]]


class Hit(NamedTuple):
    path: str
    line: int
    text: str
    write: str

    def __str__(self) -> str:
        return f'{self.path}:{self.line}: "{self.text}": write {self.write}'


class Rule:
    """A pattern, its replacement, and one bad and one good example."""

    def __init__(
        self, pattern: str, write: str, bad: str, good: str, kinds: frozenset[str] | None = None
    ) -> None:
        self.pattern = re.compile(pattern.replace("~", ""), re.IGNORECASE)
        self.write = write
        self.bad = bad.replace("~", "")
        self.good = good
        self.kinds = kinds  # None: all


BE = "(?:is|are|was|were|be|been|being)"
# fmt: off
PEOPLE = [
    "administrator", "anybody", "anyone", "attacker", "author", "caller", "client", "contributor",
    "developer", "everyone", "maintainer", "newcomer", "operator", "owner", "peer", "people",
    "person", "reader", "someone", "those", "user",
]
# fmt: on
NO_PERSON = "".join(rf"(?<!\b{noun} )(?<!\b{noun}s )" for noun in PEOPLE)
DOCSTRING = frozenset({"docstring"})
OPENING = frozenset({"docstring", "comment"})
SUBJECT = frozenset({"subject"})

RULES = [
    Rule(rf"\b{BE} (?-i:no~ne)\b", "invalid, malformed, missing, not a …",
         "the answer is no~ne", "the answer is malformed"),
    Rule(r"(?<!or )\bfo~r what\b", "name the thing",
         "None fo~r what has no name", "None if the name is missing"),
    Rule(r"\b(?:te~lls?|te~lling|to~ld)\b", "report, log, warn, count",
         "the log te~lls of a loss", "the log reports a loss"),
    Rule(rf"{NO_PERSON}\bwh~o\b(?! (?:am|are you)\b)", "the caller, the agent, a reader",
         "wh~o asks gets an answer", "the caller gets an answer; users who need it"),
    Rule(r"\b(?:who~m|who~ever|who~soever)\b", "the caller, the agent, a reader",
         "wh~om a session exports to", "the collectors of a session"),
    Rule(r"\bof (?:its|their|his|her|our|your|one's) ow~n\b", "its own, separate",
         "a thread of its ow~n", "its own thread"),
    Rule(r"\b(?:by|of) (?:its~elf|thems~elves)\b", "automatically, separately, alone",
         "the agent reconnects by its~elf", "the agent reconnects automatically"),
    Rule(r"\ban~ew\b", "again", "it starts an~ew", "it starts again"),
    Rule(r"\ball the sa~me\b", "still", "the packet is counted all the sa~me",
         "the packet is still counted"),
    Rule(r"\bat ha~nd\b", "available", "a library at ha~nd", "an available library"),
    Rule(r"\bin tur~ns\b", "alternately", "runs in tur~ns", "runs alternately"),
    Rule(r"^(?:Let|Te~ll|Refuse what)\b", "Allow, Make, Fix, Report, Reject",
         "Let status find its capture", "Keep status working while a capture is reopened", SUBJECT),
    Rule(r"^.{73,}", "a subject of at most 72 characters", "Fix " + "x" * 70, "Fix the replay",
         SUBJECT),
    Rule(r"\b(?:tak(?:es?|ing|en)|took)(?: (?:it|them|that|this))? ba~ck\b", "revert, undo",
         "the change is taken ba~ck", "the change is reverted"),
    Rule(r"\bgiv(?:es?|ing|en)(?: (?:it|them|that|this))? u~p\b|\bgave(?: (?:it|them))? u~p\b",
         "drop, abandon, stop", "the message is given u~p", "the message is dropped"),
    Rule(r"\b(?:go|goes|going|gone|went) o~n\b", "continue, resume",
         "capture goes o~n", "capture continues"),
    Rule(r"\b(?:hold|holds|holding|held)(?: (?:it|them|\w+ \w+))? u~p\b", "block, delay",
         "a slow disk holds u~p the reader", "a slow disk blocks the reader"),
    Rule(r"\b(?:let|lets|letting) g~o\b", "release",
         "the handle is let g~o", "the handle is released"),
    Rule(r"\b(?:may|might|must|need|can|could|should) not have be~en\b", "the positive statement",
         "it may not have be~en sent", "it is possibly unsent"),
    Rule(r"\bnot (?:un(?:usual|common|likely|known|like|able|necessary)|im(?:possible|probable)"
         r"|without|for no~thing|no~ne)\b", "the positive statement",
         "the host is not unk~nown", "the host is known"),
    Rule(r"\bbesi~des?\b", "also, next to, compared with", "besi~de the ring", "next to the ring"),
    Rule(r"\bof (?:many|several|some|both|two|three|four|eight|\d+|its|their) tur~ns?\b",
         "the concrete term, e.g. 8 runs",
         "a median of many tur~ns", "a median of 8 runs"),
    Rule(r"\bwhich is wh~at\b", "a separate sentence",
         "it waits, which is wh~at a reader wants", "It waits. A reader wants that"),
    Rule(r"\bas (?:it|they) (?:com~es?|ca~me)\b", "in order",
         "packets are read as they com~e", "packets are read in order"),
    Rule(r"\bto be (?:sa~id|ha~d)\b", "report, available",
         "there is nothing to be sa~id", "no warnings"),
    Rule(r"\bwhat (?:wai~ts|wai~ted|com~es|ca~me|as~ks|as~ked|was there|there w~as|lo~oks|goes)\b",
         "the noun: backlog, caller, messages", "what wai~ts is sent", "the backlog is sent"),
    Rule(r"\bthat whi~ch\b", "the noun", "that whi~ch was lost", "the lost records"),
    Rule(r"\bpati~ence\b", "timeout, deadline", "the caller's pati~ence", "the caller's timeout"),
    Rule(r"\b(?:leave|leaves|leaving|left)(?: \w+){0,2} alo~ne\b", "keep unchanged, ignore, skip",
         "the file is left alo~ne", "the file is unchanged"),
    Rule(r"\bwithout e~nd\b", "unlimited, longer than N", "a name without e~nd",
         "a name longer than 255 characters"),
    Rule(r"\bon purp~ose\b", "deliberately, expected",
         "it fails on purp~ose", "it fails deliberately"),
    Rule(r"\bin va~in\b", "without a result, failed", "300 polls in va~in", "300 empty polls"),
    Rule(r"\bse~(?:e|es|en|eing) to (?:it|that)\b|\bse~es to\b", "ensure", "it se~es to that",
         "it ensures that"),
    Rule(r"\bno~ught\b|\bnay\b|\bthere~(?:of|upon|to)\b|\bwhere~(?:of|upon|to)\b|\bhence~forth\b",
         "a current word", "it is no~ught", "it is 0"),
    Rule(r"\b(?:that|which|what|whose \w+|it|this) (?:is|are|was|were) n~o"
         r" (?!more\b|longer\b|such\b|other\b|need\b|way\b|room\b|limit\b)\w",
         "is not a …, malformed",
         "a subject that is n~o text", "a subject that is not UTF-8; a port that is no longer up"),
    Rule(r"(?-i:(?<=[.;:] )Wha~t) (?:is|was|are|were|has|had|cannot|could)\b", "the noun",
         "It ends. Wha~t is left is sent", "It ends. The backlog is sent"),
    Rule(r"\b(?:come|comes|came) o~f (?:it|that|them)\b", "result", "nothing can come o~f it",
         "it has no result"),
    Rule(r"\b(?:stand|stands|stood|standing) sti~ll\b", "hang, block", "a bus that stands sti~ll",
         "a blocked bus"),
    Rule(r"\b(?:be|is|are|was|were) don~e with\b", "sent, processed, released",
         "all records are don~e with", "all records are sent"),
    Rule(r"\bfor ev~er\b", "without a limit, forever", "it waits for ev~er", "it waits forever"),
    Rule(r"^(?:of|as|what|who|whom|whose)\b", "a verb or a noun phrase first",
         "Of the ring", "The size of the ring", OPENING),
    Rule(r"^(?:which|that|than|and|or|but|nor|because)\b", "a verb or a noun phrase first",
         "Which a session has", "The settings of a session", DOCSTRING),
]  # fmt: skip

CELL = f"at most {CELL_WORDS_MAX} words in a table cell"
BACKTICKS = re.compile(r"(`+)[^`]+?\1")
FILE_NAME = re.compile(r"^[\w./-]+\.(?:c|h|py|sh)\s*(?::|-|–|—)\s+")


def hits(path: Path, name: str = "") -> list[Hit]:
    """The hits in a file, in order. name: how the file is called in the output."""
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        return []
    found = [
        Hit(name or str(path), line, shown, write)
        for prose in parts(path, text)
        for line, shown, write in check(prose)
    ]
    return sorted(set(found), key=lambda hit: hit.line)


def check(prose: Prose) -> Iterator[tuple[int, str, str]]:
    """Yields (line, text, suggestion) for each rule that a run of text breaks."""
    starts, joined = [], ""
    for _, line in prose.lines:
        starts.append(len(joined))
        joined += line.strip() + " "  # phrases wrap over lines
    joined = BACKTICKS.sub(lambda code: "X" * (code.end() - code.start()), joined)
    if prose.kind in OPENING:  # a head "file.c: …" starts after the name
        joined = FILE_NAME.sub(lambda head: " " * head.end(), joined)
    skipped = len(joined) - len(joined.lstrip())
    for rule in RULES:
        if rule.kinds is not None and prose.kind not in rule.kinds:
            continue
        for match in rule.pattern.finditer(joined[skipped:]):
            at = match.start() + skipped
            index = max(i for i, start in enumerate(starts) if start <= at)
            end = match.end() + skipped
            before = joined[max(0, at - 40) : at].partition(" ")[2] if at > 40 else joined[:at]
            after = joined[end : end + 40].rpartition(" ")[0]
            around = " ".join((before + joined[at:end] + after).split())
            yield prose.lines[index][0], around, rule.write
    if prose.kind == "cell" and len(re.findall(r"\S*\w\S*", joined)) > CELL_WORDS_MAX:
        yield prose.lines[0][0], joined.strip()[:60] + " …", CELL


def parts(path: Path, text: str) -> Iterator[Prose]:
    """Yields the prose of a file; nothing if its type is not known."""
    name, suffix = path.name, path.suffix
    if suffix == ".py":
        yield from python(text)
    elif suffix in {".c", ".h"}:
        yield from c(text)
    elif suffix == ".md":
        yield from markdown(text)
    elif name == "COMMIT_EDITMSG":
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        yield Prose("subject", [(1, lines[0] if lines else "")])
        yield from markdown("\n".join(["", *lines[1:]]))
    elif suffix in {".yml", ".yaml", ".service", ".example", ".sysusers", ".tmpfiles", ".1"}:
        yield from blocks("text", [(i, line, 0) for i, line in enumerate(text.splitlines(), 1)])
    elif suffix == ".json":
        yield from quoted(text)
    elif (
        suffix in {".toml", ".cmake", ".sh"}
        or name in {"Makefile", "CMakeLists.txt"}
        or name.startswith(".")
        or text.startswith("#!")
    ):
        yield from hashed(text)


def blocks(kind: str, found: list[tuple[int, str, int]]) -> Iterator[Prose]:
    """Joins neighbouring lines of the same column, each given as (number, text, column)."""
    run: list[tuple[int, str]] = []
    before = (0, 0)
    for number, text, column in found:
        if run and (number, column) != (before[0] + 1, before[1]):
            yield Prose(kind, run)
            run = []
        if text.strip():
            run.append((number, text))
            before = (number, column)
    if run:
        yield Prose(kind, run)


def numbered(text: str, first: int) -> list[tuple[int, str]]:
    return list(enumerate(text.split("\n"), first))


def python(text: str) -> Iterator[Prose]:
    """Comments, docstrings, strings and test names of a Python file."""
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings.add((first.lineno, first.col_offset))
    comments: list[tuple[int, str, int]] = []
    strings: list[tuple[int, str]] = []  # adjacent literals are one string
    word = ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line, column = token.start
        if token.type == tokenize.COMMENT:
            comments.append((line, token.string.lstrip("#:! "), column))
        elif token.type == tokenize.STRING or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            bare = re.sub(r"^\w{0,2}(\"\"\"|'''|\"|')|(\"\"\"|'''|\"|')$", "", token.string)
            if token.start in docstrings:
                yield Prose("docstring", numbered(bare, line))
            else:
                strings += numbered(bare.replace("\\n", "  "), line)
        elif token.type not in {tokenize.NL, tokenize.NEWLINE}:
            if any(" " in part.strip() for _, part in strings):
                yield Prose("string", strings)
            strings = []
            if token.type == tokenize.NAME and word == "def" and token.string.startswith("test_"):
                yield Prose("name", [(line, token.string.replace("_", " "))])
        if token.type == tokenize.NAME:
            word = token.string
    yield from blocks("comment", comments)


C_TOKEN = re.compile(
    r"/\*(?P<block>.*?)\*/|//(?P<line>[^\n]*)|(?P<string>\"(?:\\.|[^\"\\\n])*\")|'(?:\\.|[^'\\\n])+'",
    re.DOTALL,
)


def c(text: str) -> Iterator[Prose]:
    """Comments and strings of a C file."""
    comments: list[tuple[int, str, int]] = []
    strings: list[tuple[int, str]] = []
    end = 0
    for match in C_TOKEN.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        column = match.start() - text.rfind("\n", 0, match.start())
        if strings and (match["string"] is None or text[end : match.start()].strip()):
            yield Prose("string", strings)
            strings = []
        if match["block"] is not None:
            bare = [
                re.sub(r"^\s*\*+ ?", "", part) for part in match["block"].strip("*").split("\n")
            ]
            yield Prose("comment", list(enumerate(bare, line)))
        elif match["line"] is not None:
            comments.append((line, match["line"].lstrip("/ "), column))
        elif match["string"] is not None and " " in match["string"].strip('" '):
            strings.append((line, match["string"][1:-1].replace("\\n", "  ")))
        end = match.end()
    if strings:
        yield Prose("string", strings)
    yield from blocks("comment", comments)


def markdown(text: str) -> Iterator[Prose]:
    """Paragraphs and table cells outside fenced code; `code` counts as one word."""
    fence = ""
    run: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        opened = re.match(r"(```+|~~~+)", bare)
        if opened and (not fence or bare.startswith(fence)):
            fence = "" if fence else opened[1]
        cells = bare.startswith("|")
        if run and (fence or opened or cells or not bare):
            yield Prose("text", run)
            run = []
        if fence or opened or not bare:
            continue
        plain = re.sub(r"\]\([^)\s]*\)", "]", line)
        if cells:
            plain = BACKTICKS.sub("X", plain).replace(r"\|", "/")
            for cell in plain.strip().strip("|").split("|"):
                yield Prose("cell", [(number, cell)])
        else:
            run.append((number, plain))
    if run:
        yield Prose("text", run)


def quoted(text: str) -> Iterator[Prose]:
    for match in re.finditer(r'"((?:\\.|[^"\\\n])*)"|\'([^\'\n]*)\'', text):
        bare = match[1] or match[2] or ""
        if " " in bare.strip():
            yield Prose("string", [(text.count("\n", 0, match.start()) + 1, bare)])


def hashed(text: str) -> Iterator[Prose]:
    """Comments that start with # and quoted strings: shell, make, TOML, CMake, ini."""
    comments, code = [], []
    for number, line in enumerate(text.splitlines(), 1):
        match = re.search(r"(?:^|(?<=\s))#+(?=[\s\w:]|$)(.*)$", line)
        if match and not line.startswith("#!"):
            column = match.start() if not line[: match.start()].strip() else -number
            comments.append((number, match[1].strip(), column))
        code.append(line[: match.start()] if match else line)
    yield from blocks("comment", comments)
    yield from quoted("\n".join(code))


def tracked() -> list[Path]:
    """Files in git, and new files that git does not ignore."""
    listed = subprocess.run(
        ["git", "-C", str(REPOSITORY), "ls-files", "-coz", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    return sorted(REPOSITORY / name for name in set(listed) if name)


def main(arguments: list[str]) -> int:
    paths = []
    for argument in arguments:
        path = Path(argument).absolute()
        if not path.exists():
            print(f"no such file: {argument}", file=sys.stderr)
            return 2
        paths += [f for f in tracked() if path in f.parents] if path.is_dir() else [path]
    count = 0
    for path in paths if arguments else tracked():
        if path.is_file():
            inside = path.is_relative_to(REPOSITORY)
            for hit in hits(path, str(path.relative_to(REPOSITORY)) if inside else str(path)):
                print(hit)
                count += 1
    if count:
        print(f"{count} hits; the rules are in CONTRIBUTING.md", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
