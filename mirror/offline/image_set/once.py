"""Lists of which each entry has a name of its own: one that stands there twice, alike, is taken once."""

from __future__ import annotations

from collections.abc import Hashable

from mirror.offline.image_set.fields import Fields


class Once:
    """The entries of one list so far."""

    def __init__(self) -> None:
        self._first: dict[Hashable, tuple[object, int]] = {}

    def is_new(
        self, at: Fields, name: Hashable, entry: object, what: str, remedy: str = "keep one", key: str = "name"
    ) -> bool:
        """Tell whether nothing has had `name` before; `what` it is for people, and `entry` what is said of it.

        People who put lists together name a thing where they need it, so the same again is warned of. Something else
        of that name is a problem, with its remedy. Both are noted at `key` of the entry.
        """
        if name not in self._first:
            self._first[name] = (entry, at.line(key))
            return True
        first, where = self._first[name]
        if first == entry:
            at.warn(f"{what} stands in line {where} already, alike: it is taken once", key)
        else:
            at.find("duplicate", f"{what} is in line {where} already, and not alike", key, remedy)
        return False
