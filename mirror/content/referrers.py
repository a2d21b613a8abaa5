"""Who refers to a digest: upstream's answer, remembered for as long as a tag is fresh, and kept for when it is away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

from mirror.config import UpstreamConfig
from mirror.content.answers import ReferrersAnswer, Target
from mirror.content.coalesce import Coalesced
from mirror.content.fetch import CLIENT_PATIENCE
from mirror.errors import (
    NotHere,
    NotYet,
    UpstreamDenied,
    UpstreamInvalid,
    UpstreamLoginRefused,
    UpstreamNotFound,
    UpstreamUnavailable,
)
from mirror.oci.digest import Digest
from mirror.store.referrers import Referrers as Stored
from mirror.store.threads import Threads
from mirror.upstream.client import UpstreamClient


class Referrers:
    """Referrers of proxied content. Upstream is asked for all of them; artifactType is applied here."""

    def __init__(
        self,
        stored: Stored,
        writers: Threads,
        clients: Mapping[str, UpstreamClient],
        upstreams: Mapping[str, UpstreamConfig],
        *,
        offline: bool,
    ) -> None:
        self._stored = stored
        self._writers = writers
        self._clients = clients
        self._upstreams = upstreams
        self._offline = offline
        self._asking: Coalesced[tuple[str, Digest], bytes | None] = Coalesced()

    async def get(self, target: Target, digest: Digest, artifact_type: str | None) -> ReferrersAnswer:
        """Return the index of referrers, filtered by `artifact_type` if given.

        Raises NotHere where upstream has no such API (the client then asks for its tag), NotYet, UpstreamError.
        """
        body, warning = await self._index(target, digest)
        if artifact_type is None:
            return ReferrersAnswer(body, False, warning)
        return ReferrersAnswer(await self._writers.run(_filter, body, artifact_type), True, warning)

    async def _index(self, target: Target, digest: Digest) -> tuple[bytes, str]:
        kept = await self._writers.run(self._stored.read, target.name, digest)
        client = self._clients.get(target.upstream)
        if client is None or self._offline:
            if kept is None:
                raise NotHere(f"the referrers of {target.name}@{digest} are not here")
            return kept.body, ""
        fresh_for = self._upstreams[target.upstream].tags.fresh_for
        if kept is not None and 0 <= time.time() - kept.checked < fresh_for:
            return kept.body, ""
        try:
            async with asyncio.timeout(CLIENT_PATIENCE):
                body = await self._asking.run((target.name, digest), lambda: self._ask(client, target, digest))
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
        await self._writers.run(self._stored.write, target.name, digest, answer.body)
        return answer.body

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
