"""*Could not be read* is not *is bad*: a table of errno, call and kind of file against `mirror serve` itself.

For each cell: nothing of the store is moved, changed or deleted; the answer is an error that says to come again, or
what upstream has; the service is alive, ready and Degraded=StoreUnreadable with the errno, the path and a remedy that
takes nothing away; and the very next request after the fault is answered as if nothing had been.
"""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mirror.oci.digest import Digest
from mirror.registry.logins import basic
from mirror.store.layout import Layout
from mirror.store.pins import pin_image
from mirror.store.sets import Sets
from mirror.store.signatures import Signatures
from mirror.store.tokens import Tokens, new_secret
from tests.faults.errno_bed import Call, Faulty, build, degraded
from tests.faults.wire import Got, ask
from tests.peers.images import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, descriptor, digest_of, noise
from tests.peers.process import RunningRegistry, running
from tests.tools.processes import wait_until
from tests.tools.programs import Programs

pytestmark = pytest.mark.timeout(60)

OPEN, STAT, FSTAT, READ, SENDFILE, LIST = Call.OPEN, Call.STAT, Call.FSTAT, Call.READ, Call.SENDFILE, Call.LIST

# What each call may answer where the file is whole (open(2), stat(2), read(2), getdents(2)): of the disk, of rights and
# labels, of network file systems, of links in the way, and of a process or a host at its end.
OPENING = ("EIO", "EACCES", "EPERM", "ELOOP", "ESTALE", "EMFILE", "ENFILE", "ENOMEM", "ENXIO", "ENODEV")
LOOKING = ("EIO", "EACCES", "ELOOP", "ESTALE", "ENOMEM")
READING = ("EIO", "ESTALE", "ENXIO")
LISTING = ("EIO", "ESTALE")

SMALL, LARGE = 1500, 200_000  # bytes: in one piece with its head, and by sendfile
PUSHED = 100_000  # what makes other bytes of what is pushed
HOSTED, PROXIED = 120, 110  # images, most of which no cell has asked for, so that nobody remembers them
_NAME = "lab/team/app"
_JSON = "application/json"


class Asked(NamedTuple):
    """One question: the part of a path that fails, the request, and the right answer."""

    path: str
    target: str
    body: bytes
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    method: str = "GET"
    status: int = 200


@dataclass
class Stock:
    """What the services hold. `number` is of an image that no cell has asked for."""

    layout: Layout
    hosted: list[bytes]  # manifests apps/a:v<n>
    proxied: list[bytes]
    secret: str = ""
    robot: str = ""
    upload: str = ""
    _next: dict[str, Iterator[int]] = field(default_factory=dict)

    def number(self, side: str) -> int:
        """Of an image that no cell has asked for."""
        return next(self._next.setdefault(side, iter(range(2, 1000))))

    @property
    def login(self) -> dict[str, str]:
        """The robot's, for services where rules say who may pull."""
        return {"Authorization": basic("robot+ci", self.secret)}


Kind = Callable[[Stock, str], Asked]


def anew(asked: Asked) -> Asked:
    """Put the file in its place once more, as a rename does, so that nobody remembers what it says."""
    shutil.copy2(asked.path, f"{asked.path}~")
    os.replace(f"{asked.path}~", asked.path)
    return asked


def hosted_blob(size: int) -> Kind:
    def asked(stock: Stock, side: str) -> Asked:
        content = noise(size, PUSHED)
        digest = Digest.of(content)
        return Asked(stock.layout.blob(digest), f"/v2/apps/a/blobs/{digest}", content)

    return asked


def hosted_head(stock: Stock, side: str) -> Asked:
    one = hosted_blob(SMALL)(stock, side)
    return one._replace(method="HEAD", body=b"")


def hosted_member(stock: Stock, side: str) -> Asked:
    one = hosted_blob(SMALL)(stock, side)
    path = stock.layout.membership("apps/a", Digest.of(one.body))
    return anew(one._replace(path=path, headers=stock.login))


def hosted_manifest(stock: Stock, side: str) -> Asked:
    content = stock.hosted[stock.number("hosted")]
    digest = Digest.of(content)
    return Asked(stock.layout.blob(digest), f"/v2/apps/a/manifests/{digest}", content)


def hosted_row(stock: Stock, side: str) -> Asked:
    one = hosted_manifest(stock, side)
    return one._replace(path=stock.layout.manifest("apps/a", Digest.of(one.body)))


def hosted_tag(stock: Stock, side: str) -> Asked:
    number = stock.number("hosted")
    path = stock.layout.tag("apps/a", f"v{number}")
    return Asked(path, f"/v2/apps/a/manifests/v{number}", stock.hosted[number])


def hosted_tags(stock: Stock, side: str) -> Asked:
    tags = sorted(f"v{number}" for number in range(len(stock.hosted)))
    body = json.dumps({"name": "apps/a", "tags": tags}).encode()
    path = str(stock.layout.tags("apps/a"))
    os.utime(path)  # as whoever pushes a tag does: what has not changed since it was read need not be read
    return Asked(path, "/v2/apps/a/tags/list", body)


def hosted_referrers(stock: Stock, side: str) -> Asked:
    subject, one = Digest.of(stock.hosted[0]), Digest.of(stock.hosted[1])
    body = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
    entry = {"mediaType": OCI_MANIFEST, "digest": str(one), "size": len(stock.hosted[1])}
    answer = json.dumps({**body, "manifests": [{**entry, "artifactType": OCI_CONFIG}]}).encode()
    folder = str(stock.layout.pushed_referrers("apps/a"))
    return Asked(folder, f"/v2/apps/a/referrers/{subject}", answer)


def hosted_referrer(stock: Stock, side: str) -> Asked:
    path = stock.layout.pushed_referrer("apps/a", Digest.of(stock.hosted[0]), Digest.of(stock.hosted[1]))
    return hosted_referrers(stock, side)._replace(path=path)


def upload(what: str) -> Kind:
    def asked(stock: Stock, side: str) -> Asked:
        path = stock.layout.upload_note(stock.upload) if what == "note" else stock.layout.upload(stock.upload)
        return Asked(path, f"/v2/apps/a/blobs/uploads/{stock.upload}", b"", status=204)

    return asked


def token(stock: Stock, side: str) -> Asked:
    path = f"{stock.layout.tokens}/{stock.robot}.json"
    return anew(hosted_blob(SMALL)(stock, side)._replace(path=path, headers=stock.login))


def proxied_blob(size: int) -> Kind:
    def asked(stock: Stock, side: str) -> Asked:
        content = noise(size, seed=int(size == LARGE))
        digest = Digest.of(content)
        return Asked(stock.layout.blob(digest), f"/v2/{_NAME}/blobs/{digest}", content)

    return asked


def proxied_head(stock: Stock, side: str) -> Asked:
    return proxied_blob(SMALL)(stock, side)._replace(method="HEAD", body=b"")


def proxied_member(stock: Stock, side: str) -> Asked:
    one = proxied_blob(SMALL)(stock, side)
    path = stock.layout.membership(_NAME, Digest.of(one.body))
    return anew(one._replace(path=path, headers=stock.login))


def proxied_manifest(stock: Stock, side: str) -> Asked:
    content = stock.proxied[stock.number(side)]
    digest = Digest.of(content)
    return Asked(stock.layout.blob(digest), f"/v2/{_NAME}/manifests/{digest}", content)


def proxied_row(stock: Stock, side: str) -> Asked:
    one = proxied_manifest(stock, side)
    return one._replace(path=stock.layout.manifest(_NAME, Digest.of(one.body)))


def proxied_tag(stock: Stock, side: str) -> Asked:
    number = stock.number(side)
    path = stock.layout.tag(_NAME, f"v{number}")
    return Asked(path, f"/v2/{_NAME}/manifests/v{number}", stock.proxied[number])


def proxied_referrers(stock: Stock, side: str) -> Asked:
    digest = Digest.of(stock.proxied[0])
    body = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}
    path = stock.layout.referrers(_NAME, digest)
    return Asked(path, f"/v2/{_NAME}/referrers/{digest}", json.dumps(body).encode())


def of_set(what: str) -> Kind:
    def asked(stock: Stock, side: str) -> Asked:
        layout = stock.layout
        sets = Sets(layout)
        plan = layout.generation("prod", 1).read_bytes()
        sets.write("prod", 1, plan)
        sets.complete("prod", 1, Digest.of(plan), "synced")  # anew, so that it is read again
        path = {"current": str(layout.current_sets), "plan": sets.path("prod", 1), "folder": str(layout.set("prod"))}
        return Asked(path[what], f"/v2/{_NAME}/manifests/of-set", stock.proxied[0])

    return asked


def pin(stock: Stock, side: str) -> Asked:
    digest = Digest.of(stock.proxied[0])
    pin_image(stock.layout, _NAME, digest, "tests")  # anew, so that it is read again
    return proxied_blob(SMALL)(stock, side)._replace(path=str(stock.layout.pin(_NAME, digest)))


def pins(stock: Stock, side: str) -> Asked:
    return pin(stock, side)._replace(path=str(stock.layout.pins))


def signature(stock: Stock, side: str) -> Asked:
    digest = Digest.of(stock.proxied[0])
    path = str(stock.layout.signature(digest, 1))
    return Asked(path, f"/sha256={digest.hex}/signature-1", b"a signature")


def graph(stock: Stock, side: str) -> Asked:
    number = stock.number("graph")
    path = stock.layout.graph("amd64", f"stable-{number}")
    body = json.dumps({"version": 1, "nodes": [], "edges": [], "channel": number}).encode()
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(body)
    return Asked(str(path), f"/api/upgrades_info/graph?channel=stable-{number}&arch=amd64", body, {"Accept": _JSON})


def format_(stock: Stock, side: str) -> Asked:
    return hosted_blob(SMALL)(stock, side)._replace(path=str(stock.layout.format))


class Row(NamedTuple):
    """What one kind of file does in one service: for each call its errnos, and how a request is answered.

    `503`: an error, with Retry-After. `bypass`: from upstream. `answered`: right, from wherever. `cut`: broken off, for
    the head was out; never wrong bytes.
    """

    side: str
    kind: str
    file: Kind
    calls: dict[Call, tuple[str, ...]]
    answer: str


FILE = {OPEN: OPENING, FSTAT: LOOKING, READ: READING}
FEW = {OPEN: ("EIO", "EACCES", "EMFILE"), FSTAT: ("EIO",), READ: ("EIO",)}
RECORD = {**FEW, STAT: ("EIO", "EACCES", "ELOOP")}

TABLE = (
    Row("online", "hosted blob, small", hosted_blob(SMALL), FILE, "503"),
    Row("online", "hosted blob, large", hosted_blob(LARGE), FILE, "503"),
    Row("online", "hosted blob on its way", hosted_blob(LARGE), {SENDFILE: ("EIO", "ENOMEM")}, "cut"),
    Row("online", "hosted blob, HEAD", hosted_head, {OPEN: OPENING, FSTAT: LOOKING}, "503"),
    Row("online", "hosted row of a blob", hosted_member, {STAT: LOOKING}, "503"),
    Row("ruled", "hosted row of a blob", hosted_member, {**FILE, STAT: LOOKING}, "503"),
    Row("online", "hosted manifest", hosted_manifest, {**FILE, STAT: LOOKING}, "503"),
    Row("online", "hosted row of a manifest", hosted_row, {**FILE, STAT: LOOKING}, "503"),
    Row("online", "hosted tag", hosted_tag, {**FILE, STAT: LOOKING}, "503"),
    Row("online", "hosted tags", hosted_tags, {OPEN: OPENING, LIST: LISTING}, "503"),
    Row("online", "hosted referrers", hosted_referrers, {OPEN: ("EIO", "EACCES"), LIST: LISTING}, "503"),
    Row("online", "hosted referrer", hosted_referrer, FEW, "503"),
    Row("online", "upload's note", upload("note"), FEW, "503"),
    Row("online", "upload", upload("part"), {STAT: LOOKING}, "503"),
    Row("ruled", "robot's token", token, {**FILE, STAT: LOOKING}, "503"),
    Row("online", "signature", signature, FEW, "503"),
    Row("online", "update graph", graph, RECORD, "503"),
    Row("online", "proxied blob, small", proxied_blob(SMALL), FILE, "bypass"),
    Row("online", "proxied blob, large", proxied_blob(LARGE), FILE, "bypass"),
    Row("online", "proxied blob on its way", proxied_blob(LARGE), {SENDFILE: ("EIO", "ENOMEM")}, "answered"),
    Row("online", "proxied blob, HEAD", proxied_head, {OPEN: OPENING, FSTAT: LOOKING}, "bypass"),
    Row("online", "proxied row of a blob", proxied_member, {STAT: LOOKING}, "answered"),
    Row("ruled", "proxied row of a blob", proxied_member, {**FILE, STAT: LOOKING}, "answered"),
    Row("online", "proxied manifest", proxied_manifest, {**FILE, STAT: LOOKING}, "bypass"),
    Row("online", "proxied row of a manifest", proxied_row, {**FILE, STAT: LOOKING}, "bypass"),
    Row("online", "proxied tag", proxied_tag, {**FILE, STAT: LOOKING}, "answered"),
    Row("online", "proxied referrers", proxied_referrers, FEW, "answered"),
    Row("online", "sets/current", of_set("current"), RECORD, "answered"),
    Row("online", "plan of a generation", of_set("plan"), RECORD, "answered"),
    Row("online", "folder of a set", of_set("folder"), {LIST: LISTING}, "answered"),
    Row("online", "pin", pin, RECORD, "answered"),
    Row("online", "pins", pins, {LIST: LISTING}, "answered"),
    Row("offline", "proxied blob, small", proxied_blob(SMALL), FEW, "503"),
    Row("offline", "proxied blob, large", proxied_blob(LARGE), FEW, "503"),
    Row("offline", "proxied row of a blob", proxied_member, {STAT: LOOKING}, "503"),
    Row("offline", "proxied manifest", proxied_manifest, RECORD, "503"),
    Row("offline", "proxied row of a manifest", proxied_row, RECORD, "503"),
    Row("offline", "proxied tag", proxied_tag, RECORD, "503"),
    Row("offline", "proxied referrers", proxied_referrers, FEW, "503"),
    Row("offline", "sets/current", of_set("current"), FEW, "answered"),
)

LEFT_OUT = {
    "FSTAT of what is listed": "nobody makes it: names alone are read",
    "READ of rows where everybody may pull everything": "that a row is there is enough: see those of `ruled`",
    "LIST of rows": "only the derivation of rows lists them, for a row that is not there",
    "READ of an upload": "its bytes are read when it goes on, by who writes it: its answer is that of a write",
    "the status of SENDFILE": "the next read of the same bytes works here, as no disk does: so it is over at once",
    "ENOENT and ENOTDIR": "these say that nothing is there, and are the answers that do",
    "quarantine, markers, index, tokens/key": "no request reads them: see the tests of their own",
}


class Cell(NamedTuple):
    """One errno of one call on one kind of file."""

    row: Row
    call: Call
    errno: str

    def __str__(self) -> str:
        return f"{self.row.side}-{self.row.kind}-{self.call.name}-{self.errno}".replace(" ", "_")


CELLS = [Cell(row, call, name) for row in TABLE for call, names in row.calls.items() for name in names]


# -- the services


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, programs: Programs) -> Path:
    return build(tmp_path_factory.mktemp("shim"), programs.find("gcc"))


@pytest.fixture(scope="module")
def upstream() -> Iterator[RunningRegistry]:
    more = [argument for number in range(1, PROXIED) for argument in ("--image", f"team/app:v{number}")]
    with running("team/app:v0", SMALL, "--layer", str(LARGE), *more) as registry:
        yield registry


@pytest.fixture(scope="module")
def services(
    tmp_path_factory: pytest.TempPathFactory, library: Path, upstream: RunningRegistry
) -> Iterator[dict[str, tuple[Faulty, Stock]]]:
    document = {
        "clients": {"anonymous": "push"},
        "upstreams": {"lab": {"endpoints": [upstream.url], "tags": {"fresh_for": "1h", "absent_for": "1h"}}},
    }
    folder = tmp_path_factory.mktemp("errno")
    online = Faulty(folder / "online", library, document)
    offline = Faulty(folder / "offline", library, {**document, "offline": True})
    rules = [{"who": ["robot+ci"], "repositories": ["**"], "may": ["pull"]}]
    ruled = Faulty(folder / "ruled", library, {**document, "clients": {"anonymous": "none", "rules": rules}})
    online.start()
    stock = fill(online, upstream)
    online.stop()  # nobody remembers anything
    found = {"online": (online, stock)}
    for name, service in (("offline", offline), ("ruled", ruled)):
        shutil.copytree(online.store, service.store, symlinks=True)
        found[name] = (service, replace(stock, layout=Layout(service.store), _next={}))
    try:
        for service, _ in found.values():
            service.start()
        yield found
    finally:
        for service, _ in found.values():
            service.kill()


def fill(service: Faulty, upstream: RunningRegistry) -> Stock:
    """Push and pull all that cells ask for, and lay out what commands write."""
    address = service.address.partition(":")
    connection = http.client.HTTPConnection(address[0], int(address[2]), timeout=30)

    def send(method: str, target: str, body: bytes = b"", media_type: str = _JSON) -> tuple[int, bytes, str]:
        connection.request(method, target, body, {"Content-Type": media_type})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers.get("Location", "")

    layers, config = (noise(SMALL, PUSHED), noise(LARGE, PUSHED)), b"{}"
    for content in (*layers, config):
        location = send("POST", "/v2/apps/a/blobs/uploads/")[2]
        mark = "&" if "?" in location else "?"
        assert send("PUT", f"{location}{mark}digest={digest_of(content)}", content)[0] == 201
    named = {
        "config": descriptor(config, OCI_CONFIG),
        "layers": [descriptor(content, OCI_LAYER) for content in layers],
    }
    hosted: list[bytes] = []
    for number in range(HOSTED):
        document: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "number": number, **named}
        if number == 1:
            document["subject"] = descriptor(hosted[0], OCI_MANIFEST)
        hosted.append(json.dumps(document).encode())
        assert send("PUT", f"/v2/apps/a/manifests/v{number}", hosted[-1], OCI_MANIFEST)[0] == 201
    proxied = []
    for number in range(PROXIED):
        status, body, _ = send("GET", f"/v2/{_NAME}/manifests/v{number}")
        assert (status, digest_of(body)) == (200, upstream.images[f"team/app:v{number}"]["digest"])
        proxied.append(body)
    first = json.loads(proxied[0])
    for one in (first["config"], *first["layers"]):
        assert send("GET", f"/v2/{_NAME}/blobs/{one['digest']}")[0] == 200
    digest = Digest.of(proxied[0])
    assert send("GET", f"/v2/{_NAME}/referrers/{digest}")[0] == 200
    _, _, location = send("POST", "/v2/apps/a/blobs/uploads/")
    assert send("PATCH", location, b"some bytes", "application/octet-stream")[0] == 202
    connection.close()

    layout = Layout(service.store)
    stock = Stock(layout, hosted, proxied, secret=new_secret(), upload=location.rpartition("/")[2].partition("?")[0])
    stock.robot = Tokens(layout.tokens).create(stock.secret, "ci", ["**"], ["pull"], None).id
    Signatures(layout).add(digest, b"a signature")
    image = {"name": _NAME, "image": f"{_NAME}@{digest}", "tags": ["of-set"]}
    needed = [{"digest": one["digest"], "size": one["size"]} for one in (first["config"], *first["layers"])]
    manifests = [{"digest": str(digest), "size": len(proxied[0])}]
    plan = json.dumps({"images": [image], "manifests": manifests, "blobs": needed}).encode()
    Sets(layout).write("prod", 1, plan)
    Sets(layout).complete("prod", 1, Digest.of(plan), "synced")
    pin_image(layout, _NAME, digest, "tests")
    wait_until(lambda: all(layout_has(layout, one["digest"]) for one in needed), "the blobs to be kept", 10)
    return stock


def layout_has(layout: Layout, digest: str) -> bool:
    return Path(layout.blob(Digest.parse(digest))).exists()


# -- what is looked at


def get(service: Faulty, asked: Asked) -> Got:
    host, _, port = service.address.partition(":")
    return asyncio.run(ask((host, int(port)), asked.target, asked.method, asked.headers))


def check_right(got: Got, asked: Asked) -> None:
    assert (got.status, got.clean) == (asked.status, True), got
    if asked.body.startswith(b"{") and got.body != asked.body:
        assert json.loads(got.body) == json.loads(asked.body)
    else:
        assert got.body == asked.body


def check_answer(got: Got, asked: Asked, answer: str) -> None:
    match answer:
        case "503":
            assert got.status == 503, got
            assert int(got.headers["retry-after"]) > 0
            if asked.method != "HEAD":
                assert (got.clean, got.code) == (True, "UNKNOWN"), got
                assert "ask again" in got.message, got
                assert os.path.dirname(asked.path) not in got.message, got
        case "bypass":
            check_right(got, asked)
            assert got.cache == "BYPASS"
        case "answered":
            check_right(got, asked)
        case "cut":
            assert not got.clean
            assert asked.body.startswith(got.body)


def check_status(service: Faulty, name: str, path: str) -> None:
    """The service lives, takes requests, and says what cannot be read and what helps."""
    for probe in ("/livez", "/readyz"):
        assert service.get(probe)[0] == 200, probe
    status = service.status()
    assert degraded(status) in ("StoreUnreadable", "Multiple"), status["problems"]
    found = [one for one in status["problems"] if one["code"] == "store_unreadable"]
    assert any(f"({name})" in one["what"] and path in one["where"] for one in found), status["problems"]
    for one in status["problems"]:
        assert "remove" not in one["remedy"].replace("nothing was moved or removed", ""), one
        assert one["remedy"], one
        assert one["code"] == "store_unreadable", one


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_what_cannot_be_read_is_not_bad(services: dict[str, tuple[Faulty, Stock]], cell: Cell) -> None:
    service, stock = services[cell.row.side]
    asked = cell.row.file(stock, cell.row.side)
    before = service.kept()
    number = getattr(errno, cell.errno)
    with service.disk.failing(cell.call, number, asked.path):
        check_answer(get(service, asked), asked, cell.row.answer)
        if cell.call is not SENDFILE:
            check_status(service, cell.errno, asked.path)
        assert service.disk.hits
        assert service.kept() == before
    check_right(get(service, asked), asked)
    assert_well(service, 2)
    assert service.kept() == before
    assert not list(service.store.joinpath("quarantine").iterdir())


def assert_well(service: Faulty, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (status := service.status()) and degraded(status):
        assert time.monotonic() < deadline, status["problems"]
        time.sleep(0.05)


def test_the_table_is_large_enough(record_property: Callable[[str, object], None]) -> None:
    record_property("cells", len(CELLS))
    print(f"{len(CELLS)} cells")
    assert len(CELLS) >= 200
    assert len({str(cell) for cell in CELLS}) == len(CELLS)
    used = {side: sum(1 for cell in CELLS if cell.row.side == side) for side in ("online", "offline")}
    assert used["online"] > used["offline"] > 0
