"""`mirror save` and `mirror load`: a set on its way across the gap."""

from __future__ import annotations

import asyncio
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from mirror.cli.choose import Stored, choose_beside, choose_stored
from mirror.cli.desk import Desk, no_folder
from mirror.cli.importing import load_foreign, presumptions
from mirror.cli.outcome import (
    FAILED,
    INCOMPLETE,
    NO_SPACE,
    UNVERIFIED,
    Outcome,
    SetIncomplete,
    count_text,
    size_text,
    some_text,
)
from mirror.cli.planning import demanded_keyring, read_keyring
from mirror.cli.progress import Step, shown
from mirror.errors import ConfigurationError, MirrorError, Problem, StoreError
from mirror.oci.digest import Digest
from mirror.offline import archive
from mirror.offline.carrying import Carrying, Stopped
from mirror.offline.complete import complete
from mirror.offline.digest_lists import dump_missing, parse_digests
from mirror.offline.foreign import recognise
from mirror.offline.load import load as load_parts
from mirror.offline.load_generation import Receiver, Signed
from mirror.offline.load_report import Loaded as LoadedSet
from mirror.offline.load_report import LoadReport
from mirror.offline.part import How
from mirror.offline.part_layout import PART_SIZE, SavePlan, plan_save
from mirror.offline.plan import Plan
from mirror.offline.saves import Saves
from mirror.offline.signatures import Candidate
from mirror.offline.trust import called_releases, check_signed, kept_signatures
from mirror.store.intake import Intake

_SHOWN_OF_PART = 3  # damaged members of one part named
_SHOWN_PARTS = 5
_SHOWN = 20  # missing things named to a person; the list has them all

Result = TypeVar("Result")


# -- save ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Saved:
    """What a save is asked for; at most one of `have`, `since` and `want` is given."""

    given: str
    target: Path
    have: Path | None
    since: str | None
    want: Path | None
    part_size: int | None  # bytes


async def save(desk: Desk, wanted: Saved, outcome: Outcome) -> None:
    """Write a complete generation as parts; what is finished already is kept."""
    chosen, planned = await asyncio.to_thread(_plan_save, desk, wanted)
    outcome.warn(f"{chosen} is incomplete, and is saved without {what}" for what in chosen.plan.lacking)
    size = sum(one.size for one in planned.parts)
    outcome.facts |= {
        "set": chosen.plan.set,
        "generation": chosen.generation,
        "digest": str(chosen.plan.digest),
        "carries": {"digests": len(planned.carried), "bytes": sum(planned.carried.values())},
        "presumes": {"digests": len(planned.presumed)},
        "parts": [{"name": one.name, "size": one.size} for one in planned.parts],
    }
    outcome.say(
        f"{chosen} in {count_text(len(planned.parts), 'part')}, {size_text(size)}:"
        f" {count_text(len(planned.carried), 'digest')} carried, {len(planned.presumed)} presumed on the other side"
    )
    outcome.warn(chosen.plan.left_out)
    carrying = Carrying()

    def announce(room: archive.Room) -> None:
        fits = "" if room.fit == room.parts else f": {room.fit} of {count_text(room.parts, 'part')} fit on this disk"
        where = f" on {room.mount}" if room.mount is not None else ""
        outcome.say(f"to write {size_text(room.needed)}, free {size_text(room.free)}{where}{fits}")
        outcome.facts["file_system"] = room.mount._asdict() if room.mount is not None else None

    with shown("save", lambda: Step(carrying.done, carrying.total, carrying.what), quiet=outcome.quiet):
        report = await _carried(
            carrying,
            lambda: archive.save(planned, desk.store, desk.outside, wanted.target, carrying, announce),
        )
    _report_save(outcome, chosen, report, wanted)


def _plan_save(desk: Desk, wanted: Saved) -> tuple[Stored, SavePlan]:
    chosen = choose_stored(desk, wanted.given, complete=True)
    _check_target(desk, wanted.target)
    if not chosen.complete:
        raise SetIncomplete(f"{chosen} is incomplete here", f"mirror verify {chosen} says what is missing")
    size = wanted.part_size or _archive_size(desk, wanted.given) or PART_SIZE
    have: set[Digest] = set()
    want: set[Digest] | None = None
    how: How = "all"
    because = ""
    if wanted.have is not None:
        have, how, because = parse_digests(desk.read(wanted.have), str(wanted.have)), "have", wanted.have.name
    elif wanted.want is not None:
        want, how, because = parse_digests(desk.read(wanted.want), str(wanted.want)), "want", wanted.want.name
    elif wanted.since is not None:
        than = _generation(wanted.since)
        since, have = Saves(desk.opened.layout, chosen.plan.set).since(chosen.generation, than)
        how, because = "since", f"{chosen.plan.set}@{since}"
    return chosen, plan_save(
        chosen.plan, chosen.generation, have=have, wanted=want, how=how, because=because, part_size=size
    )


def _check_target(desk: Desk, target: Path) -> None:
    """Raise ConfigurationError where `--to` names no folder."""
    try:
        mode = desk.outside.stat(target).st_mode
    except FileNotFoundError as error:
        raise no_folder(target, "--to") from error
    except OSError:
        return  # who writes there says so
    if not stat.S_ISDIR(mode):
        raise ConfigurationError([Problem("target_invalid", f"{target} is a file", "--to", "name a folder")])


def _generation(since: str) -> int | None:
    """Return the generation that --since names; None is the last that was saved."""
    if since == "last":
        return None
    if since.isdecimal() and int(since) > 0:
        return int(since)
    raise ConfigurationError(
        [Problem("since_invalid", f"--since {since[:40]} names no generation", "", "write --since last or a number")]
    )


def _archive_size(desk: Desk, given: str) -> int | None:
    """Return the archiveSize, in bytes, that the image set file says; None where there is none, or it says none."""
    from mirror.offline import image_set

    file = choose_beside(desk, given)
    if file is None or file.plan is not None:
        return None
    return image_set.read(file.path, file.raw).archive_size


def _report_save(outcome: Outcome, chosen: Stored, report: archive.SaveReport, wanted: Saved) -> None:
    outcome.facts |= {
        "written": [one.name for one in report.written],
        "kept": [one.name for one in report.kept],
        "elsewhere": [{"name": one.name, "where": where} for one, where in report.elsewhere],
        "left": [one.name for one in report.left],
    }
    for digest in report.missing[:_SHOWN]:
        outcome.note(INCOMPLETE, "missing", f"{digest} is not here", str(chosen), "sync or load the set again")
    for digest, why in report.corrupt:
        outcome.note(
            UNVERIFIED, "corrupt", f"{digest}: {why}", str(chosen), "sync or load the set again, then rerun this"
        )
    if report.full is not None:
        left, all_parts = sum(one.size for one in report.left), count_text(len(report.plan.parts), "part")
        outcome.note(
            NO_SPACE, "disk_full", f"{len(report.left)} of {all_parts} did not fit: {size_text(left)} is left to write",
            str(wanted.target),
            "run the same command with --to the next disk: it goes on with the remaining parts",
        )  # fmt: skip
    where = f" ({len(report.elsewhere)} on other disks)" if report.elsewhere else ""
    written = count_text(len(report.written), "part")
    outcome.say(f"{written} written, {len(report.kept)} were there already{where}: {wanted.target}")
    if report.complete:
        outcome.say(f"set {chosen} {chosen.plan.digest}")


# -- load ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load is asked for."""

    paths: tuple[Path, ...]
    as_name: str | None
    name: str | None
    expect: str | None
    allow_older: bool
    allow_presumed: bool
    output: Path | None


async def load(desk: Desk, wanted: Loaded, outcome: Outcome) -> None:
    """Bring parts into the store, and complete the generations that are whole then."""
    keyring = await asyncio.to_thread(read_keyring, desk)
    require = desk.config.releases.require_signature
    if not require:
        outcome.warn(["releases.require_signature is false: no release signature is required"])
    carrying = Carrying()

    def check_signatures(plan: Plan, signatures: Signed) -> None:
        if require:
            kept = kept_signatures(desk.store)

            def candidates(digest: Digest) -> Iterable[Candidate]:
                return [*(Candidate("the archive", raw) for raw in signatures.get(digest, ())), *kept(digest)]

            check_signed(called_releases(plan), candidates, keyring)

    def finish(plan: Plan, number: int) -> None:
        step = partial(carrying.move, 0)
        lacking = complete(plan, number, "loaded", desk.store, desk.sets, demanded_keyring(desk), step)
        if lacking:
            raise StoreError(
                f"{count_text(len(lacking.missing), 'digest')} of {plan.set}@{number} disappeared in the meantime",
                "load it again",
            )
        outcome.warn(f"{plan.set}@{number}: {what}" for what in plan.left_out)

    foreign = await asyncio.to_thread(recognise, wanted.paths, desk.outside)
    if foreign is not None:
        try:
            await load_foreign(
                desk, foreign, outcome,
                as_name=wanted.as_name, name=wanted.name, path=wanted.paths[0], allow_presumed=wanted.allow_presumed,
            )  # fmt: skip
        finally:
            foreign.close()
        return
    if wanted.as_name is not None or wanted.name is not None:
        raise ConfigurationError(
            [Problem("not_foreign", "parts say for themselves what they hold", "", "leave out --as and --set")]
        )
    opened = desk.opened
    used = opened.index.note
    at = Receiver(
        opened.layout, desk.sets, Intake(opened.layout, opened.space, used), opened.space, desk.outside,
        check_signatures, finish, presumptions(desk),
    )  # fmt: skip
    with shown("load", lambda: Step(carrying.done, carrying.total, carrying.what), quiet=outcome.quiet):
        report = await _carried(
            carrying,
            lambda: load_parts(
                wanted.paths,
                at,
                carrying,
                expect=wanted.expect,
                allow_older=wanted.allow_older,
                allow_presumed=wanted.allow_presumed,
            ),
        )
    await asyncio.to_thread(_report_load, desk, outcome, report, wanted)


def _report_load(desk: Desk, outcome: Outcome, report: LoadReport, wanted: Loaded) -> None:
    outcome.facts["sets"] = [
        {
            "set": one.set,
            "generation": one.generation,
            "digest": str(one.plan),
            "complete": one.complete,
            "complete_before": one.before and not one.lacking,
            "lacking": list(one.lacking),
            "received": {"digests": len(one.received), "bytes": sum(one.received.values())},
            "missing": [{"digest": str(digest), "size": size} for digest, size in sorted(one.missing.items())],
            "missing_parts": one.missing_parts,
            "presumed": one.presumed,
        }
        for one in report.loaded
    ]
    outcome.facts["damaged"] = [str(one) for one in report.damaged]
    outcome.facts["doubled"] = [[str(path) for path in pair] for pair in report.doubled]
    outcome.facts["ignored"] = [{"path": str(path), "why": why} for path, why in report.ignored]
    for path, why in report.ignored:
        outcome.warn([f"{path} is ignored: {why}"])
    for first, second in report.doubled:
        outcome.warn([f"{second} is the same part as {first}"])
    _report_damage(outcome, report)
    names = "-".join(str(one) for one in report.loaded if one.missing)
    listed = wanted.output or Path(f"missing-{names}"[:200] + ".txt")
    for one in report.loaded:
        _report_one(outcome, one, {damage.path.name for damage in report.damaged}, listed)
    lost = any(one.missing and not one.missing_parts and one.error is None for one in report.loaded)
    if report.missing and (wanted.output is not None or lost or report.damaged):
        _write_missing(desk, outcome, report, names, listed)


def _report_damage(outcome: Outcome, report: LoadReport) -> None:
    """Name what is damaged: a few members of each part, for a part that was cut short lacks very many."""
    said: Counter[Path] = Counter()
    for damage in report.damaged:
        said[damage.path] += 1
        if report.ready:
            outcome.warn([f"{damage}: another copy had it, or it was not needed"])
        elif said[damage.path] <= _SHOWN_OF_PART:
            remedy = "copy that part again, or have it saved again"
            outcome.note(UNVERIFIED, "part_damaged", str(damage), "", "" if remedy in str(damage) else remedy)
    for path, count in said.items():
        if count > _SHOWN_OF_PART and not report.ready:
            outcome.note(UNVERIFIED, "part_damaged", f"{count - _SHOWN_OF_PART} more members of {path} are damaged")


def _report_one(outcome: Outcome, one: LoadedSet, damaged: Collection[str], listed: Path) -> None:
    """Say how it went with one generation: what is missing of it in one line, which `listed` names in full."""
    name = str(one)
    received = f"{count_text(len(one.received), 'digest')}, {size_text(sum(one.received.values()))} received"
    if one.complete:
        state = "was complete already" if one.before and not one.received else "is complete"
        outcome.say(f"set {name} {one.plan} {state}: {received}")
        return
    count, size = count_text(len(one.missing), "digest"), size_text(sum(one.missing.values()))
    if one.received or one.error is None:  # else it was refused as it came, which says nothing of what is here
        outcome.say(f"set {name} is incomplete: {received}" + (f"; {count}, {size} missing" if one.missing else ""))
    for what in one.lacking:
        outcome.note(INCOMPLETE, "lacking", what, name, "bring what is lacking into the set where it was made")
    if one.error is not None:
        outcome.note_error(one.error)
        return  # what is missing was not looked for to the end
    # One that was among the files is named for what it is.
    if parts := [part for part in one.missing_parts if part not in damaged]:
        was, them = ("was", "it") if len(parts) == 1 else ("were", "them")
        what = f"{some_text(parts, _SHOWN_PARTS)} {was} not among the files"
        outcome.note(INCOMPLETE, "part_missing", what, name, f"load {them} too: any order will do")
    if one.presumed:
        what = f"the parts presume {count} that are not here ({size}), so nothing was written"
        outcome.note(INCOMPLETE, "presumed_missing", what, name, one.remedy)
    elif one.missing and not one.missing_parts:
        remedy = f"have it saved on the other side: mirror save {name} --to DIR --want {listed}, and load that, too"
        outcome.note(INCOMPLETE, "missing", f"{count} ({size}) could not be had from these parts", name, remedy)


def _write_missing(desk: Desk, outcome: Outcome, report: LoadReport, names: str, path: Path) -> None:
    """Write what is missing as the list that `mirror save --want` takes."""
    try:
        desk.write(path, dump_missing(report.missing, names))
    except MirrorError as error:
        outcome.note(
            FAILED, "file_unusable", f"what is missing could not be listed: {error.what}", "", "name a file with -o"
        )
        return
    outcome.facts["missing_file"] = str(path)
    outcome.say(f"what is missing is listed in {path}: `mirror save --want` takes it on the other side")


async def _carried(carrying: Carrying, call: Callable[[], Result]) -> Result:
    """Return what `call` returns in a thread; a cancelled caller leaves when it has stopped between two steps."""
    running = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        carrying.stop = True
        with suppress(Stopped):
            await running
        raise
