"""The tag list of one endpoint."""

from __future__ import annotations

import json

from mirror.errors import TagInvalid, UpstreamInvalid
from mirror.oci.reference import check_tag
from mirror.upstream.exchange import Ask, Endpoint
from mirror.upstream.pages import pages

MOST_TAGS = 10_000
# The largest page that every registry takes: ECR and distribution refuse more than 1000.
_PAGE = 1000


async def list_tags(endpoint: Endpoint, repository: str, most: int = MOST_TAGS) -> list[str]:
    """Return the first `most` tags in upstream's order; no page is asked for after those."""
    ask = Ask("tags", "GET", repository, f"tags/list?n={_PAGE}", {"Accept": "application/json"})
    tags: list[str] = []
    async for _, body in pages(endpoint, ask, "a tag list"):
        tags += _names(body, endpoint.name)
        if len(tags) >= most:
            break
    return tags[:most]


def _names(body: bytes, endpoint: str) -> list[str]:
    try:
        names = json.loads(body)["tags"]
    except (ValueError, TypeError, KeyError, RecursionError):
        names = body
    # An empty repository has `null` here.
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UpstreamInvalid(f"{endpoint} sends a tag list that is none", "", endpoint)
    return [name for name in names if _is_tag(name)]


def _is_tag(name: str) -> bool:
    """Tell whether a client could ask for it: what is outside the grammar could not be pulled by any name of ours."""
    try:
        check_tag(name)
    except TagInvalid:
        return False
    return True
