"""Who refers to a digest: what was pushed here, or upstream's answer, fresh for as long as a tag is and then kept.

Nothing, or nothing of a type that is asked for, is an absence: whoever looks before something is signed finds it soon
after.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from mirror.config import UpstreamConfig
from mirror.content.answers import ManifestAnswer, ReferrersAnswer, Target
from mirror.content.coalesce import Coalesced
from mirror.content.fetch import CLIENT_PATIENCE
from mirror.content.lines import REFERRERS, Lines
from mirror.errors import (
    MirrorError,
    NotHere,
    NotYet,
    StoreUnreadable,
    UpstreamDenied,
    UpstreamInvalid,
    UpstreamLoginRefused,
    UpstreamNotFound,
    UpstreamUnavailable,
)
from mirror.oci import manifest
from mirror.oci.digest import Digest
from mirror.oci.media_types import OCI_INDEX
from mirror.oci.reference import fallback_tag
from mirror.store.referrers import KeptReferrers
from mirror.store.referrers import Referrers as Stored
from mirror.store.threads import Threads
from mirror.upstream.client import UpstreamClient

_FALLBACK_PATIENCE = 3.0  # seconds; the client waits for upstream's own list before
_LOOKED_AT = 16  # manifests of a fallback tag's index that are read for what they refer to


class Referrers:
    """Referrers. Of proxied content upstream is asked for all of them; artifactType is applied here.

    `manifest` returns a manifest by tag or digest: what clients without the API list under a tag, for a registry that
    has it, is merged in.
    """

    def __init__(
        self,
        stored: Stored,
        writers: Threads,
        clients: Mapping[str, UpstreamClient],
        upstreams: Mapping[str, UpstreamConfig],
        lines: Lines,
        manifest: Callable[[Target, Digest | str], Awaitable[ManifestAnswer]],
        *,
        offline: bool,
    ) -> None:
        self._manifest = manifest
        self._stored = stored
        self._writers = writers
        self._clients = clients
        self._upstreams = upstreams
        self._lines = lines
        self._offline = offline
        self._asking: Coalesced[tuple[str, Digest], bytes | None] = Coalesced()

    async def get(self, target: Target, digest: Digest, artifact_type: str | None, last: str = "") -> ReferrersAnswer:
        """Return the index of referrers, filtered by `artifact_type` if given.

        Of hosted content it has a page's worth, after the digest `last`. Raises NotHere, or NotOffered, where upstream
        has no such API (the client then asks for its tag), NotYet, UpstreamError.
        """
        if target.hosted:
            return await self._writers.run(self._pushed, target.name, digest, artifact_type, last)
        body, warning = await self._index(target, digest, artifact_type)
        if artifact_type is None:
            return ReferrersAnswer(body, False, warning)
        return ReferrersAnswer(await self._writers.run(_filter, body, artifact_type), True, warning)

    async def _index(self, target: Target, digest: Digest, artifact_type: str | None) -> tuple[bytes, str]:
        client = self._clients.get(target.upstream)
        try:
            kept = await self._writers.run(self._stored.read, target.name, digest)
        except StoreUnreadable:
            if client is None or self._offline:
                raise
            kept = None
        if client is None or self._offline:
            if kept is None:
                raise NotHere(f"the referrers of {target.name}@{digest} are not here")
            return kept.body, ""
        if kept is not None and 0 <= time.time() - kept.checked < self._fresh_for(target, kept, artifact_type):
            return kept.body, ""
        try:
            line = self._lines.of(target, REFERRERS)
            async with asyncio.timeout(CLIENT_PATIENCE):
                body = await self._asking.run((target.name, digest), lambda: self._ask(client, target, digest), line)
        except TimeoutError:
            raise NotYet(f"upstream has not answered for the referrers of {digest} yet", "ask again") from None
        except (UpstreamNotFound, UpstreamDenied) as error:
            raise NotHere(error.what, error.remedy) from error
        except (UpstreamUnavailable, UpstreamLoginRefused, UpstreamInvalid) as error:
            if kept is None:
                raise
            return kept.body, f"the referrers of {digest} may have changed: {error.what}"
        if body is None:
            raise NotHere(f"upstream has no referrers API for {target.name}", "the fallback tag lists them")
        return body, ""

    def _fresh_for(self, target: Target, kept: KeptReferrers, artifact_type: str | None) -> float:
        rules = self._upstreams[target.upstream].tags
        return rules.fresh_for if kept.has(artifact_type) else min(rules.fresh_for, rules.absent_for)

    async def _ask(self, client: UpstreamClient, target: Target, digest: Digest) -> bytes | None:
        answer = await client.list_referrers(target.repository, digest, None)
        if answer is None:
            return None
        body = await self._merged(target, digest, answer.body)
        await self._writers.run(self._stored.write, target.name, digest, body)
        return body

    async def _merged(self, target: Target, digest: Digest, body: bytes) -> bytes:
        """Return upstream's index with what its fallback tag lists besides; as it is where that cannot be had soon."""
        added: dict[str, Any] = {}
        with suppress(MirrorError, TimeoutError):
            async with asyncio.timeout(_FALLBACK_PATIENCE):
                found = await self._manifest(target, fallback_tag(digest))
                # Mirroring tools tag the image itself like that, and registries take the dash for a colon.
                if found.media_type != OCI_INDEX or found.body is None or found.digest == digest:
                    return body
                added, untyped = await self._writers.run(_listed_besides, body, found.body)
                for one in list(untyped)[:_LOOKED_AT]:
                    if await self._refers(target, one, digest):
                        added[one] = untyped[one]
        return await self._writers.run(_extended, body, list(added.values())) if added else body

    async def _refers(self, target: Target, one: str, subject: Digest) -> bool:
        """Tell whether the manifest `one` says that it refers to `subject`."""
        try:
            answer = await self._manifest(target, Digest.parse(one))
            if answer.body is None:
                return False
            parsed = await self._writers.run(manifest.parse, answer.body, answer.media_type)
        except MirrorError:
            return False
        return parsed.subject is not None and parsed.subject.digest == subject

    def _pushed(self, name: str, digest: Digest, artifact_type: str | None, last: str) -> ReferrersAnswer:
        found, more = self._stored.pushed.page(name, digest, artifact_type, last)
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}
        body = json.dumps(index, separators=(",", ":")).encode()
        return ReferrersAnswer(body, artifact_type is not None, last=str(found[-1]["digest"]) if more else "")

    async def stop(self) -> None:
        """Cancel the questions under way."""
        await self._asking.stop()


def _filter(body: bytes, artifact_type: str) -> bytes:
    """Return the index with only the manifests of `artifact_type` (distribution-spec, Listing Referrers)."""
    index: dict[str, Any] = json.loads(body)
    index["manifests"] = [
        entry
        for entry in index.get("manifests", [])
        if isinstance(entry, dict) and entry.get("artifactType") == artifact_type
    ]
    return json.dumps(index, separators=(",", ":")).encode()


def _listed_besides(body: bytes, listed: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `listed` has and the index `body` has not: with an artifact type, and without.

    Clients that keep a list under a tag write the type of each; the children of an image's index have none.
    """
    known = {str(entry.get("digest")) for entry in json.loads(body)["manifests"] if isinstance(entry, dict)}
    typed: dict[str, Any] = {}
    untyped: dict[str, Any] = {}
    for entry in json.loads(listed).get("manifests") or ():
        if entry["digest"] not in known:
            (typed if entry.get("artifactType") else untyped)[entry["digest"]] = entry
    return typed, untyped


def _extended(body: bytes, added: list[Any]) -> bytes:
    """Return an index with further manifests behind its own."""
    index: dict[str, Any] = json.loads(body)
    index["manifests"] = [*index["manifests"], *added]
    return json.dumps(index, separators=(",", ":")).encode()
