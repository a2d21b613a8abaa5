"""What people give to a command: an image set file, a plan file, or a set that is stored here."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import Path

from mirror.cli.desk import Desk, read_head
from mirror.cli.outcome import SetIncomplete
from mirror.errors import ConfigurationError, NameInvalid, Problem
from mirror.oci.reference import check_set
from mirror.offline.complete import stored_plan
from mirror.offline.plan import Plan

SETS_FOLDER = Path("/etc/mirror/sets")
ENDINGS = (".yaml", ".yml", ".txt")  # of image sets there, in the order in which they are looked for
_IMAGE_SET_LIMIT = 4 * 1024 * 1024  # bytes, as image sets are read
_STORED = re.compile(r"(?P<set>[^@/]+)(?:@(?P<number>[1-9][0-9]{0,8}))?")


@dataclass(frozen=True, slots=True)
class File:
    """A file outside the store: an image set, or a plan where `plan` is set."""

    path: Path
    raw: bytes
    plan: Plan | None = None

    @property
    def stem(self) -> str:
        """What the set is called where nobody says otherwise."""
        return self.path.name.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Stored:
    """A generation in the store. `complete`, as sets/current says: all that its plan names is here, and is served."""

    plan: Plan
    generation: int
    complete: bool

    @property
    def state(self) -> str:
        """What is to be said of it in a word. What its plan lacks was asked for too."""
        return "complete" if self.complete and not self.plan.lacking else "incomplete"

    def __str__(self) -> str:
        return f"{self.plan.set}@{self.generation}"


def choose_file(desk: Desk, given: str) -> File | None:
    """Return the image set or plan file that `given` names; None where it names none.

    A bare NAME is /etc/mirror/sets/NAME with one of ENDINGS if that is there. For threads.
    """
    return _read_first(desk, [Path(given), *_kept(given)])


def choose_beside(desk: Desk, given: str) -> File | None:
    """Return the image set file that belongs to what `choose_stored` takes for `given`; None where there is none.

    Where `given` is a set that is here, a file of that name in the working directory is another matter. For threads.
    """
    name = _STORED.fullmatch(given)
    if name is not None and _is_set(desk, name["set"]):
        return _read_first(desk, _kept(name["set"]))
    return choose_file(desk, given)


def names_file(given: str) -> bool:
    """Tell whether `choose_file` finds a file, by this process's rights."""
    return any(place.exists() and not place.is_dir() for place in (Path(given), *_kept(given)))


def _kept(name: str) -> list[Path]:
    """Return where the image set of a bare name may be kept."""
    return [] if "/" in name else [SETS_FOLDER / f"{name}{ending}" for ending in ENDINGS]


def _read_first(desk: Desk, places: list[Path]) -> File | None:
    path = next((place for place in places if is_folder(desk, place) is False), None)
    if path is None:
        return None
    raw = read_head(desk.outside, path, _IMAGE_SET_LIMIT + 1)
    if raw.lstrip()[:1] == b"{" and b'"kind": "plan"' in raw[:4096]:
        raw = desk.read(path)
        return File(path, raw, Plan.parse(raw))
    return File(path, raw)  # one byte too many is left for the reader to refuse


def choose_stored(desk: Desk, given: str, *, complete: bool) -> Stored:
    """Return the generation that SET, SET@N, or the image set or plan file of a stored set means. For threads.

    `complete`: of SET, the newest complete one is meant; otherwise the newest of all. Raises ConfigurationError where
    there is none.
    """
    found = _STORED.fullmatch(given)
    if found is None or not _is_set(desk, found["set"]):
        file = choose_file(desk, given)
        if file is None:
            raise unknown_set(desk, given)
        if file.plan is not None:
            return _of_plan(desk, file.plan)
        name, number = file.stem, None
        if not _is_set(desk, name):
            raise unknown_set(desk, name)
    else:
        name, number = found["set"], int(found["number"]) if found["number"] else None
    return stored(desk, name, number, complete=complete)


def stored(desk: Desk, name: str, number: int | None, *, complete: bool) -> Stored:
    """Return a generation of a set that is here; of None, the newest. For threads.

    Raises ConfigurationError, SetIncomplete; RecordDamaged where the newest is complete and has lost its plan.
    """
    finished = desk.sets.current()
    current = {(one.set, one.generation) for one in finished}
    numbers = desk.sets.generations(name)
    if number is None:
        for one in finished:
            if one.set == name and one.generation > max(numbers, default=0):
                desk.sets.check_plan(one)
        candidates = [one for one in numbers if (name, one) in current] if complete else numbers
        if not candidates:
            raise SetIncomplete(f"no generation of set {name} is complete here", f"mirror verify {name}")
        number = candidates[-1]
    plan = stored_plan(desk.sets, name, number)
    if plan is None:
        known = ", ".join(f"{name}@{one}" for one in numbers)
        raise ConfigurationError(
            [Problem("no_generation", f"there is no {name}@{number} here", "", f"the generations here are {known}")]
        )
    return Stored(plan, number, (name, number) in current)


def _of_plan(desk: Desk, plan: Plan) -> Stored:
    """Return the stored generation that has this plan."""
    for number in reversed(desk.sets.generations(plan.set)):
        found = stored(desk, plan.set, number, complete=False)
        if found.plan.digest == plan.digest:
            return found
    raise ConfigurationError(
        [
            Problem(
                "no_generation", f"no generation of set {plan.set} has this plan", "", "run `mirror sync` with it first"
            )
        ]
    )


def unknown_set(desk: Desk, given: str) -> ConfigurationError:
    """Return the error for what names neither a file nor a set."""
    names = desk.sets.names()
    remedy = f"the sets here are {', '.join(names)}" if names else "there are no sets here yet: sync or load one"
    if is_folder(desk, Path(given)):
        what = f"'{given}' is a folder, and no set here is called that"
        remedy = f"{remedy}; parts or an archive in that folder come in by `mirror load {given}`"
    else:
        what = f"'{given}' is neither a file nor a set here{looked(given)}"
    return ConfigurationError([Problem("no_set", what, "", remedy)])


def looked(given: str) -> str:
    """Return where else a bare name was looked for, in brackets; nothing for a path."""
    return "" if "/" in given else f" (nor {SETS_FOLDER}/{given} with {', '.join(ENDINGS)})"


def _is_set(desk: Desk, name: str) -> bool:
    try:
        # One that is complete is a set, also where its plan was lost: that is said then.
        return bool(desk.sets.generations(check_set(name))) or any(one.set == name for one in desk.sets.current())
    except NameInvalid:
        return False


def is_folder(desk: Desk, path: Path) -> bool | None:
    """Tell whether a path is a folder, which no image set is; None where nothing is there. For threads."""
    try:
        return stat.S_ISDIR(desk.outside.stat(path).st_mode)
    except OSError:
        return None
