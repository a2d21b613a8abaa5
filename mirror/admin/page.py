"""What the service answers at its unix socket: /status, /explain, and a reload. As JSON, for commands of this host."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from mirror import logs
from mirror.errors import MirrorError

_log = logs.get("admin.page")

Facts = Mapping[str, Any]


class AdminPage:
    """The handler of the unix socket. Whoever may open that is trusted, so there is no login.

    `status` and `explain` give what is told; `reload` asks for what SIGHUP does and returns at once.
    """

    def __init__(
        self,
        status: Callable[[], Awaitable[Facts]],
        explain: Callable[[str], Awaitable[Facts]],
        reload: Callable[[], None],
    ) -> None:
        self._status = status
        self._explain = explain
        self._reload = reload

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            match (request.method, request.path):
                case ("GET", "/status"):
                    return _answer(200, await self._status())
                case ("GET", "/explain"):
                    return _answer(200, await self._explain(request.query.get("name", "")))
                case ("POST", "/reload"):
                    self._reload()
                    return _answer(202, {})
        except MirrorError as error:
            return _answer(400, {"what": error.what, "remedy": error.remedy})
        except Exception as error:  # noqa: BLE001 - a question about the service must not end it
            _log.error("admin_failed", path=request.path, exc_info=error)
            return _answer(
                500, {"what": f"the service could not tell ({type(error).__name__})", "remedy": "see its log"}
            )
        return _answer(404, {"what": "there is GET /status, GET /explain?name=… and POST /reload", "remedy": ""})


def _answer(status: int, facts: Facts) -> web.Response:
    return web.Response(status=status, body=json.dumps(facts).encode(), content_type="application/json")
