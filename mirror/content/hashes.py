"""The hashes of uploads so far: of what this process took in, so that it need not be read again."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from mirror.oci.digest import Digest
from mirror.store.threads import Threads
from mirror.store.upload import Upload

if TYPE_CHECKING:
    from hashlib import _Hash

_REMEMBERED = 1024


class _Hashed(NamedTuple):
    """A hash over the first `size` bytes of an upload."""

    algorithm: str
    hasher: _Hash
    size: int


class Hashes:
    """One hash for each of the uploads that were written last. Whoever has an upload open may ask for its hash."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._known: OrderedDict[str, _Hashed] = OrderedDict()

    async def take(self, upload: Upload, algorithm: str) -> _Hash:
        """Return the hash of all that is in an upload, and forget it here; what is not known of it is read."""
        size = upload.size
        known = self._known.pop(upload.identity, None)
        if known is None or known.algorithm != algorithm or known.size > size:
            known = _Hashed(algorithm, Digest(algorithm, "").hasher(), 0)
        if known.size < size:
            await self._threads.complete(upload.hash, known.hasher, known.size, size)
        return known.hasher

    def keep(self, upload: Upload, algorithm: str, hasher: _Hash, size: int) -> None:
        """Remember what has seen the first `size` bytes of an upload."""
        self._known[upload.identity] = _Hashed(algorithm, hasher, size)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def forget(self, identity: str) -> None:
        """Forget an upload that is gone."""
        self._known.pop(identity, None)
