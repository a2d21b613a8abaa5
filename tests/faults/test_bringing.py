"""What a load or a sync brings under a name is not what it only names: archives of other tools, and image sets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.private_bed import EMPTY, Content, image, kind_of, laboratories
from tests.faults.test_upgrade import ALL_RULES, LAB, NAMING, Estate, Release, is_closed, serving
from tests.peers.images import digest_of
from tests.tools.programs import ROOT
from tests.unit.offline.foreign_bed import pack

pytestmark = pytest.mark.timeout(180)

LOADED = "loaded.example/app"


@pytest.fixture
async def estate(tmp_path: Path) -> AsyncIterator[Estate]:
    async with laboratories() as labs:
        yield Estate(labs, tmp_path)


def document(estate: Estate) -> dict[str, object]:
    return estate.document(clients={"anonymous": "pull", "rules": ALL_RULES})


async def with_secrets(release: Release, estate: Estate) -> str:
    """Have private content, pushed and pulled; return the login of who may have it."""
    made = await release.do(
        "token", "create", "alice", "--expires", "never", "--repositories", "**", "--may", "pull,push,delete"
    )
    found = json.loads(made[made.index("{") : made.rindex("}") + 1])
    login = "Basic " + str(next(iter(found["auths"].values()))["auth"])
    await release.has(*estate.vault, login=login)
    await release.push(*estate.secret, login=login)
    return login


def archive(path: Path, wanted: bytes, contents: dict[str, bytes]) -> Path:
    """Write an OCI layout that lists `wanted`; `contents` maps digests to what stands for them."""
    listed = {
        "mediaType": kind_of(wanted), "digest": digest_of(wanted), "size": len(wanted),
        "annotations": {"org.opencontainers.image.ref.name": "v1"},
    }  # fmt: skip
    files = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [listed]}).encode(),
        **{f"blobs/{digest.replace(':', '/')}": body for digest, body in contents.items()},
    }
    return pack(path, files)


@pytest.mark.parametrize("source", ["pushed", "proxied"])
async def test_an_archive_of_another_tool(estate: Estate, source: str) -> None:
    secret: Content = getattr(estate.labs, source)
    wanted = image(EMPTY, *secret.layers)
    whole = {digest_of(one): one for one in (wanted, EMPTY, *secret.layers)}
    lacking = {digest: body for digest, body in whole.items() if digest != digest_of(secret.layers[0])}
    garbage = {**lacking, digest_of(secret.layers[0]): bytes(len(secret.layers[0]))}
    async with serving(ROOT, estate.folder, document(estate)) as release:
        login = await with_secrets(release, estate)
        for name, contents in (("lacking", lacking), ("garbage", garbage)):
            path = archive(estate.root / f"{name}.tar", wanted, contents)
            said = await release.do("load", path, "--as", f"{LOADED}:v1", "--set", "laid", code=None)
            assert "is complete" not in said
            assert "--allow-presumed" in said, name
            assert f"{path} (oci-archive) presumes" in said, "it says what the file is"
            assert "skopeo copy --all" in said
            assert "--have" not in said, "nobody saved it"
            assert not (estate.folder / "store" / "sets" / "laid").exists(), name
            for body in (wanted, *secret.layers):
                for kind in ("blobs", "manifests"):
                    got = await release.ask(f"/v2/{LOADED}/{kind}/{digest_of(body)}")
                    assert got.status in (401, 404), (name, kind, got.status)
        path = archive(estate.root / "whole.tar", wanted, whole)
        assert "is complete" in await release.do("load", path, "--as", f"{LOADED}:v1", "--set", "laid")
        await release.has(LOADED, "v1", (wanted,), (EMPTY, *secret.layers))
        await release.has(*(estate.secret if source == "pushed" else estate.vault), login=login)


async def test_who_trusts_the_maker_of_an_archive_says_so(estate: Estate) -> None:
    secret = estate.labs.pushed
    wanted = image(EMPTY, *secret.layers)
    async with serving(ROOT, estate.folder, document(estate)) as release:
        await with_secrets(release, estate)
        path = archive(estate.root / "lacking.tar", wanted, {digest_of(one): one for one in (wanted, EMPTY)})
        said = await release.do("load", path, "--as", f"{LOADED}:v1", "--set", "laid", "--allow-presumed")
        assert "is complete" in said
        await release.has(LOADED, "v1", (wanted,), (EMPTY, *secret.layers))


@pytest.mark.parametrize("tag", ["index", "image", "config-0", "artifact-0"])
async def test_a_sync_that_names_what_is_private(estate: Estate, tag: str) -> None:
    """Its upstream is asked for each digest, and what that does not have is not the name's by a set."""
    wanted = estate.root / "prod.yaml"
    wanted.write_text(
        "kind: ImageSetConfiguration\napiVersion: mirror.openshift.io/v2alpha1\nmirror:\n"
        f"  additionalImages:\n    - name: {NAMING}:{tag}\n    - name: {LAB}/team/set:v1\n"
    )
    async with serving(ROOT, estate.folder, document(estate)) as release:
        login = await with_secrets(release, estate)
        await release.do("sync", wanted, code=None)
        await is_closed(release, estate)
    async with serving(ROOT, estate.folder, {**document(estate), "offline": True}) as release:
        await is_closed(release, estate)
        await release.has(*estate.vault, login=login)
