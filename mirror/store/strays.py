"""Strays: files in blobs/ and repositories/ that nothing of this store put there, or left there half written."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from mirror.errors import DigestInvalid, TagInvalid
from mirror.oci.digest import Digest
from mirror.oci.reference import check_tag, is_name
from mirror.store import files
from mirror.store.layout import Layout

_ALGORITHMS = ("sha256", "sha512")
_WRITING = re.compile(r".+\.[0-9]+-[0-9a-f]{8}~")  # what files.write_atomically writes before its rename


class Stray(NamedTuple):
    """A file or folder that does not belong: its path, when it changed last (Unix time), and whether it was ours."""

    path: str
    changed: float
    ours: bool

    def is_young(self, age: float) -> bool:
        """Tell whether it changed within `age` seconds: somebody may be writing it."""
        return time.time() - self.changed < age


def stray_content(layout: Layout) -> Iterator[Stray]:
    """Yield what is in blobs/ and is no content. For threads.

    What has the name of content and is no file is none of it: that content cannot be read, and it stays.
    """
    for entry in files.entries(str(layout.blobs)):
        if entry.name in _ALGORITHMS and entry.is_dir(follow_symlinks=False):
            for one in files.entries(entry.path):
                if not _is_digest(f"{entry.name}:{one.name}"):
                    yield from _stray(one)
        else:
            yield from _stray(entry)


def stray_records(layout: Layout) -> Iterator[Stray]:
    """Yield what is in repositories/ and is no record of one. For threads.

    What has the name of a tag or of a manifest's row and is no file is told by who reads these (records.py).
    """
    folders = [("", str(layout.repositories))]
    while folders:
        name, path = folders.pop()
        for entry in files.entries(path):
            check = _KINDS.get(entry.name) if name else None
            inner = f"{name}/{entry.name}" if name else entry.name
            if not entry.is_dir(follow_symlinks=False):
                yield from _stray(entry)
            elif check is not None:
                yield from check(entry.path)
            elif is_name(inner):
                folders.append((inner, entry.path))
            else:
                yield from _stray(entry)


def _tags(folder: str) -> Iterator[Stray]:
    for entry in files.entries(folder):
        if not _is_tag(entry.name):
            yield from _stray(entry)


def _manifests(folder: str) -> Iterator[Stray]:
    return _rows(folder, told=True)


def _rows(folder: str, *, told: bool = False) -> Iterator[Stray]:
    """Yield what is no row; `told` is elsewhere what has the name of one and is no file."""
    for algorithm in files.entries(folder):
        if algorithm.name not in _ALGORITHMS or not algorithm.is_dir(follow_symlinks=False):
            yield from _stray(algorithm)
            continue
        for entry in files.entries(algorithm.path):
            known = _is_digest(f"{algorithm.name}:{entry.name}")
            if not (known and (told or entry.is_file(follow_symlinks=False))):
                yield from _stray(entry)


def _referrers(folder: str) -> Iterator[Stray]:
    for algorithm in files.entries(folder):
        for subject in files.entries(algorithm.path):
            if not (subject.is_dir(follow_symlinks=False) and _is_digest(f"{algorithm.name}:{subject.name}")):
                yield from _stray(subject)
                continue
            for entry in files.entries(subject.path):
                known = entry.name == "index.json" or _is_digest(entry.name.replace("-", ":", 1))
                if not (known and entry.is_file(follow_symlinks=False)):
                    yield from _stray(entry)


_KINDS = {"_tags": _tags, "_manifests": _manifests, "_blobs": _rows, "_referrers": _referrers}


def _stray(entry: os.DirEntry[str]) -> Iterator[Stray]:
    with suppress(FileNotFoundError):
        found = entry.stat(follow_symlinks=False)
        ours = _WRITING.fullmatch(entry.name) is not None and entry.is_file(follow_symlinks=False)
        yield Stray(entry.path, max(found.st_mtime, found.st_ctime), ours)


def _is_digest(text: str) -> bool:
    try:
        Digest.parse(text)
    except DigestInvalid:
        return False
    return True


def _is_tag(text: str) -> bool:
    try:
        check_tag(text)
    except TagInvalid:
        return False
    return True
