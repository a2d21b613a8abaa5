"""Who refers to a digest: what was pushed here, or upstream's answer, fresh for as long as a tag is and then kept."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mirror.config import UpstreamConfig
from mirror.content.answers import ManifestAnswer, ReferrersAnswer, Target
from mirror.content.coalesce import Coalesced
from mirror.content.fetch import CLIENT_PATIENCE
from mirror.content.line import REFERRERS, Lines
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
from mirror.oci.digest import Digest
from mirror.oci.media_types import OCI_INDEX
from mirror.oci.reference import fallback_tag
from mirror.store.referrers import Referrers as Stored
from mirror.store.threads import Threads
from mirror.upstream.client import UpstreamClient

_FALLBACK_PATIENCE = 3.0  # seconds; the client waits for upstream's own list before


class Referrers:
    """Referrers. Of proxied content upstream is asked for all of them; artifactType is applied here.

    `fallback` returns the manifest of a tag: what clients without the API list there, for a registry that has it, is
    merged in.
    """

    def __init__(
        self,
        stored: Stored,
        writers: Threads,
        clients: Mapping[str, UpstreamClient],
        upstreams: Mapping[str, UpstreamConfig],
        lines: Lines,
        *,
        offline: bool,
        fallback: Callable[[Target, str], Awaitable[ManifestAnswer]] | None = None,
    ) -> None:
        self._fallback = fallback
        self._stored = stored
        self._writers = writers
        self._clients = clients
        self._upstreams = upstreams
        self._lines = lines
        self._offline = offline
        self._asking: Coalesced[tuple[str, Digest], bytes | None] = Coalesced()

    async def get(self, target: Target, digest: Digest, artifact_type: str | None, last: str = "") -> ReferrersAnswer:
        """Return the index of referrers, filtered by `artifact_type` if given.

        Of hosted content it has a page's worth, after the digest `last`. Raises NotHere where upstream has no such API
        (the client then asks for its tag), NotYet, UpstreamError.
        """
        if target.hosted:
            return await self._writers.run(self._pushed, target.name, digest, artifact_type, last)
        body, warning = await self._index(target, digest)
        if artifact_type is None:
            return ReferrersAnswer(body, False, warning)
        return ReferrersAnswer(await self._writers.run(_filter, body, artifact_type), True, warning)

    async def _index(self, target: Target, digest: Digest) -> tuple[bytes, str]:
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
        fresh_for = self._upstreams[target.upstream].tags.fresh_for
        if kept is not None and 0 <= time.time() - kept.checked < fresh_for:
            return kept.body, ""
        try:
            line = self._lines.of(target.upstream, REFERRERS)
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

    async def _ask(self, client: UpstreamClient, target: Target, digest: Digest) -> bytes | None:
        answer = await client.list_referrers(target.repository, digest, None)
        if answer is None:
            return None
        body = await self._merged(target, digest, answer.body)
        await self._writers.run(self._stored.write, target.name, digest, body)
        return body

    async def _merged(self, target: Target, digest: Digest, body: bytes) -> bytes:
        """Return upstream's index with what its fallback tag lists besides; as it is where that cannot be had soon."""
        if self._fallback is None:
            return body
        try:
            async with asyncio.timeout(_FALLBACK_PATIENCE):
                found = await self._fallback(target, fallback_tag(digest))
        except (MirrorError, TimeoutError):
            return body
        if found.media_type != OCI_INDEX or found.body is None:
            return body
        return await self._writers.run(_merge, body, found.body)

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


def _merge(body: bytes, listed: bytes) -> bytes:
    """Return an index with the manifests of another one behind its own, each once."""
    index: Any = json.loads(body)
    try:
        own, others = index["manifests"], json.loads(listed)["manifests"]
        known = {entry["digest"] for entry in own}
        added = {entry["digest"]: entry for entry in others if entry["digest"] not in known}
    except (ValueError, LookupError, TypeError):
        return body
    if not added:
        return body
    index["manifests"] = [*own, *added.values()]
    return json.dumps(index, separators=(",", ":")).encode()
