"""Uploads under way: what clients push grows here, one request after the other, until its digest is told.

    uploads/<uuid>.part     the bytes; whoever changes them holds a flock on it
    uploads/<uuid>.json     whose it is, the room that it promises, and what of it surely is on disk

An upload's size is its offset: where the next bytes belong. It outlives the process; after another boot it is cut
back to what surely was on disk. All of this blocks and is for threads, apart from the properties of an open upload.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

from mirror import logs
from mirror.errors import NotYet, StoreUnreadable, UploadUnknown
from mirror.store import files
from mirror.store.layout import Layout
from mirror.store.promises import allocated, owed
from mirror.store.upload import IDLE, Upload, UploadNote, writing

AGE = 7 * 86400.0  # seconds without a change, after which nobody comes back to an upload

# What is under way at once. Each is a file that somebody has to look at; where so many are left behind, nobody is
# coming back to most of them. From half of it on nobody begins one who has an eighth of it: one client must not take
# the places of all.
_MOST = 4096
_CROWD = _MOST // 2
_SHARE = _MOST // 8
_CROWDED_AGE = 3600.0  # seconds
_CROWDED_EMPTY_AGE = 600.0  # of an upload without a byte: nothing is lost with it

_TIDY_SHARE = 20  # of the time that it takes to tidy, so many times it is not done again for want of places

_NOTE_LIMIT = 16 * 1024
_IDENTITY = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_log = logs.get("store.uploads")


class Uploads:
    """The uploads of a store. `boot` names this boot of the machine (ingest.boot_id)."""

    def __init__(self, layout: Layout, boot: str) -> None:
        self._layout = layout
        self._boot = boot
        self._known: dict[str, tuple[tuple[int, int], UploadNote]] = {}  # by identity: its file's stamp, and the note
        self._tidied: dict[tuple[float, float], tuple[float, float]] = {}  # by ages: when, and for how long to rest

    def begin(self, name: str, algorithm: str, who: str) -> Upload:
        """Begin an upload to repository `name` and return it, open. Raises StoreFull, StoreError.

        NotYet: more are under way than can be, even without those that nobody has changed for an hour; or many are,
        and too many of them are begun by `who`.
        """
        if self._places() >= _CROWD:
            self._make_place(who)
        identity = str(uuid.uuid4())
        note = UploadNote(name, algorithm, who, time.time(), IDLE, self._boot)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with writing(name):
            fd = os.open(self._layout.upload(identity), flags, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)  # at most tidy() is looking at it
                files.write_atomically(self._layout.upload_note(identity), note.dump(), durable=False)
            except BaseException:
                os.close(fd)
                files.remove(self._layout.upload(identity))
                raise
        return Upload(self._layout, identity, note, fd)

    def offset(self, identity: str, name: str) -> int:
        """Return how many bytes of an upload are here, whoever is writing it. Raises UploadUnknown."""
        self._note(identity, name)
        found = files.look(self._layout.upload(identity))
        if found is None:
            raise _unknown(identity, name)
        return found.st_size

    def take(self, identity: str, name: str) -> Upload | None:
        """Return an upload of repository `name`, None while somebody else has it. Raises UploadUnknown, StoreError."""
        self._note(identity, name)
        with writing(name):
            fd = self._open(identity)
        if fd is None:
            raise _unknown(identity, name)
        try:
            if not _lock(fd):
                os.close(fd)
                return None
            if files.look(self._layout.upload(identity)) is None:
                raise _unknown(identity, name)
            # Only now is the note what the last holder left.
            upload = Upload(self._layout, identity, self._note(identity, name), fd)
            if upload.note.boot != self._boot:
                self._recover(upload)
        except BaseException:
            os.close(fd)
            raise
        return upload

    def held(self, belongs: Callable[[str], bool], besides: str = "") -> int:
        """Return how many bytes uploads have in the repositories that `belongs` takes by their names.

        What a request under way will bring counts as here; the upload `besides` does not count.
        """
        size = 0
        for identity, note in self._notes():
            if identity != besides and belongs(note.name):
                size += self._held(identity, note)
        return size

    def _held(self, identity: str, note: UploadNote) -> int:
        path = self._layout.upload(identity)
        found = files.look(path)
        if found is None:
            return 0
        coming = max(found.st_size, note.size or 0)
        if (note.counted or coming > found.st_size) and _is_locked(path):
            return 0 if note.counted else coming
        return found.st_size

    def tidy(self, age: float = AGE, empty_age: float | None = None) -> int:
        """Remove uploads that nobody has changed for `age` seconds; take back what cut off requests promised.

        Those without a byte go after `empty_age`, where that is given. Return the bytes of room that this gives. Leaves
        alone what somebody is writing.
        """
        freed = 0
        for name in self._names():
            identity = name.rpartition(".")[0]
            if _IDENTITY.fullmatch(identity) is None:
                continue
            if name.endswith(".part"):
                freed += self._tidy(identity, age, age if empty_age is None else empty_age)
            elif name.endswith(".json") and files.look(self._layout.upload(identity)) is None:
                path = self._layout.upload_note(identity)
                if files.idle_for(path, age):
                    files.remove(path)
        return freed

    def _tidy(self, identity: str, age: float, empty_age: float) -> int:
        path, note_path = self._layout.upload(identity), self._layout.upload_note(identity)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return 0
        try:
            if not _lock(fd):
                return 0
            note = UploadNote.parse(files.read_record(note_path, _NOTE_LIMIT))
            held = allocated(path)
            promised = owed(note.size, held) if note is not None else 0
            if files.idle_for(path, age if files.status(fd).st_size else empty_age):
                files.remove(note_path)
                files.remove(path)
                _log.info("upload_abandoned", name=note.name if note is not None else "", bytes=held)
                return held + promised
            if note is not None and note.size != IDLE:
                files.write_atomically(note_path, replace(note, size=IDLE).dump(), durable=False)
        except (OSError, StoreUnreadable) as error:
            _log.warning("upload_not_tidied", upload=identity, error=str(error))
            return 0
        else:
            return promised
        finally:
            os.close(fd)

    def _make_place(self, who: str) -> None:
        """Make place for one more upload among many. Raises NotYet where there is none for `who`."""
        if self._begun_by(who) >= _SHARE:
            self._tidy_now_and_then(AGE, _CROWDED_EMPTY_AGE)
            if self._places() >= _CROWD and self._begun_by(who) >= _SHARE:
                _log.warning("too_many_uploads", most=_SHARE, who=who)
                raise NotYet(
                    f"many uploads are under way, and too many of them were begun by {who}",
                    "finish or cancel uploads of your own",
                )
        if self._places() >= _MOST:
            self._tidy_now_and_then(AGE, _CROWDED_EMPTY_AGE)
        if self._places() >= _MOST:
            self._tidy_now_and_then(_CROWDED_AGE, _CROWDED_EMPTY_AGE)
            if self._places() >= _MOST:
                _log.warning("too_many_uploads", most=_MOST, who=who)
                raise NotYet("too many uploads are under way", "finish or cancel some of them")

    def _tidy_now_and_then(self, age: float, empty_age: float) -> None:
        """Tidy, unless that was done lately: each who is refused a place would look at all of them again."""
        last, rest = self._tidied.get((age, empty_age), (0.0, 0.0))
        if not 0 <= time.time() - last < rest:
            began = time.monotonic()
            self.tidy(age, empty_age)
            self._tidied[age, empty_age] = (time.time(), _TIDY_SHARE * (time.monotonic() - began))

    def _places(self) -> int:
        """Return how many uploads there are; a note that was left behind without one takes no place."""
        return sum(name.endswith(".part") for name in self._names())

    def _begun_by(self, who: str) -> int:
        return sum(note.who == who for _, note in self._notes())

    def _notes(self) -> Iterator[tuple[str, UploadNote]]:
        """Yield the identity and the note of each upload; only notes that changed are read again.

        What is remembered is no more than there are uploads. Notes are replaced by others, never changed.
        """
        known, kept = self._known, {}
        for name in self._names():
            identity = name.removesuffix(".part")
            if identity == name:
                continue
            path = self._layout.upload_note(identity)
            found = files.look(path)
            if found is None:
                continue
            stamp = (found.st_ino, found.st_mtime_ns)
            old = known.get(identity)
            note = old[1] if old is not None and old[0] == stamp else _read(path)
            if note is None:
                continue
            if time.time_ns() - found.st_mtime_ns > files.TICK:
                kept[identity] = (stamp, note)
            yield identity, note
        self._known = kept

    def _names(self) -> list[str]:
        return files.names(self._layout.uploads)

    def _note(self, identity: str, name: str) -> UploadNote:
        """Return the note of an upload of repository `name`; another one's is as good as none."""
        if _IDENTITY.fullmatch(identity) is None:
            raise _unknown(identity, name)
        note = UploadNote.parse(files.read_record(self._layout.upload_note(identity), _NOTE_LIMIT))
        if note is None or note.name != name:
            raise _unknown(identity, name)
        return note

    def _open(self, identity: str) -> int | None:
        path = self._layout.upload(identity)
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            return None
        except PermissionError:
            if not files.unseal(path):
                raise
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            return None

    def _recover(self, upload: Upload) -> None:
        """Make an upload of another boot fit to go on with: what was not synced may be gone, or zeros."""
        kept = min(upload.size, upload.note.synced)
        upload.cut(kept)
        upload.note = replace(upload.note, boot=self._boot, synced=0)
        upload.rest()


def _read(note: str) -> UploadNote | None:
    """Return a note where many are looked at: one that cannot be read (which is noted) must not stop the others."""
    try:
        return UploadNote.parse(files.read_record(note, _NOTE_LIMIT))
    except StoreUnreadable:
        return None


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(path: str) -> bool:
    """Tell whether somebody has an upload: what its note says of a request is void where that one was killed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _unknown(identity: str, name: str) -> UploadUnknown:
    return UploadUnknown(f"{name} has no upload {identity[:36]}", "begin a new one")
