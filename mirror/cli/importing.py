"""`mirror load` of what other tools made: one image from a laptop, or all of oc-mirror's archives."""

from __future__ import annotations

import asyncio
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mirror.cli.desk import Desk, readers
from mirror.cli.outcome import INCOMPLETE, NO_SPACE, UNVERIFIED, Outcome, count_text, size_text
from mirror.cli.planning import demanded_keyring, next_generation, read_keyring
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
from mirror.offline.signatures import Candidate, SignatureInvalid, SignatureStores, verify_release
from mirror.offline.trust import called_releases, kept_signatures
from mirror.offline.withdraw import withdraw
from mirror.store import files
from mirror.store.intake import Intake
from mirror.upstream.documents import open_documents

_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


async def load_foreign(
    desk: Desk,
    foreign: Foreign,
    outcome: Outcome,
    *,
    as_name: str | None,
    name: str | None,
    path: Path,
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
            found = await asyncio.to_thread(_survey, desk, foreign, wanted)
            outcome.warn(found.warnings)
            signed = await _with_signatures(desk, found, set_name, outcome)
            if signed is not None:
                if not allow_presumed:
                    await asyncio.to_thread(_check_presumed, desk, foreign, _plan(desk, signed, set_name))
                await asyncio.to_thread(_bring, desk, signed, outcome, set_name, carrying)
    finally:
        busy.release()


def _survey(desk: Desk, foreign: Foreign, wanted: Pullspec | None) -> Survey:
    return survey(
        foreign,
        as_name=wanted,
        name=lambda pullspec: desk.opened.content.bring.target(pullspec).name,
        here=lambda digest: files.read_small(desk.opened.layout.blob(digest), MANIFEST_LIMIT),
        has=desk.store.has,
        may_host=lambda path: _may_host(desk, path),
        stored=desk.store.reading,
    )


async def _with_signatures(desk: Desk, found: Survey, set_name: str, outcome: Outcome) -> Survey | None:
    """Return what was found with the signatures of its releases that hold; None where one is required and lacking.

    They are looked for in the archive, in the store and, where one is required, in the signature stores; each release
    that lacks one is noted. Where none is required and none holds, those of the archive are kept as they are: clusters
    may know the key.
    """
    archived: dict[Digest, list[bytes]] = defaultdict(list)
    for one in found.signatures:
        archived[one.release].append(found.signature_bytes[one.digest])
    releases = called_releases(_plan(desk, found, set_name))
    keyring = await asyncio.to_thread(read_keyring, desk)
    require = desk.config.releases.require_signature
    stored = kept_signatures(desk.store)
    signatures: dict[Digest, Sequence[bytes]] = {}
    refused: list[SignatureInvalid] = []
    documents = open_documents(desk.config, os.environ, outside=desk.outside)
    try:
        stores = SignatureStores(documents, desk.config.releases.signature_stores if require else ())
        for digest, image in sorted(releases.items()):
            known = [Candidate("the archive", raw) for raw in archived[digest]]
            known += await asyncio.to_thread(stored, digest)
            try:
                held, _ = await verify_release(digest, stores, keyring, known=known, image=image)
            except SignatureInvalid as error:
                refused.append(error)
                signatures[digest] = archived[digest]
            else:
                signatures[digest] = [raw for _, raw in held]
    finally:
        await documents.close()
    if not (require and refused):
        return found.signed(signatures)
    for lacking in refused:
        outcome.note_error(lacking)
    return None


def _plan(desk: Desk, found: Survey, set_name: str) -> Plan:
    return found.plan(set_name, require_signature=desk.config.releases.require_signature)


def _bring(desk: Desk, found: Survey, outcome: Outcome, set_name: str, carrying: Carrying) -> None:
    plan = _plan(desk, found, set_name)
    _describe(outcome, found, plan)
    label = found.foreign.label
    if not plan.images:
        outcome.note(INCOMPLETE, "nothing_whole", f"{label} holds no complete image", "", "see what is missing above")
        return
    lacking = found.lacking(desk.store.has)
    carrying.total = sum(lacking.values())
    room = desk.opened.space.forecast()
    if carrying.total > room.free + room.evictable:
        outcome.note(
            NO_SPACE, "no_space",
            f"{label} needs {size_text(carrying.total)} more; {size_text(room.free)} is free and"
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
        outcome.note(UNVERIFIED, "damaged", f"{lost.what}: {lost.why}", label, lost.remedy)
    for one in found.signatures:
        desk.store.signatures.add(one.release, found.signature_bytes[one.digest])
    keyring, step = demanded_keyring(desk), partial(carrying.move, 0)
    try:
        missing = complete(plan, number, "loaded", desk.store, desk.sets, keyring, step)
    except SignatureInvalid:
        withdraw(desk.sets, opened.space, set_name, number, lacking)
        raise
    outcome.facts |= {"generation": number, "received": {"digests": brought.contents, "bytes": brought.size}}
    if missing and not brought.damaged:
        raise StoreError(
            f"{count_text(len(missing.missing), 'digest')} of {set_name}@{number} disappeared in the meantime",
            "load it again",
        )
    done = not (missing or plan.lacking)
    outcome.facts["complete"] = done
    state = "is complete" if done else "is incomplete"
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
        refused = PresumedRefused(f"{foreign.label} ({foreign.kind})", presumed)
        refused.remedy = (
            "make the archive again with all layers of its images, e.g. `skopeo copy --all docker://NAME"
            " oci-archive:FILE:NAME`, and load that; or, if you trust who made it, load it with --allow-presumed"
        )
        raise refused
    for digest in proven:
        asked.prove(plan, digest)


def _may_host(desk: Desk, path: str) -> bool:
    """Tell whether clients would be given a repository of our own under this path."""
    try:
        target = desk.opened.content.resolve(path, None, None)
    except NotHere:
        return False
    return not target.upstream


def _describe(outcome: Outcome, found: Survey, plan: Plan) -> None:
    """Say what was recognised, under which names it is kept, and what is not whole."""
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
    outcome.say(f"{found.foreign.label}: {found.foreign.kind}, {count_text(plan.totals['images'], 'image')}")
    for repository, source in sorted(found.named.items()):
        outcome.say(f"  {source}" if repository == source else f"  {repository} came from {source}")
    for repository in found.hosted:
        outcome.say(f"  {repository}{_why_hosted(found, repository)}")
    for one in found.left_out:
        outcome.note(INCOMPLETE, "image_lacking", f"{one.what}: {one.why}", found.foreign.label, one.remedy)
    for one in found.damaged:
        outcome.note(UNVERIFIED, "damaged", f"{one.what}: {one.why}", found.foreign.label, one.remedy)


def _why_hosted(found: Survey, repository: str) -> str:
    """Return why a repository is kept under its own path, as the rest of a sentence."""
    foreign = sorted({image.source for image in found.images if image.name == repository} - {repository})
    if foreign:
        return f": no name here can hold {foreign[0].partition('/')[0]}, so it is kept under this name"
    if repository in found.named:
        return " is kept under this name too, as was asked for"
    return ": nothing says where it came from, so it is kept under this name"


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
