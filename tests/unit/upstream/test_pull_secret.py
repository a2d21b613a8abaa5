"""Pull secrets: forms, keys, and what happens when the file changes."""

import asyncio
import base64
import json

import pytest
from yarl import URL

from mirror.errors import UpstreamLoginRefused
from mirror.upstream.credential import hosts_of
from mirror.upstream.pull_secret import OwnLogin, PullSecret, PullSecrets, place_of
from mirror.upstream.watched import WatchedFile


def auth(user, password):
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def parsed(auths, **more):
    return PullSecret.parse(json.dumps({"auths": auths, **more}).encode())


def pair(credential):
    return credential and (credential.username, credential.password.reveal())


@pytest.mark.parametrize(
    ("host", "repository", "user"),
    [
        ("quay.io", "team/app", "exact"),
        ("quay.io", "team/app/sub", "exact"),
        ("quay.io", "team/apple", "team"),
        ("quay.io", "team", "team"),
        ("quay.io", "other/app", "host"),
        ("quay.io", "", "host"),
        ("quay.io:8443", "team/app", "port"),
        ("example.com", "x", "url"),
        ("quay.com", "team/app", None),
        ("io", "x", None),
        ("registry-1.docker.io", "library/busybox", "hub"),
        ("docker.io", "library/busybox", "hub"),
        ("index.docker.io", "me/private", "mine"),
    ],
)
def test_lookup(host, repository, user):
    secret = parsed(
        {
            "quay.io": auth("host", "1"),
            "quay.io/team": auth("team", "2"),
            "quay.io/team/app": auth("exact", "3"),
            "quay.io:8443": auth("port", "4"),
            "https://example.com/v1/": auth("url", "5"),
            "https://index.docker.io/v1/": auth("hub", "6"),
            "docker.io/me": auth("mine", "7"),
        }
    )
    found = secret.find([host], repository)
    assert (found.username if found else None) == user


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (auth("u", "p:with:colons"), ("u", "p:with:colons")),
        (auth("12345678|name", "p"), ("12345678|name", "p")),
        (auth("org+robot", "p"), ("org+robot", "p")),
        (auth("robot$x", "p"), ("robot$x", "p")),
        (auth("u", "p\0\0"), ("u", "p")),
        ({"username": "u", "password": "p"}, ("u", "p")),
        ({"auth": base64.b64encode(b"nocolon").decode(), "identitytoken": "t"}, None),
        ({}, None),
        ({"email": "a@b"}, None),
        (auth("u", ""), None),
    ],
)
def test_entries(entry, expected):
    assert pair(parsed({"reg": entry}).find(["reg"], "x")) == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({**auth("u", "p"), "email": None}, ("u", "p")),  # nobody reads it
        ({**auth("u", "p"), "identitytoken": None}, ("u", "p")),
        ({**auth("u", "p"), "registrytoken": None}, ("u", "p")),
        ({**auth("u", "p"), "username": None, "password": None}, ("u", "p")),
        ({"auth": None, "username": "u", "password": "p"}, ("u", "p")),
        ({"auth": None, "username": None, "password": None, "identitytoken": "t"}, ("", "")),
        ({"auth": None, "registrytoken": "t", "email": None}, ("", "")),
        ({"username": "u", "password": None}, None),
        ({"auth": None, "email": None}, None),
        ({"auth": None}, None),
        (None, None),
    ],
)
@pytest.mark.parametrize("wrapped", [True, False], ids=["auths", "dockercfg"])
def test_null_is_absence(entry, expected, wrapped):
    """kubewarden#1734, and what jsonencode and Ansible write; to Go null is as absent."""
    auths = {"reg": entry, "other": {**auth("o", "p"), "email": None}}
    secret = PullSecret.parse(json.dumps({"auths": auths, "credHelpers": None} if wrapped else auths).encode())
    assert pair(secret.find(["reg"], "x")) == expected
    assert pair(secret.find(["other"], "x")) == ("o", "p")


@pytest.mark.parametrize(
    "document",
    [
        {"auths": None},  # this and the next guard what worked before
        {"auths": None, "credsStore": "pass"},
        {"auths": None, "credHelpers": None, "HttpHeaders": None},
        {"auths": {"a": None, "b": None}},
        {"a": None},
        {"credsStore": None, "detachKeys": None},
        {},  # as before
    ],
)
def test_a_document_of_nulls_holds_no_login(document):
    secret = PullSecret.parse(json.dumps(document).encode())
    assert secret.find(["a"], "x") is None
    assert (secret.keys, secret.flaws) == ([], {})


def test_what_is_absent_hides_nothing():
    secret = parsed({"quay.io": None, "https://quay.io": auth("u", "p"), "quay.io/team": {"auth": None}})
    assert pair(secret.find(["quay.io"], "team/app")) == ("u", "p")


def test_tokens():
    found = parsed({"reg": {**auth("0000", "x"), "identitytoken": "refresh"}}).find(["reg"], "a")
    assert found.identity_token.reveal() == "refresh"
    assert parsed({"reg": auth("<token>", "refresh")}).find(["reg"], "a").identity_token.reveal() == "refresh"
    assert parsed({"reg": {"registrytoken": "ready"}}).find(["reg"], "a").registry_token.reveal() == "ready"


def test_dockercfg_has_no_wrapper():
    old = PullSecret.parse(json.dumps({"https://index.docker.io/v1/": {**auth("u", "p"), "email": "x"}}).encode())
    assert pair(old.find(["registry-1.docker.io"], "library/x")) == ("u", "p")


def test_a_file_of_helpers_alone_holds_no_login():
    assert PullSecret.parse(b'{"credsStore": "pass"}').find(["reg"], "a") is None
    secret = parsed({"reg": {}}, credHelpers={"gcr.io": "gcloud"}, credsStore="pass")
    assert secret.find(["reg"], "a") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"auths": []}',
        b"\xff\xfe",
        b'{"a":' * 5000,
    ],
)
def test_what_is_none_is_refused(content):
    with pytest.raises((ValueError, RecursionError)):
        PullSecret.parse(content)


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"auth": 7}, "its auth is not a text"),
        ({"auth": ["x"]}, "its auth is not a text"),
        ({"auth": "%%%"}, "its auth is not the base64 of a text"),
        ({"auth": "/w=="}, "its auth is not the base64 of a text"),
        ({"auth": "dTpw\u00e9"}, "its auth is not the base64 of a text"),
        ({"username": 7, "password": "hunter2"}, "its username is not a text"),
        ({"username": "u", "password": {"hunter2": 1}}, "its password is not a text"),
        ({**auth("u", "hunter2"), "identitytoken": True}, "its identitytoken is not a text"),
        ({**auth("u", "hunter2"), "registrytoken": 1}, "its registrytoken is not a text"),
        ("hunter2", "it is not an object"),
        (["hunter2"], "it is not an object"),
        (False, "it is not an object"),
    ],
)
@pytest.mark.parametrize("wrapped", [True, False], ids=["auths", "dockercfg"])
def test_a_bad_entry_spoils_only_itself(entry, what, wrapped):
    auths = {"good": auth("u", "p"), "bad": entry}
    secret = PullSecret.parse(json.dumps({"auths": auths} if wrapped else auths).encode())
    assert pair(secret.find(["good"], "a")) == ("u", "p")
    with pytest.raises(UpstreamLoginRefused, match=f"entry bad cannot be read: {what}") as refused:
        secret.find(["bad"], "a")
    assert "hunter2" not in str(refused.value)
    assert secret.flaws["bad"].what == what


@pytest.mark.parametrize(
    "document",
    [
        {"apiVersion": "v1", "kind": "Secret", "data": {".dockerconfigjson": "aGk="}},
        {"a": "b"},
        {"detachKeys": "ctrl-x", "HttpHeaders": {}},
    ],
)
def test_any_object_is_no_dockercfg(document):
    """Guards against taking every file for one with bad entries."""
    with pytest.raises(ValueError, match="no object of objects"):
        PullSecret.parse(json.dumps(document).encode())


KEYS = [
    ("quay.io", "quay.io", ""),
    ("https://quay.io", "quay.io", ""),
    ("http://quay.io/", "quay.io", ""),
    ("HTTPS://Quay.IO/", "quay.io", ""),
    ("https://quay.io/v1/", "quay.io", ""),
    ("https://quay.io/v2/", "quay.io", ""),
    ("https://quay.io/v2", "quay.io", ""),
    ("https://quay.io/v2/team/app", "quay.io", ""),
    ("quay.io/", "quay.io", ""),
    ("quay.io/v1/", "quay.io", ""),
    ("quay.io/v2", "quay.io", ""),
    ("Quay.io", "quay.io", ""),
    ("quay.io/team", "quay.io", "team"),
    ("quay.io/team/", "quay.io", "team"),
    ("QUAY.io/team/app", "quay.io", "team/app"),
    ("quay.io/v2/team", "quay.io", "v2/team"),
    ("quay.io:5000", "quay.io:5000", ""),
    ("https://quay.io:5000/v1/", "quay.io:5000", ""),
    ("quay.io:5000/team/", "quay.io:5000", "team"),
    ("[::1]:5000/team", "[::1]:5000", "team"),
    ("docker.io", "docker.io", ""),
    ("index.docker.io/v1/", "docker.io", ""),
    ("https://index.docker.io/v1/", "docker.io", ""),
    ("https://registry-1.docker.io", "docker.io", ""),
    ("registry-1.docker.io/v2/", "docker.io", ""),
    ("Docker.io/me", "docker.io", "me"),
    ("registry.hub.docker.com", "docker.io", ""),
]


@pytest.mark.parametrize(("key", "host", "path"), KEYS)
def test_the_place_of_a_key(key, host, path):
    assert place_of(key) == (host, path)
    secret = parsed({key: auth("u", "p")})
    assert pair(secret.find([host], path or "any/app")) == ("u", "p")
    assert secret.find(["other.io"], path) is None
    assert not path or secret.find([host], "elsewhere/app") is None


@pytest.mark.parametrize(
    ("endpoint", "key", "found"),
    [
        ("https://quay.io", "quay.io:443", True),
        ("https://quay.io", "https://quay.io:443/v1/", True),
        ("https://quay.io:443", "quay.io", True),
        ("https://quay.io/prefix", "quay.io", True),
        ("http://reg.lab", "reg.lab:80", True),
        ("https://reg.lab", "reg.lab:80", False),
        ("http://[::1]:5000", "[::1]:5000", True),
        ("https://registry-1.docker.io", "https://index.docker.io/v1/", True),
    ],
)
def test_the_names_of_an_endpoint(endpoint, key, found):
    secret = parsed({key: auth("u", "p")})
    assert (secret.find(hosts_of(URL(endpoint)), "team/app") is not None) is found


@pytest.mark.parametrize(
    ("keys", "counts"),
    [
        (["https://quay.io/v1/", "quay.io"], "quay.io"),
        (["https://quay.io", "quay.io/"], "quay.io/"),
        (["Quay.io", "quay.io"], "quay.io"),
        (["https://index.docker.io/v1/", "registry-1.docker.io"], "registry-1.docker.io"),
        (["index.docker.io", "docker.io"], "docker.io"),
        (["https://quay.io/v1/", "http://quay.io"], "https://quay.io/v1/"),
    ],
)
def test_of_two_keys_for_one_place_the_plainer_counts(keys, counts):
    secret = parsed({key: auth(key, "p") for key in keys})
    assert secret.find([place_of(counts)[0]], "team/app").source == counts
    assert secret.keys == [counts]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


async def test_reread_on_change_and_a_half_written_file_keeps_the_old_one(tmp_path):
    path, clock = tmp_path / "secret.json", Clock()
    path.write_text(json.dumps({"auths": {"reg": auth("old", "1")}}))
    file = WatchedFile(path, PullSecret.parse, clock)
    assert pair((await file.value()).find(["reg"], "a")) == ("old", "1")
    whole = json.dumps({"auths": {"reg": auth("new", "2")}})
    path.write_text(whole[:20])
    assert pair((await file.value()).find(["reg"], "a")) == ("old", "1")  # not looked at again within a second
    clock.now += 2
    assert pair((await file.value()).find(["reg"], "a")) == ("old", "1")
    assert file.problem
    path.write_text(whole)
    clock.now += 2
    assert pair((await file.value()).find(["reg"], "a")) == ("new", "2")
    assert not file.problem
    path.unlink()
    clock.now += 2
    assert pair((await file.value()).find(["reg"], "a")) == ("new", "2")


async def test_a_file_that_never_was_readable_is_not_anonymous(tmp_path):
    secrets = PullSecrets([tmp_path / "missing.json"])
    with pytest.raises(UpstreamLoginRefused, match=r"missing\.json"):
        await secrets.find(["reg"], "a")


async def test_the_first_file_that_has_a_login_wins(tmp_path):
    for name, host in (("one", "a"), ("two", "a"), ("three", "b")):
        (tmp_path / name).write_text(json.dumps({"auths": {host: auth(name, "p")}}))
    secrets = PullSecrets([tmp_path / "one", tmp_path / "two", tmp_path / "three"])
    first, third = await secrets.find(["a"], "x"), await secrets.find(["b"], "x")
    assert (first.username, third.username) == ("one", "three")
    assert first.source == f"{tmp_path / 'one'}, entry a"
    assert await secrets.find(["c"], "x") is None


async def test_own_login(tmp_path):
    path = tmp_path / "password"
    path.write_text("pass word\n")
    login = OwnLogin("me", path)
    assert pair(await login.find(["reg"], "a")) == ("me", "pass word")
    path.write_text("\n")
    with pytest.raises(UpstreamLoginRefused) as refused:
        await OwnLogin("me", path).find(["reg"], "a")
    assert str(path) in str(refused.value)


async def test_many_callers_read_the_file_once(tmp_path):
    path = tmp_path / "password"
    path.write_text("x")
    reads = []
    file = WatchedFile(path, lambda content: reads.append(content) or content)
    await asyncio.gather(*(file.value() for _ in range(20)))
    assert reads == [b"x"]
