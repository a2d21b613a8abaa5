"""Upstreams that ask who pulls, by token or basic login, or that have a private CA. Clients know nothing of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Authority, MakeMirror, Shelf
from tests.tools.clients import Podman, Skopeo, run
from tests.tools.mirror import Mirror
from tests.tools.programs import Programs
from tests.tools.registries import PASSWORD, USER, Registry
from tests.tools.token_server import TokenServer

pytestmark = pytest.mark.clients

# A credential behind an open door must be meant: clients.anonymous is stated.
OPEN = {"clients": {"anonymous": "pull"}}


def credentials(password_file: Path) -> dict[str, Any]:
    return {"credentials": {"username": USER, "password_file": str(password_file)}}


def pull_all(mirror: Mirror, programs: Programs, shelf: Shelf, folder: Path) -> None:
    """Pull by tag and by digest with skopeo, all platforms."""
    name = f"{mirror.address}/lab/team/multi"
    Skopeo(programs, folder / "tag").pull(f"{name}:1", shelf.multi)
    Skopeo(programs, folder / "digest").pull(f"{name}@{shelf.multi.digest}", shelf.multi)


def test_token(
    make_mirror: MakeMirror,
    token: Registry,
    issuer: TokenServer,
    authority: Authority,
    password_file: Path,
    programs: Programs,
    shelf: Shelf,
    short: Path,
) -> None:
    upstream = {"endpoints": [token.url], "auth_realms": [issuer.address], **credentials(password_file)}
    mirror = make_mirror({"upstreams": {"lab": upstream}, "ca": [str(authority.ca)], **OPEN})
    pull_all(mirror, programs, shelf, short / "first")
    Podman(programs, short / "podman").pull(f"{mirror.address}/lab/team/tool:1")
    # one token a repository serves a whole pull, in each of the workers
    assert issuer.asked
    assert all(issuer.asked.count(scope) <= 2 for scope in issuer.asked)
    assert {scope for scope in issuer.asked if scope} == {"repository:team/multi:pull", "repository:team/tool:pull"}
    asked, tokens = token.requests(), list(issuer.asked)
    pull_all(mirror, programs, shelf, short / "second")
    assert (token.requests(), issuer.asked) == (asked, tokens)
    assert PASSWORD not in mirror.log


def test_realm_that_is_not_listed_sees_no_credential(
    make_mirror: MakeMirror, token: Registry, issuer: TokenServer, authority: Authority, password_file: Path
) -> None:
    upstream = {"endpoints": [token.url], **credentials(password_file)}
    mirror = make_mirror({"upstreams": {"lab": upstream}, "ca": [str(authority.ca)], **OPEN})
    status, _, body = mirror.get("/v2/lab/team/tool/manifests/1")
    assert status == 502
    assert "log in" in json.loads(body)["errors"][0]["message"]
    assert not issuer.authorised


@pytest.mark.parametrize("form", ["credentials", "pull_secrets"])
def test_basic(
    make_mirror: MakeMirror,
    basic: Registry,
    password_file: Path,
    programs: Programs,
    shelf: Shelf,
    tmp_path: Path,
    form: str,
) -> None:
    secret = tmp_path / "pull-secret.json"
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    secret.write_text(json.dumps({"auths": {basic.address: {"auth": login}}}))
    secret.chmod(0o600)
    upstream: Mapping[str, Any] = {"endpoints": [basic.url]}
    if form == "credentials":
        mirror = make_mirror({"upstreams": {"lab": {**upstream, **credentials(password_file)}}, **OPEN})
    else:
        mirror = make_mirror({"upstreams": {"lab": upstream}, "pull_secrets": [str(secret)], **OPEN})
    pull_all(mirror, programs, shelf, tmp_path / "first")
    asked = basic.requests()
    pull_all(mirror, programs, shelf, tmp_path / "second")
    assert basic.requests() == asked
    assert PASSWORD not in mirror.log
    assert login not in mirror.log


def test_wrong_password_is_our_fault_and_passes_no_challenge_on(
    make_mirror: MakeMirror, basic: Registry, password_file: Path
) -> None:
    password_file.write_text("outdated")
    mirror = make_mirror({"upstreams": {"lab": {"endpoints": [basic.url], **credentials(password_file)}}, **OPEN})
    status, headers, body = mirror.get("/v2/lab/team/tool/manifests/1")
    assert status == 404  # clients go on to their next mirror at once
    assert "login" in json.loads(body)["errors"][0]["message"]
    assert "www-authenticate" not in headers  # the client would send its own password there
    assert "outdated" not in mirror.log


def test_tls_upstream_with_a_private_ca(
    make_mirror: MakeMirror,
    secure: Registry,
    authority: Authority,
    programs: Programs,
    shelf: Shelf,
    tmp_path: Path,
) -> None:
    upstream = {"endpoints": [secure.url], "ca": str(authority.ca)}
    mirror = make_mirror({"upstreams": {"lab": upstream, "distrusted": {"endpoints": [secure.url]}}})
    pull_all(mirror, programs, shelf, tmp_path / "first")
    asked = secure.requests()
    pull_all(mirror, programs, shelf, tmp_path / "second")
    assert secure.requests() == asked
    status, _, _ = mirror.get("/v2/distrusted/team/tool/manifests/1")
    assert status == 503


def test_check_online_tries_the_login(
    make_mirror: MakeMirror, basic: Registry, password_file: Path, programs: Programs
) -> None:
    mirror = make_mirror({"upstreams": {"lab": {"endpoints": [basic.url], **credentials(password_file)}}, **OPEN})
    report = json.loads(run([*mirror.program, "check", "--online", "--json", "--config", str(mirror.configuration)]))
    assert report["ok"], report
