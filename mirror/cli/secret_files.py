"""Files with secrets, edited: put in place by a rename, with the owner and the mode that they had."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mirror.errors import ConfigurationError, Problem

_LARGEST = 1 << 20


class SecretFile:
    """One file, which need not be there yet. A link is followed, so that it stays one.

    Without a file before it, a new one has `mode`, and as root belongs to root and to `group`.
    """

    def __init__(self, path: Path, mode: int, group: int = -1) -> None:
        self.path = path
        self._target = Path(os.path.realpath(path))
        self._mode = mode
        self._group = group

    def read(self) -> bytes | None:
        """Return what the file holds, None where it is not there; raise ConfigurationError."""
        try:
            with self._target.open("rb") as file:
                content = file.read(_LARGEST + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.unusable(f"cannot be read ({error.strerror})") from error
        if len(content) > _LARGEST:
            raise self.unusable("is too large to be what is expected here")
        return content

    def edit(self, change: Callable[[bytes | None], bytes | None]) -> None:
        """Put what `change` makes of the content; None leaves it as it is. Raises ConfigurationError."""
        try:
            with _alone_in(self._target.parent):
                changed = change(self.read())
                if changed is not None:
                    self._replace(changed)
        except OSError as error:
            raise self.unusable(f"cannot be written ({error.strerror})") from error

    def unusable(self, what: str) -> ConfigurationError:
        """Return the error of a file that `what`."""
        return ConfigurationError(
            [Problem("file_unusable", what, str(self.path), "look at its path, its owner and its mode")]
        )

    def _replace(self, content: bytes) -> None:
        temporary = self._target.with_name(f".{self._target.name}.{os.getpid()}~")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                self._dress(file.fileno())
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, self._target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        folder = os.open(self._target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(folder)

    def _dress(self, fd: int) -> None:
        """Give a new file the owner and the mode of the one that it replaces. Raises OSError."""
        try:
            known = self._target.stat()
            owner, group, mode = known.st_uid, known.st_gid, known.st_mode & 0o777
        except FileNotFoundError:
            owner, group, mode = (
                (0 if os.geteuid() == 0 else -1),
                (self._group if os.geteuid() == 0 else -1),
                self._mode,
            )
        if os.geteuid() == 0:
            os.fchown(fd, owner, group)
        else:
            with suppress(PermissionError):  # only root gives files away; the group may be one of ours
                os.fchown(fd, -1, group)
        os.fchmod(fd, mode)


class PullSecret:
    """A docker config.json, podman auth.json or OpenShift pull secret. Raises ConfigurationError if it is none."""

    def __init__(self, path: Path) -> None:
        self._file = SecretFile(path, 0o600)
        self._parse(self._file.read())

    def put(self, host: str, entry: dict[str, str]) -> None:
        """Put the login for `host`, in place of one that is there; the rest stays. Raises ConfigurationError."""

        def change(content: bytes | None) -> bytes:
            document = self._parse(content)
            document["auths"] = {**(document.get("auths") or {}), host: entry}
            # A pull secret is one line where it came from, docker's and podman's own files are not.
            indent = "\t" if content is None or b"\n" in content.strip() else None
            return json.dumps(document, indent=indent).encode() + b"\n"

        self._file.edit(change)

    def _parse(self, content: bytes | None) -> dict[str, Any]:
        try:
            document = json.loads(content) if content and content.strip() else {}
        except (ValueError, RecursionError):
            raise self._file.unusable("is not JSON") from None
        if not isinstance(document, dict) or not isinstance(document.get("auths"), dict | None):
            raise self._file.unusable("is not a pull secret: it has no object `auths`")
        return document


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other edits of files in a folder waiting; raise OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
