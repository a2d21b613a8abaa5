"""The Range and the conditions of a request (RFC 9110, sections 13 and 14), read by one strict ASCII grammar."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from mirror.content.answers import ByteRange
from mirror.oci.digest import Digest

Span = tuple[int, int]  # from the first byte to behind the last

_ONE = re.compile(r"(?:([0-9]{1,19})-([0-9]{1,19})?|-([0-9]{1,19}))", re.ASCII)
_MOST = 256  # ranges in one field

# A first byte that no blob has: 20 digits where the grammar takes 19.
_BEYOND = 10**19


class Headers(Protocol):
    """The fields of a request: CIMultiDict's reading side."""

    def get(self, key: str, /) -> str | None:
        """Return the first field of this name."""
        ...

    def getall(self, key: str, default: Sequence[str], /) -> Sequence[str]:
        """Return all fields of this name."""
        ...


def parse(value: str) -> tuple[ByteRange, ...]:
    """Return the byte ranges that a Range field asks for, none where the field is to be ignored.

    Other units, everything malformed and more than 256 ranges are ignored, which makes the answer a whole 200: a
    client of partial pulls takes that apart itself, while a 416 fails its pull (protocol.md 2.3). A single range that
    ends before it starts is one that nothing satisfies; among others it is malformed (RFC 9110, 14.1.1).
    """
    unit, _, text = value.partition("=")
    if unit.lower() != "bytes" or text != text.strip():
        return ()
    found: list[ByteRange] = []
    for one in text.split(","):
        one = one.strip(" \t")
        if not one:
            continue  # an empty element is none (RFC 9110, 5.6.1)
        match = _ONE.fullmatch(one)
        if match is None or len(found) == _MOST:
            return ()
        first, last, suffix = match.groups()
        if suffix is not None:
            found.append(ByteRange(None, int(suffix)))
        elif last is not None and int(last) < int(first):
            found.append(ByteRange(_BEYOND, 0))
        else:
            found.append(ByteRange(int(first), None if last is None else int(last)))
    if len(found) > 1 and any(one.first == _BEYOND for one in found):
        return ()
    return tuple(found)


def wanted(headers: Headers, digest: Digest) -> tuple[ByteRange, ...]:
    """Return the ranges to answer with: those of the only Range field, unless If-Range names other content."""
    values = headers.getall("Range", ())
    if len(values) != 1:
        return ()
    condition = headers.get("If-Range")
    if condition is not None and condition != f'"{digest}"':
        return ()
    return parse(values[0])


def spans(asked: tuple[ByteRange, ...], total: int) -> list[Span] | None:
    """Return what several ranges are of a body of `total` bytes, in its order; None where that is better sent whole.

    What overlaps is merged. What only touches is not: containers/image counts the parts, and gives up on fewer than
    it asked for. Whole is what together is all of the body, or would be more than it.
    """
    found = sorted(span for one in asked if (span := one.resolve(total)) is not None)
    if sum(stop - start for start, stop in found) > total:
        return None
    merged: list[Span] = []
    for start, stop in found:
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    if len(merged) > 1 and sum(stop - start for start, stop in merged) == total:
        return None
    return merged


def has_already(headers: Headers, digest: Digest) -> bool:
    """Tell whether If-None-Match says that the client holds `digest` (compared weakly, as RFC 9110 wants it)."""
    values = headers.getall("If-None-Match", ())
    if not values:
        return False
    tags = {tag.strip().removeprefix("W/") for value in values for tag in value.split(",")}
    return "*" in tags or f'"{digest}"' in tags
