"""What earlier saves carried, noted in the store: the ground for `--since`, and for going on after a stop.

    sets/<set>/saves/<generation>-<save>.json

One note a save: which digests it carries and presumes, which of its parts were finished, where, with size and sha256.
A save goes on with its own note however it was stopped; only one that was finished counts for `--since`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mirror.errors import ConfigurationError, DigestInvalid, Problem, StoreError
from mirror.oci.digest import Digest
from mirror.offline.part_layout import SavePlan
from mirror.store import files
from mirror.store.layout import Layout

_SCHEMA = 1
_LIMIT = 64 * 1024 * 1024  # bytes of a note: some 800 000 digests
_DIGITS = 16  # of a save's id, in its note's name


@dataclass(frozen=True, slots=True)
class Finished:
    """A part that was written: its size in bytes, the sha256 of the file, and the folder it was written to."""

    size: int
    sha256: str
    where: str


@dataclass(slots=True)
class Record:
    """The note of one save. `complete`: all its parts were finished once."""

    save: str
    generation: int
    complete: bool = False
    carried: frozenset[Digest] = frozenset()
    presumed: frozenset[Digest] = frozenset()
    parts: dict[int, Finished] = field(default_factory=dict)


class Saves:
    """The notes of one set's saves. For threads."""

    def __init__(self, layout: Layout, name: str) -> None:
        self._name = name
        self._folder = layout.set(name) / "saves"

    def read(self, plan: SavePlan) -> Record:
        """Return the note of a save, a new one where there is none."""
        found = _parse(files.read_record(str(self._path(plan.generation, plan.id)), _LIMIT))
        if found is not None and found.save == plan.id:
            return found
        return Record(plan.id, plan.generation, False, frozenset(plan.carried), frozenset(plan.presumed), {})

    def write(self, record: Record) -> None:
        """Keep a note, durably; raise StoreError."""
        document = {
            "schema": _SCHEMA,
            "save": record.save,
            "generation": record.generation,
            "complete": record.complete,
            "parts": {
                str(number): {"size": one.size, "sha256": one.sha256, "where": one.where}
                for number, one in sorted(record.parts.items())
            },
            "carried": sorted(str(one) for one in record.carried),
            "presumed": sorted(str(one) for one in record.presumed),
        }
        path = self._path(record.generation, record.save)
        try:
            files.write_atomically(str(path), (json.dumps(document, indent=1) + "\n").encode(), durable=True)
        except OSError as error:
            raise StoreError(
                f"the store cannot note what was saved ({error.strerror})", "check its disk, then run this again"
            ) from error

    def generations(self) -> list[int]:
        """Return the generations that were saved to the end, in order."""
        return sorted({record.generation for record in self._all() if record.complete})

    def finished(self, generation: int) -> float:
        """Return when a generation was last saved to the end (Unix time), 0 where it never was."""
        paths = (self._path(one.generation, one.save) for one in self._all() if one.complete)
        stamps = (files.modified(str(path)) for path in paths if path.name.startswith(f"{generation}-"))
        return max((stamp[1] / 1e9 for stamp in stamps if stamp is not None), default=0.0)

    def since(self, generation: int, than: int | None) -> tuple[int, set[Digest]]:
        """Return what saves up to generation `than` brought across, and its number; None: the last before `generation`.

        Raises ConfigurationError where no such save was finished, or it is no older one.
        """
        if than is not None and than >= generation:
            raise _refused(
                f"--since {than} is not older than {self._name}@{generation}",
                "name a generation that was carried across before",
            )
        older = [number for number in self.generations() if number < generation]
        saved = [number for number in older if than is None or number <= than]
        if not saved:
            known = ", ".join(f"{self._name}@{number}" for number in older)
            raise _refused(
                f"no finished save of an older generation than {self._name}@{generation} is noted here"
                if not known
                else f"no finished save of {self._name} up to generation {than} is noted here, only of {known}",
                "save it whole, or with --have and the other side's `mirror inventory`",
            )
        newest = saved[-1]
        found: set[Digest] = set()
        for record in self._all():
            if record.complete and record.generation <= newest:
                found |= record.carried | record.presumed
        return newest, found

    def _path(self, generation: int, save: str) -> Path:
        return self._folder / f"{generation}-{save[:_DIGITS]}.json"

    def _all(self) -> Iterator[Record]:
        try:
            names = sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return
        for name in names:
            record = _parse(files.read_record(str(self._folder / name), _LIMIT)) if name.endswith(".json") else None
            if record is not None:
                yield record


def _refused(what: str, remedy: str) -> ConfigurationError:
    return ConfigurationError([Problem("since", what, "", remedy)])


def _parse(raw: bytes | None) -> Record | None:
    """Return the note that `raw` holds, None where there is none or it is damaged: then all is written again."""
    try:
        found: Any = json.loads(raw or b"null")
        if found["schema"] != _SCHEMA:
            return None
        return Record(
            str(found["save"]),
            int(found["generation"]),
            found["complete"] is True,
            frozenset(Digest.parse(one) for one in found["carried"]),
            frozenset(Digest.parse(one) for one in found["presumed"]),
            {
                int(number): Finished(int(one["size"]), str(one["sha256"]), str(one["where"]))
                for number, one in found["parts"].items()
            },
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, DigestInvalid):
        return None
