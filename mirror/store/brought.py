"""Which repositories brought a digest: what lets a repository be given content that it names and did not bring.

    brought/<alg>/<hhh>     of the digests that begin so: digest and repository, a line each, appended as it brings it
    brought/kept            who brings what is noted; where everybody may pull everything nobody asks, so it is not
    brought/complete        what came before that is here too

It is derived from the rows of repositories and is believed only together with them: a name whose row is gone counts
for nothing, and one that is lost costs a question to upstream. All of this blocks and is for threads.

Lines are not synced: those of the last seconds may go with the power, and rows of blobs too. Who could be let in
is asked for, or offline kept out, until somebody brings it again. Let in would be only whoever may pull a repository
that an earlier release noted as having what another one brought in these very seconds, until it is pulled there again.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time

from mirror.errors import DigestInvalid
from mirror.oci.digest import Digest
from mirror.oci.reference import is_name
from mirror.store import files
from mirror.store.faults import noted
from mirror.store.layout import Layout

LIMIT = 1024 * 1024  # bytes that are read of a file: there are 4096 of them
MOST = 1000  # repositories that are noted of a digest
STALE = 86400.0  # seconds since a file has changed, after which what it says of content that is not here goes


class Brought:
    """The files under `brought/`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._complete = str(layout.brought / "complete")
        self._kept = str(layout.brought / "kept")

    def by(self, digest: Digest) -> tuple[list[str], bool]:
        """Return the repositories that brought `digest`, as far as is known, and whether that is all of them.

        Raises StoreUnreadable.
        """
        content = files.read_record(self._layout.bringers(digest), LIMIT)
        if content is None:
            return [], files.look(self._layout.bringers(digest)) is None
        return _names(content, digest)

    @property
    def is_kept(self) -> bool:
        """Whether it is noted who brings what: one system call. May run on the loop."""
        return files.is_there(self._kept)

    def keep(self) -> None:
        """Have it noted from now on who brings what; what came before has to be taken over. Raises OSError."""
        self.begin_anew()
        files.write_atomically(self._kept, b"", durable=True)

    def note_before(self, name: str, digest: Digest) -> bool:
        """Note, where that is kept, that repository `name` brings `digest`; say whether it was, to `note_after`.

        Before its row is written: a name too many counts for nothing, and one too few could open what others named.
        Raises OSError.
        """
        if not self.is_kept:
            return False
        self.add(name, digest)
        return True

    def note_after(self, name: str, digest: Digest, noted: bool) -> None:
        """Note it once its row is written, where `keep` came between: that row may be too late to be taken over.

        Raises OSError.
        """
        if not noted and self.is_kept:
            self.add(name, digest)

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
                fcntl.flock(fd, fcntl.LOCK_SH)  # nobody tidies meanwhile
                if os.fstat(fd).st_size:
                    names, every = _names(os.pread(fd, LIMIT + 1, 0), digest)
                    if name in names or not every:
                        return
                # Begun by its own end of line: what a cut-off write left before it is then a line of its own.
                os.write(fd, f"\n{digest.hex} {name}\n".encode("ascii"))
            finally:
                os.close(fd)

    @property
    def is_complete(self) -> bool:
        """Whether what came before it was kept is here too: two system calls. May run on the loop."""
        return files.modified(self._complete) is not None and self.is_kept

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
        return found[1] if found is not None and self.is_kept else 0

    def begin_anew(self) -> None:
        """Have what came before taken over once more. Raises OSError."""
        files.remove(self._complete)

    def complete(self) -> None:
        """Note that what came before is here too. Raises OSError."""
        files.write_atomically(self._complete, b"", durable=True)

    def tidy(self) -> int:
        """Forget content that is not here where a file has not changed for a day; return how many lines went.

        For threads. Raises StoreUnreadable, OSError.
        """
        count = 0
        for algorithm in ("sha256", "sha512"):
            for entry in files.entries(self._layout.brought / algorithm):
                found = files.look(entry.path)
                if found is not None and stat.S_ISREG(found.st_mode) and found.st_mtime < time.time() - STALE:
                    count += self._tidy(entry.path, algorithm)
        return count

    def _tidy(self, path: str, algorithm: str) -> int:
        fd = files.open_content(path)
        if fd is None:
            return 0
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            lines = [line for line in files.read_bytes(fd, 0, LIMIT).decode("ascii", "replace").split("\n") if line]
            kept = [line for line in lines if self._is_kept(algorithm, line)]
            if len(kept) < len(lines):
                # In place: whoever waits to append has this file open.
                with noted("write", path):
                    whole = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                    try:
                        content = "".join(f"{line}\n" for line in kept).encode("ascii")
                        files.write_all(whole, content)
                        os.ftruncate(whole, len(content))
                    finally:
                        os.close(whole)
        finally:
            os.close(fd)
        return len(lines) - len(kept)

    def _is_kept(self, algorithm: str, line: str) -> bool:
        encoded, _, name = line.partition(" ")
        try:
            digest = Digest.parse(f"{algorithm}:{encoded}")
        except DigestInvalid:
            return False
        return is_name(name) and files.modified(self._layout.blob(digest)) is not None


def _names(content: bytes, digest: Digest) -> tuple[list[str], bool]:
    """Return the repositories of a digest that a file lists, and whether that is all of them."""
    begin = f"{digest.hex} ".encode()
    found = (line[len(begin) :].decode("ascii", "replace") for line in content.split(b"\n") if line.startswith(begin))
    names = list(dict.fromkeys(name for name in found if is_name(name)))
    return names, len(content) <= LIMIT and len(names) < MOST
