"""One thread for calls that may hang: callers stop waiting at their deadline, and do not queue behind a hung call."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class OneThread:
    """Runs one call at a time, in the same thread, for blocking callers in any other."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._hung: Future[Any] | None = None

    def call(self, job: Callable[[], T], timeout: float) -> T:
        """Return what `job` returns or raises; raise TimeoutError after `timeout` seconds, or while another one hangs.

        A job that runs when its caller gives up runs on; one that waits is cancelled.
        """
        if self._hung is not None and not self._hung.done():
            raise TimeoutError
        try:
            future = self._pool.submit(job)
        except RuntimeError as error:
            raise TimeoutError from error  # closed
        try:
            return future.result(timeout)
        except TimeoutError:
            if not future.done() and not future.cancel():
                self._hung = future
            raise

    def close(self) -> None:
        """End the thread, without waiting for a call that hangs."""
        hangs = self._hung is not None and not self._hung.done()
        self._pool.shutdown(wait=not hangs, cancel_futures=True)
