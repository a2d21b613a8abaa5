"""What the face asks of the rooms beside it: content, the request log and the counters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from mirror.content.answers import (
    BlobAnswer,
    BlobHead,
    ByteRange,
    ManifestAnswer,
    NamePage,
    Quota,
    ReferrersAnswer,
    Stored,
    TagPage,
    Target,
    UploadState,
)
from mirror.errors import StoreUnreadable
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

    async def manifest(
        self, target: Target, reference: Digest | str, head: bool, may_pull: Callable[[str], bool]
    ) -> ManifestAnswer:
        """Return a manifest, fetching it if needed; for `head` the body may be None.

        `may_pull` tells of a repository, by its canonical name, whether the client may pull it.
        """
        ...

    def blob_now(self, target: Target, digest: Digest) -> BlobAnswer | None:
        """Return a whole blob that is here, without waiting; else None."""
        ...

    async def blob(
        self,
        target: Target,
        digest: Digest,
        range: ByteRange | None,  # noqa: A002 - HTTP's word
        may_pull: Callable[[str], bool],
    ) -> BlobAnswer:
        """Return a blob or the range of it; raise RangeUnsatisfiable if the range lies outside."""
        ...

    async def blob_around(
        self,
        target: Target,
        digest: Digest,
        range: ByteRange | None,  # noqa: A002 - HTTP's word
        error: StoreUnreadable,
    ) -> BlobAnswer:
        """Return from upstream what `blob` gave and cannot be read; raise `error` where that cannot be."""
        ...

    async def blob_head(self, target: Target, digest: Digest, may_pull: Callable[[str], bool]) -> BlobHead:
        """Return a blob's size without fetching it."""
        ...

    async def tags(self, target: Target, count: int | None, last: str) -> TagPage:
        """Return at most `count` tags (None: as many as a page holds) that sort after `last`."""
        ...

    async def referrers(
        self, target: Target, digest: Digest, artifact_type: str | None, last: str = ""
    ) -> ReferrersAnswer:
        """Return the index of what refers to `digest`, from behind the digest `last`.

        Raise NotHere where upstream has no such list.
        """
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


class Uploads(Protocol):
    """What clients push into hosted repositories. Raises MirrorError, and what the chunks raise."""

    async def begin(self, target: Target, who: str, algorithm: str = "sha256") -> UploadState:
        """Begin an upload; `algorithm` is that of the digest to come, as far as the client says."""
        ...

    async def append(
        self,
        target: Target,
        identity: str,
        chunks: AsyncIterator[bytes],
        start: int | None = None,
        length: int | None = None,
        quota: Quota | None = None,
    ) -> UploadState:
        """Append a body of `length` bytes (None: unknown) that belongs at `start` (None: at the end)."""
        ...

    async def finish(
        self,
        target: Target,
        identity: str,
        digest: Digest,
        chunks: AsyncIterator[bytes] | None = None,
        start: int | None = None,
        length: int | None = None,
        quota: Quota | None = None,
    ) -> int:
        """Append the last of the bytes, if any are left to come, and make a blob of all of them; return its size."""
        ...

    async def state(self, target: Target, identity: str) -> UploadState:
        """Return how far an upload is."""
        ...

    async def cancel(self, target: Target, identity: str) -> None:
        """Drop an upload."""
        ...

    async def put_whole(
        self,
        target: Target,
        digest: Digest,
        chunks: AsyncIterator[bytes],
        length: int | None,
        who: str,
        quota: Quota | None = None,
    ) -> int:
        """Take a whole blob; return its size."""
        ...

    async def mount(
        self,
        target: Target,
        digest: Digest,
        source: Target | None,
        may_pull: Callable[[str], bool],
        who: str,
        quota: Quota | None = None,
    ) -> bool:
        """Make a blob of `source` (None: of any repository that the client may pull from) one of this one's too.

        `may_pull` takes canonical names, in any thread. False: it cannot be, so it is to be sent.
        """
        ...


class Deletions(Protocol):
    """Deletions of manifests, which may end after they were answered, or in another process."""

    # Called at the end of each: repository, manifest, who wanted it, from where, how many tags meant it.
    told: Callable[[str, Digest, str, str, int], None] | None


class Hosted(Protocol):
    """Manifests, tags and blobs of hosted repositories, as they are pushed and deleted. Raises MirrorError."""

    async def put_manifest(
        self,
        target: Target,
        reference: Digest | str,
        body: bytes,
        content_type: str,
        tags: Sequence[str],
        who: str,
        quota: Quota | None = None,
    ) -> Stored:
        """Take a manifest under its digest or a tag; `tags` name it too. It counts for a quota as blobs do."""
        ...

    async def delete_manifest(self, target: Target, digest: Digest, who: str, client: str = "") -> None:
        """Delete a manifest with the tags that name it, for `who` at the address `client`."""
        ...

    @property
    def deletions(self) -> Deletions:
        """What tells of manifests that were deleted, with all their tags."""
        ...

    async def delete_tag(self, target: Target, tag: str, who: str) -> None:
        """Delete a tag; what it named stays."""
        ...

    async def delete_blob(self, target: Target, digest: Digest, who: str) -> None:
        """Delete a blob."""
        ...


class Catalog(Protocol):
    """The list of repositories."""

    async def page(self, count: int | None, last: str, visible: Callable[[str], bool]) -> NamePage:
        """Return at most `count` (None: as many as a page holds) `visible` names that sort after `last`."""
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
