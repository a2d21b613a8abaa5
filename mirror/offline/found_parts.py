"""Which files of the given folders are parts, of which generation and which save, and what cannot be used."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mirror.errors import ConfigurationError, Problem
from mirror.oci.digest import Digest
from mirror.offline import part
from mirror.offline.part import Index, PartDamaged, PartUnsupported
from mirror.offline.part_file import NotAPart, PartFile
from mirror.offline.target import README, SUMS
from mirror.outside import Outside

_NAMED = 3  # files, in a sentence
_QUIET = (SUMS, README)  # what save writes beside its parts


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with a part's file, or with one member of it."""

    path: Path
    member: str  # empty: the file as a whole
    why: str

    def __str__(self) -> str:
        return f"{self.path}: {self.member}: {self.why}" if self.member else f"{self.path}: {self.why}"


@dataclass(frozen=True, slots=True)
class Given:
    """A part that was given: its file and what its index says."""

    path: Path
    index: Index


@dataclass(slots=True)
class Group:
    """All parts given of one generation as one plan has it, sorted by save and number; doubles among them."""

    set: str
    generation: int
    plan: Digest
    parts: list[Given] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.set}@{self.generation}"

    @property
    def files(self) -> str:
        """The files for a sentence, some of many."""
        paths = [str(given.path) for given in self.parts]
        more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
        return ", ".join(paths[:_NAMED]) + more

    def saves(self) -> dict[str, list[Given]]:
        """Return the parts of each save."""
        found: dict[str, list[Given]] = defaultdict(list)
        for given in self.parts:
            found[given.index.save].append(given)
        return dict(found)

    def doubled(self) -> list[tuple[Path, Path]]:
        """Return the files of parts that were given twice, with the file that came first."""
        first: dict[tuple[str, int], Path] = {}
        found = []
        for given in self.parts:
            key = (given.index.save, given.index.part)
            if key in first:
                found.append((first[key], given.path))
            first.setdefault(key, given.path)
        return found


@dataclass(slots=True)
class Found:
    """What the given folders and files hold: parts by generation, oldest first; what is ignored, and why."""

    groups: list[Group] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    ignored: list[tuple[Path, str]] = field(default_factory=list)


def find_parts(paths: Sequence[Path], outside: Outside) -> Found:
    """Look through folders (not those in them) and files. Blocks. Raises ConfigurationError for a path that is none."""
    found = Found()
    groups: dict[tuple[str, int, Digest], Group] = {}
    for path in _files(paths, outside, found):
        try:
            with PartFile(outside, path) as opened:
                index = opened.index
                key = (index.set, index.generation, index.plan)
                groups.setdefault(key, Group(*key)).parts.append(Given(path, index))
                found.damaged += [Damage(path, member, why) for member, why in opened.defects()]
        except NotAPart as error:
            if part.is_file_name(path.name):
                found.damaged.append(Damage(path, "", error.what))
            else:
                found.ignored.append((path, "it is not a part"))
        except (PartDamaged, PartUnsupported) as error:
            found.damaged.append(Damage(path, "", str(error)))
        except OSError as error:
            found.damaged.append(Damage(path, "", f"it cannot be read ({error.strerror})"))
    for group in groups.values():
        group.parts.sort(key=lambda given: (given.index.save, given.index.part, given.path))
    found.groups = [groups[key] for key in sorted(groups)]
    return found


def _files(paths: Iterable[Path], outside: Outside, found: Found) -> Iterator[Path]:
    """Yield every file that may be a part, once."""
    problems: list[Problem] = []
    seen: set[str] = set()
    candidates: list[tuple[Path, bool]] = []
    for path in paths:
        try:
            if stat.S_ISDIR(outside.stat(path).st_mode):
                candidates += [(path / name, False) for name in outside.listdir(path) if name not in _QUIET]
            else:
                candidates.append((path, True))
        except OSError as error:
            problems.append(
                Problem("path_unusable", f"{path} cannot be read ({error.strerror})", "", "look at its path and mode")
            )
    if problems:
        raise ConfigurationError(problems)
    for path, named in candidates:
        place = os.path.abspath(path)
        if place in seen:
            continue
        seen.add(place)
        try:
            status = outside.stat(path)
        except OSError as error:
            found.damaged.append(Damage(path, "", f"it cannot be read ({error.strerror})"))
            continue
        if stat.S_ISREG(status.st_mode):
            yield path
        elif named or not stat.S_ISDIR(status.st_mode):
            found.ignored.append((path, "it is not a file"))
