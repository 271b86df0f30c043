"""Reading DER: just what a CMS signature is made of.

Strict (X.690 §10): definite lengths in their shortest form, nothing behind the end. What
does not fit raises DerError; no input can make it recurse or allocate more than it is long.
"""

from __future__ import annotations

from dataclasses import dataclass

INTEGER, OCTET_STRING, NULL, OID = 0x02, 0x04, 0x05, 0x06
SEQUENCE, SET = 0x30, 0x31


class DerError(Exception):
    """Not DER, or not the structure that was looked for."""


def context(number: int) -> int:
    """The tag of a constructed [number]."""
    return 0xA0 | number


@dataclass(frozen=True, slots=True)
class Element:
    """`whole` is the encoding with tag and length, `content` what is in it."""

    tag: int
    content: bytes
    whole: bytes

    def children(self) -> list[Element]:
        found = []
        rest = self.content
        while rest:
            element, rest = _take(rest)
            found.append(element)
        return found

    def expect(self, tag: int) -> Element:
        if self.tag != tag:
            raise DerError(f"tag {self.tag:#04x} where {tag:#04x} belongs")
        return self


class Reader:
    """Goes through the elements of one structure in order."""

    def __init__(self, element: Element, tag: int) -> None:
        self._rest = element.expect(tag).children()

    def take(self, tag: int) -> Element:
        if not self._rest:
            raise DerError("an element is missing")
        return self._rest.pop(0).expect(tag)

    def take_any(self) -> Element:
        if not self._rest:
            raise DerError("an element is missing")
        return self._rest.pop(0)

    def optional(self, tag: int) -> Element | None:
        return self._rest.pop(0) if self._rest and self._rest[0].tag == tag else None


def parse(data: bytes) -> Element:
    element, rest = _take(data)
    if rest:
        raise DerError("bytes behind the end")
    return element


def oid(element: Element) -> str:
    """In dots."""
    content = element.expect(OID).content
    numbers, value = [], 0
    for octet in content:
        if value == 0 and octet == 0x80:
            raise DerError("an object identifier that is not in its shortest form")
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            numbers.append(value)
            value = 0
    if not numbers or content[-1] & 0x80 or len(content) > 32:
        raise DerError("a damaged object identifier")
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, [first, numbers[0] - 40 * first, *numbers[1:]]))


def _take(data: bytes) -> tuple[Element, bytes]:
    if len(data) < 2 or data[0] & 0x1F == 0x1F:
        raise DerError("cut off, or a tag of many bytes")
    length, start = data[1], 2
    if length & 0x80:
        count = length & 0x7F
        start += count
        length = int.from_bytes(data[2:start], "big")
        if not 1 <= count <= 4 or len(data) < start or data[2] == 0 or length < 0x80:
            raise DerError("a length that is indefinite or not in its shortest form")
    end = start + length
    if len(data) < end:
        raise DerError("cut off")
    return Element(data[0], data[start:end], data[:end]), data[end:]
