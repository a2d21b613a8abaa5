"""Tags that keep the digest they have."""

from __future__ import annotations

from collections.abc import Iterable

from mirror.config import Matcher


class Immutable:
    """Patterns `REPOSITORY:TAG` of such tags, with * and ** in both parts, e.g. `apps/**:v*`; no tag: all of them."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        pairs = (pattern.partition(":") for pattern in patterns)
        self._pairs = tuple((Matcher((name,)), Matcher((tag or "*",))) for name, _, tag in pairs)

    def covers(self, name: str, tag: str) -> bool:
        """Tell whether a tag of the repository of this canonical name keeps its digest."""
        return any(names.matches(name) and tags.matches(tag) for names, tags in self._pairs)
