"""`mirror resources`: what clusters and nodes need to pull from here, proven before it is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mirror.cli.choose import choose_stored
from mirror.cli.desk import Desk, no_folder, read_file, unusable, write_file
from mirror.cli.outcome import FAILED, Outcome
from mirror.config import Config
from mirror.errors import ConfigurationError, MirrorError
from mirror.oci.digest import Digest
from mirror.offline.plan import Plan
from mirror.offline.resources import Site, check_authority, make, prove
from mirror.outside import Direct, Outside

_PEM_LIMIT = 4 * 1024 * 1024

Signatures = Callable[[Digest], Sequence[tuple[int, bytes]]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What resources are asked for."""

    sets: tuple[str, ...]
    registries: tuple[str, ...]
    ca: Path | None
    output: Path | None
    never_contact_source: bool


async def for_sets(desk: Desk, wanted: Wanted, outcome: Outcome) -> None:
    """Write the files for the sets; nothing where an image would not land here."""

    def work() -> None:
        chosen = [choose_stored(desk, given, complete=True) for given in wanted.sets]
        plans = [(str(one), one.plan) for one in chosen]
        folder = wanted.output or Path(f"{chosen[0].plan.set}-resources")
        _make(desk.config, desk.outside, wanted, outcome, folder, plans, desk.store.signatures.list)

    await asyncio.to_thread(work)


def for_upstreams(config: Config, wanted: Wanted, outcome: Outcome) -> int:
    """Write the files for the configured upstreams, which takes no store; return the exit code."""
    try:
        _make(config, Direct(), wanted, outcome, wanted.output or Path("mirror-resources"), (), lambda _digest: ())
    except MirrorError as error:
        outcome.note_error(error)
    return outcome.finish()


def _make(
    config: Config,
    outside: Outside,
    wanted: Wanted,
    outcome: Outcome,
    folder: Path,
    plans: Sequence[tuple[str, Plan]],
    signatures: Signatures,
) -> None:
    site = Site(
        wanted.registries,
        config,
        read_file(outside, wanted.ca, _PEM_LIMIT) if wanted.ca is not None else None,
        wanted.never_contact_source,
        _read_own(outside, config.tls.certificate),
    )
    checked = check_authority(site)
    made = make(plans, site, signatures)
    problems = [*checked.problems, *prove(made, plans, site)]
    for problem in problems:
        outcome.note(FAILED, problem.code, problem.what, problem.where, problem.remedy)
    outcome.facts |= {"folder": str(folder), "files": sorted(made.files), "notes": [*checked.notes, *made.notes]}
    if problems:
        outcome.say("nothing was written")
        return
    _make_folders(outside, folder, made.files)
    for path, content in made.files.items():
        write_file(outside, folder / path, content)
    outcome.warn([*checked.notes, *made.notes])
    outcome.say(f"{len(made.files)} files in {folder}: begin with {folder / 'README.md'}")


def _make_folders(outside: Outside, folder: Path, paths: Iterable[str]) -> None:
    """Make `folder` and those in it, but none above it. Raises ConfigurationError."""
    place = folder.parent
    try:
        outside.stat(place)
        for place in sorted({(folder / path).parent for path in paths}):
            outside.mkdir(place)
    except FileNotFoundError as error:
        raise no_folder(place, "--output") from error
    except OSError as error:
        raise unusable(place, f"cannot be made: {error.strerror}") from error


def _read_own(outside: Outside, path: Path | None) -> bytes | None:
    """Return the certificate that is served, None where it cannot be read: `mirror check` says why."""
    if path is None:
        return None
    try:
        return read_file(outside, path, _PEM_LIMIT)
    except ConfigurationError:
        return None
