"""What a client may get wrong in a push, over the wire of `mirror serve`: an error of the specification, no change."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from mirror.oci.digest import Digest
from mirror.store.layout import Layout
from tests.faults.forked import ForkedMirror
from tests.faults.wire import Got, ask
from tests.tools import images, mounts
from tests.tools.clients import run
from tests.tools.mirror import Mirror
from tests.tools.processes import wait_until

pytestmark = pytest.mark.timeout(120)

KIB, MIB = 1024, 1024 * 1024
QUOTA = 1 * MIB
BLOB_LIMIT = 3 * MIB
ABSENT = Digest.of(b"never pushed")
IMAGE = images.OCI_MANIFEST


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedMirror]:
    everybody = {"who": "*", "repositories": ["quota/**"], "may": ["pull", "push", "delete"], "quota": "1MiB"}
    document = {
        "workers": 2,
        "upstreams": {"lab": {"endpoints": ["http://127.0.0.1:1"]}},
        "clients": {"anonymous": "push", "rules": [everybody]},
        "limits": {"blob": "3MiB"},
    }
    mirror = ForkedMirror(tmp_path_factory.mktemp("input"), document)
    mirror.start()
    yield mirror
    assert mirror.stop() == 0
    print(mirror.log)
    assert "Traceback" not in mirror.log


def send(
    service: Mirror, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Got:
    host, _, port = service.address.partition(":")
    return asyncio.run(ask((host, int(port)), path, method, headers, body))


def push_blob(service: Mirror, repository: str, body: bytes) -> Got:
    return send(service, "POST", f"/v2/{repository}/blobs/uploads/?digest={Digest.of(body)}", body)


def push_manifest(service: Mirror, repository: str, reference: str, body: bytes, kind: str = IMAGE) -> Got:
    return send(service, "PUT", f"/v2/{repository}/manifests/{reference}", body, {"Content-Type": kind})


def begin(service: Mirror, repository: str) -> str:
    got = send(service, "POST", f"/v2/{repository}/blobs/uploads/", b"")
    assert got.status == 202
    return got.headers["location"]


def tree(service: Mirror) -> set[str]:
    """Return what names something in the store."""
    kept = ("repositories", "blobs", "hosted")
    return {
        str(path)
        for folder in kept
        for path in (service.store / folder).rglob("*")
        if path.is_file() and not path.name.endswith("~")
    }


def refused(service: Mirror, got: Got, status: int, code: str) -> None:
    """Fail where an answer is not this error, whole, with a message for people, or the log has no line of it."""
    assert (got.status, got.code, got.clean) == (status, code, True), got.body
    assert len(got.message) > 10
    identity = got.headers["x-request-id"]
    line = f"event=request id={identity} "
    wait_until(lambda: line in service.log, "the line of the request", 5)
    (written,) = [one for one in service.log.splitlines() if line in one]
    assert f" status={status} " in written
    assert " why=" in written
    assert " why= " not in written


CONFIG = images.Content(images.OCI_CONFIG, b"{}")


def manifest(**more: Any) -> bytes:
    document = {"schemaVersion": 2, "mediaType": IMAGE, "config": CONFIG.descriptor(), "layers": []}
    return json.dumps({**document, **more}).encode()


def blob_named(digest: object) -> dict[str, object]:
    return {"mediaType": images.OCI_LAYER, "digest": str(digest), "size": 12}


# What is sent to …/manifests/<reference>: reference, body, Content-Type, status, code.
MANIFESTS: dict[str, tuple[str, bytes, str, int, str]] = {
    "no JSON": ("v1", b"<html>", IMAGE, 400, "MANIFEST_INVALID"),
    "empty": ("v1", b"", IMAGE, 400, "MANIFEST_INVALID"),
    "a list": ("v1", b"[]", IMAGE, 400, "MANIFEST_INVALID"),
    "cut short": ("v1", manifest()[:-9], IMAGE, 400, "MANIFEST_INVALID"),
    "deep": ("v1", manifest(annotations={"a": "x"})[:-1] + b', "b": ' + b"[" * 100_000, IMAGE, 400, "MANIFEST_INVALID"),
    "a key twice": ("v1", manifest()[:-1] + b', "layers": []}', IMAGE, 400, "MANIFEST_INVALID"),
    "no UTF-8": ("v1", b'{"schemaVersion": 2, "a": "\xff"}', IMAGE, 400, "MANIFEST_INVALID"),
    "not a number": ("v1", manifest()[:-1] + b', "size": NaN}', IMAGE, 400, "MANIFEST_INVALID"),
    "no config": ("v1", b'{"schemaVersion": 2, "layers": []}', IMAGE, 400, "MANIFEST_INVALID"),
    "no type of a manifest": ("v1", manifest(), "text/html", 400, "MANIFEST_INVALID"),
    "another type than it says": ("v1", manifest(), images.OCI_INDEX, 400, "MANIFEST_INVALID"),
    "a bad digest in it": ("v1", manifest(layers=[blob_named("sha256:short")]), IMAGE, 400, "MANIFEST_INVALID"),
    "a negative size": ("v1", manifest(layers=[{**blob_named(ABSENT), "size": -1}]), IMAGE, 400, "MANIFEST_INVALID"),
    "what is not here": ("v1", manifest(layers=[blob_named(ABSENT)]), IMAGE, 404, "MANIFEST_BLOB_UNKNOWN"),
    "under another digest": (str(ABSENT), manifest(), IMAGE, 400, "DIGEST_INVALID"),
    "under no digest": ("sha256:xyz", manifest(), IMAGE, 400, "DIGEST_INVALID"),
    "under no tag": ("-v1", manifest(), IMAGE, 400, "MANIFEST_INVALID"),
    "5 MiB": ("v1", manifest(annotations={"a": "x" * 5 * MIB}), IMAGE, 413, "SIZE_INVALID"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifests(service: ForkedMirror, case: str) -> None:
    assert push_blob(service, "bad/manifest", CONFIG.body).status == 201
    before = tree(service)
    reference, body, kind, status, code = MANIFESTS[case]
    got = push_manifest(service, "bad/manifest", reference, body, kind)
    refused(service, got, status, code)
    assert tree(service) == before
    if code == "MANIFEST_BLOB_UNKNOWN":
        assert str(ABSENT) in got.body.decode()
    assert push_manifest(service, "bad/manifest", "good", manifest()).status == 201


def test_digests_and_names(service: ForkedMirror) -> None:
    before = tree(service)
    body = b"hello"
    for path, status, code in (
        (f"/v2/bad/blob/blobs/uploads/?digest={ABSENT}", 400, "DIGEST_INVALID"),
        ("/v2/bad/blob/blobs/uploads/?digest=sha256:abc", 400, "DIGEST_INVALID"),
        ("/v2/bad/blob/blobs/uploads/?digest=md5:5d41402abc4b2a76b9719d911017c592", 400, "DIGEST_INVALID"),
        (f"/v2/bad/blob/blobs/uploads/?digest={ABSENT}&digest={ABSENT}", 400, "UNSUPPORTED"),
        (f"/v2/bad/BLOB/blobs/uploads/?digest={ABSENT}", 400, "NAME_INVALID"),
        (f"/v2/bad/../blob/blobs/uploads/?digest={ABSENT}", 400, "NAME_INVALID"),
        (f"/v2/{'a' * 256}/blobs/uploads/?digest={ABSENT}", 400, "NAME_INVALID"),
        (f"/v2/gcr.io/app/blobs/uploads/?digest={ABSENT}", 403, "DENIED"),
        (f"/v2/lab/app/blobs/uploads/?digest={ABSENT}", 405, "UNSUPPORTED"),
    ):
        refused(service, send(service, "POST", path, body), status, code)
    assert tree(service) == before


def test_nothing_is_pushed_to_an_upstream_s_names(service: ForkedMirror) -> None:
    """By any way to write the name; the message says what to do."""
    before = tree(service)
    for method, path in (
        ("POST", "/v2/lab/app/blobs/uploads/"),
        ("POST", "/v2/app/blobs/uploads/?ns=lab"),
        ("POST", "/lab/v2/app/blobs/uploads/"),
        ("PUT", "/v2/lab/app/manifests/v1"),
        ("DELETE", "/v2/lab/app/manifests/v1"),
        ("DELETE", f"/v2/lab/app/blobs/{ABSENT}"),
    ):
        got = send(service, method, path, manifest() if method == "PUT" else b"", {"Content-Type": IMAGE})
        refused(service, got, 405, "UNSUPPORTED")
        assert "names under lab are proxied" in got.message
        assert "push to a name of your own" in got.message
    assert tree(service) == before


def test_chunks_out_of_order(service: ForkedMirror) -> None:
    """What is refused leaves the upload as it was, and the answer says how to go on."""
    before = tree(service)
    location, body = begin(service, "bad/chunks"), bytes(range(256)) * 40
    assert send(service, "PATCH", location, body[:5000], {"Content-Range": "0-4999"}).status == 202
    for span, status, code in (
        ("5001-10000", 416, "BLOB_UPLOAD_INVALID"),
        ("0-4999", 416, "BLOB_UPLOAD_INVALID"),
        ("5000-9000", 400, "SIZE_INVALID"),
        ("9999-5000", 400, "BLOB_UPLOAD_INVALID"),
        ("bytes 5000-9999", 400, "BLOB_UPLOAD_INVALID"),
        ("5000-", 400, "BLOB_UPLOAD_INVALID"),
    ):
        got = send(service, "PATCH", location, body[5000:10_000], {"Content-Range": span})
        refused(service, got, status, code)
        if status == 416:
            assert got.headers["range"] == "0-4999"
            assert got.headers["location"] == location
    assert send(service, "GET", location).headers["range"] == "0-4999"
    refused(service, send(service, "PUT", location, body[5000:]), 400, "DIGEST_INVALID")
    assert send(service, "GET", location).headers["range"] == "0-4999"
    assert tree(service) == before
    got = send(service, "PUT", f"{location}?digest={Digest.of(body)}", body[5000:], {"Content-Range": "5000-10239"})
    assert got.status == 201
    assert send(service, "GET", f"/v2/bad/chunks/blobs/{Digest.of(body)}").body == body


def test_a_blob_with_another_digest_is_dropped(service: ForkedMirror) -> None:
    before, location = tree(service), begin(service, "bad/digest")
    refused(service, send(service, "PUT", f"{location}?digest={ABSENT}", b"hello"), 400, "DIGEST_INVALID")
    refused(service, send(service, "GET", location), 404, "BLOB_UPLOAD_UNKNOWN")
    assert tree(service) == before
    assert not list((service.store / "uploads").glob(f"{location.rpartition('/')[2]}*"))


def test_an_upload_is_its_repository_s(service: ForkedMirror) -> None:
    location = begin(service, "bad/mine")
    other = location.replace("/bad/mine/", "/bad/theirs/")
    for method in ("GET", "PATCH", "DELETE"):
        body = b"x" if method == "PATCH" else None
        refused(service, send(service, method, other, body), 404, "BLOB_UPLOAD_UNKNOWN")
    assert send(service, "DELETE", location).status == 204
    refused(service, send(service, "PATCH", location, b"x"), 404, "BLOB_UPLOAD_UNKNOWN")


def test_too_large_a_blob(service: ForkedMirror) -> None:
    """Refused before its bytes come where its length is known, and as soon as it is too long where it is not."""
    before, digest = tree(service), ABSENT
    path = f"/v2/bad/large/blobs/uploads/?digest={digest}"
    got = send(service, "POST", path, b"", {"Content-Length": str(BLOB_LIMIT + 1), "Connection": "close"})
    refused(service, got, 413, "SIZE_INVALID")
    pieces = b"".join(b"10000\r\n" + bytes(65536) + b"\r\n" for _ in range(BLOB_LIMIT // 65536 + 1)) + b"0\r\n\r\n"
    got = send(service, "POST", path, pieces, {"Transfer-Encoding": "chunked", "Content-Length": ""})
    assert got.status in (0, 400)  # both framings at once are no request at all
    location = begin(service, "bad/large")
    for number in range(3):
        assert send(service, "PATCH", location, bytes([number]) * MIB).status == 202
    refused(service, send(service, "PATCH", location, b"x"), 413, "SIZE_INVALID")
    assert send(service, "GET", location).headers["range"] == f"0-{BLOB_LIMIT - 1}"
    assert send(service, "DELETE", location).status == 204
    assert tree(service) == before


def test_a_quota_holds_whichever_worker_is_asked(service: ForkedMirror) -> None:
    """Blob after blob, each on a connection of its own: both workers take some, and together they count."""
    stored, answers = 0, []
    for number in range(16):
        body = number.to_bytes(2, "big") * (75 * KIB)
        got = push_blob(service, f"quota/app{number % 2}", body)
        answers.append(got.status)
        if got.status == 201:
            stored += len(body)
        else:
            refused(service, got, 413, "SIZE_INVALID")
            assert "quota" in got.message
    assert stored <= QUOTA, answers
    assert stored > QUOTA - 150 * KIB
    # What is deleted makes room again.
    assert send(service, "DELETE", f"/v2/quota/app0/blobs/{Digest.of(bytes(2) * (75 * KIB))}").status == 202


def test_a_quota_holds_for_uploads_that_are_left_open(service: ForkedMirror) -> None:
    """One after the other, each with most of the quota: what is open counts before it is finished, in any worker."""
    opened, took = [begin(service, f"quota/open{number}") for number in range(6)], 0
    for location in opened:
        got = send(service, "PATCH", location, bytes(900 * KIB))
        took += got.status == 202
        if got.status != 202:
            refused(service, got, 413, "SIZE_INVALID")
    assert took <= 1
    for location in opened:
        assert send(service, "DELETE", location).status == 204


def test_a_quota_holds_for_many_at_once(service: ForkedMirror) -> None:
    bodies = [number.to_bytes(2, "big") * (100 * KIB) for number in range(100, 116)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: push_blob(service, "quota/many", body), bodies))
    assert {got.status for got in answers} <= {201, 413}
    kept = [body for body in bodies if send(service, "HEAD", f"/v2/quota/many/blobs/{Digest.of(body)}").status == 200]
    assert len(kept) == [got.status for got in answers].count(201)
    here = {
        path for name in ("app0", "app1", "many") for path in (service.store / f"repositories/quota/{name}").rglob("*")
    }
    digests = {path.name for path in here if path.parent.name == "sha256"}
    total = sum((service.store / "blobs" / "sha256" / digest).stat().st_size for digest in digests)
    assert total <= QUOTA


def test_two_pushes_of_one_tag_at_once(service: ForkedMirror) -> None:
    """Every push is acknowledged, and the tag is one of them, whole, at every moment."""
    made = [
        images.image([images.layer(images.tree({"etc/motd": str(number).encode()}), compression="none")])
        for number in range(12)
    ]
    for one in made:
        for blob in one.blobs:
            assert push_blob(service, "race/app", blob.body).status == 201
    assert push_manifest(service, "race/app", "latest", made[0].body).status == 201
    bodies = {one.digest: one.body for one in made}

    def look(_: int) -> None:
        got = send(service, "GET", "/v2/race/app/manifests/latest")
        assert got.status == 200
        assert bodies[got.headers["docker-content-digest"]] == got.body

    with ThreadPoolExecutor(8) as pool:
        looking = [pool.submit(look, number) for number in range(30)]
        pushing = [pool.submit(push_manifest, service, "race/app", "latest", one.body) for one in made * 2]
        assert {one.result().status for one in pushing} == {201}
        for done in looking:
            done.result()
    look(0)
    listed = json.loads(send(service, "GET", "/v2/race/app/tags/list").body)["tags"]
    assert listed == ["latest"]


def test_a_blob_that_is_named_stays(service: ForkedMirror) -> None:
    assert push_blob(service, "bad/named", CONFIG.body).status == 201
    assert push_manifest(service, "bad/named", "v1", manifest()).status == 201
    got = send(service, "DELETE", f"/v2/bad/named/blobs/{CONFIG.digest}")
    assert got.status == 400
    assert "delete that manifest first" in got.message
    assert send(service, "GET", f"/v2/bad/named/blobs/{CONFIG.digest}").status == 200


# -- no room


def test_nothing_is_taken_where_nothing_may_be_kept(tmp_path: Path) -> None:
    storage = {"path": str(tmp_path / "store"), "keep_free": "99%"}
    mirror = ForkedMirror(tmp_path, {"clients": {"anonymous": "push"}, "storage": storage, "workers": 2})
    mirror.start()
    try:
        got = push_blob(mirror, "apps/web", b"x" * 1000)
        refused(mirror, got, 413, "SIZE_INVALID")
        refused(mirror, push_manifest(mirror, "apps/web", "v1", manifest()), 413, "SIZE_INVALID")
        location = begin(mirror, "apps/web")
        refused(mirror, send(mirror, "PATCH", location, b"x" * 1000), 413, "SIZE_INVALID")
    finally:
        assert mirror.stop() == 0
    assert "Traceback" not in mirror.log


def fill_the_disk(root: Path) -> None:
    """Push until there is no more room, with a share that is to stay free and then until the disk really is full."""
    document = {
        "workers": 2,
        "clients": {"anonymous": "push"},
        "storage": {"path": str(root / "store"), "keep_free": "4MiB"},
        "log": {"level": "warning"},
    }
    mirror = Mirror(root, document)
    mirror.start()
    taken = fill(mirror, MIB)
    assert 4 * MIB <= _free(root) < 6 * MIB
    mirror.stop()
    mirror.configure({"storage": {"path": str(root / "store"), "keep_free": "1B"}})
    mirror.start()
    taken += fill(mirror, 256 * KIB)
    # The last bytes too: somebody else's file takes them. What the service gives back meanwhile (a journal of its
    # index) is room for a push again, which then has to be there, until the foreign file has that as well.
    squeezed: list[bytes] = []
    refusals = 0
    with (root / "foreign").open("wb", buffering=0) as foreign:
        while refusals < 4:
            take_the_rest(foreign)
            body = b"a few bytes more: %d" % len(squeezed)
            status = push_blob(mirror, "apps/other", body).status
            assert status in (201, 413, 503), status
            refusals += status != 201
            squeezed += [body] if status == 201 else []
            assert len(squeezed) < 50, "a full disk takes whatever is pushed"
    for body in squeezed:
        assert send(mirror, "GET", f"/v2/apps/other/blobs/{Digest.of(body)}").body == body
    for body in taken:
        got = send(mirror, "GET", f"/v2/apps/web/blobs/{Digest.of(body)}")
        assert (got.status, got.body == body) == (200, True)
    for body in taken:
        assert send(mirror, "DELETE", f"/v2/apps/web/blobs/{Digest.of(body)}").status == 202
    # What is young may be named by a manifest that is still to come, so its room comes back tomorrow.
    for marker in (mirror.store / "hosted").rglob("sha256/*"):
        os.utime(marker, (0, 0))
    with (root / "foreign").open("ab", buffering=0) as foreign:
        take_the_rest(foreign)
    run([*mirror.program, "gc", "--yes", "--config", str(mirror.configuration)])
    (root / "foreign").unlink()
    assert _free(root) > 18 * MIB
    assert push_blob(mirror, "apps/web", taken[0]).status == 201
    assert mirror.stop() == 0
    assert "Traceback" not in mirror.log


def take_the_rest(foreign: BinaryIO) -> None:
    """Write to a file until its disk has no byte left."""
    with contextlib.suppress(OSError):
        while foreign.write(bytes(KIB)):
            pass


def fill(mirror: Mirror, size: int) -> list[bytes]:
    """Push blobs until one is refused; return those that were taken."""
    taken: list[bytes] = []
    while True:
        body = len(taken).to_bytes(4, "big") * (size // 4)
        got = push_blob(mirror, "apps/web", body)
        if got.status != 201:
            assert (got.status, got.code) == (413, "SIZE_INVALID")
            return taken
        taken.append(body)


def _free(root: Path) -> int:
    found = os.statvfs(root)
    return found.f_bavail * found.f_frsize


def test_a_full_disk(tmp_path: Path) -> None:
    mounts.on_small_disk(fill_the_disk, tmp_path, "24m")


def use_up_the_inodes(root: Path) -> None:
    """Work in a store whose disk has room, and no inode: what would give some back, and what tells of it."""
    document = {
        "workers": 1,
        "clients": {"anonymous": "push"},
        "storage": {"path": str(root / "store"), "keep_free": "1B"},
    }
    mirror = Mirror(root, document)
    mirror.start()
    body = b"x" * 1000
    assert push_blob(mirror, "apps/web", body).status == 201
    os.utime(Layout(mirror.store).marker(Digest.of(body)), (0, 0))
    assert mirror.stop() == 0
    (root / "foreign").mkdir()
    for number in itertools.count():
        try:
            (root / "foreign" / f"{number}").touch()
        except OSError:
            break
    mirror.start()
    told = ask_about(mirror, "status")
    assert "StoreFull" in told.stdout, told
    for command in ("du", "gc --dry-run", "gc --yes"):
        told = ask_about(mirror, command)
        assert told.returncode == 0, told
        assert "is out of inodes" in told.stderr
        assert "dmesg" not in told.stderr
    assert send(mirror, "GET", f"/v2/apps/web/blobs/{Digest.of(body)}").status == 404
    assert mirror.stop() == 0
    assert "Traceback" not in mirror.log


def ask_about(mirror: Mirror, command: str) -> subprocess.CompletedProcess[str]:
    arguments = [*mirror.program, *command.split(), "--config", str(mirror.configuration)]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


def test_a_disk_out_of_inodes(tmp_path: Path) -> None:
    mounts.on_small_disk(use_up_the_inodes, tmp_path, "24m", inodes=400)
