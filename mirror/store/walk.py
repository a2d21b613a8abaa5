"""Every file under blobs/, read lazily: what the index is rebuilt from."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mirror.errors import DigestInvalid
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.faults import unreadable
from mirror.store.layout import Layout

_ALGORITHMS = ("sha256", "sha512")


class Found(NamedTuple):
    """A file of content: bytes, and an estimate of its last use (Unix time)."""

    digest: Digest
    size: int
    used: float


def named_by_digest(root: Path) -> Iterator[tuple[Digest, os.stat_result]]:
    """Yield what is in `root`, by algorithm, under the name of a digest, in the folder's order; for threads.

    Raises StoreUnreadable.
    """
    for algorithm in _ALGORITHMS:
        for entry in files.entries(root / algorithm):
            try:
                yield Digest.parse(f"{algorithm}:{entry.name}"), entry.stat(follow_symlinks=False)
            except (DigestInvalid, FileNotFoundError):
                continue
            except OSError as error:
                raise unreadable(entry.path, error) from error


def find_blobs(layout: Layout) -> Iterator[Found]:
    """Yield every regular file that is named by a digest, in the folder's order; for threads, a million take seconds.

    The mtime is the seal, so the last use is taken from the later of atime (which relatime and the seal let fall
    behind) and ctime (when the file was committed or came by rsync).
    """
    for digest, status in named_by_digest(layout.blobs):
        if stat.S_ISREG(status.st_mode):
            yield Found(digest, status.st_size, max(status.st_atime, status.st_ctime))
