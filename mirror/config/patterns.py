"""Patterns over repository names: `*` stands for any characters within a component, `**` for any across components.

Names come from clients, so matching takes time linear in the name whatever the pattern is: the positions that a
pattern may be at are the bits of one integer, moved on character by character (no backtracking).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mirror.config.values import SpellingError, expect_text, quote

_GRAMMAR = re.compile(r"[a-z0-9._*-]+(?:/[a-z0-9._*-]+)*")
_TAGS = re.compile(r"[A-Za-z0-9_.*-]{1,128}")
_PIECE = re.compile(r"\*{1,2}|[^*]")
# A name has at most 255 characters, so a longer pattern can say nothing more.
_LONGEST = 255


def parse_pattern(value: object) -> str:
    """Return `value` if it is a pattern; raise SpellingError."""
    text = expect_text(value)
    if len(text) > _LONGEST or "***" in text or _GRAMMAR.fullmatch(text) is None:
        raise SpellingError(
            f"{quote(text)} is not a pattern of repository names",
            "write lower-case names with * (within a component) and ** (across), as in apps/** or team-*/web",
        )
    return text


def parse_tag_pattern(value: object) -> str:
    """Return `value` if it is `REPOSITORY` or `REPOSITORY:TAG`, both patterns; raise SpellingError."""
    text = expect_text(value)
    name, colon, tag = text.partition(":")
    parse_pattern(name)
    if colon and ("***" in tag or _TAGS.fullmatch(tag) is None):
        raise SpellingError(
            f"{quote(text)} is not a pattern of tags", "write REPOSITORY:TAG with * in either, as in apps/**:v*"
        )
    return text


class Matcher:
    """Tells whether a name fits one of some patterns. Immutable after it is made."""

    __slots__ = ("_exact", "_general", "_prefixes")

    def __init__(self, patterns: Iterable[str]) -> None:
        exact: list[str] = []
        prefixes: list[str] = []
        general: list[_Positions] = []
        for pattern in patterns:
            if "*" not in pattern:
                exact.append(pattern)
            elif pattern.endswith("**") and "*" not in pattern[:-2]:
                prefixes.append(pattern[:-2])
            else:
                general.append(_Positions(pattern))
        self._exact = frozenset(exact)
        self._prefixes = tuple(prefixes)
        self._general = tuple(general)

    def matches(self, name: str) -> bool:
        """Tell whether the whole of `name` fits one of the patterns."""
        return (
            name in self._exact
            or name.startswith(self._prefixes)
            or any(positions.match(name) for positions in self._general)
        )


class _Positions:
    """One pattern as masks: bit i of a state says that the first i pieces are matched."""

    __slots__ = ("_across", "_final", "_literals", "_stars")

    def __init__(self, pattern: str) -> None:
        self._literals: dict[str, int] = {}
        self._stars = 0
        self._across = 0
        pieces = _PIECE.findall(pattern)
        for index, piece in enumerate(pieces):
            bit = 1 << index
            if "*" in piece:
                self._stars |= bit
                self._across |= bit if len(piece) == 2 else 0
            else:
                self._literals[piece] = self._literals.get(piece, 0) | bit
        self._final = 1 << len(pieces)

    def match(self, name: str) -> bool:
        # A star may match nothing, so whoever stands before one stands behind it too; two are never adjacent.
        state = 1 | (self._stars & 1) << 1
        for character in name:
            stay = state & (self._across if character == "/" else self._stars)
            state = stay | (state & self._literals.get(character, 0)) << 1
            state |= (state & self._stars) << 1
            if not state:
                return False
        return bool(state & self._final)


def matches(patterns: Iterable[str], name: str) -> bool:
    """Tell whether `name` fits one of `patterns`; for many names, make one Matcher."""
    return Matcher(patterns).matches(name)
