"""In front of a pull-through mirror and its upstream: reads go to the one, writes to the other.

`python -m tests.tools.splitter PORT MIRROR UPSTREAM`, each an http URL. So a suite that pushes what it pulls can be
run against a mirror that takes no pushes.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

from aiohttp import ClientSession, ClientTimeout, web
from yarl import URL

_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length"}
_CHUNK = 256 * 1024


class Splitter:
    """Passes each request on, as it is."""

    def __init__(self, mirror: str, upstream: str) -> None:
        self._mirror = mirror
        self._upstream = upstream

    async def session(self, app: web.Application) -> AsyncIterator[None]:
        """Keep one client session for the application's life."""
        timeout = ClientTimeout(total=60)
        async with ClientSession(auto_decompress=False, timeout=timeout) as self._client:
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Send reads to the mirror, writes and upload sessions to the upstream."""
        is_read = request.method in ("GET", "HEAD") and "/blobs/uploads/" not in request.path
        target = self._mirror if is_read else self._upstream
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP]
        async with self._client.request(
            request.method,
            URL(target + request.raw_path, encoded=True),
            headers=headers,
            data=await request.read() or None,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            allow_redirects=False,
        ) as answer:
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP - {"content-length"}:
                    response.headers.add(name, value)
            await response.prepare(request)
            async for chunk in answer.content.iter_chunked(_CHUNK):
                await response.write(chunk)
            await response.write_eof()
            return response


def application(mirror: str, upstream: str) -> web.Application:
    """Return the splitter as an application."""
    splitter = Splitter(mirror, upstream)
    app = web.Application(client_max_size=2**30)
    app.cleanup_ctx.append(splitter.session)
    app.router.add_route("*", "/{path:.*}", splitter.handle)
    return app


if __name__ == "__main__":
    web.run_app(application(sys.argv[2], sys.argv[3]), host="127.0.0.1", port=int(sys.argv[1]), print=None)
