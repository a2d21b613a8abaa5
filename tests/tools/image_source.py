"""Registries in memory that answer what planning asks, in the order and with the failures that a test wants."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from mirror.content.answers import ManifestAnswer, Target
from mirror.errors import MirrorError, NameUnknown, UpstreamNotFound
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec
from tests.tools.images import OCI_INDEX, Manifest
from tests.tools.release import HOST, Release


class Registries:
    """An ImageSource (mirror/offline/source.py). `asked` counts questions; `failing` maps what is asked to an error.

    What is asked is written as `quay.io/a/b@sha256:…` (a manifest), `quay.io/a/b:tag`, `tags quay.io/a/b`,
    `referrers quay.io/a/b@sha256:…` or `blob sha256:…`. With `shuffle` answers come in an order that it seeds.
    """

    def __init__(self, *hosts: str, referrers_api: bool = True, shuffle: int | None = None) -> None:
        self.hosts = set(hosts or (HOST,))
        self.referrers_api = referrers_api
        self.asked: Counter[str] = Counter()
        self.failing: dict[str, MirrorError] = {}
        self.most_at_once = 0
        self.tags_of: dict[str, dict[str, str]] = defaultdict(dict)
        self._manifests: dict[tuple[str, str], Manifest] = {}
        self._referrers: dict[tuple[str, str], list[Manifest]] = defaultdict(list)
        self._blobs: dict[str, bytes] = {}
        self._chance = random.Random(shuffle) if shuffle is not None else None
        self._at_once = 0

    def put(self, repository: str, manifest: Manifest, *tags: str) -> str:
        """Push a manifest, all under it, and tags to `host/path`; return its digest."""
        for one in manifest.all_manifests():
            self._manifests[(repository, one.digest)] = one
            document = json.loads(one.body)
            if subject := document.get("subject"):
                self._referrers[(repository, subject["digest"])].append(one)
        self._blobs.update((digest, blob.body) for digest, blob in manifest.all_blobs().items())
        for tag in tags:
            self.tags_of[repository][tag] = manifest.digest
        return manifest.digest

    def put_release(self, release: Release) -> None:
        """Push a release with everything that belongs to it."""
        for placed in release.placed():
            self.put(f"{HOST}/{placed.repository}", placed.manifest, *placed.tags)

    def forget(self, repository: str, digest: str) -> None:
        """Lose a manifest."""
        del self._manifests[(repository, digest)]

    # -- ImageSource

    def target(self, pullspec: Pullspec) -> Target:
        if pullspec.host not in self.hosts:
            raise NameUnknown(f"no upstream '{pullspec.host}' is configured here")
        return Target(pullspec.host, pullspec.repository, pullspec.source)

    async def digest(self, target: Target, tag: str, *, rarely: bool = False) -> Digest:
        await self._ask(f"{target.name}:{tag}")
        found = self.tags_of[target.name].get(tag)
        if found is None:
            raise UpstreamNotFound(f"{target.name}:{tag} is unknown")
        return Digest.parse(found)

    async def manifest(self, target: Target, digest: Digest) -> ManifestAnswer:
        await self._ask(f"{target.name}@{digest}")
        found = self._manifests.get((target.name, str(digest)))
        if found is None:
            raise UpstreamNotFound(f"{target.name}@{digest} is unknown")
        return ManifestAnswer(digest, found.media_type, len(found.body), found.body, "MISS")

    async def tags(self, target: Target, most: int) -> Sequence[str]:
        await self._ask(f"tags {target.name}")
        return sorted(self.tags_of[target.name])[:most]

    async def referrers(self, target: Target, digest: Digest) -> bytes | None:
        await self._ask(f"referrers {target.name}@{digest}")
        if not self.referrers_api:
            return None
        return referrers_index(self._referrers[(target.name, str(digest))])

    async def blob(self, target: Target, digest: Digest, size: int) -> int:
        await self._ask(f"blob {digest}")
        return await asyncio.to_thread(_descriptor, self._blobs[str(digest)])

    async def _ask(self, what: str) -> None:
        self.asked[what] += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        for _ in range(self._chance.randrange(4) if self._chance else 1):
            await asyncio.sleep(0)
        self._at_once -= 1
        for key in (what, "*"):
            if key in self.failing:
                raise self.failing[key]


def referrers_index(referrers: Sequence[Manifest]) -> bytes:
    """Return what the referrers API answers."""
    listed = [one.descriptor() for one in referrers]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}).encode()


def graph(releases: Mapping[str, str], edges: Sequence[tuple[str, str]] = ()) -> bytes:
    """Return Cincinnati's JSON of releases (version -> pullspec)."""
    versions = list(releases)
    nodes = [{"version": version, "payload": spec, "metadata": {}} for version, spec in releases.items()]
    pairs = [[versions.index(old), versions.index(new)] for old, new in edges]
    return json.dumps({"version": 1, "nodes": nodes, "edges": pairs, "conditionalEdges": []}).encode()


def _descriptor(body: bytes) -> int:
    fd = os.memfd_create("blob", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(body)
    return fd
