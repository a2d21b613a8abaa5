"""Image sets: their generations, which are plans, and which of those are complete.

A generation pins what its plan names from the moment it is written, before the first byte moves. `sets/current` alone
says which are complete; it changes by one rename, under a lock.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Collection, Container, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from mirror.errors import DigestInvalid, NameInvalid, StoreError, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.oci.reference import check_set
from mirror.store import files
from mirror.store.faults import damaged
from mirror.store.layout import Layout
from mirror.store.lock import FileLock, held

_CURRENT_LIMIT = 4 * 1024 * 1024
_PLAN_LIMIT = 256 * 1024 * 1024
_SOURCE_LIMIT = 64 * 1024
_LOOK_AGAIN = 2.0  # seconds
_LOOK_SHARE = 20  # of the time that looking takes, at least this many times it passes before the next look
_PATIENCE = 30.0  # seconds for a lock that is held for a few file writes

How = Literal["synced", "loaded"]
_Parsed = TypeVar("_Parsed")


class Complete(NamedTuple):
    """A complete generation: its plan's digest, when it was completed (Unix time), and how it came."""

    set: str
    generation: int
    plan: Digest
    completed: float
    how: How

    def __str__(self) -> str:
        return f"{self.set}@{self.generation}"


class Sets:
    """The files under `sets/`. Everything but `modified` blocks and is for threads."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._current = str(layout.current_sets)

    # -- what is complete ------------------------------------------------------------------------------------

    def modified(self) -> tuple[int, int, int] | None:
        """Return what changes when a generation is completed or given up, None before. May run on the loop."""
        return files.stamp(self._current)

    def current(self) -> tuple[Complete, ...]:
        """Return the complete generations in the order of completion.

        Raises StoreUnreadable; StoreError where the file is damaged.
        """
        try:
            raw = files.read_small(self._current, _CURRENT_LIMIT)
            if raw is None:
                return ()
            found: Any = json.loads(raw)
            return tuple(
                Complete(
                    check_set(one["set"]),
                    int(one["generation"]),
                    Digest.parse(one["plan"]),
                    float(one["completed"]),
                    "loaded" if one["how"] == "loaded" else "synced",
                )
                for one in found["complete"]
            )
        except (OSError, ValueError, LookupError, TypeError, RecursionError, NameInvalid, DigestInvalid) as error:
            raise StoreError(
                f"the record of complete sets, {self._current}, is damaged",
                "remove that file, then sync or load each set again",
            ) from error

    def complete(self, name: str, number: int, plan: Digest, how: How) -> None:
        """Say that a generation is complete: the last rename of a sync or a load. Raises OSError, StoreError."""
        with self.locked():
            others = [one for one in self.current() if (one.set, one.generation) != (name, number)]
            self._write_current([*others, Complete(name, number, plan, time.time(), how)])

    def newest(self, name: str) -> Complete | None:
        """Return the newest complete generation of a set."""
        found = [one for one in self.current() if one.set == name]
        return max(found, key=lambda one: one.generation, default=None)

    def check_plans(self, known: Container[tuple[str, int]]) -> None:
        """Raise RecordDamaged where a complete generation, but for those `known`, has lost its plan.

        What it needs is not known then, and may be all that is here. Raises StoreUnreadable.
        """
        try:
            complete = self.current()
        except StoreUnreadable:
            raise
        except StoreError:
            return  # which are complete nobody knows
        for one in complete:
            if (one.set, one.generation) not in known:
                self.check_plan(one)

    def check_plan(self, one: Complete) -> None:
        """Raise RecordDamaged where the plan of a complete generation is not here, unless it was just given up."""
        if self._is_lost(one):
            raise damaged(
                self.path(one.set, one.generation),
                f"the plan of {one}, which is complete, is not in the store",
                f"put that file back, or sync or load that set again{_without(str(one))}",
                lambda: not self._is_lost(one),
            )

    def _is_lost(self, one: Complete) -> bool:
        return one in self.current() and files.modified(self.path(one.set, one.generation)) is None

    # -- generations -----------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the sets that have a generation here, sorted."""
        found = []
        for entry in _scan(str(self._layout.sets)):
            try:
                name = check_set(entry)
            except NameInvalid:
                continue
            if self.generations(name):
                found.append(name)
        return sorted(found)

    def generations(self, name: str) -> list[int]:
        """Return the numbers of a set's generations, complete or not, in order."""
        entries = (
            entry.removesuffix(".json") for entry in _scan(str(self._layout.set(name))) if entry.endswith(".json")
        )
        return sorted(int(entry) for entry in entries if entry.isdecimal() and entry == str(int(entry)))

    def read(self, name: str, number: int) -> bytes | None:
        """Return the plan of a generation as it was written, None where there is none. Raises StoreUnreadable."""
        return files.read_record(str(self._layout.generation(name, number)), _PLAN_LIMIT)

    def read_whole(self, name: str, number: int, parse: Callable[[bytes], _Parsed | None]) -> _Parsed | None:
        """Return what `parse` makes of a generation's plan, None where there is none.

        Raises StoreUnreadable, RecordDamaged where it makes nothing of it.
        """
        path = self.path(name, number)
        remedy = f"put it back whole; or remove it, then sync or load that set again{_without(f'{name}@{number}')}"
        return files.read_whole(path, _PLAN_LIMIT, parse, f"the plan of {name}@{number}, {path},", remedy)

    def path(self, name: str, number: int) -> str:
        """Return the path of a generation's plan."""
        return str(self._layout.generation(name, number))

    def write(self, name: str, number: int, plan: bytes) -> None:
        """Write a generation's plan, durably: what it names is pinned when this returns. Raises OSError."""
        with self.pinning():
            files.write_atomically(str(self._layout.generation(name, number)), plan, durable=True)

    def remove(self, name: str, number: int) -> bool:
        """Give a generation up and say whether it was there: what nothing else needs is cache from now on."""
        with self.locked():
            kept = [one for one in self.current() if (one.set, one.generation) != (name, number)]
            if len(kept) != len(self.current()):
                self._write_current(kept)
            gone = files.remove(str(self._layout.generation(name, number)))
            files.remove(str(self._layout.held(name, number)))
        if not self.generations(name):
            files.remove(str(self._source(name)))
            with suppress(OSError):  # not empty: what saves noted is kept
                os.rmdir(self._layout.set(name))
        return gone

    def hold(self, name: str, number: int) -> None:
        """Let nothing but `remove` give a generation up: not a sync that keeps the newest ones only. Raises OSError."""
        files.write_atomically(str(self._layout.held(name, number)), b"", durable=True)

    def is_held(self, name: str, number: int) -> bool:
        """Tell whether a generation is held."""
        return files.modified(str(self._layout.held(name, number))) is not None

    # -- where a set came from -------------------------------------------------------------------------------

    def source(self, name: str) -> str:
        """Return the path of the image set file that the newest plan came from, absolute and without `..`.

        Empty for a set that was loaded.
        """
        raw = files.read_record(str(self._source(name)), _SOURCE_LIMIT)
        # Earlier releases kept it as it was given, behind the working directory.
        return os.path.abspath(raw.decode(errors="replace").rstrip("\n")) if raw else ""

    def set_source(self, name: str, path: Path) -> None:
        """Keep the path of the image set file that the newest plan came from."""
        files.write_atomically(str(self._source(name)), f"{os.path.abspath(path)}\n".encode(), durable=False)

    def _source(self, name: str) -> str:
        return str(self._layout.set(name) / "source")

    # -- locks -----------------------------------------------------------------------------------------------

    def locked(self) -> AbstractContextManager[None]:
        """Hold off everybody else who completes or gives up generations."""
        return _held(self._layout, "sets")

    def pinning(self) -> AbstractContextManager[None]:
        """Hold off eviction for the moment in which it could take what is just being pinned."""
        return _held(self._layout, "pins")

    def try_busy(self, name: str) -> FileLock | None:
        """Take a set for a sync or a load; None where somebody else works on it. The caller releases the lock."""
        lock = FileLock(self._layout.lock(f"set {name}"))
        return lock if lock.try_acquire() else None

    def _write_current(self, complete: list[Complete]) -> None:
        document = {"schema": 1, "complete": [{**one._asdict(), "plan": str(one.plan)} for one in complete]}
        files.write_atomically(self._current, json.dumps(document, indent=1).encode(), durable=True)


class Shortfall(NamedTuple):
    """How many digests of a generation are not here, and of how many things its plan says that it lacks them."""

    missing: int
    lacking: int


class _Record(NamedTuple):
    """What a plan, or a pin of a single image, pins: digests as text with their sizes. `lacking` as in Shortfall."""

    sizes: dict[str, int]
    lacking: int


_NOTHING = _Record({}, 0)


class Pins:
    """What is pinned: every digest of every generation's plan and of every image that was pinned by itself.

    Read anew when one is written or given up. For threads.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._sets = Sets(layout)
        self._folders = (str(layout.pins), str(layout.sets))
        self._lock = threading.Lock()
        self._stamp: tuple[object, ...] | None = None
        self._plans: dict[tuple[str, int], tuple[object, _Record]] = {}
        self._images: dict[str, tuple[object, _Record]] = {}
        self._sizes: dict[str, int] = {}
        self._here = (0.0, 0)  # when to look again, and what was here

    def digests(self) -> dict[str, int]:
        """Return the pinned digests as text, each with its size in bytes. Must not be changed."""
        with self._lock:
            looked = time.time_ns()
            stamp, newest = self._look()
            if stamp != self._stamp:
                self._read()
                self._sets.check_plans(self._plans)
                self._stamp = stamp if looked - newest > files.TICK else None
            return self._sizes

    def size(self) -> int:
        """Return the bytes of what is pinned and here, as of some seconds ago: a sync's pins are mostly to come."""
        until, size = self._here
        began = time.monotonic()
        if began >= until:
            pinned = self.digests()
            size = sum(pinned[text] for text in pinned if files.modified(self._layout.blob(Digest.parse(text))))
            ended = time.monotonic()
            self._here = (ended + max(_LOOK_AGAIN, _LOOK_SHARE * (ended - began)), size)
        return size

    def generations(self) -> dict[tuple[str, int], Mapping[str, int]]:
        """Return what each generation (set, number) pins: its digests as text, each with its size in bytes."""
        with self._lock:
            self._read()
            return {key: found.sizes for key, (_, found) in self._plans.items()}

    def shortfalls(self) -> dict[tuple[str, int], Shortfall]:
        """Return what each generation is short of. What cannot be read is here, and is noted."""
        with self._lock:
            self._read()
            plans = {key: found for key, (_, found) in self._plans.items()}
        return {
            key: Shortfall(sum(1 for text in found.sizes if not self._is_here(text)), found.lacking)
            for key, found in plans.items()
        }

    def holders(self, digests: Collection[str]) -> dict[str, list[str]]:
        """Return for each of `digests` (text) what pins it: generations as `set@n`, `pin` for a single image."""
        with self._lock:
            self._read()
            every = [(f"{name}@{number}", found.sizes) for (name, number), (_, found) in sorted(self._plans.items())]
            every += [("pin", found.sizes) for _, found in self._images.values()]
        return {text: list(dict.fromkeys(name for name, found in every if text in found)) for text in digests}

    def absent(self, generations: Collection[tuple[str, int]]) -> dict[str, int]:
        """Return what is not here of some generations (set, number) and of all single images, with its bytes."""
        with self._lock:
            self._read()
            chosen = [*(self._plans.get(key, (None, _NOTHING))[1] for key in generations)]
            chosen += [found for _, found in self._images.values()]
        wanted = {text: size for found in chosen for text, size in found.sizes.items()}
        return {text: size for text, size in wanted.items() if not self._is_here(text)}

    def _is_here(self, text: str) -> bool:
        path = self._layout.blob(Digest.parse(text))
        try:
            found = files.look(path)
        except StoreUnreadable:
            return True
        if found is not None:
            files.may_read(path, found)
        return found is not None

    def _look(self) -> tuple[tuple[object, ...], int]:
        """Return what changes when something is pinned or given up: the folders' times; and the latest of them."""
        folders = [*self._folders, *(f"{self._folders[1]}/{name}" for name in _scan(self._folders[1]))]
        found = [(folder, files.modified(folder)) for folder in folders]
        return tuple(found), max((stamp[1] for _, stamp in found if stamp is not None), default=0)

    def _read(self) -> None:
        plans: dict[tuple[str, int], tuple[object, _Record]] = {}
        for name in self._sets.names():
            for number in self._sets.generations(name):
                path = str(self._layout.generation(name, number))
                stamp = files.modified(path)
                old = self._plans.get((name, number))
                found = old if old is not None and old[0] == stamp else (stamp, _record(path))
                # Kept at once: where a later one is damaged, this one need not be read again.
                plans[name, number] = self._plans[name, number] = found
        images: dict[str, tuple[object, _Record]] = {}
        for entry in _scan(str(self._layout.pins)):
            if entry.endswith(".json"):
                path = str(self._layout.pins / entry)
                stamp = files.modified(path)
                known = self._images.get(entry)
                images[entry] = known if known is not None and known[0] == stamp else (stamp, _record(path))
        self._plans, self._images = plans, images
        every = (*plans.values(), *images.values())
        self._sizes = {digest: size for _, found in every for digest, size in found.sizes.items()}


def _without(generation: str) -> str:
    return f"; to do without it: mirror unpin {generation}"


def _record(path: str) -> _Record:
    """Return what a plan pins.

    One that is damaged, or cannot be read, stops eviction: better a full disk than a set with holes.
    """
    what = f"the record of what is pinned, {path},"
    remedy = "put it back; if it is lost, remove it, then sync or load that set, or pin that image, again"
    return files.read_whole(path, _PLAN_LIMIT, _parse_record, what, remedy) or _NOTHING


def _parse_record(raw: bytes) -> _Record | None:
    try:
        found: Any = json.loads(raw)
        sizes = {
            str(Digest.parse(one["digest"])): int(one["size"]) for kind in ("manifests", "blobs") for one in found[kind]
        }
        return _Record(sizes, len(found.get("lacking", ())))
    except (ValueError, LookupError, TypeError, RecursionError, DigestInvalid):
        return None


def _scan(folder: str) -> list[str]:
    return sorted(files.names(folder))


def _held(layout: Layout, key: str) -> AbstractContextManager[None]:
    error = StoreError("another process works on the image sets of this store", "try again")
    return held(layout.lock(key), _PATIENCE, error)
