"""Uploads on disk: one holder, an offset that lasts, promises that end, and what was pushed is never evicted."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror.config import Amount, Storage
from mirror.errors import NotYet, StoreError, StoreFull, UploadUnknown
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store import hosted as hosted_module
from mirror.store import uploads as uploads_module
from mirror.store.hosted import Hosted
from mirror.store.index import Index
from mirror.store.layout import Layout
from mirror.store.lock import FileLock
from mirror.store.manifests import Manifests
from mirror.store.probe import prepare
from mirror.store.promises import UNIT
from mirror.store.quarantine import Quarantine
from mirror.store.repositories import find_repositories
from mirror.store.sets import Sets
from mirror.store.space import Space
from mirror.store.upload import Upload
from mirror.store.uploads import Uploads
from tests.tools import mounts

MIB = 1 << 20
DAY = 86400
NAME = "team/app"
BODY = os.urandom(100_000)
UNKNOWN = "aeff82ad-8401-4ce5-8dd6-e4132ccf2889"
DIGEST = Digest.of(BODY)


class Store:
    """A store that is pushed to."""

    def __init__(self, root: Path, *, boot: str = "today", cache_size: int | None = None, keep_free: int = 0) -> None:
        self.layout = Layout(root)
        prepare(self.layout)
        self.uploads = Uploads(self.layout, boot)
        self.hosted = Hosted(self.layout)
        self.index = Index(self.layout, Quarantine(self.layout))
        storage = Storage(path=root, cache_size=cache_size, keep_free=Amount(bytes=keep_free))
        self.space = Space(self.layout, self.index, storage)

    def begin(self, content: bytes = b"") -> str:
        """Begin an upload that holds `content` and is left alone."""
        upload = self.uploads.begin(NAME, "sha256", "ci")
        upload.append(0, content, hashlib.sha256())
        upload.rest()
        upload.close()
        return upload.identity

    def take(self, identity: str) -> Upload:
        found = self.uploads.take(identity, NAME)
        assert found is not None
        return found

    def put(self, content: bytes) -> Digest:
        """Keep content that nobody pushed, as the cache does."""
        digest = Digest.of(content)
        files.write_atomically(self.layout.blob(digest), content, durable=False, mode=0o600)
        self.index.note(digest, len(content))
        self.index.flush()
        self.index.rebuilt(self.index.identity())
        return digest

    def names(self) -> list[str]:
        return sorted(os.listdir(self.layout.uploads))


Make = Callable[..., Store]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Store] = []

    def make_store(**options: Any) -> Store:
        made.append(Store(tmp_path / "store", **options))
        return made[-1]

    yield make_store
    for store in made:
        store.index.close()


@pytest.fixture
def store(make: Make) -> Store:
    return make()


@pytest.fixture
def days_on(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A ctime cannot be set, so it is the clock that moves."""
    now = time.time

    def move(days: float) -> None:
        monkeypatch.setattr(time, "time", lambda: now() + days * DAY)

    return move


# -- one upload


def test_an_upload_grows_and_becomes_a_sealed_blob(store: Store) -> None:
    upload = store.uploads.begin(NAME, "sha256", "ci")
    hasher = hashlib.sha256()
    assert upload.append(0, BODY[:60_000], hasher) == 60_000
    assert upload.append(60_000, bytearray(BODY[60_000:]), hasher) == upload.size == len(BODY)
    upload.rest()
    assert hasher.hexdigest() == DIGEST.hex
    upload.commit(DIGEST)
    upload.close()
    upload.close()
    status = os.stat(store.layout.blob(DIGEST))
    assert Path(store.layout.blob(DIGEST)).read_bytes() == BODY
    assert files.is_sealed(status)
    assert store.names() == []
    with pytest.raises(UploadUnknown):
        store.uploads.take(upload.identity, NAME)


@pytest.mark.parametrize("identity", ["", "x", "../../format", UNKNOWN, UNKNOWN.upper(), "a" * 500])
def test_no_other_name_leads_to_an_upload(store: Store, identity: str) -> None:
    store.begin()
    for ask in (store.uploads.take, store.uploads.offset):
        with pytest.raises(UploadUnknown):
            ask(identity, NAME)


def test_an_upload_is_its_repositorys_alone(store: Store) -> None:
    identity = store.begin(BODY)
    for name in ("team/other", "team", "team/app/more"):
        with pytest.raises(UploadUnknown):
            store.uploads.take(identity, name)
        with pytest.raises(UploadUnknown):
            store.uploads.offset(identity, name)
    assert store.uploads.offset(identity, NAME) == len(BODY)


def test_only_one_holds_an_upload(store: Store, make: Make) -> None:
    identity = store.begin(b"12345")
    first = store.take(identity)
    for other in (store, make()):
        assert other.uploads.take(identity, NAME) is None
        assert other.uploads.offset(identity, NAME) == 5
    first.close()
    second = make().take(identity)
    assert second.size == 5
    second.close()


def test_one_that_was_dropped_while_somebody_waited_is_unknown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = store.begin()
    locks = fcntl.flock

    def drop_first(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", locks)
        holder = store.take(identity)
        holder.drop()
        holder.close()
        locks(fd, operation)

    monkeypatch.setattr(fcntl, "flock", drop_first)
    with pytest.raises(UploadUnknown):
        store.uploads.take(identity, NAME)
    assert store.names() == []


def test_what_is_cut_is_gone_and_promises_nothing(store: Store) -> None:
    upload = store.uploads.begin(NAME, "sha256", "ci")
    upload.append(0, BODY, hashlib.sha256())
    upload.promise(50 * MIB)
    assert store.space.promised() > 40 * MIB
    upload.cut(10)
    assert upload.size == 10
    assert store.space.promised() == 0
    upload.close()


def test_bytes_are_hashed_again_from_any_place(store: Store) -> None:
    upload = store.take(store.begin(BODY))
    hasher = hashlib.sha256(BODY[:777])
    upload.hash(hasher, 777, len(BODY))
    assert hasher.digest() == hashlib.sha256(BODY).digest()
    with pytest.raises(StoreError):
        upload.hash(hasher, 0, len(BODY) + 1)
    upload.close()


def test_after_another_boot_what_was_not_synced_is_not_counted(store: Store, make: Make) -> None:
    upload = store.uploads.begin(NAME, "sha256", "ci")
    upload.append(0, BODY[:5000], hashlib.sha256())
    upload.rest()
    upload.promise(len(BODY))
    upload.append(5000, BODY[5000:], hashlib.sha256())
    upload.close()
    same = make().take(upload.identity)
    assert same.size == len(BODY)
    same.close()
    later = make(boot="tomorrow")
    after = later.take(upload.identity)
    assert after.size == 5000
    assert (after.note.boot, after.note.synced, after.note.who) == ("tomorrow", 5000, "ci")
    after.close()
    assert later.space.promised() == 0
    again = make(boot="tomorrow").take(upload.identity)
    assert again.size == 5000
    again.close()


def test_one_that_was_sealed_and_not_renamed_goes_on(store: Store) -> None:
    """What a kill between the two leaves; for root a read-only file is no hindrance, so it is not asked of root."""
    identity = store.begin(BODY)
    os.chmod(store.layout.upload(identity), files.SEALED_MODE)
    upload = store.take(identity)
    upload.append(len(BODY), b"more", hashlib.sha256())
    upload.close()


def test_a_sealed_upload_is_opened_by_its_owner(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = store.begin(BODY)
    path = store.layout.upload(identity)
    os.chmod(path, files.SEALED_MODE)
    opens = os.open

    def as_owner(name: Any, flags: int, *more: Any, **named: Any) -> int:
        if name == path and flags & os.O_RDWR and not os.stat(path).st_mode & stat.S_IWUSR:
            raise PermissionError(13, "Permission denied", name)
        return opens(name, flags, *more, **named)

    monkeypatch.setattr(os, "open", as_owner)
    upload = store.take(identity)
    assert upload.size == len(BODY)
    upload.close()


@pytest.mark.parametrize(
    "note",
    [b"", b"{", b"[]", b"null", b'{"name": "team/app"}', b"\xff" * 100, b"[" * 10_000],
    ids=["empty", "cut", "list", "null", "too little", "binary", "deep"],
)
def test_a_damaged_note_is_no_upload(store: Store, note: bytes) -> None:
    identity = store.begin(BODY)
    Path(store.layout.upload_note(identity)).write_bytes(note)
    with pytest.raises(UploadUnknown):
        store.uploads.take(identity, NAME)


def test_notes_of_wrong_types_are_none(store: Store) -> None:
    identity = store.begin(BODY)
    path = Path(store.layout.upload_note(identity))
    whole = json.loads(path.read_text())
    for key, value in {"size": "1", "synced": None, "name": 7, "boot": [], "algorithm": None}.items():
        path.write_text(json.dumps({**whole, key: value}))
        with pytest.raises(UploadUnknown):
            store.uploads.take(identity, NAME)
    path.write_text(json.dumps(whole))
    store.take(identity).close()


# -- room


def test_an_idle_upload_promises_nothing_and_a_request_what_it_says(store: Store) -> None:
    upload = store.take(store.begin(BODY))
    assert store.space.promised() == 0
    store.space.reserve_upload(upload.identity, NAME, 20 * MIB, lambda: upload.promise(20 * MIB))
    assert 19 * MIB < store.space.promised() <= 20 * MIB
    store.space.reserve_upload(upload.identity, NAME, None, lambda: upload.promise(None))
    assert UNIT - MIB < store.space.promised() <= UNIT
    upload.rest()
    assert store.space.promised() == 0
    upload.close()


def test_cache_size_does_not_bound_what_is_pushed(make: Make) -> None:
    store = make(cache_size=MIB)
    store.put(os.urandom(4096))
    upload = store.take(store.begin())
    store.space.reserve_upload(upload.identity, NAME, 100 * MIB, lambda: upload.promise(100 * MIB))
    upload.close()


def test_no_room_is_said_with_the_numbers_and_evicts_nothing(make: Make) -> None:
    store = make()
    kept = store.put(os.urandom(4096))
    upload = store.take(store.begin())
    with pytest.raises(StoreFull, match=r"no room for .*GiB of a push to team/app: .* are free of") as caught:
        store.space.reserve_upload(upload.identity, NAME, 1 << 50, lambda: upload.promise(1 << 50))
    assert "cache_size" not in str(caught.value)
    assert store.space.promised() == 0
    assert os.path.exists(store.layout.blob(kept))
    upload.close()


def test_a_full_disk_is_a_full_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = store.take(store.begin(b"12345"))

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreFull, match="ran out of room"):
        upload.append(5, BODY, hashlib.sha256())
    monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(StoreError, match="failed during a push"):
        upload.append(5, BODY, hashlib.sha256())
    upload.close()


def fill_small_disk(root: Path) -> None:
    store = Store(root / "store", keep_free=4 * MIB)
    cached = store.put(os.urandom(8 * MIB))
    pushed = store.put(os.urandom(6 * MIB))
    store.hosted.add(pushed)
    first, second = (store.uploads.begin(NAME, "sha256", "ci") for _ in range(2))
    store.space.reserve_upload(first.identity, NAME, 15 * MIB, lambda: first.promise(15 * MIB))
    assert not os.path.exists(store.layout.blob(cached)), "what can be had again makes room"
    assert os.path.exists(store.layout.blob(pushed))
    with pytest.raises(StoreFull):
        store.space.reserve_upload(second.identity, NAME, 15 * MIB, lambda: second.promise(15 * MIB))
    first.close()
    # The first is gone and nobody holds it, so its promise is room.
    store.space.reserve_upload(second.identity, NAME, 15 * MIB, lambda: second.promise(15 * MIB))
    second.close()
    store.index.close()


def test_room_for_pushes_on_a_disk_that_is_small(tmp_path: Path) -> None:
    mounts.on_small_disk(fill_small_disk, tmp_path, "32m")


# -- what is left behind


def test_uploads_go_after_a_week_unless_somebody_holds_them(store: Store, days_on: Callable[[float], None]) -> None:
    old, held = store.begin(BODY), store.begin(BODY)
    holder = store.take(held)
    orphan = store.layout.uploads / f"{uuid.uuid4()}.json"
    orphan.write_text("{}")
    foreign = store.layout.uploads / "readme.part"
    foreign.write_text("not ours")
    days_on(6.9)
    store.space.remove_leftovers()
    assert store.uploads.offset(old, NAME) == len(BODY)
    assert orphan.exists()
    days_on(7.1)
    assert store.space.remove_leftovers() >= len(BODY)
    with pytest.raises(UploadUnknown):
        store.uploads.offset(old, NAME)
    assert store.uploads.offset(held, NAME) == len(BODY)
    assert not orphan.exists()
    assert foreign.exists()
    holder.close()


def test_the_temporary_notes_of_the_dead_go_after_a_day(store: Store, days_on: Callable[[float], None]) -> None:
    left = store.layout.uploads / f"{uuid.uuid4()}.json.12-ab~"
    left.write_text("{}")
    store.space.remove_leftovers()
    assert left.exists()
    days_on(1.1)
    store.space.remove_leftovers()
    assert not left.exists()


def test_what_a_cut_off_request_promised_is_given_back(store: Store) -> None:
    """A process that is killed leaves its promise: nobody holds the upload then, and its room is needed."""
    dead, alive = store.uploads.begin(NAME, "sha256", "ci"), store.uploads.begin(NAME, "sha256", "ci")
    for upload in (dead, alive):
        upload.append(0, BODY, hashlib.sha256())
        upload.promise(50 * MIB)
    dead.close()
    before = store.space.promised()
    assert store.uploads.tidy() >= 49 * MIB
    assert before - store.space.promised() >= 49 * MIB
    assert 49 * MIB < store.space.promised() < 51 * MIB
    assert store.uploads.offset(dead.identity, NAME) == len(BODY)
    alive.close()
    assert store.uploads.tidy() >= 49 * MIB
    assert store.space.promised() == 0
    assert store.uploads.tidy() == 0


def test_what_a_request_will_bring_is_held_until_its_process_is_gone(store: Store) -> None:
    def held(besides: str = "") -> int:
        return store.uploads.held(NAME.__eq__, besides)

    upload = store.uploads.begin(NAME, "sha256", "ci")
    upload.append(0, BODY, hashlib.sha256())
    upload.promise(None)
    assert held() == len(BODY)
    upload.promise(5 * MIB)
    assert held() == 5 * MIB
    assert held(upload.identity) == store.uploads.held("other".__eq__) == 0
    upload.close()
    assert held() == len(BODY)
    upload = store.take(upload.identity)
    upload.count()
    assert held() == 0, "it counts as a blob"
    upload.promise(5 * MIB)
    assert held() == 5 * MIB
    upload.close()
    # Notes of before know nothing of that.
    path = store.layout.uploads / f"{upload.identity}.json"
    note = json.loads(path.read_text())
    del note["counted"]
    path.write_text(json.dumps(note))
    assert held() == len(BODY)


def test_there_are_only_so_many(
    store: Store, monkeypatch: pytest.MonkeyPatch, days_on: Callable[[float], None]
) -> None:
    monkeypatch.setattr(uploads_module, "_MOST", 3)
    monkeypatch.setattr(uploads_module, "_CROWD", 3)
    old = [store.begin(BODY) for _ in range(3)]
    with pytest.raises(NotYet, match="too many uploads"):
        store.begin()
    assert [store.uploads.offset(identity, NAME) for identity in old] == [len(BODY)] * 3
    days_on(0.05)
    new = store.begin()
    assert store.names() == [f"{new}.json", f"{new}.part"]


def test_one_client_leaves_places_for_others(
    store: Store, monkeypatch: pytest.MonkeyPatch, days_on: Callable[[float], None]
) -> None:
    for name, number in (("_MOST", 16), ("_CROWD", 8), ("_SHARE", 2)):
        monkeypatch.setattr(uploads_module, name, number)
    paused = store.begin(BODY)
    empty = [store.begin() for _ in range(7)]
    for _ in range(2):
        with pytest.raises(NotYet, match="begun by ci") as refused:
            store.begin()
        assert "of your own" in refused.value.remedy
        store.uploads.begin(NAME, "sha256", "bob").close()
    with pytest.raises(NotYet, match="begun by bob"):
        store.uploads.begin(NAME, "sha256", "bob")
    # One that ends gives its place to others, and to its own client once that has its share or nobody lacks any.
    store.take(empty.pop()).drop()
    with pytest.raises(NotYet):
        store.begin()
    # What has no byte goes first, what was paused stays: there is place enough without it.
    days_on(0.01)
    new = store.begin()
    assert store.names() == sorted(f"{one}{end}" for one in (paused, new) for end in (".json", ".part"))


def test_what_has_bytes_goes_only_where_no_place_is_left(
    store: Store, monkeypatch: pytest.MonkeyPatch, days_on: Callable[[float], None]
) -> None:
    for name, number in (("_MOST", 4), ("_CROWD", 2)):
        monkeypatch.setattr(uploads_module, name, number)
    paused = [store.begin(BODY) for _ in range(3)]
    store.begin()
    days_on(0.5)
    store.begin()
    assert [store.uploads.offset(identity, NAME) for identity in paused] == [len(BODY)] * 3


# -- what was pushed stays


def test_markers(store: Store) -> None:
    other = Digest.of(b"other", "sha512")
    assert not store.hosted.has(DIGEST)
    began = time.time()
    store.hosted.add(DIGEST)
    store.hosted.add(other)
    assert store.hosted.has(DIGEST)
    assert {marker.digest for marker in store.hosted.walk()} == {DIGEST, other}
    assert all(began - 1 <= marker.pushed <= time.time() + 1 for marker in store.hosted.walk())
    (store.layout.hosted / "sha256" / "foreign").touch()
    assert {marker.digest for marker in store.hosted.walk()} == {DIGEST, other}
    with Sets(store.layout).pinning():
        assert store.hosted.remove(DIGEST)
        assert not store.hosted.remove(DIGEST)
    assert not store.hosted.has(DIGEST)


def test_pushing_again_renews_the_marker(store: Store) -> None:
    store.hosted.add(DIGEST)
    os.utime(store.layout.marker(DIGEST), (0, 0))
    store.hosted.add(DIGEST)
    (marker,) = store.hosted.walk()
    assert marker.pushed > time.time() - 60


def test_only_what_is_here_is_kept(store: Store) -> None:
    assert not store.hosted.keep(DIGEST)
    assert not store.hosted.has(DIGEST)
    store.put(BODY)
    assert store.hosted.keep(DIGEST)
    assert store.hosted.has(DIGEST)


def test_size_counts_what_is_here_and_is_not_asked_each_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted_module, "_LOOK_AGAIN", 0)
    monkeypatch.setattr(hosted_module, "_LOOK_SHARE", 0)
    assert store.hosted.size() == 0
    store.put(BODY)
    store.hosted.add(DIGEST)
    store.hosted.add(Digest.of(b"not here"))
    assert store.hosted.size() == len(BODY)
    assert store.hosted.size(besides={str(DIGEST)}) == 0
    assert store.hosted.size() == len(BODY)
    monkeypatch.setattr(hosted_module, "_LOOK_AGAIN", 60)
    assert store.hosted.size() == len(BODY)
    os.unlink(store.layout.blob(DIGEST))
    assert store.hosted.size() == len(BODY)


def test_what_was_pushed_is_never_evicted(store: Store) -> None:
    pushed, cached = store.put(os.urandom(8192)), store.put(os.urandom(8192))
    store.hosted.add(pushed)
    assert store.space.eviction.cached() == store.space.eviction.evictable() == 8192
    store.space.eviction.free(1 << 40)
    assert os.path.exists(store.layout.blob(pushed))
    assert not os.path.exists(store.layout.blob(cached))
    assert not store.space.eviction.delete([pushed])
    assert os.path.exists(store.layout.blob(pushed))


def test_without_an_index_what_was_pushed_stays_too(store: Store) -> None:
    pushed = store.put(os.urandom(8192))
    store.hosted.add(pushed)
    store.index.forget((pushed,))
    for name in os.listdir(store.layout.index):
        if (store.layout.index / name).is_file():
            (store.layout.index / name).write_bytes(b"no database")
    assert store.space.eviction.cached() == 0
    assert store.space.eviction.free(1 << 40) == 0
    assert os.path.exists(store.layout.blob(pushed))


def test_what_is_pinned_and_pushed_is_kept_out_of_the_cache_once(store: Store) -> None:
    both, other = store.put(os.urandom(8192)), store.put(os.urandom(4096))
    store.hosted.add(both)
    plan = {"manifests": [], "blobs": [{"digest": str(both), "size": 8192}]}
    Sets(store.layout).write("prod", 1, json.dumps(plan).encode())
    assert store.space.eviction.cached() == 4096
    assert store.space.forecast({both: 8192, other: 4096}).evictable == 0


def test_what_is_pushed_while_room_is_being_made_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = store.put(os.urandom(8192))
    eviction, looked = store.space.eviction, False

    def pushed_meanwhile() -> Iterator[Digest]:
        nonlocal looked
        looked = True
        yield cached

    monkeypatch.setattr(eviction, "_candidates", pushed_meanwhile)
    has, asked = store.hosted.has, []

    def first_no(digest: Digest) -> bool:
        asked.append(digest)
        if len(asked) == 1:
            assert not has(digest)
            store.hosted.add(digest)
            return False
        return has(digest)

    monkeypatch.setattr(eviction._hosted, "has", first_no)
    assert eviction.free(8192) == 0
    assert looked
    assert len(asked) == 2
    assert os.path.exists(store.layout.blob(cached))


def test_a_marker_waits_for_the_eviction_that_looks(store: Store) -> None:
    """Under the same lock, so that content cannot go between its marker and the answer to the client."""
    thread = threading.Thread(target=store.hosted.add, args=(DIGEST,))
    with FileLock(store.layout.lock("pins")):
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert not store.hosted.has(DIGEST)
    thread.join(10)
    assert not thread.is_alive()
    assert store.hosted.has(DIGEST)


# -- whose it is


def test_a_pushed_row_is_written_to_disk_and_keeps_the_type(store: Store) -> None:
    rows = Manifests(store.layout)
    rows.add_pushed(NAME, DIGEST, len(BODY))
    row = rows.member(NAME, DIGEST)
    assert row is not None
    assert (row.media_type, row.size) == ("", len(BODY))
    path = Path(store.layout.membership(NAME, DIGEST))
    path.write_text('{"mediaType": "application/x", "size": null}')
    rows.add_pushed(NAME, DIGEST, len(BODY))
    row = rows.member(NAME, DIGEST)
    assert row is not None
    assert (row.media_type, row.size) == ("application/x", len(BODY))
    assert list(rows.list_blobs(NAME)) == [DIGEST]
    assert list(rows.list(NAME)) == []


def test_repositories_are_found_wherever_they_lie(store: Store) -> None:
    rows = Manifests(store.layout)
    names = {"app", "team/app", "team/app/more", "quay.io/org/app"}
    for name in names:
        rows.add_pushed(name, DIGEST, 1)
    files.write_atomically(store.layout.tag("only/tags", "v1"), b"{}", durable=False)
    (store.layout.repositories / "empty" / "folder").mkdir(parents=True)
    (store.layout.repositories / "Not A Name" / "_blobs").mkdir(parents=True)
    assert set(find_repositories(store.layout)) == names | {"only/tags"}


def leave_notes(store: Store, count: int, name: str = NAME, who: str = "ci") -> None:
    """Leave notes of uploads whose bytes are gone."""
    note = {"name": name, "algorithm": "sha256", "who": who, "started": 0.0, "size": 0, "boot": "today"}
    for _ in range(count):
        Path(store.layout.upload_note(str(uuid.uuid4()))).write_text(json.dumps(note))


@pytest.mark.parametrize("who", ["ci", "bob"])
def test_notes_without_an_upload_take_no_place(store: Store, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    for name, number in (("_MOST", 4), ("_CROWD", 2), ("_SHARE", 2)):
        monkeypatch.setattr(uploads_module, name, number)
    leave_notes(store, 40)
    for _ in range(2):
        store.uploads.begin(NAME, "sha256", who).close()


LOOKS = {
    "a quota": lambda uploads: uploads.held(lambda name: name == NAME),
    "a client's share": lambda uploads: uploads._begun_by("ci"),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_notes_are_read_again_only_where_they_changed(
    store: Store, monkeypatch: pytest.MonkeyPatch, look: Callable[[Uploads], int]
) -> None:
    ids = [store.begin(b"12345") for _ in range(20)]
    for identity in ids:
        note = store.layout.upload_note(identity)
        os.utime(note, (1e9, 1e9))
    read: list[str] = []
    real = uploads_module._read
    monkeypatch.setattr(uploads_module, "_read", lambda path: read.append(path) or real(path))
    before = look(store.uploads)
    assert len(read) == 20
    read.clear()
    assert look(store.uploads) == before
    assert read == []
    store.take(ids[3]).drop()
    assert look(store.uploads) == before * 19 // 20
    assert read == []
    note = Path(store.layout.upload_note(ids[5]))
    files.write_atomically(
        str(note), note.read_bytes().replace(b'"ci"', b'"al"').replace(NAME.encode(), b"x"), durable=False
    )
    assert look(store.uploads) == before * 18 // 20
    assert read == [str(note)]
    assert set(store.uploads._known) < set(ids), "what is gone is not remembered, nor what changed just now"


def test_who_is_refused_a_place_does_not_look_at_all_uploads_each_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, number in (("_MOST", 4), ("_CROWD", 2), ("_SHARE", 2), ("_TIDY_SHARE", 1e9)):
        monkeypatch.setattr(uploads_module, name, number)
    for _ in range(2):
        store.begin(BODY)
    looks: list[str] = []
    tidy = Uploads._tidy
    monkeypatch.setattr(Uploads, "_tidy", lambda self, one, *ages: looks.append(one) or tidy(self, one, *ages))
    for _ in range(5):
        with pytest.raises(NotYet):
            store.begin()
    assert len(looks) == 2
