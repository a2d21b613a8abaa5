"""mirror ls, du, pin, unpin, purge and scrub over a store that was pulled through, pushed to, and damaged."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.admin import scrub as scrubbing
from mirror.admin.scrub_state import State, last_pass
from mirror.cli import choose
from mirror.oci.digest import Digest
from mirror.offline.plan import Image as PlannedImage
from mirror.offline.plan import Plan, PlannedBlob, PlannedManifest
from mirror.store import strays
from mirror.store.sets import Sets
from tests.faults.invariants import broken, sealed_files_hash_to_their_names
from tests.peers.images import OCI_LAYER, Image, digest_of, make_image, noise
from tests.unit.cli.care_bed import Site, Upstream
from tests.unit.content.hosted_bed import Shelf
from tests.unit.content.push_bed import APP

BASE = noise(3000, 77)
FIRST, SECOND = make_image(BASE, noise(1000, 1), seed=1), make_image(BASE, noise(500, 2), seed=2)
IMAGES = {("team/a", "v1"): FIRST, ("team/b", "v1"): SECOND}
A, B = "lab/team/a", "lab/team/b"


@pytest.fixture(autouse=True)
def loop_never_blocks() -> None:
    """A command serves nobody beside what it does, so its loop may wait for the disk."""


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(IMAGES) as opened:
        yield opened


@pytest.fixture
def site(tmp_path: Path, upstream: Upstream) -> Site:
    made = Site(tmp_path, upstream)
    made.configure()
    return made


def text(*contents: bytes) -> set[str]:
    return {str(Digest.of(content)) for content in contents}


def parts(image: Image) -> set[str]:
    return text(image.manifest, image.config, *image.layers)


# -- ls and du -----------------------------------------------------------------------------------------------------


def test_ls_says_what_is_here(site: Site) -> None:
    told = site.told("ls")
    assert (told["sets"], told["pins"], told["repositories"]) == ([], [], {"lab": 2})
    assert "lab" in site.run("ls").output
    assert [one["name"] for one in site.told("ls", "lab")["repositories"]] == [A, B]
    assert [one["name"] for one in site.told("ls", "lab/team/")["repositories"]] == [A, B]
    told = site.told("ls", A)
    (tag,) = told["tags"]
    assert (tag["tag"], tag["digest"], tag["here"], tag["pinned_by"]) == ("v1", FIRST.digest, True, [])
    assert told["here"] == {"contents": 4, "bytes": sum(map(len, (FIRST.manifest, FIRST.config, *FIRST.layers)))}
    site.path(noise(1000, 1)).unlink()
    told = site.told("ls", f"{A}:v1")
    assert told == site.told("ls", f"{A}@{FIRST.digest}")
    assert {one["digest"]: one["here"] for one in told["contents"]} == {
        one: one != digest_of(noise(1000, 1)) for one in parts(FIRST)
    }
    assert "; 1 missing; pinned" in site.run("ls", f"{A}:v1").output


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("ls", "lab/none"), 1, "nothing of lab/none is here"),
        (("ls", f"{A}:v2"), 1, "no tag"),
        (("ls", f"{A}@{digest_of(b'x')}"), 1, "is not here"),
        (("ls", "Lab/x"), 78, "not a repository name"),
        (("ls", "nothing"), 78, "neither a file nor a set"),
        (("ls", "gcr.io/x"), 1, "no upstream"),
        (("pin", A), 78, "mirror ls"),
        (("pin", f"{A}:v1"), 78, f"a tag may move, so it takes a digest to say what '{A}:v1' means"),
        (("pin", f"{A}:v1"), 78, f"now it means {A}@{FIRST.digest}: write that"),
        (("pin", f"{A}:v2"), 78, f"write {A}@sha256:…: `mirror ls {A}` shows"),
        (("unpin", f"{A}:v1"), 78, f"write NAME@DIGEST, e.g. {A}@sha256:…"),
        (("pin", f"{A}@{digest_of(b'x')}"), 1, "pull it"),
        (("pin", f"{A}@sha256:abc"), 78, "not a digest"),
        (("pin", "prod@1"), 78, "no sets here"),
        (("unpin", f"{A}@{FIRST.digest}"), 1, "not pinned"),
        (("purge", "lab/none"), 1, "nothing of"),
        (("purge", "Lab"), 78, "not a repository name"),
        (("purge", "gcr.io/x"), 1, "no upstream"),
        (("scrub", "lab/none"), 1, "nothing of"),
        (("scrub", "--rate", "fast"), 2, "not a size"),
    ],
)
def test_what_cannot_be_done(site: Site, words: tuple[str, ...], code: int, says: str) -> None:
    before = site.stored()
    assert says in site.run(*words, code=code).output
    assert site.stored() == before


def test_du_shares_the_room_out(site: Site) -> None:
    async def push(shelf: Shelf) -> None:
        await shelf.blob(noise(700, 9))
        await shelf.image(5, "v1")

    site.with_shelf(push)
    stray = Digest.of(noise(50, 3))
    Path(site.layout.blob(stray)).write_bytes(noise(50, 3))
    told = site.told("du", "--by", "repository")
    sizes = {one["name"]: one for one in told["groups"]}
    own = {name: len(image.manifest) + len(image.config) for name, image in ((A, FIRST), (B, SECOND))}
    assert sizes[A]["bytes"] == own[A] + 4000
    assert sizes[A]["unique"] == own[A] + 1000
    assert sizes[B]["unique"] == own[B] + 500
    assert told["unnamed"] == {"contents": 1, "bytes": 50}
    assert told["total"]["contents"] == len(site.stored())
    by_upstream = {one["name"]: one for one in site.told("du")["groups"]}
    assert by_upstream["lab"]["bytes"] == by_upstream["lab"]["unique"] == own[A] + own[B] + 4500
    assert by_upstream["(hosted)"]["bytes"] == sizes["team/app"]["bytes"]
    site.run("pin", f"{A}@{FIRST.digest}")
    told = site.told("du", "--by", "set")
    assert [(one["name"], one["bytes"]) for one in told["groups"]] == [(f"{A}@{FIRST.digest}", own[A] + 4000)]
    kept = told["kept"]
    assert kept["pinned_bytes"] == own[A] + 4000
    assert kept["hosted_bytes"] == sizes["team/app"]["bytes"]
    assert sum(kept.values()) == told["total"]["bytes"]
    assert " pinned, " in site.run("du").output
    assert "(no repository)" in site.run("du").output


# -- pin and purge ---------------------------------------------------------------------------------------------------


def test_a_pinned_image_stays(site: Site) -> None:
    name = f"{A}@{FIRST.digest}"
    told = site.told("pin", name)
    assert (told["image"], told["contents"], told["missing"]) == (name, 4, [])
    assert site.told("purge", A)["kept"]["pinned"] == 4
    site.run("purge", B)
    assert site.stored() == parts(FIRST)
    assert site.told("ls", A)["tags"][0]["pinned_by"] == ["pin"]
    (pin,) = site.told("ls")["pins"]
    assert pin["image"] == name
    assert name in site.run("ls").output
    assert site.told("unpin", name, "--dry-run", "--now")["unpinned_bytes"] == told["bytes"]
    assert site.stored() == parts(FIRST)
    assert site.told("unpin", name, "--now")["freed_bytes"] == told["bytes"]
    assert site.stored() == set()
    assert site.told("ls")["pins"] == []


def test_giving_up_what_is_not_pinned_says_what_is(site: Site) -> None:
    name, other = f"{A}@{FIRST.digest}", f"{A}@{SECOND.digest}"
    assert f"nothing of {A} is: `mirror ls {A}`" in site.run("unpin", name, code=1).output
    site.run("pin", name)
    told = site.run("unpin", other, code=1).output
    assert told.rstrip().endswith(f"{other} is not pinned by itself: these are: {name}")
    site.run("unpin", told.split()[-1])


def test_what_two_pins_share_is_given_up_with_the_second(site: Site) -> None:
    for name, image in ((A, FIRST), (B, SECOND)):
        site.run("pin", f"{name}@{image.digest}")
    site.run("unpin", f"{A}@{FIRST.digest}", "--now")
    assert site.stored() == parts(SECOND)
    site.configure(offline=True)
    assert "--now" in site.run("unpin", f"{B}@{SECOND.digest}", code=78).output
    site.run("unpin", f"{B}@{SECOND.digest}", "--now")
    assert site.stored() == set()


def test_pinning_says_what_is_not_here(site: Site) -> None:
    site.path(BASE).unlink()
    told = site.told("pin", f"{A}@{FIRST.digest}", code=3)
    assert told["missing"] == [digest_of(BASE)]
    site.path(FIRST.manifest).unlink()
    assert "pull it" in site.run("pin", f"{A}@{FIRST.digest}", code=1).output
    assert len(site.told("ls")["pins"]) == 1, "what was pinned before stays so"
    assert "it was fetched again" in site.run("scrub").output
    assert parts(FIRST) <= site.stored()


def test_purge_frees_and_the_next_pull_fetches(site: Site, upstream: Upstream) -> None:
    dry = site.told("purge", f"{A}:v1", "--dry-run")
    assert len(site.stored()) == 7
    done = site.told("purge", f"{A}:v1")
    assert (dry["freed_bytes"], dry["digests"]) == (done["freed_bytes"], done["digests"])
    assert site.stored() == parts(SECOND)
    assert done["kept"]["shared"] == 1
    asked = len(upstream.registry.requests)
    site.with_shelf(site.pull_all)
    assert len(upstream.registry.requests) > asked
    assert broken(site.layout) == []
    site.configure(offline=True)
    assert "only comes back by an archive" in site.run("purge", f"{A}@{FIRST.digest}").output
    assert site.stored() == parts(SECOND)


def test_purge_leaves_what_was_pushed(site: Site) -> None:
    async def push(shelf: Shelf) -> None:
        await shelf.image(5, "v1")

    site.with_shelf(push)
    before = site.stored()
    assert "mirror gc" in site.run("purge", "team/app", code=1).output
    assert site.stored() == before


def test_a_pinned_image_that_was_pushed_outlives_its_deletion(site: Site) -> None:
    async def push(shelf: Shelf) -> str:
        return str(Digest.of(await shelf.image(5, "v1")))

    async def delete(shelf: Shelf) -> None:
        await shelf.hosted.delete_manifest(APP, Digest.parse(digest), "ci")
        shelf.age(2 * 86400)

    digest = site.with_shelf(push)
    pushed = {digest, *text(noise(500, 5), b"{}")}
    name = f"team/app@{digest}"
    site.run("pin", name)
    site.with_shelf(delete)
    assert site.told("gc")["freed_bytes"] == 0
    assert pushed <= site.stored()
    assert site.told("unpin", name, "--now")["freed_bytes"] == 0, "what was pushed is garbage collection's"
    site.run("gc")
    assert pushed.isdisjoint(site.stored())


# -- scrub -----------------------------------------------------------------------------------------------------------


def test_scrub_of_a_sound_store(site: Site) -> None:
    told = site.told("scrub")
    assert (told["ok"], told["contents"], told["bad"], told["missing"], told["strays"]) == (True, 7, [], [], [])
    assert told["bytes"] == sum(path.stat().st_size for path in site.layout.blobs.glob("*/*"))
    last = last_pass(site.layout)
    assert last is not None
    assert (last.contents, last.bytes, last.unhealed) == (7, told["bytes"], [])
    assert last.ended >= last.began
    assert "all of it is what its name says" in site.run("scrub", "--rate", "500MiB").output
    assert site.told("scrub", A)["contents"] == 4


@pytest.fixture
def damaged(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A flipped bit, a deleted blob, stray files, and a lost index."""
    site.run("pin", f"{A}@{FIRST.digest}")
    site.flip(noise(1000, 1))
    site.flip(SECOND.manifest)
    site.path(FIRST.config).unlink()
    (site.layout.blobs / "stray.tar").write_bytes(b"what is this")
    (site.layout.blobs / "sha256" / "notes").write_bytes(b"mine")
    (site.layout.repositories / "lab" / "README").write_bytes(b"hello")
    shutil.rmtree(site.layout.index)
    monkeypatch.setattr(strays.Stray, "is_young", lambda self, age: False)
    return site


def test_a_damaged_store_is_found_out_and_healed(damaged: Site) -> None:
    site = damaged
    before = site.stored()
    dry = site.told("scrub", "--dry-run", code=4)
    assert {one["digest"] for one in dry["bad"]} == text(noise(1000, 1), SECOND.manifest)
    assert [one["digest"] for one in dry["missing"]] == [digest_of(FIRST.config)]
    assert [one["quarantined"] for one in dry["strays"]] == [False] * 3
    assert site.stored() == before
    told = site.told("scrub")
    assert {one["digest"]: one["healed"] for one in told["bad"]} == dict.fromkeys(
        text(noise(1000, 1), SECOND.manifest), True
    )
    assert [(one["digest"], one["healed"]) for one in told["missing"]] == [(digest_of(FIRST.config), True)]
    assert sorted((Path(one["path"]).name, one["quarantined"]) for one in told["strays"]) == [
        ("README", False), ("notes", True), ("stray.tar", True),
    ]  # fmt: skip
    assert told["index"] == {"rebuilt": True, "added": 7, "dropped": 0} or told["index"]["rebuilt"]
    assert sealed_files_hash_to_their_names(site.layout) == []
    assert site.stored() == parts(FIRST) | parts(SECOND)
    assert {path.read_bytes() for path in site.layout.quarantine.iterdir() if path.suffix != ".json"} > {b"mine"}
    again = site.told("scrub")
    assert (again["bad"], again["missing"], len(again["strays"])) == ([], [], 1)
    assert again["index"]["rebuilt"] is False


def test_scrub_says_whom_it_asks_and_asks_nobody_else(damaged: Site, upstream: Upstream) -> None:
    said = " ".join(damaged.run("scrub", "--help").output.split())
    assert "the upstreams of mirror.yaml are asked. With `offline: true` there, or with --dry-run, nobody is" in said
    asked = len(upstream.registry.requests)
    damaged.run("scrub", "--dry-run", code=4)
    damaged.configure(offline=True)
    damaged.run("scrub", code=4)
    assert len(upstream.registry.requests) == asked
    damaged.configure(offline=False)
    damaged.run("scrub")
    assert len(upstream.registry.requests) > asked


def test_offline_what_is_lost_is_listed(damaged: Site, tmp_path: Path) -> None:
    site = damaged
    site.configure(offline=True)
    lost = text(noise(1000, 1), SECOND.manifest, FIRST.config)
    told = site.told("scrub", "--missing", str(tmp_path / "lost.txt"), code=4)
    assert set(told["unhealed"]) == lost
    assert {line for line in (tmp_path / "lost.txt").read_text().splitlines() if line[0] != "#"} == lost
    assert {problem["code"] for problem in told["problems"]} == {"corrupt", "missing"}
    assert site.stored() == parts(FIRST) | parts(SECOND) - lost or lost.isdisjoint(site.stored())
    assert set(json.loads(site.layout.scrub.read_bytes())["bad"]) == lost
    # Only what is pinned is missed from now on.
    told = site.told("scrub", code=3)
    assert set(told["unhealed"]) == text(noise(1000, 1), FIRST.config)
    site.configure(offline=False)
    assert site.told("scrub")["unhealed"] == []
    assert parts(FIRST) <= site.stored()


def test_gc_and_the_index_after_the_damage(damaged: Site) -> None:
    site = damaged
    assert site.told("scrub", "--index")["index"]["rebuilt"] is True
    assert site.told("scrub", "--index")["index"] == {"rebuilt": False, "added": 0, "dropped": 0}
    site.path(noise(500, 2)).unlink()
    assert site.told("scrub", "--index")["index"]["dropped"] == 1
    before = site.stored()
    site.run("gc")
    assert site.stored() == before, "cache is not garbage"


def test_what_was_pushed_and_is_lost_is_said_and_nothing_else_can_give_it(site: Site) -> None:
    layer = noise(500, 5)

    async def push(shelf: Shelf) -> None:
        await shelf.image(5, "v1")
        shelf.age(2 * 86400)

    site.with_shelf(push)
    site.path(layer).unlink()
    told = site.told("scrub", code=3)
    assert told["unhealed"] == [digest_of(layer)]
    site.run("gc")

    async def push_again(shelf: Shelf) -> None:
        await shelf.blob(layer)

    site.with_shelf(push_again)
    assert site.told("scrub")["unhealed"] == []


@pytest.mark.parametrize("gone", ["layer", "manifest"])
@pytest.mark.parametrize("what", [(), (APP.name,)])
def test_what_was_pushed_today_is_lost_where_a_manifest_names_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, gone: str, what: tuple[str, ...]
) -> None:
    monkeypatch.setattr(scrubbing, "_SETTLES", 0.01)
    to_come = noise(400, 6)

    async def push(shelf: Shelf) -> bytes:
        body = await shelf.image(5, "v1")
        await shelf.blob(to_come)
        return body

    lost = {"manifest": site.with_shelf(push), "layer": noise(500, 5)}[gone]
    site.path(to_come).unlink()  # as if its upload were under way: marked, a member, and not here yet
    assert site.told("scrub", *what)["missing"] == []
    site.path(lost).unlink()
    told = site.told("scrub", *what, code=3)
    assert [(one["digest"], one["healed"]) for one in told["missing"]] == [(digest_of(lost), False)]


def test_what_a_manifest_names_before_it_is_pushed_is_awaited(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = noise(500, 5)

    async def push(shelf: Shelf) -> None:
        await shelf.image(5, "v1")

    site.with_shelf(push)
    site.path(layer).rename(site.folder / "coming")
    monkeypatch.setattr(scrubbing.time, "sleep", lambda _: (site.folder / "coming").rename(site.path(layer)))
    assert site.told("scrub")["missing"] == []


@pytest.mark.parametrize("ending", [".yaml", ".yml", ".txt"])
def test_a_bare_name_is_an_image_set_file_of_that_folder(
    site: Site, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    folder = site.folder / "sets"
    folder.mkdir()
    monkeypatch.setattr(choose, "SETS_FOLDER", folder)
    refused = site.run("plan", "prod", code=78).output
    assert f"'prod' (nor {folder}/prod with .yaml, .yml, .txt)" in refused
    assert f"here (nor {folder}/prod with .yaml, .yml, .txt)" in site.run("sync", "prod", code=78).output
    for later in (".yaml", ".yml", ".txt")[(".yaml", ".yml", ".txt").index(ending) :]:
        (folder / f"prod{later}").write_text("")  # the first of them is meant (docs/disconnected.md)
    assert str(folder / f"prod{ending}") in site.run("plan", "prod", code=78).output


def test_what_a_client_found_bad_is_healed_by_its_name(site: Site) -> None:
    """docs/operations.md, What is in the store: `mirror scrub NAME` puts it into quarantine and fetches it again."""
    site.flip(noise(1000, 1))
    told = site.told("scrub", A)
    assert [(one["digest"], one["healed"]) for one in told["bad"]] == [(digest_of(noise(1000, 1)), True)]
    assert site.path(noise(1000, 1)).read_bytes() == noise(1000, 1)
    aside = [path.name for path in site.layout.quarantine.iterdir() if digest_of(noise(1000, 1))[7:] in path.name]
    assert aside


def test_a_set_is_scrubbed_and_held(site: Site) -> None:

    digest = Digest.parse
    blobs = [PlannedBlob(digest(digest_of(one)), OCI_LAYER, len(one)) for one in (FIRST.config, *FIRST.layers)]
    named = tuple(one.digest for one in blobs)
    plan = Plan.build(
        "prod",
        images=[PlannedImage(A, digest(FIRST.digest), A, "image")],
        manifests=[PlannedManifest(A, digest(FIRST.digest), FIRST.media_type, len(FIRST.manifest), (), named)],
        blobs=blobs,
    )
    sets = Sets(site.layout)
    sets.write("prod", 1, plan.dump())
    sets.complete("prod", 1, plan.digest, "synced")
    site.flip(BASE)
    told = site.told("scrub", "prod")
    assert (told["contents"], [one["healed"] for one in told["bad"]]) == (4, [True])
    site.path(BASE).unlink()
    assert [one["healed"] for one in site.told("scrub", "prod@1")["missing"]] == [True]
    assert site.told("ls")["sets"][0]["held"] is False
    site.run("pin", "prod@1")
    assert site.told("ls")["sets"][0]["held"] is True
    assert "held" in site.run("ls").output
    assert site.told("ls", A)["tags"][0]["pinned_by"] == ["prod@1"]
    told = site.run("unpin", f"{A}@{FIRST.digest}", code=1).output
    assert "it is kept by prod@1: `mirror unpin prod@1` gives that up" in told
    told = site.run("unpin", f"{B}@{FIRST.digest}", code=1).output
    assert "prod@1 needs it under another name: `mirror ls prod@1` lists what it holds" in told
    assert "unpin prod@1" not in told
    dry = site.told("purge", A, "--dry-run")
    assert (dry["freed_bytes"], dry["tags"], dry["kept"]["pinned"]) == (0, 0, 4)
    site.run("pin", f"{A}@{FIRST.digest}")
    assert site.told("unpin", "prod@1", "--now")["freed_bytes"] == 0, "the image is pinned by itself too"
    assert list(site.layout.sets.glob("prod*")) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("current", ("verify",)),
        ("current", ("ls",)),
        ("prod/1.json", ("verify",)),
        ("prod/1.json", ("ls",)),
        ("prod/1.json", ("du", "--by", "set")),
    ],
)
def test_a_damaged_record_of_a_set_is_named(site: Site, name: str, words: tuple[str, ...]) -> None:
    path = site.layout.sets / name
    Sets(site.layout).write("prod", 1, b"garbage")
    path.write_bytes(b"garbage")
    told = site.told(*words, code=1)
    assert [str(path) in one["what"] for one in told["problems"]] == [True]
    assert "then sync or load" in told["problems"][0]["remedy"]


def test_a_scrub_that_was_stopped_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = sorted(site.stored())
    calls = 0
    real = scrubbing.Scrub.step

    def step(self: scrubbing.Scrub, most: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise asyncio.CancelledError
        return real(self, 1)

    monkeypatch.setattr(scrubbing.Scrub, "step", step)
    assert "run it again" in site.run("scrub", code=3).output
    monkeypatch.undo()
    state = State(site.layout).read("command")
    assert state is not None
    before = state.contents
    done = site.run("scrub")
    assert last_pass(site.layout).contents == len(digests)
    assert State(site.layout).read("command") is None
    assert (before == 0) or "goes on where" in done.output
