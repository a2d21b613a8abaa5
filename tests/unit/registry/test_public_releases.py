"""`releases.public`: who gets the update graph and release signatures, and that nothing else opens by it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from mirror.oci.digest import Digest
from mirror.registry.clients import ANONYMOUS, Clients
from mirror.registry.gate import PROBES, Gate
from mirror.registry.routes import Kind
from tests.unit.registry.access_bed import Bed, header_of, rule
from tests.unit.registry.stage import Face, FakeContent, serve_face
from tests.unit.registry.test_access_table import METHODS, TARGETS

DIGEST = Digest.of(b"release")
FACTS = ("/api/upgrades_info/v1/graph?channel=stable-4.16", f"/sha256={DIGEST.hex}/signature-1")
# Every other route of the table.
OTHERS = [TARGETS[kind].format("apps/a") for kind in Kind if kind not in {Kind.GRAPH, Kind.SIGNATURE, *PROBES}]

Open = Callable[[bool], Awaitable[tuple[Bed, Face]]]


@pytest.fixture
async def open_both(content: FakeContent, tmp_path: Path) -> AsyncIterator[Open]:
    """Serve `content` where nothing is open to clients without a login, with `releases.public` or without."""
    content.signatures = {(DIGEST, 1): b"signed"}  # type: ignore[misc] # this one's own
    made: list[tuple[Bed, Face]] = []

    async def one(public: bool) -> tuple[Bed, Face]:
        bed = Bed(tmp_path / f"bed{len(made)}", rule("alice", "apps/**", "pull", "push"), anonymous="none")
        gate = Gate(bed.access, Clients(anonymous=False), content.resolve, logins=bed.logins, public_releases=public)
        face = await serve_face(content, gate=gate)
        made.append((bed, face))
        return bed, face

    yield one
    for bed, face in made:
        await face.close()
        bed.close()


def shown(bed: Bed) -> dict[str, dict[str, str]]:
    """Return what clients show who have no right at all here."""
    bed.now -= 301
    over = bed.token(ANONYMOUS)
    bed.now += 301
    return {
        "nothing": {},
        "an empty login": {"Authorization": "Basic Og=="},
        "a wrong password": {"Authorization": header_of("alice", "wrong")},
        "an unknown user": {"Authorization": header_of("hubuser", "hubtoken")},
        "a token of somebody else's": {"Authorization": "Bearer x.y.z"},
        "a token that has expired": {"Authorization": over},
        "another scheme": {"Authorization": "Negotiate abc"},
    }


@pytest.mark.parametrize("target", FACTS)
async def test_public_they_are_given_whatever_is_shown(open_both: Open, target: str) -> None:
    bed, face = await open_both(True)
    right = {"Authorization": header_of("alice")}
    for fields in (*shown(bed).values(), right):
        for method in ("GET", "HEAD"):
            reply = await face.ask(target, method, **fields)
            assert (reply.status, "www-authenticate" in reply.fields) == (200, False)
    assert (await face.ask(target)).body  # the same for all


@pytest.mark.parametrize("target", FACTS)
async def test_else_they_are_given_to_who_logs_in(open_both: Open, target: str) -> None:
    bed, face = await open_both(False)
    for fields in shown(bed).values():
        for method in ("GET", "HEAD"):
            reply = await face.ask(target, method, **fields)
            assert (reply.status, reply.fields["www-authenticate"]) == (401, 'Basic realm="mirror"')
    assert (await face.ask(target, Authorization=header_of("alice"))).status == 200


async def test_nothing_else_opens_by_it(open_both: Open) -> None:
    (_, open_face), (bed, shut) = await open_both(True), await open_both(False)
    for fields in shown(bed).values():
        for target in (*OTHERS, "/api/upgrades_info/v1/graphs", "/api/", "/v2/quay.io/org/app/tags/list"):
            for method in METHODS:
                found, expected = [(await face.ask(target, method, **fields)).status for face in (open_face, shut)]
                assert found == expected >= 400, (target, method, fields)
    for target in FACTS:
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert (await open_face.ask(target, method)).status == 401
