"""What was used since the index was last written: in memory, in order, bounded."""

from __future__ import annotations

import threading
from collections import OrderedDict

from mirror.oci.digest import Digest

CAPACITY = 65536  # digests; what is over it loses the least recent, which costs eviction some precision and no more


class Uses:
    """Digests and sizes, least recently used first. Any thread may call; nothing here waits longer than a swap."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._sizes: OrderedDict[Digest, int] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, digest: Digest, size: int) -> None:
        """Note that `digest` was used just now."""
        with self._lock:
            sizes = self._sizes
            sizes[digest] = size
            sizes.move_to_end(digest)
            if len(sizes) > self._capacity:
                sizes.popitem(last=False)

    def take(self) -> OrderedDict[Digest, int]:
        """Return everything noted and start anew."""
        with self._lock:
            taken, self._sizes = self._sizes, OrderedDict()
        return taken

    def put_back(self, taken: OrderedDict[Digest, int]) -> None:
        """Keep what was taken and could not be written, as older than what was noted since."""
        with self._lock:
            for digest, size in self._sizes.items():
                taken[digest] = size
                taken.move_to_end(digest)
            while len(taken) > self._capacity:
                taken.popitem(last=False)
            self._sizes = taken

    def drop(self, digest: Digest) -> None:
        """Forget `digest`."""
        with self._lock:
            self._sizes.pop(digest, None)

    def order(self) -> list[Digest]:
        """Return the digests, least recently used first."""
        with self._lock:
            return list(self._sizes)
