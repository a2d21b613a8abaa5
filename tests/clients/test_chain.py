"""A chain: nodes pull from an edge, that from a bastion which asks who it is, and that from upstream."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.conftest import Authority, MakeMirror, Shelf
from tests.tools.clients import Skopeo, run
from tests.tools.mirror import Mirror
from tests.tools.programs import Programs
from tests.tools.registries import Registry

pytestmark = pytest.mark.clients


def command(mirror: Mirror, *words: str) -> str:
    return run([*mirror.program, *words, "--config", str(mirror.configuration)])


@pytest.mark.parametrize("anonymous", ["pull", "none"])
def test_the_edge_has_a_robot_of_the_bastion(
    make_mirror: MakeMirror,
    plain: Registry,
    authority: Authority,
    programs: Programs,
    shelf: Shelf,
    short: Path,
    tmp_path: Path,
    anonymous: str,
) -> None:
    tls = {"certificate": str(authority.certificate), "key": str(authority.key)}
    rules = [{"who": "alice", "repositories": ["lab/**"], "may": ["pull"]}]
    clients = {"anonymous": anonymous, "rules": rules}
    bastion = make_mirror(
        {"upstreams": {"lab": {"endpoints": [plain.url]}}, "tls": tls, "clients": clients, "workers": 2}, "bastion"
    )
    secret = tmp_path / "pull-secret.json"
    words = ["token", "create", "edge", "--expires", "1d", "--repositories", "lab/**"]
    command(bastion, *words, "--registry", bastion.address, "--merge", str(secret))
    edge = make_mirror(
        {
            "upstreams": {"lab": {"endpoints": [f"{bastion.url}/lab"]}},
            "ca": [str(authority.ca)],
            "pull_secrets": [str(secret)],
            "clients": {"anonymous": "pull"},
        },
        "edge",
    )
    Skopeo(programs, short / "cold").pull(f"{edge.address}/lab/team/multi:1", shelf.multi)
    status, _, _ = bastion.get("/v2/lab/team/multi/manifests/1")
    assert status == 401
    asked = bastion.log.count("name=/token")
    Skopeo(programs, short / "warm").pull(f"{edge.address}/lab/team/multi@{shelf.multi.digest}", shelf.multi)
    Skopeo(programs, short / "more").pull(f"{edge.address}/lab/team/app:1", shelf.app)
    assert bastion.log.count("name=/token") <= asked + 4
    (robot,) = json.loads(command(bastion, "token", "list", "--json"))["tokens"]
    command(bastion, "token", "revoke", robot["id"])
    # What is here stays served; what is not is not to be had any more.
    Skopeo(programs, short / "kept").pull(f"{edge.address}/lab/team/multi:1", shelf.multi)
    status, _, body = edge.get("/v2/lab/team/docker/manifests/1")
    assert status == 404
    assert "login" in json.loads(body)["errors"][0]["message"]
    for log in (bastion.log, edge.log):
        assert "mrt_" not in log
