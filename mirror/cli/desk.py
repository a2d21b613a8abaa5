"""What a command works at: the store and the upstreams, open as the service opens them, and files outside."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mirror import logs
from mirror.app import Opened, open_rooms
from mirror.cli.outcome import INCOMPLETE, Outcome
from mirror.config import Config
from mirror.config.access import Readers
from mirror.content.answers import Target
from mirror.content.courtesy import SYNC
from mirror.content.garbage import hosted_by
from mirror.errors import ConfigurationError, MirrorError, Problem, StoreError, StoreUnreadable
from mirror.metrics import Metrics
from mirror.offline.here import Store
from mirror.outside import Outside, run_as_owner
from mirror.store import probe
from mirror.store.blobs import Blobs
from mirror.store.faults import NO_ROOM
from mirror.store.index import Index
from mirror.store.layout import Layout
from mirror.store.marked import Marked
from mirror.store.marking import mark_if_lost, tell
from mirror.store.sets import Sets

_FILE_LIMIT = 256 * 1024 * 1024
_FLUSH_EVERY = 5.0  # seconds between writes of the uses, by which a service beside it counts and evicts what came


@dataclass(frozen=True, slots=True)
class Desk:
    """The open rooms, and the words for what every command does with them."""

    config: Config
    outside: Outside
    opened: Opened
    sets: Sets
    store: Store

    def target(self, name: str) -> Target:
        """Return what a canonical name means: its first component is an upstream, or it is kept without one."""
        first, _, repository = name.partition("/")
        if first in self.config.upstreams:
            return Target(first, repository, name)
        return Target("", name, name)

    def read(self, path: Path, limit: int = _FILE_LIMIT) -> bytes:
        """Return what a file outside the store holds; raise ConfigurationError where it cannot be read."""
        return read_file(self.outside, path, limit)

    def write(self, path: Path, content: bytes) -> None:
        """Put a file outside the store as `write_file` does."""
        write_file(self.outside, path, content)


def readers(desk: Desk) -> Readers:
    """Return which repositories have the same readers, as mirror.yaml says."""
    return Readers(desk.config.clients.anonymous, desk.config.clients.rules)


def read_head(outside: Outside, path: Path, size: int) -> bytes:
    """Return the first `size` bytes of a file; raise ConfigurationError where it cannot be read."""
    try:
        with os.fdopen(outside.open(path, os.O_RDONLY), "rb") as file:
            return file.read(size)
    except OSError as error:
        raise unusable(path, f"cannot be read: {error.strerror}") from error


def read_file(outside: Outside, path: Path, limit: int = _FILE_LIMIT) -> bytes:
    """Return what a file outside the store holds; raise ConfigurationError where it cannot be read."""
    content = read_head(outside, path, limit + 1)
    if len(content) > limit:
        raise unusable(path, "is too large to be what is expected here")
    return content


def write_file(outside: Outside, path: Path, content: bytes) -> None:
    """Put a file outside the store, by a rename.

    Raises ConfigurationError where it cannot be written, OSError where there is no room for it.
    """
    if not path.name:
        raise unusable(path, "is a folder", "name a file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}~")
    try:
        fd = outside.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        outside.rename(temporary, path)
    except FileNotFoundError as error:
        raise no_folder(path.parent, str(path)) from error
    except OSError as error:
        with suppress(OSError):
            outside.remove(temporary)
        if error.errno in NO_ROOM:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise unusable(path, f"cannot be written: {error.strerror}") from error


def no_folder(folder: Path, where: str) -> ConfigurationError:
    """Return the error for a folder that is to be written to; it may be mistyped, or its disk not mounted."""
    return ConfigurationError(
        [Problem("no_folder", f"there is no folder {folder}", where, "make it, or mount its disk")]
    )


def unusable(path: Path, what: str, remedy: str = "look at its path, owner and mode") -> ConfigurationError:
    """Return the error for a file outside the store of which `what` is wrong."""
    return ConfigurationError([Problem("file_unusable", what, str(path), remedy)])


def run(config: Config, outcome: Outcome, work: Callable[[Desk], Awaitable[None]], *, begins: bool) -> int:
    """Run a command in the store, as the store's owner; print its report and return the exit code.

    `begins`: where there is no store yet, one is made.
    """
    layout = Layout(config.storage.path)
    logs.configure("warning" if config.log.level != "debug" else "debug", config.log.format)

    def begin(outside: Outside) -> int:
        gc.freeze()  # what was imported stays: collections need not look at it, nor the end of the process
        try:
            for warning in probe.prepare(layout, begins=begins):
                outcome.warn([warning])
            asyncio.run(_work(config, outside, outcome, work))
        except MirrorError as error:
            outcome.note_error(error)
        except OSError as error:
            outcome.note_os_error(error)
        logs.tell_suppressed()
        return outcome.finish()

    try:
        if not begins:
            probe.require(layout)
        return run_as_owner(config.storage.path, begin)
    except MirrorError as error:
        outcome.note_error(error)
        return outcome.finish()


async def _work(config: Config, outside: Outside, outcome: Outcome, work: Callable[[Desk], Awaitable[None]]) -> None:
    async with _desk(config, outside) as desk:
        task = asyncio.ensure_future(work(desk))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            outcome.note(
                INCOMPLETE,
                "interrupted",
                "stopped before the end",
                "",
                "run it again: what is here is not fetched again",
            )


@asynccontextmanager
async def _desk(config: Config, outside: Outside) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as rooms:
        metrics = Metrics(upstreams=tuple(config.upstreams))
        who = f"{SYNC} {os.getpid()}"
        opened = await open_rooms(rooms, config, metrics, os.environ, who, courteous=True)
        flushing = asyncio.create_task(_flush_uses(opened.index))
        rooms.push_async_callback(_flush_last, opened.index, flushing)
        telling = asyncio.create_task(logs.keep_telling())
        rooms.callback(telling.cancel)
        rooms.push_async_callback(opened.content.stop)
        await opened.content.settle()
        with suppress(StoreUnreadable, OSError):  # then nothing is taken for not pushed
            steps = mark_if_lost(opened.layout, Marked(opened.layout), hosted_by(opened.content.resolve))
            tell(await asyncio.to_thread(sum, steps))

        def discard(path: str, why: str) -> None:
            opened.quarantine.take(path, why)

        yield Desk(config, outside, opened, Sets(opened.layout), Store(opened.layout, Blobs(opened.layout, discard)))


async def _flush_uses(index: Index) -> None:
    """Write what was noted of content that came, again and again: no housekeeping does so for a command."""
    while True:
        await asyncio.sleep(_FLUSH_EVERY)
        with suppress(StoreError):  # it stays noted
            await asyncio.to_thread(index.flush)


async def _flush_last(index: Index, flushing: asyncio.Task[None]) -> None:
    """Write what is noted at the end; without the index, the rows come when a service compares it with the files."""
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)
    with suppress(StoreError):
        await asyncio.to_thread(index.flush)
