"""Do the records say what they must: tags, the rows of manifests, tokens?

One that was cut short by a loss of power reads as well as any other, and is found out only by what it says. What is
wrong with one is noted (faults.py), which `mirror status` says. For threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from mirror.errors import DigestInvalid, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests
from mirror.store.repositories import find_repositories
from mirror.store.tags import Tags
from mirror.store.tokens import Tokens


def ill(layout: Layout, names: Iterable[str] | None = None) -> Iterator[StoreUnreadable]:
    """Read the records of all repositories, or of some; yield what is wrong with those that cannot be, or are damaged.

    Raises StoreUnreadable where it cannot be listed which there are.
    """
    tags, rows = Tags(layout), Manifests(layout)
    for name in names if names is not None else find_repositories(layout):
        for tag in tags.list(name):
            yield from _wrong(partial(tags.read, name, tag))
        for digest in rows.list(name):
            yield from _wrong(partial(rows.read_manifest, name, digest))


def look(layout: Layout, path: str) -> Iterator[StoreUnreadable]:
    """Read one record, at `path`; yield what is wrong with it. Nothing, where it is gone, or no such record."""
    folder, last = os.path.split(path)
    if folder == str(layout.tokens):
        yield from _wrong(partial(Tokens(layout.tokens).check, last))
        return
    if os.path.basename(folder) == "_tags":
        yield from _wrong(partial(Tags(layout).read, _name(layout, folder), last))
        return
    manifests, algorithm = os.path.split(folder)
    if os.path.basename(manifests) == "_manifests":
        try:
            digest = Digest.parse(f"{algorithm}:{last}")
        except DigestInvalid:
            return
        yield from _wrong(partial(Manifests(layout).read_manifest, _name(layout, manifests), digest))


def _name(layout: Layout, folder: str) -> str:
    return os.path.relpath(os.path.dirname(folder), layout.repositories)


def _wrong(read: Callable[[], object]) -> Iterator[StoreUnreadable]:
    try:
        read()
    except StoreUnreadable as error:
        yield error
