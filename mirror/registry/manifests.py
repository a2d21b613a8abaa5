"""GET and HEAD of a manifest."""

from __future__ import annotations

from aiohttp import web

from mirror.content.answers import ManifestAnswer
from mirror.registry import ranges
from mirror.registry.face import Content
from mirror.registry.patience import Patience
from mirror.registry.responses import Answer, Responses, field_value, namespace_field, warning_field
from mirror.registry.routes import Route


class Manifests:
    """Answers manifests, always whole: a Range is ignored."""

    def __init__(self, content: Content, responses: Responses) -> None:
        self._content = content
        self._responses = responses

    async def __call__(self, request: web.BaseRequest, route: Route, arrived: float) -> Answer:
        """Answer one request that came at `arrived` on the loop's clock; raises MirrorError."""
        content = self._content
        target = content.resolve(route.name, route.ns, route.prefix)
        found = content.manifest_now(target, route.reference)
        if found is None:
            async with Patience(arrived):
                found = await content.manifest(target, route.reference, request.method == "HEAD")
        return self._answer(request, route, found)

    def _answer(self, request: web.BaseRequest, route: Route, found: ManifestAnswer) -> Answer:
        digest = str(found.digest)
        about = (
            f'Docker-Content-Digest: {digest}\r\nETag: "{digest}"\r\nX-Cache: {found.cache}\r\n'
            f"{namespace_field(route.ns)}{warning_field(found.warning)}"
        )
        if "If-None-Match" in request.headers and ranges.has_already(request.headers, found.digest):
            answer = self._responses.compose(request, 304, about)
        else:
            media_type = field_value(found.media_type, "application/octet-stream")
            answer = self._responses.compose(
                request,
                200,
                f"Content-Type: {media_type}\r\nContent-Length: {found.size}\r\n{about}",
                found.body or b"",
            )
        answer.cache, answer.upstream, answer.why = found.cache, found.upstream, found.why
        return answer
