"""Which repositories there are: the folders that hold tags, manifests or blobs."""

from __future__ import annotations

from collections.abc import Iterator

from mirror.oci.reference import is_name
from mirror.store import files
from mirror.store.layout import Layout

_PARTS = frozenset(("_tags", "_manifests", "_blobs"))


def find_repositories(layout: Layout) -> Iterator[str]:
    """Yield the names of all repositories, lazily and in no order; blocks, so for threads. Raises StoreUnreadable."""
    folders = [("", str(layout.repositories))]
    while folders:
        name, path = folders.pop()
        found = False
        for entry in files.entries(path):
            inner = f"{name}/{entry.name}" if name else entry.name
            if entry.name in _PARTS:
                found = True
            elif is_name(inner):  # anything else is a stray; what only looks like a repository cannot be listed
                folders.append((inner, entry.path))
        if found and name:
            yield name
