"""What a 401 asks for: `WWW-Authenticate` in every form of RFC 9110, 11.6.1, and as servers really send it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 a grammar's name, no secret
_BETWEEN = re.compile(r"[\s,]*")
# An unquoted value may hold what a token may not: servers send bare URLs and scopes.
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)(?:"|$)|([^\s",]+))')
_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*(?=[ \t]*(?:,|$))")
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+|(?=,|$))")
_ESCAPED = re.compile(r"\\(.)")
# More than any registry sends; bounds the work on a hostile answer.
_MOST_LINES = 16
_LONGEST_LINE = 8192


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to log in: the scheme and the parameters' names in lower case; of a repeated parameter the first."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str:
        """Return a parameter, or an empty string."""
        return self.parameters.get(name, "")


def parse(lines: Iterable[str]) -> list[Challenge]:
    """Return the challenges of all header lines in their order; what cannot be read is passed over."""
    challenges: list[Challenge] = []
    for number, line in enumerate(lines):
        if number == _MOST_LINES:
            break
        challenges += _parse_line(line[:_LONGEST_LINE])
    return challenges


def _parse_line(line: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = _end(_BETWEEN.match(line))
    while position < len(line):
        parameter = _PARAMETER.match(line, position)
        scheme = None if parameter else _SCHEME.match(line, position)
        if parameter is not None:
            if found:
                quoted, bare = parameter[2], parameter[3]
                value = bare if quoted is None else _ESCAPED.sub(r"\1", quoted)
                found[-1].parameters.setdefault(parameter[1].lower(), value)
            position = parameter.end()
        elif scheme is not None:
            found.append(Challenge(scheme[1].lower()))
            position = scheme.end()
            token68 = None if _PARAMETER.match(line, position) else _TOKEN68.match(line, position)
            if token68 is not None and token68[0]:
                position = token68.end()
        else:
            position += 1
        position = _end(_BETWEEN.match(line, position)) or position
    return found


def _end(match: re.Match[str] | None) -> int:
    return match.end() if match else 0
