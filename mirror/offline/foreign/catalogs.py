"""Which tags of an archive of oc-mirror belong to filtered catalogs.

oc-mirror keeps a catalog as it was under the tag that was asked for, and what it made of it under a tag that is a hash
of the filter; when it writes to a registry, the latter takes the tag (its internal/pkg/operator, prepareD2MCopyBatch).
A catalog that was asked for by digest alone gets the tag `sha256-<digest of the filtered one>`.

working-dir/operator-catalogs/<name>/<digest of the catalog>/filtered-catalogs/<filter>/digest
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mirror.errors import DigestInvalid
from mirror.oci.digest import Digest
from mirror.oci.reference import fallback_tag
from mirror.offline.foreign.naming import kept_at

_FILTERED = re.compile(r"[^/]+/([0-9a-f]{64})/filtered-catalogs/([0-9a-f]{32})/digest")
_ON_DISK = "oci://"
# What Go's encoding/json writes otherwise than Python's.
_ESCAPED = {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026", "\u2028": r"\u2028", "\u2029": r"\u2029"}


class _Asked(NamedTuple):
    """A catalog of an image set: its name without tag and digest, as written, and the entry."""

    name: str
    catalog: str
    entry: Mapping[str, Any]

    @property
    def is_whole(self) -> bool:
        """Whether the catalog is left as it is."""
        return bool(self.entry.get("full")) and not self.entry.get("packages")

    def filters(self, catalog: Digest) -> Iterator[str]:
        """Yield what oc-mirror calls the filter of this entry for a catalog: with its digest, and as it did before."""
        yield _hash(self.entry, f"{self.name}@{catalog}")
        yield _hash(self.entry, self.catalog)


class Catalogs:
    """The catalogs of an archive. What is read later of one tag counts."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._filters: dict[Digest, set[str]] = defaultdict(set)
        self._asked: dict[tuple[str, str], _Asked] = {}

    def add(self, path: str) -> None:
        """Take a file of operator-catalogs by its path there, if it says that a catalog was filtered."""
        if match := _FILTERED.fullmatch(path):
            self._filters[Digest("sha256", match[1])].add(match[2])

    def ask(self, entry: Mapping[str, Any]) -> None:
        """Take an entry of `operators` of an image set."""
        catalog = entry.get("catalog")
        if not isinstance(catalog, str):
            return
        name, _, digest = catalog.removeprefix("docker://").partition("@")
        tag = ""
        if name.startswith(_ON_DISK):
            name = name.removeprefix(_ON_DISK)
            repository, tag = name.rpartition("/")[2], "latest"
        else:
            repository = kept_at(name)
            if ":" in name.rpartition("/")[2]:
                name, _, tag = name.rpartition(":")
        try:
            tag = tag or (fallback_tag(Digest.parse(digest)) if digest else "")
        except DigestInvalid:
            return
        target, target_tag = entry.get("targetCatalog"), entry.get("targetTag")
        self._asked[str(target or repository), str(target_tag or tag)] = _Asked(name, catalog, entry)

    def hashes(self, tags: Mapping[str, Digest]) -> set[str]:
        """Return those of a repository's tags that are hashes of filters."""
        filters = set().union(*self._filters.values()) if self._filters else set()
        return filters & tags.keys()

    def move(self, repository: str, tags: Mapping[str, Digest]) -> dict[str, Digest | None]:
        """Return the tags of a repository that lead to a filtered catalog, each with its digest.

        None: several were made of the catalog, and nothing says which of them is meant. That is told in `warnings`.
        """
        moved: dict[str, Digest | None] = {}
        for tag, catalog in tags.items():
            filters = self._filters.get(catalog, set()) & tags.keys()
            asked = self._asked.get((repository, tag))
            if not filters or (asked is not None and asked.is_whole):
                continue
            known = next((one for one in asked.filters(catalog) if one in filters), None) if asked is not None else None
            chosen = known or (next(iter(filters)) if len(filters) == 1 else None)
            if chosen is None:
                moved[tag] = None
                self.warnings.append(
                    f"{repository}:{tag} was filtered in {len(filters)} ways, and nothing says which is meant: that tag"
                    f" is left out, and {catalog} is the catalog as it was"
                )
            elif tag == fallback_tag(catalog):
                moved[fallback_tag(tags[chosen])] = tags[chosen]
            else:
                moved[tag] = tags[chosen]
        return moved


def _hash(entry: Mapping[str, Any], catalog: str) -> str:
    """Return the MD5 of the entry as JSON, without its targets (oc-mirror's digestOfFilter and its v2alpha1)."""
    packages = None if entry.get("packages") is None else [_package(one) for one in _dicts(entry["packages"])]
    platforms = [_given(one, "os", "architecture") for one in _dicts(entry.get("platforms"))]
    document = {
        "packages": packages,
        "catalog": catalog,
        **_given(entry, "full", "skipDependencies"),
        **({"platforms": platforms} if platforms else {}),
    }
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, default=str)
    for plain, escaped in _ESCAPED.items():
        text = text.replace(plain, escaped)
    return hashlib.md5(text.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()


def _package(entry: Mapping[str, Any]) -> dict[str, Any]:
    channels = [_given(one, "name", "minVersion", "maxVersion") for one in _dicts(entry.get("channels"))]
    return {
        "name": entry.get("name", ""),
        **({"channels": channels} if channels else {}),
        **_given(entry, "defaultChannel", "minVersion", "maxVersion"),
    }


def _given(entry: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: entry[key] for key in keys if entry.get(key)}


def _dicts(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
