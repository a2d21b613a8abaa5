"""An image whose attestation a clean-up job deleted crosses the gap without it, and every step says so."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import yaml

from tests.offline.conftest import MakeSite
from tests.offline.site import Done, mounted
from tests.peers.scripted import ScriptedRegistry

_INDEX = "application/vnd.oci.image.index.v1+json"
_LINUX = {"os": "linux", "architecture": "amd64"}
_UNKNOWN = {"os": "unknown", "architecture": "unknown"}


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_it_is_said_at_every_step(make_site: MakeSite) -> None:
    gone = "sha256:" + "2" * 64
    async with ScriptedRegistry() as upstream:
        image = upstream.add_image("team/app", layers=[b"layer"])
        entry = {"mediaType": image.media_type, "digest": image.digest, "size": len(image.manifest)}
        annotations = {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": image.digest,
        }
        lost = {**entry, "digest": gone, "size": 566, "platform": _UNKNOWN, "annotations": annotations}
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [{**entry, "platform": _LINUX}, lost]}
        digest = upstream.add_manifest("team/app", json.dumps(index).encode(), _INDEX, "v1")
        bastion = make_site("bastion", None, {"upstreams": {"reg.example": {"endpoints": [upstream.url]}}})
        inside = make_site("inside", None, {"offline": True})
        wanted = bastion.folder / "set.yaml"
        images = [{"name": "reg.example/team/app:v1", "platforms": ["linux/amd64"]}]
        document = {"kind": "ImageSetConfiguration", "apiVersion": "mirror.openshift.io/v2alpha1"}
        wanted.write_text(yaml.safe_dump({**document, "mirror": {"additionalImages": images}}))

        async def said(site: Any, *words: object) -> str:
            done: Done = await asyncio.to_thread(site.mirror, *words)
            return done.err

        steps = [
            await said(bastion, "sync", wanted),
            await said(bastion, "verify", "set"),
            await said(bastion, "save", "set", "--to", mounted(bastion.folder / "parts")),
            await said(inside, "load", bastion.folder / "parts"),
            await said(inside, "verify", "--deep"),
        ]
    for step in steps:
        assert step.count(f"reg.example/team/app@{digest}") == 1, step
        assert f"attestation {gone}" in step
