"""Who refers to a digest: the last list that an upstream gave, and each manifest that was pushed here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mirror.errors import DigestInvalid, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.oci.manifest import MANIFEST_LIMIT
from mirror.oci.reference import fallback_tag
from mirror.store import files
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests
from mirror.store.tags import Tags

# What a page of pushed referrers holds at most: descriptors, and their bytes, of which one alone may have more.
PAGE_LENGTH = 1000
PAGE_SIZE = 1024 * 1024

_ALGORITHMS = ("sha256", "sha512")


@dataclass(frozen=True, slots=True)
class KeptReferrers:
    """An image index as upstream sent it, when (Unix time), and the artifact types in it, "" for none."""

    body: bytes
    checked: float
    types: frozenset[str]

    def has(self, artifact_type: str | None) -> bool:
        """Tell whether anything is listed, of `artifact_type` if one is given."""
        return bool(self.types) if artifact_type is None else artifact_type in self.types


class Referrers:
    """The lists that upstreams gave; `pushed` is for hosted repositories. For threads only."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.pushed = PushedReferrers(layout)

    def read(self, name: str, digest: Digest) -> KeptReferrers | None:
        """Return what is kept for `digest`, None where there is nothing whole. Raises StoreUnreadable."""
        path = self._layout.referrers(name, digest)
        body, found = files.read_record(path, MANIFEST_LIMIT), files.modified(path)
        if body is None or found is None:
            return None
        try:
            index: Any = json.loads(body)
        except (ValueError, RecursionError):
            return None
        if not isinstance(index, dict):
            return None
        listed = [entry for entry in index.get("manifests") or () if isinstance(entry, dict)]
        return KeptReferrers(body, found[1] / 1e9, frozenset(str(entry.get("artifactType", "")) for entry in listed))

    def write(self, name: str, digest: Digest, body: bytes) -> None:
        """Keep what upstream said now. A disk that cannot take it keeps the older one, as one that cannot be read."""
        try:
            self.read(name, digest)
            files.write_atomically(self._layout.referrers(name, digest), body, durable=False)
        except (OSError, StoreUnreadable):
            return


class PushedReferrers:
    """What was pushed with a subject: a file for each. For threads only."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._rows = Manifests(layout)
        self._tags = Tags(layout)

    def add(self, name: str, subject: Digest, digest: Digest, descriptor: bytes) -> None:
        """Say, durably, that manifest `digest` refers to `subject`; `descriptor` is JSON. Raises OSError.

        Before the manifest's row is written: a reader skips what has none.
        """
        files.write_atomically(self._layout.pushed_referrer(name, subject, digest), descriptor, durable=True)

    def remove(self, name: str, subject: Digest, digest: Digest) -> bool:
        """Take back that manifest `digest` refers to `subject`; say whether it did."""
        return files.remove(self._layout.pushed_referrer(name, subject, digest))

    def walk(self, name: str) -> Iterator[tuple[Digest, Digest]]:
        """Yield (subject, digest) for all manifests of the repository that were pushed with a subject."""
        folder = self._layout.pushed_referrers(name)
        for algorithm in _ALGORITHMS:
            for entry in files.names(folder / algorithm):
                with suppress(DigestInvalid):
                    subject = Digest.parse(f"{algorithm}:{entry}")
                    for digest in _digests(folder / algorithm / entry):
                        yield subject, digest

    def page(
        self, name: str, subject: Digest, artifact_type: str | None, last: str
    ) -> tuple[list[dict[str, Any]], bool]:
        """Return the descriptors of manifests of the repository that refer to `subject`, and whether there are more.

        In the order of their digests, those after the digest `last`, as many as a page holds; of `artifact_type` only,
        if it is given. Also what clients without the API list under the fallback tag, where that is here.
        """
        listed = self._listed(name, subject)
        pushed = _digests(self._layout.pushed_referrers(name) / subject.algorithm / subject.hex)
        found: list[dict[str, Any]] = []
        size = 0
        for text in sorted({*listed, *map(str, pushed)}):
            digest = Digest.parse(text)
            if text <= last or self._rows.modified(name, digest) is None:
                continue
            one = self._descriptor(name, subject, digest) or listed.get(text)
            if one is None or (artifact_type is not None and one.get("artifactType") != artifact_type):
                continue
            size += len(json.dumps(one))
            if found and (size > PAGE_SIZE or len(found) == PAGE_LENGTH):
                return found, True
            found.append(one)
        return found, False

    def _descriptor(self, name: str, subject: Digest, digest: Digest) -> dict[str, Any] | None:
        found = _parse(files.read_record(self._layout.pushed_referrer(name, subject, digest), MANIFEST_LIMIT))
        return found if found.get("digest") == str(digest) else None

    def _listed(self, name: str, subject: Digest) -> dict[str, dict[str, Any]]:
        """Return the descriptors under the fallback tag by digest (distribution-spec, Referrers Tag Schema)."""
        record = self._tags.read(name, fallback_tag(subject))
        if record is None or record.digest == subject:  # mirroring tools use that tag for the image itself
            return {}
        index = _parse(files.read_record(self._layout.blob(record.digest), MANIFEST_LIMIT))
        found = {}
        for entry in index.get("manifests") or ():
            with suppress(DigestInvalid, TypeError, AttributeError):
                # What has no type and names the subject was pushed with it, and is known without the tag.
                if entry.get("artifactType"):
                    found[str(Digest.parse(entry.get("digest")))] = entry
        return found


def _digests(folder: os.PathLike[str]) -> Iterator[Digest]:
    for entry in files.names(folder):
        with suppress(DigestInvalid):  # index.json, or a write under way
            yield Digest.parse(entry.replace("-", ":", 1))


def _parse(raw: bytes | None) -> dict[str, Any]:
    try:
        found: Any = json.loads(raw or b"null")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
