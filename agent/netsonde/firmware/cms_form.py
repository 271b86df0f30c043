"""The form of a detached CMS signature (RFC 5652 §5), taken apart.

    ContentInfo { signedData, [0] SignedData {
        version, digestAlgorithms SET, encapContentInfo { type, no content },
        [0] certificates, [1] crls, signerInfos SET of {
            version, sid, digestAlgorithm, [0] signedAttrs, signatureAlgorithm, signature, … } } }

Certificates and signer names are stepped over: trust is by public key, and who a signer says
to be proves nothing. What is not of this form raises MalformedSignatureError.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from . import der
from .der import DerError, Element, Reader
from .verdict import MalformedSignatureError

SIGNERS_MAX = 16
ATTRIBUTES_BYTES_MAX = 1 << 16

_SIGNED_DATA = "1.2.840.113549.1.7.2"
_DATA = "1.2.840.113549.1.7.1"
_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_MGF1 = "1.2.840.113549.1.1.8"
_PSS = "1.2.840.113549.1.1.10"
_RSA = "1.2.840.113549.1.1.1"
_ED25519 = "1.3.101.112"

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

_PEM = re.compile(rb"-----BEGIN (CMS|PKCS7)-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END \1-----")
_OID_HEAD = bytes.fromhex("06092a864886f70d010702")  # id-signedData, as it is encoded


@dataclass(frozen=True, slots=True)
class Signer:
    """scheme: ecdsa, ed25519, pss or pkcs1v15. `signed`: the attributes as they are signed;
    `digest`: what they say that the file's digest is. Both None: the file itself is signed."""

    scheme: str
    hash: str
    signature: bytes
    signed: bytes | None
    digest: bytes | None


def is_cms(data: bytes) -> bool:
    return bool(_PEM.search(data)) or (data[:1] == b"\x30" and _OID_HEAD in data[:24])


def is_signed_part(content: bytes) -> bool:
    """Does the content read as signed attributes? A CMS signature signs those, so whoever has
    one could pass its attributes off as a file with a bare signature (RFC 5652 §5.4 makes the
    two alike). No firmware looks like that."""
    if content[:1] != bytes([der.SET]) or len(content) > ATTRIBUTES_BYTES_MAX:
        return False
    try:
        attributes = der.parse(content).children()
        names = [der.oid(Reader(one, der.SEQUENCE).take(der.OID)) for one in attributes]
    except DerError:
        return False
    return _MESSAGE_DIGEST in names


def take_apart(data: bytes) -> list[Signer]:
    block = _PEM.search(data)
    try:
        encoded = data if block is None else base64.b64decode(b"".join(block[2].split()))
        return _signed_data(der.parse(encoded))
    except (DerError, binascii.Error) as error:
        raise malformed(str(error)) from None


def malformed(why: str) -> MalformedSignatureError:
    return MalformedSignatureError(f"The CMS signature is malformed: {why}.")


def _signed_data(content_info: Element) -> list[Signer]:
    outer = Reader(content_info, der.SEQUENCE)
    if der.oid(outer.take(der.OID)) != _SIGNED_DATA:
        raise malformed("it is no signed data")
    inner = Reader(outer.take(der.context(0)), der.context(0))
    body = Reader(inner.take(der.SEQUENCE), der.SEQUENCE)
    body.take(der.INTEGER)
    body.take(der.SET)
    encapsulated = Reader(body.take(der.SEQUENCE), der.SEQUENCE)
    content_type = der.oid(encapsulated.take(der.OID))
    if encapsulated.optional(der.context(0)) is not None:
        raise malformed("it carries its own content; make a detached one")
    body.optional(der.context(0))
    body.optional(der.context(1))
    infos = body.take(der.SET).children()
    if not 1 <= len(infos) <= SIGNERS_MAX:
        raise malformed(f"it has {len(infos)} signers")
    return [_signer(info, content_type) for info in infos]


def _signer(info: Element, content_type: str) -> Signer:
    reader = Reader(info, der.SEQUENCE)
    reader.take(der.INTEGER)
    reader.take_any()  # the signer's name
    digest_name = _digest(reader.take(der.SEQUENCE))
    attributes = reader.optional(der.context(0))
    scheme, scheme_digest = _scheme(reader.take(der.SEQUENCE), digest_name)
    signature = reader.take(der.OCTET_STRING).content
    if scheme_digest != digest_name:
        raise malformed("its digest and its signature algorithm disagree")
    if attributes is None:
        if content_type != _DATA or scheme == "ed25519":
            raise malformed("it has no signed attributes")
        return Signer(scheme, digest_name, signature, None, None)
    # RFC 5652 §5.4: signed is the SET OF itself, not the [0] that stands for it here.
    signed = bytes([der.SET]) + attributes.whole[1:]
    return Signer(scheme, digest_name, signature, signed, _attributes(attributes, content_type))


def _attributes(attributes: Element, content_type: str) -> bytes:
    """The message digest. RFC 5652 §11.1 and §11.2: both attributes, once, with one value."""
    found: dict[str, Element] = {}
    for attribute in attributes.children():
        reader = Reader(attribute, der.SEQUENCE)
        name = der.oid(reader.take(der.OID))
        values = reader.take(der.SET).children()
        if name in (_CONTENT_TYPE, _MESSAGE_DIGEST):
            if name in found or len(values) != 1:
                raise malformed("a signed attribute is there twice")
            found[name] = values[0]
    if len(found) != 2 or der.oid(found[_CONTENT_TYPE]) != content_type:
        raise malformed("a signed attribute is missing")
    return found[_MESSAGE_DIGEST].expect(der.OCTET_STRING).content


def _digest(algorithm: Element) -> str:
    name = der.oid(Reader(algorithm, der.SEQUENCE).take(der.OID))
    if name not in _DIGESTS:
        raise malformed("its digest is none of SHA-256, SHA-384 and SHA-512")
    return _DIGESTS[name]


def _scheme(algorithm: Element, digest_name: str) -> tuple[str, str]:
    reader = Reader(algorithm, der.SEQUENCE)
    name = der.oid(reader.take(der.OID))
    if name in _SCHEMES:
        return _SCHEMES[name]
    if name == _RSA:
        return "pkcs1v15", digest_name
    if name == _ED25519:
        return "ed25519", digest_name
    if name == _PSS:
        return "pss", _pss_digest(reader.take(der.SEQUENCE))
    raise malformed("its signature algorithm is not known")


def _pss_digest(parameters: Element) -> str:
    """RFC 4055 §3.1; the defaults there are SHA-1, so both digests must be named, and alike."""
    reader = Reader(parameters, der.SEQUENCE)
    hashed, masked = reader.optional(der.context(0)), reader.optional(der.context(1))
    if hashed is None or masked is None:
        raise malformed("its digest is SHA-1")
    digest_name = _digest(Reader(hashed, der.context(0)).take(der.SEQUENCE))
    mask = Reader(Reader(masked, der.context(1)).take(der.SEQUENCE), der.SEQUENCE)
    if der.oid(mask.take(der.OID)) != _MGF1 or _digest(mask.take(der.SEQUENCE)) != digest_name:
        raise malformed("its mask is not made with its digest")
    return digest_name
