"""`mirror scrub`: everything is hashed again, what is bad is put right, and what cannot be is said."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mirror.admin.scrub import Findings, Scrubber
from mirror.admin.scrub_state import Pass
from mirror.cli.choose import choose_stored
from mirror.cli.desk import Desk
from mirror.cli.naming import find_target, parse_named
from mirror.cli.outcome import FAILED, INCOMPLETE, UNVERIFIED, Outcome, count_text, size_text
from mirror.cli.progress import Step, shown
from mirror.content.heal import Healer
from mirror.errors import NotHere, RecordDamaged, StoreError
from mirror.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.offline.digest_lists import dump_missing
from mirror.store import files
from mirror.store.manifests import Manifests
from mirror.store.reconcile import reconcile
from mirror.store.walk import find_blobs

_SHOWN = 20  # things of a kind named to a person
_BRING = "load it from an archive (--missing lists it for `save --want`), or push it again"
_READ_ONLY = "the store is on a read-only file system; mount it writable, and run this again"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be scrubbed (None: everything), at how many bytes a second at most (0: no bound), and how."""

    what: str | None
    rate: int
    restart: bool
    missing: Path | None
    index_only: bool
    dry_run: bool
    yes: bool


async def scrub(desk: Desk, outcome: Outcome, wanted: Wanted) -> None:
    """Hash again, heal, and say what was found."""
    opened = desk.opened
    read_only = await asyncio.to_thread(files.is_read_only, opened.layout.root)
    if wanted.what is None and not wanted.dry_run and (wanted.index_only or not read_only):
        await asyncio.to_thread(_reconcile, desk, outcome)
    if wanted.index_only:
        return
    if read_only:
        outcome.warn([f"all of it is read, and nothing can be put right: {_READ_ONLY}"])
    dry_run = wanted.dry_run or read_only
    healer = Healer(opened.layout, opened.content, opened.readers)
    scrubber = Scrubber(opened.layout, opened.quarantine, Metrics(), healer.heal, opened.readers)
    seen = Pass()
    earlier = 0  # what was found before it was stopped

    def look(one: Pass) -> None:
        nonlocal seen, earlier
        if one is not seen and one.cursor:
            earlier = one.bad + one.missing + one.unreadable
            known = f" of which {earlier} were bad or could not be read" if earlier else ""
            done = f"{count_text(one.contents + one.unreadable, 'item')} ({size_text(one.bytes)}){known}"
            outcome.progress(f"goes on where an earlier scrub was stopped, after {done}; --restart starts over")
        seen = one

    chosen: Collection[Digest] | None = None
    names: Collection[str] = ()
    if wanted.what is not None:
        chosen, names = await asyncio.to_thread(_chosen, desk, scrubber, wanted.what)
    total = await asyncio.to_thread(_size, desk, chosen)
    with shown("scrub", lambda: Step(seen.bytes, total), quiet=outcome.quiet):
        if chosen is None:
            one, findings = await scrubber.all(
                wanted.rate, look, restart=wanted.restart, dry_run=dry_run, yes=wanted.yes
            )
        else:
            one, findings = await scrubber.some(chosen, wanted.rate, look, names=names, dry_run=dry_run, yes=wanted.yes)
    outcome.facts |= {"dry_run": wanted.dry_run, "read_only": read_only, "found_before": earlier}
    _report(outcome, one, findings, earlier, dry_run=dry_run, remedy=_READ_ONLY if read_only else _BRING)
    if wanted.missing is not None:
        lost = sorted({*findings.lost, *(Digest.parse(text) for text in one.unhealed)})
        await asyncio.to_thread(desk.write, wanted.missing, dump_missing(lost, wanted.what or ""))
        outcome.facts["missing_file"] = str(wanted.missing)


def _reconcile(desk: Desk, outcome: Outcome) -> None:
    """Let the index agree with the files; without it scrubbing goes on."""
    index = desk.opened.index
    added = dropped = 0
    try:
        rebuilt = index.needs_rebuild()
        for step in reconcile(desk.opened.layout, index):
            added += step.added
            dropped += step.dropped
    except StoreError as error:
        outcome.warn([f"the index could not be compared with the files: {error}"])
        return
    outcome.facts["index"] = {"rebuilt": rebuilt, "added": added, "dropped": dropped}
    if rebuilt:
        outcome.say(f"the index was rebuilt: {count_text(added, 'row')}")
    elif added or dropped:
        outcome.say(f"the index: {count_text(added, 'row')} added, {dropped} dropped whose files are gone")


def _chosen(desk: Desk, scrubber: Scrubber, what: str) -> tuple[Collection[Digest], Collection[str]]:
    """Return the digests of a generation, or of a repository and its name."""
    if "/" not in what and desk.sets.generations(what.partition("@")[0]):
        return list(choose_stored(desk, what, complete=False).plan.content), ()
    named = parse_named(what)
    target = find_target(desk, named.name)
    rows = Manifests(desk.opened.layout)
    found = {*rows.list(target.name), *rows.list_blobs(target.name)}
    if not found:
        raise NotHere(f"nothing of {what} is here", "`mirror ls` shows what is here")
    # What was evicted is no loss; what was pushed is not evicted.
    here = {digest for digest in found if files.modified(desk.opened.layout.blob(digest)) is not None}
    return here | scrubber.lost([target.name]), [target.name]


def _size(desk: Desk, chosen: Collection[Digest] | None) -> int:
    if chosen is None:
        return sum(one.size for one in find_blobs(desk.opened.layout))
    found = (files.modified(desk.opened.layout.blob(digest)) for digest in chosen)
    return sum(one[2] for one in found if one is not None)


def _report(outcome: Outcome, one: Pass, findings: Findings, earlier: int, *, dry_run: bool, remedy: str) -> None:
    outcome.facts |= {
        "contents": one.contents,
        "bytes": one.bytes,
        "bad": [
            {"digest": str(digest), "what": what, "healed": not why, "why": why}
            for digest, (what, why) in sorted(findings.bad.items())
        ],
        "missing": [
            {"digest": str(digest), "healed": not why, "why": why} for digest, why in sorted(findings.missing.items())
        ],
        "unreadable": [{"digest": str(digest), "why": one.why} for digest, one in sorted(findings.unreadable.items())],
        "records": [{"path": error.path, "why": error.what} for error in findings.records],
        "put_back": [str(digest) for digest in findings.back],
        "stopped": findings.stopped,
        "strays": [{"path": stray.path, "quarantined": gone} for stray, gone in findings.strays],
        "unhealed": one.unhealed,
    }
    _report_bad(outcome, findings, remedy, dry_run=dry_run)
    _report_missing(outcome, findings, remedy)
    for digest, found in sorted(findings.unreadable.items())[:_SHOWN]:
        outcome.note(FAILED, "unreadable", f"{digest} stays where it is: {found.why}", "", found.remedy)
    if len(findings.unreadable) > _SHOWN:
        outcome.note(FAILED, "unreadable", f"and {len(findings.unreadable) - _SHOWN} more cannot be read")
    for error in findings.records[:_SHOWN]:
        code = "record_damaged" if isinstance(error, RecordDamaged) else "unreadable"
        outcome.note(FAILED, code, error.what, error.path, error.remedy)
    if len(findings.records) > _SHOWN:
        rest = len(findings.records) - _SHOWN
        outcome.note(FAILED, "unreadable", f"and {rest} more records", "", "--json has all of them")
    for digest in findings.back:
        outcome.say(f"{digest} was in quarantine but matches its name: it is back")
    if findings.stopped:
        outcome.note(
            FAILED, "collection_stopped", f"stopped: {findings.stopped}", "",
            "check the disk and the host's memory first; then run it again to go on, with --yes if all that is to go",
        )  # fmt: skip
    # What an earlier part of this pass found, before it was stopped.
    known = {str(digest) for digest in (*findings.bad, *findings.missing)}
    for text in [text for text in one.unhealed if text not in known][:_SHOWN]:
        outcome.note(UNVERIFIED, "corrupt", f"{text} was bad or missing, and could not be fetched again")
    for stray, gone in findings.strays[:_SHOWN]:
        where = "is in quarantine" if gone else "stays there: move it away"
        outcome.warn([f"{stray.path} does not belong in a store; it {where}"])
    verdict = _verdict(one, earlier, len(findings.records))
    outcome.say(f"{count_text(one.contents, 'item')}, {size_text(one.bytes)} hashed: {verdict}")


def _report_bad(outcome: Outcome, findings: Findings, remedy: str, *, dry_run: bool) -> None:
    place = "" if dry_run else ", is in quarantine"
    lost = {digest: found for digest, found in findings.bad.items() if found[1]}
    for digest, (what, why) in sorted(lost.items())[:_SHOWN]:
        outcome.note(
            UNVERIFIED, "corrupt", f"{digest} {what}{place}, and could not be fetched again: {why}", "", remedy
        )
    if len(lost) > _SHOWN:
        outcome.note(UNVERIFIED, "corrupt", f"and {len(lost) - _SHOWN} more are bad", "", "--json has all of them")
    for digest, (what, why) in sorted(findings.bad.items()):
        if not why:
            outcome.say(f"{digest} {what}: it was fetched again")


def _report_missing(outcome: Outcome, findings: Findings, remedy: str) -> None:
    lost = {digest: why for digest, why in findings.missing.items() if why}
    for digest, why in sorted(lost.items())[:_SHOWN]:
        outcome.note(INCOMPLETE, "missing", f"{digest} should be here and is not: {why}", "", remedy)
    if len(lost) > _SHOWN:
        outcome.note(INCOMPLETE, "missing", f"and {len(lost) - _SHOWN} more are not here", "", "--json has all of them")
    for digest, why in sorted(findings.missing.items()):
        if not why:
            outcome.say(f"{digest} was not here: it was fetched again")


def _verdict(one: Pass, earlier: int, records: int) -> str:
    found = [f"{one.unreadable} cannot be read"] if one.unreadable else []
    if one.bad or one.missing:
        found += [f"{one.bad} bad", f"{one.missing} missing", f"{one.healed} of them fetched again"]
    else:
        found.append("the rest is what its name says" if found else "all of it is what its name says")
    if earlier:
        found.append(f"{earlier} of these found before it was stopped")
    if records:
        found.append(f"{count_text(records, 'record')} of tags and manifests cannot be read or are damaged")
    return ", ".join(found)
