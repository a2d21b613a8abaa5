"""What takes the room: the bytes of content by whoever has it, and how many of them nobody else has."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mirror.oci.digest import Digest
from mirror.store.layout import Layout
from mirror.store.walk import find_blobs

_NOBODY = -1
_SEVERAL = -2


@dataclass(slots=True)
class Usage:
    """What one group has of what is here: contents, their bytes, and the bytes that no other group has."""

    name: str
    contents: int = 0
    bytes: int = 0
    unique: int = 0


class Sum(NamedTuple):
    """Contents and their bytes."""

    contents: int
    bytes: int


class Contents:
    """All content that is here, held in 24 bytes each, to be shared out among groups. For threads.

    Digests are told apart by their first 64 bits: that is enough for a sum.
    """

    def __init__(self, layout: Layout) -> None:
        found = sorted(_key(one.digest) << 64 | one.size for one in find_blobs(layout))
        self._keys = array("Q", (one >> 64 for one in found))
        self._sizes = array("Q", (one & 0xFFFFFFFFFFFFFFFF for one in found))
        self._owner = array("i", [_NOBODY]) * len(found)
        self._last = array("i", [_NOBODY]) * len(found)
        self._groups: list[Usage] = []

    @property
    def total(self) -> Sum:
        """Everything that is here."""
        return Sum(len(self._keys), sum(self._sizes))

    @property
    def unnamed(self) -> Sum:
        """What belongs to no group that was counted."""
        sizes = [size for size, owner in zip(self._sizes, self._owner, strict=True) if owner == _NOBODY]
        return Sum(len(sizes), sum(sizes))

    def of(self, digests: Iterable[Digest]) -> Sum:
        """Return what of `digests`, each of which comes once, is here."""
        places = [place for place in map(self._place, digests) if place is not None]
        return Sum(len(places), sum(self._sizes[place] for place in places))

    def count(self, group: str, digests: Iterable[Digest]) -> None:
        """Count what a group has; the parts of one group come one after the other."""
        if not self._groups or self._groups[-1].name != group:
            self._groups.append(Usage(group))
        number, usage = len(self._groups) - 1, self._groups[-1]
        for digest in digests:
            place = self._place(digest)
            if place is None or self._last[place] == number:
                continue
            self._last[place] = number
            size, owner = self._sizes[place], self._owner[place]
            usage.contents += 1
            usage.bytes += size
            if owner == _NOBODY:
                self._owner[place] = number
                usage.unique += size
            else:
                if owner >= 0:
                    self._groups[owner].unique -= size
                self._owner[place] = _SEVERAL

    def groups(self) -> list[Usage]:
        """Return the groups, the largest first."""
        return sorted(self._groups, key=lambda one: (-one.bytes, one.name))

    def _place(self, digest: Digest) -> int | None:
        key = _key(digest)
        place = bisect_left(self._keys, key)
        return place if place < len(self._keys) and self._keys[place] == key else None


def _key(digest: Digest) -> int:
    return int(digest.hex[:16], 16)


def folder_size(path: os.PathLike[str]) -> int:
    """Return the bytes of disk that the files of a folder have. For threads."""
    return sum(_sizes(str(path)))


def _sizes(path: str) -> Iterator[int]:
    try:
        entries = os.scandir(path)
    except OSError:
        return
    with entries:
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    yield from _sizes(entry.path)
                else:
                    yield found.st_blocks * 512
            except FileNotFoundError:
                continue
