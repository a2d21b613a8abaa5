"""Realms: who may see a login."""

import pytest
from yarl import URL

from mirror.errors import UpstreamInvalid
from mirror.upstream.realm import RealmRule, Suffixes

SUFFIXES = Suffixes()


def check(endpoint, realm, listed=(), asked="/v2/x/manifests/y"):
    base = URL(endpoint)
    return RealmRule(base, listed, SUFFIXES).check(realm, base.with_path(asked))


def same(url):
    return url.scheme, url.host, url.port


@pytest.mark.parametrize(
    ("endpoint", "realm"),
    [
        ("https://registry-1.docker.io", "https://auth.docker.io/token"),
        ("https://quay.io", "https://quay.io/v2/auth"),
        ("https://registry.redhat.io", "https://registry.redhat.io/auth/realms/rhcc/protocol/redhat-docker-v2/auth"),
        ("https://registry.redhat.io", "https://sso.redhat.io:8443/auth"),
        ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth"),
        ("https://ghcr.io", "https://ghcr.io/token"),
        ("https://GHCR.io", "https://ghcr.IO/token"),
        ("https://reg.example.co.uk", "https://auth.example.co.uk/t"),
        ("https://reg.lab:5000", "https://reg.lab:5000/token"),
        ("https://reg.lab:5000", "https://auth.reg.lab/token"),
        ("http://reg.lab:5000", "http://reg.lab:5000/token"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000/token"),
        ("http://bastion:5000", "http://bastion:5000/auth"),
        ("http://reg.lab:5000", "https://auth.reg.lab/token"),
        ("https://[2001:db8::1]:5000", "https://[2001:db8::1]:5000/t"),
    ],
)
def test_allowed(endpoint, realm):
    url = check(endpoint, realm)
    assert (url.scheme, url.host, url.port, url.path) == (*same(URL(realm)), URL(realm).path)


@pytest.mark.parametrize(
    ("endpoint", "realm"),
    [
        ("https://quay.io", "https://evil.example/v2/auth"),
        ("https://quay.io", "http://evil.example/v2/auth"),
        ("https://10.0.0.1:8443", "http://10.0.0.1:5001/token"),  # another port is another service
        ("https://bastion", "http://other/token"),
        ("https://quay.io", "https://quay.io.evil.example/v2/auth"),
        ("https://quay.io", "https://evilquay.io/auth"),
        ("https://quay.io", "https://quay.io@evil.example/auth"),
        ("https://quay.io", "https://user:pass@quay.io/auth"),
        ("https://quay.io", "//evil.example/auth"),
        ("https://quay.io", "ftp://quay.io/auth"),
        ("https://quay.io", "file:///etc/passwd"),
        ("https://quay.io", "javascript:alert(1)"),
        ("https://quay.io", "https://127.0.0.1/auth"),
        ("https://quay.io", "https://[::1]/auth"),
        ("https://quay.io", "https://localhost/auth"),
        ("https://quay.io", "https://169.254.169.254/latest/meta-data"),
        ("https://a.github.io", "https://b.github.io/token"),  # a public suffix is nobody's domain
        ("https://reg.co.uk", "https://evil.co.uk/token"),
        ("https://foo.s3.amazonaws.com", "https://bar.s3.amazonaws.com/token"),
        ("https://bastion", "https://other/token"),
        ("https://bastion:5000", "https://bastion:6000/token"),
        ("https://10.0.0.1", "https://10.0.0.2/token"),
        ("https://10.0.0.1", "https://10.0.0.1:8443/token"),
        ("http://reg.lab:5000", "http://auth.reg.lab/token"),
        ("http://reg.lab:5000", "http://reg.lab/token"),
        ("https://quay.io", "https://quay.io:99999/auth"),
        ("https://quay.io", "https://[bad/auth"),
    ],
)
def test_refused(endpoint, realm):
    with pytest.raises(UpstreamInvalid) as refused:
        check(endpoint, realm)
    assert "pass" not in str(refused.value)
    assert "passwd" not in str(refused.value)


@pytest.mark.parametrize(
    ("endpoint", "realm", "asked"),
    [
        ("https://quay.io", "http://quay.io/v2/auth", "https://quay.io/v2/auth"),
        ("https://reg.lab:8443", "http://reg.lab:8443/token", "https://reg.lab:8443/token"),
        ("https://reg.lab:8443", "http://reg.lab/token", "https://reg.lab:8443/token"),  # the proxy left its port out
        ("https://REG.lab", "http://reg.LAB:80/token", "https://reg.LAB/token"),
        ("https://10.0.0.1:8443", "http://10.0.0.1/token", "https://10.0.0.1:8443/token"),
        ("https://[::1]:8443", "http://[::1]:8443/token", "https://[::1]:8443/token"),
        ("https://registry.example.com", "http://auth.example.com/token", "https://auth.example.com/token"),
        ("https://registry.example.com", "http://auth.example.com:5001/t", "https://auth.example.com:5001/t"),
        ("https://reg.lab", "http://reg.lab/t?x=%7E&y=a+b#frag", "https://reg.lab/t?x=%7E&y=a+b"),
    ],
)
def test_a_realm_spelled_http_behind_tls_is_asked_over_tls(endpoint, realm, asked):
    assert str(check(endpoint, realm)) == asked


@pytest.mark.parametrize(
    ("endpoint", "realm", "listed", "asked"),
    [
        # Those over https guard what worked before.
        ("https://reg.corp", "https://sso.idp.example/t", "sso.idp.example", "https://sso.idp.example/t"),
        (
            "https://reg.corp",
            "https://sso.idp.example:8443/t",
            "SSO.idp.example:8443",
            "https://sso.idp.example:8443/t",
        ),
        ("http://reg.lab:5000", "https://sso.idp.example/t", "sso.idp.example", "https://sso.idp.example/t"),
        ("http://reg.lab:5000", "http://reg.lab:5001/auth", "reg.lab:5001", "http://reg.lab:5001/auth"),
        ("http://reg.lab:5000", "http://sso.idp.example/t", "sso.idp.example:80", "http://sso.idp.example/t"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5001/auth", "127.0.0.1:5001", "http://127.0.0.1:5001/auth"),
        ("http://[::1]:5000", "http://[::1]:5001/auth", "[::1]:5001", "http://[::1]:5001/auth"),
        ("https://reg.corp", "https://[2001:db8::1]/auth", "[2001:db8::1]", "https://[2001:db8::1]/auth"),
        ("https://reg.corp", "http://sso.idp.example/t", "sso.idp.example", "https://sso.idp.example/t"),
        ("https://reg.corp", "http://sso.lab:5001/t", "sso.lab:5001", "https://sso.lab:5001/t"),
    ],
)
def test_listed(endpoint, realm, listed, asked):
    assert str(check(endpoint, realm, [listed])) == asked


@pytest.mark.parametrize(
    ("endpoint", "realm", "listed"),
    [
        # All of them guard against listing more than what is spelled.
        ("http://reg.lab:5000", "http://sso.idp.example:5001/t", "sso.idp.example"),
        ("http://reg.lab:5000", "http://sso.idp.example/t", "sso.idp.example"),
        ("http://reg.lab:5000", "http://sso.idp.example:5002/t", "sso.idp.example:5001"),
        ("https://reg.corp", "https://sso.idp.example/t", "sso.idp.example:8443"),
    ],
)
def test_not_listed(endpoint, realm, listed):
    with pytest.raises(UpstreamInvalid):
        check(endpoint, realm, [listed])


@pytest.mark.parametrize(
    ("endpoint", "realm", "remedy"),
    [
        ("https://reg.corp", "https://sso.idp.example/t?secret=1", "login, list sso.idp.example under"),  # as before
        ("https://reg.corp", "https://sso.idp.example:8443/t", "login, list sso.idp.example:8443 under"),
        ("http://reg.lab:5000", "http://reg.lab:5001/t?secret=1", "in the clear, list reg.lab:5001 under"),
        ("http://reg.lab:5000", "http://sso.lab/t", "in the clear, list sso.lab:80 under"),
        ("http://[::1]:5000", "http://[::1]:5001/t", "in the clear, list [::1]:5001 under"),
        (
            "https://reg.corp",
            "http://sso.idp.example/t",
            "over https alone, as the endpoint is: if it may see the login",
        ),
        ("https://10.0.0.1", "http://10.0.0.1:5001/t", "list 10.0.0.1:5001 under"),
    ],
)
def test_a_refusal_says_what_to_list(endpoint, realm, remedy):
    with pytest.raises(UpstreamInvalid) as refused:
        check(endpoint, realm)
    assert remedy in refused.value.remedy
    assert refused.value.remedy.endswith("`auth_realms`")
    assert "secret" not in str(refused.value)


def test_relative_realms_and_queries():
    assert str(check("https://reg.lab", "/token?tenant=a%2Fb")) == "https://reg.lab/token?tenant=a%2Fb"
    assert str(check("https://reg.lab", "https://reg.lab/t?x=%7E&y=a+b#frag")) == "https://reg.lab/t?x=%7E&y=a+b"


async def test_the_list_is_loaded_once_and_in_a_thread():
    suffixes = Suffixes()
    await suffixes.load()
    assert suffixes.registrable_domain("auth.docker.io") == "docker.io"
    assert suffixes.registrable_domain("io") is None
    assert suffixes.registrable_domain("10.0.0.1") is None
