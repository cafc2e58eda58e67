"""Ed25519 and ChaCha20-Poly1305 in plain Python, after RFC 8032 and RFC 8439; slow, and no secret.

The second reader of the format uses it, so that nothing is compared with the library that made it.
"""

from __future__ import annotations

import hmac
import struct
from hashlib import sha512

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int]


def _add(one: Point, other: Point) -> Point:
    """Add points of the twisted Edwards curve -x² + y² = 1 + d x² y² (RFC 8032, 5.1.4)."""
    (a, b), (c, e) = one, other
    both = D * a * c * b * e % P
    x = (a * e + b * c) * pow(1 + both, -1, P) % P
    y = (b * e + a * c) * pow(1 - both, -1, P) % P
    return x, y


def _times(number: int, point: Point) -> Point:
    found = (0, 1)
    while number:
        if number & 1:
            found = _add(found, point)
        point, number = _add(point, point), number >> 1
    return found


def _decode(data: bytes) -> Point | None:
    """RFC 8032, 5.1.3: y and the sign of x."""
    both = int.from_bytes(data, "little")
    sign, y = both >> 255, both & (2**255 - 1)
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P or (not x and sign):
        return None
    return (P - x if x % 2 != sign else x), y


def verify(key: bytes, signature: bytes, message: bytes) -> bool:
    """RFC 8032, 5.1.7: S B = R + k A."""
    base = _decode((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
    point, nonce = _decode(key), _decode(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if base is None or point is None or nonce is None or scalar >= ORDER:
        return False
    hashed = int.from_bytes(sha512(signature[:32] + key + message).digest(), "little") % ORDER
    return _times(scalar, base) == _add(nonce, _times(hashed, point))


def _block(key: bytes, counter: int, nonce: bytes) -> bytes:
    """One block of ChaCha20 (RFC 8439, 2.3)."""
    start = list(
        struct.unpack("<16I", b"expand 32-byte k" + key + struct.pack("<I", counter) + nonce)
    )
    state = list(start)
    columns = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
    diagonals = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
    for _ in range(10):
        for a, b, c, d in columns + diagonals:
            for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                state[x] = (state[x] + state[y]) & 0xFFFFFFFF
                mixed = state[z] ^ state[x]
                state[z] = (mixed << turn | mixed >> (32 - turn)) & 0xFFFFFFFF
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(state, start, strict=True)))


def decrypt(key: bytes, nonce: bytes, data: bytes, bound: bytes) -> bytes:
    """RFC 8439, 2.8; the last 16 bytes are the tag."""
    sealed, tag = data[:-16], data[-16:]
    one_time = _block(key, 0, nonce)[:32]
    factor = int.from_bytes(one_time[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    text = bound + bytes(-len(bound) % 16) + sealed + bytes(-len(sealed) % 16)
    text += struct.pack("<QQ", len(bound), len(sealed))
    total = 0
    for at in range(0, len(text), 16):
        part = int.from_bytes(text[at : at + 16] + b"\1", "little")
        total = (total + part) * factor % (2**130 - 5)
    found = (total + int.from_bytes(one_time[16:], "little")) % 2**128
    assert found.to_bytes(16, "little") == tag, "the tag is wrong"
    stream = b"".join(_block(key, 1 + n, nonce) for n in range(-(-len(sealed) // 64)))
    return bytes(a ^ b for a, b in zip(sealed, stream, strict=False))


def derive(secret: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    """HKDF-SHA256 (RFC 5869)."""
    extracted = hmac.digest(salt, secret, "sha256")
    found, last = b"", b""
    for number in range(1, size // 32 + 1):
        last = hmac.digest(extracted, last + info + bytes([number]), "sha256")
        found += last
    return found
