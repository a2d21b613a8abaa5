"""Is this a store that we can use: made, ours, of our format, on a file system that keeps what we rely on."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pwd
import re
import shlex
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mirror.errors import StoreError, StoreFull, StoreUnreadable, StoreUnusable
from mirror.outside import may_begin, owner_of
from mirror.store import files
from mirror.store.faults import NO_ROOM, unreadable
from mirror.store.layout import Layout
from mirror.store.lock import FileLock
from mirror.store.marked import Marked
from mirror.store.mounts import file_system_type

FORMAT = 1
_FORMAT_LIMIT = 4096
_FORMAT_WRITE = re.compile(r"format\.[0-9]+-[0-9a-f]{8}~")
_PROBE = "probe-"
# What a store may hold beside the folders that every one has, and what a file system puts into its own root.
_KNOWN = frozenset(("format", "pins", "signatures", "graph", "hosted", "brought", "events", "tokens", "lost+found"))
# Folders that are made when they are needed first, and hold what nobody can tell from nothing once they are gone.
_LASTING = ("blobs/sha256", "blobs/sha512", "pins", "signatures", "tokens")
_READ_ONLY = "mount it writable; a unit of systemd needs it in ReadWritePaths=, and not in ReadOnlyPaths="
# SQLite's shared memory and locks are not to be trusted there; the index is disposable, so it is only said.
_NETWORKED = frozenset(("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.glusterfs", "fuse.sshfs"))


def require(layout: Layout) -> None:
    """Raise StoreUnusable where there is no store: its path may be mistyped, or its disk not mounted."""
    if not is_begun(layout):
        raise StoreUnusable(
            f"there is no store in {layout.root}",
            "see whether storage.path is right and its disk is mounted; `mirror serve`, plan, sync and load make a new"
            " store",
        )


def is_begun(layout: Layout) -> bool:
    """Tell whether there is a store, whole or not; it counts as one where that cannot be told."""
    try:
        names = set(os.listdir(layout.root))
    except FileNotFoundError:
        return False
    except OSError:
        return True  # whoever may look, and `prepare`, know better
    return bool(names & {layout.format.name, *(folder.name for folder in _holding(layout))})


def try_out(layout: Layout) -> None:
    """See whether a store can be made in a folder that holds none. Nothing stays there of that.

    Raises as `prepare` does.
    """
    try:
        _check_owner(layout)
        _check_format(layout, set(os.listdir(layout.root)))
        _probe(layout.root, layout.root)
    except OSError as error:
        raise _refused(layout.root, error) from error


def prepare(layout: Layout, *, begins: bool = True) -> tuple[str, ...]:
    """Make the tree where it is missing, and check that this process can use it; return warnings.

    `begins`: where there is no store yet, one is made. Takes milliseconds whatever is in the store. Raises StoreFull
    where there is no room to make it; StoreUnusable: no store, another owner, another format, something else in the
    directory, or a file system that does not keep modes, whole-second mtimes, locks, case or atomic renames.
    A store on a full or read-only file system is served as it is, and so is one that has lost a folder in which content
    or its names were, which is noted (faults.py): it is not made, because it may only not be mounted. Making a store is
    one step, whoever else makes it.
    """
    root = layout.root
    if not begins:
        require(layout)
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(layout)
    except OSError as error:
        remedy = _READ_ONLY if error.errno == errno.EROFS else "see storage.path"
        raise StoreUnusable(f"the store {root} cannot be used ({error.strerror})", remedy) from error
    try:
        with _alone(root):
            check_owners(layout, os.geteuid())
            names = set(os.listdir(root))
            is_new = _check_format(layout, names)
            _make_tree(layout, names)
            if is_new:
                if not names & {folder.name for folder in _holding(layout)}:
                    Marked(layout).write({})  # nothing was pushed yet
                # Last, so that a store which has it has all of its folders.
                content = json.dumps({"format": FORMAT}).encode() + b"\n"
                files.write_atomically(str(layout.format), content, durable=True)
        _probe(root, layout.run)
        _note_lasting(layout)
    except OSError as error:
        made = all(os.access(path, os.F_OK) for path in (layout.format, *_working(layout)))
        if error.errno == errno.EROFS:
            if made:
                what = f"the store {root} is on a read-only file system: what is here is served, nothing can be kept"
                return (what,)
        elif error.errno in NO_ROOM and made:
            lacks = "is out of inodes" if files.lacks_inodes(root) else f"is full ({error.strerror})"
            return (f"the file system of the store {root} {lacks}; it could not be probed",)
        raise _refused(root, error) from error
    finally:
        files.expect(root, (*_holding(layout), *_lasting(layout), *_lasted(layout)))
    kind = file_system_type(layout.root)
    if kind in _NETWORKED:
        return (f"the store {root} is on {kind}: only one machine may use it, and a local disk is faster and safer",)
    return ()


def _refused(root: Path, error: OSError) -> StoreError:
    """Return why there can be no store in `root`."""
    if error.errno == errno.EROFS:
        return StoreUnusable(f"the store {root} cannot be written ({error.strerror})", _READ_ONLY)
    if error.errno in NO_ROOM:
        return StoreFull(f"there is no room for a store in {root} ({error.strerror})", "free some space")
    remedy = f"look at {error.filename}" if error.filename else "see storage.path"
    return StoreUnusable(f"the store {root} cannot be used ({error.strerror})", remedy)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keep others who make this store out for the moment, where the file system locks folders. Raises OSError."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # NFS does not; then each step is one that others may have taken
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _check_owner(layout: Layout) -> None:
    """Raise StoreUnusable if the store belongs to somebody else."""
    user = os.geteuid()
    owner = owner_of(layout.root)
    if owner.st_uid == user or may_begin(layout.root, owner):
        return
    name = _user_name(owner.st_uid)
    raise StoreUnusable(
        f"the store {layout.root} belongs to {name}, and this runs as {_user_name(user)}", f"sudo -u {name} mirror …"
    )


def check_owners(layout: Layout, user: int) -> None:
    """Raise StoreUnusable if the first two levels of folders hold what is not of `user`. Raises OSError."""
    if user == 0:
        return  # whom nothing is closed to
    names = set(os.listdir(layout.root))
    for path in _first_levels(layout, names):
        try:
            owner = os.lstat(path).st_uid
        except FileNotFoundError:
            continue  # somebody's probe, which has ended
        except OSError as error:
            unreadable(str(path), error)  # noted: it is no reason to serve nothing
            continue
        if owner != user:
            mine = os.lstat(layout.format).st_uid if layout.format.name in names else user
            name = shlex.quote(_user_name(mine or user))
            raise StoreUnusable(
                f"{path} in the store belongs to {_user_name(owner)}, and the service runs as {_user_name(user)}",
                f"give it back, then start the service: sudo chown -R {name}: {shlex.quote(str(layout.root))}",
            )


def _first_levels(layout: Layout, names: set[str]) -> Iterator[Path]:
    """Yield what a store has at its top, and the folders in those that hold few. Raises OSError."""
    ours = {folder.name for folder in _folders(layout)} | _KNOWN - {"lost+found"}
    for name in sorted(names & ours):
        yield layout.root / name
    for folder in (layout.blobs, layout.hosted, layout.repositories, layout.sets, layout.run):
        # One that is closed by its mode is opened by `_make_tree`: that is no fault of the disk.
        if folder.name in names and os.lstat(folder).st_mode & stat.S_IRWXU == stat.S_IRWXU:
            with suppress(StoreUnreadable):  # noted
                yield from (Path(one.path) for one in files.entries(folder) if one.is_dir(follow_symlinks=False))


def _user_name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"#{user}"


def _check_format(layout: Layout, names: set[str]) -> bool:
    """Tell whether a store is still to be made. Raises OSError, and StoreUnusable for what this release cannot use."""
    try:
        content = files.read_small(str(layout.format), _FORMAT_LIMIT) if layout.format.name in names else None
    except StoreUnreadable:
        return False  # noted: it is no reason to serve nothing
    if content is None:
        ours = _KNOWN | {folder.name for folder in _folders(layout)}
        # A write of the format under way is ours, too, or left by whoever was killed in it; and so is a trial.
        others = (name for name in names - ours if not _FORMAT_WRITE.fullmatch(name) and not name.startswith(_PROBE))
        if foreign := sorted(others):
            raise StoreUnusable(
                f"{layout.root} holds other things ({foreign[0]}) and is no store",
                "point storage.path at a directory of its own",
            )
        return True
    try:
        found = json.loads(content)["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if type(found) is not int or found < 1:
        raise StoreUnusable(
            f"the store's format cannot be read from {layout.format}",
            f'restore it; this release writes {{"format": {FORMAT}}}',
        )
    if found > FORMAT:
        raise StoreUnusable(
            f"the store {layout.root} has format {found}, and this release knows format {FORMAT}",
            "use the release that wrote it, or a newer one",
        )
    return False


def _holding(layout: Layout) -> tuple[Path, ...]:
    """Return the folders without which nobody can say what a store holds: each release has made them."""
    return (layout.blobs, layout.repositories, layout.sets)


def _working(layout: Layout) -> tuple[Path, ...]:
    return (layout.ingest, layout.uploads, layout.run, layout.locks, layout.index, layout.quarantine)


def _folders(layout: Layout) -> tuple[Path, ...]:
    return (*_holding(layout), *_working(layout))


def _make_tree(layout: Layout, names: set[str]) -> None:
    """Make what is missing of a store that had `names`, for the owner alone.

    Raises OSError, and StoreUnusable for what is mounted inside.
    """
    root = os.stat(layout.root)
    if root.st_uid == os.geteuid():
        _close(layout.root)
    lost = _lost(layout, names)
    for folder in _folders(layout):
        if folder in lost:
            unreadable(str(folder), FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
            continue
        folder.mkdir(mode=0o700, exist_ok=True)
        _close(folder)
        if os.stat(folder).st_dev != root.st_dev:
            raise StoreUnusable(
                f"{folder} is on another file system than {layout.root}, and content moves between them by rename",
                "put the whole store on one file system",
            )
    # Made now, because what makes room on a full disk needs them.
    for key in ("space", "pins", "index", "sets", "purge", "gc", "gc turn", "gc run", "marked"):
        Path(layout.lock(key)).touch(mode=0o600)
    layout.housekeeping_lock.touch(mode=0o600)


def mend(layout: Layout) -> None:
    """Make again, in a store that is there, the folders in which only what is under way is, where somebody took them.

    What is in the place of a folder is noted (faults.py), and what has come by now may not go. For threads; it takes
    microseconds.
    """
    if files.expect_also(layout.root, _lasting(layout)):
        with suppress(OSError):  # where nothing can be written, nothing has come
            _note_lasting(layout)
    for gone in files.missing(layout.root):
        unreadable(gone, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
    for folder in (*_working(layout), layout.hosted, layout.brought):
        if files.is_there(f"{folder}/"):
            continue
        if os.path.lexists(folder):
            unreadable(f"{folder}/", NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
        elif folder in _working(layout):
            with suppress(OSError):  # noted
                files.make_folders(str(folder))


def _lasting(layout: Layout) -> list[str]:
    """Return those folders that are made when they are needed first, and are there now."""
    return [folder for folder in _those_that_last(layout) if files.is_there(f"{folder}/")]


def _lasted(layout: Layout) -> list[str]:
    """Return those that were there when this store was served last, as far as that is known."""
    with suppress(StoreUnreadable):
        noted = (files.read_record(str(layout.lasting), _FORMAT_LIMIT) or b"").decode("ascii", "replace").split()
        return [folder for folder in _those_that_last(layout) if os.path.relpath(folder, layout.root) in noted]
    return []


def _note_lasting(layout: Layout) -> None:
    """Note which of those folders have come, for whoever serves this store next. Raises OSError."""
    noted = _lasted(layout)
    if new := [folder for folder in _lasting(layout) if folder not in noted]:
        names = sorted(os.path.relpath(folder, layout.root) for folder in (*noted, *new))
        files.write_atomically(str(layout.lasting), "".join(f"{name}\n" for name in names).encode(), durable=False)


def _those_that_last(layout: Layout) -> tuple[str, ...]:
    return tuple(f"{layout.root}/{name}" for name in _LASTING)


def _lost(layout: Layout, names: set[str]) -> tuple[Path, ...]:
    """Return the folders that a store which had `names` should have had: where it had none of them, it is just made."""
    holding = _holding(layout)
    if layout.format.name in names and any(folder.name in names for folder in holding):
        return tuple(folder for folder in holding if folder.name not in names)
    return ()


def _close(folder: Path) -> None:
    if stat.S_IMODE(os.stat(folder, follow_symlinks=False).st_mode) != 0o700:
        os.chmod(folder, 0o700)


def _probe(root: Path, place: Path) -> None:
    """Try in `place`, a folder of the store, all that its file system must keep.

    Raises StoreUnusable, and OSError where it cannot write.
    """
    with tempfile.TemporaryDirectory(prefix=_PROBE, dir=place) as name:
        folder = Path(name)
        checks: tuple[tuple[str, Callable[[Path], bool]], ...] = (
            ("the mode of a file", _keeps_mode),
            ("whole-second modification times", _keeps_mtime),
            ("locks (flock)", _keeps_locks),
            ("one content a rename", _renames),
            ("names that differ by case alone", _keeps_case),
        )
        for what, keeps in checks:
            try:
                kept = keeps(folder)
            except OSError as error:
                if error.errno in (*NO_ROOM, errno.EROFS):
                    raise
                kept = False
            if not kept:
                kind = file_system_type(root) or "of unknown kind"
                raise StoreUnusable(
                    f"the file system of {root} ({kind}) does not keep {what}",
                    "use a local file system such as XFS or ext4",
                )


def _keeps_mode(folder: Path) -> bool:
    path = folder / "mode"
    path.touch(mode=0o600)
    os.chmod(path, files.SEALED_MODE)
    return stat.S_IMODE(path.stat().st_mode) == files.SEALED_MODE


def _keeps_mtime(folder: Path) -> bool:
    path = folder / "mtime"
    path.write_bytes(b"12345")
    sealed = files.seal_time(5)  # an odd second: FAT keeps even ones
    os.utime(path, (sealed, sealed))
    return path.stat().st_mtime_ns == sealed * 1_000_000_000


def _keeps_locks(folder: Path) -> bool:
    """Whether a held flock keeps out a second descriptor, and another process where this one may fork."""
    path = folder / "lock"
    held, other = FileLock(path), FileLock(path)
    if not held.try_acquire():
        return False
    try:
        if other.try_acquire():
            return False
        # A fork beside threads may deadlock; serve and check come here before they have any.
        return threading.active_count() > 1 or not _child_gets(other)
    finally:
        held.release()
        other.release()


def _child_gets(lock: FileLock) -> bool:
    child = os.fork()
    if not child:
        status = 2
        try:
            status = int(lock.try_acquire())
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended) != 0


def _renames(folder: Path) -> bool:
    """Whether a rename replaces what is there, takes the file itself along, and leaves it to who has it open."""
    old, new = folder / "old", folder / "new"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    number = new.stat().st_ino
    with old.open("rb") as reader:
        os.rename(new, old)
        kept = reader.read() == b"old"
    return kept and not new.exists() and old.read_bytes() == b"new" and old.stat().st_ino == number


def _keeps_case(folder: Path) -> bool:
    (folder / "Case").touch()
    return not (folder / "case").exists()
