"""Lists of digests that cross the gap: what a store has (`mirror inventory`), and what a load found missing."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from mirror.errors import ConfigurationError, DigestInvalid, Problem
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.layout import Layout

SCHEMA = 1
LIMIT = 256 * 1024 * 1024  # bytes of a list: some three million digests
_KINDS = ("inventory", "missing")
_PROBLEMS = 20  # lines named at most
_LINE = re.compile(rb"[^\n]*\n?")


def inventory(layout: Layout) -> Iterator[bytes]:
    """Yield the lines of an inventory: every verified content here. JSON, sorted, a digest a line. For threads."""
    yield b'{\n "schema": 1,\n "kind": "inventory",\n "digests": [\n'
    before = b""
    for algorithm in ("sha256", "sha512"):
        for encoded in sorted(_sealed(os.path.join(layout.blobs, algorithm))):
            yield b'%s  "%s:%s"' % (before, algorithm.encode(), encoded.encode())
            before = b",\n"
    yield b"\n ]\n}\n"


def dump_missing(missing: Iterable[Digest], of: str) -> bytes:
    """Return the list that `mirror save --want` takes: of what generations, in a comment, and a digest a line."""
    lines = [f"# missing of {of}"] if of else []
    return "".join(f"{line}\n" for line in [*lines, *(str(one) for one in sorted(missing))]).encode()


def parse_digests(raw: bytes, where: str) -> set[Digest]:
    """Return the digests of a list: an inventory's JSON, or one a line, `#` beginning a comment.

    Raises ConfigurationError that names `where` and the lines.
    """
    if raw.lstrip()[:1] == b"{":
        return _parse_json(raw, where)
    found: set[Digest] = set()
    problems: list[Problem] = []
    for number, match in enumerate(_LINE.finditer(raw), 1):
        text = match[0].split(b"#", 1)[0].strip()
        if not text:
            continue
        try:
            found.add(Digest.parse(text.decode("ascii", "replace")))
        except DigestInvalid as error:
            problems.append(Problem("digest_invalid", error.what, f"{where}:{number}", error.remedy))
            if len(problems) == _PROBLEMS:
                break
    if problems:
        raise ConfigurationError(problems)
    return found


def _parse_json(raw: bytes, where: str) -> set[Digest]:
    try:
        found: Any = json.loads(raw)
        if found["schema"] != SCHEMA or found["kind"] not in _KINDS:
            raise ValueError("its schema or kind is not one of ours")
        return {Digest.parse(one) for one in found["digests"]}
    except (ValueError, LookupError, TypeError, RecursionError, DigestInvalid) as error:
        raise ConfigurationError(
            [
                Problem(
                    "list_invalid",
                    f"this is not a list of digests ({str(error)[:160]})",
                    where,
                    "give a file that `mirror inventory`, `load` or `verify` wrote, or one digest a line",
                )
            ]
        ) from None


def _sealed(folder: str) -> Iterator[str]:
    """Yield the names of the verified files of a folder: what is not sealed may be anything yet."""
    algorithm = os.path.basename(folder)
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            try:
                Digest.parse(f"{algorithm}:{entry.name}")
                found = entry.stat(follow_symlinks=False)
            except (DigestInvalid, FileNotFoundError):
                continue
            if stat.S_ISREG(found.st_mode) and files.is_sealed(found):
                yield entry.name
