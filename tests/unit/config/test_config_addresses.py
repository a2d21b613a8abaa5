"""Addresses to listen on, base URLs of registries, hosts and networks."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.config import is_loopback, is_loopback_host, is_wildcard, split_listen
from mirror.config.addresses import (
    parse_endpoint,
    parse_external_url,
    parse_host_and_port,
    parse_host_or_network,
    parse_listen,
    parse_network,
    parse_proxy,
)
from mirror.config.values import SpellingError

BASE = Path("/etc/mirror")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        ("0.0.0.0:443", "0.0.0.0:443"),
        ("[::]:5000", "[::]:5000"),
        ("[0:0::1]:5000", "[::1]:5000"),
        ("Mirror.Lab:5000", "mirror.lab:5000"),
        ("localhost:0", "localhost:0"),
        ("unix:/run/mirror/x.sock", "unix:/run/mirror/x.sock"),
        ("unix:x.sock", "unix:/etc/mirror/x.sock"),
    ],
)
def test_an_address_to_listen_on_has_one_canonical_form(text, address):
    assert parse_listen(text, BASE) == address


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (":5000", "0.0.0.0:5000"),
        ("mirror.lab", "0.0.0.0:5000"),
        ("5000", "0.0.0.0:5000"),
        (5000, "0.0.0.0:5000"),
        ("::1:5000", '"[::1]:5000"'),
        ("127.0.0.1:65536", "65535"),
        ("127.0.0.1:http", "65535"),
        ("127.0.0.256:80", ""),
        ("a b:80", ""),
        ("unix:/" + "x" * 120, "shorter"),
    ],
)
def test_what_nobody_can_listen_on_is_refused(text, advice):
    with pytest.raises(SpellingError) as raised:
        parse_listen(text, BASE)
    assert advice in raised.value.remedy


def test_an_address_tells_who_reaches_it():
    assert is_loopback("127.0.0.1:5000")
    assert is_loopback("127.9.9.9:1")
    assert is_loopback("[::1]:5000")
    assert is_loopback("localhost:5000")
    assert is_loopback("unix:/run/x")
    assert not is_loopback("0.0.0.0:5000")
    assert not is_loopback("mirror.lab:5000")
    assert is_wildcard("0.0.0.0:1")
    assert is_wildcard("[::]:1")
    assert not is_wildcard("10.0.0.1:1")
    assert not is_loopback_host("localhost.evil.example")
    assert split_listen("[::1]:5000") == ("::1", 5000)
    assert split_listen("mirror.lab:443") == ("mirror.lab", 443)


@pytest.mark.parametrize(
    ("text", "plain_http", "url"),
    [
        ("https://quay.io", False, "https://quay.io"),
        ("https://quay.io/", True, "https://quay.io"),
        ("reg.lab:5000", False, "https://reg.lab:5000"),
        ("reg.lab:5000", True, "http://reg.lab:5000"),
        ("http://reg.lab:5000", False, "http://reg.lab:5000"),
        ("HTTPS://Bastion:5000/Lab/", False, "https://bastion:5000/Lab"),
        ("https://[2001:DB8::1]:5000", False, "https://[2001:db8::1]:5000"),
    ],
)
def test_an_endpoint_is_a_base_url(text, plain_http, url):
    assert parse_endpoint(text, plain_http=plain_http) == url


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("https://ann:hunter2@reg.lab", "credentials"),
        ("ann:hunter2@reg.lab", "credentials"),
        ("https://reg.lab/v2", "leave it out"),
        ("https://reg.lab/v2/", "leave it out"),
        ("https://reg.lab/x/v2", "leave it out"),
        ("https://reg.lab/?x=hunter2", ""),
        ("https://reg.lab/#x", ""),
        ("ftp://reg.lab", "https://"),
        ("https://", ""),
        ("https:///x", ""),
        ("https://reg.lab:99999", ""),
        ("https://reg.lab/a b", ""),
        ("https://reg.lab/a\tb", ""),
        ("https://reg.lab/../x", ""),
        ("https://reg.lab//x", ""),
        ("https://régistre.lab", ""),
        ("https://[::1", ""),
        ("", ""),
    ],
)
def test_what_is_no_base_url_is_refused_without_its_secrets(text, word):
    with pytest.raises(SpellingError) as raised:
        parse_endpoint(text, plain_http=False)
    assert word in raised.value.remedy
    assert "hunter2" not in raised.value.what + raised.value.remedy


def test_a_public_address_is_a_scheme_a_host_and_a_port():
    assert parse_external_url("https://Mirror.lab:8443/") == "https://mirror.lab:8443"
    for text in ("mirror.lab", "https://mirror.lab/registry", "https://a:b@mirror.lab"):
        with pytest.raises(SpellingError):
            parse_external_url(text)


def test_a_proxy_may_have_a_login_only_where_that_is_said():
    assert parse_proxy("proxy.lab:3128") == "http://proxy.lab:3128"
    assert parse_proxy("http://ann:x@proxy.lab:3128", user_information=True) == "http://ann:x@proxy.lab:3128"
    for text in ("http://ann:x@proxy.lab:3128", "socks5://proxy.lab", "http://proxy.lab/x"):
        with pytest.raises(SpellingError):
            parse_proxy(text)


@pytest.mark.parametrize(
    ("text", "host"), [("Auth.Lab", "auth.lab"), ("auth.lab:8443", "auth.lab:8443"), ("[::1]:5", "[::1]:5")]
)
def test_a_realm_is_named_by_its_host(text, host):
    assert parse_host_and_port(text) == host


def test_the_url_of_a_realm_is_answered_with_its_host():
    with pytest.raises(SpellingError) as raised:
        parse_host_and_port("https://auth.lab/token")
    assert raised.value.remedy == "write auth.lab"
    for text in ("", "auth.lab:port", "auth lab"):
        with pytest.raises(SpellingError):
            parse_host_and_port(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("fd00::/8", "fd00::/8"),
        ("fd00::1", "fd00::1/128"),
        ("S3.lab", "s3.lab"),
        ("s3.lab:9000", "s3.lab:9000"),
        ("cafe.lab", "cafe.lab"),
    ],
)
def test_a_redirect_may_lead_to_a_host_or_a_network(text, canonical):
    assert parse_host_or_network(text) == canonical


@pytest.mark.parametrize("text", ["https://s3.lab", "10.0.0.1/8", "10.0.0.0/33", "s3.lab/x", "*.s3.lab", ""])
def test_what_is_neither_host_nor_network_is_refused(text):
    with pytest.raises(SpellingError):
        parse_host_or_network(text)


def test_a_network_with_bits_beyond_its_length_is_answered_with_both_meanings():
    with pytest.raises(SpellingError) as raised:
        parse_network("10.1.2.3/8")
    assert raised.value.remedy == "write 10.0.0.0/8 or 10.1.2.3"
    with pytest.raises(SpellingError):
        parse_network("proxy.lab")
