"""Versions as releases and image sets spell them: Semantic Versioning 2.0.0, three numbers, no `v`."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from mirror.errors import InvalidRequest

_LONGEST = 255
_LARGEST = 2**64 - 1  # what readers in Go hold a number in
_NUMBER = r"(?:0|[1-9][0-9]*)"
_IDENTIFIER = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_GRAMMAR = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})"
    rf"(?:-({_IDENTIFIER}(?:\.{_IDENTIFIER})*))?"
    r"(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)

_Identifier = tuple[int, int, str]
_Precedence = tuple[int, int, int, bool, tuple[_Identifier, ...]]


class VersionInvalid(InvalidRequest):
    """Text that is no version."""


@functools.total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """A version. Ordered by precedence; versions that differ in build metadata alone, by that, so that order is total.

    `precedence` compares as semver.org section 11 says and leaves build metadata out: ranges go by it.
    """

    major: int
    minor: int
    patch: int
    prerelease: tuple[str, ...] = ()
    build: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Version:
        """Return the version that `text` spells; raise VersionInvalid."""
        match = _GRAMMAR.fullmatch(text) if len(text) <= _LONGEST else None
        if match is not None:
            prerelease = tuple(match[4].split(".")) if match[4] else ()
            major, minor, patch = int(match[1]), int(match[2]), int(match[3])
            if max(major, minor, patch, *(int(part) for part in prerelease if part.isdecimal())) <= _LARGEST:
                return cls(major, minor, patch, prerelease, tuple(match[5].split(".")) if match[5] else ())
        raise VersionInvalid(f"'{text[:80]}' is not a version", "write three numbers, e.g. 4.16.3, or 4.17.0-rc.1")

    def __str__(self) -> str:
        prerelease = f"-{'.'.join(self.prerelease)}" if self.prerelease else ""
        build = f"+{'.'.join(self.build)}" if self.build else ""
        return f"{self.major}.{self.minor}.{self.patch}{prerelease}{build}"

    def __lt__(self, other: Version) -> bool:
        return (self.precedence, self._build) < (other.precedence, other._build)

    @property
    def precedence(self) -> _Precedence:
        """What decides which of two versions is newer; equal for versions that differ in build metadata alone."""
        return (self.major, self.minor, self.patch, not self.prerelease, _identifiers(self.prerelease))

    @property
    def _build(self) -> tuple[_Identifier, ...]:
        return _identifiers(self.build)


def _identifiers(parts: tuple[str, ...]) -> tuple[_Identifier, ...]:
    """Return parts as they compare: numbers by value and before words, words by their ASCII.

    The text follows a number because build metadata may spell one in several ways.
    """
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts)


def is_version(text: str) -> bool:
    """Tell whether `text` spells a version."""
    try:
        Version.parse(text)
    except VersionInvalid:
        return False
    return True
