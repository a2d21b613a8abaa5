"""Brings what a survey found into the store: each content once, verified, blobs before the manifests that name them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from mirror.errors import Corrupt
from mirror.oci.digest import Digest
from mirror.offline.foreign.model import Foreign
from mirror.offline.foreign.places import Place, Read
from mirror.offline.foreign.survey import Survey
from mirror.offline.source import Lacking
from mirror.offline.tar import ArchiveInvalid
from mirror.store.intake import Intake

WORKERS = 4
_AHEAD = 4  # contents that wait for each worker


@dataclass(frozen=True, slots=True)
class Brought:
    """What was written: contents and their bytes. `damaged` are those that were not what the archive calls them."""

    contents: int
    size: int
    damaged: tuple[Lacking, ...]


@dataclass(frozen=True, slots=True)
class _Content:
    digest: Digest
    size: int
    place: Place


def bring(
    survey: Survey, intake: Intake, *, workers: int = WORKERS, progress: Callable[[int], None] = lambda _: None
) -> Brought:
    """Receive everything of `survey` that is not here yet.

    `progress` is told the bytes of each step that was read, by several threads. What turns out damaged is left out
    and listed, and the rest is brought. Blocks: for threads only. Raises what Intake.receive does but Corrupt.
    """
    size, damaged, contents = 0, [], 0
    blobs = ((one.digest, one.size) for one in survey.blobs)
    manifests = {one.digest: one.size for one in survey.manifests}
    with ThreadPoolExecutor(workers, thread_name_prefix="bring") as pool:
        for wanted in (blobs, manifests.items()):
            missing, lost = _missing(wanted, survey.foreign, intake)
            damaged += lost
            for content, error in _received(pool, workers, missing, intake, progress):
                if error is None:
                    contents += 1
                    size += content.size
                else:
                    damaged.append(Lacking(str(content.digest), error.what, error.remedy or "make the archive again"))
    return Brought(contents, size, tuple(damaged))


def _missing(
    wanted: Iterable[tuple[Digest, int]], foreign: Foreign, intake: Intake
) -> tuple[list[_Content], list[Lacking]]:
    """Return what is not here, in the order of the medium, and what the archive does not have any more."""
    found, lost = [], []
    for digest, size in wanted:
        if intake.has(digest, size):
            continue
        try:
            place = foreign.place(digest)
        except ArchiveInvalid as error:
            lost.append(Lacking(str(digest), error.what, error.remedy))
            continue
        if place is None:
            lost.append(Lacking(str(digest), "it has disappeared since the archive was looked at", "load it again"))
        else:
            found.append(_Content(digest, size, place))
    found.sort(key=lambda content: content.place.order)
    return found, lost


def _received(
    pool: ThreadPoolExecutor,
    workers: int,
    contents: Iterable[_Content],
    intake: Intake,
    progress: Callable[[int], None],
) -> Iterable[tuple[_Content, Corrupt | None]]:
    """Yield each content when it is in the store, or with what is wrong with it."""
    running: dict[Future[None], _Content] = {}
    left = iter(contents)
    try:
        while True:
            while len(running) < workers * _AHEAD and (content := next(left, None)) is not None:
                running[pool.submit(_receive, content, intake, progress)] = content
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                error = future.exception()
                if error is not None and not isinstance(error, Corrupt):
                    raise error
                yield running.pop(future), error
    finally:
        for future in running:
            future.cancel()


def _receive(content: _Content, intake: Intake, progress: Callable[[int], None]) -> None:
    with content.place.open() as read:
        intake.receive(content.digest, content.size, _counted(read, progress))


def _counted(read: Read, progress: Callable[[int], None]) -> Read:
    def counted(count: int) -> bytes:
        content = read(count)
        progress(len(content))
        return content

    return counted
