"""Take over what earlier releases noted of repositories: which digests each has, under `brought/`."""

from __future__ import annotations

from collections.abc import Iterator

from mirror.store.brought import Brought
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests
from mirror.store.repositories import find_repositories


def adopt(layout: Layout) -> Iterator[int]:
    """Note of every repository what it has, whoever noted that; yield after each how many were new. For threads.

    What has not changed since that was last done is passed by: an earlier release may have served the store meanwhile.
    Raises StoreUnreadable, OSError.
    """
    brought, rows = Brought(layout), Manifests(layout)
    since = brought.completed
    for name in find_repositories(layout):
        count = 0
        if max(*rows.stamp(name), *rows.stamp_blobs(name)) < since:
            yield count
            continue
        for digest in (*rows.list(name), *rows.list_blobs(name)):
            row = rows.manifest(name, digest) or rows.member(name, digest)
            if row is not None and row.brought is not False and name not in brought.by(digest)[0]:
                brought.add(name, digest)
                count += 1
        yield count
    brought.complete()


def adopt_all(layout: Layout) -> None:
    """Do that where it is not done yet. For threads. Raises StoreUnreadable, OSError."""
    if not Brought(layout).is_complete:
        for _ in adopt(layout):
            pass
