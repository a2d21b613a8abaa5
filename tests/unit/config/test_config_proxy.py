"""Where a proxy comes from, and that its password is shown nowhere."""

from __future__ import annotations

import pytest

from mirror.config import Config, UpstreamConfig, effective_proxy
from mirror.errors import ConfigurationError

ENVIRON = {
    "HTTPS_PROXY": "http://ann:hunter2@env.lab:3128",
    "http_proxy": "env.lab:3129",
    "NO_PROXY": ".lab,10.0.0.0/8",
}


def test_no_proxy_is_the_direct_way():
    proxy = effective_proxy(Config(), {})
    assert (proxy.http, proxy.https, proxy.source, proxy.shown) == (None, None, "", "")


def test_the_environment_is_read_in_both_spellings():
    proxy = effective_proxy(Config(), ENVIRON)
    assert proxy.https == "http://ann:hunter2@env.lab:3128"
    assert proxy.http == "http://env.lab:3129"
    assert proxy.no_proxy == ".lab,10.0.0.0/8"
    assert proxy.source == "HTTPS_PROXY and HTTP_PROXY of the environment"


def test_a_proxy_shows_no_login():
    proxy = effective_proxy(Config(), ENVIRON)
    assert proxy.shown == "http://…@env.lab:3128"
    assert "hunter2" not in repr(proxy)


def test_the_file_goes_before_the_environment_and_the_upstream_before_both():
    upstream = UpstreamConfig(name="lab", proxy="http://own.lab:1")
    config = Config(proxy="file.lab:3128", upstreams={"lab": upstream, "quay.io": UpstreamConfig(name="quay.io")})
    general = effective_proxy(config, ENVIRON, config.upstreams["quay.io"])
    assert (general.http, general.https, general.source) == ("http://file.lab:3128", "http://file.lab:3128", "proxy")
    assert general.no_proxy == ".lab,10.0.0.0/8"
    own = effective_proxy(config, ENVIRON, upstream)
    assert (own.https, own.source, own.no_proxy) == ("http://own.lab:1", "upstreams.lab.proxy", "")


def test_an_environment_that_names_no_proxy_is_a_problem_without_its_text():
    with pytest.raises(ConfigurationError) as raised:
        effective_proxy(Config(), {"https_proxy": "socks5://ann:hunter2@x"})
    assert raised.value.problems[0].where == "https_proxy"
    assert "hunter2" not in str(raised.value)
