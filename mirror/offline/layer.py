"""Image layers as strangers send them: gunzipped and walked as a tar within bounds; nothing is ever unpacked."""

from __future__ import annotations

import itertools
import os
import posixpath
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from mirror.errors import UpstreamInvalid

OUTPUT_LIMIT = 512 * 1024 * 1024  # bytes of a layer after decompression; a release's top layer has some 30 MiB
FILE_LIMIT = 4 * 1024 * 1024  # bytes of one file that is read; image-references of 200 components has 300 KiB
MEMBERS_LIMIT = 100_000  # headers of a tar
_HEADERS_LIMIT = 1024 * 1024  # bytes of one pax header or long name, as in Go's archive/tar

_BLOCK = 512
_INPUT = 64 * 1024
_STEP = 256 * 1024
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_WITH_ITS_HEADER = zlib.MAX_WBITS | 16

_FILES = frozenset(b"0\x007")
_HEADER_ONLY = frozenset(b"123456")  # links, devices, folders, pipes: whatever size they say, no data follows
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = ord("L"), ord("K"), ord("x"), ord("g")


class PayloadInvalid(UpstreamInvalid):
    """A release image that is not what its signature was given for: no tar, out of bounds, or without sense."""


@dataclass(frozen=True, slots=True)
class Member:
    """An entry of a layer. `name` is clean: no leading slash, no `.` or `..`.

    `content` is there for files that are wanted and have at most FILE_LIMIT bytes.
    """

    name: str
    kind: Literal["file", "other"]
    content: bytes | None = None


def members(
    layer: int | Iterable[bytes], wanted: Callable[[str], bool], *, limit: int = OUTPUT_LIMIT
) -> Iterator[Member]:
    """Yield the entries of a layer, files that are `wanted` by name with their content.

    `layer` is a descriptor, which is read by position and stays open, or the layer's bytes in pieces; of what it
    unpacks to at most `limit` bytes are read. For threads. Raises PayloadInvalid for what is neither a gzip tar nor a
    plain one, is cut short, or goes beyond the limits; OSError, and what giving the pieces raises.
    """
    stream = _Output(_unpacked(_pieces(layer) if isinstance(layer, int) else iter(layer)), limit)
    long_name, pax = "", dict[str, str]()
    for _ in range(MEMBERS_LIMIT):
        header = stream.read(_BLOCK)
        if not header:
            return
        if header == bytes(_BLOCK):
            # One empty block ends the archive for some readers and not for others.
            if stream.read(_BLOCK).strip(b"\0"):
                raise PayloadInvalid("the layer's tar goes on after its end")
            return
        kind, size = _checked(header)
        if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
            said = _meta(stream, size)
            if kind == _LONG_NAME:
                long_name = said.split(b"\0")[0].decode(errors="replace")
            elif kind == _PAX:
                pax = _records(said)
            continue
        spelled = pax.get("path") or long_name or _name(header)
        name = _clean(spelled)
        if "size" in pax:
            size = _decimal(pax["size"])
        # A sparse file's data is not its content, and before ustar a folder was a file with a slash.
        is_sparse = any(key.startswith("GNU.sparse.") for key in pax)
        is_file = kind in _FILES and not is_sparse and not spelled.endswith("/")
        long_name, pax = "", {}
        if kind in _HEADER_ONLY:
            yield Member(name, "other")
        elif is_file and size <= FILE_LIMIT and wanted(name):
            content = stream.exactly(size)
            stream.skip(-size % _BLOCK)
            yield Member(name, "file", content)
        else:
            stream.skip(size + -size % _BLOCK)
            yield Member(name, "file" if is_file else "other")
    raise PayloadInvalid(f"the layer has more than {MEMBERS_LIMIT} entries")


class _Output:
    """The bytes of a tar in order, never more than `limit` of them."""

    def __init__(self, chunks: Iterator[bytes], limit: int) -> None:
        self._chunks = chunks
        self._limit = limit
        self._held = bytearray()
        self._seen = 0

    def _more(self) -> bool:
        for chunk in self._chunks:
            self._seen += len(chunk)
            if self._seen > self._limit:
                raise PayloadInvalid(f"the layer holds more than {self._limit} bytes")
            self._held += chunk
            return True
        return False

    def read(self, length: int) -> bytes:
        """Return the next `length` bytes; nothing at the end; raise PayloadInvalid for less."""
        while len(self._held) < length and self._more():
            pass
        if not self._held:
            return b""
        return self.exactly(length)

    def exactly(self, length: int) -> bytes:
        """Return the next `length` bytes; raise PayloadInvalid where there are fewer."""
        while len(self._held) < length:
            if not self._more():
                raise PayloadInvalid("the layer's tar is cut short")
        taken = bytes(self._held[:length])
        del self._held[:length]
        return taken

    def skip(self, length: int) -> None:
        """Drop the next `length` bytes; raise PayloadInvalid where there are fewer."""
        while length:
            if not self._held and not self._more():
                raise PayloadInvalid("the layer's tar is cut short")
            dropped = min(length, len(self._held))
            del self._held[:dropped]
            length -= dropped


def _unpacked(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Return the layer's tar in pieces, by what its first bytes say rather than by a media type that may lie."""
    head = b""
    while len(head) < len(_ZSTD) and (piece := next(pieces, b"")):
        head += piece
    if head.startswith(_ZSTD):
        raise PayloadInvalid("the layer is compressed with zstd", "releases are gzip; this one cannot be read here")
    whole = itertools.chain((head,), pieces)
    return _gunzipped(whole) if head.startswith(_GZIP) else whole


def _pieces(fd: int) -> Iterator[bytes]:
    offset = 0
    while piece := os.pread(fd, _INPUT, offset):
        offset += len(piece)
        yield piece


def _gunzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what a gzip file of one or more streams (RFC 1952, section 2.2) holds, in steps of bounded size."""
    inflate = zlib.decompressobj(_WITH_ITS_HEADER)
    try:
        for piece in pieces:
            while piece:
                if inflate.eof:
                    if not piece.startswith(_GZIP[: len(piece)]):
                        return  # padding
                    inflate = zlib.decompressobj(_WITH_ITS_HEADER)
                if step := inflate.decompress(piece, _STEP):
                    yield step
                piece = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
        # What did not fit into the last step comes out without further input.
        while not inflate.eof:
            step = inflate.decompress(b"", _STEP)
            if not step:
                raise PayloadInvalid("the layer's gzip is cut short")
            yield step
    except zlib.error as error:
        raise PayloadInvalid(f"the layer is not sound gzip ({error})") from None


def _checked(header: bytes) -> tuple[int, int]:
    """Return the type and size of a header whose checksum holds (POSIX.1-2017, pax, ustar Interchange Format)."""
    said = _number(header[148:156])
    blank = header[:148] + b" " * 8 + header[156:]
    # Some old tars add the bytes up as signed ones.
    if said != sum(blank) and said != sum(byte - 256 if byte > 127 else byte for byte in blank):
        raise PayloadInvalid("the layer is not a tar", "a release's layers are gzip tars")
    return header[156], _number(header[124:136])


def _number(field: bytes) -> int:
    """Return an octal number, or GNU's base-256 form of a large one."""
    if field[0] & 0x80:
        if field[0] != 0x80:
            raise PayloadInvalid("the layer's tar has a number out of range")
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise PayloadInvalid("the layer's tar has an invalid number")
    return int(digits, 8)


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise PayloadInvalid("the layer's tar has an invalid size")
    return int(text)


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    # GNU's older form keeps times where ustar keeps the prefix.
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode(errors="replace")


def _clean(name: str) -> str:
    return posixpath.normpath("/" + name.lstrip("/"))[1:]


def _meta(stream: _Output, size: int) -> bytes:
    if size > _HEADERS_LIMIT:
        raise PayloadInvalid(f"the layer's tar has a header of {size} bytes")
    said = stream.exactly(size)
    stream.skip(-size % _BLOCK)
    return said


def _records(said: bytes) -> dict[str, str]:
    """Return the records of a pax header, `<length> <key>=<value>` and a line feed each."""
    found: dict[str, str] = {}
    rest = memoryview(said)
    while rest:
        digits, space, _ = bytes(rest[:20]).partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = bytes(rest[len(digits) + 1 : length])
        key, equals, value = record.partition(b"=")
        if length > len(rest) or not equals or not value.endswith(b"\n"):
            raise PayloadInvalid("the layer's tar has an invalid pax header")
        found[key.decode(errors="replace")] = value[:-1].decode(errors="replace")
        rest = rest[length:]
    return found
