"""The names of repositories in order, a few at a time, however many there are."""

from __future__ import annotations

from collections.abc import Iterator

from mirror.errors import DigestInvalid, TagInvalid
from mirror.oci.digest import Digest
from mirror.oci.reference import check_tag, is_name
from mirror.store import files
from mirror.store.layout import Layout

_ALGORITHMS = ("sha256", "sha512")


def walk_names(layout: Layout, last: str = "") -> Iterator[str]:
    """Yield the names after `last`, in lexical order, of repositories that have a manifest or a tag. For threads only.

    Reads a folder when its names are asked for, and remembers only those on the way to where it is. Raises
    StoreUnreadable: a list without what cannot be read would say that it is not here.
    """
    return _walk(str(layout.repositories), "", last)


def _walk(path: str, prefix: str, last: str) -> Iterator[str]:
    # A folder stands for its own name and, with a slash, for the names below it: `a-b` lies between `a` and `a/b`.
    for key in sorted(key for entry in _folders(path) for key in (entry, f"{entry}/")):
        name = prefix + key
        if key.endswith("/"):
            if name > last or last.startswith(name):
                yield from _walk(f"{path}/{key[:-1]}", name, last)
        elif name > last and _has_something(f"{path}/{key}") and is_name(name):
            yield name


def _folders(path: str) -> list[str]:
    with files.reading(path):
        return [one.name for one in files.entries(path) if not one.name.startswith("_") and one.is_dir()]


def _has_something(path: str) -> bool:
    return _holds(f"{path}/_tags", "") or any(_holds(f"{path}/_manifests/{one}", one) for one in _ALGORITHMS)


def _holds(path: str, algorithm: str) -> bool:
    """Tell whether there is a tag in a folder, or a digest of an algorithm; a write under way is neither."""
    for name in files.names(path):
        try:
            Digest.parse(f"{algorithm}:{name}") if algorithm else check_tag(name)
        except (DigestInvalid, TagInvalid):
            continue
        return True
    return False
