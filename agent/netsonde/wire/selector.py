"""Selectors: expressions that choose hosts by name, labels and facts. No I/O.

    site in (ams, fra) and role = web and not host ~ 'canary*' and fact.kernel >= 6.1

    expression  = and-group { "or" and-group }
    and-group   = term { "and" term }
    term        = "not" term | "(" expression ")" | test
    test        = name ("=" | "!=" | "~" | "!~" | "<" | "<=" | ">" | ">=") value
                | name [ "not" ] "in" "(" value { "," value } ")"
    name        = "host" | "fact." fact | [ "label." ] label

A value is a word or a quoted text. `~` matches a glob. The order of `<` and `>` compares digits as
numbers, so 6.10 is more than 6.9. A missing label or fact satisfies only `!=`, `!~` and `not in`.
A fact with several values satisfies a test if one of them does; with `!=`, `!~` and `not in`, if
none of them equals or matches. Clients and agents evaluate selectors with this code.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..errors import EXIT_USAGE, NetsondeError

LENGTH_MAX = 4096
DEPTH_MAX = 64
FACTS = ("arch", "backends", "cpus", "interfaces", "kernel", "memory_mb", "os", "version")
KEYWORDS = frozenset({"and", "or", "not", "in"})

Values = tuple[str, ...]


class SelectorError(NetsondeError):
    """A selector is malformed. The text shows where."""

    exit_code: ClassVar[int] = EXIT_USAGE


class Candidate(Protocol):
    """A host that a selector may choose."""

    @property
    def host(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def facts(self) -> Mapping[str, object]:
        """Numbers, strings and lists of them, by the names in FACTS."""


@dataclass(frozen=True, slots=True)
class Selector:
    """A parsed selector. text: as it was written."""

    text: str
    matches: Callable[[Candidate], bool]

    def __str__(self) -> str:
        return self.text


def parse(text: str) -> Selector:
    """Raises SelectorError."""
    if len(text) > LENGTH_MAX:
        raise SelectorError(f"The selector is longer than {LENGTH_MAX} characters.")
    parser = _Parser(text)
    matches = parser.expression()
    parser.end()
    return Selector(text, matches)


# ---- words ---------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<op> <=|>=|!=|!~|[=~<>(),] )
      | (?P<quoted> '(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" )
      | (?P<word> [A-Za-z0-9_.:*?/+@\[\]-]+ )
    )""",
    re.VERBOSE | re.DOTALL,
)
_LABEL = re.compile(r"[a-z0-9_-]+\Z")


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # "op", "quoted", "word" or "end"
    text: str
    position: int


def _tokens(text: str) -> list[_Token]:
    found, position = [], 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None:
            start = len(text) - len(text[position:].lstrip())
            raise _error(text, start, "unexpected character")
        kind = match.lastgroup or ""
        word = match[kind]
        if kind == "quoted":
            word = re.sub(r"\\(.)", r"\1", word[1:-1], flags=re.DOTALL)
        found.append(_Token(kind, word, match.start(kind)))
        position = match.end()
    return [*found, _Token("end", "", len(text.rstrip()))]


def _error(text: str, position: int, what: str) -> SelectorError:
    return SelectorError(f"selector, at character {position + 1}: {what}: {text!r}")


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *texts: str) -> str:
        """Consumes an operator or keyword; returns "" if another token follows."""
        token = self._token
        if token.kind in ("op", "word") and token.text in texts:
            self._next += 1
            return token.text
        return ""

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._unexpected(f"expected {text!r}")

    def _unexpected(self, what: str) -> SelectorError:
        return _error(self._text, self._token.position, what)

    def end(self) -> None:
        if self._token.kind != "end":
            raise self._unexpected("expected 'and', 'or' or the end")

    def expression(self) -> Callable[[Candidate], bool]:
        groups = [self._and_group()]
        while self._take("or"):
            groups.append(self._and_group())
        return groups[0] if len(groups) == 1 else lambda one: any(test(one) for test in groups)

    def _and_group(self) -> Callable[[Candidate], bool]:
        terms = [self._term()]
        while self._take("and"):
            terms.append(self._term())
        return terms[0] if len(terms) == 1 else lambda one: all(test(one) for test in terms)

    def _term(self) -> Callable[[Candidate], bool]:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._unexpected(f"more than {DEPTH_MAX} levels")
        try:
            if self._take("not"):
                term = self._term()
                return lambda one: not term(one)
            if self._take("("):
                inner = self.expression()
                self._expect(")")
                return inner
            return self._test()
        finally:
            self._depth -= 1

    def _test(self) -> Callable[[Candidate], bool]:
        read = self._name()
        operator = self._take("=", "!=", "~", "!~", "<", "<=", ">", ">=", "in", "not")
        if operator == "not":
            self._expect("in")
            wanted = frozenset(self._list())
            return lambda one: not any(value in wanted for value in read(one))
        if operator == "in":
            wanted = frozenset(self._list())
            return lambda one: any(value in wanted for value in read(one))
        if not operator:
            raise self._unexpected("expected =, !=, ~, !~, <, <=, >, >=, in or not in")
        return _compare(operator, read, self._value())

    def _name(self) -> Callable[[Candidate], Values]:
        token = self._token
        if token.kind != "word" or token.text in KEYWORDS:
            raise self._unexpected("expected host, a label or fact.NAME")
        name = token.text
        if name == "host":
            read: Callable[[Candidate], Values] = _read_host
        elif name.startswith("fact."):
            fact = name.removeprefix("fact.")
            if fact not in FACTS:
                raise self._unexpected(f"unknown fact; the facts are {', '.join(FACTS)}")
            read = _fact_reader(fact)
        else:
            label = name.removeprefix("label.")
            if not _LABEL.match(label):
                raise self._unexpected("a label has only a-z, 0-9, '_' and '-'")
            read = _label_reader(label)
        self._next += 1
        return read

    def _list(self) -> Sequence[str]:
        self._expect("(")
        values = [self._value()]
        while self._take(","):
            values.append(self._value())
        self._expect(")")
        return values

    def _value(self) -> str:
        token = self._token
        if token.kind == "quoted" or (token.kind == "word" and token.text not in KEYWORDS):
            self._next += 1
            return token.text
        raise self._unexpected("expected a value; quote it if it has other characters")


# ---- tests ---------------------------------------------------------------------------------


def _read_host(one: Candidate) -> Values:
    return (one.host,)


def _label_reader(name: str) -> Callable[[Candidate], Values]:
    def read(one: Candidate) -> Values:
        value = one.labels.get(name)
        return () if value is None else (value,)

    return read


def _fact_reader(name: str) -> Callable[[Candidate], Values]:
    def read(one: Candidate) -> Values:
        value = one.facts.get(name)
        if value is None or value == "":
            return ()
        return tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)

    return read


def _compare(
    operator: str, read: Callable[[Candidate], Values], wanted: str
) -> Callable[[Candidate], bool]:
    if operator in ("=", "!="):
        equal = operator == "="
        return lambda one: (wanted in read(one)) is equal
    if operator in ("~", "!~"):
        pattern, like = re.compile(fnmatch.translate(wanted)), operator == "~"
        return lambda one: any(map(pattern.match, read(one))) is like
    limit = version_key(wanted)
    order: dict[str, Callable[[Values], bool]] = {
        "<": lambda values: any(version_key(value) < limit for value in values),
        "<=": lambda values: any(version_key(value) <= limit for value in values),
        ">": lambda values: any(version_key(value) > limit for value in values),
        ">=": lambda values: any(version_key(value) >= limit for value in values),
    }
    satisfied = order[operator]
    return lambda one: satisfied(read(one))


def version_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Returns a sort key in which runs of digits are numbers: 6.9 < 6.10-rc1 < 6.10.1. A number is
    compared by its length and its digits, so that it may have any length."""
    runs = re.findall(r"[0-9]+|[^0-9.]+", text)
    numbers = [run.lstrip("0") if run.isdecimal() else None for run in runs]
    return tuple(
        (0, 0, run) if number is None else (1, len(number), number)
        for run, number in zip(runs, numbers, strict=True)
    )
