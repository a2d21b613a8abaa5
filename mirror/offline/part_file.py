"""A part as it lies on a disk that somebody carried here: nothing of it is believed but what its checksums prove."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from mirror.config.values import count_text
from mirror.offline import part, ustar
from mirror.offline.part import Index, Member, PartDamaged
from mirror.outside import Outside

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_STEP = 1024 * 1024
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder",
    b"6": "a named pipe",
    b"S": "a sparse file",
    b"x": "an extended header",
    b"g": "an extended header",
    b"L": "a long name",
    b"K": "a long link",
}


class NotAPart(PartDamaged):
    """A file that does not begin as a part does."""


class PartFile:
    """An open part. Raises NotAPart, PartDamaged, PartUnsupported where its index cannot be had, and OSError."""

    def __init__(self, outside: Outside, path: Path) -> None:
        self.path = path
        self._fd = outside.open(path, _FLAGS)
        try:
            found = os.fstat(self._fd)
            if not stat.S_ISREG(found.st_mode):
                raise NotAPart("it is not a file")
            self.size = found.st_size
            self.index = self._read_index()
        except BaseException:
            os.close(self._fd)
            raise
        self._places = {member.name: (member, place) for member, place in self.index.places()}

    def __enter__(self) -> PartFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def defects(self) -> Iterator[tuple[str, str]]:
        """Yield (member, why) of what is wrong, but for content, which is proven when it is read; "" is the file."""
        expected = self.index.size
        if self.size < expected:
            yield "", f"it is cut short: {self.size} of {expected} bytes"
            return
        if self.size > expected:
            yield "", f"it has {count_text(self.size, 'byte')}, and {expected} were written"
        if self._read(expected - len(ustar.END), len(ustar.END)) != ustar.END:
            yield "", "its end is damaged"
        head = len(self.index.dump())
        fixed = [
            (Member(part.INDEX, head, ""), 0),
            (Member(part.CHECKSUM, part.CHECKSUM_SIZE, ""), ustar.stored(head)),
        ]
        for member, place in [*fixed, *self._places.values()]:
            if self._read(place + ustar.BLOCK + member.size, ustar.padding(member.size)).strip(b"\0"):
                yield "", f"what follows {member.name} is damaged"
        for member in self.index.members:
            if part.piece(member.name) is None:
                try:
                    self.content(member.name)
                except PartDamaged as error:
                    yield member.name, error.what

    def content(self, name: str) -> bytes:
        """Return the whole of a small member; raise PartDamaged where it is not what the index says."""
        chunks = []
        read = self.reader(name)
        left = self._places[name][0].size
        while left:
            chunks.append(read(min(left, _STEP)))
            left -= len(chunks[-1])
        return b"".join(chunks)

    def reader(self, name: str, *, checked: bool = True) -> Callable[[int], bytes]:
        """Return what reads a member in order, raising PartDamaged where it is not as the index says, and OSError.

        The header is looked at first. With `checked`, the checksum is compared when the last byte is asked for;
        without it the caller proves the bytes in another way.
        """
        member, place = self._places[name]
        self._check_header(member, place)
        start, position = place + ustar.BLOCK, 0
        hasher = hashlib.sha256()

        def read(count: int) -> bytes:
            nonlocal position
            content = self._read(start + position, min(count, _STEP, member.size - position))
            if not content and position < member.size:
                raise PartDamaged(f"it ends after {position} of {count_text(member.size, 'byte')}")
            position += len(content)
            if checked:
                hasher.update(content)
                if position == member.size and hasher.hexdigest() != member.sha256:
                    raise PartDamaged("it has other bytes than were written")
            return content

        if not member.size and checked and hasher.hexdigest() != member.sha256:
            raise PartDamaged("it has other bytes than were written")
        return read

    def _check_header(self, member: Member, place: int) -> None:
        found = self._read(place, ustar.BLOCK)
        if found != ustar.header(member.name, member.size):
            raise PartDamaged(_unlike(found, member))

    def _read_index(self) -> Index:
        first = self._read(0, ustar.BLOCK)
        name = part.INDEX.encode()
        if len(first) < ustar.BLOCK:
            raise NotAPart(f"it is cut short: {count_text(self.size, 'byte')}")
        if first[:100].rstrip(b"\0") != name:
            raise NotAPart("it does not begin as a part does")
        try:
            size = int(first[124:135], 8)
        except ValueError:
            size = -1
        if not 0 <= size <= part.INDEX_LIMIT or first != ustar.header(part.INDEX, size):
            raise PartDamaged("its first header is damaged")
        raw = self._read_all(ustar.BLOCK, size)
        place = ustar.stored(size)
        if self._read(place, ustar.BLOCK) != ustar.header(part.CHECKSUM, part.CHECKSUM_SIZE):
            raise PartDamaged("its index is cut short or damaged")
        if self._read(place + ustar.BLOCK, part.CHECKSUM_SIZE) != part.checksum(raw):
            raise PartDamaged("its index is damaged")
        index = Index.parse(raw)
        if index.dump() != raw:
            raise PartDamaged("its index is not written as parts have it")
        return index

    def _read_all(self, start: int, count: int) -> bytes:
        content = bytearray()
        while len(content) < count:
            more = self._read(start + len(content), min(_STEP, count - len(content)))
            if not more:
                raise PartDamaged("its index is cut short")
            content += more
        return bytes(content)

    def _read(self, start: int, count: int) -> bytes:
        return os.pread(self._fd, count, start) if count else b""


def _unlike(found: bytes, member: Member) -> str:
    """Say what stands where a member's header should be."""
    if len(found) < ustar.BLOCK:
        return "the part ends before it"
    if found[148:156] != b"%06o\x00 " % (sum(found) - sum(found[148:156]) + 8 * 0x20):
        return "its header is damaged"
    kind = _KINDS.get(found[156:157])
    if kind is not None:
        return f"{kind} stands in its place"
    name = found[:100].rstrip(b"\0").decode("ascii", "replace")
    if ustar.header(member.name, member.size)[:100] != found[:100]:
        return f"'{name[:100]}' stands in its place"
    return "its header has another size or form"
