"""The metrics' listener: /metrics, and the probes that every listener answers. Nothing else is told there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from mirror.metrics import Metrics

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_PROBES = frozenset({"/livez", "/readyz"})


class MetricsPage:
    """The handler of the metrics' listener; `dispatcher` answers the probes."""

    def __init__(
        self, metrics: Metrics, dispatcher: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
    ) -> None:
        self._metrics = metrics
        self._dispatcher = dispatcher

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        path = request.raw_path.partition("?")[0]
        if path in _PROBES:
            return await self._dispatcher(request)
        if path != "/metrics" or request.method not in ("GET", "HEAD"):
            return web.Response(status=404, text="metrics are at /metrics\n")
        return web.Response(body=self._metrics.render(), headers={"Content-Type": _TEXT})
