"""What collecting a plan needs beside registries: image sets, graphs and signers, in a line each."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec
from mirror.offline.collect import Collected, collect
from mirror.offline.graph import Graph, parse
from mirror.offline.image_set import Channel, ImageSet, Platform, WantedImage
from mirror.offline.plan import Image, Plan
from tests.tools.image_source import Registries, graph
from tests.tools.release import Release

SIGNATURE = b"a signature"
SIGNER = "567E347AD0044ADE55BA8A5F199E2F91FD431D51"

Graphs = Mapping[tuple[str, str], bytes]


def image_set(
    *channels: Channel,
    releases: Sequence[str] = (),
    images: Sequence[str | WantedImage] = (),
    architectures: Sequence[str] = ("amd64",),
    platforms: Sequence[str] = (),
    kubevirt: bool = False,
    blocked: Sequence[str] = (),
) -> ImageSet:
    """Return an image set; images and releases may be pullspecs as text."""
    wanted = [WantedImage(Pullspec.parse(one)) if isinstance(one, str) else one for one in images]
    return ImageSet(
        None,
        tuple(channels),
        tuple(map(Pullspec.parse, releases)),
        ("multi",) if platforms else tuple(architectures),
        tuple(map(Platform.parse, platforms)),
        kubevirt=kubevirt,
        images=tuple(wanted),
        blocked=tuple(map(re.compile, blocked)),
    )


def of_release(*releases: Release, **more: Any) -> ImageSet:
    """Return an image set of releases by pullspec."""
    return image_set(releases=[one.pullspec for one in releases], **more)


def graphs(*releases: Release, channel: str = "stable-4.16", edges: Sequence[tuple[str, str]] = ()) -> Graphs:
    """Return the graphs of one channel, for each architecture."""
    by_architecture: dict[str, dict[str, str]] = {}
    for one in releases:
        by_architecture.setdefault(one.architecture, {})[one.version] = one.pullspec
    return {(channel, name): graph(specs, edges) for name, specs in by_architecture.items()}


async def signed(digest: Digest) -> tuple[list[tuple[int, bytes]], tuple[str, ...]]:
    """Verify any release: it has one signature."""
    return [(1, SIGNATURE + digest.hex.encode())], (SIGNER,)


async def collected(
    source: Registries,
    wanted: ImageSet,
    channels: Graphs | None = None,
    verify: Callable[[Digest], Awaitable[tuple[list[tuple[int, bytes]], tuple[str, ...]]]] = signed,
    **more: Any,
) -> Collected:
    """Return what `wanted` comes to under the name prod; its plan must read back as it is."""

    async def fetch(channel: str, architecture: str, kind: str = "ocp", /) -> Graph:
        return parse((channels or {})[(channel, architecture)])

    found = await collect(wanted, "prod", source, fetch, verify, **{"require_signature": True, **more})
    assert Plan.parse(found.plan.dump()) == found.plan
    return found


def by_kind(plan: Plan) -> dict[str, list[Image]]:
    """Return a plan's images by kind."""
    kinds: dict[str, list[Image]] = {}
    for one in plan.images:
        kinds.setdefault(one.kind, []).append(one)
    return kinds


def content(plan: Plan) -> dict[str, int]:
    """Return a plan's digests with their sizes, as text."""
    return {str(digest): size for digest, size in plan.content.items()}
