"""The link to the next page of a list."""

from __future__ import annotations

from urllib.parse import quote

from mirror.registry.routes import Route


def link_field(route: Route, last: str) -> str:
    """Return the Link line for the page after `last`.

    Relative, so that no forged Host is repeated, and in the request's own address form with its ns: clients keep
    only path and query of it, and another form would lead to another repository (protocol.md 1.8).
    """
    query = f"last={quote(last, safe='')}"
    if route.count is not None:
        query = f"n={route.count}&{query}"
    if route.artifact_type is not None:
        query += f"&artifactType={quote(route.artifact_type, safe='')}"
    if route.ns is not None:
        query += f"&ns={quote(route.ns, safe='')}"
    return f'Link: <{route.path}?{query}>; rel="next"\r\n'
