"""`mirror verify`, `inventory`, `ls` and `unpin`: what is here of image sets, and giving it up.

`ls` of repositories is listing.py, `unpin` of single images pinning.py.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from mirror.cli import listing, pinning
from mirror.cli.choose import Stored, choose_stored, stored, unknown_set
from mirror.cli.desk import Desk
from mirror.cli.naming import is_image
from mirror.cli.outcome import INCOMPLETE, UNVERIFIED, Outcome, count_text, size_text, some_text, table
from mirror.cli.planning import read_keyring
from mirror.cli.progress import Step, shown
from mirror.errors import ConfigurationError, NotYet, Problem, RecordDamaged
from mirror.oci.digest import Digest
from mirror.offline.complete import refresh_graphs, stored_plan
from mirror.offline.plan import Plan
from mirror.offline.saves import Saves
from mirror.offline.signatures import remedy as signature_remedy
from mirror.offline.signatures import verify as verify_signature
from mirror.offline.trust import unsigned
from mirror.offline.verify import Verdict, without_signature
from mirror.offline.verify import verify as verify_plan
from mirror.store.pins import ImagePins
from mirror.store.walk import find_blobs

_FETCH = "fetch it: mirror sync "
_NAMED = 3  # missing things named to a person; --json and -o have them all


# -- verify --------------------------------------------------------------------------------------------------------


async def verify(desk: Desk, given: str | None, outcome: Outcome, *, deep: bool, output: Path | None) -> None:
    """Say whether everything of a generation, or of all, is here; write what is missing where asked."""
    chosen = await asyncio.to_thread(_chosen, desk, given)
    if not chosen:
        outcome.note(INCOMPLETE, "no_sets", "there are no image sets here", "", "sync or load one first")
    keyring = await asyncio.to_thread(read_keyring, desk)

    def check(raw: bytes, digest: Digest) -> str:
        return verify_signature(raw, digest, keyring).fingerprint

    def find_unsigned(plan: Plan) -> dict[Digest, str]:
        # What layers hold is looked at where all is read anyway.
        return unsigned(plan, desk.store, keyring, by_label_alone=lambda _: not deep)

    hashed = 0

    def count(size: int) -> None:
        nonlocal hashed
        hashed += size

    total = sum(sum(one.plan.content.values()) for one in chosen) if deep else 0

    def look(one: Stored) -> Verdict:
        return verify_plan(
            one.plan,
            one.generation,
            desk.store,
            complete=one.complete,
            deep=deep,
            check_signature=check,
            unsigned=partial(find_unsigned, one.plan),
            required=desk.config.releases.require_signature,
            progress=count,
        )

    with shown("verify", lambda: Step(hashed, total), quiet=outcome.quiet or not deep):
        verdicts = [await asyncio.to_thread(look, one) for one in chosen]
    outcome.facts["sets"] = [verdict.as_dict() for verdict in verdicts]
    outcome.facts["deep"] = deep
    _report(desk, outcome, chosen, verdicts, signature_remedy(keyring), output)
    if output is not None:
        missing = sorted({str(digest) for verdict in verdicts for digest in (*verdict.missing, *verdict.corrupt)})
        await asyncio.to_thread(desk.write, output, "".join(f"{digest}\n" for digest in missing).encode())
        outcome.facts["missing_file"] = str(output)


def _chosen(desk: Desk, given: str | None) -> list[Stored]:
    if given is not None:
        return [choose_stored(desk, given, complete=False)]
    every = [(name, number) for name in desk.sets.names() for number in desk.sets.generations(name)]
    desk.sets.check_plans(every)  # a complete one without its plan is not passed over
    return [stored(desk, name, number, complete=False) for name, number in every]


def _report(
    desk: Desk, outcome: Outcome, chosen: list[Stored], verdicts: list[Verdict], sign: str, output: Path | None
) -> None:
    """Say what was found; `sign` is what to do about a release without a signature."""
    rows: list[tuple[str, ...]] = [("set", "digests", "size", "missing", "corrupt", "openpgp", "sigstore", "state")]
    for one in verdicts:
        sigstore = one.sigstore.get("required", 0) + one.sigstore.get("present", 0)
        rows.append(
            (
                f"{one.set}@{one.generation}", str(one.digests), size_text(one.bytes), str(len(one.missing)),
                str(len(one.corrupt)), f"{one.signed} of {one.releases}", f"{sigstore} present", one.state,
            )
        )  # fmt: skip
    if verdicts:
        outcome.say(*table(rows))
    for stored_one, one in zip(chosen, verdicts, strict=True):
        name, again = str(stored_one), _again(desk, stored_one, output)
        if one.corrupt:
            what = f"{some_text(one.corrupt)} did not hash to {_its(one.corrupt)} and {_is(one.corrupt)} in quarantine"
            outcome.note(UNVERIFIED, "corrupt", what, name, again)
        for problem in one.signatures:
            outcome.note(UNVERIFIED, "signature", problem, name, "sync or load the set again; see releases.keyring")
        if one.lost and one.state != "incomplete":
            what = f"{some_text(list(one.lost))} {_is(one.lost)} not here"
            outcome.note(UNVERIFIED, "signature", what, name, again)
        for release in one.blamed:
            what = without_signature(release)
            if one.required:
                outcome.note(UNVERIFIED, "signature", what, name, sign)
            else:
                outcome.warn([f"{name}: {what}: it is accepted because releases.require_signature is false"])
        _note_missing(outcome, name, one, again)
        outcome.warn(f"{name}: {what}" for what in one.left_out)
    if verdicts and all(one.whole for one in verdicts):
        outcome.say("", "everything is here: you may cut the cable")


def _again(desk: Desk, one: Stored, output: Path | None) -> str:
    """Return the command that brings what a generation lacks."""
    if one.plan.of_archive:
        return "load its archive again, or the parts in which it came"
    if not desk.config.offline and all(desk.target(planned.name).upstream for planned in one.plan.manifests):
        return f"{_FETCH}{one}"
    listed = output or "missing.txt"
    first = "" if output is not None else f"list it: mirror verify {one} -o {listed}; then "
    return f"{first}have it saved on the other side: mirror save {one} --to DIR --want {listed}, and load that"


def _note_missing(outcome: Outcome, name: str, one: Verdict, again: str) -> None:
    absent = {digest: size for digest, size in one.missing.items() if digest not in one.closed}
    if absent:
        of = sorted(absent) if len(absent) <= _NAMED else one.short
        what = (
            f"{len(absent)} of {one.digests} digests {_is(absent)} not here, {size_text(sum(absent.values()))} of"
            f" {size_text(one.bytes)}: {'' if len(absent) <= _NAMED else 'of '}{some_text(of, _NAMED)}"
        )
        outcome.note(INCOMPLETE, "missing", what, name, again)
    for why in {error.remedy: error for error in reversed(one.closed.values())}.values():
        alike = sum(error.remedy == why.remedy for error in one.closed.values())
        what = why.what if alike == 1 else f"{alike} of {one.digests} digests cannot be read; {why.what}"
        outcome.note(INCOMPLETE, "unreadable", what, name, why.remedy)
    if one.unnamed:
        what = f"{some_text(one.unnamed)} {_is(one.unnamed)} not known under {_its(one.unnamed)}"
        outcome.note(INCOMPLETE, "unnamed", what, name, again)
    if one.graph:
        outcome.note(INCOMPLETE, "graph", f"the update graph lacks {some_text(one.graph)}", name, again)
    for what in one.lacking:
        outcome.note(INCOMPLETE, "lacking", what, name)
    if not one.complete and not (one.missing or one.lacking):
        again = again if again.startswith(_FETCH) else "load its parts again"
        outcome.note(INCOMPLETE, "not_completed", "its sync or load did not finish", name, again)


def _is(items: Collection[object]) -> str:
    return "is" if len(items) == 1 else "are"


def _its(items: Collection[object]) -> str:
    return "its name" if len(items) == 1 else "their names"


# -- inventory -----------------------------------------------------------------------------------------------------


async def inventory(desk: Desk, outcome: Outcome, output: Path | None) -> None:
    """Write the digests of all verified content here, for `mirror save --have` on the other side."""
    digests, size = await asyncio.to_thread(_here, desk)
    document = {"schema": 1, "kind": "inventory", "digests": digests}
    raw = (json.dumps(document, indent=1) + "\n").encode()
    outcome.facts |= {"digests": len(digests), "bytes": size}
    if output is None:
        if outcome.as_json:
            outcome.facts["inventory"] = digests
        else:
            outcome.say(raw.decode().rstrip("\n"))
        return
    await asyncio.to_thread(desk.write, output, raw)
    outcome.say(f"{count_text(len(digests), 'digest')}, {size_text(size)}: {output}")


def _here(desk: Desk) -> tuple[list[str], int]:
    found = [one for one in find_blobs(desk.opened.layout) if desk.store.has(one.digest, one.size)]
    return sorted(str(one.digest) for one in found), sum(one.size for one in found)


# -- ls ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Listed:
    """A generation as `ls` shows it."""

    stored: Stored
    unique: int  # bytes that no other generation needs
    how: str
    completed: float
    saved: float
    held: bool

    def as_dict(self) -> dict[str, Any]:
        plan = self.stored.plan
        return {
            "set": plan.set,
            "generation": self.stored.generation,
            "digest": str(plan.digest),
            "releases": [f"{one.version}-{one.architecture}" for one in plan.releases],
            "images": len(plan.images),
            "bytes": plan.totals["bytes"],
            "unique_bytes": self.unique,
            "state": self.stored.state,
            "held": self.held,
            "synced": _time(self.completed) if self.how == "synced" else None,
            "loaded": _time(self.completed) if self.how == "loaded" else None,
            "saved": _time(self.saved),
        }


async def ls(desk: Desk, given: str | None, outcome: Outcome) -> None:
    """List image sets; of one generation, its images; of a repository, what is here of it."""
    if given is not None and await asyncio.to_thread(listing.is_repository, desk, given):
        await listing.ls(desk, given, outcome)
        return
    if given is not None and "@" in given:
        one = await asyncio.to_thread(choose_stored, desk, given, complete=False)
        _list_images(outcome, one)
        return
    if given is not None and not await asyncio.to_thread(desk.sets.generations, given):
        raise await asyncio.to_thread(unknown_set, desk, given)
    listed = [one for one in await asyncio.to_thread(_listed, desk) if given in (None, one.stored.plan.set)]
    outcome.facts["sets"] = [one.as_dict() for one in listed]
    if listed:
        _say_sets(outcome, listed)
    else:
        outcome.say("there are no image sets here: `mirror sync` or `mirror load` brings one")
    if given is None:
        await listing.overview(desk, outcome)


def _say_sets(outcome: Outcome, listed: list[_Listed]) -> None:
    times = ("synced", "saved", "loaded")
    rows: list[tuple[str, ...]] = [("set", "releases", "images", "size", "unique", "state", *times)]
    for entry in listed:
        found = entry.as_dict()
        state = f"{found['state']}, held" if entry.held else found["state"]
        rows.append(
            (
                str(entry.stored), ",".join(found["releases"]) or "-", str(found["images"]), size_text(found["bytes"]),
                size_text(entry.unique), state, *(found[key] or "-" for key in times),
            )
        )  # fmt: skip
    outcome.say(*table(rows))


def _list_images(outcome: Outcome, one: Stored) -> None:
    outcome.facts["set"] = str(one)
    outcome.facts["images"] = [
        {"image": f"{image.source}@{image.digest}", "name": image.name, "kind": image.kind, "tags": list(image.tags),
         "why": list(image.why), "sigstore": image.sigstore}
        for image in one.plan.images
    ]  # fmt: skip
    for image in one.plan.images:
        outcome.say(f"{image.source}@{image.digest}  {image.kind}  {','.join(image.tags) or '-'}")


def _listed(desk: Desk) -> Iterator[_Listed]:
    chosen = _chosen(desk, None)
    uses = Counter(digest for one in chosen for digest in one.plan.content)
    current = {(one.set, one.generation): one for one in desk.sets.current()}
    for one in chosen:
        unique = sum(size for digest, size in one.plan.content.items() if uses[digest] == 1)
        found = current.get((one.plan.set, one.generation))
        yield _Listed(
            one, unique, found.how if found else "", found.completed if found else 0.0,
            Saves(desk.opened.layout, one.plan.set).finished(one.generation),
            desk.sets.is_held(one.plan.set, one.generation),
        )  # fmt: skip


def _time(moment: float) -> str | None:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


# -- unpin ---------------------------------------------------------------------------------------------------------


async def unpin(desk: Desk, given: str, outcome: Outcome, *, now: bool, dry_run: bool, yes: bool) -> None:
    """Give a generation or an image up: what nothing else needs becomes cache, or is deleted `now`."""
    if is_image(given):
        await pinning.unpin(desk, outcome, given, now=now, dry_run=dry_run, yes=yes)
        return
    await asyncio.to_thread(_check_generation, desk, given)
    name, _, _ = given.partition("@")
    busy = await asyncio.to_thread(desk.sets.try_busy, name)
    if busy is None:
        raise NotYet(f"a sync or load of set {name} is running", "wait for it")
    try:
        if await asyncio.to_thread(_give_up_unknown, desk, given, now=now, dry_run=dry_run):
            word = "would be given up" if dry_run else "is given up"
            outcome.facts |= {"set": given, "unpinned_bytes": 0, "deleted": False, "dry_run": dry_run}
            outcome.say(f"{given} {word}: its plan is damaged or lost, so all that it alone needed becomes cache")
            return
        one = await asyncio.to_thread(choose_stored, desk, given, complete=False)
        if desk.config.offline and not (now or dry_run):
            what = "nothing is evicted while offline, so what is given up would stay for good"
            raise ConfigurationError([Problem("offline", what, given, "add --now")])
        alone = await asyncio.to_thread(_alone, desk, one)
        freed = sum(alone.values())
        outcome.facts |= {"set": str(one), "unpinned_bytes": freed, "deleted": now, "dry_run": dry_run}
        what = "would be freed" if now else "would become cache"
        if not dry_run:
            if now:
                await asyncio.to_thread(pinning.check_brake, desk, alone, yes=yes)
            await asyncio.to_thread(desk.sets.remove, one.plan.set, one.generation)
            await asyncio.to_thread(refresh_graphs, desk.store, desk.sets)
            if now:
                gone = await asyncio.to_thread(desk.opened.space.eviction.delete, alone)
                outcome.facts["freed_bytes"] = freed = sum(alone[digest] for digest in gone)
            what = "freed" if now else "cache now: eviction takes it when room is needed"
        outcome.say(f"{one}: {size_text(freed)} {what}")
    finally:
        busy.release()


def _check_generation(desk: Desk, given: str) -> None:
    """Raise ConfigurationError where `given` names no generation that is here, with those that are."""
    name, at, number = given.partition("@")
    sets = desk.sets.names()
    known = [one.generation for one in desk.sets.current() if one.set == name]  # the plan of one may be lost
    known = sorted({*known, *(desk.sets.generations(name) if name in sets else ())})
    if at and number in map(str, known):
        return
    what = f"there is no {given} here"
    if known:
        remedy = f"the generations here are {', '.join(f'{name}@{one}' for one in known)}"
    elif "/" in given or ":" in given:
        image = name.partition(":")[0]
        remedy = f"write NAME@DIGEST, e.g. {image}@sha256:…; `mirror ls {image}` shows what is here and pinned"
    else:
        remedy = f"the sets here are {', '.join(sets)}" if sets else "there are no sets here"
    if not at:
        what = f"'{given}' is neither a generation of a set nor an image by its digest"
        remedy = remedy if known or "/" in given or ":" in given else f"write SET@N or NAME@DIGEST; {remedy}"
    raise ConfigurationError([Problem("no_generation", what, "", remedy)])


def _give_up_unknown(desk: Desk, given: str, *, now: bool, dry_run: bool) -> bool:
    """Give a generation up of which nobody can say any more what it needs; False where there is no such one.

    Raises ConfigurationError where it is to be deleted `now`, StoreUnreadable.
    """
    name, _, written = given.partition("@")
    number = int(written) if written.isdecimal() else 0
    complete = any((one.set, one.generation) == (name, number) for one in desk.sets.current())
    if not complete and number not in (desk.sets.generations(name) if name in desk.sets.names() else ()):
        return False
    with suppress(RecordDamaged):
        if stored_plan(desk.sets, name, number) is not None:
            return False
    if now:
        what = f"the plan of {given} is damaged or lost, so nobody knows what to delete"
        raise ConfigurationError([Problem("no_plan", what, given, "leave out --now: all that it needed becomes cache")])
    if not dry_run:
        desk.sets.remove(name, number)
        with suppress(RecordDamaged):  # of another generation: whoever mends that writes the graphs
            refresh_graphs(desk.store, desk.sets)
    return True


def _alone(desk: Desk, one: Stored) -> dict[Digest, int]:
    """Return what is here and pinned by this generation alone."""
    others: set[Digest] = set()
    for other in _chosen(desk, None):
        if (other.plan.set, other.generation) != (one.plan.set, one.generation):
            others.update(other.plan.content)
    for pinned in ImagePins(desk.opened.layout).list():
        others.update(pinned.content)
    presence = desk.store.presence(one.plan)
    return {digest: size for digest, size in presence.here.items() if digest not in others}
