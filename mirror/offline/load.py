"""Load: bring what crossed the gap in parts into the store, and complete the generations that are whole then.

Any parts, in any order, some now and some later. Before the first byte is written everything is looked at that can be
known: whose plan it is, its signatures, what is presumed to be here, the room. Then the plan is written, which pins
what comes; then content, each verified; the set is completed last. Whatever stops a load, a rerun goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mirror.errors import ConfigurationError, Corrupt, DigestInvalid, MirrorError, Problem, StoreError, StoreFull
from mirror.oci.digest import Digest
from mirror.offline.carrying import Carrying, Stopped
from mirror.offline.found_parts import Found, Group, find_parts
from mirror.offline.load_generation import LoadGeneration, Receiver
from mirror.offline.load_report import Loaded, LoadReport
from mirror.offline.nothing_to_load import nothing_to_load
from mirror.store.faults import NO_ROOM


def load(
    paths: Sequence[Path],
    receiver: Receiver,
    carrying: Carrying,
    *,
    expect: str | None = None,
    allow_older: bool = False,
    allow_presumed: bool = False,
) -> LoadReport:
    """Load all parts in these folders and files. Blocks: for threads.

    `expect` is the line that a save ended with, or the digest in it: nothing else is loaded. What is wrong with one
    generation stops no other; it is in the report. Raises ConfigurationError where there are no parts, or `paths` or
    `expect` are wrong, Corrupt where what was expected is not among them, Stopped.
    """
    found = find_parts(paths, receiver.outside)
    report = LoadReport([], found.damaged, [], found.ignored)
    if not found.groups and not found.damaged:
        raise ConfigurationError(nothing_to_load(paths, receiver.outside))
    groups = _expected(found, expect, report)
    for group in groups:
        report.doubled += group.doubled()
        one = Loaded(group.set, group.generation, group.plan)
        report.loaded.append(one)
        rivals = [other for other in groups if str(other) == str(group) and other is not group]
        try:
            LoadGeneration(group, one, receiver, carrying, report.damaged).run(
                rivals=bool(rivals), allow_older=allow_older, allow_presumed=allow_presumed
            )
        except Stopped:
            raise
        except MirrorError as error:
            one.error = error
        except OSError as error:
            kind = StoreFull if error.errno in NO_ROOM else StoreError
            one.error = kind(f"the store cannot be written ({error.strerror})", "check its disk, then load again")
    return report


def _expected(found: Found, expect: str | None, report: LoadReport) -> list[Group]:
    """Return the generations to load: all, or the one that is expected."""
    if expect is None:
        return found.groups
    name, digest = _parse_expected(expect)
    groups = [one for one in found.groups if one.plan == digest and name in ("", str(one))]
    if not groups:
        others = ", ".join(f"{one} {one.plan}" for one in found.groups) or "none that can be read"
        raise Corrupt(
            f"{expect} was expected, but these parts are of {others}", "ask who saved them which line the save printed"
        )
    report.ignored += [
        (given.path, f"it is of {one} {one.plan}, which is not expected")
        for one in found.groups
        if one not in groups
        for given in one.parts
    ]
    return groups


def _parse_expected(expect: str) -> tuple[str, Digest]:
    """Return the generation's name, empty where none is given, and the plan's digest."""
    words = expect.split()
    if words[:1] == ["set"]:
        words = words[1:]
    try:
        return " ".join(words[:-1]), Digest.parse(words[-1] if words else "")
    except DigestInvalid:
        raise ConfigurationError(
            [Problem("expect", f"'{expect[:160]}' names no plan", "", "give the last line of `mirror save`")]
        ) from None
