"""The last list of referrers of a digest that an upstream gave, for when it is away."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.layout import Layout

_LIMIT = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class KeptReferrers:
    """An image index as upstream sent it, and when (Unix time)."""

    body: bytes
    checked: float


class Referrers:
    """The files under `repositories/<name>/_referrers/`. For threads only."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def read(self, name: str, digest: Digest) -> KeptReferrers | None:
        """Return what is kept for `digest`, None where there is nothing whole."""
        path = self._layout.referrers(name, digest)
        body, found = files.read_record(path, _LIMIT), files.modified(path)
        if body is None or found is None:
            return None
        try:
            index: Any = json.loads(body)
        except (ValueError, RecursionError):
            return None
        return KeptReferrers(body, found[1] / 1e9) if isinstance(index, dict) else None

    def write(self, name: str, digest: Digest, body: bytes) -> None:
        """Keep what upstream said now. A disk that cannot take it keeps the older one."""
        try:
            files.write_atomically(self._layout.referrers(name, digest), body, durable=False)
        except OSError:
            return
