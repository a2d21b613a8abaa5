"""Purge: what was pulled through goes, and never what is pinned, was pushed, or another repository has."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mirror.config import Amount, Storage
from mirror.errors import NotHere, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store import ingest
from mirror.store.faults import DISK_FAULTS
from mirror.store.hosted import Hosted
from mirror.store.index import Index
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests
from mirror.store.pins import ImagePins, Pinned, pin_image
from mirror.store.probe import prepare
from mirror.store.purge import Purged, Purger
from mirror.store.quarantine import Quarantine
from mirror.store.references import References
from mirror.store.sets import Pins
from mirror.store.space import Space
from mirror.store.tags import TagRecord, Tags
from mirror.store.trees import grow
from tests.peers.images import OCI_MANIFEST, noise
from tests.unit.content.hosted_bed import image, index

A, B = "lab/team/a", "lab/team/b"


class Cache:
    """A store with what was pulled through of two repositories."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        prepare(self.layout)
        self.index = Index(self.layout, Quarantine(self.layout))
        self.space = Space(self.layout, self.index, Storage(path=root, keep_free=Amount(bytes=0)))
        self.purger = Purger(self.layout, self.space.eviction)
        self.rows, self.tags = Manifests(self.layout), Tags(self.layout)
        self.gone: dict[str, int] = {}

    def blob(self, content: bytes) -> Digest:
        digest = Digest.of(content)
        ingest.store_bytes(self.layout, digest, content)
        return digest

    def manifest(self, name: str, body: bytes, tag: str = "", blobs: tuple[bytes, ...] = ()) -> Digest:
        digest = self.blob(body)
        found = json.loads(body)
        self.rows.add_manifest(name, digest, found["mediaType"], len(body))
        tree = grow(self.layout, name, digest)
        for one in {**tree.blobs, **tree.manifests}:
            if one != digest:
                self.rows.add_brought(name, one)
        for content in blobs:
            self.blob(content)
        if tag:
            self.tags.write(name, tag, TagRecord(digest, found["mediaType"], 1.0), durable=False)
        return digest

    def image(self, name: str, seed: int, tag: str = "", *layers: bytes) -> Digest:
        own = noise(400, seed)
        return self.manifest(name, image(own, *layers), tag, (own, b"{}", *layers))

    def purge(self, name: str, what: str | Digest | None = None, *, dry_run: bool = False) -> Purged:
        self.gone = {}

        def gone(digest: Digest, size: int) -> None:
            self.gone[str(digest)] = size

        if what is None:
            return self.purger.repository(name, gone, dry_run=dry_run)
        if isinstance(what, Digest):
            return self.purger.digest(name, what, gone, dry_run=dry_run)
        return self.purger.tag(name, what, gone, dry_run=dry_run)

    def stored(self) -> set[str]:
        return {f"{path.parent.name}:{path.name}" for path in self.layout.blobs.glob("*/*")}

    def known(self, name: str) -> tuple[list[str], set[Digest], set[Digest]]:
        return self.tags.list(name), set(self.rows.list(name)), set(self.rows.list_blobs(name))

    def pin(self, name: str, digest: Digest) -> None:
        tree = grow(self.layout, name, digest)
        ImagePins(self.layout).write(Pinned(name, digest, tree.manifests, tree.blobs, 1.0, "me"))


@pytest.fixture
def cache(tmp_path: Path):
    made = Cache(tmp_path)
    yield made
    made.index.close()


def text(*contents: bytes) -> set[str]:
    return {str(Digest.of(content)) for content in contents}


def test_a_repository_goes_but_not_what_another_one_has(cache: Cache) -> None:
    shared = noise(900, 50)
    first = cache.image(A, 1, "v1", shared)
    cache.image(B, 2, "v1", shared)
    kept = cache.known(B)
    before = cache.stored()
    dry = cache.purge(A, dry_run=True)
    assert cache.stored() == before
    done = cache.purge(A)
    assert dry == done
    assert (done.tags, done.manifests, done.contents, done.shared, done.pinned) == (1, 1, 2, 2, 0)
    assert set(cache.gone) == {str(first), *text(noise(400, 1))} == before - cache.stored()
    assert done.bytes == sum(cache.gone.values())
    assert cache.known(A) == ([], set(), set())
    assert cache.known(B) == kept
    assert cache.purge(A) == Purged()
    assert cache.purge("lab/nothing") == Purged()


def test_a_tag_goes_with_what_it_alone_means(cache: Cache) -> None:
    base = noise(900, 50)
    first, second = cache.image(A, 1, "v1", base), cache.image(A, 2, "v2", base)
    cache.tags.write(A, "latest", TagRecord(second, OCI_MANIFEST, 1.0), durable=False)
    assert (cache.purge(A, "v2").tags, cache.gone) == (1, {}), "latest means it too"
    assert cache.purge(A, "v1").contents == 2
    assert set(cache.gone) == {str(first), *text(noise(400, 1))}
    tags, manifests, blobs = cache.known(A)
    assert (tags, manifests) == (["latest"], {second})
    assert {str(one) for one in blobs} == text(base, b"{}", noise(400, 2))
    assert cache.purge(A, "latest").contents == 4
    assert cache.stored() == set()
    assert cache.purge(A, "latest") == Purged()


def test_a_tag_that_cannot_be_read_goes(cache: Cache) -> None:
    first = cache.image(A, 1, "v1")
    Path(cache.layout.tag(A, "v1")).write_bytes(b"{")
    assert cache.purge(A, "v1").tags == 1
    assert cache.known(A)[:2] == ([], {first})


def test_an_index_goes_with_its_children_and_a_child_stays_that_a_tag_means(cache: Cache) -> None:
    bodies = [image(noise(400, seed)) for seed in (1, 2)]
    first, second = cache.image(A, 1), cache.image(A, 2, "arm")
    whole = cache.manifest(A, index(*bodies), "all")
    other = cache.manifest(A, index(bodies[0], bodies[1], annotations={"a": "b"}), "other")
    assert cache.purge(A, "other").contents == 1, "all names its children too"
    assert set(cache.gone) == {str(other)}
    assert cache.purge(A, "all").contents == 3
    assert set(cache.gone) == {str(whole), str(first), *text(noise(400, 1))}
    assert cache.known(A)[:2] == (["arm"], {second})
    assert {str(one) for one in cache.known(A)[2]} == {str(second), *text(noise(400, 2), b"{}")}


def test_a_digest_goes_with_the_tags_that_mean_it(cache: Cache) -> None:
    first, second = cache.image(A, 1, "v1"), cache.image(A, 2, "v2")
    cache.tags.write(A, "one", TagRecord(first, OCI_MANIFEST, 1.0), durable=False)
    assert cache.purge(A, first).tags == 2
    assert cache.known(A)[:2] == (["v2"], {second})
    assert str(first) not in cache.stored()


def test_a_child_that_is_asked_for_goes_although_its_index_stays(cache: Cache) -> None:
    bodies = [image(noise(400, seed)) for seed in (1, 2)]
    first, second = cache.image(A, 1), cache.image(A, 2)
    whole = cache.manifest(A, index(*bodies), "all")
    assert cache.purge(A, first).contents == 2
    assert set(cache.gone) == {str(first), *text(noise(400, 1))}
    tags, manifests, blobs = cache.known(A)
    assert (tags, manifests) == (["all"], {whole, second})
    assert first in blobs, "the index still names it"


def test_a_blob_goes_and_stays_a_member(cache: Cache) -> None:
    cache.image(A, 1, "v1")
    layer = Digest.of(noise(400, 1))
    assert cache.purge(A, layer).bytes == 400
    assert str(layer) not in cache.stored()
    assert cache.rows.is_member(A, layer)
    cache.image(B, 3, "v1", noise(700, 4))
    cache.image(A, 4, "v2", noise(700, 4))
    assert cache.purge(A, Digest.of(noise(700, 4))).shared == 1


@pytest.mark.parametrize("form", ["image", "set"])
def test_what_is_pinned_stays_whatever_is_purged(cache: Cache, form: str) -> None:
    base = noise(900, 50)
    first = cache.image(A, 1, "v1", base)
    second = cache.image(A, 2, "v2", base)
    if form == "image":
        cache.pin(A, first)
    else:
        tree = grow(cache.layout, A, first)
        entries = {
            kind: [{"digest": str(one), "size": size} for one, size in found.items()]
            for kind, found in (("manifests", tree.manifests), ("blobs", tree.blobs))
        }
        path = cache.layout.generation("prod", 1)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(entries))
    keeps = {str(first), *text(base, b"{}", noise(400, 1))}
    assert cache.purge(A, "v1").contents == 0
    assert cache.purge(A, first).contents == 0
    assert cache.purge(A, Digest.of(noise(400, 1))).pinned == 1
    cache.tags.write(A, "v1", TagRecord(first, OCI_MANIFEST, 1.0), durable=False)
    assert set(cache.gone) == set()
    assert cache.purge(A).pinned == 4
    assert set(cache.gone) == {str(second), *text(noise(400, 2))}
    assert cache.stored() == keeps
    tags, manifests, blobs = cache.known(A)
    assert (tags, manifests) == (["v1"], {first})
    assert {str(one) for one in (first, *blobs)} == keeps
    assert cache.space.eviction.free(10**9) == 0


@pytest.mark.parametrize("what", ["all", "tag", "digest"])
def test_an_image_that_is_pinned_meanwhile_keeps_its_names(
    cache: Cache, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cache.image(A, 1, "v1")
    before = cache.stored()
    real = Tags.remove

    def remove(tags: Tags, name: str, tag: str, *, durable: bool = False) -> bool:
        pin_image(cache.layout, A, first, "me")
        return real(tags, name, tag, durable=durable)

    monkeypatch.setattr(Tags, "remove", remove)
    total = cache.purge(A, {"all": None, "tag": "v1", "digest": first}[what])
    assert (total.manifests, total.contents, total.pinned) == (0, 0, 3)
    assert cache.stored() == before
    assert cache.known(A) == ([], {first}, {Digest.of(noise(400, 1)), Digest.of(b"{}")})


@pytest.mark.parametrize("what", ["content", "row"])
def test_an_image_that_goes_while_it_is_pinned_is_not_pinned(
    cache: Cache, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cache.image(A, 1, "v1")
    real = ImagePins.write

    def write(pins: ImagePins, pinned: Pinned) -> None:
        os.unlink(cache.layout.blob(first) if what == "content" else cache.layout.manifest(A, first))
        real(pins, pinned)

    monkeypatch.setattr(ImagePins, "write", write)
    with pytest.raises(NotHere, match="not here any more"):
        pin_image(cache.layout, A, first, "me")
    assert ImagePins(cache.layout).list() == []
    with pytest.raises(NotHere):
        pin_image(cache.layout, B, first, "me")


class KilledError(BaseException):
    """Ends a purge as a kill does: nothing is tidied up that Python would tidy."""


@pytest.mark.parametrize("what", ["all", "tag", "digest"])
def test_what_a_purge_leaves_that_is_killed_goes_with_the_next_one(
    cache: Cache, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, left = True, 0

    def counted(real: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any, **more: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KilledError
            real(*arguments, **more)

        return run

    after = 0
    while cut:
        first = cache.image(A, 1, "v1", noise(900, 50))
        kept = {str(cache.image(B, 2, "v1", noise(900, 50))), *text(noise(400, 2), noise(900, 50), b"{}")}
        left, cut = after, False
        with monkeypatch.context() as patch:
            for name in ("unlink", "rename"):
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                cache.purge(A, {"all": None, "tag": "v1", "digest": first}[what])
            except KilledError:
                cut = True
        _, manifests, blobs = cache.known(A)
        assert cache.stored() - kept <= {str(one) for one in manifests | blobs}, f"cut off after {after}"
        cache.purge(A)
        assert cache.stored() == kept
        after += 1
    assert after > 8


def test_what_a_purge_leaves_that_cannot_read_goes_with_the_next_one(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cache.image(A, 1, "v1")
    cache.image(A, 2, "v2")
    cache.pin(A, first)

    def named(references: References, name: str, digest: Digest) -> tuple[Digest, ...]:
        raise StoreUnreadable(f"{digest} cannot be read", "", 5, "")

    with monkeypatch.context() as patch:
        patch.setattr(References, "named", named)
        with pytest.raises(StoreUnreadable):
            cache.purge(A)
    cache.purge(A)
    assert cache.stored() == {str(first), *text(noise(400, 1), b"{}")}


def test_what_cannot_be_removed_stays_the_repositorys(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cache.image(A, 1, "v1")
    with monkeypatch.context() as patch:
        patch.setattr(Purger, "_delete", lambda *_: False)
        assert cache.purge(A).contents == 0
    assert first in cache.known(A)[2]
    assert cache.purge(A).contents == 3
    assert cache.stored() == set()


def test_what_is_shared_by_two_that_are_purged_at_once_goes(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (A, B):
        cache.image(name, 1, "v1")
    real, both = Purger._shared, threading.Barrier(2)

    def shared(purger: Purger, name: str, contents: Collection[Digest]) -> set[Digest]:
        found = real(purger, name, contents)
        with suppress(threading.BrokenBarrierError):
            both.wait(0.3)
        return found

    monkeypatch.setattr(Purger, "_shared", shared)
    purgers = [threading.Thread(target=cache.purge, args=(name,)) for name in (A, B)]
    for one in purgers:
        one.start()
    for one in purgers:
        one.join()
    assert cache.stored() == set()


def test_what_was_pushed_stays(cache: Cache) -> None:
    layer = noise(400, 1)
    cache.image(A, 1, "v1")
    Hosted(cache.layout).add(Digest.of(layer))
    assert cache.purge(A).pinned == 1
    assert cache.stored() == text(layer)


def test_a_repository_that_was_pushed_to_keeps_all_of_that(cache: Cache) -> None:
    first = cache.image(A, 1, "v1")
    second = cache.image(A, 2, "v2")
    for content in (first, Digest.of(noise(400, 1)), Digest.of(b"{}")):
        Hosted(cache.layout).add(content)
    cache.purger = Purger(cache.layout, cache.space.eviction, keep_pushed=True)
    for what in ("v2", None, first, Digest.of(noise(400, 1))):
        cache.purge(A, what)
    assert cache.known(A) == (["v1"], {first}, {Digest.of(noise(400, 1)), Digest.of(b"{}")})
    assert str(second) not in cache.stored()
    assert cache.stored() == {str(first), *text(noise(400, 1), b"{}")}


def test_an_image_is_given_up_again(cache: Cache) -> None:
    first = cache.image(A, 1, "v1")
    cache.pin(A, first)
    pins = Pins(cache.layout)
    assert set(pins.digests()) == cache.stored()
    (found,) = ImagePins(cache.layout).list()
    assert (str(found), found.who, set(map(str, found.content))) == (f"{A}@{first}", "me", cache.stored())
    assert ImagePins(cache.layout).read(A, first) == found
    assert ImagePins(cache.layout).read(B, first) is None
    assert ImagePins(cache.layout).remove(A, first)
    assert not ImagePins(cache.layout).remove(A, first)
    assert pins.digests() == {}
    cache.space.eviction.free(10**9)
    assert cache.stored() == set()


def test_pins_that_come_within_one_tick_of_the_clock_are_seen(cache: Cache) -> None:
    digests = [cache.image(A, seed) for seed in range(40)]
    pins = Pins(cache.layout)
    for number, digest in enumerate(digests):
        ImagePins(cache.layout).write(Pinned(A, digest, {digest: 1}, {}, 1.0, ""))
        assert len(pins.digests()) == number + 1


def test_a_damaged_pin_stops_eviction(cache: Cache) -> None:
    first = cache.image(A, 1, "v1")
    cache.pin(A, first)
    path = cache.layout.pin(A, first)
    os.truncate(path, 10)
    assert ImagePins(cache.layout).list() == []
    assert cache.space.eviction.free(10**9) == 0
    assert len(cache.stored()) == 3
    assert [(row["operation"], row["path"]) for row in DISK_FAULTS.told()] == [("parse", str(path))]
