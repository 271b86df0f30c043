"""Streamed Ed25519 against RFC 8032's vectors and against OpenSSL."""

from __future__ import annotations

import random

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from netsonde.firmware import ed25519

ORDER = 2**252 + 27742317777372353535851937790883648493
P = 2**255 - 19

# RFC 8032 §7.1: public key, message, signature.
VECTORS = {
    "TEST 1": (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
        "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "TEST 2": (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "TEST 3": (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
}

# Encodings of all points of order 1, 2, 4 and 8, as lists of weak keys have them.
SMALL_ORDER = (
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
)


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    hasher = ed25519.challenge(public, signature)
    for start in range(0, len(message), 7):
        hasher.update(message[start : start + 7])
    return ed25519.verify_challenge(public, signature, hasher.digest())


@pytest.mark.parametrize("name", VECTORS)
def test_the_vectors_of_the_rfc(name: str) -> None:
    public, message, signature = map(bytes.fromhex, VECTORS[name])
    assert verify(public, message, signature)
    assert not verify(public, message + b"x", signature)


def openssl(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def test_as_openssl_decides() -> None:
    """Right ones, and ones with a bit turned anywhere."""
    chance = random.Random(8032)
    for number in range(60):
        key = Ed25519PrivateKey.from_private_bytes(chance.randbytes(32))
        public = key.public_key().public_bytes_raw()
        message = chance.randbytes(number)
        signature = bytearray(key.sign(message))
        assert verify(public, message, bytes(signature))
        signature[chance.randrange(64)] ^= 1 << chance.randrange(8)
        assert verify(public, message, bytes(signature)) is openssl(
            public, message, bytes(signature)
        )


def test_s_is_taken_in_its_one_form() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public, signature = key.public_key().public_bytes_raw(), key.sign(b"m")
    s = int.from_bytes(signature[32:], "little")
    other = signature[:32] + (s + ORDER).to_bytes(32, "little")
    assert verify(public, b"m", signature)
    assert not verify(public, b"m", other)


@pytest.mark.parametrize("encoded", SMALL_ORDER)
def test_no_key_of_small_order(encoded: str) -> None:
    """With such a key, R = the key and S = 0 would hold for every second message or so."""
    public = bytes.fromhex(encoded)
    assert not ed25519.is_sound(public)
    neutral = bytes.fromhex(SMALL_ORDER[0])
    assert not any(verify(public, b"%d" % n, neutral + bytes(32)) for n in range(16))


def test_no_point_in_a_second_encoding() -> None:
    """y = 3 is a point's; p + 3 is the same number, and not its encoding."""
    small = next(y for y in range(2, 19) if ed25519.is_sound(y.to_bytes(32, "little")))
    assert not ed25519.is_sound((P + small).to_bytes(32, "little"))
    assert not ed25519.is_sound(bytes(31))
    off = next(
        y for y in range(2, 99) if not ed25519.is_sound(y.to_bytes(32, "little"))
    )  # no square root there
    assert not verify(off.to_bytes(32, "little"), b"", bytes(64))
