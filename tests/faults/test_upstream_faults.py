"""Every misbehaviour of an upstream (faults.md 2.1) on every plane: what the client gets, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mirror.oci.digest import Digest
from tests.faults.cases import CASES, PLANES, Case
from tests.faults.invariants import broken, contents, leftovers
from tests.faults.service import Service
from tests.faults.wire import Got
from tests.peers.images import noise
from tests.peers.scripted import ScriptedRegistry

pytestmark = [pytest.mark.usefixtures("hurried"), pytest.mark.timeout(30)]

LARGE = noise(300_000, 1)
SMALL = noise(900, 2)
KIND = {"blob": "blob", "small": "blob", "digest": "manifest", "tag": "manifest", "known": "manifest"}


class Subject:
    """One plane of one image: how it is asked for, and what the true answer is."""

    def __init__(self, upstream: ScriptedRegistry, plane: str) -> None:
        self.image = upstream.add_image("team/app", "v1", layers=[LARGE, SMALL])
        self.plane = plane
        self.kind = KIND.get(plane, "tags")
        layers = [str(Digest.of(layer)) for layer in self.image.layers]
        self.target, self.truth = {
            "blob": (f"blobs/{layers[0]}", LARGE),
            "small": (f"blobs/{layers[1]}", SMALL),
            "digest": (f"manifests/{self.image.digest}", self.image.manifest),
            "tag": ("manifests/v1", self.image.manifest),
            "known": ("manifests/v1", self.image.manifest),
            "tags": ("tags/list", b'{"name":"lab/team/app","tags":["v1"]}'),
            "listed": ("tags/list", b'{"name":"lab/team/app","tags":["v1"]}'),
        }[plane]

    def bytes_of(self, digest: str) -> bytes | None:
        known = {str(Digest.of(one)): one for one in (self.image.manifest, self.image.config, *self.image.layers)}
        return known.get(digest)

    async def ask(self, service: Service) -> Got:
        return await service.get(f"/v2/lab/team/app/{self.target}")


def _cells() -> list[Any]:
    return [
        pytest.param(case, plane, id=f"{case.name}-{plane}".replace(" ", "_"))
        for case in CASES
        for plane in PLANES
        if plane in case.planes
    ]


@pytest.mark.parametrize(("case", "plane"), _cells())
async def test_matrix(
    case: Case, plane: str, upstream: ScriptedRegistry, serve: Callable[..., Any], events: list[Any]
) -> None:
    subject = Subject(upstream, plane)
    service = await serve({"lab": {"endpoints": [upstream.url], "tags": {"fresh_for": "0s"}}})
    if plane in ("known", "listed"):
        # Known is what has been pulled by this tag before, and every request revalidates.
        assert (await service.get("/v2/lab/team/app/manifests/v1")).status == 200
    upstream.forget()
    kept = contents(service.room.layout)
    upstream.fail(subject.kind, case.fault, case.times or 10**6, case.method)

    got = await subject.ask(service)

    want = case.wants[plane]
    told = f"{got.status} {got.code or got.cache} {got.body[:200]!r}"
    assert got.status == want.status, told
    assert got.clean
    if want.status == 200:
        assert got.body == subject.truth
        assert got.cache == want.word
        assert ("warning" in got.headers) == want.warned
    else:
        assert got.code == want.word, told
        assert ("retry-after" in got.headers) == (want.status == 503)
    assert 1 <= upstream.count(subject.kind) <= want.requests
    if case.goes_on:
        return
    await service.settled()
    if want.status != 200 or want.word == "STALE":
        assert contents(service.room.layout) == kept
        assert leftovers(service.room.layout) == []
    assert broken(service.room.layout, subject.bytes_of) == []
    if want.word == "STALE":
        assert "tag_stale" in [event["event"] for event in events]

    # When upstream is well again, so is the pull, without anybody's help.
    upstream.heal()
    for endpoint in service.room.clients["lab"]._endpoints:
        endpoint._pauses._until.clear()
        endpoint.breakers.succeeded("team/app")
    again = await subject.ask(service)
    assert (again.status, again.body, again.clean) == (200, subject.truth, True)
    assert "warning" not in again.headers
    await service.settled()
    assert broken(service.room.layout, subject.bytes_of) == []
    assert leftovers(service.room.layout) == []
