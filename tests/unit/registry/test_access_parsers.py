"""What clients write: Authorization headers, scopes, hosts; and what we write back, as our own client reads it."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import NameInvalid
from mirror.oci.reference import check_name
from mirror.registry import scopes
from mirror.registry.authorization import Basic, Bearer, parse
from mirror.registry.logins import basic
from mirror.upstream import challenge as upstream


def encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Basic " + encoded(b"alice:pass:word"), Basic("alice", b"pass:word")),
        ("basic  " + encoded(b"a:b") + " ", Basic("a", b"b")),
        ("BASIC YTo", Basic("a", b"")),  # without its padding
        ("Basic Og==", Basic("", b"")),
        ("Basic " + encoded("Jörg:pß".encode()), Basic("Jörg", "pß".encode())),
        ("Basic " + encoded(b"robot+ci:mrt_x"), Basic("robot+ci", b"mrt_x")),
        ("Basic " + encoded(b"a:\xff\x00"), Basic("a", b"\xff\x00")),
        ("Bearer a.b-c_~+/=", Bearer("a.b-c_~+/=")),
        ("bearer  x", Bearer("x")),
        ("Basic " + encoded(b"nocolon"), None),
        ("Basic " + encoded(b"\xff:x"), None),
        ("Basic " + encoded(b"a\nb:x"), None),
        ("Basic " + encoded(b"a\0:x"), None),
        ("Basic !!!", None),
        ("Basic", None),
        ("Basic ", None),
        ("Bearer", None),
        ("Bearer a b", None),
        ("Bearer a,b", None),
        ("Digest x", None),
        ("", None),
        (" Bearer x", None),
        ("Bearer x\udcff", None),
    ],
)
def test_authorization(header: str, expected: object) -> None:
    assert parse(header) == expected


def test_what_is_secret_does_not_print() -> None:
    assert "word" not in repr(parse("Basic " + encoded(b"alice:pass:word")))
    assert "abc" not in repr(parse("Bearer abc"))


@given(st.text())
def test_no_header_breaks_it(header: str) -> None:
    parse(header)
    parse("Basic " + header)
    parse("Bearer " + header)


@given(st.text(st.characters(exclude_characters=":", exclude_categories=["C", "Z"]), min_size=1), st.text())
def test_a_login_comes_back_as_it_was_written(user: str, password: str) -> None:
    found = parse(basic(user, password.encode("utf-8", "replace").decode()))
    assert isinstance(found, Basic)
    assert (found.user, found.password) == (user, password.encode("utf-8", "replace"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["repository:apps/a:pull"], [("repository", "apps/a", {"pull"})]),
        (
            ["repository:apps/a:pull,push repository:b:delete"],
            [("repository", "apps/a", {"pull", "push"}), ("repository", "b", {"delete"})],
        ),
        (["repository:a:pull", "repository:b:*"], [("repository", "a", {"pull"}), ("repository", "b", {"*"})]),
        (["repository(plugin):a:pull"], [("repository", "a", {"pull"})]),
        (["registry:catalog:*"], [("registry", "catalog", {"*"})]),
        (["repository:quay.io/a:pull,"], [("repository", "quay.io/a", {"pull"})]),
        (["", "aws", "repository", "repository:a", "repository::pull"], []),
        (["repository:A:pull", "repository:a:", "x:a:pull"], []),
        (["repository:../etc:pull", "repository:a//b:pull", "repository:a\n:pull"], []),
        (["repository:host:5000/a:pull"], []),  # a port is in no name here
    ],
)
def test_scopes(values: list[str], expected: list[tuple[str, str, set[str]]]) -> None:
    assert [(scope.kind, scope.name, set(scope.actions)) for scope in scopes.parse(values)] == expected


def test_scopes_are_bounded() -> None:
    assert len(scopes.parse([" ".join(f"repository:a{number}:pull" for number in range(500))])) == scopes.MOST_SCOPES


@given(st.lists(st.text(st.sampled_from("repositoy:a/,*() pulhdw.")), max_size=5))
def test_every_scope_that_is_found_is_a_checked_value(values: list[str]) -> None:
    for scope in scopes.parse(values):
        assert scope.kind in ("repository", "registry")
        assert check_name(scope.name) == scope.name
        assert scope.actions
        assert all(re.fullmatch(r"[a-z]+|\*", action) for action in scope.actions)


@given(
    st.lists(st.sampled_from(["pull", "push", "delete", "*"]), min_size=1, unique=True), st.text("ab/.-_1", min_size=1)
)
def test_a_scope_comes_back_as_it_was_written(actions: list[str], name: str) -> None:
    try:
        check_name(name)
    except NameInvalid:
        return
    (found,) = scopes.parse([f"repository:{name}:{','.join(actions)}"])
    assert found == ("repository", name, frozenset(actions))


@pytest.mark.parametrize("host", ["mirror", "mirror.lab:5000", "127.0.0.1:5000", "[::1]:5000", "a_b", "MIRROR"])
def test_hosts_that_may_be_repeated(host: str) -> None:
    assert scopes.host_of(host) == host


@pytest.mark.parametrize(
    "host", [None, "", 'a"b', "a b", "a/b", "a\r\nX: y", "user@a", "a:x", "a:123456", "ä", "-a", "a,b"]
)
def test_hosts_that_may_not(host: str | None) -> None:
    assert scopes.host_of(host) is None


@given(st.text(max_size=40))
def test_no_host_ends_the_quotes_around_it(host: str) -> None:
    found = scopes.host_of(host)
    if found is not None:
        (read,) = upstream.parse([scopes.challenge("https", found, "repository:a:pull,push", "invalid_token")])
        assert read.get("realm") == f"https://{host}/token"


def test_our_challenge_as_our_own_client_reads_it() -> None:
    (read,) = upstream.parse([scopes.challenge("http", "[::1]:5000", "repository:a/b:pull,push", "insufficient_scope")])
    assert read.scheme == "bearer"
    assert read.parameters == {
        "realm": "http://[::1]:5000/token",
        "service": "[::1]:5000",
        "scope": "repository:a/b:pull,push",
        "error": "insufficient_scope",
    }
    (plain,) = upstream.parse([scopes.challenge("https", "mirror")])
    assert plain.parameters == {"realm": "https://mirror/token", "service": "mirror"}
