"""`mirror pin` and `unpin` of single images, and `pin` of generations."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from mirror.cli.choose import choose_stored
from mirror.cli.desk import Desk
from mirror.cli.naming import Named, find_target, is_image, parse_named
from mirror.cli.outcome import FAILED, INCOMPLETE, Outcome, count_text, size_text, some_text
from mirror.cli.person import operator
from mirror.errors import ConfigurationError, NotHere, NotYet, Problem
from mirror.oci.digest import Digest
from mirror.offline.complete import stored_plan
from mirror.store import files
from mirror.store.brake import Amount, Brake
from mirror.store.hosted import Hosted
from mirror.store.pins import ImagePins, Pinned, pin_image
from mirror.store.sets import Pins
from mirror.store.tags import Tags

_SHOWN = 20  # digests named to a person


async def pin(desk: Desk, outcome: Outcome, what: str) -> None:
    """Pin an image, or hold a generation."""
    if "@" in what and not is_image(what):
        await asyncio.to_thread(_hold, desk, outcome, what)
        return
    name, digest = await asyncio.to_thread(_image, desk, what)
    pinned, absent = await asyncio.to_thread(pin_image, desk.opened.layout, name, digest, operator())
    outcome.facts |= {
        "image": str(pinned),
        "contents": len(pinned.content),
        "bytes": sum(pinned.content.values()),
        "missing": [str(one) for one in sorted(absent)],
    }
    for one in sorted(absent)[:_SHOWN]:
        kind = "a manifest: what is under it is not known and not pinned" if one in pinned.manifests else "a blob"
        outcome.note(
            INCOMPLETE, "missing", f"{one} is not here ({kind})", str(pinned), "pull it through here, then pin again"
        )
    kept = count_text(len(pinned.content), "item")
    outcome.say(f"{pinned} is pinned: {kept}, {size_text(sum(pinned.content.values()))}")


async def unpin(desk: Desk, outcome: Outcome, what: str, *, now: bool, dry_run: bool, yes: bool) -> None:
    """Give a pinned image up: what nothing else needs becomes cache, or is deleted `now`."""
    name, digest = await asyncio.to_thread(_image, desk, what)
    pins = ImagePins(desk.opened.layout)
    pinned = await asyncio.to_thread(pins.read, name, digest)
    if pinned is None:
        remedy = await asyncio.to_thread(_what_is_pinned, desk, pins, name, digest)
        raise NotHere(f"{name}@{digest} is not pinned by itself", remedy)
    if desk.config.offline and not (now or dry_run):
        stay = "nothing is evicted while offline, so what is given up would stay for good"
        raise ConfigurationError([Problem("offline", stay, what, "add --now")])
    alone = await asyncio.to_thread(_alone, desk, pinned)
    freed = sum(alone.values())
    word = "would be freed" if now else "would become cache"
    if not dry_run:
        if now:
            await asyncio.to_thread(check_brake, desk, alone, yes=yes)
        await asyncio.to_thread(pins.remove, name, digest)
        if now:
            gone = await asyncio.to_thread(desk.opened.space.eviction.delete, alone)
            outcome.facts["freed_bytes"] = freed = sum(alone[one] for one in gone)
        word = "freed" if now else "cache now: eviction takes it when room is needed"
    outcome.facts |= {"image": str(pinned), "unpinned_bytes": sum(alone.values()), "deleted": now, "dry_run": dry_run}
    outcome.say(f"{pinned}: {size_text(freed)} {word}")


def check_brake(desk: Desk, alone: Mapping[Digest, int], *, yes: bool) -> None:
    """Raise CollectionStopped where deleting `alone` (bytes each) takes too much of the store, unless `yes`."""
    hosted = Hosted(desk.opened.layout)
    taken = [size for digest, size in alone.items() if not hosted.has(digest)]
    Brake(desk.opened.layout).check("unpin", Amount(len(taken), sum(taken)), yes=yes)


def _image(desk: Desk, what: str) -> tuple[str, Digest]:
    """Return the repository, by canonical name, and the digest that `what` names."""
    named = parse_named(what)
    target = find_target(desk, named.name)
    if named.digest is not None:
        return target.name, named.digest
    why = "a tag may move, so it takes a digest to say" if named.tag else "it takes a digest to say"
    problem = Problem("no_digest", f"{why} what '{what}' means", "", _remedy(desk, named, target.name))
    raise ConfigurationError([problem])


def _what_is_pinned(desk: Desk, pins: ImagePins, name: str, digest: Digest) -> str:
    """Return what keeps an image that is not pinned by itself, else what is pinned of its repository."""
    holders = Pins(desk.opened.layout).holders([str(digest)])[str(digest)]
    generations = [one for one in holders if one != "pin"]
    if named := [one for one in generations if _is_named(desk, one, name, digest)]:
        return f"it is kept by {', '.join(named)}: `mirror unpin {named[0]}` gives that up"
    if generations:  # for another repository, which is not what is to be given up
        return f"{some_text(generations)} needs it under another name: `mirror ls {generations[0]}` lists what it holds"
    like = [str(one) for one in pins.list() if one.name == name or digest in one.content]
    if not like:
        return f"nothing of {name} is: `mirror ls {name}` shows what is here and pinned"
    return f"these are: {some_text(like, _SHOWN)}"


def _is_named(desk: Desk, generation: str, name: str, digest: Digest) -> bool:
    of, _, number = generation.partition("@")
    plan = stored_plan(desk.sets, of, int(number))
    return plan is not None and any((one.name, one.digest) == (name, digest) for one in plan.manifests)


def _remedy(desk: Desk, named: Named, name: str) -> str:
    record = Tags(desk.opened.layout).read(name, named.tag) if named.tag else None
    if record is not None:
        return f"now it means {named.name}@{record.digest}: write that"
    return (
        f"write {named.name}@sha256:…: `mirror ls {named.name}` shows the digests that are here, and what was never"
        " pulled through here has to be pulled first"
    )


def _alone(desk: Desk, pinned: Pinned) -> dict[Digest, int]:
    """Return what is here and pinned by this image alone."""
    layout = desk.opened.layout
    others: set[Digest] = set()
    for one in ImagePins(layout).list():
        if (one.name, one.digest) != (pinned.name, pinned.digest):
            others.update(one.content)
    holders = Pins(layout).holders([str(digest) for digest in pinned.content])
    return {
        digest: size
        for digest, size in pinned.content.items()
        if digest not in others and holders[str(digest)] == ["pin"] and files.modified(layout.blob(digest)) is not None
    }


def _hold(desk: Desk, outcome: Outcome, what: str) -> None:
    one = choose_stored(desk, what, complete=False)
    busy = desk.sets.try_busy(one.plan.set)
    if busy is None:
        raise NotYet(f"a sync or load of set {one.plan.set} is running", "wait for it")
    try:
        if one.generation not in desk.sets.generations(one.plan.set):
            outcome.note(FAILED, "no_generation", f"{one} was given up just now")
            return
        desk.sets.hold(one.plan.set, one.generation)
    finally:
        busy.release()
    outcome.facts |= {"set": str(one), "held": True}
    outcome.say(f"{one} is kept until `mirror unpin {one}`, whatever `sync --keep` says")
