"""Lists that come in pages: the `Link` header, followed on the same origin only."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from yarl import URL

from mirror.errors import UpstreamInvalid
from mirror.upstream.body import read_whole
from mirror.upstream.exchange import Ask, Endpoint
from mirror.upstream.transport import Answer

_MOST_PAGES = 1000
_PAGE_LIMIT = 4 << 20
_NEXT = re.compile(r'<([^>]*)>((?:\s*;\s*[^,;="]+(?:=(?:"[^"]*"|[^",;]*))?)*)')


async def pages(endpoint: Endpoint, ask: Ask, what: str) -> AsyncIterator[tuple[Answer, bytes]]:
    """Yield each page's answer and body (at most 4 MiB), up to a page that was seen: cursors that never move exist."""
    seen = {ask.path}
    for _ in range(_MOST_PAGES):
        answer = await endpoint.ask(ask)
        body = await read_whole(answer, _PAGE_LIMIT, what, endpoint.name)
        yield answer, body
        path = next_path(endpoint, ask, answer.header_lines("Link"))
        if path is None or path in seen:
            return
        seen.add(path)
        ask = Ask(ask.kind, ask.method, ask.repository, path, ask.headers)


def next_path(endpoint: Endpoint, ask: Ask, lines: list[str]) -> str | None:
    """Return what to ask for next (as `Ask.path`), or None at the end (RFC 8288, rel=next).

    An absolute address counts by its query alone: quay names its own host, proxies name paths that are not theirs,
    and nothing in a list may lead our login to another path or host.
    """
    for line in lines:
        for target, parameters in _NEXT.findall(line):
            if re.search(r';\s*rel\s*=\s*"?next"?', parameters, re.IGNORECASE) is None:
                continue
            try:
                query = URL(target, encoded=True).raw_query_string
            except ValueError:
                query = ""
            if not query or not query.isascii():
                raise UpstreamInvalid(
                    f"{endpoint.name} links to a next page that cannot be asked for", "", endpoint.name
                )
            return f"{ask.path.partition('?')[0]}?{query}"
    return None
