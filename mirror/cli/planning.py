"""`mirror plan` and `mirror sync`: what an image set means, what it costs, and bringing it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mirror.cli.choose import File, Stored, choose_file, choose_stored, is_folder, looked
from mirror.cli.desk import Desk, readers
from mirror.cli.outcome import DONE, FAILED, INCOMPLETE, NO_SPACE, TEMPORARY, Outcome, count_text, size_text, table
from mirror.cli.progress import Step, shown
from mirror.errors import ConfigurationError, NameInvalid, NotYet, Problem, StoreError
from mirror.oci.digest import Digest
from mirror.oci.reference import check_set
from mirror.offline import image_set as image_sets
from mirror.offline.collect import Collected, collect
from mirror.offline.complete import complete
from mirror.offline.graph import Graphs
from mirror.offline.here import Presence
from mirror.offline.keyring import Keyring, shipped
from mirror.offline.plan import Plan
from mirror.offline.signatures import SignatureInvalid, SignatureStores, verify_release
from mirror.offline.sync import Progress, Sync
from mirror.offline.trust import called_releases, check_signed, kept_signatures
from mirror.offline.withdraw import withdraw
from mirror.store.adopt import adopt_all
from mirror.store.space import Forecast
from mirror.upstream.documents import open_documents

_IMAGES_AT_ONCE = 16  # read while planning
_AT_ONCE = 16  # where limits.fetches_per_upstream sets no bound


@dataclass(frozen=True, slots=True)
class Wanted:
    """What plan and sync are asked for."""

    given: str
    name: str | None = None  # --set
    replace: bool = False
    partial: bool = False
    keep: int | None = None
    output: Path | None = None


async def plan(desk: Desk, wanted: Wanted, outcome: Outcome) -> None:
    """Find out what an image set needs, say what of it is here, and write the plan where asked."""
    file = await asyncio.to_thread(_file, desk, wanted)
    found = await _found(desk, file, wanted, outcome)
    if wanted.output is not None:
        await asyncio.to_thread(desk.write, wanted.output, found.plan.dump())
        outcome.facts["plan"] = str(wanted.output)
    presence, room = await _forecast(desk, found.plan)
    _show(outcome, found.plan, presence, room)
    _check_room(desk, found.plan.set, presence, room, outcome)
    if not wanted.output and found.plan.images:
        outcome.say("", "write the plan to a file with -o, or bring it here with `mirror sync`")


async def sync(desk: Desk, wanted: Wanted, outcome: Outcome) -> None:
    """Bring an image set, a plan or a set's stored plan into the store, and complete its generation."""
    chosen = await asyncio.to_thread(_choose, desk, wanted)
    name = _name(wanted, chosen) if isinstance(chosen, File) else chosen.plan.set
    busy = await asyncio.to_thread(desk.sets.try_busy, name)
    if busy is None:
        raise NotYet(f"another sync or load of set {name} is running", "wait for it; `mirror ls` shows what is here")
    try:
        if isinstance(chosen, Stored):
            outcome.warn(chosen.plan.left_out)
            await _bring(desk, chosen.plan, chosen.generation, wanted, outcome)
            return
        found = await _found(desk, chosen, wanted, outcome)
        if not found.plan.images:
            outcome.say("nothing in it could be found, so nothing is kept")
            return
        await asyncio.to_thread(_keep_signatures, desk, found.signatures)
        number = await asyncio.to_thread(next_generation, desk, found.plan)
        await _bring(desk, found.plan, number, wanted, outcome, chosen if chosen.plan is None else None)
    finally:
        busy.release()


# -- what is asked for ---------------------------------------------------------------------------------------------


def _file(desk: Desk, wanted: Wanted) -> File:
    found = choose_file(desk, wanted.given)
    if found is None:
        what = f"there is no image set file '{wanted.given}'{looked(wanted.given)}"
        if is_folder(desk, Path(wanted.given)):
            what = f"'{wanted.given}' is a folder, not an image set file"
        raise ConfigurationError([Problem("no_file", what, "", "give the path of the file")])
    return found


def _choose(desk: Desk, wanted: Wanted) -> File | Stored:
    return choose_file(desk, wanted.given) or choose_stored(desk, wanted.given, complete=False)


def _name(wanted: Wanted, file: File) -> str:
    """Return what the set is called: --set, the plan's own name, or the file's stem."""
    try:
        if file.plan is not None:
            if wanted.name not in (None, file.plan.set):
                raise NameInvalid(f"the plan is of set {file.plan.set}", "leave out --set, or plan the set again")
            return file.plan.set
        return check_set(wanted.name or file.stem)
    except NameInvalid as error:
        raise ConfigurationError([Problem("set_name", error.what, str(file.path), error.remedy)]) from error


async def _found(desk: Desk, file: File, wanted: Wanted, outcome: Outcome) -> Collected:
    """Return what a file asks for, a plan as it was made: what was left out then is said again."""
    if file.plan is None:
        return await _find(desk, file, wanted, outcome)
    outcome.warn(file.plan.left_out)
    return Collected(file.plan, {}, (), (), {})


async def _find(desk: Desk, file: File, wanted: Wanted, outcome: Outcome) -> Collected:
    """Return what an image set means now, asking upstreams; notes what could not be found."""
    image_set = await asyncio.to_thread(image_sets.read, file.path, file.raw)
    name = _name(wanted, file)
    await asyncio.to_thread(_claim, desk, name, file.path, replace=wanted.replace)
    outcome.warn(image_set.warnings)
    config = desk.config
    keyring = await asyncio.to_thread(read_keyring, desk)
    documents = open_documents(config, os.environ, outside=desk.outside)
    try:
        graphs = Graphs(documents, config.releases.graph)
        stores = SignatureStores(documents, config.releases.signature_stores)

        async def signatures(digest: Digest) -> tuple[list[tuple[int, bytes]], tuple[str, ...]]:
            return await verify_release(digest, stores, keyring)

        found = await collect(
            image_set,
            name,
            desk.opened.content.bring,
            graphs.fetch,
            signatures,
            require_signature=config.releases.require_signature,
            parallel=_IMAGES_AT_ONCE,
            progress=outcome.progress,
        )
    finally:
        await documents.close()
    if found.unknown_hosts:
        lines = image_sets.suggest_upstreams(found.unknown_hosts)
        outcome.facts["upstreams"] = lines
        remedies = [f"add these lines under `upstreams:` in mirror.yaml\n{lines}"]
        raise ConfigurationError(
            [
                Problem(
                    "upstream_missing",
                    f"the image set needs images of {host}, and mirror.yaml has no upstream for it",
                    ", ".join(where for where in places if where),
                    remedies.pop() if remedies else "add it as well, as said above",
                )
                for host, places in sorted(found.unknown_hosts.items())
            ]
        )
    outcome.warn(found.warnings)
    if not config.releases.require_signature:
        outcome.warn(["releases.require_signature is false: no release signature was required"])
    for lacking in found.failures:
        outcome.note(
            INCOMPLETE if found.plan.images else FAILED,
            "image_lacking",
            f"{lacking.what}: {lacking.why}",
            "",
            lacking.remedy,
        )
    await asyncio.to_thread(desk.sets.set_source, name, file.path)
    return found


def _claim(desk: Desk, name: str, path: Path, *, replace: bool) -> None:
    """Refuse a name whose last plan came from a file at another path."""
    before = desk.sets.source(name)
    if before and before != os.path.abspath(path) and not replace:
        raise ConfigurationError(
            [
                Problem(
                    "set_taken",
                    f"set {name} was last planned from {before}",
                    str(path),
                    "give this one another name with --set, or add --replace if the file has moved",
                )
            ]
        )


def read_keyring(desk: Desk) -> Keyring:
    """Return the keys that releases are signed with. For threads."""
    path = desk.config.releases.keyring
    if path is None:
        return shipped()
    return Keyring.read(desk.read(path, 1024 * 1024), str(path))


def demanded_keyring(desk: Desk) -> Callable[[], Keyring] | None:
    """Return what gives the keys that releases must be signed with, in threads; None where none need be signed."""
    return partial(read_keyring, desk) if desk.config.releases.require_signature else None


def _keep_signatures(desk: Desk, signatures: Any) -> None:
    for digest, found in signatures.items():
        for _, raw in found:
            desk.store.signatures.add(digest, raw)


# -- what it costs -------------------------------------------------------------------------------------------------


async def _forecast(desk: Desk, plan: Plan) -> tuple[Presence, Forecast]:
    presence = await asyncio.to_thread(desk.store.presence, plan)
    return presence, await asyncio.to_thread(desk.opened.space.forecast, presence.here)


def _show(outcome: Outcome, plan: Plan, presence: Presence, room: Forecast) -> None:
    """Say what a plan holds, what of it is here, and whether the rest fits."""
    fits = presence.missing_bytes <= room.free + room.evictable
    outcome.facts |= {
        "set": plan.set,
        "digest": str(plan.digest),
        "totals": plan.totals,
        "releases": [{"version": one.version, "architecture": one.architecture, "image": f"{one.source}@{one.digest}",
                      "signed_by": list(one.signed_by), "risks": list(one.risks)} for one in plan.releases],
        "here": {"digests": len(presence.here), "bytes": presence.here_bytes},
        "to_fetch": {"digests": len(presence.missing), "bytes": presence.missing_bytes},
        "room": {"needed": presence.missing_bytes, "free": room.free, "evictable": room.evictable, "fits": fits},
        "lacking": list(plan.lacking),
        "left_out": list(plan.left_out),
        "blocked": list(plan.blocked),
    }  # fmt: skip
    for release in plan.releases:
        signed = f"signed by {', '.join(release.signed_by)}" if release.signed_by else "signature not checked"
        outcome.say(
            f"release {release.version} {release.architecture}  {release.source}@{release.digest}", f"  {signed}"
        )
        outcome.say(*(f"  {risk}" for risk in release.risks))
    outcome.say(*table(_rows(plan, presence)))
    outcome.say(
        "",
        f"to fetch {size_text(presence.missing_bytes)}, free {size_text(room.free)},"
        f" evictable {size_text(room.evictable)}: {'fits' if fits else 'DOES NOT FIT'}",
    )
    said = [problem.what.partition(": ")[0] for problem in outcome.problems if problem.code == "image_lacking"]
    for sentence in plan.lacking:
        if not any(what in sentence for what in said):
            outcome.note(INCOMPLETE, "lacking", sentence, plan.set)
    if plan.blocked:
        outcome.say(f"left out by blockedImages: {len(plan.blocked)}")


def _rows(plan: Plan, presence: Presence) -> list[tuple[str, ...]]:
    """Return a line a kind of image: how many, their size, what is here and what is not; each digest counts once."""
    manifests = {(one.name, one.digest): one for one in plan.manifests}
    sizes = plan.content
    counted: set[Digest] = set()
    rows: list[tuple[str, ...]] = [("", "images", "size", "here", "to fetch")]
    for kind in dict.fromkeys(image.kind for image in sorted(plan.images, key=lambda image: image.kind)):
        images = [image for image in plan.images if image.kind == kind]
        size = here = 0
        stack = [(image.name, image.digest) for image in images]
        while stack:
            manifest = manifests[stack.pop()]
            stack += [(manifest.name, child) for child in manifest.manifests if child not in counted]
            for digest in (manifest.digest, *manifest.blobs):
                if digest not in counted:
                    counted.add(digest)
                    size += sizes[digest]
                    here += sizes[digest] if digest in presence.here else 0
        rows.append((kind, str(len(images)), size_text(size), size_text(here), size_text(size - here)))
    total = sum(sizes.values())
    rows.append(
        ("total", str(len(plan.images)), size_text(total), size_text(presence.here_bytes),
         size_text(presence.missing_bytes))
    )  # fmt: skip
    return rows


# -- bringing it ---------------------------------------------------------------------------------------------------


def next_generation(desk: Desk, plan: Plan) -> int:
    """Return the generation that a plan becomes: an equal plan's, an unfinished one's, or the next. For threads."""
    numbers = desk.sets.generations(plan.set)
    if not numbers:
        return 1
    raw = desk.sets.read(plan.set, numbers[-1])
    finished = any((one.set, one.generation) == (plan.set, numbers[-1]) for one in desk.sets.current())
    if raw == plan.dump() or not finished:
        # What was planned before and never finished gives its number to what is wanted now.
        return numbers[-1]
    return numbers[-1] + 1


async def _bring(
    desk: Desk, plan: Plan, number: int, wanted: Wanted, outcome: Outcome, source: File | None = None
) -> None:
    presence, room = await _forecast(desk, plan)
    _show(outcome, plan, presence, room)
    outcome.facts["generation"] = number
    if not wanted.partial and not _check_room(desk, f"{plan.set}@{number}", presence, room, outcome):
        return
    await _prove(desk, plan)
    await asyncio.to_thread(_pin, desk, plan, number, source)
    progress = Progress(growing=lambda: sum(desk.opened.content.bring.moving().values()))
    limit = desk.config.limits.fetches_per_upstream or _AT_ONCE
    run = Sync(desk.opened.content.bring, desk.target, limit, progress)
    with shown("sync", lambda: Step(progress.bytes_now, progress.bytes_total, _said(progress)), quiet=outcome.quiet):
        brought = await run.run(plan, presence.missing)
        if not (readers(desk).everybody or desk.config.offline):
            await asyncio.to_thread(adopt_all, desk.opened.layout)
            await run.prove(plan)
    for lacking in brought.failures:
        outcome.note(
            TEMPORARY if brought.away and not brought.bytes else INCOMPLETE,
            "image_lacking",
            f"{lacking.what} is not here: {lacking.why}",
            "",
            lacking.remedy,
        )
    if brought.full is not None:
        outcome.note_error(brought.full)
    outcome.facts["fetched"] = {"bytes": brought.bytes}
    if outcome.exit not in (DONE, INCOMPLETE) or brought.failures:
        outcome.say(f"{plan.set}@{number} is incomplete: run it again, only what is missing is fetched")
        return
    await _finish(desk, plan, number, brought.bytes, outcome)
    if outcome.exit == DONE and wanted.keep is not None:
        await asyncio.to_thread(_give_up_older, desk, plan.set, number, wanted.keep, outcome)


def _check_room(desk: Desk, what: str, presence: Presence, room: Forecast, outcome: Outcome) -> bool:
    """Say whether what is missing fits; note it where it does not."""
    if presence.missing_bytes <= room.free + room.evictable:
        return True
    outcome.note(
        NO_SPACE,
        "no_space",
        f"{what} needs {size_text(presence.missing_bytes)} more; {size_text(room.free)} is free and"
        f" {size_text(room.evictable)} can be evicted",
        str(desk.config.storage.path),
        "give the store more room, unpin older generations, or fetch what fits with --partial",
    )
    return False


async def _prove(desk: Desk, plan: Plan) -> None:
    """Have the signatures of a plan's releases here, and believe no release without one; a plan may be anybody's."""
    releases = await asyncio.to_thread(called_releases, plan)
    lost = {one.release for one in plan.signatures if await asyncio.to_thread(desk.store.signature, one) is None}
    lacking = set(lost)
    if desk.config.releases.require_signature:
        lacking |= releases.keys() - {one.release for one in plan.signatures}
    if not lacking and not desk.config.releases.require_signature:
        return
    keyring = await asyncio.to_thread(read_keyring, desk)
    documents = open_documents(desk.config, os.environ, outside=desk.outside)
    try:
        stores = SignatureStores(documents, desk.config.releases.signature_stores)
        kept = kept_signatures(desk.store)
        for digest in sorted(lacking):
            known = await asyncio.to_thread(kept, digest) if digest not in lost else []
            image = releases.get(digest, "")
            found, _ = await verify_release(digest, stores, keyring, known=known or None, image=image)
            await asyncio.to_thread(_keep_signatures, desk, {digest: found})
    finally:
        await documents.close()
    if desk.config.releases.require_signature:
        await asyncio.to_thread(check_signed, releases, kept, keyring)


def _pin(desk: Desk, plan: Plan, number: int, source: File | None) -> None:
    """Write the plan as a generation: from now on nothing of it is evicted."""
    raw = plan.dump()
    if desk.sets.read(plan.set, number) != raw:
        desk.sets.write(plan.set, number, raw)
    if source is not None:
        desk.sets.set_source(plan.set, source.path)


async def _finish(desk: Desk, plan: Plan, number: int, moved: int, outcome: Outcome) -> None:
    if outcome.exit == INCOMPLETE:
        # What the plan itself lacks (an image that could not be found, a signature that is required) keeps it open.
        outcome.say(f"{plan.set}@{number} has all that could be found, and is incomplete")
        return
    current = await asyncio.to_thread(desk.sets.current)
    done = any((one.set, one.generation, one.plan) == (plan.set, number, plan.digest) for one in current)
    keyring = demanded_keyring(desk)
    try:  # one that is complete already gets back what it has lost of names and of the graph
        lacking = await asyncio.to_thread(complete, plan, number, "synced", desk.store, desk.sets, keyring)
    except SignatureInvalid:
        # What came is cache now, and goes by itself.
        await asyncio.to_thread(withdraw, desk.sets, desk.opened.space, plan.set, number, ())
        raise
    if lacking:
        raise StoreError(
            f"{count_text(len(lacking.missing), 'digest')} and {count_text(len(lacking.signatures), 'signature')}"
            f" of {plan.set}@{number}"
            " disappeared while it was being synced",
            "run it again",
        )
    outcome.facts["complete"] = True
    word = "is complete already" if done else "is complete"
    outcome.say(f"set {plan.set}@{number} {plan.digest} {word}: {size_text(moved)} fetched")


def _said(progress: Progress) -> str:
    failed = f", {progress.failed} failed" if progress.failed else ""
    return f"{progress.items_done} of {progress.items_total}{failed}"


def _give_up_older(desk: Desk, name: str, number: int, keep: int, outcome: Outcome) -> None:
    """Give up all but the newest `keep` complete generations of a set, and those that are held."""
    finished = sorted(one.generation for one in desk.sets.current() if one.set == name)
    for old in finished[: max(0, len(finished) - max(1, keep))]:
        if old < number and not desk.sets.is_held(name, old):
            desk.sets.remove(name, old)
            outcome.say(f"{name}@{old} is given up: what nothing else needs is cache now")
    outcome.facts["kept"] = keep
