"""/livez and /readyz: whether the loop turns, and whether store and tag path work. They tell nobody why not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from mirror.registry.face import Content, Events
from mirror.registry.responses import Answer, Responses
from mirror.registry.routes import Kind, Route

_PATIENCE = 5.0
_REMEMBER = 1.0


class Health:
    """Answers probes. One check runs at a time and holds for a second, so that probes cost nothing.

    While `responses.leaving`, /readyz says no: it must be known before the listeners close. Where others take the
    place of this process, the service is as ready as it was.
    """

    def __init__(
        self,
        content: Content,
        responses: Responses,
        events: Events,
        clock: Callable[[], float],
        patience: float = _PATIENCE,
    ) -> None:
        self._content = content
        self._responses = responses
        self._events = events
        self._clock = clock
        self._patience = patience
        self._checking: asyncio.Task[bool] | None = None
        self._until = 0.0
        self._ready = False

    async def __call__(self, request: web.BaseRequest, route: Route, _arrived: float) -> Answer:
        """Answer one probe: 200 `ok` or 503 `not ready`."""
        ending = self._responses.leaving and not self._responses.replaced
        if route.kind is Kind.LIVE or (not ending and await self._is_ready()):
            return self._responses.whole(request, 200, "text/plain", b"ok\n")
        return self._responses.whole(request, 503, "text/plain", b"not ready\n", "Retry-After: 5\r\n")

    async def _is_ready(self) -> bool:
        if self._checking is None:
            if self._clock() < self._until:
                return self._ready
            self._checking = asyncio.get_running_loop().create_task(self._check())
        # A probe that leaves must not end the check that others wait for.
        return await asyncio.shield(self._checking)

    async def _check(self) -> bool:
        try:
            async with asyncio.timeout(self._patience):
                await self._content.ready()
            self._ready = True
        except Exception as error:  # noqa: BLE001 - whatever it is, this process is not ready
            self._ready = False
            self._events.warning("not_ready", error=str(error) or type(error).__name__)
        finally:
            self._checking = None
            self._until = self._clock() + _REMEMBER
        return self._ready
