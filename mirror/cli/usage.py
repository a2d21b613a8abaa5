"""`mirror du`: what takes the room of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from mirror.cli.desk import Desk
from mirror.cli.outcome import Outcome, count_text, size_text, table
from mirror.errors import NotHere
from mirror.oci.digest import Digest
from mirror.offline.complete import stored_plan
from mirror.store.hosted import Hosted
from mirror.store.manifests import Manifests
from mirror.store.pins import ImagePins
from mirror.store.repositories import find_repositories
from mirror.store.sets import Pins
from mirror.store.usage import Contents, folder_size

HOSTED = "(hosted)"
LOADED = "(loaded)"


async def du(desk: Desk, outcome: Outcome, by: str) -> None:
    """Say what has how much."""
    facts = await asyncio.to_thread(_measured, desk, by)
    outcome.facts |= facts
    groups, unnamed = facts["groups"], facts["unnamed"]
    rows: list[tuple[str, ...]] = [(by, "items", "size", "unique")]
    rows += [(one["name"], str(one["contents"]), size_text(one["bytes"]), size_text(one["unique"])) for one in groups]
    if unnamed["contents"]:
        nothing = "(no set, no pin)" if by == "set" else "(no repository)"
        size = size_text(unnamed["bytes"])
        rows.append((nothing, str(unnamed["contents"]), size, size))
    rows.append(("all content", str(facts["total"]["contents"]), size_text(facts["total"]["bytes"]), ""))
    outcome.say(*table(rows), "")
    kept = facts["kept"]
    outcome.say(
        f"{size_text(kept['pinned_bytes'])} pinned, {size_text(kept['hosted_bytes'])} more pushed here,"
        f" {size_text(kept['cache_bytes'])} cache"
    )
    beside = {name: size for name, size in facts["beside"].items() if size}
    if beside:
        outcome.say("besides: " + ", ".join(f"{name} {size_text(size)}" for name, size in beside.items()))
    disk = facts["disk"]
    outcome.say(f"{size_text(disk['free'])} free of {size_text(disk['total'])}")
    if by != "set" and unnamed["contents"]:
        what = count_text(unnamed["contents"], "item")
        outcome.say(f"{what} in no repository: eviction takes what is cache, `mirror gc` what was pushed")


def _measured(desk: Desk, by: str) -> dict[str, Any]:
    opened = desk.opened
    layout = opened.layout
    contents = Contents(layout)
    if by == "set":
        _count_sets(desk, contents)
    else:
        _count_repositories(desk, contents, by)
    pins = Pins(layout).digests()
    pinned = contents.of(Digest.parse(text) for text in pins)
    hosted = contents.of(marker.digest for marker in Hosted(layout).walk() if str(marker.digest) not in pins)
    total, unnamed = contents.total, contents.unnamed
    disk = opened.space.disk()
    return {
        "by": by,
        "groups": [
            {"name": one.name, "contents": one.contents, "bytes": one.bytes, "unique": one.unique}
            for one in contents.groups()
        ],
        "unnamed": unnamed._asdict(),
        "total": total._asdict(),
        "kept": {
            "pinned_bytes": pinned.bytes,
            "hosted_bytes": hosted.bytes,
            "cache_bytes": total.bytes - pinned.bytes - hosted.bytes,
        },
        "beside": {
            "downloads": folder_size(layout.ingest),
            "uploads": folder_size(layout.uploads),
            "quarantine": folder_size(layout.quarantine),
            "index": folder_size(layout.index),
        },
        "disk": {"total": disk.total, "free": disk.free},
    }


def _count_repositories(desk: Desk, contents: Contents, by: str) -> None:
    rows = Manifests(desk.opened.layout)
    group = _upstream(desk) if by == "upstream" else str
    for found, name in sorted((group(name), name) for name in find_repositories(desk.opened.layout)):
        contents.count(found, rows.list(name))
        contents.count(found, rows.list_blobs(name))


def _upstream(desk: Desk) -> Callable[[str], str]:
    def group(name: str) -> str:
        first = name.partition("/")[0]
        if first in desk.config.upstreams:
            return first
        try:
            hosted = desk.opened.content.resolve(name, None, None).hosted
        except NotHere:
            hosted = False
        return HOSTED if hosted else LOADED

    return group


def _count_sets(desk: Desk, contents: Contents) -> None:
    for name in desk.sets.names():
        for number in desk.sets.generations(name):
            plan = stored_plan(desk.sets, name, number)
            if plan is not None:
                contents.count(f"{name}@{number}", plan.content)
    for one in ImagePins(desk.opened.layout).list():
        contents.count(str(one), one.content)
