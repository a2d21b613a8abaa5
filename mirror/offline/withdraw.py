"""What is left of a generation that turned out to be one that must not be here: nothing."""

from __future__ import annotations

from collections.abc import Iterable

from mirror.oci.digest import Digest
from mirror.store.sets import Sets
from mirror.store.space import Space


def withdraw(sets: Sets, space: Space, name: str, number: int, came: Iterable[Digest]) -> None:
    """Give up a generation and delete what `came` for it and nothing else keeps. For threads.

    One that is complete stays as it is: it was taken before, under other rules. Raises OSError, StoreError.
    """
    if any((one.set, one.generation) == (name, number) for one in sets.current()):
        return
    sets.remove(name, number)
    space.eviction.delete(came)
