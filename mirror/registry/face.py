"""What the face asks of the rooms beside it: content, the request log and the counters."""

from __future__ import annotations

from typing import Any, Protocol

from mirror.content.answers import BlobAnswer, BlobHead, ByteRange, ManifestAnswer, ReferrersAnswer, TagPage, Target
from mirror.oci.digest import Digest


class Content(Protocol):
    """What names mean and where their bytes are. Every method raises MirrorError for what it cannot give."""

    @property
    def settled(self) -> bool:
        """Whether the answers below rest on what the store's image sets say now."""
        ...

    async def settle(self) -> None:
        """Make them."""
        ...

    def resolve(self, name: str, ns: str | None, prefix: str | None) -> Target:
        """Return what a client's name means; `prefix` is the first component of /<upstream>/v2/…"""
        ...

    def manifest_now(self, target: Target, reference: Digest | str) -> ManifestAnswer | None:
        """Return a manifest that is remembered and still true, without waiting; else None."""
        ...

    async def manifest(self, target: Target, reference: Digest | str, head: bool) -> ManifestAnswer:
        """Return a manifest, fetching it if needed; for `head` the body may be None."""
        ...

    def blob_now(self, target: Target, digest: Digest) -> BlobAnswer | None:
        """Return a whole blob that is here, without waiting; else None."""
        ...

    async def blob(self, target: Target, digest: Digest, range: ByteRange | None) -> BlobAnswer:  # noqa: A002 - HTTP's word
        """Return a blob or the range of it; raise RangeUnsatisfiable if the range lies outside."""
        ...

    async def blob_head(self, target: Target, digest: Digest) -> BlobHead:
        """Return a blob's size without fetching it."""
        ...

    async def tags(self, target: Target, count: int | None, last: str) -> TagPage:
        """Return at most `count` tags (None: as many as a page holds) that sort after `last`."""
        ...

    async def referrers(self, target: Target, digest: Digest, artifact_type: str | None) -> ReferrersAnswer:
        """Return the index of what refers to `digest`; raise NotHere where upstream has no such list."""
        ...

    async def graph(self, channel: str, architecture: str) -> bytes:
        """Return what complete sets know of a channel, as Cincinnati's JSON."""
        ...

    async def signature(self, digest: Digest, number: int) -> bytes | None:
        """Return the OpenPGP signature `number` of a release; None where it is not here."""
        ...

    async def ready(self) -> None:
        """Exercise store and tag path; raise MirrorError if they do not work."""
        ...


class RequestLog(Protocol):
    """Where request lines go; never waits."""

    def line(
        self,
        *,
        id: str,  # noqa: A002 - the field's name
        client: str,
        method: str,
        name: str,
        status: int,
        bytes: int,  # noqa: A002 - the field's name
        seconds: float,
        digest: str = "",
        cache: str = "",
        upstream: str = "",
        why: str = "",
        agent: str = "",
    ) -> None:
        """Write one line. `name` is the path without query and digest, `bytes` the body's bytes that were sent."""
        ...


class Events(Protocol):
    """A structured log for everything that is not a request line."""

    def warning(self, event: str, *args: Any, **fields: Any) -> Any:
        """Note what an operator should know."""
        ...

    def error(self, event: str, *args: Any, **fields: Any) -> Any:
        """Note a fault of ours."""
        ...


class Requests(Protocol):
    """The counters of answered requests."""

    def request(
        self, route: str, method: str, status: int, cache: str, upstream: str, bytes_out: int, seconds: float
    ) -> None:
        """Count one answer; `bytes_out` are its body's bytes that were sent."""
        ...
