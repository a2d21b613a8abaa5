"""A store that is ill as a whole, through `mirror serve` and the commands: what it goes on doing, says, and keeps."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from mirror.cli.asking import ask
from mirror.config import load
from mirror.errors import MirrorError, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.offline.plan import Plan, PlannedBlob
from mirror.store import files, ingest
from mirror.store.eviction import Eviction
from mirror.store.hosted import Hosted
from mirror.store.index import Index
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests
from mirror.store.probe import prepare
from mirror.store.quarantine import Quarantine
from mirror.store.sets import Pins, Sets
from tests.faults.errno_bed import Call, Faulty, build, degraded, fingerprint
from tests.peers.images import digest_of, noise
from tests.peers.process import RunningRegistry, running
from tests.tools.images import OCI_CONFIG, OCI_MANIFEST, Content, Manifest
from tests.tools.mirror import Mirror
from tests.tools.mirror import ask as request
from tests.tools.mounts import mount, on_disk, on_small_disk
from tests.tools.processes import NotReadyError, wait_until
from tests.tools.programs import ROOT, Programs
from tests.tools.push import PushError, push

pytestmark = pytest.mark.timeout(120)

OWNER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
PUSH = {"clients": {"anonymous": "push"}, "upstreams": {}, "workers": 1}


def image(number: int, size: int = 3000) -> Manifest:
    """An image of one layer that no other number has."""
    config, layer = Content(OCI_CONFIG, b"{}"), Content("application/octet-stream", noise(size, number))
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor(),
        "layers": [layer.descriptor()],
    }
    return Manifest(OCI_MANIFEST, json.dumps(document).encode(), blobs=(config, layer))


def layer(number: int) -> str:
    return str(digest_of(noise(3000, number)))


def pushed(service: Mirror, count: int) -> list[Manifest]:
    made = [image(number) for number in range(count)]
    for number, one in enumerate(made):
        push(service.address, "apps/a", one, f"v{number}")
    return made


def status(service: Mirror) -> dict[str, Any]:
    return ask(load(service.configuration), "GET", "/status")[0]


def command(
    service: Mirror, *words: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*service.program, words[0], "--config", str(service.configuration), *words[1:]],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        timeout=60,
        check=False,
    )


def pulls(service: Mirror, made: list[Manifest]) -> list[int]:
    """The statuses of a pull of every image by tag and of its layer."""
    found = []
    for number, one in enumerate(made):
        for target, body in ((f"manifests/v{number}", one.body), (f"blobs/{layer(number)}", noise(3000, number))):
            got = service.get(f"/v2/apps/a/{target}")
            assert got[0] != 200 or got[2] == body
            found.append(got[0])
    return found


def soon_well(service: Mirror, seconds: float = 3) -> None:
    wait_until(lambda: not degraded(status(service)), "a status that is well", seconds)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, programs: Programs) -> Path:
    return build(tmp_path_factory.mktemp("shim"), programs.find("gcc"))


@pytest.fixture
def service(tmp_path: Path, library: Path) -> Iterator[Faulty]:
    # The service's own scrub would find first what a test has a command look for.
    made = Faulty(tmp_path, library, {**PUSH, "storage": {"path": str(tmp_path / "store"), "scrub_rate": 0}})
    made.start()
    yield made
    made.disk.heal()
    made.kill()


# -- restored by root


# Python itself may be where only root may walk: what it loads later is loaded from folders that were opened before.
_AS_OWNER = """
from mirror import app
from mirror.outside.library import Library

become = app._become_owner

def follow(store):
    app.require_readable = Library().follow
    become(store)

app._become_owner = follow
from mirror.__main__ import run
run()
"""


@as_root
def test_a_store_that_root_restored() -> None:
    """Its files are closed to the service: it serves what it may read, says what it may not, and chown mends it."""
    with tempfile.TemporaryDirectory(prefix="restored-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        mirror = Mirror(folder, PUSH)
        mirror.command[1:3] = ["-c", _AS_OWNER]
        mirror.store.mkdir(mode=0o700)
        os.chown(mirror.store, OWNER, OWNER)
        try:
            mirror.start()
            made = pushed(mirror, 12)
            mirror.stop()
            restored = [path for path in mirror.store.rglob("*") if path.is_file() and is_content(mirror.store, path)]
            for path in restored:
                os.chown(path, 0, 0)
                path.chmod(0o400 if path.parent.parent.name != "blobs" else files.SEALED_MODE)
            before = contents(mirror.store)
            mirror.start()
            assert mirror.get("/readyz")[0] == 200
            assert set(pulls(mirror, made)) == {503}
            found = status(mirror)
            assert degraded(found) in ("StoreUnreadable", "Multiple"), found["problems"]
            unreadable = [one for one in found["problems"] if one["code"] == "store_unreadable"]
            assert "EACCES" in unreadable[0]["what"]
            assert "chown" in unreadable[0]["remedy"]
            checked = command(mirror, "check")
            assert "chown" in checked.stdout + checked.stderr, checked
            assert "may not be read by nobody" in checked.stdout
            assert contents(mirror.store) == before
            for path in restored:
                os.chown(path, OWNER, OWNER)
                if path.parent.parent.name != "blobs":
                    path.chmod(0o600)
            assert set(pulls(mirror, made)) == {200}
            soon_well(mirror)
            assert contents(mirror.store) == before
            assert not list(mirror.store.joinpath("quarantine").iterdir())
        finally:
            mirror.kill()


def is_content(store: Path, path: Path) -> bool:
    """Whether a file is deep enough for a start to be possible: what is at the top says whose the store is."""
    return path.relative_to(store).parts[0] in ("blobs", "repositories", "hosted", "brought", "sets", "tokens", "pins")


@as_root
def test_a_store_of_which_all_is_roots_is_not_begun() -> None:
    """Where not even folders are the service's own it says so and how it is mended, and changes nothing.

    That was so before; it is here because a start that became more lenient must not begin such a store.
    """
    with tempfile.TemporaryDirectory(prefix="restored-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        mirror = Mirror(folder, PUSH)
        mirror.command[1:3] = ["-c", _AS_OWNER]
        mirror.store.mkdir(mode=0o700)
        os.chown(mirror.store, OWNER, OWNER)
        try:
            mirror.start()
            made = pushed(mirror, 3)
            mirror.stop()
            below = [path for path in mirror.store.rglob("*") if not path.is_socket()]
            for path in below:
                os.chown(path, 0, 0)
            before = contents(mirror.store)
            with pytest.raises(NotReadyError, match=r"ended with 78(.|\n)*sudo chown -R"):
                mirror.start()
            assert contents(mirror.store) == before
            for path in below:
                if os.path.lexists(path):
                    os.chown(path, OWNER, OWNER)
            mirror.start()
            assert set(pulls(mirror, made)) == {200}
            assert not degraded(status(mirror))
            assert contents(mirror.store) == before
        finally:
            mirror.kill()


def contents(store: Path) -> dict[str, tuple[int, int]]:
    """Of every file that is not to move: its inode and size."""
    return {path: (found[1], found[0]) for path, found in fingerprint(store).items() if found}


# -- a disk that takes nothing


def test_a_disk_that_takes_nothing(tmp_path: Path, library: Path) -> None:
    """EIO of every write and sync: a push comes again, a cold pull is answered all the same, and the status says so."""
    with running("team/app:v1", 200_000, "--image", "team/app:v2") as upstream:
        document = {**PUSH, "upstreams": {"lab": {"endpoints": [upstream.url], "tags": {"fresh_for": "1h"}}}}
        service = Faulty(tmp_path, library, document)
        try:
            service.start()
            for calls in (Call.WRITE | Call.SYNC, Call.SYNC):
                before = service.kept()
                with service.disk.failing(calls, errno.EIO, str(service.store)):
                    with pytest.raises(PushError, match="503"):
                        push(service.address, "apps/a", image(1), "v1")
                    assert cold_pull(service, upstream, "v1") == (200, 200)
                    assert service.get("/readyz")[0] == 200
                    found = service.status()
                    assert degraded(found) in ("StoreUnwritable", "Multiple"), found["problems"]
                    said = [one for one in found["problems"] if one["code"] == "store_unwritable"]
                    assert "(EIO)" in said[0]["what"]
                    assert said[0]["remedy"]
                    assert service.disk.hits
                    # Nothing that was begun passes for something that is here.
                    assert {path for path in kept_content(service) if path not in before} == set()
                soon_well(service)
            push(service.address, "apps/a", image(1), "v1")
            assert cold_pull(service, upstream, "v1") == (200, 200)
            assert pulls(service, [])[:0] == []
            wait_until(lambda: cold_pull(service, upstream, "v1", cache="HIT") == (200, 200), "a hit", 5)
        finally:
            service.disk.heal()
            service.kill()


def kept_content(service: Faulty) -> list[str]:
    return [path for path, found in service.kept().items() if found and f"{service.store}/blobs" in path]


def cold_pull(service: Faulty, upstream: RunningRegistry, tag: str, cache: str = "") -> tuple[int, int]:
    named = upstream.images[f"team/app:{tag}"]
    manifest = service.get(f"/v2/lab/team/app/manifests/{tag}")
    blob = service.get(f"/v2/lab/team/app/blobs/{named['layers'][0]}")
    assert digest_of(manifest[2]) == named["digest"]
    assert digest_of(blob[2]) == named["layers"][0]
    if cache and {manifest[1]["x-cache"], blob[1]["x-cache"]} != {cache}:
        return 0, 0
    return manifest[0], blob[0]


# -- a store gone read-only


def _goes_read_only(root: Path) -> None:
    folder = root.with_name("service")
    service = Mirror(folder, {**PUSH, "storage": {"path": str(root / "store")}})
    try:
        service.start()
        made = pushed(service, 3)
        mount("-o", "remount,abort", root)  # what the kernel does at an error of the disk
        with pytest.raises(OSError, match="Read-only"):
            root.joinpath("new").touch()
        _serves_what_it_has(service, made)
        service.stop()
        subprocess.run(["umount", root], check=True)
        image_file = root.with_name(f"{root.name}.ext4")
        subprocess.run(["e2fsck", "-fp", image_file], check=False, capture_output=True)
        mount("-o", "loop", image_file, root)
        # Started on one that takes nothing, which takes something again later.
        mount("-o", "remount,ro", root)
        service.start()
        _serves_what_it_has(service, made)
        said = command(service, "status")
        assert "StoreUnwritable" in said.stdout, said
        assert "rebuilt" not in said.stdout, said
        mount("-o", "remount,rw", root)
        push(service.address, "apps/a", image(10), "v10")
        soon_well(service)
        assert set(pulls(service, made)) == {200}
    finally:
        service.kill()


def _serves_what_it_has(service: Mirror, made: list[Manifest]) -> None:
    assert set(pulls(service, made)) == {200}
    assert service.get("/readyz")[0] == 200
    status_of, _, body = request(service.url, "/v2/apps/a/blobs/uploads/", "POST")
    assert status_of == 503, body
    assert "read-only" in json.loads(body)["errors"][0]["message"]
    wait_until(lambda: degraded(status(service)) == "StoreUnwritable", "the status to say so", 5)
    said = next(one for one in status(service)["problems"] if one["code"] == "store_unwritable")
    assert "writable" in said["remedy"]
    assert set(pulls(service, made)) == {200}


def test_a_store_that_became_read_only(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    on_disk(_goes_read_only, root, "600M")


def _commands_on_a_read_only_store(root: Path) -> None:
    with running("team/app:v1", 3000, "--image", "team/app:v2") as upstream:
        document = {**PUSH, "upstreams": {"lab": {"endpoints": [upstream.url], "tags": {"fresh_for": "1h"}}}}
        service = Mirror(root.with_name("service"), {**document, "storage": {"path": str(root / "store")}})
        layout, image = Layout(root / "store"), f"lab/team/app@{upstream.images['team/app:v1']['digest']}"
        try:
            service.start()
            pushed(service, 3)
            assert cold_pull(service, upstream, "v1") == (200, 200)
            wait_until(lambda: cold_pull(service, upstream, "v1", cache="HIT") == (200, 200), "a hit", 5)
            assert command(service, "pin", image).returncode == 3  # its configuration was not asked for
            spare = noise(3000, 50)
            ingest.store_bytes(layout, Digest.of(spare), spare)
            Hosted(layout).add(Digest.of(spare))
            for marker in (layout.hosted / "sha256").iterdir():
                os.utime(marker, (1, 1))
            service.stop()
            mount("-o", "remount,ro", root)
            service.start()
            assert cold_pull(service, upstream, "v2", cache="BYPASS") == (200, 200)
            found = json.loads(command(service, "check", "--json").stdout)["problems"]
            assert [one["code"] for one in found if one["code"].startswith("store_")] == ["store_read_only"]
            done = command(service, "scrub", "--json")
            report = json.loads(done.stdout)
            assert (done.returncode, report["read_only"], report["bad"], len(report["missing"])) == (3, True, [], 1)
            assert report["contents"] == len(os.listdir(layout.blobs / "sha256"))
            assert "writable" in report["problems"][0]["remedy"]
            assert "nothing can be put right" in done.stderr
            assert "mount it writable" in done.stderr
            for words in (("purge", "lab/team/app:v1"), ("gc",), ("pin", image), ("unpin", image)):
                done = command(service, *words)
                assert done.returncode == 78, done
                assert "Read-only file system): mount it writable" in done.stderr
            service.stop()
            passed = [line for line in service.log.splitlines() if "cache=BYPASS" in line]
            assert len(passed) == 2
            assert all('why="store read-only"' in line for line in passed), passed
            mount("-o", "remount,rw", root)
            flip(layout, layer(1))
            mount("-o", "remount,ro", root)
            done = command(service, "scrub")
            assert done.returncode == 4, done
            assert f"{layer(1)} hashes to" in done.stderr
            assert "in quarantine" not in done.stderr
            assert Path(layout.blob(Digest.parse(layer(1)))).exists()
        finally:
            service.kill()


def test_commands_on_a_read_only_store(tmp_path: Path) -> None:
    """A scrub reads all of it and says that it mends nothing; what would change something says what to do."""
    root = tmp_path / "disk"
    root.mkdir()
    on_small_disk(_commands_on_a_read_only_store, root, "600m")


# -- scrubbing an ill disk


def test_scrub_stops_at_a_disk_that_gives_nothing(service: Faulty) -> None:
    made = pushed(service, 20)
    service.stop()
    before = service.kept()
    with service.disk.failing(Call.READ, errno.EIO, f"{service.store}/blobs/"):
        done = command(service, "scrub", environment=service.disk.environment)
        assert done.returncode == 1, done
        assert "in a row cannot be read" in done.stdout + done.stderr
        assert service.disk.hits
    assert service.kept() == before
    assert not list(service.store.joinpath("quarantine").iterdir())
    done = command(service, "scrub", environment=service.disk.environment)
    assert done.returncode == 0, done
    assert service.kept() == before
    service.start()
    assert set(pulls(service, made)) == {200}


def test_the_scrub_in_the_background_stops_there_too(tmp_path: Path, library: Path) -> None:
    service = Faulty(tmp_path, library, {**PUSH, "storage": {"path": str(tmp_path / "store"), "scrub_rate": "1GiB"}})
    with service.disk.failing(Call.READ, errno.EIO, f"{service.store}/blobs/"):
        try:
            service.start()
            made = pushed(service, 20)
            for path in Path(service.store, "run").glob("scrub.json"):  # what was here before is to be scrubbed again
                path.unlink()
            service.kill()
            before = service.kept()
            service.start()
            wait_until(lambda: "scrub_stopped" in service.log, "the scrub to stop", 15)
            assert degraded(service.status()) in ("StoreUnreadable", "Multiple")
            assert service.kept() == before
            service.disk.heal()
            assert set(pulls(service, made)) == {200}
            soon_well(service)
            assert service.kept() == before
        finally:
            service.disk.heal()
            service.kill()


# -- something else in the place of a file


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
@pytest.mark.parametrize("record", ["blob", "tag"])
def test_what_somebody_put_in_the_place_of_a_file(service: Faulty, kind: str, record: str) -> None:
    """503, one remedy, which status and scrub agree on, and no end of it before it is moved away by hand."""
    made = pushed(service, 3)
    layout = Layout(service.store)
    path = Path(layout.tag("apps/a", "v1") if record == "tag" else layout.blob(Digest.parse(layer(1))))
    aside = service.store.parent / "aside"
    shutil.move(path, aside)
    {"link": lambda: path.symlink_to(aside), "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}[kind]()
    before = service.kept()
    target = "manifests/v1" if record == "tag" else f"blobs/{layer(1)}"
    status_of, headers, _ = service.get(f"/v2/apps/a/{target}")
    assert (status_of, "retry-after" in headers) == (503, True)
    for _ in range(3):  # what can be opened is no file yet
        (said,) = service.troubles()
        assert (said["code"], said["where"]) == ("store_unreadable", str(path))
        assert "by hand" in said["remedy"]
        time.sleep(0.5)
    done = command(service, "scrub", "--json")
    assert done.returncode == 1, done
    report = json.loads(done.stdout)
    assert (report["bad"], report["missing"], report["strays"]) == ([], [], [])
    (told,) = [one for one in report["problems"] if one["code"] == "unreadable"]
    assert "in its place" in told["what"]
    assert told["remedy"] == said["remedy"]
    assert service.kept() == before
    path.rename(service.store.parent / "away")
    push(service.address, "apps/a", made[1], "v1")
    assert set(pulls(service, made)) == {200}
    soon_well(service)
    assert command(service, "scrub").returncode == 0


def test_a_tag_whose_record_is_damaged_may_be_deleted(service: Faulty) -> None:
    """docs/operations.md, `RecordDamaged` of a tag: deleting it works, too."""
    pushed(service, 2)
    Path(Layout(service.store).tag("apps/a", "v1")).write_bytes(b"")
    assert service.get("/v2/apps/a/manifests/v1")[0] == 503
    assert degraded(service.status()) == "RecordDamaged"
    assert request(service.url, "/v2/apps/a/manifests/v1", "DELETE")[0] == 202
    assert service.get("/v2/apps/a/manifests/v1")[0] == 404
    soon_well(service)


def test_an_empty_record_of_a_tag_is_told_everywhere_and_pushed_again(service: Faulty) -> None:
    """As another file system leaves it after a loss of power: no silent 404."""
    made = pushed(service, 3)
    path = Path(Layout(service.store).tag("apps/a", "v1"))
    path.write_bytes(b"")
    status_of, headers, body = service.get("/v2/apps/a/manifests/v1")
    assert (status_of, headers["retry-after"]) == (503, "30")
    (told,) = json.loads(body)["errors"]
    assert "the record of the tag apps/a:v1 is damaged" in told["message"]
    assert "push the tag again" in told["message"]
    assert str(service.store) not in told["message"]
    (said,) = service.troubles()
    assert degraded(service.status()) == "RecordDamaged"
    assert (said["code"], said["where"]) == ("record_damaged", str(path))
    assert said["remedy"] in told["message"]
    wait_until(lambda: "record_damaged" in service.log, "the log to say so", 5)
    assert json.loads(service.get("/v2/apps/a/tags/list")[2])["tags"] == ["v0", "v1", "v2"]
    for words in (("scrub",), ("scrub", "apps/a"), ("history", "apps/a"), ("history", "apps/a:v1"), ("ls", "apps/a")):
        done = command(service, *words, "--json")
        report = json.loads(done.stdout)
        assert done.returncode == 1, done
        assert [one["code"] for one in report["problems"]] == ["record_damaged"], words
    # The scrub has told the next service, which nobody has asked for the tag.
    service.stop()
    service.start()
    assert [one["where"] for one in service.troubles("record_damaged")] == [str(path)]
    push(service.address, "apps/a", made[1], "v1")
    assert set(pulls(service, made)) == {200}
    soon_well(service)
    assert command(service, "scrub").returncode == 0


# -- what is bad indeed


def flip(layout: Layout, digest: str) -> None:
    """Change a bit, as a disk does: nothing but the bytes tells."""
    path = Path(layout.blob(Digest.parse(digest)))
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    path.chmod(files.SEALED_MODE)
    os.utime(path, (time.time(), files.seal_time(len(content))))


def test_what_the_page_cache_alone_holds_wrongly_stays(service: Faulty) -> None:
    """A digest that disagrees is read once more, past the page cache, before anything is put aside."""
    made = pushed(service, 12)
    service.stop()
    before = service.kept()
    with service.disk.failing(Call.FLIP, errno.EIO, f"{service.store}/blobs/"):
        done = command(service, "scrub", "--json", environment=service.disk.environment)
        assert service.disk.hits >= 12
    assert (done.returncode, json.loads(done.stdout)["bad"]) == (0, []), done
    assert "read_differently" in done.stderr
    assert service.kept() == before
    # So too in a service that hashes what came from elsewhere, without a seal.
    path = Path(Layout(service.store).blob(Digest.parse(layer(1))))
    path.chmod(0o600)
    with service.disk.failing(Call.FLIP, errno.EIO, str(path)):
        service.start()
        service.get(f"/v2/apps/a/blobs/{layer(1)}")
        assert service.disk.hits
    assert set(pulls(service, made)) == {200}
    assert not list(service.store.joinpath("quarantine").iterdir())


def test_bad_content_is_put_aside_and_put_back_when_it_agrees(service: Faulty) -> None:
    """What the host's memory read wrongly comes back by itself: the next scrub finds it right."""
    made = pushed(service, 12)
    layout = Layout(service.store)
    flip(layout, layer(3))
    done = command(service, "scrub", "--json")
    assert done.returncode == 4, done
    assert [one["digest"] for one in json.loads(done.stdout)["bad"]] == [layer(3)]
    aside = next(path for path in layout.quarantine.iterdir() if path.name.endswith(layer(3)[7:]))
    assert set(pulls(service, made)) == {200, 404} or set(pulls(service, made)) == {200, 503}
    aside.chmod(0o600)
    aside.write_bytes(noise(3000, 3))
    done = command(service, "scrub", "--json")
    assert done.returncode == 0, done
    assert json.loads(done.stdout)["put_back"] == [layer(3)]
    assert set(pulls(service, made)) == {200}
    assert not list(layout.quarantine.iterdir())
    assert files.is_sealed(os.lstat(layout.blob(Digest.parse(layer(3)))))


def test_many_bad_contents_stop_a_scrub(service: Faulty) -> None:
    """More than a tenth: rather the host's memory than the disk, so a person looks first; --yes goes on."""
    pushed(service, 40)
    layout = Layout(service.store)
    for number in range(30):
        flip(layout, layer(number))
    before = set(os.listdir(layout.blobs / "sha256"))
    done = command(service, "scrub")
    assert done.returncode == 4, done  # what is bad weighs more than that it stopped
    assert "more than a tenth" in done.stdout + done.stderr
    assert "--yes" in done.stdout + done.stderr
    assert len(before - set(os.listdir(layout.blobs / "sha256"))) < 10
    found = service.status()
    said = [one for one in found["problems"] if one["code"] == "collection_stopped"]
    assert said, found["problems"]
    assert "--yes" in said[0]["remedy"]
    done = command(service, "scrub", "--yes", "--json")
    assert done.returncode in (3, 4), done
    report = json.loads(done.stdout)
    assert (report["found_before"], len(report["bad"]), len(report["unhealed"])) == (9, 21, 30)
    assert "of which 9 were bad" in done.stderr
    assert len(before - set(os.listdir(layout.blobs / "sha256"))) == 30
    assert not [one for one in service.status()["problems"] if one["code"] == "collection_stopped"]
    # What was pushed is kept, however much it is.
    aside = [path for path in layout.quarantine.iterdir() if path.suffix != ".json"]
    assert len(aside) == 30


def test_what_may_be_the_only_copy_is_never_deleted(tmp_path: Path) -> None:
    """Neither by the quarantine's bounds nor for its size; nor where it cannot be known whether it is."""
    layout = Layout(tmp_path / "store")
    prepare(layout)
    quarantine, hosted = Quarantine(layout, count=3, size=10_000), Hosted(layout)
    digests = [Digest.of(noise(3000, number)) for number in range(12)]
    for number, digest in enumerate(digests):
        ingest.store_bytes(layout, digest, noise(3000, number))
        if number % 2:
            hosted.add(digest)
    for digest in digests:
        assert quarantine.take(layout.blob(digest), "hashes to something else")
    aside = {path.name.rpartition("-")[2] for path in layout.quarantine.iterdir() if path.suffix != ".json"}
    assert aside >= {digest.hex for number, digest in enumerate(digests) if number % 2}
    assert len(aside) < 12
    # The markers' folder cannot be read: then nothing more goes.
    more = [Digest.of(noise(3000, number)) for number in range(20, 24)]
    for number, digest in enumerate(more, 20):
        ingest.store_bytes(layout, digest, noise(3000, number))
    shutil.rmtree(layout.hosted / "sha256")
    (layout.hosted / "sha256").symlink_to("sha256")  # ELOOP
    for digest in more:
        quarantine.take(layout.blob(digest), "hashes to something else")
    kept = {path.name.rpartition("-")[2] for path in layout.quarantine.iterdir() if path.suffix != ".json"}
    assert kept == aside | {digest.hex for digest in more}
    assert set(quarantine.put_back(all_of_it=True)) == {Digest("sha256", name) for name in kept}


# -- what would take much away


def test_unpin_stops_before_a_tenth_of_the_store(service: Faulty) -> None:
    layout, sets = Layout(service.store), Sets(Layout(service.store))
    blobs = []
    for number in range(30):
        content = noise(3000, number)
        ingest.store_bytes(layout, Digest.of(content), content)
        blobs.append(PlannedBlob(Digest.of(content), "application/octet-stream", len(content)))
    for generation, named in ((1, blobs), (2, blobs[:1])):
        plan = Plan.build("prod", blobs=named)
        sets.write("prod", generation, plan.dump())
        sets.complete("prod", generation, plan.digest, "loaded")
    before = service.kept()
    done = command(service, "unpin", "prod@1", "--now")
    assert done.returncode == 1, done
    assert "--yes" in done.stdout + done.stderr
    assert service.kept() == before
    assert [one for one in service.status()["problems"] if one["code"] == "collection_stopped"]
    done = command(service, "unpin", "prod@1", "--now", "--yes")
    assert done.returncode == 0, done
    assert len(os.listdir(layout.blobs / "sha256")) == 1
    assert not [one for one in service.status()["problems"] if one["code"] == "collection_stopped"]


@pytest.mark.parametrize("what", ["sets", "pins", "hosted/sha256"])
def test_eviction_stops_where_it_cannot_be_read_what_must_stay(tmp_path: Path, what: str) -> None:
    layout = Layout(tmp_path / "store")
    prepare(layout)
    quarantine = Quarantine(layout)
    index = Index(layout, quarantine)
    try:
        for number in range(20):
            content = noise(3000, number)
            ingest.store_bytes(layout, Digest.of(content), content)
            index.note(Digest.of(content), len(content))
        folder = layout.root / what
        folder.parent.mkdir(exist_ok=True)
        was_there = folder.exists()
        if was_there:
            folder.rmdir()
        folder.symlink_to(folder.name)  # ELOOP
        eviction = Eviction(layout, index, Pins(layout), Hosted(layout))
        with structlog.testing.capture_logs() as said:
            assert eviction.free(10_000) == 0
        assert "eviction_stopped" in [one["event"] for one in said]
        assert len(os.listdir(layout.blobs / "sha256")) == 20
        with pytest.raises(StoreUnreadable):
            eviction.delete([Digest.of(noise(3000, 1))])
        folder.unlink()
        if was_there:
            folder.mkdir()
        assert eviction.free(10_000) >= 10_000
    finally:
        index.close()


def test_gc_stops_before_a_tenth_of_the_store(service: Faulty) -> None:
    """A repository whose records are gone (a folder that was not mounted) makes garbage of all that it named."""
    pushed(service, 30)
    service.stop()
    layout = Layout(service.store)
    shutil.move(layout.repositories / "apps", service.store.parent / "not-mounted")
    for marker in (layout.hosted / "sha256").iterdir():
        os.utime(marker, (1, 1))  # pushed long ago
    before = set(os.listdir(layout.blobs / "sha256"))
    service.start()
    done = command(service, "gc")
    assert done.returncode == 1, done
    assert "--yes" in done.stdout + done.stderr
    assert set(os.listdir(layout.blobs / "sha256")) == before
    assert [one for one in service.status()["problems"] if one["code"] == "collection_stopped"]
    done = command(service, "gc", "--yes")
    assert done.returncode == 0, done
    assert set(os.listdir(layout.blobs / "sha256")) < before
    soon_well(service)


def markers(layout: Layout) -> set[str]:
    return {path.name for path in layout.hosted.glob("sha256/*")}


@pytest.mark.parametrize("lost", ["hosted", "hosted/*", "hosted/sha256/*"])
@pytest.mark.parametrize("running", [True, False])
def test_what_was_pushed_stays_without_its_markers(service: Faulty, lost: str, *, running: bool) -> None:
    """Somebody emptied hosted/, or restored a store without it: what was pushed is found out again, and none goes."""
    made = pushed(service, 5)
    layout = Layout(service.store)
    marked = markers(layout)
    wait_until(lambda: f", {len(marked)}]" in (layout.run / "marked").read_text(), "their number is known", 20)
    if not running:
        service.stop()
    folder = service.store / lost.removesuffix("/*")
    shutil.rmtree(folder)
    if folder != layout.hosted or lost.endswith("/*"):
        folder.mkdir(mode=0o700)
    if not running:
        service.start()
    wait_until(lambda: markers(layout) == marked, "the markers", 20)
    soon_well(service, 10)
    assert set(pulls(service, made)) == {200}


@pytest.mark.parametrize("folder", ["blobs", "repositories"])
def test_a_folder_of_the_store_that_is_away(service: Faulty, folder: str) -> None:
    """Nothing is taken for absent, made in its place, or put right; and it is served again once it is back."""
    made = pushed(service, 5)
    kept, away = service.kept(), service.store.parent / "away"
    (service.store / folder).rename(away)
    assert set(pulls(service, made)) == {503}
    assert [one for one in service.status()["problems"] if one["code"] == "store_unreadable"]
    for words in (("gc",), ("scrub",), ("gc", "--yes"), ("scrub", "--yes"), ("du",)):
        done = command(service, *words)
        assert done.returncode != 0, (words, done)
        assert "No such file or directory" in done.stdout + done.stderr, (words, done)
    assert not (service.store / folder).exists()
    service.stop()
    service.start()
    assert set(pulls(service, made)) == {503}
    assert not (service.store / folder).exists()
    away.rename(service.store / folder)
    soon_well(service)
    assert set(pulls(service, made)) == {200}
    assert service.kept() == kept


# Nobody reads a marker, and there is no pin: their folders are opened and listed.
GC_CELLS = [
    *((where, call) for where in ("repositories/", "sets/") for call in (Call.OPEN, Call.READ, Call.FSTAT, Call.LIST)),
    *((where, call) for where in ("hosted/", "pins/") for call in (Call.OPEN, Call.LIST)),
]


@pytest.mark.parametrize(("where", "call"), GC_CELLS)
def test_gc_takes_nothing_from_what_it_cannot_read(service: Faulty, where: str, call: Call) -> None:
    """What names content, or pins it, and cannot be read must not make garbage of it.

    That was so before; it is here because reading raises another error now, which nothing may take for "not there".
    """
    made = pushed(service, 3)
    layout = Layout(service.store)
    plan = json.dumps({"images": [], "manifests": [], "blobs": []}).encode()
    Sets(layout).write("prod", 1, plan)
    Sets(layout).complete("prod", 1, Digest.of(plan), "synced")
    layout.pins.mkdir(exist_ok=True)
    for marker in (layout.hosted / "sha256").iterdir():
        os.utime(marker, (1, 1))
    before = service.kept()
    with service.disk.failing(call, errno.EIO, f"{service.store}/{where.rstrip('/')}"):
        done = command(service, "gc", "--json", environment=service.disk.environment)
        assert service.disk.hits
    assert done.returncode in (0, 1), done
    assert service.kept() == before
    assert set(pulls(service, made)) == {200}


# -- what no request reads


@pytest.mark.parametrize("name", ["EIO", "EACCES", "ESTALE", "EMFILE"])
def test_the_index_that_cannot_be_read_stays(service: Faulty, name: str) -> None:
    made = pushed(service, 3)
    database = service.store / "index" / "cache.db"
    wait_until(database.exists, "the index", 10)
    service.stop()
    number = os.lstat(database).st_ino
    service.disk.fail(Call.OPEN | Call.READ, getattr(errno, name), f"{service.store}/index/cache.db")
    service.start()
    assert set(pulls(service, made)) == {200}
    assert service.get("/readyz")[0] == 200
    wait_until(lambda: degraded(service.status()) in ("StoreUnreadable", "Multiple"), "the status to say so", 8)
    said = [one for one in service.troubles("store_unreadable") if "index" in one["where"]]
    assert said, service.status()["problems"]
    service.disk.heal()
    soon_well(service)
    wait_until(lambda: service.status()["store"]["content_bytes"] is not None, "it to be used", 3)
    assert os.lstat(database).st_ino == number
    assert not list(service.store.joinpath("quarantine").iterdir())


@pytest.mark.parametrize("name", ["EIO", "EACCES", "ELOOP", "EMFILE"])
def test_the_key_of_tokens_that_cannot_be_read_stays(service: Faulty, name: str) -> None:
    """A start without it is none of those who log in anew for ever: the key is there afterwards, and the same."""
    key = service.store / "tokens" / "key"
    before = key.read_bytes(), os.lstat(key).st_ino
    service.stop()
    service.disk.fail(Call.OPEN, getattr(errno, name), str(key))
    service.start()
    assert service.get("/v2/")[0] == 200
    said = service.troubles("store_unreadable")
    assert said, service.status()["problems"]
    assert "tokens/key" in said[0]["where"]
    service.disk.heal()
    soon_well(service)
    assert (key.read_bytes(), os.lstat(key).st_ino) == before


def test_a_damaged_key_of_tokens_is_moved_away_and_made_again(service: Faulty) -> None:
    """docs/operations.md, `RecordDamaged` of `tokens/key`: each start signs with another one until it is moved away."""
    key = service.store / "tokens" / "key"
    key.write_bytes(b"short")
    service.stop()
    service.start()
    assert degraded(service.status()) == "RecordDamaged"
    assert key.read_bytes() == b"short"
    key.rename(service.store.parent / "key")
    service.stop()
    service.start()
    assert degraded(service.status()) == ""
    assert len(key.read_bytes()) == 32


@pytest.mark.parametrize("folder", ["blobs", "repositories"])
def test_what_a_lost_folder_held_is_given_up_by_an_empty_one(service: Faulty, folder: str) -> None:
    """docs/operations.md, What is in the store: an empty folder says that nothing of it will come back."""
    made = pushed(service, 2)
    shutil.rmtree(service.store / folder)
    assert degraded(service.status()) == "StoreUnreadable"
    subprocess.run(["mkdir", "-m", "700", service.store / folder], check=True)
    soon_well(service)
    assert set(pulls(service, made)) == {404}
    for number, one in enumerate(made):
        push(service.address, "apps/a", one, f"v{number}")
    assert set(pulls(service, made)) == {200}


def test_a_damaged_pin_is_removed_and_pinned_again(service: Faulty) -> None:
    """docs/operations.md, `pin_damaged` and `RecordDamaged`: whoever says what it pins may say it again."""
    (one,) = pushed(service, 1)
    name = f"apps/a@{digest_of(one.body)}"
    assert command(service, "pin", name).returncode == 0
    (path,) = (path for path in (service.store / "pins").rglob("*") if path.is_file())
    before = json.loads(path.read_bytes())
    path.write_bytes(b"")
    wait_until(lambda: degraded(service.status()) == "RecordDamaged", "the status to say so", 8)
    (said,) = service.troubles("record_damaged")
    assert str(path) in said["where"] + said["what"]
    path.unlink()
    done = command(service, "pin", name)
    assert done.returncode == 0, done
    assert json.loads(path.read_bytes()).keys() == before.keys()
    soon_well(service)


@pytest.mark.parametrize("what", ["current", "plan"])
def test_a_start_without_the_sets_does_not_pass_for_one_without_sets(tmp_path: Path, library: Path, what: str) -> None:
    """Offline, what a set says is all there is to say: 503 and not 404, until it can be read again."""
    service = Faulty(tmp_path, library, {**PUSH, "offline": True})
    try:
        service.start()
        made = pushed(service, 1)
        layout, sets = Layout(service.store), Sets(Layout(service.store))
        digest = Digest.parse(made[0].digest)
        named = {"name": "quay.io/org/app", "image": f"quay.io/org/app@{digest}", "tags": ["v1"]}
        manifests = [{"digest": str(digest), "size": len(made[0].body)}]
        plan = json.dumps({"images": [named], "manifests": manifests, "blobs": []}).encode()
        sets.write("prod", 1, plan)
        sets.complete("prod", 1, Digest.of(plan), "loaded")
        Manifests(layout).add_manifest("quay.io/org/app", digest, OCI_MANIFEST, len(made[0].body))
        service.stop()
        path = str(layout.current_sets) if what == "current" else sets.path("prod", 1)
        service.disk.fail(Call.OPEN, errno.EIO, path)
        service.start()
        before = service.kept()
        got = service.get("/v2/quay.io/org/app/manifests/v1")
        assert (got[0], "retry-after" in got[1]) == (503, True), got
        assert service.get("/readyz")[0] == 200
        found = service.status()
        assert degraded(found) in ("StoreUnreadable", "Multiple"), found["problems"]
        assert not [one for one in found["problems"] if one["code"] == "record_damaged"]
        assert "remove that" not in json.dumps(found["problems"])
        service.disk.heal()
        time.sleep(1)  # what could not be read is tried again within it
        got = service.get("/v2/quay.io/org/app/manifests/v1")
        assert (got[0], got[2] == made[0].body) == (200, True), got
        soon_well(service)
        assert service.kept() == before
    finally:
        service.disk.heal()
        service.kill()


# -- a new store


def _prepare(root: str, go: Any, results: Any) -> None:
    go.wait()
    try:
        prepare(Layout(Path(root)))
    except MirrorError as error:
        results.put(str(error))
    else:
        results.put("")


def test_two_make_a_store_at_the_same_moment(tmp_path: Path) -> None:
    """Thirty times: both can use it, and neither takes what the other has begun for somebody else's things."""
    fork = multiprocessing.get_context("fork")
    for number in range(30):
        results, go = fork.SimpleQueue(), fork.Barrier(2)
        pair = [fork.Process(target=_prepare, args=(str(tmp_path / str(number)), go, results)) for _ in range(2)]
        for one in pair:
            one.start()
        assert [results.get(), results.get()] == ["", ""], number
        for one in pair:
            one.join()
        assert json.loads(Layout(tmp_path / str(number)).format.read_bytes()) == {"format": 1}


def test_two_services_begin_at_the_same_moment(tmp_path: Path) -> None:
    """The whole of it, which seldom fails without the lock: the test above is the one that makes them meet."""
    store = str(tmp_path / "store")
    pair = [Mirror(tmp_path / name, {**PUSH, "storage": {"path": store}}) for name in "ab"]
    with contextlib.ExitStack() as stack:
        for one in pair:
            stack.callback(one.kill)
            one._ready = lambda: True
            one.start()
        for one in pair:
            wait_until(one._answers_ready, "a service", 20)
        assert not [one.log for one in pair if "other things" in one.log]


def test_a_format_that_was_being_written_does_not_stop_a_start(tmp_path: Path) -> None:
    """Whoever was killed in it left that name in a folder with nothing else."""
    root = tmp_path / "store"
    root.mkdir(mode=0o700)
    (root / "format.123-0123abcd~").write_bytes(b'{"form')
    prepare(Layout(root))
    assert json.loads((root / "format").read_bytes()) == {"format": 1}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "format.old").touch()
    with pytest.raises(MirrorError, match="holds other things"):
        prepare(Layout(tmp_path / "other"))
