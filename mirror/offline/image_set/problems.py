"""What is wrong with a file that says what to mirror: noted with its line, up to what a person reads."""

from __future__ import annotations

import re

from mirror.config.document import Document
from mirror.errors import ConfigurationError, Problem
from mirror.redact import escape, redact

_ENOUGH = 100
# Looking for secrets takes time that grows faster than the text, and nobody reads more of it.
_LONGEST = 300
_SHOWN = 120
# What is before an @, unless a digest is behind it.
_LOGIN = re.compile(r"[^/\s'`]*@(?!sha(?:256|512):)")


def note(document: Document, code: str, what: str, line: int, remedy: str = "") -> None:
    """Note a problem at a line. Raise ConfigurationError when there are so many that reading on serves nobody."""
    document.find(code, what, line, remedy)
    if len(document.problems) >= _ENOUGH:
        raise refusal(document)


def refusal(document: Document) -> ConfigurationError:
    """Return the error that holds the problems of a document in the order of its lines."""
    return ConfigurationError(sorted(document.problems, key=_line))


def quote(text: str) -> str:
    """Return what the file says for a message: in backticks, shortened, without what may be a secret."""
    shown = plain(text)
    return f"`{shown[:_SHOWN]}…`" if len(shown) > _SHOWN else f"`{shown}`"


def plain(text: str) -> str:
    """Return a sentence that may hold what the file says: shortened, on one line, without secrets."""
    return escape(_LOGIN.sub("…@", redact(text[:_LONGEST])))


def _line(problem: Problem) -> int:
    line = problem.where.rpartition(":")[2]
    return int(line) if line.isdigit() else 0
