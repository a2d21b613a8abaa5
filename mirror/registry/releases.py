"""GET of the update graph and of release signatures: what a cluster asks its update service and signature store."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl

from aiohttp import web

from mirror.errors import InvalidRequest, NotHere
from mirror.registry.face import Content
from mirror.registry.patience import Patience
from mirror.registry.responses import Answer, Responses
from mirror.registry.routes import Kind, Route

_TYPES = ("application/json", "application/vnd.redhat.cincinnati.v1+json", "*/*", "application/*")
_QUERY_LIMIT = 32  # parameters; clients send five


class Releases:
    """Answers as Cincinnati's policy engine does (its openapi: 400 without a channel, 406 for another type)."""

    def __init__(self, content: Content, responses: Responses) -> None:
        self._content = content
        self._responses = responses

    async def __call__(self, request: web.BaseRequest, route: Route, arrived: float) -> Answer:
        """Answer one request that came at `arrived` on the loop's clock; raises MirrorError."""
        async with Patience(request, arrived):
            if route.kind is Kind.SIGNATURE:
                return await self._signature(request, route)
            return await self._graph(request)

    async def _graph(self, request: web.BaseRequest) -> Answer:
        accept = request.headers.get("Accept", "*/*")
        if not any(one.partition(";")[0].strip().lower() in _TYPES for one in accept.split(",")):
            return self._refuse(request, 406, "invalid_content_type", "the update graph is application/json")
        try:
            query = dict(parse_qsl(request.raw_path.partition("?")[2], max_num_fields=_QUERY_LIMIT))
        except ValueError:
            raise InvalidRequest(f"the query has more than {_QUERY_LIMIT} parameters") from None
        channel = query.get("channel", "")
        if not channel:
            return self._refuse(request, 400, "missing_params", "mandatory client parameters missing: channel")
        body = await self._content.graph(channel, query.get("arch") or "amd64")
        return self._responses.whole(request, 200, "application/json", body)

    def _refuse(self, request: web.BaseRequest, status: int, kind: str, value: str) -> Answer:
        body = json.dumps({"kind": kind, "value": value}).encode()
        return self._responses.whole(request, status, "application/json", body)

    async def _signature(self, request: web.BaseRequest, route: Route) -> Answer:
        body = await self._content.signature(route.digest, route.count or 0)
        if body is None:
            raise NotHere(f"there is no signature {route.count} of {route.digest} here")
        return self._responses.whole(request, 200, "application/octet-stream", body)
