"""`mirror resources`: what clusters and nodes need to pull from here, proven before it is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mirror.cli.choose import choose_stored
from mirror.cli.desk import Desk, no_folder, read_file, read_head, unusable, write_file
from mirror.cli.outcome import FAILED, Outcome
from mirror.config import Config
from mirror.errors import ConfigurationError, MirrorError, Problem
from mirror.oci.digest import Digest
from mirror.offline.plan import Plan
from mirror.offline.resources import Resources, Site, check_authority, make, prove
from mirror.offline.resources.documents import WRITTEN, to_comment
from mirror.offline.resources.paths import IDMS, ITMS, UPDATE_SERVICE
from mirror.outside import Direct, Outside

_PEM_LIMIT = 4 * 1024 * 1024
_HEAD = to_comment(WRITTEN).encode()
# Folders that are applied to a cluster, and what `oc apply -f FOLDER` takes of them.
_APPLIED = tuple(path.partition("/")[0] for path in (IDMS, ITMS, UPDATE_SERVICE))
_TAKEN = (".yaml", ".yml", ".json")

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
    except OSError as error:
        outcome.note_os_error(error)
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
    notes = [*checked.notes, *made.notes, *_left_over(outside, folder, made)]
    outcome.facts |= {"folder": str(folder), "files": sorted(made.files), "notes": notes}
    if problems:
        outcome.say("nothing was written")
        return
    _make_folders(outside, folder, made.files)
    for path, content in made.files.items():
        write_file(outside, folder / path, content)
    outcome.warn(notes)
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
    except (FileExistsError, NotADirectoryError) as error:
        file = place if isinstance(error, FileExistsError) else place.parent
        what = f"{file} is a file, and these are written to a folder"
        raise ConfigurationError([Problem("no_folder", what, "--output", "name a folder")]) from error
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


def _left_over(outside: Outside, folder: Path, made: Resources) -> list[str]:
    """Return a note for each file that an earlier run wrote into the output `folder` and that `made` no longer has."""
    return [
        f"{folder / path} is of an earlier run, and this one does not write it: remove it, or `oc apply` takes it too"
        for path in _ours(outside, folder)
        if path not in made.files
    ]


def _ours(outside: Outside, folder: Path) -> Iterator[str]:
    """Yield what a run has written to be applied, by its path in the output folder."""
    for name in _APPLIED:
        try:
            entries = outside.listdir(folder / name)
        except OSError:  # it is not there; where it is not readable, writing to it says so
            continue
        for entry in entries:
            if entry.endswith(_TAKEN) and _is_ours(outside, folder / name / entry):
                yield f"{name}/{entry}"


def _is_ours(outside: Outside, path: Path) -> bool:
    try:
        return read_head(outside, path, len(_HEAD)) == _HEAD
    except ConfigurationError:
        return False
