"""A registry that takes manifests: uploads, hosted repositories and garbage collection over one real store."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mirror.content.answers import ManifestAnswer, Target
from mirror.content.garbage import open_collector
from mirror.content.hosted import Hosted
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.store.gc import Collector, Freed
from tests.peers.images import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, noise
from tests.unit.content.conftest import Room
from tests.unit.content.push_bed import APP, Pushes, make_room, pieces

ALGORITHM = "sha256"
NOWHERE = Digest.of(b"nowhere")


def describe(content: bytes, media_type: str = OCI_LAYER, algorithm: str = ALGORITHM, **more: object) -> dict[str, Any]:
    """Return the descriptor of `content`."""
    return {"mediaType": media_type, "digest": str(Digest.of(content, algorithm)), "size": len(content), **more}


def image(*layers: bytes, config: bytes = b"{}", algorithm: str = ALGORITHM, **fields: Any) -> bytes:
    """Return an OCI manifest; `fields` are added to it."""
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": describe(config, OCI_CONFIG, algorithm),
            "layers": [describe(layer, algorithm=algorithm) for layer in layers],
            **fields,
        }
    ).encode()


def index(*manifests: bytes, **fields: Any) -> bytes:
    """Return an OCI index of manifests."""
    entries = [describe(one, json.loads(one)["mediaType"]) for one in manifests]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, **fields}).encode()


class Shelf:
    """One process's way into the hosted repositories of a store."""

    def __init__(self, folder: Path, document: Mapping[str, Any] | None = None, **options: Any) -> None:
        self.room: Room = make_room(folder, document)
        self.layout = self.room.layout
        self.content = self.room.content
        self.pushes = Pushes(self.room)
        self.hosted = Hosted.open(
            self.layout,
            self.room.space,
            self.pushes.threads,
            self.room.index.note,
            **{"manifest_limit": 4 * 1024 * 1024, "history": 3, "quotas": self.pushes.quotas, **options},
        )

    async def close(self) -> None:
        self.pushes.close()
        await self.room.close()

    async def blob(self, content: bytes, target: Target = APP, algorithm: str = ALGORITHM) -> Digest:
        digest = Digest.of(content, algorithm)
        await self.pushes.uploads.put_whole(target, digest, pieces(content), len(content), "ci")
        return digest

    async def manifest(
        self,
        body: bytes,
        reference: Digest | str | None = None,
        target: Target = APP,
        tags: Iterable[str] = (),
        who: str = "ci",
    ) -> Digest:
        """Push a manifest, by its digest if no reference is given."""
        media_type = json.loads(body).get("mediaType", "")
        wanted = reference if reference is not None else Digest.of(body)
        return (await self.hosted.put_manifest(target, wanted, body, media_type, tuple(tags), who)).digest

    async def image(self, seed: int, tag: str | None = None, target: Target = APP, **fields: Any) -> bytes:
        """Push an image with a layer of its own; return its manifest."""
        layer = noise(500, seed)
        await self.blob(layer, target)
        await self.blob(b"{}", target)
        body = image(layer, **fields)
        await self.manifest(body, tag, target)
        return body

    async def pull(self, reference: Digest | str, target: Target = APP) -> ManifestAnswer:
        return self.content.manifest_now(target, reference) or await self.content.manifest(target, reference, False)

    def stored(self) -> set[str]:
        return self.room.stored()

    def marked(self) -> set[str]:
        return {f"{path.parent.name}:{path.name}" for path in self.layout.hosted.glob("*/*")}

    def collector(self, grace: float = 3600.0) -> Collector:
        return open_collector(self.layout, self.room.index, self.room.space, self.content.resolve, grace)

    def collect(self, *, dry_run: bool = False, yes: bool = True) -> tuple[Freed, dict[str, int]]:
        """Collect garbage; return what was said of it, and the contents that went. Blocks."""
        gone: dict[str, int] = {}
        total = self.collector().collect(
            lambda digest, size: gone.update({str(digest): size}), dry_run=dry_run, yes=yes
        )
        return total, gone

    def age(self, seconds: float = 86400.0) -> None:
        """Let all pushes so far lie some time back."""
        then = time.time() - seconds
        for path in self.layout.hosted.glob("*/*"):
            os.utime(path, (then, then))


Open = Callable[..., Shelf]


def about(subject: Digest) -> dict[str, Any]:
    """Return the field that makes a manifest refer to `subject`."""
    return {"subject": {"mediaType": OCI_MANIFEST, "digest": str(subject), "size": 3}}


async def referrers(shelf: Shelf, subject: Digest, artifact_type: str | None = None) -> list[dict[str, Any]]:
    """Return all pages of a list of referrers."""
    found: list[dict[str, Any]] = []
    last = ""
    while True:
        answer = await shelf.content.referrers(APP, subject, artifact_type, last)
        assert answer.filtered == (artifact_type is not None)
        page = json.loads(answer.body)
        assert (page["schemaVersion"], page["mediaType"]) == (2, media_types.OCI_INDEX)
        found += page["manifests"]
        if not answer.last:
            return found
        last = answer.last
