"""What a check looks at beside the file: who will read the secrets, what is mounted where, and what time it is."""

from __future__ import annotations

import datetime
import os
import pwd
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mirror.outside import owner_of

_MEMORY = frozenset({"tmpfs", "ramfs"})
# Memory file systems that everybody on a host shares: nothing there is a mounted secret for lying there.
_SHARED = frozenset(Path(path) for path in ("/", "/tmp", "/run", "/var/run", "/dev/shm", "/dev", "/var/tmp"))  # noqa: S108 named to be excluded
# What ProtectHome= of systemd.exec(5) hides.
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
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
    sealed: frozenset[Path] = frozenset()
    """The mount points that are read-only here although their file systems are not."""

    @classmethod
    def look(cls, environ: Mapping[str, str], store: Path) -> Surroundings:
        """Return what is around this process. A check run as root judges for the owner of the store, who will serve."""
        user = User(os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))
        owner = _owner(store) if user.uid == 0 else None
        chosen = owner or user
        now = datetime.datetime.now(datetime.UTC)
        return cls(environ, chosen, owner is None, read_mounts(), now, read_sealed())

    def is_confined(self, path: Path) -> bool:
        """Tell whether this is a unit of systemd that may not write to `path`, whatever its owner and mode say."""
        if "INVOCATION_ID" not in self.environ:
            return False
        real = Path(os.path.realpath(path))
        point = next((folder for folder in (real, *real.parents) if folder in self.mounts), None)
        # A hidden home is a mount that nobody may enter.
        hidden = (home for home in _HOMES if home in self.mounts and not os.access(home, os.X_OK, effective_ids=True))
        return point in self.sealed or any(real.is_relative_to(home) for home in hidden)

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
    return {point: after[0] for point, _, after in _mountinfo(mountinfo)}


def read_sealed(mountinfo: Path = Path("/proc/self/mountinfo")) -> frozenset[Path]:
    """Return the mount points that are read-only while the file system on them is not: a sandbox made them so."""
    sealed = {
        point: "ro" in options.split(",") and len(after) > 2 and "rw" in after[2].split(",")
        for point, options, after in _mountinfo(mountinfo)
    }
    return frozenset(point for point, is_sealed in sealed.items() if is_sealed)


def _mountinfo(mountinfo: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """Yield (mount point, its options, [type, source, options of the file system]), the one seen last at each point."""
    try:
        lines = mountinfo.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if separator and len(fields) > 5:
            # Spaces and the like are written as octal escapes.
            point = fields[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
            yield Path(point), fields[5], after.split(" ")


def _owner(store: Path) -> User | None:
    """Return the owner of the store with all groups, or None where it does not exist or is root's."""
    try:
        uid = owner_of(store).st_uid
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
