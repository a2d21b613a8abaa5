"""How a command ends: what went wrong, the exit code, and the report for people or machines."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Sequence
from typing import Any

import click

from mirror.config.values import count_text as count_text
from mirror.config.values import size_text as size_text
from mirror.errors import (
    ConfigurationError,
    Corrupt,
    ManifestInvalid,
    MirrorError,
    NotYet,
    Problem,
    StoreFull,
    StoreUnusable,
    UpstreamUnavailable,
)

DONE = 0
FAILED = 1
INCOMPLETE = 3  # a rerun can finish
UNVERIFIED = 4  # content or a signature is not what it must be
NO_SPACE = 5
TEMPORARY = 75  # EX_TEMPFAIL of sysexits.h
INVALID = 78  # EX_CONFIG
_CLOSED = (errno.EACCES, errno.EPERM)
_ROOM = "make room on its file system: bytes, or inodes (df, df -i)"
_DESCRIPTORS = "let it open more files (ulimit -n, or LimitNOFILE= of a unit)"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EMFILE: _DESCRIPTORS,
    errno.ENFILE: "raise fs.file-max",
}
_TELLING = (INVALID, UNVERIFIED, NO_SPACE, INCOMPLETE, TEMPORARY, FAILED)


def exit_of(error: MirrorError) -> int:
    """Return the exit code that says what `error` is (docs/operations.md, Exit codes)."""
    table: tuple[tuple[type[MirrorError], int], ...] = (
        (ConfigurationError, INVALID),
        (StoreUnusable, INVALID),
        (StoreFull, NO_SPACE),
        (Corrupt, UNVERIFIED),
        (ManifestInvalid, UNVERIFIED),
        (UpstreamUnavailable, TEMPORARY),
        (NotYet, TEMPORARY),
        (SetIncomplete, INCOMPLETE),
    )
    return next((code for kind, code in table if isinstance(error, kind)), FAILED)


class SetIncomplete(MirrorError):
    """A generation that must be whole for this, and is not."""


class Outcome:
    """What one command found and did. `facts` are the members that its `--json` report has beside the common ones."""

    def __init__(self, command: str, *, as_json: bool, quiet: bool = False) -> None:
        self.command = command
        self.as_json = as_json
        self.quiet = quiet
        self.problems: list[Problem] = []
        self.facts: dict[str, Any] = {}
        self._codes: set[int] = set()

    @property
    def exit(self) -> int:
        """The exit code: the most telling of all that were noted."""
        return next((code for code in _TELLING if code in self._codes), DONE)

    def note(self, exit_code: int, code: str, what: str, where: str = "", remedy: str = "") -> None:
        """Note one thing that is wrong."""
        self._codes.add(exit_code)
        self.problems.append(Problem(code, what, where, remedy))

    def note_error(self, error: MirrorError) -> None:
        """Note an error, a configuration error with all its problems."""
        self._codes.add(exit_of(error))
        if isinstance(error, ConfigurationError):
            self.problems += error.problems
        else:
            self.problems.append(Problem(_code(error), error.what, "", error.remedy))

    def note_os_error(self, error: OSError) -> None:
        """Note what the operating system refused: one line, whatever was under way.

        Raises BrokenPipeError as it came: nobody reads our output any more, which click answers by a quiet end.
        """
        if isinstance(error, BrokenPipeError):
            raise error
        where, what = str(error.filename or ""), error.strerror or str(error)
        if error.errno == errno.EROFS:
            self.note(
                INVALID, "store_unusable", f"this is refused ({what})", where, "mount it writable, and run this again"
            )
        elif error.errno in _CLOSED:
            self.note(INVALID, "store_unusable", f"this is refused ({what})", where, "look at its owner and mode")
        else:
            remedy = _REMEDIES.get(error.errno or 0, "look at its disk, and at `dmesg`")
            self.note(NO_SPACE if remedy is _ROOM else FAILED, "failed", f"this failed ({what})", where, remedy)

    def say(self, *lines: str) -> None:
        """Print lines for people; nothing where the report is JSON, or quiet."""
        if not self.as_json and not self.quiet:
            for line in lines:
                click.echo(line)

    def warn(self, lines: Iterable[str]) -> None:
        """Print warnings to standard error."""
        for line in lines:
            click.echo(f"mirror {self.command}: {line}", err=True)

    def progress(self, word: str) -> None:
        """Say on standard error what long work is at, unless quiet."""
        if not self.quiet:
            click.echo(f"mirror {self.command}: {word}", err=True)

    def finish(self) -> int:
        """Print the report and return the exit code."""
        if self.as_json:
            report = {
                "schema": 1,
                "command": self.command,
                "ok": self.exit == DONE,
                "exit": self.exit,
                "problems": [problem.as_dict() for problem in self.problems],
                **self.facts,
            }
            click.echo(json.dumps(report, indent=2))
        else:
            self.warn(str(problem) for problem in self.problems)
        return self.exit


def _code(error: MirrorError) -> str:
    """Return the stable code of an error's kind: UpstreamUnavailable is `upstream_unavailable`."""
    name = type(error).__name__
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def some_text(items: Sequence[object], most: int = 3) -> str:
    """Return the first of many for a sentence: `a, b, c and 9 more`."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Return rows as lines with aligned columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
