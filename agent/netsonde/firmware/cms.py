"""Detached CMS signatures (RFC 5652 §5), as `openssl cms -sign -binary -outform DER|PEM` writes.

One signer with a trusted key is enough. Trust is by public key: certificates and signer names are
ignored, because what a signer says about itself proves nothing. Each signer's signature is tried
with each trusted key of its type, and the digest that it signed must be the file's.
`cryptography`'s ASN.1 decoder reads the structure, since its PKCS7 module cannot verify and
CMS_verify of OpenSSL 3.0 takes certificates instead of keys and has no Ed25519.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Annotated

from cryptography.hazmat import asn1
from cryptography.x509 import ObjectIdentifier

from .keys import Key, Kind, TrustedKeys
from .verdict import (
    Digests,
    Hashers,
    MalformedSignatureError,
    Rules,
    Verdict,
    accepted,
    prove,
    prove_ed25519,
)

SIGNERS_MAX = 16
ATTRIBUTES_BYTES_MAX = 1 << 16

_SIGNED_DATA = ObjectIdentifier("1.2.840.113549.1.7.2")
_DATA = ObjectIdentifier("1.2.840.113549.1.7.1")
_CONTENT_TYPE = ObjectIdentifier("1.2.840.113549.1.9.3")
_MESSAGE_DIGEST = ObjectIdentifier("1.2.840.113549.1.9.4")
_MGF1 = "1.2.840.113549.1.1.8"
_PSS = "1.2.840.113549.1.1.10"
_RSA = "1.2.840.113549.1.1.1"
_ED25519 = "1.3.101.112"
_SIGNED_DATA_DER = asn1.encode_der(_SIGNED_DATA)
_MESSAGE_DIGEST_DER = asn1.encode_der(_MESSAGE_DIGEST)
_SET = b"\x31"
_INDEFINITE = b"\x30\x80"  # how BER with indefinite lengths starts

_DIGESTS = {
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}
# The signature algorithms that name their digest: scheme and digest.
_SCHEMES = {
    "1.2.840.10045.4.3.2": ("ecdsa", "sha256"),
    "1.2.840.10045.4.3.3": ("ecdsa", "sha384"),
    "1.2.840.10045.4.3.4": ("ecdsa", "sha512"),
    "1.2.840.113549.1.1.11": ("pkcs1v15", "sha256"),
    "1.2.840.113549.1.1.12": ("pkcs1v15", "sha384"),
    "1.2.840.113549.1.1.13": ("pkcs1v15", "sha512"),
}
_KINDS: dict[str, tuple[Kind, ...]] = {
    "ecdsa": ("p256", "p384"),
    "ed25519": ("ed25519",),
    "pss": ("rsa",),
    "pkcs1v15": ("rsa",),
}
_PEM = re.compile(rb"-----BEGIN (CMS|PKCS7)-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END \1-----")


@asn1.sequence
class _Digest:
    oid: ObjectIdentifier
    parameters: asn1.Null | None


@asn1.sequence
class _Mask:
    oid: ObjectIdentifier
    digest: _Digest


@asn1.sequence
class _PssParameters:
    digest: Annotated[_Digest | None, asn1.Explicit(0)]
    mask: Annotated[_Mask | None, asn1.Explicit(1)]
    salt_bytes: Annotated[int | None, asn1.Explicit(2)]
    trailer: Annotated[int | None, asn1.Explicit(3)]


@asn1.sequence
class _Scheme:
    oid: ObjectIdentifier
    parameters: asn1.Null | _PssParameters | None


@asn1.sequence
class _Attribute:
    oid: ObjectIdentifier
    values: asn1.SetOf[asn1.TLV]


@asn1.sequence
class _SignerInfo:
    version: int
    sid: asn1.TLV
    digest: _Digest
    signed: Annotated[list[asn1.TLV] | None, asn1.Implicit(0)]
    scheme: _Scheme
    signature: bytes
    unsigned: Annotated[list[asn1.TLV] | None, asn1.Implicit(1)]


@asn1.sequence
class _Encapsulated:
    oid: ObjectIdentifier
    content: Annotated[bytes | None, asn1.Explicit(0)]


@asn1.sequence
class _SignedData:
    version: int
    digests: asn1.TLV
    encapsulated: _Encapsulated
    certificates: Annotated[list[asn1.TLV] | None, asn1.Implicit(0)]
    crls: Annotated[list[asn1.TLV] | None, asn1.Implicit(1)]
    signers: asn1.SetOf[_SignerInfo]


@asn1.sequence
class _ContentInfo:
    oid: ObjectIdentifier
    content: Annotated[asn1.TLV, asn1.Explicit(0)]


@dataclass(frozen=True, slots=True)
class Signer:
    """scheme: ecdsa, ed25519, pss or pkcs1v15. signed: the encoded attributes that are signed.
    digest: the file's digest according to them. Both are None if the file itself is signed."""

    scheme: str
    hash: str
    signature: bytes
    signed: bytes | None
    digest: bytes | None


@dataclass(frozen=True, slots=True)
class Cms:
    signers: list[Signer]

    def hashers(self, trusted: TrustedKeys) -> Hashers:
        return {signer.hash: hashlib.new(signer.hash) for signer in self.signers}

    def judge(self, trusted: TrustedKeys, digests: Digests, rules: Rules) -> Verdict:
        failures = []
        for signer in self.signers:
            for key in trusted.of(*_KINDS[signer.scheme]):
                algorithm = _prove(signer, key, digests)
                if not algorithm:
                    continue
                if signer.digest is not None and signer.digest != digests[signer.hash]:
                    failures.append(
                        f"The trusted key {key.name} signed another file "
                        "(or the signature was made without -binary)."
                    )
                elif signer.scheme == "pkcs1v15" and not rules.rsa_pkcs1v15:
                    failures.append(
                        "Signed with RSA PKCS#1 v1.5, which this host does not accept ([firmware] "
                        "rsa_pkcs1v15). Sign with -keyopt rsa_padding_mode:pss."
                    )
                else:
                    return accepted(key, f"CMS-{algorithm}")
        return Verdict(failures[0] if failures else "Not signed by any trusted key.")


def is_cms(data: bytes) -> bool:
    return bool(_PEM.search(data)) or (data[:1] == b"\x30" and _SIGNED_DATA_DER in data[:24])


def is_signed_part(content: bytes) -> bool:
    """Returns whether a file may be the signed attributes of a CMS signature.

    A CMS signature signs its attributes, so they could be presented as a file with a bare
    signature (RFC 5652 §5.4). No firmware is a short SET that contains a messageDigest.
    """
    return (
        content[:1] == _SET
        and len(content) <= ATTRIBUTES_BYTES_MAX
        and _MESSAGE_DIGEST_DER in content
    )


def parse(data: bytes) -> Cms:
    """Raises MalformedSignatureError."""
    block = _PEM.search(data)
    try:
        encoded = data if block is None else base64.b64decode(b"".join(block[2].split()))
        if encoded.startswith(_INDEFINITE):
            raise malformed("it is BER with indefinite lengths, not DER; sign without -stream")
        return Cms(_signed_data(asn1.decode_der(_ContentInfo, encoded)))
    except binascii.Error:
        raise malformed("its PEM block is not base64") from None
    except ValueError:
        raise malformed("it is not the DER encoding of a SignedData") from None


def malformed(why: str) -> MalformedSignatureError:
    return MalformedSignatureError(f"The CMS signature is malformed: {why}.")


def _signed_data(info: _ContentInfo) -> list[Signer]:
    if info.oid != _SIGNED_DATA:
        raise malformed("it is not a SignedData")
    body = info.content.parse(_SignedData)
    if body.encapsulated.content is not None:
        raise malformed("it contains the signed file; make a detached signature")
    infos = body.signers.as_list()
    if not 1 <= len(infos) <= SIGNERS_MAX:
        raise malformed(f"it has {len(infos)} signers, expected 1 to {SIGNERS_MAX}")
    return [_signer(info, body.encapsulated.oid) for info in infos]


def _signer(info: _SignerInfo, content_type: ObjectIdentifier) -> Signer:
    digest_name = _digest(info.digest)
    scheme, scheme_digest = _scheme(info.scheme, digest_name)
    if scheme_digest != digest_name:
        raise malformed("its digest and its signature algorithm disagree")
    if info.signed is None:
        if content_type != _DATA or scheme == "ed25519":
            raise malformed("it has no signed attributes")
        return Signer(scheme, digest_name, info.signature, None, None)
    # RFC 5652 §5.4: the signature covers a SET OF, not the [0] in which they are stored.
    signed = asn1.encode_der(asn1.SetOf(info.signed))
    attributes = [one.parse(_Attribute) for one in info.signed]
    return Signer(
        scheme, digest_name, info.signature, signed, _file_digest(attributes, content_type)
    )


def _file_digest(attributes: list[_Attribute], content_type: ObjectIdentifier) -> bytes:
    """Returns the messageDigest. RFC 5652 §11.1 and §11.2 require it and the content type, each
    once, with one value."""
    found: dict[ObjectIdentifier, asn1.TLV] = {}
    for attribute in attributes:
        if attribute.oid in (_CONTENT_TYPE, _MESSAGE_DIGEST):
            values = attribute.values.as_list()
            if attribute.oid in found or len(values) != 1:
                raise malformed("a signed attribute is duplicate")
            found[attribute.oid] = values[0]
    if len(found) != 2 or found[_CONTENT_TYPE].parse(ObjectIdentifier) != content_type:
        raise malformed("a signed attribute is missing")
    digest: bytes = found[_MESSAGE_DIGEST].parse(bytes)
    return digest


def _digest(algorithm: _Digest) -> str:
    name = _DIGESTS.get(algorithm.oid.dotted_string)
    if name is None:
        raise malformed("its digest is not SHA-256, SHA-384 or SHA-512")
    return name


def _scheme(algorithm: _Scheme, digest_name: str) -> tuple[str, str]:
    name = algorithm.oid.dotted_string
    if name in _SCHEMES:
        return _SCHEMES[name]
    if name == _RSA:
        return "pkcs1v15", digest_name
    if name == _ED25519:
        return "ed25519", digest_name
    if name == _PSS and isinstance(algorithm.parameters, _PssParameters):
        return "pss", _pss_digest(algorithm.parameters)
    raise malformed("its signature algorithm is unknown")


def _pss_digest(parameters: _PssParameters) -> str:
    """RFC 4055 §3.1: both digests default to SHA-1, so both must be named, and be the same."""
    if parameters.digest is None or parameters.mask is None:
        raise malformed("its digest is SHA-1")
    name = _digest(parameters.digest)
    mask = parameters.mask
    if mask.oid.dotted_string != _MGF1 or _digest(mask.digest) != name:
        raise malformed("its mask is not MGF1 with its digest")
    return name


def _prove(signer: Signer, key: Key, digests: Digests) -> str:
    """Returns the algorithm's name if `key` made the signer's signature, else ""."""
    if signer.scheme == "ed25519":
        good = signer.signed is not None and prove_ed25519(key, signer.signature, signer.signed)
        return f"Ed25519-{signer.hash.upper()}" if good else ""
    if signer.signed is None:
        digest = digests[signer.hash]
    else:
        digest = hashlib.new(signer.hash, signer.signed).digest()
    pkcs1v15 = signer.scheme == "pkcs1v15"
    return prove(key, signer.signature, digest, signer.hash, pkcs1v15=pkcs1v15)
