"""`mirror purge`: what was pulled through goes, so that the next pull fetches it anew."""

from __future__ import annotations

import asyncio

from mirror.cli.desk import Desk
from mirror.cli.naming import Named, find_target, parse_named
from mirror.cli.outcome import Outcome, count_text, size_text
from mirror.errors import Forbidden, NotHere
from mirror.oci.digest import Digest
from mirror.store.purge import Gone, Purged, Purger

_SHOWN = 20  # digests named to a person
_LISTED = 10_000  # digests in the report of --json


async def purge(desk: Desk, outcome: Outcome, given: str, *, dry_run: bool) -> None:
    """Drop the cache of a repository, a tag or a digest."""
    named = parse_named(given)
    target = await asyncio.to_thread(find_target, desk, named.name)
    if target.hosted:
        raise Forbidden(
            f"{target.name} is pushed to, so nothing could be fetched again",
            "delete its tags or manifests with a client that may, then `mirror gc` frees them",
        )
    listed: list[tuple[Digest, int]] = []

    def gone(digest: Digest, size: int) -> None:
        if len(listed) < _LISTED:
            listed.append((digest, size))

    # A name without an upstream may have been pushed to before mirror.yaml said otherwise.
    purger = Purger(desk.opened.layout, desk.opened.space.eviction, keep_pushed=not target.upstream)
    total = await asyncio.to_thread(_purge, purger, named, target.name,
                                    gone, dry_run=dry_run)  # fmt: skip
    if total == Purged():
        raise NotHere(f"nothing of {named} is here", "`mirror ls` shows what is here")
    outcome.facts |= {
        "name": target.name,
        "dry_run": dry_run,
        "tags": total.tags,
        "manifests": total.manifests,
        "contents": total.contents,
        "freed_bytes": total.bytes,
        "kept": {"pinned": total.pinned, "shared": total.shared},
        "digests": [{"digest": str(digest), "bytes": size} for digest, size in listed],
    }
    outcome.say(*(f"{digest}  {size_text(size)}" for digest, size in listed[:_SHOWN]))
    if total.contents > _SHOWN:
        outcome.say(f"… and {total.contents - _SHOWN} more")
    rows = f"{count_text(total.tags, 'tag')} and {count_text(total.manifests, 'manifest')}"
    word, freed = ("would go", "would be freed") if dry_run else ("gone", "freed")
    outcome.say(f"{rows} {word}; {count_text(total.contents, 'item')}, {size_text(total.bytes)} {freed}")
    if total.pinned:
        outcome.say(f"{count_text(total.pinned, 'item')} kept: pinned, or pushed here")
    if total.shared:
        outcome.say(f"{count_text(total.shared, 'item')} kept: another repository has them too")
    if desk.config.offline and not dry_run:
        outcome.warn(["the mirror is offline: what is gone only comes back by an archive"])


def _purge(purger: Purger, named: Named, name: str, gone: Gone, *, dry_run: bool) -> Purged:
    if named.digest is not None:
        return purger.digest(name, named.digest, gone, dry_run=dry_run)
    if named.tag:
        return purger.tag(name, named.tag, gone, dry_run=dry_run)
    return purger.repository(name, gone, dry_run=dry_run)
