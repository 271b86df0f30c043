"""First packets of QUIC version 1 connections (RFC 9000, RFC 9001), with a ClientHello inside."""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SALT = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")
DATAGRAM_BYTES = 1200
TAG_BYTES = 16
CRYPTO = 6
_PADDING_EXTENSION = 21


def client_hello(name: str, *, padding: int = 0) -> bytes:
    """Returns a ClientHello for this server with ALPN h3. padding: bytes of an extension."""
    host = name.encode()
    extensions = _extension(0, _part(2, b"\0" + _part(2, host)))
    extensions += _extension(16, _part(2, _part(1, b"h3")))
    extensions += _extension(43, _part(1, b"\x03\x04"))
    if padding:
        extensions += _extension(_PADDING_EXTENSION, bytes(padding))
    body = b"\x03\x03" + hashlib.sha256(host).digest() + _part(1, b"") + _part(2, b"\x13\x01")
    return b"\x01" + _part(3, body + _part(1, b"\0") + _part(2, extensions))


def initial(connection_id: bytes, crypto: bytes, *, offset: int = 0, number: int = 0) -> bytes:
    """Returns a datagram with one client Initial that holds these bytes of the handshake."""
    frame = bytes([CRYPTO]) + _varint(offset) + _varint(len(crypto)) + crypto
    head = b"\xc3\0\0\0\x01" + _part(1, connection_id) + _part(1, b"") + _varint(0)  # no token
    number_bytes = struct.pack("!I", number)
    plain = frame.ljust(DATAGRAM_BYTES - len(head) - 2 - len(number_bytes) - TAG_BYTES, b"\0")
    head += _varint(len(number_bytes) + len(plain) + TAG_BYTES, two_bytes=True) + number_bytes
    client = _expand(hmac.digest(SALT, connection_id, "sha256"), b"client in", 32)
    vector = int.from_bytes(_expand(client, b"quic iv", 12)) ^ number
    sealed = AESGCM(_expand(client, b"quic key", 16)).encrypt(vector.to_bytes(12), plain, head)
    mask = _mask(_expand(client, b"quic hp", 16), sealed[:16])
    first = head[0] ^ (mask[0] & 0x0F)
    protected = bytes(a ^ b for a, b in zip(number_bytes, mask[1:], strict=False))
    return bytes([first]) + head[1:-4] + protected + sealed


def _expand(secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label of RFC 8446 §7.1, for at most one block."""
    info = struct.pack("!H", length) + _part(1, b"tls13 " + label) + b"\0\x01"
    return hmac.digest(secret, info, "sha256")[:length]


def _mask(key: bytes, sample: bytes) -> bytes:
    """The header protection of RFC 9001 §5.4.3, one block of AES."""
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(sample)


def _part(bytes_of_length: int, data: bytes) -> bytes:
    return len(data).to_bytes(bytes_of_length) + data


def _extension(number: int, data: bytes) -> bytes:
    return struct.pack("!H", number) + _part(2, data)


def _varint(value: int, *, two_bytes: bool = False) -> bytes:
    if value < 64 and not two_bytes:
        return bytes([value])
    return struct.pack("!H", 0x4000 | value)
