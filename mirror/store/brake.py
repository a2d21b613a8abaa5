"""The brake of what takes much away: a run of gc, scrub or unpin that would take more than a tenth of the store stops.

Garbage is never much at once. Where it seems to be, something else is wrong (a folder that is not mounted, memory that
reads wrongly, a plan that was lost), and a person has to look before anything goes: `--yes`.

    run/stopped.json    which runs stopped, and what each would have taken
"""

from __future__ import annotations

import json
import time
from typing import Any, Literal, NamedTuple

from mirror.config.values import size_text
from mirror.errors import CollectionStopped
from mirror.store import files
from mirror.store.layout import Layout
from mirror.store.walk import find_blobs

Run = Literal["gc", "scrub", "unpin"]

SHARE = 10
FEW = 10  # contents: fewer are never too many, however small the store is
LITTLE = 1 << 30  # bytes, if they are no more than these
_LASTS: dict[str, float] = {"unpin": 86400.0}  # seconds for which it is told of a run that only a person repeats
_LIMIT = 64 * 1024


class Amount(NamedTuple):
    """Contents, and their bytes."""

    contents: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.contents} contents ({size_text(self.bytes)})"


class Brake:
    """The brake of one store. Everything blocks and is for threads."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._path = str(layout.run / "stopped.json")

    def stock(self) -> Amount:
        """Return all content that is here. A million files take seconds. Raises StoreUnreadable."""
        count = size = 0
        for found in find_blobs(self._layout):
            count += 1
            size += found.size
        return Amount(count, size)

    def most_contents(self) -> int:
        """Return how many contents a run may take. Raises StoreUnreadable."""
        return max(FEW - 1, self.stock().contents // SHARE)

    def check(self, run: Run, taken: Amount, *, yes: bool, stock: Amount | None = None) -> None:
        """Return if a run may take so much; raise CollectionStopped, which is told in the status, if not.

        Raises StoreUnreadable.
        """
        if yes or (taken.contents < FEW and taken.bytes < LITTLE):
            self.clear(run)
            return
        stock = stock if stock is not None else self.stock()
        if taken.contents * SHARE <= stock.contents and taken.bytes * SHARE <= stock.bytes:
            self.clear(run)
            return
        self.stop(run, f"would take {taken} of {stock}")
        raise CollectionStopped(
            f"nothing was taken: this would take {taken} of {stock}, more than a tenth of the store",
            "see whether all of the store is mounted and readable (mirror status); if it is right, run it with --yes",
        )

    def stop(self, run: Run, what: str) -> None:
        """Note that a run stopped. What cannot be written is said by the run alone."""
        self._change(run, {"what": what, "when": time.time()})

    def clear(self, run: Run) -> None:
        """Note that a run went through."""
        if files.look(self._path) is not None:
            self._change(run, None)

    def stopped(self) -> dict[str, str]:
        """Return which runs stopped, and what each would have taken. Raises StoreUnreadable."""
        now = time.time()
        return {
            run: str(one.get("what", ""))
            for run, one in self._load().items()
            if isinstance(one, dict) and not (run in _LASTS and now - float(one.get("when", 0)) > _LASTS[run])
        }

    def _change(self, run: Run, one: dict[str, Any] | None) -> None:
        document = self._load()
        if one is None and run not in document:
            return
        document.pop(run, None)
        if one is not None:
            document[run] = one
        try:
            files.write_atomically(self._path, json.dumps(document).encode(), durable=False)
        except OSError:
            return

    def _load(self) -> dict[str, Any]:
        try:
            found: Any = json.loads(files.read_record(self._path, _LIMIT) or b"{}")
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}
