"""Tar archives read strictly: where each file lies in an open archive, and nothing that is more than a file.

The formats are POSIX ustar and pax (IEEE 1003.1-2017, pax, "ustar Interchange Format" and "pax Header Block") and
GNU's long names and base-256 numbers. The archive is never unpacked: a member is an offset and a size.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from mirror.errors import Corrupt, MirrorError

BLOCK = 512
MEMBERS_LIMIT = 1_000_000
NAME_LIMIT = 4096

_EXTENSION_LIMIT = 64 * 1024  # bytes of one pax header or long name
_OCTAL_LIMIT = 8**11  # what the size field cannot spell in octal
_WINDOW = 128 * 1024
_STEP = 1024 * 1024

_REGULAR, _LINKS, _SYMLINK, _FOLDER = (b"0", b"\0"), (b"1", b"2"), b"2", b"5"
_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK = b"x", b"g", b"L", b"K"
_EXTENSIONS = (_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK)
_REFUSED = {
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a named pipe",
    b"7": "a contiguous file",
    b"S": "a sparse file",
    b"M": "the rest of a file that began on another volume",
    b"D": "a folder of an incremental dump",
}
_PACKED = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"\xfd7zXZ", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"BZh", "bzip2", "bunzip2"),
)
_PACKED_NAME = re.compile(r"(?:\.tar)?(?:\.(?:gz|xz|zst|bz2|tgz|txz|tzst|tbz2?|tar))?$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class ArchiveInvalid(Corrupt):
    """An archive that is damaged, cut short, or made to mislead who reads it."""


class FormatUnsupported(MirrorError):
    """A file that is whole and that we do not take in this form."""


class Member(NamedTuple):
    """A file in an archive: its content is `size` bytes from `offset`. A symbolic link has its target in `link`."""

    name: str
    offset: int
    size: int
    link: str = ""


class _Extended(NamedTuple):
    """What headers before a member's own say about it."""

    name: str | None = None
    link: str | None = None
    size: int | None = None


class Tar:
    """An open archive, called `label` in what is said about it. Owns `fd`. Everything here blocks.

    Raises FormatUnsupported where `fd` is not a regular file, or compressed.
    """

    def __init__(self, fd: int, label: str) -> None:
        self.fd = fd
        self.label = label
        self._window = (0, b"")
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise FormatUnsupported(f"{label} is not a regular file", "give the archive itself, not a pipe")
            self.size = status.st_size
            self._refuse_packed()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the archive. Safe to call twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def members(self, *, links: bool = False) -> Iterator[Member]:
        """Yield the archive's files in their order, with `links` its symbolic links too; folders are left out.

        Raises ArchiveInvalid for whatever no honest archive of images holds: other kinds of members, names that are
        absolute, climb or come twice, sizes that two readers could take differently, more than MEMBERS_LIMIT members,
        an end that is missing.
        """
        seen: set[int] = set()
        position = count = 0
        extended = _Extended()
        kinds: set[bytes] = set()
        while True:
            header = self._header(position)
            if header is None:
                if kinds:
                    raise self._invalid(position, "its last header announces a member that is not there")
                return
            kind, size = header[156:157], self._number(header[124:136], position)
            if kind in _EXTENSIONS:
                if kind in kinds:
                    raise self._invalid(position, "two headers of one kind precede a member")
                if kind != _PAX_GLOBAL:
                    kinds.add(kind)
                extended = self._extend(extended, kind, position, size)
                position = _after(position, size)
            else:
                member, position = self._member(header, kind, size, extended, position, links=links)
                extended, kinds = _Extended(), set()
                if member is not None:
                    # Hashes of names, seeded anew in each process: a million names themselves take too much memory.
                    if hash(member.name) in seen:
                        raise self._invalid(member.offset, f"it holds {member.name} twice")
                    seen.add(hash(member.name))
                    yield member
            count += 1
            if count > MEMBERS_LIMIT:
                raise self._invalid(position, f"it has more than {MEMBERS_LIMIT} members")

    def read(self, member: Member, limit: int) -> bytes:
        """Return a small member's content; raise ArchiveInvalid where it has more than `limit` bytes."""
        if member.size > limit:
            raise ArchiveInvalid(f"{member.name} in {self.label} has {member.size} bytes, more than {limit}")
        return self._exactly(member.offset, member.size)

    def reader(self, member: Member) -> Callable[[int], bytes]:
        """Return a function that returns the next bytes of a member, at most as many as asked; none at its end.

        Each reader has a position of its own; one is for one thread.
        """
        position, stop = member.offset, member.offset + member.size

        def read(count: int) -> bytes:
            nonlocal position
            length = min(count, stop - position, _STEP)
            if length <= 0:
                return b""
            found = self._pread(position, length)
            if not found:
                raise self._invalid(position, "it has become shorter while it was being read")
            position += len(found)
            return found

        return read

    def _header(self, position: int) -> bytes | None:
        """Return the header at `position`, None where the archive ends; a missing end means a cut archive."""
        header = self._small(position, BLOCK)
        if len(header) < BLOCK:
            raise self._invalid(position, "it is cut short: its end is missing", "copy it again")
        if not header.strip(b"\0"):
            return None
        if header[257:263] not in (b"ustar\0", b"ustar "):
            what = "this is not a tar archive" if position == 0 else "there is no header where a member should begin"
            raise self._invalid(position, what, "copy it again, or make it again")
        claimed = self._number(header[148:156], position)
        if claimed != sum(header) - sum(header[148:156]) + 8 * 0x20:
            raise self._invalid(position, "a header is damaged", "copy it again")
        return header

    def _member(
        self, header: bytes, kind: bytes, size: int, extended: _Extended, position: int, *, links: bool
    ) -> tuple[Member | None, int]:
        """Return the member of a header, None for a folder, and where the next header is."""
        shown, folder = self._name(header, extended, position)
        offset = position + BLOCK
        if kind == _FOLDER or (kind == b"\0" and folder):
            if size or extended.size:
                raise self._invalid(position, f"the folder {shown} has content")
            return None, offset
        if not shown or folder:
            raise self._invalid(position, "a file has no name")
        if kind in _LINKS:
            if not links or kind != _SYMLINK:
                raise self._invalid(position, f"{shown} is a link", "an archive of images needs none; make it again")
            if size or extended.size:
                raise self._invalid(position, f"the link {shown} has content")
            target = extended.link if extended.link is not None else self._text(header[157:257], position)
            return Member(shown, offset, 0, self._plain(target, position)), offset
        if kind not in _REGULAR:
            what = _REFUSED.get(kind, "of a kind that no archive of images needs")
            raise self._invalid(position, f"{shown} is {what}", "make the archive again")
        size = self._agreed(size, extended.size, position)
        if offset + size > self.size:
            raise self._invalid(self.size, f"it is cut short within {shown}", "copy it again")
        return Member(shown, offset, size), _after(position, size)

    def _agreed(self, size: int, extended: int | None, position: int) -> int:
        """Return a file's size: the pax one only where the header could not spell it, as its writers leave it."""
        if extended is None or extended == size:
            return size
        if extended >= _OCTAL_LIMIT and size in (0, _OCTAL_LIMIT - 1):
            return extended
        raise self._invalid(position, f"two sizes are given for one file, {size} and {extended}")

    def _name(self, header: bytes, extended: _Extended, position: int) -> tuple[str, bool]:
        """Return a member's name without `./` and trailing slashes, and whether it had one (a folder's)."""
        if extended.name is not None:
            name = extended.name
        else:
            name = self._text(header[0:100], position)
            prefix = self._text(header[345:500], position) if header[257:263] == b"ustar\0" else ""
            name = f"{prefix}/{name}" if prefix else name
        self._plain(name, position)
        if name.startswith("/"):
            raise self._invalid(position, f"it names the absolute path {name[:160]}", "make the archive again")
        parts = name.split("/")
        folder = parts[-1] in ("", ".")
        kept = [part for part in parts if part not in ("", ".")]
        if ".." in kept:
            raise self._invalid(position, f"it names a path that climbs, {name[:160]}", "make the archive again")
        return "/".join(kept), folder

    def _extend(self, known: _Extended, kind: bytes, position: int, size: int) -> _Extended:
        """Return `known` with what an extension header adds."""
        if size > _EXTENSION_LIMIT:
            raise self._invalid(position, f"a header of {size} bytes precedes a member")
        body = self._small(position + BLOCK, size)
        if len(body) < size:
            raise self._invalid(self.size, "it is cut short within a header", "copy it again")
        if kind == _GNU_NAME:
            return known._replace(name=self._text(body, position))
        if kind == _GNU_LINK:
            return known._replace(link=self._text(body, position))
        records = self._records(body, position)
        if any(key.startswith("GNU.sparse") for key in records):
            raise self._invalid(position, "it holds a sparse file", "make it again without --sparse")
        told = {key: records[key] for key in ("path", "linkpath", "size") if key in records}
        if kind == _PAX_GLOBAL and told:
            raise self._invalid(position, "a global header gives every member one name or size")
        if "size" in told and not (told["size"].isascii() and told["size"].isdigit() and len(told["size"]) < 20):
            raise self._invalid(position, "a pax header gives no whole number as size")
        return _Extended(
            told.get("path", known.name),
            told.get("linkpath", known.link),
            int(told["size"]) if "size" in told else known.size,
        )

    def _records(self, body: bytes, position: int) -> dict[str, str]:
        """Return the records of a pax header: lines of `<length> <key>=<value>`, the length that of the line."""
        found: dict[str, str] = {}
        start = 0
        while start < len(body):
            space = body.find(b" ", start, start + 8)
            digits = body[start:space] if space > start else b""
            length = int(digits) if digits.isdigit() else 0
            record = body[start : start + length]
            if length <= len(digits) + 1 or len(record) != length or record[-1:] != b"\n":
                raise self._invalid(position, "a pax header is damaged", "copy the archive again")
            key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
            name = self._decoded(key, position)
            if not equals or name in found:
                raise self._invalid(position, "a pax header is damaged", "copy the archive again")
            # Other values (extended attributes) may be any bytes, and nobody asks for them.
            found[name] = self._decoded(value, position) if name in ("path", "linkpath", "size") else ""
            start += length
        return found

    def _number(self, field: bytes, position: int) -> int:
        """Return a header's number: octal digits, or base 256 where the first bit is set (GNU)."""
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        digits = field.strip(b" \0")
        if re.fullmatch(rb"[0-7]*", digits) is None:
            raise self._invalid(position, "a header gives no number where one belongs")
        return int(digits or b"0", 8)

    def _text(self, field: bytes, position: int) -> str:
        """Return a header's text, which ends at a NUL."""
        return self._decoded(field.partition(b"\0")[0], position)

    def _decoded(self, raw: bytes, position: int) -> str:
        with suppress(UnicodeDecodeError):
            return raw.decode()
        raise self._invalid(position, "a name in it is not UTF-8")

    def _plain(self, text: str, position: int) -> str:
        if len(text) > NAME_LIMIT or _CONTROL.search(text):
            raise self._invalid(position, "it holds a name of control characters, or of more than 4096")
        return text

    def _refuse_packed(self) -> None:
        start = self._pread(0, 8)
        for magic, name, program in _PACKED:
            if start.startswith(magic):
                raise FormatUnsupported(
                    f"{self.label} is compressed with {name}",
                    f"layers are compressed already, so it gains nothing. Unpack it, and load that:"
                    f" {program} -c {shlex.quote(self.label)} > {shlex.quote(_unpacked(self.label))}",
                )

    def _small(self, position: int, length: int) -> bytes:
        """Return a few bytes, read many at a time: headers of small files lie close together."""
        start, held = self._window
        if not (start <= position and position + length <= start + len(held)):
            held = self._pread(position, max(_WINDOW, length))
            start, self._window = position, (position, held)
        return held[position - start : position - start + length]

    def _exactly(self, position: int, length: int) -> bytes:
        found = bytearray()
        while len(found) < length:
            more = self._pread(position + len(found), length - len(found))
            if not more:
                raise self._invalid(position, "it has become shorter while it was being read")
            found += more
        return bytes(found)

    def _pread(self, position: int, length: int) -> bytes:
        try:
            return os.pread(self.fd, length, position)
        except OSError as error:
            raise self._invalid(position, f"it cannot be read ({error.strerror})", "look at the medium") from error

    def _invalid(self, position: int, what: str, remedy: str = "") -> ArchiveInvalid:
        return ArchiveInvalid(f"{self.label} at byte {position}: {what}", remedy)


def _after(position: int, size: int) -> int:
    """Return where the header after a member of `size` bytes is."""
    return position + BLOCK + -(-size // BLOCK) * BLOCK


def _unpacked(path: str) -> str:
    """Return a name for what a compressed archive holds: beside it, and not its own."""
    stem = _PACKED_NAME.sub("", path)
    return f"{stem}.tar" if f"{stem}.tar" != path else f"{stem}-unpacked.tar"
