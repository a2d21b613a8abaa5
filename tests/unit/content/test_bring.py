"""What a sync asks for: tags that hardly any image has cost one question, and what is here is not written again."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from mirror.content.answers import Target
from mirror.errors import MirrorError, NotHere, UpstreamNotFound
from mirror.oci.digest import Digest
from tests.peers.faults import Status
from tests.peers.images import noise
from tests.peers.scripted import ScriptedRegistry
from tests.unit.content.conftest import Room

APP = Target("lab", "team/app", "lab/team/app")


async def test_a_tag_that_is_hardly_ever_there_is_asked_for_once(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    upstream.add_image("team/app", "v1")
    bring = make_room().content.bring
    with pytest.raises(NotHere):
        await bring.digest(APP, "v2", rarely=True)
    assert [one.method for one in upstream.seen("manifest")] == ["GET"]
    with pytest.raises(NotHere):
        await bring.digest(APP, "v2")
    assert [one.method for one in upstream.seen("manifest")] == ["GET", "HEAD", "GET"]


async def test_a_tag_that_is_there_all_the_same_comes_with_its_manifest(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    image = upstream.add_image("team/app", "v1")
    room = make_room()
    digest = await room.content.bring.digest(APP, "v1", rarely=True)
    assert digest == Digest.parse(image.digest)
    assert (await room.content.bring.manifest(APP, digest)).body == image.manifest
    assert upstream.count("manifest") == 1
    before = os.stat(room.layout.blob(digest)).st_ino
    assert await room.content.bring.digest(APP, "v1", rarely=True) == digest
    assert os.stat(room.layout.blob(digest)).st_ino == before


async def test_a_manifest_that_was_changed_here_is_written_again(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    image = upstream.add_image("team/app", "v1")
    room = make_room()
    digest = await room.content.bring.digest(APP, "v1", rarely=True)
    path = room.layout.blob(digest)
    os.chmod(path, 0o600)
    with open(path, "wb") as file:
        file.write(noise(len(image.manifest)))
    await room.content.bring.digest(APP, "v1", rarely=True)
    with open(path, "rb") as file:
        assert file.read() == image.manifest


@pytest.mark.parametrize(("status", "error"), [(404, UpstreamNotFound), (410, UpstreamNotFound), (403, NotHere)])
async def test_a_manifest_that_is_gone_is_told_from_one_that_we_may_not_have(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, status: int, error: type[MirrorError]
) -> None:
    """An image goes without an attestation that is gone; that ours alone may not read it is for somebody to mend."""
    image = upstream.add_image("team/app", "v1")
    upstream.fail("manifest", Status(status))
    with pytest.raises(error):
        await make_room().content.bring.manifest(APP, Digest.parse(image.digest))


async def test_a_manifest_that_is_gone_is_gone_whoever_else_brought_it(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    """Its bytes are here by another repository, and prove nothing for this one."""
    image = upstream.add_image("team/other", "v1")
    room = make_room()
    await room.content.bring.digest(Target("lab", "team/other", "lab/team/other"), "v1", rarely=True)
    with pytest.raises(UpstreamNotFound):
        await room.content.bring.manifest(APP, Digest.parse(image.digest))
