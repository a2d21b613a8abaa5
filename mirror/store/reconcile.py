"""Let the index say what the files say: a row for each file, and none without one. So a lost index is made anew."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from mirror.errors import StoreError
from mirror.store.index import BATCH, Entry, Index
from mirror.store.layout import Layout
from mirror.store.walk import find_blobs


class Reconciled(NamedTuple):
    """Rows that were added for files that had none, and rows that were dropped because their files are gone."""

    added: int
    dropped: int


def reconcile(layout: Layout, index: Index) -> Iterator[Reconciled]:
    """Compare files and rows, a batch at each step, and yield what that changed. For threads. Raises StoreError."""
    began = time.time()
    identity = index.identity()
    walk = find_blobs(layout)
    while batch := list(islice(walk, BATCH)):
        yield Reconciled(index.adopt(batch), 0)
    index.rebuilt(identity)
    last: Entry | None = None
    while page := index.oldest(BATCH, last):
        last = page[-1]
        # Taken by hand, or by an eviction that was killed.
        gone = [entry.digest for entry in page if not os.path.lexists(layout.blob(entry.digest))]
        with suppress(StoreError):
            index.forget(gone)
        yield Reconciled(0, len(gone))
        if last.used > began:
            break  # what follows was used meanwhile, so it is here
