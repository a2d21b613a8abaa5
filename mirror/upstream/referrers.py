"""What refers to a digest, by one endpoint's referrers API."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from mirror.errors import NotOffered, UpstreamInvalid, UpstreamNotFound
from mirror.oci.digest import Digest
from mirror.oci.media_types import OCI_INDEX
from mirror.upstream.answers import ReferrersBody
from mirror.upstream.exchange import Ask, Endpoint
from mirror.upstream.pages import pages

_MOST_REFERRERS = 10_000


async def list_referrers(
    endpoint: Endpoint, repository: str, digest: Digest, artifact_type: str | None
) -> ReferrersBody | None:
    """Return the index of referrers, several pages as one; None where the API is missing (404).

    Raise NotOffered where it is missing and the endpoint says so in another way.
    """
    query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
    ask = Ask("referrers", "GET", repository, f"referrers/{digest}{query}", {"Accept": OCI_INDEX})
    indexes: list[tuple[bytes, dict[str, Any]]] = []
    found: list[Any] = []
    filtered = False
    try:
        async for answer, body in pages(endpoint, ask, "a referrers list"):
            index = _index(body, endpoint.name)
            indexes.append((body, index))
            found += _entries(index)
            filtered = "artifactType" in answer.header("OCI-Filters-Applied")
            if len(found) >= _MOST_REFERRERS:
                break
    except UpstreamNotFound:
        return None
    except NotOffered as error:
        if indexes:
            raise UpstreamInvalid(f"{endpoint.name} breaks off a referrers list", "", endpoint.name) from error
        raise
    if len(indexes) == 1 and _is_whole(indexes[0][1]):
        return ReferrersBody(indexes[0][0], filtered)
    whole = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found[:_MOST_REFERRERS]}
    return ReferrersBody(json.dumps(whole, separators=(",", ":")).encode(), filtered)


def _index(body: bytes, endpoint: str) -> dict[str, Any]:
    """Return the index that a page is; raise NotOffered for anything else that a registry has to say.

    Where there is nothing to list, services written in Go send null or leave the list out.
    """
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        listed = found.get("manifests")
        is_empty = listed is None and (
            "manifests" in found or found.get("mediaType") == OCI_INDEX or found.keys() == {"schemaVersion"}
        )
        if is_empty or isinstance(listed, list):
            return found
    raise NotOffered(f"{endpoint} sends what is not a referrers list", "", endpoint)


def _entries(index: dict[str, Any]) -> list[Any]:
    """Return what a page lists, without what names nothing."""
    return [one for one in index.get("manifests") or () if isinstance(one, dict) and isinstance(one.get("digest"), str)]


def _is_whole(index: dict[str, Any]) -> bool:
    """Tell whether a page can go out as it is."""
    form = (index.get("schemaVersion"), index.get("mediaType", OCI_INDEX))
    return form == (2, OCI_INDEX) and index.get("manifests") == _entries(index)
