"""Where update graphs come from: a service that speaks Cincinnati's protocol, a file, or a folder of files."""

from __future__ import annotations

import asyncio
from typing import Protocol

from mirror.config.model import GRAPH
from mirror.errors import ConfigurationError, InvalidRequest, Problem, UpstreamInvalid
from mirror.oci.reference import check_tag
from mirror.offline.graph.document import SIZE_LIMIT, Graph, GraphInvalid, parse
from mirror.upstream.documents import Documents

OKD_GRAPH = "https://origin-release.ci.openshift.org/graph"
_ACCEPT = "application/json"


class ChannelUnknown(ConfigurationError):
    """The update graph has no release in this channel for this architecture."""

    def __init__(self, channel: str, architecture: str, remedy: str = "", where: str = "") -> None:
        what = f"the update graph has no release in channel {channel} for {architecture}"
        super().__init__([Problem("channel_unknown", what, where, remedy or "check the name of the channel")])
        self.channel = channel


class Fetch(Protocol):
    """What fetches the graph of a channel. `kind` is the channel's type, and is given for OKD alone."""

    async def __call__(self, channel: str, architecture: str, kind: str = "ocp", /) -> Graph: ...


class Graphs:
    """Fetches the graphs of channels from `releases.graph`, and OKD's from its own place unless that was configured.

    An http(s) URL is asked with `channel` and `arch`. A file: URL that ends in .json is the graph of every channel;
    any other is a folder that holds `<architecture>-<channel>.json`.
    """

    def __init__(self, documents: Documents, url: str, okd_url: str = OKD_GRAPH) -> None:
        self._documents = documents
        self._url = url
        self._okd_url = okd_url if url == GRAPH else url

    async def fetch(self, channel: str, architecture: str, kind: str = "ocp", /) -> Graph:
        """Return the graph of a channel for an architecture as Cincinnati spells it (amd64, arm64, …, multi).

        Raise ChannelUnknown where nothing is in it, GraphInvalid for what is none, and what `Documents.get` raises.
        """
        for text in (channel, architecture):
            try:
                check_tag(text)
            except InvalidRequest:
                raise ChannelUnknown(channel[:80], architecture[:80], "write it as e.g. stable-4.16") from None
        url = self._okd_url if kind == "okd" else self._url
        raw = await self._get(url, channel, architecture)
        try:
            graph = await asyncio.to_thread(parse, raw)
        except GraphInvalid as error:
            raise GraphInvalid(f"{url} answers for channel {channel}, and {error.what}", error.remedy, url) from None
        if not graph.nodes:
            raise ChannelUnknown(channel, architecture)
        return graph

    async def _get(self, url: str, channel: str, architecture: str) -> bytes:
        remedy = "check `releases.graph`"
        if not url.lower().startswith("file:"):
            params = {"channel": channel, "arch": architecture}
            raw = await self._documents.get(url, limit=SIZE_LIMIT, accept=_ACCEPT, params=params)
        elif url.endswith(".json"):
            raw = await self._documents.get(url, limit=SIZE_LIMIT)
        else:
            name = f"{architecture}-{channel}.json"
            raw = await self._documents.get(f"{url.rstrip('/')}/{name}", limit=SIZE_LIMIT)
            if raw is None:
                raise ChannelUnknown(channel, architecture, f"put {name} into the folder that `releases.graph` names")
        if raw is None:
            raise UpstreamInvalid(f"there is no update graph at {url}", remedy, url)
        return raw
