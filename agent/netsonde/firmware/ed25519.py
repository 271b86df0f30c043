"""Ed25519 verification when the message has been hashed as a stream.

OpenSSL takes the whole message at once, and a firmware image may be larger than memory. The
one thing that verification needs of the message is k = SHA-512(R ‖ A ‖ message), RFC 8032
§5.1.7; whoever reads the file makes that digest, and the equation R = [S]B − [k]A is checked
here. All values are public, so no care is taken for constant time. As strict as OpenSSL and
stricter: S below the group's order, canonical encodings of R and A, no A of small order.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

KEY_BYTES = 32
SIGNATURE_BYTES = 64

_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_SQRT_MINUS_ONE = pow(2, (_P - 1) // 4, _P)

# (X, Y, Z, T) with x = X/Z, y = Y/Z, xy = T/Z: RFC 8032 §5.1.4.
_Point: TypeAlias = tuple[int, int, int, int]
_NEUTRAL: _Point = (0, 1, 1, 0)


def challenge(public: bytes, signature: bytes) -> hashlib._Hash:
    """SHA-512 that has already taken R and A; feed it the message."""
    return hashlib.sha512(signature[:KEY_BYTES] + public)


def is_sound(public: bytes) -> bool:
    """A point of the curve, in its one encoding, and not of small order."""
    point = _decode(public)
    return point is not None and not _is_neutral(_double(_double(_double(point))))


def verify_challenge(public: bytes, signature: bytes, digest: bytes) -> bool:
    """digest: that of `challenge` after the whole message."""
    if len(signature) != SIGNATURE_BYTES or not is_sound(public):
        return False
    point = _decode(public)
    s = int.from_bytes(signature[KEY_BYTES:], "little")
    if point is None or s >= _ORDER:
        return False
    k = int.from_bytes(digest, "little") % _ORDER
    return _encode(_combine(s, _BASE, k, _negate(point))) == signature[:KEY_BYTES]


def _combine(a: int, p: _Point, b: int, q: _Point) -> _Point:
    """[a]p + [b]q, both scalars bit by bit together."""
    addends = {(1, 0): p, (0, 1): q, (1, 1): _add(p, q)}
    total = _NEUTRAL
    for bit in range(max(a.bit_length(), b.bit_length()) - 1, -1, -1):
        total = _double(total)
        addend = addends.get((a >> bit & 1, b >> bit & 1))
        if addend is not None:
            total = _add(total, addend)
    return total


def _add(p: _Point, q: _Point) -> _Point:
    a = (p[1] - p[0]) * (q[1] - q[0]) % _P
    b = (p[1] + p[0]) * (q[1] + q[0]) % _P
    c = 2 * p[3] * q[3] * _D % _P
    d = 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _double(p: _Point) -> _Point:
    return _add(p, p)  # the addition law is complete on this curve


def _negate(p: _Point) -> _Point:
    return -p[0] % _P, p[1], p[2], -p[3] % _P


def _is_neutral(p: _Point) -> bool:
    return p[0] % _P == 0 and (p[1] - p[2]) % _P == 0


def _encode(p: _Point) -> bytes:
    inverse = pow(p[2], -1, _P)
    x, y = p[0] * inverse % _P, p[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(KEY_BYTES, "little")


def _decode(encoded: bytes) -> _Point | None:
    """RFC 8032 §5.1.3. None: not a point, or not its canonical encoding."""
    if len(encoded) != KEY_BYTES:
        return None
    number = int.from_bytes(encoded, "little")
    sign, y = number >> 255, number & (1 << 255) - 1
    if y >= _P:
        return None
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if (v * x * x + u) % _P == 0:
        x = x * _SQRT_MINUS_ONE % _P
    if (v * x * x - u) % _P != 0 or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = _P - x
    return x, y, 1, x * y % _P


def _base_point() -> _Point:
    point = _decode((4 * pow(5, -1, _P) % _P).to_bytes(KEY_BYTES, "little"))
    if point is None:
        raise ArithmeticError("the base point is not on the curve")
    return point


_BASE = _base_point()
