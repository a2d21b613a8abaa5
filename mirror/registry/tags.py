"""GET of a repository's tags, page by page."""

from __future__ import annotations

import json

from aiohttp import web

from mirror.registry.face import Content
from mirror.registry.paging import link_field
from mirror.registry.patience import Patience
from mirror.registry.responses import Answer, Responses, namespace_field, warning_field
from mirror.registry.routes import Route


class Tags:
    """Answers tag lists under the name that the client wrote."""

    def __init__(self, content: Content, responses: Responses) -> None:
        self._content = content
        self._responses = responses

    async def __call__(self, request: web.BaseRequest, route: Route, arrived: float) -> Answer:
        """Answer one request that came at `arrived` on the loop's clock; raises MirrorError."""
        target = self._content.resolve(route.name, route.ns, route.prefix)
        async with Patience(request, arrived):
            page = await self._content.tags(target, route.count, route.last)
        tags = list(page.tags) if route.count is None else list(page.tags[: route.count])
        fields = f"{namespace_field(route.ns)}{warning_field(page.warning)}"
        if tags and (page.more or len(tags) < len(page.tags)):
            fields += link_field(route, tags[-1])
        body = json.dumps({"name": route.name, "tags": tags}, separators=(",", ":")).encode("ascii")
        answer = self._responses.whole(request, 200, "application/json", body, fields)
        answer.upstream = target.upstream
        return answer
