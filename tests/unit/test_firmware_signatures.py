"""Signatures by openssl, minisign and cryptography: valid, altered, untrusted and confused ones."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from netsonde.config.sections import FirmwareSection
from netsonde.errors import NotFound, PathNotAllowed
from netsonde.firmware import keys, verify
from netsonde.firmware.cms import parse as parse_cms
from netsonde.wire.replies import FirmwareReply
from netsonde.wire.requests import FirmwareRequest
from processes import descriptors
from signing import ACCEPTED, PSS, Signers


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Signers:
    return Signers(tmp_path_factory.mktemp("signers")).make_keys()


@pytest.fixture(scope="module")
def signatures(signers: Signers) -> dict[str, bytes]:
    return {name: make(signers) for name, (make, _) in ACCEPTED.items()}


@pytest.fixture
def ask(signers: Signers) -> Callable[..., FirmwareReply]:
    """Verifies image.bin, or other content, against a signature."""

    def asking(
        signature: bytes,
        image: bytes | None = None,
        trusted: Path | None = None,
        **settings: object,
    ) -> FirmwareReply:
        name = "image.bin"
        if image is not None:
            name = "other.bin"
            (signers.firmware / name).write_bytes(image)
        section = FirmwareSection(
            dirs=[str(signers.firmware)],
            trusted_keys=str(trusted or signers.trusted),
            **settings,  # type: ignore[arg-type]
        )
        request = FirmwareRequest(firmware_path=name, signature_path=signers.write(signature))
        return verify.verify(section, request, threading.Event())

    return asking


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_accepted_format_verifies(
    ask: Callable[..., FirmwareReply], signatures: dict[str, bytes], name: str, signers: Signers
) -> None:
    reply = ask(signatures[name])
    assert (reply.valid, reply.signature_valid) == (True, True), reply.message
    assert reply.algorithm == ACCEPTED[name][1]
    trusted = {key.id: key for key in keys.load(str(signers.trusted)).keys}
    assert isinstance(reply.key_id, str)
    assert trusted[reply.key_id].name in reply.message


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_altered_file_is_rejected(
    ask: Callable[..., FirmwareReply], signatures: dict[str, bytes], name: str, signers: Signers
) -> None:
    image = signers.image.read_bytes()
    middle = len(image) // 2
    turned = image[:middle] + bytes([image[middle] ^ 1]) + image[middle + 1 :]
    for altered in (turned, image[:-1], image + b"\0", b"", image[1:]):
        reply = ask(signatures[name], altered)
        assert (reply.valid, reply.signature_valid) == (False, False)
        assert reply.message
        assert not isinstance(reply.key_id, str)


RAW = ["openssl-ed25519", "openssl-p256", "openssl-p384", "openssl-rsa-pss"]


@pytest.mark.parametrize("name", RAW)
def test_a_signature_with_one_changed_bit_is_rejected(
    ask: Callable[..., FirmwareReply], signatures: dict[str, bytes], name: str
) -> None:
    signature = signatures[name]
    for position in range(0, len(signature), max(1, len(signature) // 24)):
        altered = bytearray(signature)
        altered[position] ^= 0x10
        assert not ask(bytes(altered), b"").valid
    for cut in (b"", signature[:-1], signature + b"\0", signature[1:], signature * 2):
        reply = ask(cut)
        assert not reply.valid
        assert reply.message


def test_a_minisign_signature_with_any_altered_part_is_rejected(
    ask: Callable[..., FirmwareReply], signatures: dict[str, bytes]
) -> None:
    for name in ("minisign", "minisign-pure"):
        lines = signatures[name].split(b"\n")
        for line in (1, 3):
            body = bytearray(base64.b64decode(lines[line]))
            for position in range(0, len(body), 9):
                altered = bytearray(body)
                altered[position] ^= 1
                changed = [*lines]
                changed[line] = base64.b64encode(altered)
                assert not ask(b"\n".join(changed)).valid, (name, line, position)
        comment = [*lines]
        comment[2] = b"trusted comment: version 4"
        reply = ask(b"\n".join(comment))
        assert not reply.valid
        assert "comment" in reply.message
        # "Ed" signs the file, "ED" signs its BLAKE2b.
        other = [*lines]
        body = bytearray(base64.b64decode(lines[1]))
        body[1] ^= 0x20
        other[1] = base64.b64encode(body)
        assert not ask(b"\n".join(other)).valid


@pytest.mark.parametrize("name", ["cms-p256", "cms-p384", "cms-rsa-pss", "cms-p256-no-attributes"])
def test_a_cms_signature_with_an_altered_signed_part_is_rejected(
    ask: Callable[..., FirmwareReply], signatures: dict[str, bytes], name: str
) -> None:
    whole = signatures[name]
    (signer,) = parse_cms(whole).signers
    parts = [signer.signature] + [signer.digest] * (signer.digest is not None)
    for part in parts:
        assert part is not None
        start = whole.rindex(part)
        for position in range(start, start + len(part), 5):
            altered = bytearray(whole)
            altered[position] ^= 1
            assert not ask(bytes(altered)).valid
    for cut in range(1, len(whole), 37):
        assert not ask(whole[:cut]).valid


# ---- keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_signature_by_an_untrusted_key_is_rejected(
    ask: Callable[..., FirmwareReply], signatures: dict[str, bytes], name: str, signers: Signers
) -> None:
    if not any(signers.stray.iterdir()):
        for kind in ("ed25519", "p256", "p384", "rsa"):
            signers.make_key(kind, signers.stray, f"{kind}-stray")
        signers.run("minisign", "-G", "-W", "-p", signers.stray / "m.pub", "-s", "stray.key")
    reply = ask(signatures[name], trusted=signers.stray)
    assert not reply.valid
    assert "ot signed by any trusted key" in reply.message


def test_nothing_verifies_without_trusted_keys(
    ask: Callable[..., FirmwareReply], signatures: dict[str, bytes], tmp_path: Path
) -> None:
    for directory in (tmp_path, tmp_path / "absent"):
        reply = ask(signatures["openssl-p256"], trusted=directory)
        assert not reply.valid
        assert "trusts no keys" in reply.message
        assert len(reply.firmware_hash) == 64


def test_the_key_of_a_certificate_is_trusted(
    ask: Callable[..., FirmwareReply],
    signatures: dict[str, bytes],
    tmp_path: Path,
    signers: Signers,
) -> None:
    shutil.copy(signers.directory / "p256.crt", tmp_path)
    for name in ("cms-p256", "openssl-p256"):
        assert ask(signatures[name], trusted=tmp_path).valid


def test_unfit_keys_are_skipped_with_a_reason(signers: Signers, tmp_path: Path) -> None:
    run = signers.run
    weak, curve = tmp_path / "weak.pem", tmp_path / "curve.pem"
    run("openssl", "genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:1024",
        "-out", "weak.key")  # fmt: skip
    run("openssl", "pkey", "-in", "weak.key", "-pubout", "-out", weak)
    run("openssl", "genpkey", "-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:secp521r1",
        "-out", "curve.key")  # fmt: skip
    run("openssl", "pkey", "-in", "curve.key", "-pubout", "-out", curve)
    shutil.copy(signers.directory / "p256.key", tmp_path / "private.pem")
    (tmp_path / "notes.txt").write_text("keys of the release team\n")
    (tmp_path / "damaged.pem").write_text(
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"
    )
    (tmp_path / "neutral.pub").write_bytes(
        b"untrusted comment: of small order\n"
        + base64.b64encode(b"Ed" + bytes(8) + b"\1" + bytes(31))
    )
    (tmp_path / "large.pem").write_bytes(bytes(keys.FILE_BYTES_MAX + 1))
    (tmp_path / "directory.pem").mkdir()
    os.mkfifo(tmp_path / "fifo.pem")
    shutil.copy(signers.trusted / "p256.pem", tmp_path / "open.pem")
    (tmp_path / "open.pem").chmod(0o666)
    shutil.copy(signers.trusted / "rsa.pem", tmp_path / "good.pem")
    found = keys.load(str(tmp_path))
    assert [key.name for key in found.keys] == ["good.pem"]
    assert found.refused.keys() == {path.name for path in tmp_path.iterdir()} - {"good.pem"}
    assert all(found.refused.values())


def test_one_file_may_hold_several_keys(
    ask: Callable[..., FirmwareReply],
    signatures: dict[str, bytes],
    tmp_path: Path,
    signers: Signers,
) -> None:
    both = b"".join((signers.trusted / f"{name}.pem").read_bytes() for name in ("rsa", "p256"))
    (tmp_path / "bundle.pem").write_bytes(both)
    assert ask(signatures["openssl-p256"], trusted=tmp_path).valid


# ---- confusion ------------------------------------------------------------------------------


def test_pkcs1v15_is_accepted_only_if_configured(
    ask: Callable[..., FirmwareReply], signers: Signers
) -> None:
    for made in (signers.by_openssl("rsa"), signers.by_cms("rsa")):
        reply = ask(made)
        assert not reply.valid
        assert "PKCS#1" in reply.message
        reply = ask(made, rsa_pkcs1v15=True)
        assert reply.valid
        assert str(reply.algorithm).endswith("RSA-PKCS1v15-SHA256")


def test_weak_and_mismatched_digests_are_rejected(
    ask: Callable[..., FirmwareReply], signers: Signers
) -> None:
    assert not ask(signers.by_openssl("rsa", "sha1", *PSS)).valid
    assert not ask(signers.by_openssl("p256", "sha1")).valid
    assert not ask(signers.by_openssl("p256", "sha512")).valid
    reply = ask(signers.by_cms("p256", "-md", "sha1"))
    assert not reply.valid
    assert "digest" in reply.message


def test_a_signature_over_a_digest_does_not_verify_the_file(
    ask: Callable[..., FirmwareReply], signers: Signers, signatures: dict[str, bytes]
) -> None:
    """Ed25519 over BLAKE2b (minisign) does not verify as Ed25519 over the file."""
    body = base64.b64decode(signatures["minisign"].split(b"\n")[1])
    assert not ask(body[10:]).valid
    # The attributes of a CMS signature as a file, with the CMS signature as a bare one.
    (signer,) = parse_cms(signatures["cms-p256"]).signers
    assert signer.signed is not None
    reply = ask(signer.signature, signer.signed)
    assert not reply.valid
    assert "CMS" in reply.message


def test_a_pem_key_may_sign_in_minisign_format(
    ask: Callable[..., FirmwareReply], signers: Signers
) -> None:
    key = load_pem_private_key((signers.directory / "ed25519.key").read_bytes(), None)
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    signature = key.sign(hashlib.blake2b(signers.image.read_bytes()).digest())
    encode = base64.b64encode
    lines = [b"untrusted comment: by hand", encode(b"ED" + bytes(8) + signature),
             b"trusted comment: yes", encode(key.sign(signature + b"yes"))]  # fmt: skip
    assert ask(b"\n".join(lines) + b"\n").valid
    lines[3] = encode(key.sign(b"yes"))
    assert not ask(b"\n".join(lines)).valid


def test_a_cms_signer_is_rejected_whatever_certificate_it_includes(
    ask: Callable[..., FirmwareReply], signers: Signers
) -> None:
    """An attacker's certificate has the trusted signer's name."""
    key = ec.generate_private_key(ec.SECP256R1())
    (signers.directory / "evil.key").write_bytes(_pem(key))
    signers.run("openssl", "req", "-x509", "-new", "-key", "evil.key", "-subj", "/CN=p256",
                "-days", "30", "-out", "evil.crt")  # fmt: skip
    made = signers.by_cms("evil", "-certfile", str(signers.directory / "p256.crt"))
    reply = ask(made)
    assert not reply.valid
    assert "Not signed by any trusted key" in reply.message
    assert not ask(key.sign(signers.image.read_bytes(), ec.ECDSA(SHA256()))).valid


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_one_trusted_signer_of_two_is_enough(
    ask: Callable[..., FirmwareReply], signers: Signers, tmp_path: Path
) -> None:
    made = signers.by_cms("rsa", "-signer", "p256.crt", "-inkey", "p256.key")
    shutil.copy(signers.trusted / "p256.pem", tmp_path)
    assert ask(made, trusted=tmp_path).valid


# ---- rejected forms ----------------------------------------------------------------------


def test_each_malformed_signature_gets_its_own_message(
    ask: Callable[..., FirmwareReply], signers: Signers
) -> None:
    small = b"firmware of a few bytes"
    (signers.firmware / "image.bin").replace(signers.directory / "kept")
    try:
        signers.image.write_bytes(small)
        attached = signers.by_cms("p256", "-nodetach")
        streamed = signers.by_cms("p256", "-stream")
        smime = signers.by_cms("p256", form="SMIME")
    finally:
        (signers.directory / "kept").replace(signers.image)
    for signature, words in (
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"no", "malformed"),
        (b"x" * 5000, "malformed"),
        (bytes(verify.SIGNATURE_BYTES_MAX + 1), "too large"),
        (attached, "detached"),
        (streamed, "indefinite"),
        (smime, "S/MIME"),
        (b"untrusted comment: short\n", "minisign signature is malformed"),
        (bytes(100), "No trusted key makes signatures of this form"),
    ):
        reply = ask(signature, small)
        assert not reply.valid
        assert words in reply.message, reply.message


def test_a_firmware_file_above_max_mb_is_rejected(
    ask: Callable[..., FirmwareReply], signatures: dict[str, bytes], signers: Signers
) -> None:
    reply = ask(signatures["openssl-ed25519"], max_mb=2)
    assert (reply.valid, reply.firmware_hash) == (False, "")
    assert "too large" in reply.message


def test_a_file_that_grows_during_the_pass_is_rejected(tmp_path: Path) -> None:
    """The descriptor reports a small size, then returns more than the limit."""
    grown = tmp_path / "grown"
    grown.write_bytes(b"a" * 10)
    descriptor = os.open(grown, os.O_RDONLY)

    class Grower:
        def update(self, data: memoryview, /) -> None:
            with grown.open("ab") as file:
                file.write(bytes(1 << 20))

        def digest(self) -> bytes:
            return b""

    try:
        limit = 3 << 20
        assert verify._feed(descriptor, {"x": Grower()}, limit, threading.Event()) is None
    finally:
        os.close(descriptor)


def test_paths_outside_and_missing_files_raise(
    signers: Signers, signatures: dict[str, bytes], tmp_path: Path
) -> None:
    signers.write(signatures["openssl-ed25519"])
    (signers.firmware / "link.bin").symlink_to(signers.image)
    (signers.directory / "outside.bin").write_bytes(b"")
    section = FirmwareSection(dirs=[str(signers.firmware)], trusted_keys=str(signers.trusted))

    def error(firmware: str, signature: str) -> tuple[type[Exception], str | None]:
        request = FirmwareRequest(firmware_path=firmware, signature_path=signature)
        with pytest.raises((PathNotAllowed, NotFound)) as caught:
            verify.verify(section, request, threading.Event())
        return caught.type, caught.value.field

    before = descriptors()
    for outside in ("/etc/passwd", "../outside.bin", "../absent.bin", "/absent", "link.bin"):
        assert error(outside, "image.sig") == (PathNotAllowed, "$.firmware_path")
        assert error("image.bin", outside) == (PathNotAllowed, "$.signature_path")
        # A missing other file does not change the error.
        assert error("absent.bin", outside) == (PathNotAllowed, "$.signature_path")
    assert error("absent.bin", "image.sig") == (NotFound, "$.firmware_path")
    assert error("image.bin", "absent.sig") == (NotFound, "$.signature_path")
    assert error(".", "image.sig") == (NotFound, "$.firmware_path")
    assert not descriptors() - before
    (signers.firmware / "link.bin").unlink()
