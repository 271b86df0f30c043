"""Keys and signatures from openssl, minisign and cryptography.

A `Signers` owns one directory with a key of each type. The public keys are below `trusted/`, the
firmware and its signatures below `firmware/`. Key generation is slow, so a module shares one.
"""

from __future__ import annotations

import base64
import hashlib
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding

FIRMWARE_BYTES = 2_500_000  # two whole chunks and a part
CURVES = {"p256": "prime256v1", "p384": "secp384r1"}
# Encoded object identifiers (RFC 5652 §11, RFC 8410 §3).
SIGNED_DATA = bytes.fromhex("06092a864886f70d010702")
DATA = bytes.fromhex("06092a864886f70d010701")
CONTENT_TYPE = bytes.fromhex("06092a864886f70d010903")
MESSAGE_DIGEST = bytes.fromhex("06092a864886f70d010904")
SHA512 = bytes.fromhex("0609608648016503040203")
ED25519 = bytes.fromhex("06032b6570")
PSS = ("-sigopt", "rsa_padding_mode:pss")


def der(tag: int, *contents: bytes) -> bytes:
    """Encodes one element (X.690 §8.1)."""
    content = b"".join(contents)
    size = len(content).to_bytes(4, "big").lstrip(b"\0") or b"\0"
    length = size if len(content) < 0x80 else bytes([0x80 | len(size)]) + size
    return bytes([tag]) + length + content


class Signers:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.trusted = directory / "trusted"
        self.firmware = directory / "firmware"
        self.stray = directory / "stray"  # public keys that are not trusted
        for made in (self.trusted, self.firmware, self.stray):
            made.mkdir(parents=True)
        self.image = self.firmware / "image.bin"
        self.image.write_bytes(random.Random(5).randbytes(FIRMWARE_BYTES))

    # ---- keys -----------------------------------------------------------------------------

    def make_keys(self) -> Signers:
        for name in ("ed25519", "p256", "p384", "rsa"):
            self.make_key(name, self.trusted)
        self.run("minisign", "-G", "-W", "-p", self.trusted / "mini.pub", "-s", "mini.key")
        return self

    def make_key(self, kind: str, directory: Path, name: str = "") -> None:
        name = name or kind
        if kind == "ed25519":
            how = ["-algorithm", "ed25519"]
        elif kind == "rsa":
            how = ["-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:2048"]
        else:
            how = ["-algorithm", "ec", "-pkeyopt", f"ec_paramgen_curve:{CURVES[kind]}"]
        self.run("openssl", "genpkey", *how, "-out", f"{name}.key")
        self.run(
            "openssl", "pkey", "-in", f"{name}.key", "-pubout", "-out", directory / f"{name}.pem"
        )
        self.run(
            "openssl", "req", "-x509", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}",
            "-days", "30", "-out", f"{name}.crt",
        )  # fmt: skip

    # ---- signatures -------------------------------------------------------------------------

    def by_openssl(self, name: str, digest: str = "sha256", *options: str) -> bytes:
        if name.startswith("ed25519"):
            self.run(
                "openssl", "pkeyutl", "-sign", "-rawin", "-inkey", f"{name}.key",
                "-in", self.image, "-out", "made",
            )  # fmt: skip
        else:
            self.run(
                "openssl", "dgst", f"-{digest}", *options, "-sign", f"{name}.key",
                "-out", "made", self.image,
            )  # fmt: skip
        return self.made()

    def by_cms(self, name: str, *options: str, form: str = "DER") -> bytes:
        self.run(
            "openssl", "cms", "-sign", "-binary", "-in", self.image, "-signer", f"{name}.crt",
            "-inkey", f"{name}.key", *options, "-outform", form, "-out", "made",
        )  # fmt: skip
        return self.made()

    def by_hand(self, name: str) -> bytes:
        """Returns CMS with Ed25519 (RFC 8419), which openssl 3.0 cannot make."""
        certificate = x509.load_pem_x509_certificate((self.directory / f"{name}.crt").read_bytes())
        number = certificate.serial_number.to_bytes(21, "big").lstrip(b"\0")
        number = number if number[0] < 0x80 else b"\0" + number
        signer = der(0x30, certificate.issuer.public_bytes(), der(0x02, number))
        sha512, digest = der(0x30, SHA512), hashlib.sha512(self.image.read_bytes()).digest()
        attributes = (
            der(0x30, CONTENT_TYPE, der(0x31, DATA))
            + der(0x30, MESSAGE_DIGEST, der(0x31, der(0x04, digest)))
        )  # fmt: skip
        key = serialization.load_pem_private_key(
            (self.directory / f"{name}.key").read_bytes(), password=None
        )
        assert isinstance(key, ed25519.Ed25519PrivateKey)
        signature = der(0x04, key.sign(der(0x31, attributes)))
        version, scheme = der(0x02, b"\x01"), der(0x30, ED25519)
        info = der(0x30, version, signer, sha512, der(0xA0, attributes), scheme, signature)
        data = der(0x30, version, der(0x31, sha512), der(0x30, DATA), der(0x31, info))
        return der(0x30, SIGNED_DATA, der(0xA0, data))

    def by_minisign(self, *options: str, key: str = "mini.key") -> bytes:
        self.run("minisign", "-S", "-s", key, "-m", self.image, "-x", "made", *options)
        return self.made()

    def by_cryptography(self, name: str) -> bytes:
        key = serialization.load_pem_private_key(
            (self.directory / f"{name}.key").read_bytes(), password=None
        )
        image = self.image.read_bytes()
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return key.sign(image)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            algorithm = hashes.SHA384() if key.key_size == 384 else hashes.SHA256()
            return key.sign(image, ec.ECDSA(algorithm))
        pss = padding.PSS(padding.MGF1(hashes.SHA512()), padding.PSS.DIGEST_LENGTH)
        return key.sign(image, pss, hashes.SHA512())  # type: ignore[union-attr,call-arg,arg-type]

    def made(self) -> bytes:
        path = self.directory / "made"
        data = path.read_bytes()
        path.unlink()
        return data

    def write(self, signature: bytes, name: str = "image.sig") -> str:
        """Writes a file below `firmware/` and returns its name for a request."""
        (self.firmware / name).write_bytes(signature)
        return name

    def run(self, *command: str | Path) -> None:
        done = subprocess.run(
            list(map(str, command)), cwd=self.directory, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command[0]}: {done.stderr or done.stdout}"


# Every accepted way to sign, with the algorithm in the reply.
ACCEPTED: dict[str, tuple[Callable[[Signers], bytes], str]] = {
    "openssl-ed25519": (lambda s: s.by_openssl("ed25519"), "Ed25519"),
    "openssl-ed25519-hex": (lambda s: s.by_openssl("ed25519").hex().encode(), "Ed25519"),
    "openssl-ed25519-base64": (lambda s: _base64(s.by_openssl("ed25519")), "Ed25519"),
    "openssl-p256": (lambda s: s.by_openssl("p256"), "ECDSA-P256-SHA256"),
    "openssl-p256-base64": (lambda s: _base64(s.by_openssl("p256")), "ECDSA-P256-SHA256"),
    "openssl-p384": (lambda s: s.by_openssl("p384", "sha384"), "ECDSA-P384-SHA384"),
    "openssl-p384-sha256": (lambda s: s.by_openssl("p384"), "ECDSA-P384-SHA256"),
    "openssl-rsa-pss": (lambda s: s.by_openssl("rsa", "sha256", *PSS), "RSA-PSS-SHA256"),
    "openssl-rsa-pss-384": (lambda s: s.by_openssl("rsa", "sha384", *PSS), "RSA-PSS-SHA384"),
    "cryptography-ed25519": (lambda s: s.by_cryptography("ed25519"), "Ed25519"),
    "cryptography-p256": (lambda s: s.by_cryptography("p256"), "ECDSA-P256-SHA256"),
    "cryptography-p384": (lambda s: s.by_cryptography("p384"), "ECDSA-P384-SHA384"),
    "cryptography-rsa-pss": (lambda s: s.by_cryptography("rsa"), "RSA-PSS-SHA512"),
    "minisign": (lambda s: s.by_minisign("-t", "version 3"), "minisign-Ed25519-BLAKE2b"),
    "minisign-pure": (lambda s: s.by_minisign("-l"), "minisign-Ed25519"),
    "cms-p256": (lambda s: s.by_cms("p256"), "CMS-ECDSA-P256-SHA256"),
    "cms-p256-pem": (lambda s: s.by_cms("p256", form="PEM"), "CMS-ECDSA-P256-SHA256"),
    "cms-p256-no-attributes": (lambda s: s.by_cms("p256", "-noattr"), "CMS-ECDSA-P256-SHA256"),
    "cms-p384": (lambda s: s.by_cms("p384", "-md", "sha384"), "CMS-ECDSA-P384-SHA384"),
    "cms-p384-sha512": (lambda s: s.by_cms("p384", "-md", "sha512"), "CMS-ECDSA-P384-SHA512"),
    "cms-ed25519": (lambda s: s.by_hand("ed25519"), "CMS-Ed25519-SHA512"),
    "cms-rsa-pss-384": (
        lambda s: s.by_cms("rsa", "-md", "sha384", "-keyopt", "rsa_padding_mode:pss"),
        "CMS-RSA-PSS-SHA384",
    ),
    "cms-rsa-pss": (
        lambda s: s.by_cms("rsa", "-keyopt", "rsa_padding_mode:pss"),
        "CMS-RSA-PSS-SHA256",
    ),
}


def _base64(data: bytes) -> bytes:
    return base64.encodebytes(data)
