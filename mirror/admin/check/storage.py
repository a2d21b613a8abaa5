"""Where content is to be kept: there, ours, writable, closed to others, and with room."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from mirror.admin.check.report import Finding
from mirror.admin.check.surroundings import Surroundings, User, user_name
from mirror.config import Config
from mirror.config.values import size_text
from mirror.errors import MirrorError, Problem
from mirror.outside import owner_of
from mirror.store import probe, sample
from mirror.store.layout import Layout

# Tries what the store relies on in its directory, writing there: returns what it can live with, raises MirrorError
# for what it cannot.
StoreProbe = Callable[[Path], list[Problem]]

_OWN = Path("/var/lib/mirror")  # the StateDirectory= of the unit
_LEAST_TO_MEAN = 2**20


def find_in_storage(config: Config, around: Surroundings, probe_store: StoreProbe | None) -> Iterator[Finding]:
    """Yield what is wrong with storage.path and how much is free there."""
    path, where = config.storage.path, config.source.where("storage", "path")
    if around.is_confined(path):
        yield _confined(path, where)
        return
    existing = _existing(path)
    if existing == path:
        findings = list(_find_in_folder(config, path, where, around))
        yield from findings
        # Only who serves may write into the store: a file of root's would be one that the service cannot replace.
        if probe_store is not None and around.is_self and all(finding.severity != "error" for finding in findings):
            if not probe.is_begun(Layout(path)):
                what = f"there is no store in {path} yet; `mirror serve` makes it"
                yield Finding("information", "store_new", what, where)
            yield from _probe(probe_store, path, where)
        elif not around.is_self:
            yield from _find_strangers(path, where, around.user)
    elif not existing.is_dir():
        what = f"{existing} is not a directory, so {path} cannot be made"
        yield Finding("error", "store_unusable", what, where, "name another path")
        return
    elif around.can_write_folder(existing):
        yield Finding("information", "store_new", f"{path} does not exist yet; `mirror serve` makes it", where)
    else:
        user = around.user.name
        remedy = f"sudo install -d -o {user} -m 0700 {shlex.quote(str(path))}"
        what = f"{path} does not exist, and the user {user} cannot make it in {existing}"
        yield Finding("error", "store_unusable", what, where, remedy)
    yield from _find_in_space(config, existing)


def _confined(path: Path, where: str) -> Finding:
    if path.is_relative_to(_OWN):
        what = f"the unit may not write to {path}, though it is its own: something makes it read-only there"
        remedy = "take it out of ReadOnlyPaths= and the like: systemctl cat mirror"
        return Finding("error", "store_confined", what, where, remedy)
    what = f"the unit may write to {_OWN} and what its ReadWritePaths= names, and {path} is not among them"
    remedy = (
        f"run install.sh again with STORE={shlex.quote(str(path))}: it writes the drop-ins; not for a place below /home"
    )
    return Finding("error", "store_confined", what, where, remedy)


def _find_in_folder(config: Config, path: Path, where: str, around: Surroundings) -> Iterator[Finding]:
    status = path.stat()
    shown = shlex.quote(str(path))
    if not stat.S_ISDIR(status.st_mode):
        yield Finding("error", "store_unusable", f"{path} is not a directory", where, "name another path")
        return
    owned = owner_of(path)
    unused = owned.st_uid == 0 and stat.S_ISDIR(owned.st_mode) and around.can_write_folder(path)
    if around.user.uid not in (0, owned.st_uid) and not unused:
        owner = user_name(owned.st_uid)
        file = f" --config {shlex.quote(str(config.source.path))}" if config.source.path else ""
        what = f"{path} belongs to {owner}, and this is {around.user.name}"
        yield Finding("error", "store_owner", what, where, f"sudo -u {owner} mirror check{file}")
        return
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        what = f"{path} is on a read-only file system: what is here is served, and nothing can be kept or changed"
        yield Finding("warning", "store_read_only", what, where, "mount it writable")
    elif not around.can_write_folder(path):
        what = f"the user {around.user.name} cannot write to {path}"
        yield Finding("error", "store_unusable", what, where, f"sudo chmod u+rwx {shown}")
    # A volume's mount point is open to its group; what is in it is not.
    shared = status.st_uid == 0 and around.user.uid != 0
    if stat.S_IMODE(status.st_mode) & 0o077 and not shared:
        what = f"others on this host can look into {path}"
        yield Finding("warning", "store_too_open", what, where, f"sudo chmod 0700 {shown}")


def _probe(probe_store: StoreProbe, path: Path, where: str) -> Iterator[Finding]:
    try:
        for problem in probe_store(path):
            yield Finding("warning", problem.code, problem.what, problem.where or where, problem.remedy)
    except MirrorError as error:
        yield Finding("error", "store_unusable", error.what, where, error.remedy)


def _find_strangers(path: Path, where: str, user: User) -> Iterator[Finding]:
    try:
        probe.check_owners(Layout(path), user.uid)
        closed = sample.closed(Layout(path), lambda status: user.may(status, 4))
    except OSError:
        return  # not ours to look into
    except MirrorError as error:
        yield Finding("error", "store_unusable", error.what, where, error.remedy)
        return
    if closed:
        what = f"{len(closed)} of the files that were tried may not be read by {user.name}"
        remedy = f"sudo chown -R {shlex.quote(user.name)}: {shlex.quote(str(path))}"
        yield Finding("warning", "store_unreadable", what, closed[0], remedy)


def _find_in_space(config: Config, folder: Path) -> Iterator[Finding]:
    storage = config.storage
    figures = os.statvfs(folder)
    total, free = figures.f_blocks * figures.f_frsize, figures.f_bavail * figures.f_frsize
    keep = storage.keep_free.of(total)
    where = config.source.where("storage", "keep_free")
    if free < keep:
        room = f"{size_text(free)} are free at {folder} and keep_free keeps {size_text(keep)}"
        what = f"{room}, so nothing new would be stored"
        yield Finding("warning", "store_full", what, where, "make room, or lower storage.keep_free")
    stated = storage.keep_free.bytes
    if stated is not None and 0 < stated < _LEAST_TO_MEAN:
        yield Finding(
            "warning", "keep_free_small", f"keep_free is {stated} bytes", where, f"write {stated}% or {stated}GiB"
        )
    if storage.cache_size is not None and storage.cache_size > total - keep:
        what = f"cache_size is more than keep_free leaves of the {size_text(total)} at {folder}; keep_free decides"
        yield Finding("information", "cache_size_large", what, config.source.where("storage", "cache_size"))


def _existing(path: Path) -> Path:
    """Return the path, or the nearest directory above it that exists."""
    for candidate in (path, *path.parents):
        if os.path.exists(candidate):  # unlike Path.exists, without an error below a closed directory
            return candidate
    return Path("/")
