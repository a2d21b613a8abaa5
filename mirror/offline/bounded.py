"""A source of images that is asked a bounded number of questions at once, however many tasks have one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mirror.content.answers import ManifestAnswer, Target
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec
from mirror.offline.source import ImageSource


class Bounded:
    """An ImageSource in front of `source`, which has at most `at_once` questions to answer at a time."""

    def __init__(self, source: ImageSource, at_once: int) -> None:
        self._source = source
        self._places = asyncio.Semaphore(at_once)

    def target(self, pullspec: Pullspec) -> Target:
        """As `ImageSource.target`: nobody is asked."""
        return self._source.target(pullspec)

    async def digest(self, target: Target, tag: str, *, rarely: bool = False) -> Digest:
        """As `ImageSource.digest`, in its turn; so are the others."""
        async with self._places:
            return await self._source.digest(target, tag, rarely=rarely)

    async def manifest(self, target: Target, digest: Digest) -> ManifestAnswer:
        async with self._places:
            return await self._source.manifest(target, digest)

    async def tags(self, target: Target, most: int) -> Sequence[str]:
        async with self._places:
            return await self._source.tags(target, most)

    async def referrers(self, target: Target, digest: Digest) -> bytes | None:
        async with self._places:
            return await self._source.referrers(target, digest)

    async def blob(self, target: Target, digest: Digest, size: int) -> int:
        async with self._places:
            return await self._source.blob(target, digest, size)
