"""segment_reader.py SEGMENT OUT.pcap [KEYFILE]: one netsonde segment as pcap.

An independent check, written from docs/segment.md; needs `cryptography` alone. Exit code 0: whole;
3: cut, every whole frame is written; 1: damaged, or sealed with another key.
"""

import hashlib
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def derive(key: bytes, salt: bytes | None, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(key)


def open_frame(key: bytes | None, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
    if key is not None:
        return AESGCM(key).decrypt(nonce, sealed, associated)
    if hashlib.sha256(associated + sealed[:-16]).digest()[:16] != sealed[-16:]:
        raise ValueError("a frame does not have its digest")
    return sealed[:-16]


def payloads(data: bytes, key: bytes) -> Iterator[bytes]:
    header, at, counter, file_key = data[:96], 96, 0, None
    magic, version, suite = struct.unpack_from("<8sHH", header)
    if magic != b"SONDESEG" or version not in (1, 2) or suite > 1:
        raise ValueError("not a segment of version 1 or 2")
    if suite == 1:
        if hashlib.sha256(derive(key, None, b"netsonde key id v1")).digest()[:8] != header[16:24]:
            raise ValueError("sealed with another key")
        file_key = derive(key, header[24:56], b"netsonde segment v1")
    while at + 80 <= len(data):
        frame = data[at : at + 64]
        magic, flags, number, size = struct.unpack_from("<4sIQI", frame)
        names = struct.unpack_from("<I", frame, 52)[0]  # bytes behind the packets
        known = magic == b"SFRM" and flags <= 1 and names <= size <= 1 << 20
        if not known or number != counter:
            raise ValueError(f"frame {counter} is damaged or not in its place")
        sealed = data[at + 64 : at + 80 + size]
        if len(sealed) < size + 16:
            break
        nonce = bytes(3) + counter.to_bytes(8, "big") + bytes([flags])
        yield open_frame(file_key, nonce, sealed, header + frame)[: size - names]
        at, counter = at + 80 + size, counter + 1
        if flags and (size or at != len(data)):
            raise ValueError("bytes behind the final frame")
        if flags:
            return
    raise EOFError("the file was cut")


def main(segment: str, out: str, key_file: str = "/dev/null") -> int:
    key = Path(key_file).read_bytes()
    key = key if len(key) == 32 else bytes.fromhex(key.decode())
    with open(out, "wb") as pcap:
        try:
            for payload in payloads(Path(segment).read_bytes(), key):
                at = 0
                while at < len(payload):
                    ns, caplen, wirelen, link = struct.unpack_from("<QIIH", payload, at)
                    if pcap.tell() == 0:
                        pcap.write(struct.pack("<IHHIIII", 0xA1B23C4D, 2, 4, 0, 0, 1 << 18, link))
                    pcap.write(struct.pack("<IIII", *divmod(ns, 10**9), caplen, wirelen))
                    pcap.write(payload[at + 24 : at + 24 + caplen])
                    at += (24 + caplen + 63) // 64 * 64
        except (EOFError, ValueError, InvalidTag) as fault:
            print(f"{segment}: {str(fault) or 'a frame does not open'}", file=sys.stderr)
            return 3 if isinstance(fault, EOFError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
