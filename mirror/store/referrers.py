"""Who refers to a digest: the last list that an upstream gave, and each manifest that was pushed here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mirror.errors import DigestInvalid
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.layout import Layout

_LIMIT = 8 * 1024 * 1024
_ALGORITHMS = ("sha256", "sha512")


@dataclass(frozen=True, slots=True)
class KeptReferrers:
    """An image index as upstream sent it, and when (Unix time)."""

    body: bytes
    checked: float


class Referrers:
    """The files under `repositories/<name>/_referrers/`. For threads only."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    # -- as an upstream said ---------------------------------------------------------------------------------

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

    # -- pushed ----------------------------------------------------------------------------------------------

    def add(self, name: str, subject: Digest, digest: Digest, descriptor: bytes) -> None:
        """Say, durably, that manifest `digest` refers to `subject`; `descriptor` is JSON. Raises OSError.

        Before the manifest's row is written: a reader skips what has none.
        """
        files.write_atomically(self._layout.pushed_referrer(name, subject, digest), descriptor, durable=True)

    def remove(self, name: str, subject: Digest, digest: Digest) -> bool:
        """Take back that manifest `digest` refers to `subject`; say whether it did."""
        return files.remove(self._layout.pushed_referrer(name, subject, digest))

    def pushed(self, name: str, subject: Digest) -> list[Digest]:
        """Return the manifests that were pushed with this subject, in the order of their digests."""
        return sorted(self._list(self._layout.pushed_referrers(name) / subject.algorithm / subject.hex), key=str)

    def descriptor(self, name: str, subject: Digest, digest: Digest) -> dict[str, Any] | None:
        """Return the descriptor that was kept of a referrer; None where there is none any more."""
        raw = files.read_record(self._layout.pushed_referrer(name, subject, digest), _LIMIT)
        try:
            found: Any = json.loads(raw or b"null")
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) and found.get("digest") == str(digest) else None

    def walk(self, name: str) -> Iterator[tuple[Digest, Digest]]:
        """Yield (subject, digest) for all manifests of the repository that were pushed with a subject."""
        folder = self._layout.pushed_referrers(name)
        for algorithm in _ALGORITHMS:
            for entry in _entries(folder / algorithm):
                with suppress(DigestInvalid):
                    subject = Digest.parse(f"{algorithm}:{entry}")
                    for digest in self._list(folder / algorithm / entry):
                        yield subject, digest

    def _list(self, folder: os.PathLike[str]) -> Iterator[Digest]:
        for entry in _entries(folder):
            with suppress(DigestInvalid):  # index.json, or a write under way
                yield Digest.parse(entry.replace("-", ":", 1))


def _entries(folder: os.PathLike[str]) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
