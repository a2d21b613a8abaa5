"""One generation out of parts: what is known is looked at first, then its plan pins, content comes, it is completed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from mirror.config.values import count_text
from mirror.errors import Corrupt, NotYet, StoreFull
from mirror.oci.digest import Digest
from mirror.offline import part
from mirror.offline.carrying import Carrying
from mirror.offline.crew import work_through
from mirror.offline.found_parts import Damage, Given, Group
from mirror.offline.group_reader import GroupReader
from mirror.offline.in_turn import InTurn
from mirror.offline.load_report import Loaded, LoadRefused
from mirror.offline.part import Contents, PartDamaged
from mirror.offline.part_file import PartFile
from mirror.offline.plan import Plan
from mirror.offline.presumed import PresumedRefused, Presumptions
from mirror.offline.signatures import SignatureInvalid
from mirror.offline.withdraw import withdraw
from mirror.outside import Outside
from mirror.store.growing import Waiting
from mirror.store.intake import Intake
from mirror.store.layout import Layout
from mirror.store.sets import Sets
from mirror.store.signatures import Signatures
from mirror.store.space import Space

_AT_ONCE = 4  # contents in work: while one is made safe on disk the next is read

Signed = Mapping[Digest, Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Receiver:
    """What a load works with in the store, and what it asks.

    `check_signatures(plan, signatures)` raises where what the plan calls a release is not signed as it must be.
    `finish(plan, generation)` completes a generation all of whose content and signatures are here, and raises where it
    cannot: SignatureInvalid where it holds a release that is not signed.
    """

    layout: Layout
    sets: Sets
    intake: Intake
    space: Space
    outside: Outside
    check_signatures: Callable[[Plan, Signed], None]
    finish: Callable[[Plan, int], None]
    presumptions: Presumptions


class LoadGeneration:
    """One run over one generation. For threads."""

    def __init__(
        self, group: Group, report: Loaded, receiver: Receiver, carrying: Carrying, damaged: list[Damage]
    ) -> None:
        self._group = group
        self._report = report
        self._into = receiver
        self._carrying = carrying
        self._turn = threading.Lock()
        self._reader = GroupReader(group, receiver.outside, damaged)

    def run(self, *, rivals: bool, allow_older: bool, allow_presumed: bool = False) -> None:
        """Load it; raises what stops it."""
        busy = self._into.sets.try_busy(self._group.set)
        if busy is None:
            raise NotYet(
                f"another sync or load of set {self._group.set} is running",
                "wait for it; `mirror ls` shows what is here",
            )
        try:
            plan, raw = self._reader.plan()
            self._report.lacking = plan.lacking
            self._refuse_strangers(raw, rivals=rivals)
            self._refuse_older(allow_older=allow_older)
            signatures = self._reader.signatures(plan)
            self._into.check_signatures(plan, signatures)
            self._settle(plan)
            contents = self._reader.contents()
            lacking = self._report.missing = self._lacking(plan)
            if self._presumed(contents, lacking):
                return
            foreign = {} if allow_presumed else self._foreign(plan, contents, lacking)
            if lacking:
                self._check_room(lacking)
            if self._into.sets.read(self._group.set, self._group.generation) is None:
                self._into.sets.write(self._group.set, self._group.generation, raw)
            self._bring(plan.content, lacking)
            lacking |= foreign
            if lacking:
                self._report.missing_parts = self._missing_parts(contents, lacking)
            else:
                self._complete(plan, signatures)
        finally:
            busy.release()

    # -- whether it may be loaded --------------------------------------------------------------------------------

    def _refuse_strangers(self, raw: bytes, *, rivals: bool) -> None:
        """Raise LoadRefused where another content has the same name and number, here or among the parts."""
        here = self._into.sets.read(self._group.set, self._group.generation)
        if here is not None and here != raw:
            raise LoadRefused(
                f"the store has other content as {self._group}, plan {Digest.of(here)}; plan {self._group.plan} is in"
                f" {self._group.files}",
                f"if these parts are right, give up the other with `mirror unpin {self._group}`, then load again",
            )
        if here is None and rivals:
            raise LoadRefused(
                f"parts of different contents are called {self._group}: plan {self._group.plan} is in"
                f" {self._group.files}",
                f"say which is meant, e.g. --expect {self._group.plan}",
            )

    def _refuse_older(self, *, allow_older: bool) -> None:
        """Raise LoadRefused for a generation older than the newest that is complete, unless that is wanted."""
        group = self._group
        self._report.before = any(
            (one.set, one.generation) == (group.set, group.generation) for one in self._into.sets.current()
        )
        newest = self._into.sets.newest(group.set)
        if newest is not None and group.generation < newest.generation and not (self._report.before or allow_older):
            raise LoadRefused(
                f"{group} is older than {newest}, which is complete here",
                "to have it too, load it with --allow-older; tags stay where they are",
            )

    def _presumed(self, contents: Sequence[tuple[part.Index, Contents]], lacking: Mapping[Digest, int]) -> bool:
        """Tell whether all saves presume something that is not here: nothing is written then, and that is reported.

        A save of what was wanted presumes nothing: whoever wanted it has the other parts, now or later.
        """
        if any(index.how == "want" for index, _ in contents):
            return False
        waiting = self._into.intake.waiting()
        missing = {
            digest: size
            for digest, size in lacking.items()
            if digest not in waiting and all(where.get(digest) == () for _, where in contents)
        }
        if missing:
            self._report.missing, self._report.presumed = missing, True
            self._report.remedy = self._remedy({index.because for index, _ in contents if index.how == "since"})
        return bool(missing)

    def _foreign(
        self, plan: Plan, contents: Sequence[tuple[part.Index, Contents]], lacking: Mapping[Digest, int]
    ) -> dict[Digest, int]:
        """Return what is here, not the plan's own to presume, and in parts that were not given; with sizes.

        What the given parts have of it is compared with what is here. Raises PresumedRefused for what no part has.
        """
        found = self._into.presumptions.foreign(plan, lacking)
        here = {digest: Waiting(size, ()) for digest, size in found.items()}
        proven: list[Digest] = []
        for given in self._group.parts:
            if not here:
                break
            try:
                with PartFile(self._into.outside, given.path) as opened:
                    for member in opened.index.members:
                        self._compare(opened, given, member, here)
            except OSError as error:
                self._reader.mark(given, "", f"it cannot be read ({error.strerror})")
            except PartDamaged as error:
                self._reader.mark(given, "", error.what)
            for digest in [digest for digest, waiting in here.items() if waiting.whole]:
                proven.append(digest)
                del here[digest], found[digest]
        presumed = [digest for digest in found if all(not where.get(digest) for _, where in contents)]
        if presumed:
            raise PresumedRefused(str(self._group), presumed)
        for digest in proven:
            self._into.presumptions.prove(plan, digest)
        return found

    def _compare(self, opened: PartFile, given: Given, member: part.Member, here: dict[Digest, Waiting]) -> None:
        """Note in `here` what of a content a member of a part surely has."""
        held = part.piece(member.name)
        waiting = here.get(held.digest) if held is not None else None
        if held is None or waiting is None:
            return
        offset = held.offset or 0
        read = opened.reader(member.name, checked=False)
        if not self._into.presumptions.is_same(held.digest, offset, member.size, read):
            self._reader.mark(given, member.name, f"it has other bytes than {held.digest}")
        elif member.size:
            here[held.digest] = waiting.with_span(offset, offset + member.size)

    def _remedy(self, saved: Collection[str]) -> str:
        """Say which archives the parts count on, and what to save instead."""
        group = self._group
        here = [one.generation for one in self._into.sets.current() if one.set == group.set]
        older = max((number for number in here if number < group.generation), default=None)
        counted = f"load the archives up to {' and '.join(sorted(saved))} before these, or " if saved else ""
        since = f" --since {older}" if older is not None else ""
        return f"{counted}save on the other side what is missing (--want) or more: `mirror save {group}{since}`"

    def _check_room(self, lacking: Mapping[Digest, int]) -> None:
        """Raise StoreFull where the set will not fit. What waits for its other pieces has its room already."""
        waiting = self._into.intake.waiting()
        needed = sum(size for digest, size in lacking.items() if digest not in waiting)
        room = self._into.space.forecast()
        if needed > room.free + room.evictable:
            raise StoreFull(
                f"{self._group} needs {count_text(needed, 'byte')} beside what is here;"
                f" {room.free} are free, and {room.evictable} can be evicted",
                "give the store more room, or `mirror unpin` what is not needed",
            )

    # -- bringing it -------------------------------------------------------------------------------------------

    def _settle(self, plan: Plan) -> None:
        """Commit what came in pieces, all of them, before somebody was killed."""
        content = plan.content
        for digest, waiting in self._into.intake.waiting().items():
            if waiting.whole and content.get(digest) == waiting.size:
                with suppress(Corrupt):  # dropped: it comes again
                    self._into.intake.complete(digest)

    def _lacking(self, plan: Plan) -> dict[Digest, int]:
        """Return what of the plan is not here, with sizes."""
        found = {}
        for digest, size in plan.content.items():
            if not self._into.intake.has(digest, size):
                found[digest] = size
            self._carrying.move(0)
        return found

    def _bring(self, content: Mapping[Digest, int], lacking: dict[Digest, int]) -> None:
        """Bring what the parts have of what is lacking, and take it out of there."""
        self._carrying.total = self._carrying.done + self._offered(lacking)
        for given in self._group.parts:
            if not lacking:
                return
            self._carrying.what = given.path.name
            try:
                with PartFile(self._into.outside, given.path) as opened:
                    if opened.index != given.index:
                        raise PartDamaged("it has changed in the meantime")
                    work_through(
                        lambda member, opened=opened, given=given: self._member(  # type: ignore[misc] # bound now
                            opened, given, member, content, lacking
                        ),
                        opened.index.members,
                        _AT_ONCE,
                    )
            except OSError as error:
                self._reader.mark(given, "", f"it cannot be read ({error.strerror})")
            except PartDamaged as error:
                self._reader.mark(given, "", error.what)

    def _offered(self, lacking: Mapping[Digest, int]) -> int:
        """Return how many bytes the parts have of what is lacking."""
        members = {member.name: member.size for given in self._group.parts for member in given.index.members}
        pieces = ((part.piece(name), size) for name, size in members.items())
        return sum(size for held, size in pieces if held is not None and held.digest in lacking)

    def _member(
        self,
        opened: PartFile,
        given: Given,
        member: part.Member,
        content: Mapping[Digest, int],
        lacking: dict[Digest, int],
    ) -> None:
        """Bring one member, where it is lacking; a damaged one is noted and passed by."""
        held = part.piece(member.name)
        if held is None:
            return
        if held.digest not in content:
            self._reader.mark(given, member.name, "the plan does not name it")
        elif (size := lacking.get(held.digest)) is not None:
            try:
                if self._receive(opened, member, held, size) and lacking.pop(held.digest, None) is not None:
                    self._report.received[held.digest] = size
            except Corrupt as error:
                self._reader.mark(given, member.name, error.what)

    def _receive(self, opened: PartFile, member: part.Member, held: part.Piece, size: int) -> bool:
        """Bring a whole content, or a span of one; tell whether it is whole now."""
        # The digest of a whole content proves it.
        read = InTurn(
            opened.reader(member.name, checked=held.offset is not None), member.size, self._turn, self._carrying
        )
        try:
            if held.offset is not None:
                return self._into.intake.receive_range(held.digest, size, held.offset, member.size, read)
            if member.size != size:
                raise PartDamaged(f"it has {count_text(member.size, 'byte')}, and the plan says {size}")
            self._into.intake.receive(held.digest, size, read)
            return True
        finally:
            read.end()

    def _missing_parts(
        self, contents: Sequence[tuple[part.Index, Contents]], lacking: Mapping[Digest, int]
    ) -> list[str]:
        """Return the names of parts that bring what is lacking and were not given."""
        waiting = self._into.intake.waiting()
        names = set()
        for index, where in contents:
            given = {one.index.part for one in self._group.parts if one.index.save == index.save}
            for digest, size in lacking.items():
                spans = where.get(digest, ())
                here = waiting.get(digest, Waiting(size, ()))
                stops = [start for _, start in spans[1:]]
                for (number, start), stop in zip(spans, [*stops, size], strict=False):
                    if number not in given and number <= index.parts and not here.covers(start, stop):
                        names.add(part.file_name(index.set, index.generation, number, index.parts))
        return sorted(names)

    def _complete(self, plan: Plan, signatures: Signed) -> None:
        """Keep the signatures and have the generation completed; one that was gets back what it has lost."""
        kept = Signatures(self._into.layout)
        for release, bodies in signatures.items():
            for raw in bodies:
                kept.add(release, raw)
        try:
            self._into.finish(plan, self._group.generation)
        except SignatureInvalid:
            group = self._group
            withdraw(self._into.sets, self._into.space, group.set, group.generation, self._report.received)
            raise
        self._report.ready = True
