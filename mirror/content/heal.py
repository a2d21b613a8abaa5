"""Heal: fetch content anew that was found bad or missing, from an upstream whose repository is known to have it."""

from __future__ import annotations

from collections.abc import Iterator

from mirror.content.answers import Target
from mirror.content.service import Content
from mirror.errors import MirrorError, NotHere
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests, Row
from mirror.store.repositories import find_repositories
from mirror.store.threads import Threads

_MOST = 8  # repositories that are asked for one content


class Healer:
    """Brings single contents back by the same fetches as a pull."""

    def __init__(self, layout: Layout, content: Content, threads: Threads) -> None:
        self._layout = layout
        self._content = content
        self._threads = threads
        self._rows = Manifests(layout)

    async def heal(self, digest: Digest) -> str:
        """Have content that is not here in the store again; return why that cannot be, empty where it is."""
        why = ""
        for name, row, is_manifest in await self._threads.run(self._holders, digest):
            target = self._proxied(name)
            if target is None:
                continue
            try:
                await self._fetch(target, digest, row, is_manifest)
            except MirrorError as error:
                why = str(error)
            else:
                return ""
        return why or "no upstream is known to have it"

    async def _fetch(self, target: Target, digest: Digest, row: Row, is_manifest: bool) -> None:
        bring = self._content.bring
        if is_manifest:
            await bring.manifest(target, digest)
            return
        size = row.size
        if size is None:
            size = (await self._content.blob_head(target, digest)).size
        await bring.keep(target, digest, size)

    def _proxied(self, name: str) -> Target | None:
        """Return what a repository of the store means, if it still means one of an upstream."""
        try:
            target = self._content.resolve(name, None, None)
        except NotHere:
            return None
        return target if target.upstream and target.name == name else None

    def _holders(self, digest: Digest) -> list[tuple[str, Row, bool]]:
        """Return the repositories that have `digest`, some of them at most, and what they know of it."""
        found: list[tuple[str, Row, bool]] = []
        for one in self._search(digest):
            found.append(one)
            if len(found) == _MOST:
                break
        return found

    def _search(self, digest: Digest) -> Iterator[tuple[str, Row, bool]]:
        for name in find_repositories(self._layout):
            if self._proxied(name) is None:
                continue
            row = self._rows.manifest(name, digest)
            if row is not None:
                yield name, row, True
                continue
            row = self._rows.member(name, digest)
            if row is not None:
                yield name, row, row.media_type in media_types.MANIFESTS
