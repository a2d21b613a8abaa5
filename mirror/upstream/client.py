"""One upstream with all its endpoints: manifests, blobs, tags and referrers, as values or as one of the errors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from mirror.errors import UpstreamLoginRefused
from mirror.line import Line
from mirror.oci.digest import Digest
from mirror.upstream import blobs, manifests, referrers, tags
from mirror.upstream.answers import ManifestBody, ManifestHead, ReferrersBody
from mirror.upstream.body import BlobBody
from mirror.upstream.endpoints import ask_in_order
from mirror.upstream.exchange import Endpoint
from mirror.upstream.health import EndpointHealth, ProbeResult
from mirror.upstream.observations import Observations
from mirror.upstream.retry import Retry, RetryAllowance

# quay.io allows 50 manifests a second with a burst of 10 over HTTP/1, and counts what is neither a manifest, a tag nor
# a blob apart (protocol.md 3.4).
_SMALL_REQUESTS = 8
_SPARE = 2  # of them, which one repository leaves to the others
# A blob of so many bytes, a configuration mostly, takes a round trip and hardly any of the link.
SMALL_BLOB = 64 * 1024

ResultT = TypeVar("ResultT")


class UpstreamClient:
    """What the rest of the program asks of one configured upstream.

    Every method raises UpstreamNotFound, UpstreamDenied, UpstreamLoginRefused, UpstreamUnavailable (after retries)
    or UpstreamInvalid, and may be cancelled at any time. `fetches` bounds the bodies of large blobs, and those of small
    ones beside them; 0 does not.
    """

    def __init__(
        self,
        name: str,
        endpoints: Sequence[Endpoint],
        observations: Observations,
        fetches: int,
        manifest_limit: int,
    ) -> None:
        self.name = name
        self._endpoints = tuple(endpoints)
        self._observations = observations
        self._manifest_limit = manifest_limit
        self._blobs = Line(fetches or math.inf)
        self._small_blobs = Line(min(fetches, _SMALL_REQUESTS) or math.inf)
        self._small = Line(_SMALL_REQUESTS, spare=_SPARE)
        self._referrers = Line(_SMALL_REQUESTS, spare=_SPARE)
        self._retry = Retry(RetryAllowance())

    async def close(self) -> None:
        """Close every connection."""
        for endpoint in self._endpoints:
            await endpoint.close()

    @property
    def budget_low(self) -> bool:
        """Whether upstream said that less than a tenth of our requests are left (Docker Hub)."""
        return self._observations.budget_low

    @property
    def counts_pulls(self) -> bool:
        """Whether upstream counts GETs of manifests, and HEADs not (Docker Hub says so in its answers)."""
        return self._observations.counts_pulls

    def health(self) -> list[EndpointHealth]:
        """Return how each endpoint fares, in the order they are asked."""
        return [endpoint.health() for endpoint in self._endpoints]

    async def probe(self) -> list[ProbeResult]:
        """Ask every endpoint for `/v2/` with the login we have, and say what came of it."""
        return list(await asyncio.gather(*(endpoint.probe() for endpoint in self._endpoints)))

    async def credential_source(self, repository: str) -> str:
        """Return where the login for `repository` was found, in words; empty for none. Asks no upstream."""
        credential = await self._endpoints[0].login.credential(repository)
        return credential.source if credential is not None else ""

    async def head_manifest(self, repository: str, reference: str) -> ManifestHead:
        """Return what `reference` (a tag or a digest) names now, with the body where a GET was needed to know."""
        limit = self._manifest_limit
        return await self._small_one(repository, lambda at: manifests.head_manifest(at, repository, reference, limit))

    async def credential_sources(self, repository: str) -> list[str]:
        """Return `credential_source` for each endpoint, or what keeps it from being read, in the order of `health`."""
        found = []
        for endpoint in self._endpoints:
            try:
                credential = await endpoint.login.credential(repository)
            except UpstreamLoginRefused as error:
                found.append(str(error))
            else:
                found.append(credential.source if credential is not None else "")
        return found

    async def get_manifest(self, repository: str, reference: str) -> ManifestBody:
        """Return a manifest's bytes, at most `limits.manifest`; they are not verified here."""
        limit = self._manifest_limit
        return await self._small_one(repository, lambda at: manifests.get_manifest(at, repository, reference, limit))

    async def head_blob(self, repository: str, digest: Digest) -> int:
        """Return a blob's size in bytes."""
        return await self._small_one(repository, lambda at: blobs.head_blob(at, repository, digest))

    async def get_blob(
        self, repository: str, digest: Digest, start: int = 0, stop: int | None = None, *, size: int | None = None
    ) -> BlobBody:
        """Return a blob's bytes from `start` up to `stop` (exclusive) as they arrive; it has `size` bytes, if known.

        Where upstream ignores the Range the body begins at 0: look at its `start`. The body holds a place in the
        blob lane until it is closed or read to its end. Small blobs have a lane of their own, beside that one.
        """
        small = size is not None and size <= SMALL_BLOB and (self._small_blobs.free or not self._blobs.free)
        lane = self._small_blobs if small else self._blobs
        await lane.enter()
        try:
            body = await self._first(
                lambda at: blobs.get_blob(at, repository, digest, start, stop), lambda late: late.close_now()
            )
        except BaseException:
            lane.leave()
            raise
        body.when_done(lambda received: self._finished(lane, received))
        return body

    async def list_tags(self, repository: str, most: int = tags.MOST_TAGS) -> list[str]:
        """Return the tags in upstream's order, at most 10 000."""
        return await self._small_one(repository, lambda at: tags.list_tags(at, repository, most))

    async def list_referrers(
        self, repository: str, digest: Digest, artifact_type: str | None = None
    ) -> ReferrersBody | None:
        """Return the index of what refers to `digest`; None where upstream has no such API."""
        async with self._referrers.place(party=repository):
            return await self._first(
                lambda at: referrers.list_referrers(at, repository, digest, artifact_type), lambda _: None
            )

    async def _small_one(self, repository: str, unit: Callable[[Endpoint], Awaitable[ResultT]]) -> ResultT:
        async with self._small.place(party=repository):
            return await self._first(unit, lambda _: None)

    async def _first(
        self, unit: Callable[[Endpoint], Awaitable[ResultT]], discard: Callable[[ResultT], None]
    ) -> ResultT:
        try:
            return await self._retry.run(lambda: ask_in_order(self._endpoints, unit, discard))
        finally:
            self._observations.login(any(endpoint.login.state == "refused" for endpoint in self._endpoints))
            for endpoint in self._endpoints:
                away = endpoint.breaker.state != "closed"
                self._observations.endpoint(endpoint.name, away, endpoint.last_error)

    def _finished(self, lane: Line, received: int) -> None:
        lane.leave()
        self._observations.received(received)
