"""How far a save or a load is, for whoever looks; and the way to stop it between two steps."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from mirror.errors import NotYet


class Stopped(NotYet):
    """Somebody asked for an end; a rerun goes on."""


@dataclass(slots=True)
class Carrying:
    """Bytes done of all bytes, and the part that it is at. Any thread may look, and may set `stop`."""

    total: int = 0
    done: int = 0
    what: str = ""
    stop: bool = False
    _adding: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def move(self, count: int) -> None:
        """Count bytes; raise Stopped where that is wanted."""
        with self._adding:
            self.done += count
        if self.stop:
            raise Stopped("stopped before the end", "run it again: what is done is kept")
