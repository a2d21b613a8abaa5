"""`mirror gc`, `history` and `rollback`: what hosted repositories leave behind, and what their tags mean and meant."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from mirror.cli.desk import Desk
from mirror.cli.outcome import Outcome, size_text, table
from mirror.cli.person import operator
from mirror.content.garbage import open_collector
from mirror.errors import DigestInvalid, Forbidden, NotHere, RecordDamaged
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.tags import TagRecord

_SHOWN = 20  # digests named to a person
_SHORTEST = 6  # characters of the beginning of a digest
_LISTED = 10_000  # digests in the report of --json

# -- gc ------------------------------------------------------------------------------------------------------------


async def gc(desk: Desk, outcome: Outcome, *, dry_run: bool, yes: bool) -> None:
    """Free what was pushed and is named by nothing any more."""
    opened = desk.opened
    collector = open_collector(opened.layout, opened.index, opened.space, opened.content.resolve)
    listed: list[tuple[str, int]] = []

    def freed(digest: Digest, size: int) -> None:
        if len(listed) < _LISTED:
            listed.append((str(digest), size))

    total = await asyncio.to_thread(lambda: collector.collect(freed, dry_run=dry_run, yes=yes))
    outcome.facts |= {
        "dry_run": dry_run,
        "freed_bytes": total.bytes + total.uploads,
        "contents": total.contents,
        "uploads_bytes": total.uploads,
        "digests": [{"digest": digest, "bytes": size} for digest, size in listed],
    }
    outcome.say(*(f"{digest}  {size_text(size)}" for digest, size in listed[:_SHOWN]))
    if total.contents > _SHOWN:
        outcome.say(f"… and {total.contents - _SHOWN} more")
    uploads = f", {size_text(total.uploads)} of abandoned uploads" if total.uploads else ""
    count = f"{total.contents} blobs and manifests" if total.contents != 1 else "one blob or manifest"
    outcome.say(f"{'would free' if dry_run else 'freed'} {size_text(total.bytes)} of {count}{uploads}")


# -- history and rollback ------------------------------------------------------------------------------------------


async def history(desk: Desk, outcome: Outcome, name: str, tag: str) -> None:
    """Say what tags mean and meant."""
    target = desk.opened.content.resolve(name, None, None)
    found = await desk.opened.content.hosted.history(target, tag)
    meanings = {one: await asyncio.to_thread(_meanings, desk, record, target.hosted) for one, record in found}
    outcome.facts |= {
        "name": target.name,
        "tags": [{"tag": one, "now": entries[0], "earlier": entries[1:]} for one, entries in meanings.items()],
    }
    rows: list[tuple[str, ...]] = [("tag", "digest", "since", "until", "by", "here")]
    for one, entries in meanings.items():
        rows += [
            (
                one,
                entry["digest"],
                entry["since"] or "-",
                entry["until"] or "now",
                entry["who"] or "-",
                "yes" if entry["here"] else "no",
            )
            for entry in entries
        ]
    outcome.say(*table(rows))
    if not tag:
        for error in await desk.opened.content.hosted.damaged(target):
            outcome.note_error(error)


def _meanings(desk: Desk, record: TagRecord, hosted: bool) -> list[dict[str, Any]]:
    """Return what a tag means and meant, the youngest first, each with when it began and ended as far as is known."""
    # A proxied tag is checked again and again, so its time says nothing of when it came to mean this.
    begun: list[float] = [one.until for one in record.history]
    begun = begun if begun or not hosted else [record.checked]
    ends = [0.0, *(one.until for one in record.history)]
    digests = [(str(record.digest), record.source), *((one.digest, one.who) for one in record.history)]
    return [
        {
            "digest": digest,
            "since": _time(begun[number]) if number < len(begun) else None,
            "until": _time(ends[number]),
            "who": who,
            "here": _is_here(desk, digest),
        }
        for number, (digest, who) in enumerate(digests)
    ]


def _is_here(desk: Desk, digest: str) -> bool:
    try:
        return files.modified(desk.opened.layout.blob(Digest.parse(digest))) is not None
    except DigestInvalid:
        return False


def _time(moment: float) -> str | None:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


async def rollback(desk: Desk, outcome: Outcome, name: str, tag: str, given: str) -> None:
    """Let a tag mean again what it meant before."""
    target = desk.opened.content.resolve(name, None, None)
    if not target.hosted:
        raise Forbidden(f"{target.name} is not hosted here: its tags mean what they mean where it comes from")
    hosted = desk.opened.content.hosted
    before: TagRecord | None = None
    try:
        ((_, before),) = await hosted.history(target, tag)
        digest = _chosen(before, f"{target.name}:{tag}", given)
    except RecordDamaged as error:
        # Nobody knows what it meant but a person, who says it in full.
        try:
            digest = Digest.parse(given)
        except DigestInvalid:
            raise error from None
    after = await hosted.rollback(target, tag, digest, operator())
    meant = str(before.digest) if before is not None else None
    outcome.facts |= {"name": target.name, "tag": tag, "from": meant, "to": str(after.digest)}
    if before is None:
        outcome.say(f"{target.name}:{tag} means {digest} now; what it meant before its record was damaged is not known")
    elif before.digest == after.digest:
        outcome.say(f"{target.name}:{tag} already means {digest}")
    else:
        outcome.say(f"{target.name}:{tag} means {digest} again, and no longer {before.digest}")


def _chosen(record: TagRecord, name: str, given: str) -> Digest:
    """Return the digest that a tag meant or means and that `given` is, or begins; raise NotHere."""
    known = {str(record.digest), *(one.digest for one in record.history)}
    found = [text for text in known if text.startswith(given) or text.partition(":")[2].startswith(given)]
    if len(found) == 1 and len(given) >= _SHORTEST:
        return Digest.parse(found[0])
    what = f"{name} never meant {given[:160]}, as far as is known" if not found else f"'{given}' is too short"
    raise NotHere(what, f"mirror history {name} shows what it meant")
