"""The DER reader: strict, and never more than an error on hostile bytes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netsonde.firmware import cms_form, der
from netsonde.firmware.der import DerError
from netsonde.firmware.verdict import MalformedSignatureError
from netsonde.firmware.verify import understand


@pytest.mark.parametrize(
    "encoded",
    [
        "",
        "30",
        "3001",
        "308000000000",  # indefinite
        "30810100",  # a long form where the short one would do
        "3082000100",
        "3085000000000100",
        "300000",  # something behind
        "1f8101",  # a tag of many bytes
    ],
)
def test_what_is_no_der(encoded: str) -> None:
    with pytest.raises(DerError):
        der.parse(bytes.fromhex(encoded))


def test_elements_in_order() -> None:
    reader = der.Reader(der.parse(bytes.fromhex("3008020105a003040107")), der.SEQUENCE)
    assert reader.take(der.INTEGER).content == b"\x05"
    assert reader.optional(der.context(1)) is None
    assert reader.take(der.context(0)).children()[0].content == b"\x07"
    with pytest.raises(DerError):
        reader.take(der.NULL)


@pytest.mark.parametrize(
    ("encoded", "dots"),
    [("06092a864886f70d010702", "1.2.840.113549.1.7.2"), ("06032b6570", "1.3.101.112")],
)
def test_object_identifiers(encoded: str, dots: str) -> None:
    assert der.oid(der.parse(bytes.fromhex(encoded))) == dots


@pytest.mark.parametrize("encoded", ["0600", "060180", "0603808101", "0602 2a86"])
def test_damaged_object_identifiers(encoded: str) -> None:
    with pytest.raises(DerError):
        der.oid(der.parse(bytes.fromhex(encoded)))


@given(st.binary(max_size=400))
@example(b"\x30\x80" + bytes.fromhex("06092a864886f70d010702") + b"\xa0\x80")
@example(b"-----BEGIN CMS-----\nMAAA\n-----END CMS-----\n")
@example(b"untrusted comment: x\n\n\n\n")
def test_any_bytes_are_understood_or_malformed(data: bytes) -> None:
    for tried in (data, b"\x30" + data, b"untrusted comment: " + data):
        with contextlib.suppress(MalformedSignatureError):
            assert understand(tried)
    cms_form.is_signed_part(b"\x31" + data)
