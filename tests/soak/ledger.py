"""What the service has promised, and how it kept that."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field

ABSENT = ""  # in the place of a digest
_REMEMBERED = 300  # manifests that were deleted and are asked for still

Name = tuple[str, str]  # repository and reference


@dataclass
class Promise:
    """What a name may mean: more than one digest while it is not known whether a change took place."""

    may_be: set[str] = field(default_factory=lambda: {ABSENT})
    changes: int = 0

    def ask(self, digest: str) -> None:
        """Note that a change is asked for, whose outcome is not known."""
        self.may_be.add(digest)
        self.changes += 1

    def hear(self, digest: str) -> None:
        """Note that it was acknowledged."""
        self.may_be = {digest}
        self.changes += 1

    def without(self, digest: str) -> None:
        """Note that what it may have meant is gone for certain."""
        self.may_be = (self.may_be - {digest}) | {ABSENT}
        self.changes += 1


class Ledger:
    """Names with what was promised of them, and findings: sentences by kind."""

    def __init__(self) -> None:
        self.names: dict[Name, Promise] = {}
        self.counts: Counter[str] = Counter()
        self.findings: dict[str, list[str]] = {"wrong": [], "lost": [], "unexpected": []}
        self.longest = 0.0  # seconds for /livez while no process was killed
        self._deleted: dict[Name, None] = {}

    def promise(self, repository: str, reference: str) -> Promise:
        """Return the promise of a name, made when it is first asked for."""
        return self.names.setdefault((repository, reference), Promise())

    def tags_of(self, repository: str, digest: str) -> list[Promise]:
        """Return the promises of all tags that may mean a digest."""
        return [one for (name, _), one in self.names.items() if name == repository and digest in one.may_be]

    def delete(self, repository: str, digest: str) -> None:
        """Note that a manifest was deleted for certain; the oldest of those is forgotten."""
        for one in self.tags_of(repository, digest):
            one.without(digest)
        self._deleted[repository, digest] = None
        if len(self._deleted) > _REMEMBERED:
            oldest = next(iter(self._deleted))
            del self._deleted[oldest]
            self.names.pop(oldest, None)  # it may have been deleted again since

    def find(self, kind: str, what: str) -> None:
        """Note what must not be."""
        self.findings[kind].append(what)

    def has(self, digest: str, body: bytes, where: str) -> bool:
        """Tell whether bytes that came as `digest` are those; note it where they are not."""
        algorithm, _, encoded = digest.partition(":")
        right = hashlib.new(algorithm, body).hexdigest() == encoded
        if not right:
            self.find("wrong", f"{where}: {len(body)} bytes are not {digest}")
        return right

    def __str__(self) -> str:
        """What took place, how often, and how many findings there are."""
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(self.counts.items()))
        found = ", ".join(f"{kind} {len(what)}" for kind, what in self.findings.items())
        return f"{counts}; {found}; longest /livez {self.longest * 1000:.0f} ms"
