"""GET of what refers to a digest, page by page where there is much."""

from __future__ import annotations

from aiohttp import web

from mirror.oci.media_types import OCI_INDEX
from mirror.registry.face import Content
from mirror.registry.paging import link_field
from mirror.registry.patience import Patience
from mirror.registry.responses import Answer, Responses, namespace_field, warning_field
from mirror.registry.routes import Route


class Referrers:
    """Answers referrers lists; where upstream has none a 404 sends the client to the fallback tag."""

    def __init__(self, content: Content, responses: Responses) -> None:
        self._content = content
        self._responses = responses

    async def __call__(self, request: web.BaseRequest, route: Route, arrived: float) -> Answer:
        """Answer one request that came at `arrived` on the loop's clock; raises MirrorError."""
        target = self._content.resolve(route.name, route.ns, route.prefix)
        async with Patience(request, arrived):
            found = await self._content.referrers(target, route.digest, route.artifact_type, route.last)
        fields = f"{namespace_field(route.ns)}{warning_field(found.warning)}"
        if found.filtered:
            fields += "OCI-Filters-Applied: artifactType\r\n"
        if found.last:
            fields += link_field(route, found.last)
        answer = self._responses.whole(request, 200, OCI_INDEX, found.body, fields)
        answer.upstream = target.upstream
        return answer
