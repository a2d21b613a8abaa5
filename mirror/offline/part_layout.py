"""Which bytes go into which part: decided before the first is written, the same for every run of the same save."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from mirror.config.values import count_text
from mirror.errors import ConfigurationError, Problem
from mirror.oci.digest import Digest
from mirror.offline import part, ustar
from mirror.offline.part import How, Index, Member
from mirror.offline.plan import Plan, PlanInvalid

PART_SIZE = 4000 * 1024 * 1024  # bytes; FAT32 takes files of less than 4096 MiB
LEAST_SPAN = 64 * 1024  # what is smaller is not worth a member of its own, so a part may end that much short
_UNKNOWN = "0" * 64
_MOST = part.PARTS_LIMIT


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes of a content that one member holds: `length` from `offset`, of `total`."""

    digest: Digest
    offset: int
    length: int
    total: int

    @property
    def whole(self) -> bool:
        """Whether it is all of the content."""
        return self.length == self.total

    @property
    def name(self) -> str:
        """What the member is called."""
        return part.blob_name(self.digest, None if self.whole else self.offset)


@dataclass(frozen=True, slots=True)
class PlannedPart:
    """One part before it is written: its number, its file's name and size in bytes, and what it holds."""

    number: int
    name: str
    size: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class SavePlan:
    """What one save carries of a generation and what it presumes on the other side, sizes in bytes, and its parts.

    `id` is the same whenever the same is saved with the same part size.
    """

    plan: Plan
    generation: int
    how: How
    because: str
    carried: dict[Digest, int]
    presumed: dict[Digest, int]
    parts: tuple[PlannedPart, ...]
    id: str
    small: tuple[tuple[Member, bytes], ...] = field(repr=False)  # plan and list, which every part has

    @property
    def size(self) -> int:
        """The bytes of all parts."""
        return sum(one.size for one in self.parts)

    @property
    def line(self) -> str:
        """What the end of a save says and `load --expect` compares: `set prod@5 sha256:…`."""
        return f"set {self.plan.set}@{self.generation} {self.plan.digest}"

    def index(self, planned: PlannedPart, sums: dict[Span, str]) -> Index:
        """Return the index of a part; `sums` has the sha256 of every span that its digest does not give."""
        return _index(self, planned.number, len(self.parts), planned.spans, sums)


def plan_save(
    plan: Plan,
    generation: int,
    *,
    have: Collection[Digest] = (),
    wanted: Collection[Digest] | None = None,
    how: How = "all",
    because: str = "",
    part_size: int = PART_SIZE,
) -> SavePlan:
    """Return what a save of `plan` writes: all of it but what the other side has, or only what is `wanted` there.

    `because` names what is presumed: the generation up to which saves count, e.g. "prod@4", or the list's file. Raises
    ConfigurationError for a part size that holds nothing.
    """
    if any(not _short(one.digest) for one in plan.signatures):
        raise PlanInvalid("a signature is named by another digest than sha256", "make the plan again")
    content = plan.content
    carried = {
        digest: size for digest, size in _ordered(plan) if digest not in have and (wanted is None or digest in wanted)
    }
    presumed = {digest: content[digest] for digest in sorted(content.keys() - carried.keys())}
    identity = json.dumps(
        [part.SCHEMA, plan.set, generation, str(plan.digest), how, because, part_size, [str(one) for one in carried]]
    )
    save = SavePlan(
        plan,
        generation,
        how,
        because,
        carried,
        presumed,
        (),
        hashlib.sha256(identity.encode()).hexdigest(),
        (),
    )
    # Where all is depends on how much of each part is taken by the list that says it. It never takes less again.
    contents: part.Contents = {**dict.fromkeys(carried, ((1, 0),)), **dict.fromkeys(presumed, ())}
    size, pieces = 0, list[tuple[Span, ...]]()
    while size < (needed := len(part.dump_contents(contents))):
        size = -(-needed // ustar.BLOCK) * ustar.BLOCK
        save = replace(save, small=_small(plan, contents, size))
        pieces = list(_pieces(save, part_size))
        contents = {**_where(pieces), **dict.fromkeys(presumed, ())}
    save = replace(save, small=_small(plan, contents, size))
    indexes = [_index(save, number, len(pieces), spans, {}) for number, spans in enumerate(pieces, 1)]
    return replace(
        save,
        parts=tuple(
            PlannedPart(index.part, index.file_name, index.size, spans)
            for index, spans in zip(indexes, pieces, strict=True)
        ),
    )


def _small(plan: Plan, contents: part.Contents, size: int) -> tuple[tuple[Member, bytes], ...]:
    """Return the members that every part has; the list of contents has `size` bytes."""
    members = ((part.PLAN, plan.dump()), (part.CONTENTS, part.dump_contents(contents, size)))
    return tuple((Member(name, len(raw), hashlib.sha256(raw).hexdigest()), raw) for name, raw in members)


def _where(pieces: Iterable[tuple[Span, ...]]) -> dict[Digest, tuple[tuple[int, int], ...]]:
    """Return for each digest its parts and offsets."""
    found: dict[Digest, list[tuple[int, int]]] = defaultdict(list)
    for number, spans in enumerate(pieces, 1):
        for span in spans:
            found[span.digest].append((number, span.offset))
    return {digest: tuple(places) for digest, places in found.items()}


def _ordered(plan: Plan) -> Iterable[tuple[Digest, int]]:
    """Yield all content, each digest once: manifests first, so that the first part tells what the others fill."""
    manifests = {one.digest: one.size for one in plan.manifests}
    yield from sorted(manifests.items())
    for one in plan.blobs:
        if one.digest not in manifests:
            yield one.digest, one.size


def _index(save: SavePlan, number: int, count: int, spans: Iterable[Span], sums: dict[Span, str]) -> Index:
    listed = [member for member, _ in save.small]
    listed += [
        Member(part.signature_name(one.release, one.number), one.size, one.digest.hex) for one in save.plan.signatures
    ]
    for span in spans:
        known = span.digest.hex if span.whole and _short(span.digest) else sums.get(span, _UNKNOWN)
        listed.append(Member(span.name, span.length, known))
    plan = save.plan
    return Index(plan.set, save.generation, number, count, save.id, plan.digest, save.how, save.because, tuple(listed))


def _short(digest: Digest) -> bool:
    return digest.algorithm == "sha256"


def _pieces(save: SavePlan, part_size: int) -> Iterable[tuple[Span, ...]]:
    """Yield what each part holds: content in order, cut where a part is full."""
    empty = _index(save, _MOST, _MOST, (), {})
    room = _Room(part_size, empty)
    if room.left(Span(Digest.of(b"", "sha512"), 2**53, 2**53, 2**53 + 1)) < LEAST_SPAN:
        least = empty.size + LEAST_SPAN + 4 * ustar.BLOCK
        raise ConfigurationError(
            [
                Problem(
                    "part_size",
                    f"parts of {count_text(part_size, 'byte')} hold next to nothing:"
                    f" the plan of {save.plan.set} alone, which each of them has, takes {empty.size}",
                    "",
                    f"give --part-size at least {-(-least // (1024 * 1024))}MiB",
                )
            ]
        )
    count, spans = 1, list[Span]()
    for digest, total in save.carried.items():
        offset = 0
        while offset < total or not total:
            rest = Span(digest, offset, min(total - offset, ustar.SIZE_LIMIT), total)
            left = room.left(rest)
            if rest.length > left and (left < LEAST_SPAN or rest.length < LEAST_SPAN):
                yield tuple(spans)
                room, spans, count = _Room(part_size, empty), [], count + 1
                if count > _MOST:
                    raise ConfigurationError(
                        [Problem("part_size", f"more than {_MOST} parts are needed", "", "give a larger --part-size")]
                    )
                continue
            taken = Span(digest, offset, min(rest.length, left), total)
            room.take(taken)
            spans.append(taken)
            offset += taken.length
            if not total:
                break
    yield tuple(spans)


class _Room:
    """What still goes into a part of `size` bytes that begins as `empty`."""

    def __init__(self, size: int, empty: Index) -> None:
        self._size = size
        self._index = len(empty.dump())
        self._rest = empty.size - ustar.stored(self._index)

    def left(self, span: Span) -> int:
        """Return how many bytes of `span` fit, in whole blocks; less than none where not even its line does."""
        free = self._size - ustar.stored(self._index + _listed(span)) - self._rest - ustar.BLOCK
        return free // ustar.BLOCK * ustar.BLOCK

    def take(self, span: Span) -> None:
        """Count `span` in."""
        self._index += _listed(span)
        self._rest += ustar.stored(span.length)


def _listed(span: Span) -> int:
    """Return what a span adds to the index at most: its line, a comma and a line feed."""
    longest = Span(span.digest, span.offset, span.length, span.length + 1)
    return len(part.index_line(Member(longest.name, span.length, _UNKNOWN))) + 2
