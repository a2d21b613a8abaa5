"""Mark anew what was pushed, from what hosted repositories have: for where the markers are lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from mirror import logs
from mirror.errors import Corrupt, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.hosted import Hosted
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests
from mirror.store.marked import Marked
from mirror.store.references import References
from mirror.store.repositories import find_repositories

_PASSES = 8  # where markers go as fast as they are made, whoever asks for this asks again

_log = logs.get("marking")


def mark(layout: Layout, marked: Marked, is_hosted: Callable[[str], bool]) -> Iterator[int]:
    """Mark what repositories have that are pushed to; yield after each how many markers were missing. For threads.

    Until none is missing: somebody may be removing them at this very moment, in the folder's order. `is_hosted` tells
    those repositories by their canonical names. Raises StoreUnreadable, OSError.
    """
    hosted = Hosted(layout)
    for _ in range(_PASSES):
        here, missing = marked.count(), 0
        for name in find_repositories(layout):
            count = sum(map(hosted.mark_again, _content(layout, name))) if is_hosted(name) else 0
            missing += count
            yield count
        if not missing:
            marked.write(here)
            return


def mark_if_lost(layout: Layout, marked: Marked, is_hosted: Callable[[str], bool]) -> Iterator[int]:
    """Do that where markers are lost; where none are, note those that have come. For threads.

    Raises StoreUnreadable, OSError.
    """
    if marked.is_whole():
        marked.keep_up()
    elif not files.is_read_only(layout.root):
        yield from mark(layout, marked, is_hosted)


def tell(count: int) -> None:
    """Say how many markers were missing."""
    if count:
        _log.warning(
            "marked_again", contents=count, remedy="see who removed files from the store's folder hosted/, and why"
        )


def _content(layout: Layout, name: str) -> Iterator[Digest]:
    """Yield what a repository has, and what its manifests name; some of it several times."""
    rows, references = Manifests(layout), References(layout)
    for digest in rows.list(name):
        yield digest
        with suppress(Corrupt, StoreUnreadable):  # what it names has rows, too
            yield from references.named(name, digest)
    yield from rows.list_blobs(name)
