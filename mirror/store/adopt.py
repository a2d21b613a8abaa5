"""Take over what earlier releases noted of repositories: which digests each has, under `brought/`."""

from __future__ import annotations

from collections.abc import Iterator

from mirror.errors import StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store.brought import Brought
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests
from mirror.store.repositories import find_repositories


def adopt(layout: Layout) -> Iterator[int]:
    """Note of every repository what it has, whoever noted that; yield after each how many were new. For threads.

    What has not changed since that was last done is passed by: an earlier release may have served the store meanwhile.
    What cannot be read is no reason to leave out the rest, but it is not done then. Raises StoreUnreadable, OSError.
    """
    brought, rows = Brought(layout), Manifests(layout)
    if not brought.is_kept:
        brought.keep()
    since = brought.completed
    fault: StoreUnreadable | None = None
    for name in find_repositories(layout):
        count = 0
        try:
            if max(*rows.stamp(name), *rows.stamp_blobs(name)) < since:
                yield count
                continue
            for digest in (*rows.list(name), *rows.list_blobs(name)):
                try:
                    if _counts(rows, name, digest) and name not in brought.by(digest)[0]:
                        brought.add(name, digest)
                        count += 1
                except StoreUnreadable as error:
                    fault = error
        except StoreUnreadable as error:
            fault = error
        yield count
    if fault is not None:
        raise fault
    brought.complete()


def _counts(rows: Manifests, name: str, digest: Digest) -> bool:
    """Tell whether a repository may have brought a digest that it has a row of."""
    try:
        row = rows.manifest(name, digest) or rows.member(name, digest)
    except StoreUnreadable:
        return True  # a name too many keeps others from it, and everything else need not wait for this row
    return row is not None and row.brought is not False


def adopt_all(layout: Layout) -> None:
    """Do that where it is not done yet. For threads. Raises StoreUnreadable, OSError."""
    if not Brought(layout).is_complete:
        for _ in adopt(layout):
            pass
