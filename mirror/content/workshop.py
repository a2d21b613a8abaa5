"""What a fill is made from: where its digest can be had, and the rooms that it works with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mirror.content.answers import Target
from mirror.content.courtesy import Courtesy
from mirror.content.lines import Lines
from mirror.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.store.blobs import Blobs
from mirror.store.layout import Layout
from mirror.store.space import Space
from mirror.store.threads import Threads
from mirror.upstream.client import UpstreamClient


@dataclass(frozen=True, slots=True)
class Source:
    """Where a digest can be had: an upstream's repository, and the size that a manifest of it gives, if one does.

    `known`: the digest is known to be the repository's, whoever brings the bytes.
    """

    client: UpstreamClient
    target: Target
    expected: int | None = None
    known: bool = False

    @property
    def place(self) -> tuple[str, str]:
        """The upstream and its repository, as a part's note names them."""
        return self.target.upstream, self.target.repository


@dataclass(frozen=True, slots=True)
class Workshop:
    """What every fill of a process works with."""

    layout: Layout
    blobs: Blobs
    lines: Lines
    space: Space
    writers: Threads
    metrics: Metrics
    boot: str
    who: str
    blob_limit: int  # bytes
    stored: Callable[[Digest, int], None]  # tells the index of a committed blob
    granted: Callable[[Target, Digest], None]  # upstream gave the digest for this repository
    prove: Callable[[UpstreamClient, Target, Digest], Awaitable[object]]  # asks whether it would; raises if not
    discard: Callable[[str, str], None]  # moves bad content (path, why) into quarantine; for threads
    courtesy: Courtesy | None = None  # gives way to others; a service itself gives way to nobody
