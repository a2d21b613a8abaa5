"""What the face gets from content: values to send, or an open descriptor, a size and "wait for more"."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from mirror.errors import MirrorError, NotHere, StoreFull
from mirror.oci.digest import Digest
from mirror.store.faults import NO_ROOM

# DESIGN's words for where the bytes came from, sent as X-Cache.
Cache = Literal["HIT", "MISS", "JOINED", "STALE", "BYPASS"]

# What helps where no upstream may be asked.
BRING = "add it to an image set where there is internet, save that, and load it here"

# What helps where upstream sends other bytes than it says: they would come again.
OTHER_BYTES = "it was not taken: tell that registry's owner, or give this upstream another endpoint"


def not_here_and_offline(what: str) -> NotHere:
    """Return the error for `what` is not here while no upstream may be asked."""
    return NotHere(f"{what} is not here and the mirror is offline", BRING)


def why_not_kept(error: StoreFull | OSError) -> str:
    """Return what the request log says of an answer that was passed through because the store did not take it."""
    cause = error if isinstance(error, OSError) else error.__cause__
    number = cause.errno if isinstance(cause, OSError) else errno.ENOSPC
    return "store read-only" if number == errno.EROFS else "store full" if number in NO_ROOM else "store unwritable"


@dataclass(frozen=True, slots=True)
class Target:
    """What a client's name means: a repository of an upstream, or (upstream empty) one that is served from here.

    `name` is the canonical name, `<upstream>/<repository>`: the folder under `repositories/` in the store. `aliased`:
    an alias led here, so that its tags are those that are here. `hosted`: pushes are taken for it.
    """

    upstream: str
    repository: str
    name: str
    aliased: bool = False
    hosted: bool = False


@dataclass(frozen=True, slots=True)
class ByteRange:
    """One `Range` as the client wrote it: `first-last`, `first-` (last None), `-suffix` (first None, last the size)."""

    first: int | None
    last: int | None

    def resolve(self, total: int) -> tuple[int, int] | None:
        """Return (start, stop) of this range in a body of `total` bytes, stop exclusive; None if unsatisfiable."""
        if self.first is None:
            length = min(self.last or 0, total)
            return (total - length, total) if length else None
        if self.first >= total:
            return None
        stop = total if self.last is None else min(self.last + 1, total)
        return (self.first, stop)


class RangeUnsatisfiable(Exception):
    """The range lies outside the blob; `total` is the blob's size in bytes."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self.total = total


@dataclass(frozen=True, slots=True)
class ManifestAnswer:
    """A whole manifest. `body` is None only for a HEAD that needed no bytes; `size` always holds their number."""

    digest: Digest
    media_type: str
    size: int
    body: bytes | None
    cache: Cache
    upstream: str = ""
    warning: str = ""  # the text of a `Warning: 299 - "…"` header, or empty
    why: str = ""  # for the log line: one or two words, e.g. "revalidated", "pinned"


@dataclass(frozen=True, slots=True)
class BlobHead:
    """What HEAD of a blob says."""

    size: int
    cache: Cache
    upstream: str = ""
    why: str = ""


class Readable(Protocol):
    """A file that is whole, or that grows while it is read. The owner of a BlobAnswer closes it."""

    fd: int  # for pread and sendfile; stays open until close()

    def ready(self) -> int:
        """Return how many bytes from the start may be sent now."""
        ...

    async def more(self, position: int) -> int:
        """Wait until more than `position` bytes may be sent, return how many; raise MirrorError if they never come."""
        ...

    async def load(self, start: int, stop: int) -> None:
        """Make sure that the bytes are in the page cache, reading ahead in a thread where they are not."""
        ...

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes start..stop, which are ready and loaded, without waiting."""
        ...

    def failed(self, error: OSError, position: int) -> MirrorError:
        """Return the error of a descriptor that could not be read at `position` (bytes)."""
        ...

    def close(self) -> None:
        """Give the descriptor back. Safe to call twice."""
        ...


class Chunks(Protocol):
    """Bytes to be sent as they come. The owner of a BlobAnswer iterates them at most once and always closes them."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    async def aclose(self) -> None:
        """Let go of the connection behind them, whether or not anybody iterated. Safe to call twice."""
        ...


@dataclass(slots=True)
class BlobAnswer:
    """A blob, or a range of it, to be sent: bytes start..stop of `total`.

    Exactly one of `file` and `chunks` is set. `chunks` passes an upstream body through (BYPASS), or sends one of
    unknown length (`total` and `stop` None), and must be closed with `aclose()` by the face; if iterating raises,
    the connection is aborted. A whole-blob answer has start 0 and stop == total.
    """

    total: int | None
    start: int
    stop: int | None
    cache: Cache
    file: Readable | None = None
    chunks: Chunks | None = None
    upstream: str = ""
    why: str = ""
    # Where `file` cannot grow any more for want of room (`more` raises StoreFull), the rest of this answer from a
    # position on, passed through and checked against the digest: a full disk cuts no client off.
    divert: Callable[[int], AsyncGenerator[bytes]] | None = None

    def close(self) -> None:
        """Close the file, if there is one; chunks are closed by whoever iterates them."""
        if self.file is not None:
            self.file.close()


@dataclass(frozen=True, slots=True)
class TagPage:
    """One page of a tag list in lexical order; `more` says that a further page follows its last name."""

    tags: tuple[str, ...]
    more: bool
    warning: str = ""


@dataclass(frozen=True, slots=True)
class ReferrersAnswer:
    """An OCI image index of a digest's referrers as bytes; `filtered` if artifactType was applied.

    `last` is set where there are more: the digest to ask on from.
    """

    body: bytes
    filtered: bool
    warning: str = ""
    last: str = ""


@dataclass(frozen=True, slots=True)
class UploadState:
    """An upload under way: its name, and how many bytes of it are here and will be kept."""

    id: str
    offset: int


@dataclass(frozen=True, slots=True)
class Quota:
    """The most bytes that the repositories which `covers` names (by canonical name) may hold together.

    `key` is the same for the same quota.
    """

    key: str
    limit: int
    covers: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Stored:
    """A manifest that was pushed: what it refers to, if anything, and the tags that mean it now."""

    digest: Digest
    media_type: str
    subject: Digest | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NamePage:
    """Some names of repositories in lexical order; `more` says that there may be others after the last one."""

    names: tuple[str, ...]
    more: bool
