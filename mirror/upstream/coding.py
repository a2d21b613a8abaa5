"""Content codings (RFC 9110, 8.4): what an answer's `Content-Encoding` says of its bytes, and how they are decoded."""

from __future__ import annotations

import zlib

# Those that IANA lists and clients know. Object stores keep any other word of an upload (aws-chunked, binary, none,
# utf-8) and say it with bytes that are as they should be.
_CODINGS = frozenset(
    {"gzip", "x-gzip", "deflate", "br", "compress", "x-compress", "zstd", "dcb", "dcz", "exi", "pack200-gzip"}
)
_DECODED = frozenset({"gzip", "x-gzip", "deflate"})
_FIRST_BYTES = (b"\x1f", b"\x78")  # of gzip and of zlib
_MOST_MEMBERS = 16  # gzip files may follow one another (RFC 1952, 2.2)
REMEDY = "a proxy on the way may compress: exempt this registry there"
_ANY_HEADER = zlib.MAX_WBITS | 32  # gzip's or zlib's, as the bytes say


class NotDecodableError(Exception):
    """The text says what is wrong with the bytes."""


def named(header: str) -> tuple[str, ...]:
    """Return the codings that `Content-Encoding: header` names, in their order, without words that are none."""
    if not header:
        return ()
    words = (word.strip().lower() for word in header.split(","))
    return tuple(word for word in words if word in _CODINGS)


def is_decodable(codings: tuple[str, ...]) -> bool:
    """Tell whether `decode` knows the way back: of one gzip or deflate, or of nothing at all."""
    return not codings or (len(codings) == 1 and codings[0] in _DECODED)


def decode(body: bytes, limit: int) -> bytes:
    """Return what gzip or zlib made `body` of, at most `limit` + 1 bytes: one over says that there is more.

    Bytes that are neither are returned as they are: their header speaks of how somebody stored them. Raise
    NotDecodableError for what breaks off or is damaged.
    """
    if not body:
        return body
    pieces: list[bytes] = []
    left = limit + 1
    for _ in range(_MOST_MEMBERS):
        reader = zlib.decompressobj(_ANY_HEADER)
        try:
            pieces.append(reader.decompress(body, left))
        except zlib.error:
            if pieces or body[:1] in _FIRST_BYTES:
                raise NotDecodableError("damaged") from None
            return body
        left -= len(pieces[-1])
        body = reader.unused_data
        if left == 0 or (reader.eof and not body):
            return b"".join(pieces)
        if not reader.eof:
            raise NotDecodableError("cut off")
    raise NotDecodableError(f"in more than {_MOST_MEMBERS} pieces")
