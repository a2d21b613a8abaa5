"""The 401 conversation: what is asked of a token service, and what its answers mean."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from mirror.errors import (
    UpstreamDenied,
    UpstreamError,
    UpstreamInvalid,
    UpstreamLoginRefused,
    UpstreamUnavailable,
)
from mirror.upstream.auth import TokenAnswer, in_order, log_in, pull_scope, read_grant, usable
from mirror.upstream.challenge import parse
from mirror.upstream.credential import Credential
from mirror.upstream.secret import Secret

USER = Credential("robot", Secret("p:w"), source="a file")
BASIC = "Basic " + base64.b64encode(b"robot:p:w").decode()
REFRESH = Credential("00000000-0000-0000-0000-000000000000", identity_token=Secret("refresh-me"))
SCOPE = "repository:team/app:pull"


def as_spelled(realm):
    return URL(realm, encoded=True)


def bearer(realm="https://reg.example/token", service="reg"):
    return parse([f'Bearer realm="{realm}",service="{service}",scope="{SCOPE}"'])[0]


def hold(challenge, credential, *answers, scope=SCOPE):
    """Answer the conversation's requests in turn; return (requests, grant)."""
    conversation = log_in(challenge, credential, scope, as_spelled)
    requests = []
    try:
        requests.append(next(conversation))
        for answer in answers:
            requests.append(conversation.send(answer))
    except StopIteration as end:
        return requests, end.value
    raise AssertionError(f"more answers are wanted: {requests[-1]}")


def said(status=200, **fields):
    return TokenAnswer(status, json.dumps(fields).encode())


def jwt(**claims):
    parts = [{"alg": "none"}, claims, {}]
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)


def test_anonymous():
    (request,), grant = hold(bearer(), None, said(token="t", expires_in=300))
    assert request.form is None
    assert not request.authorization
    assert dict(request.url.query) == {"service": "reg", "scope": SCOPE}
    assert grant.header.reveal() == "Bearer t"
    assert grant.lifetime == 300


def test_user_and_password_go_by_get():
    (request,), _ = hold(bearer(), USER, said(access_token="t"))
    assert request.form is None
    assert request.authorization.reveal() == BASIC
    assert request.url.query["account"] == "robot"


def test_an_identity_token_goes_by_post():
    (request,), grant = hold(bearer(), REFRESH, said(access_token="t"))
    assert request.form == {
        "grant_type": "refresh_token",
        "refresh_token": "refresh-me",
        "service": "reg",
        "client_id": "mirror",
        "scope": SCOPE,
    }
    assert not request.authorization
    assert grant.header.reveal() == "Bearer t"


@pytest.mark.parametrize("status", [400, 401, 404, 405])
def test_where_post_is_unsupported_get_is_tried(status):
    (_, second), grant = hold(bearer(), REFRESH, said(status), said(token="t"))
    assert second.form is None
    assert second.authorization.reveal().startswith("Basic ")
    assert grant.header.reveal() == "Bearer t"


@pytest.mark.parametrize("status", [404, 405])
def test_where_get_is_unsupported_a_password_goes_by_post(status):
    (_, second), _ = hold(bearer(), USER, said(status), said(token="t"))
    assert second.form["grant_type"] == "password"
    assert second.form["password"] == "p:w"


def test_a_realm_keeps_its_own_query():
    realm = "https://reg.example/token?tenant=a%2Fb&service=theirs"
    (request,), _ = hold(bearer(realm), None, said(token="t"))
    assert request.url.raw_query_string.startswith("tenant=a%2Fb&service=theirs&")
    assert request.url.query.getall("service") == ["theirs"]
    assert request.url.query["scope"] == SCOPE


def test_basic_and_registry_tokens_need_no_service():
    assert hold(parse(['Basic realm="x"'])[0], USER)[1].header.reveal() == BASIC
    ready = Credential(registry_token=Secret("ready"))
    assert hold(bearer(), ready)[1].header.reveal() == "Bearer ready"


@pytest.mark.parametrize("status", [401, 403])
def test_refused_as_such(status):
    with pytest.raises(UpstreamLoginRefused, match="renew it: a file"):
        hold(bearer(), USER, said(status), said(status))


@pytest.mark.parametrize("status", [401, 403])
def test_refused_for_this_repository_only(status):
    # The second request asks for no scope: the login alone.
    with pytest.raises(UpstreamDenied):
        hold(bearer(), USER, said(status), said(token="t"))
    conversation = log_in(bearer(), USER, SCOPE, URL)
    next(conversation)
    assert "scope" not in conversation.send(said(status)).url.query


@pytest.mark.parametrize("status", [401, 403])
def test_an_anonymous_refusal_is_about_the_repository(status):
    with pytest.raises(UpstreamDenied):
        hold(bearer(), None, said(status))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (TokenAnswer(200, b"<html>Sign in"), UpstreamInvalid),
        (TokenAnswer(200, b"[]"), UpstreamInvalid),
        (TokenAnswer(200, b"null"), UpstreamInvalid),
        (TokenAnswer(200, b"[" * 100_000), UpstreamInvalid),
        (said(), UpstreamInvalid),
        (said(token=""), UpstreamInvalid),
        (said(token=7), UpstreamInvalid),
        (said(token="a\r\nX-Evil: 1"), UpstreamInvalid),
        (said(token="a b"), UpstreamInvalid),
        (said(token="ä"), UpstreamInvalid),
        (said(token="a" * 65537), UpstreamInvalid),
        (said(418), UpstreamInvalid),
        (said(404), UpstreamInvalid),
        (said(429), UpstreamUnavailable),
        (said(500), UpstreamUnavailable),
        (said(503), UpstreamUnavailable),
    ],
)
def test_answers_without_a_token(answer, error):
    with pytest.raises(error):
        hold(bearer(), None, answer)


@pytest.mark.parametrize(
    ("fields", "lifetime"),
    [
        ({}, 60),
        ({"expires_in": 300}, 300),
        ({"expires_in": 0}, 60),
        ({"expires_in": -5}, 60),
        ({"expires_in": 1}, 30),
        ({"expires_in": 10**9}, 3600),
        ({"expires_in": 10**400}, 60),
        ({"expires_in": "300"}, 60),
        ({"expires_in": None}, 60),
        ({"expires_in": True}, 60),
        ({"expires_in": 300.5}, 300.5),
    ],
)
def test_lifetime_of_opaque_tokens(fields, lifetime):
    assert read_grant(said(token="opaque", **fields), "x").lifetime == lifetime


@pytest.mark.parametrize(
    ("claims", "fields", "lifetime"),
    [
        ({"exp": 5000, "iat": 1400}, {}, 3600),  # quay: no expires_in, an hour's token, our clock far off
        ({"exp": 1310, "iat": 1300}, {"expires_in": 300}, 10),  # what really ends it counts
        ({"exp": 1300}, {}, 300),
        ({"exp": 900}, {"expires_in": 120}, 120),  # over by our clock: ours is wrong, or theirs
        ({"exp": 99999, "iat": 1000}, {}, 3600),
        ({"exp": "soon"}, {"expires_in": 120}, 120),
        ({"exp": float("inf")}, {}, 60),
    ],
)
def test_lifetime_of_jwts(claims, fields, lifetime):
    assert read_grant(said(token=jwt(**claims), **fields), "x", now=1000).lifetime == lifetime


@pytest.mark.parametrize(
    ("asked", "repository", "scope"),
    [
        ("repository:team/app:pull", "team/app", "repository:team/app:pull"),
        ("repository:team/app:pull,push", "team/app", "repository:team/app:pull"),
        ("repository:team/app:*", "team/app", "repository:team/app:pull"),
        ("", "team/app", "repository:team/app:pull"),
        ("aws", "team/app", "aws"),  # public.ecr.aws
        ("repository:user/image:pull", "team/app", "repository:team/app:pull"),  # ghcr's /v2/ names an example
        ("repository:quay.io/team/app:pull", "team/app", "repository:quay.io/team/app:pull"),
        ("repository:reg:5000/team/app:pull", "team/app", "repository:reg:5000/team/app:pull"),
        ("repository:evil:pull repository:team/app:pull", "team/app", "repository:team/app:pull"),
        ("repository:team/app:pull", "", ""),
        ("registry:catalog:*", "", ""),
    ],
)
def test_scope(asked, repository, scope):
    assert pull_scope(asked, repository) == scope


@pytest.mark.parametrize(
    ("asked", "scope"),
    [
        ("repository:lab/team/app:pull", "repository:lab/team/other:pull"),
        ("repository:a/b/team/app:pull,push", "repository:a/b/team/other:pull"),
        # All that follows was so before.
        ("repository:team/app:pull", "repository:team/other:pull"),
        ("repository:lab/team/other:pull repository:x/team/app:pull", "repository:lab/team/other:pull"),
        ("repository:user/image:pull", "repository:team/other:pull"),
        ("aws", "aws"),
    ],
)
def test_a_prefix_of_the_registrys_own_is_that_of_all_its_repositories(asked, scope):
    """What it asked for about one repository tells what to ask for about the next, before it has to say it again."""
    assert pull_scope(asked, "team/other", "team/app") == scope


@pytest.mark.parametrize(
    ("lines", "credential", "realms"),
    [
        (['Basic realm="x", Bearer realm="https://r/t"'], USER, ["https://r/t", "x"]),
        (['Basic realm="x"', 'Bearer realm="https://r/t"'], USER, ["https://r/t", "x"]),
        (['Basic realm="a, Bearer realm=b", Bearer realm="https://r/t"'], USER, ["https://r/t", "a, Bearer realm=b"]),
        (
            ['Bearer realm="https://one/t"', 'Basic realm="x"', 'Bearer realm="https://two/t"'],
            USER,
            ["https://one/t", "https://two/t", "x"],
        ),
        (['Bearer realm="https://one/t", Bearer realm="https://two/t"'], None, ["https://one/t", "https://two/t"]),
        (['Basic realm="x", Bearer realm="https://r/t"'], None, ["https://r/t"]),
        (['Basic realm="x", Bearer realm="https://r/t"'], REFRESH, ["https://r/t"]),
        (['Bearer error="invalid_token"', 'Basic realm="x"'], USER, ["x"]),  # without a realm there is nobody to ask
        (["Negotiate", 'Basic realm="x"'], None, []),
        (["Bearer"], None, []),
        (['Bearer realm="r"'] * 9, None, ["r"] * 4),
    ],
)
def test_which_challenges_are_met_and_in_which_order(lines, credential, realms):
    met = [one.get("realm") for one in usable(in_order(parse(lines)), credential)]
    assert met == realms


@given(st.binary(max_size=200), st.integers(100, 599))
def test_any_answer_ends_in_a_grant_or_an_error_of_ours(body, status):
    try:
        grant = read_grant(TokenAnswer(status, body), "x")
    except UpstreamError:
        return
    assert 0 < grant.lifetime <= 3600


def test_nothing_prints_the_secrets():
    conversation = log_in(bearer(), USER, SCOPE, URL)
    request = next(conversation)
    grant = read_grant(said(token="hidden-token"), "x")
    for text in (repr(request), repr(USER), repr(REFRESH), repr(grant), str(request.authorization), f"{USER.password}"):
        assert "p:w" not in text
        assert BASIC not in text
        assert "hidden-token" not in text
        assert "refresh-me" not in text
