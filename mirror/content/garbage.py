"""Garbage collection over the names that are hosted here."""

from __future__ import annotations

from collections.abc import Callable

from mirror.content.answers import Target
from mirror.errors import NotHere
from mirror.store.gc import GRACE, Collector
from mirror.store.index import Index
from mirror.store.layout import Layout
from mirror.store.space import Space

Resolve = Callable[[str, str | None, str | None], Target]


def hosted_by(resolve: Resolve) -> Callable[[str], bool]:
    """Return what tells by its canonical name whether a repository is pushed to; `resolve` tells what names mean."""

    def is_hosted(name: str) -> bool:
        try:
            target = resolve(name, None, None)
        except NotHere:
            return False
        return target.hosted and target.name == name

    return is_hosted


def open_collector(layout: Layout, index: Index, space: Space, resolve: Resolve, grace: float = GRACE) -> Collector:
    """Return what collects the garbage of a store; `resolve` tells what names mean, `grace` is in seconds."""
    return Collector(layout, index, hosted_by(resolve), space.remove_leftovers, grace)
