"""Save: write what a generation holds into parts that somebody carries across the gap.

Each part is written under another name, synced and renamed; which are done is noted in the store. So a save that was
stopped, or whose disk became full, goes on at the next part: with the same command, there or on the next disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mirror.config.values import count_text
from mirror.errors import ConfigurationError, NotYet, Problem, StoreError, StoreFull
from mirror.oci.digest import Digest
from mirror.offline import part, ustar
from mirror.offline.carrying import Carrying
from mirror.offline.here import Store
from mirror.offline.part_layout import PlannedPart, SavePlan
from mirror.offline.proven import Bad, Proven
from mirror.offline.saves import Finished, Saves
from mirror.offline.target import Target, Writing
from mirror.outside import Outside
from mirror.store.lock import FileLock
from mirror.store.mounts import Mount

_SLACK = 1024 * 1024  # bytes that a file system takes beside a part's own


@dataclass(frozen=True, slots=True)
class Room:
    """Before the first byte is written: what is needed and free, in bytes, and how many of how many parts fit.

    `mount` is the file system that is written to; None where it cannot be told.
    """

    needed: int
    free: int
    fit: int
    parts: int
    mount: Mount | None


@dataclass(frozen=True, slots=True)
class SaveReport:
    """How a save ended.

    `missing` digests are not in this store, so nothing was written; `corrupt` ones were found bad, each with the
    reason, and parts that need them were not written. `elsewhere` parts were finished before, in the folder that is
    given. `left` parts did not fit here, as `full` says.
    """

    plan: SavePlan
    written: tuple[PlannedPart, ...] = ()
    kept: tuple[PlannedPart, ...] = ()
    elsewhere: tuple[tuple[PlannedPart, str], ...] = ()
    left: tuple[PlannedPart, ...] = ()
    missing: tuple[Digest, ...] = ()
    corrupt: tuple[tuple[Digest, str], ...] = ()
    full: StoreFull | None = None

    @property
    def complete(self) -> bool:
        """Whether every part is on a disk."""
        return not (self.left or self.missing or self.corrupt)


def save(
    plan: SavePlan,
    store: Store,
    outside: Outside,
    to: Path,
    carrying: Carrying,
    announce: Callable[[Room], None] = lambda _: None,
) -> SaveReport:
    """Write the parts of `plan` that are not finished yet into the folder `to`. Blocks: for threads.

    `announce` is told what is needed and free before the first byte is written. Raises ConfigurationError where `to`
    holds files of another save under the same names, NotYet while another process does the same, TargetFailed for a
    disk that fails, Stopped.
    """
    missing = tuple(digest for digest, size in plan.carried.items() if not store.has(digest, size))
    if missing:
        return SaveReport(plan, missing=missing, left=plan.parts)
    busy = FileLock(store.layout.lock(f"save {plan.id}"))
    if not busy.try_acquire():
        raise NotYet(f"another process is saving {plan.plan.set}@{plan.generation}", "wait for it, or stop it")
    try:
        return _Save(plan, store, Target(outside, to), carrying).run(announce)
    finally:
        busy.release()


class _Save:
    """One run."""

    def __init__(self, plan: SavePlan, store: Store, target: Target, carrying: Carrying) -> None:
        self._plan = plan
        self._store = store
        self._target = target
        self._carrying = carrying
        self._where = str(target.folder.absolute())
        self._saves = Saves(store.layout, plan.plan.set)
        self._record = self._saves.read(plan)
        self._proven = Proven(store, (span for one in plan.parts for span in one.spans), carrying)

    def run(self, announce: Callable[[Room], None]) -> SaveReport:
        """Do what is left to do and report."""
        target, plan = self._target, self._plan
        target.prepare(planned.name for planned in plan.parts)
        kept, elsewhere, todo = self._look()
        self._carrying.total = self._carrying.done + sum(planned.size for planned in todo)
        free, fit = target.free(), 0
        room = free
        for planned in todo:
            room -= planned.size + _SLACK
            fit += room >= 0
        announce(Room(sum(planned.size for planned in todo), free, fit, len(todo), target.mount()))
        if kept:
            self._list(kept)
        written: list[PlannedPart] = []
        full: StoreFull | None = None
        for planned in todo:
            try:
                if target.free() < planned.size + _SLACK:
                    full = self._full(todo, written, free)
                    break
                if self._write(planned):
                    self._list([*kept, *written, planned])
                    self._saves.write(self._record)
                    written.append(planned)
            except StoreFull:
                full = self._full(todo, written, free)
                break
        left = tuple(planned for planned in todo if planned not in written)
        bad = tuple(self._proven.bad.items())
        report = SaveReport(plan, tuple(written), tuple(kept), tuple(elsewhere), left, (), bad, full)
        if report.complete and not self._record.complete:
            self._record.complete = True
            self._saves.write(self._record)
        return report

    # -- what there is to do -----------------------------------------------------------------------------------

    def _look(self) -> tuple[list[PlannedPart], list[tuple[PlannedPart, str]], list[PlannedPart]]:
        """Return the parts that are finished here, those finished on another disk, and those to be written.

        What was finished and is gone was taken to another place. Once all are finished, SHA256SUMS says which belong
        here, so that one that was lost is written again; and where none is here, another copy is wanted.
        """
        finished = self._record.parts
        rest = len(finished) < len(self._plan.parts)
        listed = self._target.sums()
        sizes = {planned: self._target.size(planned.name) for planned in self._plan.parts}
        self._carrying.total = sum(size or 0 for planned, size in sizes.items() if planned.number in finished)
        kept, elsewhere, todo = [], [], []
        for planned, size in sizes.items():
            one = finished.get(planned.number)
            if one is not None and size is None and (rest or planned.name not in listed):
                elsewhere.append((planned, one.where))
            elif one is not None and self._intact(planned, one, size):
                kept.append(planned)
            else:
                self._check_ours(planned, one, size)
                todo.append(planned)
        if not kept and not todo:
            elsewhere, todo = [], list(self._plan.parts)
        forgotten = [finished.pop(planned.number, None) for planned in todo]
        if any(forgotten):  # noted before the files go: what is neither finished nor there would be taken for carried
            self._saves.write(self._record)
        for planned in todo:
            self._target.remove(planned.name)
        return kept, elsewhere, todo

    def _intact(self, planned: PlannedPart, one: Finished, size: int | None) -> bool:
        self._carrying.what = planned.name
        return size == one.size and self._target.sha256(planned.name, self._carrying) == one.sha256

    def _check_ours(self, planned: PlannedPart, one: Finished | None, size: int | None) -> None:
        """Raise ConfigurationError where something else has a part's name."""
        if size is None:
            return
        ours = {self._plan.id, None}
        if one is not None and one.where == self._where:
            ours.add("")
        if size < 0 or self._target.save_of(planned.name) not in ours:
            raise ConfigurationError(
                [
                    Problem(
                        "part_taken",
                        f"{self._target.folder / planned.name} is there and belongs to another save",
                        "",
                        "give another folder with --to",
                    )
                ]
            )

    def _full(self, todo: list[PlannedPart], written: list[PlannedPart], free: int) -> StoreFull:
        rest = [planned for planned in todo if planned not in written]
        return StoreFull(
            f"{self._target.folder} has room for {len(written)} of {count_text(len(todo), 'part')}:"
            f" {free} bytes were free, and {sum(planned.size for planned in todo)} are needed;"
            f" left: {count_text(len(rest), 'part')}",
            "give the same command with --to the next disk, or here when there is room",
        )

    # -- writing -----------------------------------------------------------------------------------------------

    def _write(self, planned: PlannedPart) -> bool:
        """Write one part and say whether its content was good. Raises StoreFull, TargetFailed."""
        carrying = self._carrying
        carrying.what, before = planned.name, carrying.done
        try:
            with self._target.create(planned.name) as writing:
                self._fill(writing, planned)
                sha256 = writing.sha256
        except Bad:
            for span in planned.spans:  # the other content of this part: one run names all that is bad
                with suppress(Bad):
                    for _ in self._proven.read(span) if span.whole else ():
                        carrying.move(0)
            carrying.done = before + planned.size
            return False
        self._record.parts[planned.number] = Finished(planned.size, sha256, self._where)
        return True

    def _list(self, here: list[PlannedPart]) -> None:
        """Bring SHA256SUMS up to date: these parts of ours, and whatever others it names."""
        names = {planned.name for planned in self._plan.parts}
        others = {name: value for name, value in self._target.sums().items() if name not in names}
        ours = {planned.name: self._record.parts[planned.number].sha256 for planned in here}
        self._target.write_sums({**others, **ours})

    def _fill(self, writing: Writing, planned: PlannedPart) -> None:
        """Write all members; raise Bad where some content is."""
        raw = self._plan.index(planned, self._proven.sums(planned.spans)).dump()
        for span in planned.spans:
            if span.digest in self._proven.bad:
                raise Bad(span.digest, self._proven.bad[span.digest])
        self._member(writing, part.INDEX, raw)
        self._member(writing, part.CHECKSUM, part.checksum(raw))
        for member, content in self._plan.small:
            self._member(writing, member.name, content)
        for name, content in self._signatures():
            self._member(writing, name, content)
        for span in planned.spans:
            self._put(writing, ustar.header(span.name, span.length))
            for content in self._proven.read(span):
                self._put(writing, content)
            self._put(writing, bytes(ustar.padding(span.length)))
        self._put(writing, ustar.END)

    def _member(self, writing: Writing, name: str, content: bytes) -> None:
        self._put(writing, ustar.header(name, len(content)) + content + bytes(ustar.padding(len(content))))

    def _put(self, writing: Writing, content: bytes) -> None:
        writing.write(content)
        self._carrying.move(len(content))

    def _signatures(self) -> Iterator[tuple[str, bytes]]:
        for one in self._plan.plan.signatures:
            raw = self._store.signature(one)
            if raw is None:
                raise StoreError(
                    f"signature {one.number} of the release {one.release} is not in this store",
                    f"run `mirror sync {self._plan.plan.set}`, then this again",
                )
            yield part.signature_name(one.release, one.number), raw
