"""Egress proxies and NO_PROXY."""

import base64

import pytest
from yarl import URL

from mirror.config import Proxy
from mirror.upstream.proxy import Egress, NoProxy


@pytest.mark.parametrize(
    ("entries", "url", "direct"),
    [
        ("", "https://quay.io", False),
        ("*", "https://quay.io", True),
        ("quay.io", "https://quay.io", True),
        ("quay.io", "https://cdn.quay.io", True),
        ("quay.io", "https://notquay.io", False),
        (".quay.io", "https://quay.io", False),
        (".quay.io", "https://cdn.quay.io", True),
        ("*.quay.io", "https://cdn.quay.io", True),
        ("QUAY.IO", "https://quay.io", True),
        ("quay.io.", "https://example.org", False),
        ("quay.io:8443", "https://quay.io", False),
        ("quay.io:8443", "https://quay.io:8443", True),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.0.0.0/8", "https://ten.example", False),
        ("10.1.2.3", "http://10.1.2.3:5000", True),
        ("10.1.2.3:5000", "http://10.1.2.3:5001", False),
        ("fd00::/8", "http://[fd00::1]:5000", True),
        ("[fd00::1]:5000", "http://[fd00::1]:5000", True),
        ("[fd00::1]:5000", "http://[fd00::1]:5001", False),
        ("a.example, .svc,10.0.0.0/16 .cluster.local", "https://x.svc", True),
        ("a.example, .svc,10.0.0.0/16 .cluster.local", "https://x.cluster.local", True),
        ("", "http://localhost:5000", True),
        ("", "http://127.0.0.1:5000", True),
        ("", "http://[::1]:5000", True),
    ],
)
def test_no_proxy(entries, url, direct):
    assert NoProxy(entries).covers(URL(url)) is direct


def test_each_scheme_has_its_own():
    egress = Egress(Proxy("http://plain:3128", "http://user:p%40ss@secure:3129", "quay.io", "x"))
    assert egress.for_url(URL("http://a.example")).url == URL("http://plain:3128")
    hop = egress.for_url(URL("https://a.example"))
    assert hop.url == URL("http://secure:3129")
    assert hop.authorization.reveal() == "Basic " + base64.b64encode(b"user:p@ss").decode()
    assert "p@ss" not in repr(hop)
    assert egress.for_url(URL("https://quay.io")) is None
    assert Egress(Proxy()).for_url(URL("https://quay.io")) is None


def test_an_upstreams_own_proxy_has_no_exceptions():
    egress = Egress(Proxy("http://own:3128", "http://own:3128", "", "upstreams.lab.proxy"))
    assert egress.for_url(URL("http://127.0.0.1:5000")) is not None
