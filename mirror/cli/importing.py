"""`mirror load` of what other tools made: one image from a laptop, or all of oc-mirror's archives."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mirror.cli.desk import Desk, readers
from mirror.cli.outcome import INCOMPLETE, NO_SPACE, UNVERIFIED, Outcome, size_text
from mirror.cli.planning import next_generation
from mirror.cli.progress import Step, shown
from mirror.errors import ConfigurationError, InvalidRequest, NotHere, NotYet, Problem, StoreError
from mirror.oci.digest import Digest
from mirror.oci.manifest import MANIFEST_LIMIT
from mirror.oci.pullspec import Pullspec
from mirror.oci.reference import check_set
from mirror.offline.carrying import Carrying
from mirror.offline.complete import complete
from mirror.offline.foreign import Foreign, Survey, bring, survey
from mirror.offline.plan import Plan
from mirror.offline.presumed import PresumedRefused, Presumptions
from mirror.store import files
from mirror.store.intake import Intake

_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")

CheckSignatures = Callable[[Plan, Mapping[Digest, Sequence[bytes]]], None]


async def load_foreign(
    desk: Desk,
    foreign: Foreign,
    outcome: Outcome,
    *,
    as_name: str | None,
    name: str | None,
    path: Path,
    check_signatures: CheckSignatures,
    allow_presumed: bool,
) -> None:
    """Bring an archive of another tool into the store, as a generation of a set of its own."""
    set_name = _set_name(name, path)
    wanted = _parse(as_name)
    busy = await asyncio.to_thread(desk.sets.try_busy, set_name)
    if busy is None:
        raise NotYet(f"another sync or load of set {set_name} is running", "wait for it")
    try:
        carrying = Carrying()
        with shown("load", lambda: Step(carrying.done, carrying.total, carrying.what), quiet=outcome.quiet):
            await asyncio.to_thread(
                _load, desk, foreign, outcome, wanted, set_name, check_signatures, carrying, allow_presumed
            )
    finally:
        busy.release()


def _load(
    desk: Desk,
    foreign: Foreign,
    outcome: Outcome,
    wanted: Pullspec | None,
    set_name: str,
    check_signatures: CheckSignatures,
    carrying: Carrying,
    allow_presumed: bool,
) -> None:
    found = survey(
        foreign,
        as_name=wanted,
        name=lambda pullspec: desk.opened.content.bring.target(pullspec).name,
        here=lambda digest: files.read_small(desk.opened.layout.blob(digest), MANIFEST_LIMIT),
        has=desk.store.has,
        may_host=lambda path: _may_host(desk, path),
    )
    plan = found.plan(set_name, require_signature=desk.config.releases.require_signature)
    signatures = _signatures(found)
    check_signatures(plan, signatures)
    _describe(outcome, found, plan)
    if not plan.images:
        outcome.note(
            INCOMPLETE, "nothing_whole", f"{foreign.label} has no whole image", "", "see what is missing above"
        )
        return
    if not allow_presumed:
        _check_presumed(desk, foreign, plan)
    carrying.total = found.needed(desk.store.has)
    room = desk.opened.space.forecast()
    if carrying.total > room.free + room.evictable:
        outcome.note(
            NO_SPACE, "no_space",
            f"{foreign.label} needs {size_text(carrying.total)} more, {size_text(room.free)} are free and"
            f" {size_text(room.evictable)} can be evicted",
            str(desk.config.storage.path), "give the store more room",
        )  # fmt: skip
        return
    number = next_generation(desk, plan)
    if desk.sets.read(set_name, number) != plan.dump():
        desk.sets.write(set_name, number, plan.dump())
    opened = desk.opened
    brought = bring(found, Intake(opened.layout, opened.space, opened.index.note), progress=carrying.move)
    for lost in brought.damaged:
        outcome.note(UNVERIFIED, "damaged", f"{lost.what}: {lost.why}", foreign.label, lost.remedy)
    for digest, raws in signatures.items():
        for raw in raws:
            desk.store.signatures.add(digest, raw)
    lacking = complete(plan, number, "loaded", desk.store, desk.sets)
    outcome.facts |= {"generation": number, "received": {"digests": brought.contents, "bytes": brought.size}}
    if lacking and not brought.damaged:
        raise StoreError(f"{len(lacking.missing)} digests of {set_name}@{number} have gone meanwhile", "load it again")
    state = "is not complete" if lacking else "is complete"
    outcome.say(f"set {set_name}@{number} {plan.digest} {state}: {size_text(brought.size)} received")


def presumptions(desk: Desk) -> Presumptions:
    """Return what says what a load into this store may presume."""
    return Presumptions(desk.opened.layout, desk.sets, readers(desk))


def _check_presumed(desk: Desk, foreign: Foreign, plan: Plan) -> None:
    """Raise PresumedRefused where an archive counts on content of repositories that rules protect."""
    asked = presumptions(desk)
    lacking = {digest for digest, size in plan.content.items() if not desk.store.has(digest, size)}
    found = asked.foreign(plan, lacking)
    presumed, proven = [], []
    for digest, size in found.items():
        place = foreign.place(digest)
        if place is None:
            presumed.append(digest)
            continue
        with place.open() as read:
            if asked.is_same(digest, 0, size, read):
                proven.append(digest)
            else:
                presumed.append(digest)
    if presumed:
        raise PresumedRefused(foreign.label, presumed)
    for digest in proven:
        asked.prove(plan, digest)


def _may_host(desk: Desk, path: str) -> bool:
    """Tell whether clients would be given a repository of our own under this path."""
    try:
        target = desk.opened.content.resolve(path, None, None)
    except NotHere:
        return False
    return not target.upstream


def _signatures(found: Survey) -> dict[Digest, list[bytes]]:
    signatures: dict[Digest, list[bytes]] = defaultdict(list)
    for one in found.signatures:
        signatures[one.release].append(found.signature_bytes[one.digest])
    return signatures


def _describe(outcome: Outcome, found: Survey, plan: Plan) -> None:
    """Say what was recognised, under which names it is kept, and what is not whole."""
    outcome.warn(found.warnings)
    outcome.facts |= {
        "kind": found.foreign.kind,
        "set": plan.set,
        "digest": str(plan.digest),
        "totals": plan.totals,
        "images": [f"{image.source}@{image.digest}" for image in plan.images],
        "named": dict(found.named),
        "hosted": list(found.hosted),
        "missing": [str(digest) for digest in sorted(found.missing)],
    }
    outcome.say(f"{found.foreign.label}: {found.foreign.kind}, {plan.totals['images']} images")
    outcome.say(*(f"  {repository} is {source}" for repository, source in sorted(found.named.items())))
    for repository in found.hosted:
        outcome.say(f"  {repository} cannot be named back to where it came from: kept under this name")
    for one in found.left_out:
        outcome.note(INCOMPLETE, "image_lacking", f"{one.what}: {one.why}", found.foreign.label, one.remedy)
    for one in found.damaged:
        outcome.note(UNVERIFIED, "damaged", f"{one.what}: {one.why}", found.foreign.label, one.remedy)


def _set_name(given: str | None, path: Path) -> str:
    """Return what the set is called: --set, or the archive's own name as far as it may be one."""
    stem = _UNFIT.sub("-", path.absolute().name.partition(".tar")[0]).strip("-._")[:63].strip("-._")
    try:
        return check_set(given or stem or "loaded")
    except InvalidRequest as error:
        raise ConfigurationError([Problem("set_name", error.what, "--set", error.remedy)]) from error


def _parse(as_name: str | None) -> Pullspec | None:
    if as_name is None:
        return None
    try:
        return Pullspec.parse(as_name)
    except InvalidRequest as error:
        raise ConfigurationError([Problem("as_invalid", error.what, "--as", error.remedy)]) from error
