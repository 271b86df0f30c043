"""Ed25519 over the file itself: RFC 8032's vectors, unsound keys, altered signatures."""

from __future__ import annotations

import base64
import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from netsonde.firmware import blob, keys, verdict

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

# All points of order 1, 2, 4 and 8, from published lists of weak keys.
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


def pem(public: bytes) -> bytes:
    key = Ed25519PublicKey.from_public_bytes(public)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def judge(public: bytes, message: bytes, signature: bytes) -> verdict.Verdict:
    """Feeds the message in pieces of 7 bytes. The key skips the checks of `keys.parse`."""
    public_key = Ed25519PublicKey.from_public_bytes(public)
    trusted = keys.TrustedKeys([keys.Key("id", "ed25519", public_key, "key.pem")])
    claim = blob.Blob(signature)
    hashers = claim.hashers(trusted)
    for start in range(0, len(message), 7):
        for hasher in hashers.values():
            hasher.update(memoryview(message)[start : start + 7])
    made = {name: hasher.digest() for name, hasher in hashers.items()}
    digests = {name: digest for name, digest in made.items() if digest is not None}
    return claim.judge(trusted, digests, verdict.Rules())


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    return judge(public, message, signature).key is not None


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_of_rfc_8032_verify(name: str) -> None:
    public, message, signature = map(bytes.fromhex, VECTORS[name])
    assert verify(public, message, signature)
    assert not verify(public, message + b"x", signature)
    assert [key.kind for key in keys.parse(pem(public), "key.pem")] == ["ed25519"]


def test_a_signature_with_one_changed_bit_is_rejected() -> None:
    chance = random.Random(8032)
    for number in range(60):
        key = Ed25519PrivateKey.from_private_bytes(chance.randbytes(32))
        public = key.public_key().public_bytes_raw()
        message = chance.randbytes(number)
        signature = bytearray(key.sign(message))
        assert verify(public, message, bytes(signature))
        signature[chance.randrange(64)] ^= 1 << chance.randrange(8)
        assert not verify(public, message, bytes(signature))


def test_s_at_or_above_the_order_is_rejected() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public, signature = key.public_key().public_bytes_raw(), key.sign(b"m")
    s = int.from_bytes(signature[32:], "little")
    other = signature[:32] + (s + ORDER).to_bytes(32, "little")
    assert verify(public, b"m", signature)
    assert not verify(public, b"m", other)


def test_r_in_a_second_encoding_is_rejected() -> None:
    """R = (0, 1) and its encoding with y + p. With S = 0 the equation holds for A = (0, 1)."""
    neutral = bytes.fromhex(SMALL_ORDER[0])
    assert not verify(neutral, b"m", (P + 1).to_bytes(32, "little") + bytes(32))


@pytest.mark.parametrize("encoded", SMALL_ORDER)
def test_a_key_of_small_order_is_never_trusted(encoded: str) -> None:
    """With such a key, R = the key and S = 0 hold for about every second message."""
    public = bytes.fromhex(encoded)
    flipped = public[:31] + bytes([public[31] ^ 0x80])  # the other sign of x
    for raw in (public, flipped):
        reject(raw)


def test_a_key_in_a_second_encoding_is_never_trusted() -> None:
    """RFC 8032 §5.1.3: y at or above p does not decode."""
    for small in range(19):
        reject((P + small).to_bytes(32, "little"))


def reject(raw: bytes) -> None:
    minisign = b"untrusted comment: key\n" + base64.b64encode(b"Ed" + bytes(8) + raw)
    for file in (pem(raw), minisign):
        with pytest.raises(keys.UnfitKeyError, match="small order"):
            keys.parse(file, "key")


def test_a_key_off_the_curve_verifies_nothing() -> None:
    """x² = (y² - 1) / (d·y² + 1) has no root for y = 2."""
    off = (2).to_bytes(32, "little")
    neutral = bytes.fromhex(SMALL_ORDER[0])
    assert not any(verify(off, b"%d" % n, neutral + bytes(32)) for n in range(16))
    assert not verify(off, b"", bytes(64))


def test_a_message_above_the_limit_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "MESSAGE_BYTES_MAX", 64)
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = key.public_key().public_bytes_raw()
    assert verify(public, bytes(64), key.sign(bytes(64)))
    # The dropped message must not count as an empty one.
    for signed in (bytes(65), b""):
        found = judge(public, bytes(65), key.sign(signed))
        assert found.key is None
        assert "too large" in found.message


def test_an_abandoned_verification_stops_before_the_next_key() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    trusted = keys.TrustedKeys([keys.Key("id", "ed25519", key.public_key(), "key.pem")])
    rules = verdict.Rules()
    rules.abandoned.set()
    with pytest.raises(verdict.AbandonedError):
        blob.Blob(key.sign(b"")).judge(trusted, {verdict.MESSAGE: b""}, rules)
