"""Which repositories brought a digest: what lets a repository be given content that it names and did not bring.

    brought/<alg>/<hex>     names of repositories, a line each, appended as they bring the digest
    brought/complete        what releases before this one noted of repositories is here too

It is derived from the rows of repositories and is believed only together with them: a name whose row is gone counts
for nothing, and one that is lost costs a question to upstream. All of this blocks and is for threads.
"""

from __future__ import annotations

import os
import time

from mirror.oci.digest import Digest
from mirror.oci.reference import is_name
from mirror.store import files
from mirror.store.faults import noted
from mirror.store.layout import Layout
from mirror.store.walk import named_by_digest

LIMIT = 64 * 1024  # bytes that are read of a digest's names: more than a thousand repositories
STALE = 86400.0  # seconds for which the names of content that is not here are kept


class Brought:
    """The files under `brought/`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._complete = str(layout.brought / "complete")

    def by(self, digest: Digest) -> tuple[list[str], bool]:
        """Return the repositories that brought `digest`, as far as is known, and whether that is all of them.

        Raises StoreUnreadable.
        """
        fd = files.open_content(self._layout.bringers(digest))
        if fd is None:
            return [], True
        try:
            content = files.read_bytes(fd, 0, LIMIT + 1)
        finally:
            os.close(fd)
        return _names(content)

    def add(self, name: str, digest: Digest) -> None:
        """Note that repository `name` brought `digest`, once. Raises OSError.

        More than is read is not written: what many repositories have, and push again and again, stays a look-up.
        """
        path = self._layout.bringers(digest)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with noted("write", path):
            try:
                fd = os.open(path, flags, 0o600)
            except FileNotFoundError:
                files.make_folders(os.path.dirname(path))
                fd = os.open(path, flags, 0o600)
            try:
                if os.fstat(fd).st_size:
                    names, every = _names(os.pread(fd, LIMIT + 1, 0))
                    if name in names or not every:
                        return
                # Begun by its own end of line: what a cut-off write left before it is then a line of its own.
                os.write(fd, f"\n{name}\n".encode("ascii"))
            finally:
                os.close(fd)

    @property
    def is_complete(self) -> bool:
        """Whether what earlier releases noted is here too: one system call. May run on the loop."""
        return files.modified(self._complete) is not None

    def modified(self, digest: Digest) -> tuple[int, int, int] | None:
        """Return what changes when another repository brings `digest`: one system call. May run on the loop."""
        return files.modified(self._layout.bringers(digest))

    def is_here(self, digest: Digest) -> bool:
        """Tell whether the content of `digest` is here: one system call. May run on the loop."""
        return files.modified(self._layout.blob(digest)) is not None

    @property
    def completed(self) -> int:
        """When that was last taken over, in nanoseconds of Unix time; 0: never, or it is begun anew."""
        found = files.modified(self._complete)
        return found[1] if found is not None else 0

    def begin_anew(self) -> None:
        """Have what earlier releases noted taken over once more. Raises OSError."""
        files.remove(self._complete)

    def complete(self) -> None:
        """Note that what earlier releases noted is here too. Raises OSError."""
        files.write_atomically(self._complete, b"", durable=True)

    def tidy(self) -> int:
        """Remove the names of content that is not here, and was not for a day; return of how many."""
        count = 0
        for digest, status in named_by_digest(self._layout.brought):
            old = status.st_mtime < time.time() - STALE
            if old and files.modified(self._layout.blob(digest)) is None:
                count += files.remove(self._layout.bringers(digest))
        return count


def _names(content: bytes) -> tuple[list[str], bool]:
    lines = content.decode("ascii", "replace").split("\n")
    return list(dict.fromkeys(line for line in lines if is_name(line))), len(content) <= LIMIT
