"""What goes wrong in the middle of a blob: resumed where it can be, cut where it cannot, never wrong and whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from mirror.oci.digest import Digest
from tests.faults.invariants import broken, contents, leftovers
from tests.faults.service import Service
from tests.peers import faults
from tests.peers.images import noise
from tests.peers.scripted import ScriptedRegistry

pytestmark = [pytest.mark.usefixtures("hurried"), pytest.mark.timeout(30)]

HOLD_BACK = 64 * 1024  # what nobody gets before the digest agrees (DESIGN 2.4)
LARGE, SMALL = 300_000, 900
PART = 100_000  # bytes after which something happens
RESUMED = f"bytes {PART}-{LARGE - 1}/{LARGE + 1}"

WHOLE, CUT = "whole", "cut"


@dataclass(frozen=True)
class Case:
    """What upstream's answers to a blob are, the last one for ever, and what becomes of it.

    `outcome`: whole, cut, or the status of an error. `known`: its size is, from a manifest. `requests`: the most that
    upstream may see. `resumes`: what came before the end is kept and not fetched again.
    """

    name: str
    script: Sequence[faults.Fault | None]
    outcome: str | int
    size: int = LARGE
    known: bool | None = None  # None: both
    requests: int = 2
    event: str = ""
    resumes: bool = False


CASES = (
    Case("nothing", [None], WHOLE, requests=1),
    Case("nothing at all", [None], WHOLE, size=0, requests=1),
    Case("truncated", [faults.Truncate(PART), None], WHOLE, event="download_interrupted"),
    Case("reset", [faults.Truncate(PART, rst=True), None], WHOLE, event="download_interrupted"),
    Case("truncated before the end", [faults.Truncate(LARGE - 1), None], WHOLE),
    Case("truncated thrice", [faults.Truncate(50_000)] * 3 + [None], WHOLE, requests=4),
    Case("truncated and small", [faults.Truncate(500), None], WHOLE, size=SMALL),
    Case("headers and nothing", [faults.Truncate(0)], CUT, requests=12),
    Case("headers and nothing, small", [faults.Truncate(0)], 503, size=SMALL, requests=12),
    Case("stalled", [faults.Stall(PART), None], WHOLE, event="download_interrupted"),
    Case("stalled at once", [faults.Stall(0), None], WHOLE),
    Case("stalled for ever", [faults.Stall(PART), faults.Stall(0)], CUT, requests=9, resumes=True),
    Case("crawling", [faults.Drip(500, 0.1), None], WHOLE, event="download_interrupted"),
    Case("range ignored", [faults.Truncate(PART), faults.IgnoreRange()], WHOLE),
    Case("another range", [faults.Truncate(PART), faults.WrongContentRange()], CUT),
    Case("a range of another blob", [faults.Truncate(PART), faults.WrongContentRange(RESUMED)], CUT),
    Case("a range that is none", [faults.Truncate(PART), faults.WrongContentRange("bytes x-y/z")], CUT),
    Case("a part unasked", [faults.Status(206, {"Content-Range": "bytes 0-9/10"}, b"0123456789")], 502, requests=1),
    Case("gone meanwhile", [faults.Truncate(PART), faults.Status(404)], CUT, resumes=True),
    Case("forbidden meanwhile", [faults.Truncate(PART), faults.Status(403)], CUT, resumes=True),
    Case("a page meanwhile", [faults.Truncate(PART), faults.Html()], CUT),
    Case("away meanwhile", [faults.Truncate(PART), faults.CloseBeforeHeaders()], CUT, requests=40, resumes=True),
    Case("failing meanwhile", [faults.Truncate(PART), faults.Status(500)], CUT, requests=40, resumes=True),
    Case("failing for a while", [faults.Truncate(PART), *[faults.Status(503)] * 4, None], WHOLE, requests=6),
    Case("encoded meanwhile", [faults.Truncate(PART), faults.Gzip()], CUT, requests=3),
    Case("announced too long", [faults.LieLength(1000)], 502, known=True),
    Case("announced too long, unknown", [faults.LieLength(1000), None], CUT, known=False),
    Case("announced too short", [faults.LieLength(-1000)], 502, known=True),
    Case("announced too short, unknown", [faults.LieLength(-1000)], CUT, known=False, event="digest_mismatch"),
    Case("chunked", [faults.NoLength()], WHOLE, requests=1),
    Case("until it closes", [faults.NoLength(chunked=False)], WHOLE, requests=1),
    Case("chunked and ended early", [faults.NoLength(at=PART), None], WHOLE, known=True),
    Case("chunked and ended early, unknown", [faults.NoLength(at=PART)], CUT, known=False, event="digest_mismatch"),
    Case("closed early", [faults.NoLength(chunked=False, at=PART), None], WHOLE, known=True),
    Case("closed early, unknown", [faults.NoLength(False, PART)], CUT, known=False, event="digest_mismatch"),
    Case("flipped at the front", [faults.FlipBit(0)], CUT, event="digest_mismatch", requests=1),
    Case("flipped at the end", [faults.FlipBit(LARGE - 1)], CUT, event="digest_mismatch", requests=1),
    Case("flipped and small", [faults.FlipBit(7)], 502, size=SMALL, event="digest_mismatch", requests=1),
    Case("flipped when resumed", [faults.Truncate(PART), faults.FlipBit(5)], CUT, event="digest_mismatch"),
)


def cells() -> list[Any]:
    return [
        pytest.param(case, known, id=f"{case.name}-{'known' if known else 'unknown'}".replace(" ", "_"))
        for case in CASES
        for known in (True, False)
        if case.known in (None, known)
    ]


async def prepare(upstream: ScriptedRegistry, serve: Callable[..., Any], size: int, known: bool) -> tuple[Service, str]:
    image = upstream.add_image("team/app", "v1", layers=[noise(size, 5)])
    service = await serve({"lab": {"endpoints": [upstream.url]}})
    if known:
        assert (await service.get("/v2/lab/team/app/manifests/v1")).status == 200
    return service, str(Digest.of(image.layers[0]))


def play(upstream: ScriptedRegistry, script: Sequence[faults.Fault | None], kind: str = "blob") -> None:
    for fault in script[:-1]:
        assert fault is not None
        upstream.fail(kind, fault, 1, "GET")
    if script[-1] is not None:
        upstream.fail(kind, script[-1], method="GET")


@pytest.mark.parametrize(("case", "known"), cells())
async def test_bodies(
    case: Case, known: bool, upstream: ScriptedRegistry, serve: Callable[..., Any], events: list[Any]
) -> None:
    service, digest = await prepare(upstream, serve, case.size, known)
    content = noise(case.size, 5)
    kept = contents(service.room.layout)
    play(upstream, case.script)

    first, second = await asyncio.gather(
        service.get(f"/v2/lab/team/app/blobs/{digest}"), service.get(f"/v2/lab/team/app/blobs/{digest}")
    )
    await service.settled()

    for got in (first, second):
        told = f"{got.status} {got.headers} {len(got.body)} {got.clean}"
        if case.outcome == WHOLE:
            assert (got.status, got.clean) == (200, True), told
            assert got.body == content
        elif case.outcome == CUT:
            assert (got.status, got.clean) == (200, False), told
            assert len(got.body) <= int(got.headers.get("content-length", case.size)) - HOLD_BACK
            assert case.event == "digest_mismatch" or content.startswith(got.body)
        else:
            assert (got.status, got.clean, got.code) == (case.outcome, True, "UNKNOWN"), told
    words = sorted((first.cache, second.cache))
    if isinstance(case.outcome, str):
        assert words in (["JOINED", "MISS"], ["HIT", "MISS"])
    assert upstream.count("blob", "GET") <= case.requests * (2 if isinstance(case.outcome, int) else 1)
    if case.event:
        assert case.event in [event["event"] for event in events]
    layout = service.room.layout
    truth = {digest: content}.get
    assert broken(layout, truth) == []
    if case.outcome == WHOLE:
        assert contents(layout) == {**kept, digest: True}
        assert leftovers(layout) == []
    else:
        assert contents(layout) == kept
        assert bool(leftovers(layout)) == case.resumes

    # Whatever it was, when upstream is well so is the pull; what was kept is not asked for again.
    upstream.heal()
    upstream.forget()
    for endpoint in service.room.clients["lab"]._endpoints:
        endpoint.breakers.succeeded("team/app")
    again = await service.get(f"/v2/lab/team/app/blobs/{digest}")
    assert (again.status, again.clean, again.body == content) == (200, True, True)
    await service.settled()
    assert contents(layout) == {**kept, digest: True}
    assert leftovers(layout) == []
    if case.resumes:
        assert upstream.sent("blob") == case.size - PART
    last = await service.get(f"/v2/lab/team/app/blobs/{digest}")
    assert (last.cache, last.body == content) == ("HIT", True)


async def test_bad_content_is_kept_aside_with_a_note(upstream: ScriptedRegistry, serve: Callable[..., Any]) -> None:
    service, digest = await prepare(upstream, serve, LARGE, False)
    upstream.fail("blob", faults.FlipBit(3), 1)
    assert not (await service.get(f"/v2/lab/team/app/blobs/{digest}")).clean
    await service.settled()
    notes = [path.read_text() for path in service.room.layout.quarantine.glob("*.json")]
    assert len(notes) == 1
    assert digest in notes[0]


async def test_more_than_a_blob_may_have(upstream: ScriptedRegistry, serve: Callable[..., Any]) -> None:
    digest = upstream.add_blob("team/app", noise(LARGE))
    service = await serve({"lab": {"endpoints": [upstream.url]}}, {"limits": {"blob": "100KiB"}})
    for fault in (None, faults.NoLength()):
        if fault is not None:
            upstream.fail("blob", fault)
        got = await service.get(f"/v2/lab/team/app/blobs/{digest}")
        assert got.status == 502 or not got.clean
        await service.settled()
        assert leftovers(service.room.layout) == []
        assert contents(service.room.layout) == {}
    assert upstream.sent("blob") <= 2 * LARGE


class TestSignedURLs:
    """Blobs by redirect to a second origin, as quay, Docker Hub and ghcr serve them."""

    @pytest.fixture
    async def upstream(self) -> Any:
        async with ScriptedRegistry(cdn=True) as registry:
            yield registry

    async def test_a_fresh_one_is_asked_for_where_the_download_goes_on(
        self, upstream: ScriptedRegistry, serve: Callable[..., Any]
    ) -> None:
        service, digest = await prepare(upstream, serve, LARGE, True)
        upstream.url_lifetime = 0.3
        upstream.fail("cdn", faults.Stall(PART), 1)
        got = await service.get(f"/v2/lab/team/app/blobs/{digest}")
        assert (got.status, got.clean, got.body == noise(LARGE, 5)) == (200, True, True)
        assert upstream.count("blob", "GET") == 2
        assert [one.headers.get("range") for one in upstream.seen("cdn")] == [None, f"bytes={PART}-"]
        assert len({one.query for one in upstream.seen("cdn")}) == 2

    @pytest.mark.parametrize("status", [400, 401, 403])
    async def test_one_that_is_over_is_asked_for_afresh(
        self, upstream: ScriptedRegistry, serve: Callable[..., Any], status: int
    ) -> None:
        service, digest = await prepare(upstream, serve, LARGE, True)
        upstream.fail("cdn", faults.Status(status), 1)
        assert (await service.get(f"/v2/lab/team/app/blobs/{digest}")).body == noise(LARGE, 5)
        assert upstream.count("blob", "GET") == 2

    async def test_one_that_stays_refused_is_no_reason_to_believe_it_absent(
        self, upstream: ScriptedRegistry, serve: Callable[..., Any]
    ) -> None:
        service, digest = await prepare(upstream, serve, LARGE, True)
        upstream.fail("cdn", faults.Status(403))
        got = await service.get(f"/v2/lab/team/app/blobs/{digest}")
        assert (got.status, got.code) == (503, "UNKNOWN")
        assert "sig=" not in got.message
        assert upstream.count("cdn") <= 9

    async def test_secrets_of_a_location_reach_no_log(
        self, upstream: ScriptedRegistry, serve: Callable[..., Any], events: list[Any]
    ) -> None:
        service, digest = await prepare(upstream, serve, LARGE, True)
        upstream.fail("cdn", faults.Truncate(PART), 1)
        upstream.fail("cdn", faults.Html())
        await service.get(f"/v2/lab/team/app/blobs/{digest}")
        await service.settled()
        said = repr(events) + repr(service.requests.lines)
        assert "download_interrupted" in said
        assert "sig=" not in said
        assert "robot" not in said
