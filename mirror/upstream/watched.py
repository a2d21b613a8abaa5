"""Files that hold secrets, reread when they change and never on the event loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from mirror import logs
from mirror.errors import UpstreamLoginRefused

# A look is a stat in a thread; once a second is soon enough for a rotated secret, and retries a half-written one.
LOOK_SECONDS = 1.0
_LARGEST = 1 << 20

ValueT = TypeVar("ValueT")
_Signature = tuple[int, int, int]


class WatchedFile(Generic[ValueT]):
    """What `parse` makes of a file's bytes. A file that cannot be read or parsed leaves the value it had before.

    `parse` raises ValueError for what it does not accept; its text is never shown, it may quote the secret.
    """

    def __init__(
        self, path: Path, parse: Callable[[bytes], ValueT], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self._parse = parse
        self._clock = clock
        self._lock = asyncio.Lock()
        self._next_look = 0.0
        self._signature: _Signature | None = None
        self._value: ValueT | None = None
        self.problem = ""

    async def value(self) -> ValueT:
        """Return the file's value; raise UpstreamLoginRefused if it never could be read: that is not "anonymous"."""
        if self._clock() >= self._next_look:
            async with self._lock:
                if self._clock() >= self._next_look:
                    await asyncio.to_thread(self._look)
                    self._next_look = self._clock() + LOOK_SECONDS
        if self._value is None:
            raise UpstreamLoginRefused(f"{self.path} {self.problem}", "mend the file; it is read again by itself")
        return self._value

    def _look(self) -> None:
        try:
            with self.path.open("rb") as file:
                before = _signature(os.fstat(file.fileno()))
                if before == self._signature:
                    return
                content = file.read(_LARGEST + 1)
                after = _signature(os.fstat(file.fileno()))
        except OSError as error:
            self._keep(f"cannot be read ({error.strerror})")
            return
        if before != after:
            self._keep("is being written")
            return
        try:
            if len(content) > _LARGEST:
                raise ValueError("too large")
            self._value = self._parse(content)
        except (ValueError, RecursionError):
            # What is wrong may show a piece of the secret; check looks at it without one.
            self._keep("is not valid; `mirror check` says why" if content.strip() else "is empty")
            return
        self._signature = after
        self.problem = ""

    def _keep(self, problem: str) -> None:
        if problem != self.problem:
            logs.get(__name__).warning(
                "secret_file_unusable", path=str(self.path), what=problem, kept=self._value is not None
            )
        self.problem = problem


def _signature(status: os.stat_result) -> _Signature:
    return status.st_ino, status.st_size, status.st_mtime_ns
