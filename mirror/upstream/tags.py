"""The tag list of one endpoint."""

from __future__ import annotations

import json

from mirror.errors import TagInvalid, UpstreamInvalid
from mirror.oci.reference import check_tag
from mirror.upstream.exchange import Ask, BadRequest, Endpoint
from mirror.upstream.pages import pages

MOST_TAGS = 10_000
# The largest page that every registry takes: ECR and distribution refuse more than 1000.
_PAGE = 1000


async def list_tags(endpoint: Endpoint, repository: str, most: int = MOST_TAGS) -> list[str]:
    """Return the first `most` tags in upstream's order; no page is asked for after those.

    A registry that refuses pages of our size is asked for pages of its own.
    """
    try:
        return await _list(endpoint, repository, f"tags/list?n={_PAGE}", most)
    except BadRequest:
        return await _list(endpoint, repository, "tags/list", most)


async def _list(endpoint: Endpoint, repository: str, path: str, most: int) -> list[str]:
    ask = Ask("tags", "GET", repository, path, {"Accept": "application/json"})
    tags: dict[str, None] = {}
    async for _, body in pages(endpoint, ask, "a tag list"):
        names, known = _names(body, endpoint.name), len(tags)
        tags.update(dict.fromkeys(names))
        # A page that brings nothing new is one that was read: its cursor moves and leads nowhere.
        if len(tags) >= most or (names and len(tags) == known):
            break
    return list(tags)[:most]


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
