"""`mirror resources`: what clusters and nodes need to pull from here, proven before it is written."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from mirror.cli.choose import choose_stored
from mirror.cli.desk import Desk
from mirror.cli.outcome import FAILED, Outcome
from mirror.errors import ConfigurationError
from mirror.offline.plan import Plan
from mirror.offline.resources import Site, check_authority, make, prove

_PEM_LIMIT = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Wanted:
    """What resources are asked for."""

    sets: tuple[str, ...]
    registries: tuple[str, ...]
    ca: Path | None
    output: Path | None
    never_contact_source: bool


async def resources(desk: Desk, wanted: Wanted, outcome: Outcome) -> None:
    """Write the files for the sets, or for the configured upstreams; nothing where an image would not land here."""
    await asyncio.to_thread(_make, desk, wanted, outcome)


def _make(desk: Desk, wanted: Wanted, outcome: Outcome) -> None:
    chosen = [choose_stored(desk, given, complete=True) for given in wanted.sets]
    plans: list[tuple[str, Plan]] = [(str(one), one.plan) for one in chosen]
    certificate = desk.config.tls.certificate
    site = Site(
        wanted.registries,
        desk.config,
        desk.read(wanted.ca, _PEM_LIMIT) if wanted.ca is not None else None,
        wanted.never_contact_source,
        _read_own(desk, certificate),
    )
    checked = check_authority(site)
    made = make(plans, site, desk.store.signatures.list)
    problems = [*checked.problems, *prove(made, plans, site)]
    for problem in problems:
        outcome.note(FAILED, problem.code, problem.what, problem.where, problem.remedy)
    folder = wanted.output or Path(f"{chosen[0].plan.set if chosen else 'mirror'}-resources")
    outcome.facts |= {"folder": str(folder), "files": sorted(made.files), "notes": [*checked.notes, *made.notes]}
    if problems:
        outcome.say("nothing was written")
        return
    for path, content in made.files.items():
        desk.write(folder / path, content)
    outcome.warn([*checked.notes, *made.notes])
    outcome.say(f"{len(made.files)} files in {folder}: begin with {folder / 'README.md'}")


def _read_own(desk: Desk, path: Path | None) -> bytes | None:
    """Return the certificate that is served, None where it cannot be read: `mirror check` says why."""
    if path is None:
        return None
    try:
        return desk.read(path, _PEM_LIMIT)
    except ConfigurationError:
        return None
