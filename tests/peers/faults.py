"""What can go wrong with one answer of the scripted registry, as values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


class Fault:
    """One misbehaviour of one answer."""


@dataclass(frozen=True)
class Status(Fault):
    """Answer with this status, these headers and this body instead."""

    status: int
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Challenge(Fault):
    """401 with these `WWW-Authenticate` lines, e.g. an evil realm."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class TooMany(Fault):
    """429, with `Retry-After` when given (seconds or a date)."""

    retry_after: str | int | None = None


@dataclass(frozen=True)
class Redirect(Fault):
    """A redirect to `location`; `{self}` in it stands for this registry's base URL, `{path}` for the path asked."""

    location: str | None
    status: int = 307


@dataclass(frozen=True)
class Html(Fault):
    """200 and a login page."""


@dataclass(frozen=True)
class CloseBeforeHeaders(Fault):
    """Close the connection without an answer, by FIN or by RST."""

    rst: bool = False


@dataclass(frozen=True)
class HangHeaders(Fault):
    """Answer nothing for so many seconds, then go on as usual."""

    seconds: float = math.inf


@dataclass(frozen=True)
class Truncate(Fault):
    """Announce the whole length, send `at` bytes of the body, close by FIN or RST."""

    at: int
    rst: bool = False


@dataclass(frozen=True)
class Stall(Fault):
    """Send `at` bytes of the body, then nothing for so many seconds, then the rest."""

    at: int
    seconds: float = math.inf


@dataclass(frozen=True)
class Drip(Fault):
    """Send the body in pieces of `size` bytes, one every `every` seconds."""

    size: int = 1
    every: float = 0.05


@dataclass(frozen=True)
class FlipBit(Fault):
    """Send the body with the lowest bit of byte `at` flipped."""

    at: int = 0


@dataclass(frozen=True)
class LieLength(Fault):
    """Announce a Content-Length that is wrong by `by`, send the true body and close."""

    by: int


@dataclass(frozen=True)
class NoLength(Fault):
    """Send no Content-Length: chunked, or closed at the end; `at` cuts the body there, cleanly."""

    chunked: bool = True
    at: int | None = None


@dataclass(frozen=True)
class Gzip(Fault):
    """Send the body with `Content-Encoding: gzip`."""


@dataclass(frozen=True)
class IgnoreRange(Fault):
    """Answer 200 and the whole body to a Range request."""


@dataclass(frozen=True)
class WrongContentRange(Fault):
    """Answer 206 with this Content-Range (or with one shifted by a byte)."""

    value: str = ""


@dataclass(frozen=True)
class WithHeaders(Fault):
    """Answer as usual, with these headers set (an empty value removes one)."""

    headers: Mapping[str, str]
