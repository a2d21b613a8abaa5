"""The Range and the conditions of a request (RFC 9110, sections 13 and 14), read by one strict ASCII grammar."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from mirror.content.answers import ByteRange
from mirror.oci.digest import Digest

# re.ASCII, or IGNORECASE would take U+017F for an s.
_RANGE = re.compile(r"bytes=(?:([0-9]{1,19})-([0-9]{1,19})?|-([0-9]{1,19}))", re.ASCII | re.IGNORECASE)

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


def parse(value: str) -> ByteRange | None:
    """Return the single byte range that a Range field asks for, or None where the field is to be ignored.

    Several ranges, other units and everything malformed are ignored, which makes the answer a whole 200: a client
    of partial pulls takes that apart itself, while a 416 fails its pull (protocol.md 2.3). A range that ends before
    it starts is one that nothing satisfies.
    """
    match = _RANGE.fullmatch(value)
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return ByteRange(None, int(suffix))
    if last is None:
        return ByteRange(int(first), None)
    if int(last) < int(first):
        return ByteRange(_BEYOND, None)
    return ByteRange(int(first), int(last))


def wanted(headers: Headers, digest: Digest) -> ByteRange | None:
    """Return the range to answer with: that of the only Range field, unless If-Range names other content."""
    values = headers.getall("Range", ())
    if len(values) != 1:
        return None
    condition = headers.get("If-Range")
    if condition is not None and condition != f'"{digest}"':
        return None
    return parse(values[0])


def has_already(headers: Headers, digest: Digest) -> bool:
    """Tell whether If-None-Match says that the client holds `digest` (compared weakly, as RFC 9110 wants it)."""
    values = headers.getall("If-None-Match", ())
    if not values:
        return False
    tags = {tag.strip().removeprefix("W/") for value in values for tag in value.split(",")}
    return "*" in tags or f'"{digest}"' in tags
