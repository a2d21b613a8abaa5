"""OpenPGP packets (RFC 4880 4): taken apart, out of compressed packets and ASCII armor.

All of it reads what strangers wrote: every size is bounded, and what is odd is refused instead of guessed at.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import NamedTuple

SIGNATURE, ONE_PASS, SECRET_KEY, PUBLIC_KEY, SECRET_SUBKEY, COMPRESSED = 2, 4, 5, 6, 7, 8
MARKER, LITERAL, SUBKEY = 10, 11, 14

_BEGIN, _END = b"-----BEGIN PGP ", b"-----END PGP "


class PacketInvalid(ValueError):
    """What is no OpenPGP, or more of it than is accepted. The text completes "it …" and names the rule."""


class Packet(NamedTuple):
    """A packet's tag (4.3) and its body."""

    tag: int
    body: bytes


class Octets:
    """Octets read front to back. Reading beyond their end raises PacketInvalid."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._position = 0

    @property
    def left(self) -> int:
        """How many are not read yet."""
        return len(self._raw) - self._position

    def take(self, count: int) -> bytes:
        """Read `count` octets."""
        if count > self.left:
            raise PacketInvalid("ends too early")
        self._position += count
        return self._raw[self._position - count : self._position]

    def rest(self) -> bytes:
        """Read all that is left."""
        return self.take(self.left)

    def number(self, count: int) -> int:
        """Read a number of `count` octets."""
        return int.from_bytes(self.take(count), "big")

    def mpi(self) -> int:
        """Read a multiprecision integer (3.2)."""
        return int.from_bytes(self.take((self.number(2) + 7) // 8), "big")


def packets(raw: bytes, limit: int) -> list[Packet]:
    """Return the packets of `raw` (4.2), at most `limit` of them."""
    octets, found = Octets(raw), list[Packet]()
    while octets.left:
        if len(found) == limit:
            raise PacketInvalid(f"has more than {limit} packets")
        head = octets.number(1)
        if not head & 0x80:
            raise PacketInvalid("holds octets that are not a packet")
        if head & 0x40:
            found.append(Packet(head & 0x3F, _new_body(octets)))
        elif head & 3 == 3:
            found.append(Packet(head >> 2 & 0x0F, octets.rest()))  # indeterminate: up to the end
        else:
            found.append(Packet(head >> 2 & 0x0F, octets.take(octets.number(1 << (head & 3)))))
    return found


def _new_body(octets: Octets) -> bytes:
    """Return a body of which a length of the new format says how long it is, in partial lengths or not (4.2.2)."""
    parts = []
    while 224 <= (first := octets.number(1)) < 255:
        parts.append(octets.take(1 << (first & 0x1F)))
    parts.append(octets.take(length(first, octets)))
    return b"".join(parts)


def length(first: int, octets: Octets) -> int:
    """Return the length that begins with the octet `first` (4.2.2, 5.2.3.1)."""
    if first < 192:
        return first
    return octets.number(4) if first == 255 else ((first - 192) << 8) + octets.number(1) + 192


def unpack(raw: bytes, *, size: int, depth: int, limit: int) -> list[Packet]:
    """Return the packets of `raw` with those in the place of each compressed packet (5.6) that it holds.

    At most `size` octets come out of all compressed packets together, which are nested at most `depth` deep.
    """
    found, room = packets(raw, limit), size
    while any(packet.tag == COMPRESSED for packet in found):
        if not depth:
            raise PacketInvalid("is compressed several times over")
        depth -= 1
        flat: list[Packet] = []
        for packet in found:
            if packet.tag != COMPRESSED:
                flat.append(packet)
                continue
            inner = _inflate(packet.body, room)
            room -= len(inner)
            flat += packets(inner, limit)
        found = flat
    if len(found) > limit:
        raise PacketInvalid(f"has more than {limit} packets")
    return found


def _inflate(body: bytes, room: int) -> bytes:
    octets = Octets(body)
    algorithm, packed = octets.number(1), octets.rest()
    if algorithm == 0:
        return packed
    if algorithm not in (1, 2):
        raise PacketInvalid(f"is compressed by algorithm {algorithm}, which is not supported")
    deflate = zlib.decompressobj(-zlib.MAX_WBITS if algorithm == 1 else zlib.MAX_WBITS)
    try:
        # Never more than `room` and one octet come into being, whatever the input would grow to.
        inner = deflate.decompress(packed, room + 1)
    except zlib.error:
        raise PacketInvalid("cannot be decompressed") from None
    if len(inner) > room:
        raise PacketInvalid("decompresses to far more than a signature has, as a compression bomb does")
    if not deflate.eof:
        raise PacketInvalid("ends too early")
    if deflate.unused_data:
        raise PacketInvalid("holds more than the compressed message")
    return inner


def dearmor(raw: bytes) -> bytes:
    """Return the packets inside ASCII armor (6.2), of all blocks one after another; what is no armor as it is.

    Checksums are not looked at (RFC 9580 6.1): what counts is proven by signatures and fingerprints.
    """
    if _BEGIN not in raw:
        return raw
    found, lines = b"", list[bytes]()
    inside = headers = False
    for line in map(bytes.strip, raw.split(b"\n")):
        if line.startswith((_BEGIN, _END)):
            if inside == line.startswith(_BEGIN) or headers:
                raise PacketInvalid("has damaged ASCII armor")
            if inside:
                found += _decode(b"".join(lines))
            inside, lines = not inside, []
            headers = inside
        elif headers:
            headers = bool(line)  # they end at an empty line
        elif inside and not line.startswith(b"="):
            lines.append(line)
    if inside:
        raise PacketInvalid("has damaged ASCII armor")
    return found


def _decode(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise PacketInvalid("has damaged ASCII armor") from None
