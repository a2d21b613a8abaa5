"""The regular expressions of `blockedImages`: what Go's syntax (RE2) and Python's both read, and read alike.

Go matches in time linear in the text; Python tries every way in which a pattern may match, and there can be more of
them than one can wait for. So a pattern is taken apart first, and one that has too many ways is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from mirror.config.values import SpellingError, expect_text
from mirror.offline.image_set.problems import quote

_LONGEST = 512
_DEEPEST = 30
_MOST_REPEATS = 1000  # RE2's own limit
# A pullspec has hardly more characters; a repetition that may end anywhere has so many ways to match.
_TEXT = 256
# Three such repetitions that hinder each other: seconds on a text made for it, and nothing on others.
_MOST_WAYS = _TEXT**3
_BEGINS_REPEATED = re.compile(r"(?:\(\?[ims]+\))?(?:\((?:\?:)?)*(?:\\.|\[[^\]]+\]|[^\\\[(^])(?:[*+]|\{\d*,\})")

_PLAIN = "use characters, classes as in [a-z0-9], groups, and . * + ? | ^ $"

_CHARACTERS = frozenset(map(chr, range(0x21, 0x7F)))
_NONE: frozenset[str] = frozenset()
_REPEAT = re.compile(r"[*+?]|\{([0-9]{1,6})(,?)([0-9]{0,6})\}")
_GROUP = re.compile(r"\((?:\?(?:P<[A-Za-z_][A-Za-z0-9_]{0,60}>|[ims]{0,3}:))?")
_FLAGS = re.compile(r"\(\?[ims]{1,3}\)")
_ESCAPE = re.compile(r"\\(?:[dDsSwWntrfv]|[^A-Za-z0-9]|x[0-9A-Fa-f]{2})")
_ASSERTION = re.compile(r"[\^$]|\\[AbB]")
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Node:
    """A part of a pattern: whether it may match nothing, what it may begin with, and in how many ways it matches.

    `ways` takes the characters that may come after it.
    """

    nullable: bool
    first: frozenset[str]
    ways: Callable[[frozenset[str]], float]


def parse_regexp(value: object) -> re.Pattern[str]:
    """Return the pattern that `value` spells, to be searched for in pullspecs; raise SpellingError."""
    text = expect_text(value)
    if len(text) > _LONGEST:
        raise SpellingError(f"{quote(text)} has more than {_LONGEST} characters", "write several entries")
    if "docker://" in text:
        raise SpellingError(f"{quote(text)} never matches: images are compared without docker://", "leave it out")
    # A search begins anew at each character, which is one more repetition where the pattern begins with one.
    starts = _TEXT if _BEGINS_REPEATED.match(text) else 1
    if _Reader(text).read().ways(_NONE) * starts > _MOST_WAYS:
        raise SpellingError(
            f"{quote(text)} can match in so many ways that trying them could take hours",
            "write it with fewer * and +, and without one at its beginning, or let what they repeat differ from what"
            " follows, as in [^/]*/",
        )
    try:
        # What Go calls a digit, a word or a space is ASCII.
        return re.compile(text, re.ASCII)
    except (re.error, OverflowError) as error:
        raise SpellingError(f"{quote(text)} is not a regular expression: {error}", _PLAIN) from None


class _Reader:
    """Takes a pattern apart, refusing what one of the two languages lacks or reads in another way."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._folds = re.search(r"\(\?[ms]*i", text) is not None
        self._sets: dict[str, frozenset[str]] = {}

    def read(self) -> _Node:
        flags = _FLAGS.match(self._text)
        self._at = flags.end() if flags else 0
        node = self._alternatives(0)
        if self._at < len(self._text):
            raise self._refuse("has a ) too many", r"write \) for the character")
        return node

    def _alternatives(self, depth: int) -> _Node:
        if depth > _DEEPEST:
            raise self._refuse("is nested too deeply", "simplify it")
        found = [self._sequence(depth)]
        while self._text.startswith("|", self._at):
            self._at += 1
            found.append(self._sequence(depth))
        return found[0] if len(found) == 1 else _alternation(found)

    def _sequence(self, depth: int) -> _Node:
        nodes: list[_Node] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            nodes.append(self._repeated(self._atom(depth)))
        return _concatenation(nodes)

    def _repeated(self, node: _Node) -> _Node:
        found = _REPEAT.match(self._text, self._at)
        if found is None:
            return node
        self._at = found.end()
        if self._text.startswith("?", self._at):
            self._at += 1
        if _REPEAT.match(self._text, self._at):
            raise self._refuse("repeats a repetition", "put the inner one in ( )")
        least, most = _bounds(found)
        if max(least, most or 0) > _MOST_REPEATS or (most is not None and most < least):
            raise self._refuse("has a repetition out of range", f"repeat at most {_MOST_REPEATS} times")
        if node.nullable and most != 1:
            raise self._refuse("repeats what may be empty", "leave the outer or the inner repetition out")
        return _repetition(node, least, most)

    def _atom(self, depth: int) -> _Node:
        text, at = self._text, self._at
        if found := _ASSERTION.match(text, at):
            self._at = found.end()
            # Between words, anything may follow.
            return _Node(True, _CHARACTERS if found[0] in (r"\b", r"\B") else _NONE, lambda _after: 1)
        if text[at] == "(":
            return self._group(depth)
        if text[at] == "[":
            return self._class()
        if text[at] == "\\":
            found = _ESCAPE.match(text, at)
            if found is None:
                raise self._refuse(f"holds {quote(text[at : at + 2])}, which is not understood here", _PLAIN)
            return self._character(found[0])
        if text[at] in "*+?{":
            raise self._refuse(f"has nothing before a `{text[at]}`", f"write \\{text[at]} for the character")
        return self._character(text[at])

    def _group(self, depth: int) -> _Node:
        found = _GROUP.match(self._text, self._at)
        assert found is not None
        if self._text.startswith("?", found.end()):
            raise self._refuse(
                "holds a kind of ( ) that is not understood here",
                "(?:…) groups, and (?i) stands at the very beginning; looking ahead or behind is not in RE2",
            )
        self._at = found.end()
        node = self._alternatives(depth + 1)
        if not self._text.startswith(")", self._at):
            raise self._refuse("lacks a )", r"write \( for the character")
        self._at += 1
        return node

    def _class(self) -> _Node:
        found = _CLASS.match(self._text, self._at)
        if found is None:
            raise self._refuse("lacks a ]", r"write \[ for the character")
        inside = re.sub(r"\\.", "", found[0][1:-1], flags=re.DOTALL)
        if "[" in inside:
            raise self._refuse("holds a [ within [ ]", r"write \[, and A-Z in place of [:upper:]")
        if any(mark * 2 in inside for mark in "-&|~"):
            raise self._refuse("holds a doubled sign within [ ]", r"write it once, as in \-")
        if any(_ESCAPE.fullmatch(one) is None for one in re.findall(r"\\.", found[0], re.DOTALL) if one != r"\x"):
            raise self._refuse("holds a \\ within [ ] that is not understood here", _PLAIN)
        return self._character(found[0])

    def _character(self, spelling: str) -> _Node:
        self._at += len(spelling)
        if spelling not in self._sets:
            try:
                pattern = re.compile(spelling, re.ASCII | (re.IGNORECASE if self._folds else 0))
            except re.error as error:
                raise self._refuse(f"is not a regular expression: {error}", _PLAIN) from None
            self._sets[spelling] = frozenset(filter(pattern.fullmatch, _CHARACTERS))
        return _Node(False, self._sets[spelling], lambda _after: 1)

    def _refuse(self, what: str, remedy: str) -> SpellingError:
        return SpellingError(f"{quote(self._text)} {what}", remedy)


def _bounds(found: re.Match[str]) -> tuple[int, int | None]:
    if found[1] is None:
        return (int(found[0] == "+"), 1 if found[0] == "?" else None)
    least = int(found[1])
    return (least, int(found[3]) if found[3] else (None if found[2] else least))


def _concatenation(nodes: list[_Node]) -> _Node:
    def ways(after: frozenset[str]) -> float:
        found = 1.0
        for node in reversed(nodes):
            found *= node.ways(after)
            after = node.first | after if node.nullable else node.first
        return found

    first = _NONE
    for node in nodes:
        first |= node.first
        if not node.nullable:
            break
    return _Node(all(node.nullable for node in nodes), first, ways)


def _alternation(nodes: list[_Node]) -> _Node:
    first = frozenset().union(*(node.first for node in nodes))
    nullable = any(node.nullable for node in nodes)
    distinct = not nullable and len(first) == sum(len(node.first) for node in nodes)

    def ways(after: frozenset[str]) -> float:
        found = [node.ways(after) for node in nodes]
        return max(found) if distinct else sum(found)

    return _Node(nullable, first, ways)


def _repetition(node: _Node, least: int, most: int | None) -> _Node:
    def ways(after: frozenset[str]) -> float:
        each = node.ways(node.first | after)
        ends = 1.0 if node.first.isdisjoint(after) else (_TEXT if most is None else most - least + 1)
        if each > 1 and most is None:
            return float("inf")
        try:
            return float(ends * each ** (most or 1))
        except OverflowError:
            return float("inf")

    return _Node(least == 0 or node.nullable, node.first, ways)
