"""CMS structures: strict DER, and hostile bytes end in MalformedSignatureError."""

from __future__ import annotations

import base64
import contextlib
import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netsonde.firmware import cms
from netsonde.firmware.verdict import MalformedSignatureError
from netsonde.firmware.verify import understand
from signing import CONTENT_TYPE, DATA, MESSAGE_DIGEST, SIGNED_DATA, der

SHA256 = bytes.fromhex("0609608648016503040201")
SHA1 = bytes.fromhex("06052b0e03021a")
ECDSA_SHA256 = bytes.fromhex("06082a8648ce3d040302")
ECDSA_SHA384 = bytes.fromhex("06082a8648ce3d040303")
VERSION = bytes.fromhex("020101")
DIGEST = hashlib.sha256(b"firmware").digest()
CONTENT_TYPE_ATTRIBUTE = der(0x30, CONTENT_TYPE, der(0x31, DATA))
DIGEST_ATTRIBUTE = der(0x30, MESSAGE_DIGEST, der(0x31, der(0x04, DIGEST)))


def pem(data: bytes) -> bytes:
    """With PEM labels, any bytes reach the CMS parser."""
    return b"-----BEGIN CMS-----\n" + base64.encodebytes(data) + b"-----END CMS-----\n"


def signed_data(
    *attributes: bytes, digest: bytes = SHA256, scheme: bytes = ECDSA_SHA256, signers: int = 1
) -> bytes:
    info = der(0x30, VERSION, der(0x30), der(0x30, digest), der(0xA0, *attributes),
               der(0x30, scheme), der(0x04, b"signature"))  # fmt: skip
    data = der(0x30, VERSION, der(0x31), der(0x30, DATA), der(0x31, *[info] * signers))
    return der(0x30, SIGNED_DATA, der(0xA0, data))


GOOD = signed_data(CONTENT_TYPE_ATTRIBUTE, DIGEST_ATTRIBUTE)


def test_parse_returns_the_signer_with_the_attributes_as_signed() -> None:
    (signer,) = cms.parse(GOOD).signers
    assert signer == cms.Signer(
        scheme="ecdsa",
        hash="sha256",
        signature=b"signature",
        signed=der(0x31, CONTENT_TYPE_ATTRIBUTE, DIGEST_ATTRIBUTE),
        digest=DIGEST,
    )
    assert cms.parse(pem(GOOD)).signers == [signer]


@pytest.mark.parametrize(
    "encoded",
    [
        "",
        "30",
        "3001",
        "308000000000",  # indefinite length
        "30810100",  # a long length form where the short one fits
        "3082000100",
        "3085000000000100",
        "300000",  # trailing bytes
        "1f8101",  # a tag of several bytes
    ],
)
def test_parse_rejects_malformed_der(encoded: str) -> None:
    with pytest.raises(MalformedSignatureError):
        cms.parse(bytes.fromhex(encoded))


@pytest.mark.parametrize("oid", ["0600", "060180", "0603808101", "06022a86"])
def test_parse_rejects_a_damaged_object_identifier(oid: str) -> None:
    with pytest.raises(MalformedSignatureError):
        cms.parse(GOOD.replace(SIGNED_DATA, bytes.fromhex(oid).ljust(len(SIGNED_DATA), b"\0")))


@pytest.mark.parametrize(
    "encoded",
    [
        GOOD + b"\0",
        GOOD[:-1],
        signed_data(),
        signed_data(CONTENT_TYPE_ATTRIBUTE),
        signed_data(DIGEST_ATTRIBUTE),
        signed_data(CONTENT_TYPE_ATTRIBUTE, DIGEST_ATTRIBUTE, DIGEST_ATTRIBUTE),
        signed_data(CONTENT_TYPE_ATTRIBUTE, DIGEST_ATTRIBUTE, digest=SHA1),
        signed_data(CONTENT_TYPE_ATTRIBUTE, DIGEST_ATTRIBUTE, scheme=ECDSA_SHA384),
        signed_data(CONTENT_TYPE_ATTRIBUTE, DIGEST_ATTRIBUTE, scheme=SHA256),
        signed_data(CONTENT_TYPE_ATTRIBUTE, DIGEST_ATTRIBUTE, signers=0),
        signed_data(CONTENT_TYPE_ATTRIBUTE, DIGEST_ATTRIBUTE, signers=cms.SIGNERS_MAX + 1),
        GOOD.replace(SIGNED_DATA, DATA, 1),
    ],
)
def test_parse_rejects_another_structure(encoded: bytes) -> None:
    with pytest.raises(MalformedSignatureError):
        cms.parse(encoded)


def test_signed_attributes_are_recognised_in_any_order() -> None:
    for attributes in (
        [CONTENT_TYPE_ATTRIBUTE, DIGEST_ATTRIBUTE],
        [DIGEST_ATTRIBUTE, CONTENT_TYPE_ATTRIBUTE],
    ):
        assert cms.is_signed_part(der(0x31, *attributes))
    assert not cms.is_signed_part(b"1.0 firmware")
    assert not cms.is_signed_part(der(0x31, bytes(1 << 16), DIGEST_ATTRIBUTE))


@given(st.binary(max_size=400))
@example(b"\x30\x80" + SIGNED_DATA + b"\xa0\x80")
@example(b"-----BEGIN CMS-----\nMAAA\n-----END CMS-----\n")
@example(b"untrusted comment: x\n\n\n\n")
def test_any_bytes_are_parsed_or_malformed(data: bytes) -> None:
    for tried in (data, b"\x30" + data, pem(data), b"untrusted comment: " + data):
        with contextlib.suppress(MalformedSignatureError):
            assert understand(tried)
    cms.is_signed_part(b"\x31" + data)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_byte_parses_or_is_malformed(position: int, change: int) -> None:
    changed = bytearray(GOOD)
    changed[position] ^= change
    with contextlib.suppress(MalformedSignatureError):
        assert cms.parse(bytes(changed)).signers
