"""What clusters ask of releases beside images: the update graph and the signatures, from complete sets alone."""

from __future__ import annotations

from mirror.errors import TagInvalid
from mirror.oci.digest import Digest
from mirror.oci.reference import check_tag
from mirror.store import files
from mirror.store.layout import Layout
from mirror.store.signatures import Signatures
from mirror.store.threads import Threads

_GRAPH_LIMIT = 32 * 1024 * 1024
_MEMORY = 64  # graphs remembered
_EMPTY = b'{"version":1,"nodes":[],"edges":[],"conditionalEdges":[]}'


class Releases:
    """The update graph's files and the release signatures of this store."""

    def __init__(self, layout: Layout, threads: Threads) -> None:
        self._layout = layout
        self._threads = threads
        self._signatures = Signatures(layout)
        self._graphs: dict[tuple[str, str], tuple[tuple[int, int, int], bytes]] = {}

    async def graph(self, channel: str, architecture: str) -> bytes:
        """Return what is known of a channel as Cincinnati's JSON; an unknown channel is an empty graph."""
        try:
            path = str(self._layout.graph(check_tag(architecture), check_tag(channel)))
        except TagInvalid:
            return _EMPTY
        stamp = files.modified(path)
        if stamp is None:
            return _EMPTY
        known = self._graphs.get((channel, architecture))
        if known is not None and known[0] == stamp:
            return known[1]
        raw = await self._threads.run(files.read_record, path, _GRAPH_LIMIT)
        if raw is None:
            return _EMPTY
        if len(self._graphs) >= _MEMORY:
            self._graphs.clear()
        self._graphs[(channel, architecture)] = (stamp, raw)
        return raw

    async def signature(self, digest: Digest, number: int) -> bytes | None:
        """Return a signature of the release `digest`, None where there is none."""
        return await self._threads.run(self._signatures.read, digest, number)
