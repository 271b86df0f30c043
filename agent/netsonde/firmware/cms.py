"""Detached CMS signatures, as `openssl cms -sign -binary -outform DER|PEM` makes them.

One signer with a trusted key is enough. A signer is identified by trying: its signature has
to hold under a trusted key, and then the digest that it signed has to be the file's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from .cms_form import Signer, take_apart
from .keys import Key, Kind, TrustedKeys
from .verdict import Digests, Hashers, Rules, Verdict, accepted, prove

_KINDS: dict[str, tuple[Kind, ...]] = {
    "ecdsa": ("p256", "p384"),
    "ed25519": ("ed25519",),
    "pss": ("rsa",),
    "pkcs1v15": ("rsa",),
}


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
                        f"The signature is good, by the trusted key {key.name}, but of another "
                        "file (or it was made without -binary)."
                    )
                elif signer.scheme == "pkcs1v15" and not rules.rsa_pkcs1v15:
                    failures.append(
                        "Signed with RSA PKCS#1 v1.5, which this host does not take ([firmware] "
                        "rsa_pkcs1v15); sign with -keyopt rsa_padding_mode:pss."
                    )
                else:
                    return accepted(key, f"CMS-{algorithm}")
        return Verdict(failures[0] if failures else "Not signed by any trusted key.")


def parse(data: bytes) -> Cms:
    return Cms(take_apart(data))


def _prove(signer: Signer, key: Key, digests: Digests) -> str:
    """The algorithm's name, if the signer's signature is the key's."""
    if signer.signed is not None and isinstance(key.public, Ed25519PublicKey):
        try:
            key.public.verify(signer.signature, signer.signed)
        except InvalidSignature:
            return ""
        return f"Ed25519-{signer.hash.upper()}"
    if signer.signed is None:
        digest = digests[signer.hash]
    else:
        digest = hashlib.new(signer.hash, signer.signed).digest()
    pkcs1v15 = signer.scheme == "pkcs1v15"
    return prove(key, signer.signature, digest, signer.hash, pkcs1v15=pkcs1v15)
