"""The lines to paste for registries that mirror.yaml lacks: they are valid, and lead where the image's name says."""

from __future__ import annotations

import pytest

from mirror.config import load
from mirror.offline.image_set import suggest_upstreams


def test_the_lines_name_each_host_and_who_needs_it():
    text = suggest_upstreams(
        {
            "registry.lab:5000": ["set.yaml:9"],
            "quay.io": ["set.yaml:5", "set.yaml:6", "set.yaml:7", "set.yaml:8"],
            "docker.io": [],
        }
    )
    assert text == (
        "  docker.io: {}\n"
        "  quay.io: {}  # set.yaml:5, set.yaml:6 and 2 more\n"
        "  registry.lab-5000:  # set.yaml:9\n"
        '    endpoints: ["https://registry.lab:5000"]\n'
    )
    assert suggest_upstreams({}) == ""


@pytest.mark.parametrize(
    "hosts",
    [
        ["quay.io", "docker.io", "localhost", "10.0.0.1"],
        ["lab:5000", "lab:5001", "lab-5000", "lab"],
        ["[fd00::1]:5000", "[fd00::2]", "127.0.0.1:5000", "localhost:5000"],
    ],
)
def test_pasted_under_upstreams_they_are_a_configuration_that_takes_these_hosts(tmp_path, hosts):
    path = tmp_path / "mirror.yaml"
    path.write_text("upstreams:\n" + suggest_upstreams({host: ["a\nb:1"] for host in hosts}))
    upstreams = load(path).upstreams
    assert len(upstreams) == len(set(hosts))
    reached = {endpoint for upstream in upstreams.values() for endpoint in upstream.endpoints}
    expected = {"https://registry-1.docker.io" if host == "docker.io" else f"https://{host}" for host in hosts}
    assert reached == expected
