"""What a check looks at beside the file: who will read the secrets, what is mounted where, and what time it is."""

from __future__ import annotations

import datetime
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_MEMORY = frozenset({"tmpfs", "ramfs"})
# Memory file systems that everybody on a host shares: nothing there is a mounted secret for lying there.
_SHARED = frozenset(Path(path) for path in ("/", "/tmp", "/run", "/var/run", "/dev/shm", "/dev", "/var/tmp"))  # noqa: S108 named to be excluded
_ACL = "system.posix_acl_access"


@dataclass(frozen=True, slots=True)
class User:
    """Who runs the service."""

    uid: int
    gids: frozenset[int]

    @property
    def name(self) -> str:
        """The login name, or the number where the host knows none."""
        return user_name(self.uid)

    def may(self, status: os.stat_result, bit: int) -> bool:
        """Tell whether the mode of a file gives this user `bit` (4 read, 2 write, 1 search)."""
        if self.uid == 0:
            return True
        # The first class that fits decides, even where a later one would give more (path_resolution(7)).
        classes = ((status.st_uid == self.uid, 6), (status.st_gid in self.gids, 3), (True, 0))
        shift = next(shift for fits, shift in classes if fits)
        return bool(status.st_mode >> shift & bit)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`user` will run the service; `is_self` tells whether that is who runs this check, so that trying is possible."""

    environ: Mapping[str, str]
    user: User
    is_self: bool
    mounts: Mapping[Path, str]
    now: datetime.datetime

    @classmethod
    def look(cls, environ: Mapping[str, str], store: Path) -> Surroundings:
        """Return what is around this process. A check run as root judges for the owner of the store, who will serve."""
        user = User(os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))
        owner = _owner(store) if user.uid == 0 else None
        chosen = owner or user
        return cls(environ, chosen, owner is None, read_mounts(), datetime.datetime.now(datetime.UTC))

    def is_mounted_secret(self, path: Path) -> bool:
        """Tell whether `path` lies in what a secret is mounted as.

        That is a memory file system mounted for it (Kubernetes' secret volumes, whose file is 0644 behind `..data`),
        a single file mounted in its place (podman's and docker's secrets), or systemd's credentials directory.
        """
        real = Path(os.path.realpath(path))
        credentials = self.environ.get("CREDENTIALS_DIRECTORY", "")
        if credentials and real.is_relative_to(os.path.realpath(credentials)):
            return True
        if real in self.mounts:
            return True
        for folder in real.parents:
            if folder in self.mounts:
                return self.mounts[folder] in _MEMORY and folder not in _SHARED and not _is_users_own(folder)
        return False

    def can_read(self, path: Path) -> bool:
        """Tell whether the service's user can read the file; a mode says little where an access list adds to it."""
        if self.is_self:
            return os.access(path, os.R_OK, effective_ids=True)
        if _has_access_list(path):
            return True
        folders = Path(os.path.realpath(path)).parents
        return self.user.may(path.stat(), 4) and all(
            _has_access_list(folder) or self.user.may(folder.stat(), 1) for folder in folders
        )

    def can_write_folder(self, path: Path) -> bool:
        """Tell whether the service's user can make files in a directory."""
        if self.is_self:
            return os.access(path, os.W_OK | os.X_OK, effective_ids=True)
        return _has_access_list(path) or (self.user.may(path.stat(), 2) and self.user.may(path.stat(), 1))


def user_name(uid: int) -> str:
    """Return the login name of a user, or the number where the host knows none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def read_mounts(mountinfo: Path = Path("/proc/self/mountinfo")) -> dict[Path, str]:
    """Return the file system type at each mount point (proc(5), mountinfo); nothing where there is no such file."""
    mounts: dict[Path, str] = {}
    try:
        lines = mountinfo.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return mounts
    for line in lines:
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if separator and len(fields) > 4:
            # Spaces and the like are written as octal escapes.
            point = fields[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
            mounts[Path(point)] = after.split(" ")[0]
    return mounts


def _owner(store: Path) -> User | None:
    """Return the owner of the store with all groups, or None where it does not exist or is root's."""
    try:
        uid = store.stat().st_uid
    except OSError:
        return None
    if uid == 0:
        return None
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return User(uid, frozenset())
    return User(uid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid)))


def _is_users_own(folder: Path) -> bool:
    """Tell whether this is /run/user/<uid>, a user's memory file system for all purposes."""
    return folder.parent == Path("/run/user")


def _has_access_list(path: Path) -> bool:
    try:
        return _ACL in os.listxattr(path)
    except OSError:
        return False
