"""Where redirects lead."""

import ipaddress

import pytest
from yarl import URL

from mirror.errors import UpstreamInvalid
from mirror.upstream.guard import Reach
from mirror.upstream.redirect import Listed, next_url, reach_of, reach_of_endpoint, same_origin

SIGNED = "https://cdn.example/b?sig=a%2Bb%3d%2F&path=%7Ea!b'c%2fd&x=%41"


@pytest.mark.parametrize(
    "location",
    [
        SIGNED,
        "https://cdn.example/sha256%3Aabc/data?X-Amz-Credential=AK%2F20260101&a=b+c",
        "https://cdn.example/a//b/../c?d",
        "https://cdn.example:8443/%E2%82%AC",
    ],
)
def test_signed_urls_stay_as_they_are(location):
    assert str(next_url(URL("https://reg.example/v2/x"), 307, location)) == location


def test_relative():
    asked = URL("https://reg.example/v2/a/blobs/d")
    assert str(next_url(asked, 302, "/cdn/x?y=%2f")) == "https://reg.example/cdn/x?y=%2f"
    assert str(next_url(asked, 302, "//cdn.example/x")) == "https://cdn.example/x"
    assert str(next_url(asked, 302, "other#frag")) == "https://reg.example/v2/a/blobs/other"


@pytest.mark.parametrize(
    "location",
    [
        "",
        "http://cdn.example/x",  # down from https
        "ftp://cdn.example/x",
        "file:///etc/passwd",
        "gopher://x/",
        "javascript:alert(1)",
        "data:text/plain,x",
        "https://user:hunter2@cdn.example/x",
        "https://user@cdn.example/x",
        "https://cdn.example:0/x",
        "https://cdn.example:99999/x",
        "https://[::1/x",
        "https://bücher.example/x",
        "https://\uff11\uff12\uff17.0.0.1/",
        "https://127。0.0.1/x",
        "https://%31/x",
        "https://exa mple/x",
        "https://reg.example\\@evil.example/x",
    ],
)
def test_refused(location):
    with pytest.raises(UpstreamInvalid) as refused:
        next_url(URL("https://reg.example/v2/x"), 307, location)
    assert "hunter2" not in str(refused.value)


def test_errors_show_no_query():
    with pytest.raises(UpstreamInvalid) as refused:
        next_url(URL("https://reg.example/v2/x?token=secret"), 307, "http://cdn.example/x?sig=secret")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("location", ["https://", "https:///x"])
def test_without_a_host_it_stays_at_home(location):
    assert same_origin(next_url(URL("https://reg.example/v2/x"), 307, location), URL("https://reg.example"))


@pytest.mark.parametrize(
    ("location", "host"),
    [("https://CDN.Example/x", "cdn.example"), ("https://CDN.Example:444/x", "cdn.example")],
)
def test_hosts_become_canonical(location, host):
    assert next_url(URL("https://reg.example/v2/x"), 307, location).host == host


def test_plain_http_may_lead_to_http_and_https():
    assert next_url(URL("http://reg.lab/v2/x"), 302, "http://minio.lab:9000/x").port == 9000
    assert next_url(URL("http://reg.lab/v2/x"), 302, "https://minio.lab/x").scheme == "https"


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("https://reg.example/else", True),
        ("https://reg.example:443/", True),
        ("https://REG.example/", True),
        ("http://reg.example/", False),
        ("https://reg.example:444/", False),
        ("https://reg.example.evil/", False),
        ("https://sub.reg.example/", False),
    ],
)
def test_origins(other, same):
    assert same_origin(URL("https://reg.example/v2/"), URL(other)) is same


def test_listed():
    listed = Listed.parse(["minio.lab", "S3.lab:9000", "10.1.0.0/16", "169.254.169.254", "fd00::/8"])
    assert listed.names(URL("https://minio.lab:1234/x"))
    assert listed.names(URL("http://s3.lab:9000/x"))
    assert not listed.names(URL("http://s3.lab:9001/x"))
    assert not listed.names(URL("http://sub.minio.lab/x"))
    assert ipaddress.ip_network("10.1.0.0/16") in listed.networks
    assert ipaddress.ip_network("169.254.169.254/32") in listed.networks


def test_reach():
    listed = Listed.parse(["minio.lab"])
    assert reach_of(URL("https://minio.lab/"), listed, from_private=False) is Reach.LISTED
    assert reach_of(URL("https://cdn.example/"), listed, from_private=False) is Reach.PUBLIC
    assert reach_of(URL("https://cdn.example/"), listed, from_private=True) is Reach.PRIVATE
    assert reach_of_endpoint(URL("https://quay.io")) is Reach.ENDPOINT
    assert reach_of_endpoint(URL("http://169.254.1.1:5000")) is Reach.LITERAL
    assert reach_of_endpoint(URL("http://127.0.0.1:5000")) is Reach.ENDPOINT
