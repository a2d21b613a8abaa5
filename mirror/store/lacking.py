"""What manifests of a repository name that it does not have: the children of a sparse index that were never pushed."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import NamedTuple

from mirror.errors import Corrupt
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests
from mirror.store.references import References

_REPOSITORIES = 64  # of which is remembered what was read


class _Read(NamedTuple):
    """What a repository looked like, its manifests that were read, and what they name that it did not have then."""

    stamp: tuple[int, ...]
    manifests: frozenset[Digest]
    lacking: frozenset[Digest]


_NOTHING = _Read((), frozenset(), frozenset())


class Lacking:
    """Reads each manifest of a repository once, for as long as it remembers the repository. For threads."""

    def __init__(self, layout: Layout) -> None:
        self._rows = Manifests(layout)
        self._references = References(layout)
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Read] = OrderedDict()

    def names(self, name: str, digest: Digest) -> bool:
        """Tell whether a manifest of repository `name` names `digest`, which it does not have. Raises StoreUnreadable.

        One that is damaged names nothing.
        """
        stamp = self._rows.stamp(name)
        with self._lock:
            known = self._known.get(name, _NOTHING)
        if known.stamp != stamp:
            known = self._read(name, known)._replace(stamp=stamp if max(stamp) < time.time_ns() - files.TICK else ())
            with self._lock:
                self._known[name] = known
                self._known.move_to_end(name)
                if len(self._known) > _REPOSITORIES:
                    self._known.popitem(last=False)
        return digest in known.lacking and not self._has(name, digest)

    def _read(self, name: str, known: _Read) -> _Read:
        there = set(self._rows.list(name))
        if not known.manifests <= there:
            known = _NOTHING  # what was deleted names nothing any more
        read, lacking = set(known.manifests), set(known.lacking)
        for digest in there - read:
            try:
                named = self._references.named(name, digest)
            except Corrupt:
                continue
            if named:
                read.add(digest)
                lacking.update(one for one in named if not self._has(name, one))
        return _Read((), frozenset(read), frozenset(lacking))

    def _has(self, name: str, digest: Digest) -> bool:
        return self._rows.modified(name, digest) is not None or self._rows.is_member(name, digest)
