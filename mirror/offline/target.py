"""The folder that parts are written to: files appear in it whole, under their names, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mirror.errors import MirrorError, StoreFull
from mirror.offline.carrying import Carrying
from mirror.offline.part import PartDamaged, PartUnsupported
from mirror.offline.part_file import NotAPart, PartFile
from mirror.outside import Outside
from mirror.store.faults import NO_ROOM
from mirror.store.mounts import Mount, find_mount

SUMS, README = "SHA256SUMS", "README.txt"
_UNFINISHED = ".partial"
_STEP = 1024 * 1024
_SUMS_LIMIT = 16 * 1024 * 1024
_SUM = re.compile(r"([0-9a-f]{64}) [ *]([^/\x00-\x1f]+)")

_README_TEXT = """\
These files carry sets of container images to a place without a network. `mirror save` wrote them.

There, hand over their folder, and those of further disks, now or later, in any order:

    mirror load FOLDER...

It verifies every byte, says exactly which parts or digests are missing, and goes on where it was stopped. Compare its
`set NAME@N sha256:...` with the last line that the save printed, or give that line to `mirror load --expect`.

Nothing has to be unpacked. Each part is a plain tar and says in mirror-part.json what it holds; plan.json in it lists
all that the set needs. A copy can be checked beforehand:

    sha256sum -c SHA256SUMS
"""


class TargetFailed(MirrorError):
    """The disk that is written to, or read from, does not do what it is asked."""


class Target:
    """One folder outside the store. For threads. Raises TargetFailed, and StoreFull where it has no room."""

    def __init__(self, outside: Outside, folder: Path) -> None:
        self.folder = folder
        self._outside = outside

    def prepare(self, names: Iterable[str]) -> None:
        """Remove what an interrupted run left of these files."""
        try:
            for name in names:
                self._outside.remove(self._unfinished(name))
        except OSError as error:
            raise self._failed(error, "cannot be used") from error

    def free(self) -> int:
        """Return the bytes that may still be written."""
        try:
            return self._outside.free(self.folder)
        except OSError as error:
            raise self._failed(error, "cannot be used") from error

    def mount(self) -> Mount | None:
        """Return the file system that is written to; None where it cannot be told."""
        try:
            folder = self._outside.open(self.folder, os.O_PATH)
        except OSError as error:
            raise self._failed(error, "cannot be used") from error
        try:
            # Its name by the descriptor: the folders above it may be closed to us.
            return find_mount(Path(os.readlink(f"/proc/self/fd/{folder}")))
        except OSError:
            return None
        finally:
            os.close(folder)

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, None where there is none."""
        try:
            found = self._outside.stat(self.folder / name)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(error, "cannot be read") from error
        return found.st_size if stat.S_ISREG(found.st_mode) else -1

    def sha256(self, name: str, carrying: Carrying) -> str:
        """Return the checksum of a file, empty where it cannot be read to its end."""
        hasher = hashlib.sha256()
        try:
            fd = self._outside.open(self.folder / name, os.O_RDONLY | os.O_NONBLOCK)
            try:
                while content := os.read(fd, _STEP):
                    hasher.update(content)
                    carrying.move(len(content))
            finally:
                os.close(fd)
        except OSError:
            return ""
        return hasher.hexdigest()

    def save_of(self, name: str) -> str | None:
        """Return the id of the save whose part a file is; None where it is a damaged part, empty where it is none."""
        try:
            with PartFile(self._outside, self.folder / name) as found:
                return found.index.save
        except (NotAPart, PartUnsupported):
            return ""
        except (PartDamaged, OSError):
            return None

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is fine."""
        try:
            self._outside.remove(self.folder / name)
        except OSError as error:
            raise self._failed(error, "cannot be written") from error

    def create(self, name: str) -> Writing:
        """Begin a file."""
        path = self._unfinished(name)
        try:
            return Writing(self, name, self._outside.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW))
        except OSError as error:
            raise self._failed(error, "cannot be written") from error

    def finish(self, name: str) -> None:
        """Give a file its name, durably."""
        try:
            self._outside.rename(self._unfinished(name), self.folder / name)
            self._outside.sync(self.folder)
        except OSError as error:
            raise self._failed(error, "cannot be written") from error

    def give_up(self, name: str) -> None:
        """Remove what was written of a file."""
        with suppress(OSError):
            self._outside.remove(self._unfinished(name))

    def put(self, name: str, content: bytes) -> None:
        """Write a small file, replacing the one that is there."""
        with self.create(name) as writing:
            writing.write(content)

    def sums(self) -> dict[str, str]:
        """Return what SHA256SUMS says: the checksum of each file that it names."""
        try:
            fd = self._outside.open(self.folder / SUMS, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return {}
        with os.fdopen(fd, "rb") as file:
            try:
                size = min(_SUMS_LIMIT, os.fstat(fd).st_size)
                lines = file.read(size).decode("utf-8", "replace").splitlines()
            except OSError:
                return {}
        matches = (_SUM.fullmatch(line) for line in lines)
        return {match[2]: match[1] for match in matches if match is not None}

    def write_sums(self, sums: dict[str, str]) -> None:
        """Write SHA256SUMS, and beside it what a person who finds the disk wants to know."""
        self.put(SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode())
        self.put(README, _README_TEXT.encode())

    def _unfinished(self, name: str) -> Path:
        return self.folder / f"{name}{_UNFINISHED}"

    def _failed(self, error: OSError, what: str) -> MirrorError:
        if error.errno in NO_ROOM:
            return StoreFull(f"{self.folder} is full ({error.strerror})", "go on with --to on another disk")
        if error.errno == errno.EFBIG:
            return TargetFailed(
                f"{self.folder} takes no file of that size ({error.strerror})", "give a smaller --part-size"
            )
        return TargetFailed(f"{self.folder} {what} ({error.strerror})", "look at the disk, its path and who may use it")

    def failed(self, error: OSError) -> MirrorError:
        """Return what to raise for an error met while writing."""
        return self._failed(error, "cannot be written")


class Writing:
    """A file that is being written: named when the block ends well, gone when it does not."""

    def __init__(self, target: Target, name: str, fd: int) -> None:
        self._target = target
        self._name = name
        self._fd = fd
        self._hasher = hashlib.sha256()

    def write(self, content: bytes) -> None:
        """Write all of `content`."""
        self._hasher.update(content)
        view = memoryview(content)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise self._target.failed(error) from error

    @property
    def sha256(self) -> str:
        """The checksum of what was written so far."""
        return self._hasher.hexdigest()

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        done = False
        try:
            try:
                if error is None:
                    os.fsync(self._fd)
            finally:
                os.close(self._fd)
            if error is None:
                self._target.finish(self._name)
                done = True
        except OSError as failure:
            raise self._target.failed(failure) from failure
        finally:
            if not done:
                self._target.give_up(self._name)
