"""What keeps garbage collection apart from pushes of manifests, so that nothing is taken that is just being named.

Two flocks. Whoever pushes a manifest shares the lock "gc" from before it looks whether what the manifest names is here
until the manifest's row is on disk. Garbage collection has it alone for each few removals. Both take the lock "gc turn"
first, a push only until it has the other one: so a stream of pushes that overlap cannot keep garbage collection out.

A push also renews the marker of everything that its manifest names. Garbage collection takes only what has the same
marker as before it began to read manifests, so it needs to hold nobody off while it reads. Why that is enough: a push
either has its row on disk when reading begins, because the lock was free for a moment then, and is read; or it looks
and renews after that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mirror.errors import NotYet
from mirror.oci.digest import Digest
from mirror.store.layout import Layout
from mirror.store.lock import FileLock

_PATIENCE = 15.0  # seconds; a client is given up on after 18


class GcLock:
    """The two locks of one store. Everything blocks and is for threads."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._turn = layout.lock("gc turn")
        self._lock = layout.lock("gc")

    @contextmanager
    def pushing(self, timeout: float = _PATIENCE) -> Iterator[None]:
        """Keep garbage collection from removing anything while the block runs. Raises NotYet, OSError."""
        with _held(FileLock(self._lock, shared=True), FileLock(self._turn, shared=True), timeout):
            yield

    @contextmanager
    def removing(self, timeout: float = _PATIENCE) -> Iterator[None]:
        """Keep pushes of manifests from looking at what is here while the block runs. Raises NotYet, OSError."""
        with _held(FileLock(self._lock), FileLock(self._turn), timeout, keep_turn=True):
            yield

    def renew(self, digest: Digest) -> bool:
        """Make the marker of `digest` new, for the pushing caller; False where there is none."""
        try:
            os.utime(self._layout.marker(digest))
        except FileNotFoundError:
            return False
        return True


@contextmanager
def _held(lock: FileLock, turn: FileLock, timeout: float, *, keep_turn: bool = False) -> Iterator[None]:
    try:
        if not (turn.acquire(timeout) and lock.acquire(timeout)):
            raise NotYet("garbage collection and pushes wait for each other too long", "try again")
        if not keep_turn:
            turn.release()
        yield
    finally:
        lock.release()
        turn.release()
