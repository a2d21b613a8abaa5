"""A look at some of a store's files of each kind: are they ours, and does the disk give them?

A store that root restored, or that got another SELinux label, looks whole to `ls`; so a few files of each folder are
opened and read, and records of repositories are to make sense. What is wrong is noted (faults.py), which `mirror
status` says. For threads; it takes milliseconds.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice

from mirror.errors import StoreUnreadable
from mirror.store import files, records
from mirror.store.faults import check_file
from mirror.store.layout import Layout

_FILES = 64  # of each folder
_REPOSITORIES = 16
_DEPTH = 6  # of folders in repositories/, of which no more are looked into for a sample


def sample(layout: Layout) -> list[StoreUnreadable]:
    """Read a little of some files of each kind; return what could not be read, and which records are damaged."""
    found = []
    for path in _some(layout):
        try:
            _read(path)
        except StoreUnreadable as error:
            found.append(error)
        else:
            found += records.look(layout, path)
    return found


def closed(layout: Layout, may_read: Callable[[os.stat_result], bool]) -> list[str]:
    """Return those of some files of each kind that `may_read` says are closed to whoever will serve."""
    found = []
    for path in _some(layout):
        with suppress(StoreUnreadable):  # which is noted
            status = files.look(path)
            if status is not None and not may_read(status):
                found.append(path)
    return found


def _read(path: str) -> None:
    status = files.look(path)
    if status is None or stat.S_ISDIR(status.st_mode):
        return
    check_file(path, status)
    fd = files.open_unnoticed(path)
    if fd is None:
        return
    try:
        files.read_bytes(fd, 0, 1)
    finally:
        os.close(fd)


def _some(layout: Layout) -> Iterator[str]:
    yield str(layout.format)
    yield str(layout.current_sets)
    for root in (layout.blobs, layout.hosted, layout.brought):
        for algorithm in ("sha256", "sha512"):
            yield from _first(root / algorithm)
    for folder in (layout.pins, layout.tokens, layout.deletions, layout.graphs, layout.ingest, layout.uploads):
        yield from _first(folder)
    for root in (layout.sets, layout.signatures):
        for inner in _first(root):
            yield from _first(inner)
    for repository in islice(_repositories(layout), _REPOSITORIES):
        yield from _first(f"{repository}/_tags")
        for kind in ("_manifests", "_blobs"):
            yield from _first(f"{repository}/{kind}/sha256")


def _first(folder: str | os.PathLike[str]) -> list[str]:
    with suppress(StoreUnreadable):  # which is noted
        return [entry.path for entry in islice(files.entries(folder), _FILES) if not entry.name.endswith("~")]
    return []


def _repositories(layout: Layout) -> Iterator[str]:
    folders = [(str(layout.repositories), 0)]
    while folders:
        folder, depth = folders.pop()
        entries = _first(folder)
        if any(os.path.basename(entry).startswith("_") for entry in entries):
            yield folder
        if depth < _DEPTH:
            folders += [(entry, depth + 1) for entry in entries if not os.path.basename(entry).startswith("_")]
