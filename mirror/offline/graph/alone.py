"""Releases that came without a graph: each alone, so that a cluster of it finds itself, and no update leads to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mirror.oci.semver import Version

_KINDS = ("candidate", "eus", "fast", "stable")


def alone(version: str, payload: str) -> dict[str, Any]:
    """Return Cincinnati's JSON of one release, whose pullspec is `payload`."""
    return {
        "version": 1,
        "nodes": [{"version": version, "payload": payload, "metadata": {}}],
        "edges": [],
        "conditionalEdges": [],
    }


def channels(version: str) -> Iterator[str]:
    """Yield the channels that clusters of a release may ask for; raise VersionInvalid.

    Which of them it is published in, only a graph says. OKD's are of all minor versions.
    """
    found = Version.parse(version)
    yield from (f"{kind}-{found.major}.{found.minor}" for kind in _KINDS)
    if "okd" in version:
        yield from (f"stable-{found.major}", f"stable-scos-{found.major}")
