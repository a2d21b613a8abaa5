"""A release that is not signed as it must be is refused, with the reason, before anything in it is believed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.offline.conftest import MakeSite
from tests.offline.site import Site, mounted
from tests.offline.world import Releases, World, image_set
from tests.tools.openpgp import LITERAL, TestKey, claim, compress, literal, packet
from tests.tools.signature_store import SignatureStore

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(900)]

STRANGER = TestKey.generate()
Forged = Callable[[Releases], bytes]


def good(releases: Releases) -> bytes:
    return releases.key.sign(claim(releases.older.digest, releases.older.reference))


def flipped(raw: bytes) -> bytes:
    return raw[:-20] + bytes((raw[-20] ^ 1,)) + raw[-19:]


REFUSED: dict[str, tuple[Forged, str]] = {
    "of another digest": (
        lambda releases: releases.key.sign(claim(releases.newer.digest, releases.older.reference)),
        "another digest",
    ),
    "by an unknown key": (
        lambda releases: STRANGER.sign(claim(releases.older.digest, releases.older.reference)),
        "unknown key",
    ),
    "changed": (
        lambda releases: flipped(
            releases.key.sign(claim(releases.older.digest, releases.older.reference), compressed=False)
        ),
        "bad signature",
    ),
    "cut off": (lambda releases: good(releases)[:150], "valid signature"),
    "with a weak hash": (
        lambda releases: releases.key.sign(claim(releases.older.digest, releases.older.reference), hash="sha1"),
        "SHA-1",
    ),
    "a compression bomb": (
        lambda releases: compress(compress(packet(LITERAL, literal(bytes(40 * 2**20))))),
        "compression bomb",
    ),
    "of no release": (
        lambda releases: releases.key.sign(b'{"critical": {"type": "another"}}'),
        "claim",
    ),
    "no signature at all": (lambda releases: b"<html>a login page</html>", "valid signature"),
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "signatures"


@pytest.fixture
def site(make_site: MakeSite, small: World, store: Path) -> Site:
    """A site that looks for signatures in `store` alone."""
    small.registry.front.forget()
    releases = {**small.configuration()["releases"], "signature_stores": [store.as_uri()]}
    return make_site("bastion", small, {"releases": releases})


@pytest.fixture
def wanted(tmp_path: Path) -> Path:
    return image_set(tmp_path / "prod.yaml", extra=False)


def put(store: Path, small: World, *signatures: bytes) -> None:
    with SignatureStore(store) as writer:
        for number, raw in enumerate(signatures, 1):
            writer.put(small.releases.older.digest, number, raw)


def test_no_signature(site: Site, small: World, wanted: Path, store: Path) -> None:
    store.mkdir()
    done = site.mirror("plan", wanted, code=4)
    assert small.releases.older.digest in done.err
    assert "signature" in done.err


@pytest.mark.parametrize(("command", "case"), [*(("plan", case) for case in REFUSED), ("sync", "by an unknown key")])
def test_refused_with_the_reason(site: Site, small: World, wanted: Path, store: Path, command: str, case: str) -> None:
    forge, reason = REFUSED[case]
    put(store, small, forge(small.releases))
    done = site.mirror(command, wanted, code=4)
    assert reason in done.err, done
    assert small.releases.older.digest in done.err
    # nothing inside was looked at, let alone fetched
    assert not small.registry.front.requests("/blobs/")
    assert site.mirror("ls", "--json").report["sets"] == []


@pytest.mark.parametrize("version", [3, 4])
def test_one_good_signature_is_enough(site: Site, small: World, wanted: Path, store: Path, version: int) -> None:
    releases = small.releases
    signed = claim(releases.older.digest, releases.older.reference)
    put(store, small, STRANGER.sign(signed), releases.key.sign(signed, version=version))
    site.mirror("plan", wanted, "-o", wanted.with_suffix(".plan"))
    assert releases.key.fingerprint in wanted.with_suffix(".plan").read_text()


def test_what_need_not_be_signed_is_said_on_every_run(site: Site, small: World, wanted: Path, store: Path) -> None:
    store.mkdir()
    site.configure({"releases": {**site.document["releases"], "require_signature": False}})
    for _run in range(2):
        done = site.mirror("plan", wanted)
        assert "require_signature" in done.err, done


def test_signatures_are_checked_again_on_the_other_side(
    make_site: MakeSite, small: World, wanted: Path, tmp_path: Path
) -> None:
    bastion = make_site("bastion", small)
    bastion.mirror("sync", wanted)
    bastion.mirror("save", "prod", "--to", mounted(tmp_path / "disk"))
    keyring = tmp_path / "stranger.asc"
    keyring.write_bytes(STRANGER.armored_public())
    inside = make_site("inside", None, {"releases": {"keyring": str(keyring)}})
    done = inside.mirror("load", tmp_path / "disk", code=4)
    assert "unknown key" in done.err
    assert not inside.mirror("ls", "--json").report["sets"]
    inside.configure({"releases": {"keyring": str(small.keyring)}})
    inside.mirror("load", tmp_path / "disk")
    inside.mirror("verify", "prod")


def test_a_required_sigstore_signature_that_is_absent_makes_the_set_incomplete(
    make_site: MakeSite, world_again: World, wanted: Path
) -> None:
    small = world_again
    bastion = make_site("bastion", small)
    digest = small.releases.older.digest
    path = small.registry.folder / "storage/docker/registry/v2/repositories/openshift-release-dev/ocp-release"
    tag = path / "_manifests/tags" / (digest.replace(":", "-") + ".sig")
    hidden = tag.with_name("hidden")
    tag.rename(hidden)
    try:
        done = bastion.mirror("sync", wanted, code=3)
        assert "sigstore" in done.err
        assert digest in done.err
        bastion.mirror("verify", "prod", code=3)
    finally:
        hidden.rename(tag)
    bastion.mirror("sync", wanted)
    bastion.mirror("verify", "prod")
