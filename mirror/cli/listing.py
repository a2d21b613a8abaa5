"""`mirror ls` beyond image sets: what is here of repositories, of one of them, and of one image."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from mirror.cli.desk import Desk
from mirror.cli.naming import Named, find_target, is_image, parse_named
from mirror.cli.outcome import Outcome, count_text, size_text, table
from mirror.errors import MirrorError, NameInvalid, NotHere, RecordDamaged
from mirror.oci.digest import Digest
from mirror.oci.reference import check_set
from mirror.store import files
from mirror.store.manifests import Manifests
from mirror.store.pins import ImagePins
from mirror.store.repositories import find_repositories
from mirror.store.sets import Pins
from mirror.store.tags import TagRecord, Tags
from mirror.store.trees import grow

_SHOWN = 20  # manifests without a tag that are named to a person


def is_repository(desk: Desk, given: str) -> bool:
    """Tell whether `ls` was given a repository or a prefix of some, and no set. For threads."""
    if "/" in given or is_image(given) or (":" in given and "@" not in given):
        return True
    name = given.partition("@")[0]
    try:
        known = bool(desk.sets.generations(check_set(name)))
    except NameInvalid:
        known = False
    return not known and "@" not in given and (desk.opened.layout.repositories / given).is_dir()


async def overview(desk: Desk, outcome: Outcome) -> None:
    """Say which images are pinned, and where there are how many repositories."""
    pins, counts = await asyncio.to_thread(_overview, desk)
    outcome.facts["pins"] = [
        {"image": str(one), "bytes": sum(one.content.values()), "pinned": _time(one.pinned), "who": one.who}
        for one in pins
    ]
    outcome.facts["repositories"] = dict(counts)
    if pins:
        rows: list[tuple[str, ...]] = [("pinned image", "size", "since", "by")]
        rows += [
            (str(one), size_text(sum(one.content.values())), _time(one.pinned) or "-", one.who or "-") for one in pins
        ]
        outcome.say("", *table(rows))
    if counts:
        rows = [("mirror ls …", "repositories"), *((name, str(count)) for name, count in sorted(counts.items()))]
        outcome.say("", *table(rows))


def _overview(desk: Desk) -> tuple[list[Any], Counter[str]]:
    names = find_repositories(desk.opened.layout)
    return ImagePins(desk.opened.layout).list(), Counter(name.partition("/")[0] for name in names)


async def ls(desk: Desk, given: str, outcome: Outcome) -> None:
    """List a repository, an image, or the repositories under a prefix."""
    named = parse_named(given.rstrip("/"))
    await asyncio.to_thread(_ls, desk, named, outcome)


def _ls(desk: Desk, named: Named, outcome: Outcome) -> None:
    layout = desk.opened.layout
    name = _found(desk, named)
    if named.tag or named.digest is not None:
        _list_image(desk, named, name, outcome)
        return
    under = sorted(one for one in find_repositories(layout) if one == name or one.startswith(f"{name}/"))
    if not under:
        under = sorted(one for one in find_repositories(layout) if one.startswith(f"{named.name}/"))
    if name in under:
        _list_repository(desk, name, outcome)
        if len(under) > 1:
            outcome.facts["under"] = [one for one in under if one != name]
            outcome.say("under it:", *outcome.facts["under"])
        return
    if not under:
        raise NotHere(f"nothing of {named.name} is here", "`mirror ls` shows what is here")
    rows, tags = Manifests(layout), Tags(layout)
    found = [{"name": one, "tags": len(tags.list(one)), "manifests": sum(1 for _ in rows.list(one))} for one in under]
    outcome.facts["repositories"] = found
    lines: list[tuple[str, ...]] = [("repository", "tags", "manifests")]
    lines += [(str(one["name"]), str(one["tags"]), str(one["manifests"])) for one in found]
    outcome.say(*table(lines))


def _found(desk: Desk, named: Named) -> str:
    try:
        return find_target(desk, named.name).name
    except MirrorError:
        if (desk.opened.layout.repositories / named.name).is_dir():
            return named.name  # a prefix
        raise


def _list_repository(desk: Desk, name: str, outcome: Outcome) -> None:
    layout = desk.opened.layout
    rows, tags = Manifests(layout), Tags(layout)
    records: dict[str, TagRecord | None] = {}
    for tag in tags.list(name):
        try:
            records[tag] = tags.read(name, tag)
        except RecordDamaged as error:
            outcome.note_error(error)
    meant = {tag: record for tag, record in records.items() if record is not None}
    digests = set(rows.list(name))
    children = {one for one in rows.list_blobs(name) if one in digests}
    blobs = set(rows.list_blobs(name)) - digests
    sizes = {digest: _size(desk, digest) for digest in digests | blobs}
    here = [size for size in sizes.values() if size is not None]
    held = Pins(layout).holders([str(one) for one in {*digests, *(record.digest for record in meant.values())}])
    outcome.facts |= {
        "name": name,
        "tags": [
            {
                "tag": tag,
                "digest": str(record.digest),
                "media_type": record.media_type,
                "checked": _time(record.checked),
                "source": record.source,
                "here": _size(desk, record.digest) is not None,
                "pinned_by": held[str(record.digest)],
            }
            for tag, record in meant.items()
        ],
        "manifests": [
            {
                "digest": str(digest),
                "bytes": sizes[digest],
                "here": sizes[digest] is not None,
                "tags": [tag for tag, record in meant.items() if record.digest == digest],
                "pinned_by": held[str(digest)],
            }
            for digest in sorted(digests)
        ],
        "blobs": len(blobs),
        "here": {"contents": len(here), "bytes": sum(here)},
    }
    lines: list[tuple[str, ...]] = [("tag", "digest", "checked", "here", "pinned by")]
    lines += [
        (tag, str(record.digest), _time(record.checked) or "-", "yes" if _size(desk, record.digest) else "no",
         ",".join(held[str(record.digest)]) or "-")
        for tag, record in meant.items()
    ]  # fmt: skip
    untagged = sorted(digests - children - {record.digest for record in meant.values()})
    lines += [
        ("-", str(digest), "-", "no" if sizes[digest] is None else "yes", ",".join(held[str(digest)]) or "-")
        for digest in untagged[:_SHOWN]
    ]
    outcome.say(*table(lines))
    if len(untagged) > _SHOWN:
        outcome.say(f"… and {len(untagged) - _SHOWN} more without a tag")
    outcome.say(
        "",
        f"{count_text(len(digests), 'manifest')} and {count_text(len(blobs), 'blob')} are known,"
        f" {len(here)} of them are here: {size_text(sum(here))}",
    )


def _list_image(desk: Desk, named: Named, name: str, outcome: Outcome) -> None:
    digest = named.digest
    if digest is None:
        record = Tags(desk.opened.layout).read(name, named.tag)
        if record is None:
            raise NotHere(f"there is no tag {named} here", f"`mirror ls {named.name}` shows which tags there are")
        digest = record.digest
    tree = grow(desk.opened.layout, name, digest)
    parts = [("manifest", one, size) for one, size in tree.manifests.items()]
    parts += [("blob", one, size) for one, size in tree.blobs.items()]
    held = Pins(desk.opened.layout).holders([str(digest)])[str(digest)]
    outcome.facts |= {
        "name": name,
        "digest": str(digest),
        "pinned_by": held,
        "contents": [
            {"kind": kind, "digest": str(one), "bytes": size, "here": one not in tree.absent}
            for kind, one, size in parts
        ],
    }
    lines: list[tuple[str, ...]] = [("digest", "kind", "size", "here")]
    lines += [(str(one), kind, size_text(size), "no" if one in tree.absent else "yes") for kind, one, size in parts]
    outcome.say(*table(lines))
    total = sum(size for _, _, size in parts)
    missing = f"; {len(tree.absent)} missing" if tree.absent else ""
    outcome.say("", f"{name}@{digest}: {size_text(total)}{missing}; pinned by {', '.join(held) or 'nothing'}")


def _size(desk: Desk, digest: Digest) -> int | None:
    found = files.modified(desk.opened.layout.blob(digest))
    return None if found is None else found[2]


def _time(moment: float) -> str | None:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None
