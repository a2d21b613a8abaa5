"""Under which addresses a site is reached, and for which hosts it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mirror.errors import ConfigurationError
from mirror.offline.resources import Registry, Site
from tests.unit.offline.resources_bed import CONNECTED, REGISTRY, Authority, configuration


@pytest.mark.parametrize(
    ("text", "address", "url", "host", "key", "in_api"),
    [
        (REGISTRY, REGISTRY, f"https://{REGISTRY}", "mirror.example", "mirror.example..5000", True),
        ("http://10.0.0.1:5000", "10.0.0.1:5000", "http://10.0.0.1:5000", "10.0.0.1", "10.0.0.1..5000", True),
        (
            "https://Mirror.Example/",
            "mirror.example",
            "https://mirror.example",
            "mirror.example",
            "mirror.example",
            True,
        ),
        ("[FD00::1]:5000", "[fd00::1]:5000", "https://[fd00::1]:5000", "fd00::1", "[fd00....1]..5000", False),
        ("my_host.lab:5000", "my_host.lab:5000", "https://my_host.lab:5000", "my_host.lab", "my_host.lab..5000", False),
        ("bastion:443", "bastion:443", "https://bastion:443", "bastion", "bastion..443", True),
        ("localhost", "localhost", "https://localhost", "localhost", "localhost", True),
    ],
)
def test_registries_as_clients_write_them(text: str, address: str, url: str, host: str, key: str, in_api: bool) -> None:
    registry = Registry.parse(text)
    assert (registry.address, registry.url, registry.host, registry.in_api) == (address, url, host, in_api)
    if in_api:
        assert registry.config_map_key == key


@pytest.mark.parametrize(
    "text",
    [
        *("", "ftp://mirror.example:5000", "mirror.example:5000/ns", "mirror.example:99999", "bastion"),
        *(
            "user@mirror.example:5000",
            'mi"rror.example:5000',
            "mirror.example:5000\n",
            "mirror.example:5000]",
            "a b.c:1",
        ),
    ],
)
def test_what_is_no_registry_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Registry.parse(text)
    assert [problem.code for problem in caught.value.problems] == ["registry_invalid"]
    assert caught.value.problems[0].where == "--registry"


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    config = configuration(tmp_path, CONNECTED)
    with pytest.raises(ConfigurationError) as caught:
        Site(("bastion", "ftp://x.example", REGISTRY, REGISTRY), config, ca=b"no certificate")
    assert [problem.code for problem in caught.value.problems] == ["registry_invalid"] * 3 + ["ca_invalid"]
    with pytest.raises(ConfigurationError):
        Site((), config)


@pytest.mark.parametrize(
    ("listen", "text", "remedy"),
    [
        ("0.0.0.0:5000", "bastion", "write --registry bastion:5000"),
        ("0.0.0.0:5000", "http://bastion", "write --registry http://bastion:5000"),
        (["127.0.0.1:5001", "[::]:8443"], "bastion", "write --registry bastion:8443"),
        ("unix:/run/mirror.sock", "bastion", "write --registry bastion:443"),
        ("unix:/run/mirror.sock", "http://bastion", "write --registry http://bastion:80"),
    ],
)
def test_the_port_that_is_proposed_is_that_of_listen(listen: Any, text: str, remedy: str, tmp_path: Path) -> None:
    config = configuration(tmp_path, {**CONNECTED, "listen": listen})
    with pytest.raises(ConfigurationError) as caught:
        Site((text,), config)
    assert [problem.remedy for problem in caught.value.problems] == [remedy]
    assert Site((remedy.removeprefix("write --registry "),), config).registries  # it helps


@pytest.mark.parametrize(
    ("upstreams", "hosts"),
    [
        ({"quay.io": {}, "docker.io": {}}, {"quay.io": "quay.io", "docker.io": "docker.io"}),
        # images are named by the key; what it is fetched through is an inner matter
        ({"quay.io": {"endpoints": ["https://nexus.lab:8443"]}}, {"quay.io": "quay.io"}),
        (
            {"lab": {"endpoints": ["https://reg.lab:5000", "https://reg2.lab"]}},
            {"reg.lab:5000": "lab", "reg2.lab": "lab"},
        ),
        # a path is no part of a name, and a host that two upstreams share speaks for none
        ({"lab": {"endpoints": ["https://bastion:5000/lab"]}}, {}),
        ({"a": {"endpoints": ["https://reg.lab"]}, "b": {"endpoints": ["https://reg.lab"]}}, {}),
        ({"hub": {"endpoints": ["https://registry-1.docker.io"]}}, {"docker.io": "hub"}),
        ({"hub": {"endpoints": ["https://registry-1.docker.io"]}, "docker.io": {}}, {"docker.io": "docker.io"}),
        ({"lab": {"endpoints": ["https://quay.io"]}, "quay.io": {}}, {"quay.io": "quay.io"}),
        ({"lab": {"endpoints": ["https://bastion"]}}, {}),
        ({}, {}),
    ],
)
def test_hosts_that_a_site_answers_for(upstreams: dict[str, Any], hosts: dict[str, str], tmp_path: Path) -> None:
    assert Site((REGISTRY,), configuration(tmp_path, {"upstreams": upstreams})).hosts == hosts


def test_only_certificates_leave_the_file_of_the_ca(tmp_path: Path) -> None:
    authority = Authority()
    key = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
    site = Site((REGISTRY,), configuration(tmp_path, CONNECTED), ca=b"# ours\n" + key + authority.pem * 2)
    assert site.bundle.encode() == authority.pem
    with pytest.raises(ConfigurationError):
        Site((REGISTRY,), configuration(tmp_path, CONNECTED), ca=authority.pem + b"#" * 2**20)
