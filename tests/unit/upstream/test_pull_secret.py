"""Pull secrets: forms, keys, and what happens when the file changes."""

import asyncio
import base64
import json

import pytest

from mirror.errors import UpstreamLoginRefused
from mirror.upstream.pull_secret import OwnLogin, PullSecret, PullSecrets
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
    found = secret.find(host, repository)
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
    assert pair(parsed({"reg": entry}).find("reg", "x")) == expected


def test_tokens():
    found = parsed({"reg": {**auth("0000", "x"), "identitytoken": "refresh"}}).find("reg", "a")
    assert found.identity_token.reveal() == "refresh"
    assert parsed({"reg": auth("<token>", "refresh")}).find("reg", "a").identity_token.reveal() == "refresh"
    assert parsed({"reg": {"registrytoken": "ready"}}).find("reg", "a").registry_token.reveal() == "ready"


def test_dockercfg_has_no_wrapper():
    old = PullSecret.parse(json.dumps({"https://index.docker.io/v1/": {**auth("u", "p"), "email": "x"}}).encode())
    assert pair(old.find("registry-1.docker.io", "library/x")) == ("u", "p")


def test_a_file_of_helpers_alone_holds_no_login():
    assert PullSecret.parse(b'{"credsStore": "pass"}').find("reg", "a") is None
    secret = parsed({"reg": {}}, credHelpers={"gcr.io": "gcloud"}, credsStore="pass")
    assert secret.find("reg", "a") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"auths": []}',
        b'{"auths": {"a": "b"}}',
        b"\xff\xfe",
        b'{"a":' * 5000,
    ],
)
def test_what_is_none_is_refused(content):
    with pytest.raises((ValueError, RecursionError)):
        PullSecret.parse(content)


@pytest.mark.parametrize("value", [7, "%%%", "/w==", ["x"]])
def test_a_bad_entry_spoils_only_itself(value):
    secret = parsed({"good": auth("u", "p"), "bad": {"auth": value}})
    assert pair(secret.find("good", "a")) == ("u", "p")
    with pytest.raises(UpstreamLoginRefused, match="entry bad"):
        secret.find("bad", "a")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


async def test_reread_on_change_and_a_half_written_file_keeps_the_old_one(tmp_path):
    path, clock = tmp_path / "secret.json", Clock()
    path.write_text(json.dumps({"auths": {"reg": auth("old", "1")}}))
    file = WatchedFile(path, PullSecret.parse, clock)
    assert pair((await file.value()).find("reg", "a")) == ("old", "1")
    whole = json.dumps({"auths": {"reg": auth("new", "2")}})
    path.write_text(whole[:20])
    assert pair((await file.value()).find("reg", "a")) == ("old", "1")  # not looked at again within a second
    clock.now += 2
    assert pair((await file.value()).find("reg", "a")) == ("old", "1")
    assert file.problem
    path.write_text(whole)
    clock.now += 2
    assert pair((await file.value()).find("reg", "a")) == ("new", "2")
    assert not file.problem
    path.unlink()
    clock.now += 2
    assert pair((await file.value()).find("reg", "a")) == ("new", "2")


async def test_a_file_that_never_was_readable_is_not_anonymous(tmp_path):
    secrets = PullSecrets([tmp_path / "missing.json"])
    with pytest.raises(UpstreamLoginRefused, match=r"missing\.json"):
        await secrets.find("reg", "a")


async def test_the_first_file_that_has_a_login_wins(tmp_path):
    for name, host in (("one", "a"), ("two", "a"), ("three", "b")):
        (tmp_path / name).write_text(json.dumps({"auths": {host: auth(name, "p")}}))
    secrets = PullSecrets([tmp_path / "one", tmp_path / "two", tmp_path / "three"])
    first, third = await secrets.find("a", "x"), await secrets.find("b", "x")
    assert (first.username, third.username) == ("one", "three")
    assert first.source == f"{tmp_path / 'one'}, entry a"
    assert await secrets.find("c", "x") is None


async def test_own_login(tmp_path):
    path = tmp_path / "password"
    path.write_text("pass word\n")
    login = OwnLogin("me", path)
    assert pair(await login.find("reg", "a")) == ("me", "pass word")
    path.write_text("\n")
    with pytest.raises(UpstreamLoginRefused) as refused:
        await OwnLogin("me", path).find("reg", "a")
    assert str(path) in str(refused.value)


async def test_many_callers_read_the_file_once(tmp_path):
    path = tmp_path / "password"
    path.write_text("x")
    reads = []
    file = WatchedFile(path, lambda content: reads.append(content) or content)
    await asyncio.gather(*(file.value() for _ in range(20)))
    assert reads == [b"x"]
