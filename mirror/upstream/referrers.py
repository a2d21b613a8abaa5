"""What refers to a digest, by one endpoint's referrers API."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from mirror.errors import UpstreamInvalid, UpstreamNotFound
from mirror.oci.digest import Digest
from mirror.oci.media_types import OCI_INDEX
from mirror.upstream.answers import ReferrersBody
from mirror.upstream.exchange import Ask, Endpoint
from mirror.upstream.pages import pages

_MOST_REFERRERS = 10_000


async def list_referrers(
    endpoint: Endpoint, repository: str, digest: Digest, artifact_type: str | None
) -> ReferrersBody | None:
    """Return the index of referrers, several pages as one; None where the API is missing (404)."""
    query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
    ask = Ask("referrers", "GET", repository, f"referrers/{digest}{query}", {"Accept": OCI_INDEX})
    bodies: list[bytes] = []
    found: list[Any] = []
    filtered = False
    try:
        async for answer, body in pages(endpoint, ask, "a referrers list"):
            bodies.append(body)
            found += _manifests(body, endpoint.name)
            filtered = "artifactType" in answer.header("OCI-Filters-Applied")
            if len(found) >= _MOST_REFERRERS:
                break
    except UpstreamNotFound:
        return None
    if len(bodies) == 1:
        return ReferrersBody(bodies[0], filtered)
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found[:_MOST_REFERRERS]}
    return ReferrersBody(json.dumps(index, separators=(",", ":")).encode(), filtered)


def _manifests(body: bytes, endpoint: str) -> list[Any]:
    try:
        found = json.loads(body)["manifests"]
    except (ValueError, TypeError, KeyError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise UpstreamInvalid(f"{endpoint} sends a referrers list that is none", "", endpoint)
    return found
