"""How far scrubs are and what they found: `run/scrub.json`, which `mirror status` and the next process read.

    {"schema": 1,
     "background": {…}, "command": {…},     passes under way: that of the service, and one that a person began
     "last": {…},                           the last one that came to its end; of it:
     "when": …, "bytes": …, "bad": […]}     when it ended, what it hashed, and what is still bad or missing

A pass is {"began", "ended" (0 while under way; Unix times), "cursor" (a digest), "contents", "bytes", "bad", "healed",
"missing", "strays", "unreadable", "unhealed": [digests, the first thousand], "records": [paths of records that could
not be read or make no sense, the first hundred]}. One process scrubs at a time, by a lock.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mirror import logs
from mirror.errors import DigestInvalid
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.layout import Layout

_LISTED = 1000  # digests that the state holds
_RECORDS = 100  # paths that it holds
_LIMIT = 1024 * 1024  # bytes of the state

_log = logs.get("scrub.state")


@dataclass(slots=True)
class Pass:
    """One pass: how far it is and what it found. Times are Unix times, `ended` 0 while it is under way."""

    began: float = 0.0
    ended: float = 0.0
    cursor: str = ""
    contents: int = 0
    bytes: int = 0
    bad: int = 0
    healed: int = 0
    missing: int = 0
    strays: int = 0
    unreadable: int = 0
    unhealed: list[str] = field(default_factory=list)
    records: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, found: Any) -> Pass | None:
        """Return the pass that the state holds, None where it holds none."""
        try:
            plain = cls()
            # A release before this one did not count what cannot be read, and looked at no records.
            told = {"unreadable": 0, "records": [], **found}
            made = cls(**{key: type(getattr(plain, key))(told[key]) for key in cls.__slots__})
            for text in (*made.unhealed, *([made.cursor] if made.cursor else ())):
                Digest.parse(text)
        except (TypeError, ValueError, LookupError, DigestInvalid):
            return None
        return made

    def keep(self, digest: Digest) -> None:
        """Note that `digest` is bad or missing and could not be had again."""
        text = str(digest)
        if text not in self.unhealed and len(self.unhealed) < _LISTED:
            self.unhealed.append(text)

    def keep_record(self, path: str) -> None:
        """Note that the record at `path` could not be read, or makes no sense."""
        if path not in self.records and len(self.records) < _RECORDS:
            self.records.append(path)


class State:
    """The file `run/scrub.json`, and what of it could not be written. For threads."""

    def __init__(self, layout: Layout) -> None:
        self._path = str(layout.scrub)
        self._unwritten: dict[str, Any] | None = None

    def read(self, which: Literal["background", "command", "last"]) -> Pass | None:
        """Return a pass, None where there is none."""
        return Pass.parse(self._load().get(which))

    def write(self, **passes: Pass | None) -> None:
        """Replace passes by name; None takes one out.

        A pass reads on whatever becomes of its note: one that cannot be written is remembered here alone.
        """
        document = self._load()
        for name, one in passes.items():
            document.pop(name, None)
            if one is not None:
                document[name] = asdict(one)
        last = Pass.parse(document.get("last")) or Pass()
        document |= {"schema": 1, "when": last.ended, "bytes": last.bytes, "bad": last.unhealed}
        try:
            files.write_atomically(self._path, json.dumps(document, indent=1).encode(), durable=False)
        except OSError as error:
            _log.debug("scrub_state_not_written", error=error.strerror)
            self._unwritten = document
        else:
            self._unwritten = None

    def _load(self) -> dict[str, Any]:
        if self._unwritten is not None:
            return dict(self._unwritten)
        raw = files.read_record(self._path, _LIMIT)
        try:
            found: Any = json.loads(raw or b"{}")
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def last_pass(layout: Layout) -> Pass | None:
    """Return how the last scrub of all content ended, None where there was none. For threads."""
    return State(layout).read("last")
