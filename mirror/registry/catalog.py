"""GET of the names of repositories, page by page: those that the client may pull."""

from __future__ import annotations

import json

from aiohttp import web

from mirror.errors import NotHere
from mirror.registry.access import Access
from mirror.registry.clients import principal_of
from mirror.registry.face import Catalog as Listing
from mirror.registry.paging import link_field
from mirror.registry.patience import Patience
from mirror.registry.responses import Answer, Responses
from mirror.registry.routes import Route


class Catalog:
    """Answers the list of repositories, as docker's registry has it (distribution-spec knows none)."""

    def __init__(self, listing: Listing, responses: Responses, access: Access) -> None:
        self._listing = listing
        self._responses = responses
        self._access = access

    async def __call__(self, request: web.BaseRequest, route: Route, arrived: float) -> Answer:
        """Answer one request that came at `arrived` on the loop's clock; raises MirrorError."""
        if route.prefix is not None:
            raise NotHere("repositories are listed at /v2/_catalog")
        visible = self._access.visible(principal_of(request))
        async with Patience(request, arrived):
            page = await self._listing.page(route.count, route.last, visible)
        fields = link_field(route, page.names[-1]) if page.more and page.names else ""
        body = json.dumps({"repositories": list(page.names)}, separators=(",", ":")).encode("ascii")
        return self._responses.whole(request, 200, "application/json", body, fields)
