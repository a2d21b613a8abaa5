"""The proof finds every way in which a client would be led elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.errors import Problem
from mirror.offline.plan import Plan
from mirror.offline.resources import Resources, Site, prove
from tests.unit.offline.resources_bed import (
    COMPONENTS,
    CONNECTED,
    REGISTRY,
    RELEASES,
    Authority,
    configuration,
    image,
    labelled,
    made,
    release_plan,
)

NODES = "nodes/containers/registries.conf"
INSTALL_CONF = "install/mirror/registries.conf"
INSTALL_CONFIG = "install/install-config.part.yaml"
IDMS, ITMS, CA = "cluster/idms.yaml", "cluster-tags/itms.yaml", "cluster/ca.yaml"
SIGNATURES = "nodes/containers/registries.d/mirror.yaml"
QUAY = "nodes/containerd/certs.d/quay.io/hosts.toml"
UBI = image("image", "registry.redhat.io/ubi9/ubi", tags=["latest"])
BUSYBOX = image("image", "docker.io/library/busybox")


def site(folder: Path, *registries: str, document: Any = CONNECTED, **options: Any) -> Site:
    return Site(registries or (REGISTRY,), configuration(folder, document), **options)


def proven(chosen: Site, *plans: Plan) -> list[Problem]:
    return prove(made(chosen, *plans), labelled(*plans), chosen)


@pytest.mark.parametrize("never", [False, True])
@pytest.mark.parametrize(
    "registries",
    [(REGISTRY,), ("http://10.0.0.1:5000",), (REGISTRY, "http://b.example"), ("[fd00::1]:5000",), ("my_host.lab:1",)],
)
def test_what_is_written_is_proven(registries: tuple[str, ...], never: bool, tmp_path: Path) -> None:
    chosen = site(tmp_path, *registries, ca=Authority().pem, never_contact_source=never)
    assert proven(chosen, release_plan("prod", "4.16.15", UBI, BUSYBOX), release_plan("lab", "4.17.1")) == []
    assert proven(chosen) == []


@pytest.mark.parametrize(
    "upstreams",
    [
        {"lab": {"endpoints": ["https://reg.lab:5000"]}},
        {"hub": {"endpoints": ["https://registry-1.docker.io"]}, "quay.io": {}},
        {"quay.io": {"endpoints": ["https://nexus.lab:8443"]}, "docker.io": {"endpoints": ["https://nexus.lab:8443"]}},
        {"quay.io": {"endpoints": ["https://bastion:5000/quay"]}, "lab": {"endpoints": ["https://bastion:5000/lab"]}},
        {"quay.io": {"repositories": {"allow": ["openshift-release-dev/**"]}}},
        {},
    ],
)
def test_sites_that_only_pull_through_are_proven(upstreams: dict[str, Any], tmp_path: Path) -> None:
    assert proven(site(tmp_path, document={"upstreams": upstreams})) == []


def test_a_name_of_another_upstream_here_is_proven(tmp_path: Path) -> None:
    lab = image("image", "reg.lab:5000/team/app", tags=["v1"], name="lab/team/app")
    document = {"upstreams": {"quay.io": {}, "lab": {"endpoints": ["https://reg.lab:5000"]}}}
    assert proven(site(tmp_path, document=document), release_plan("prod", "4.16.15", lab)) == []


def test_behind_the_gap_no_upstream_need_be_configured(tmp_path: Path) -> None:
    assert proven(site(tmp_path, document={"offline": True}), release_plan("prod", "4.16.15", UBI, BUSYBOX)) == []


def swap(old: str, new: str, count: int = -1) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, count)


FAULTS: list[tuple[str, Callable[[str], str], str]] = [
    (NODES, swap(f"{REGISTRY}/quay.io", f"{REGISTRY}/docker.io"), "means docker.io/openshift-release-dev"),
    (
        NODES,
        swap(f"{REGISTRY}/registry.redhat.io", f"{REGISTRY}/registry.redhat.io/x"),
        "registry.redhat.io/x/ubi9/ubi",
    ),
    (NODES, swap(f"{REGISTRY}/quay.io", "other.example:5000/quay.io"), "other.example:5000 is none of our registries"),
    (NODES, swap(f"{REGISTRY}/quay.io", f"{REGISTRY}/gcr.io"), "no upstream 'gcr.io' is configured here"),
    (NODES, swap("registry.redhat.io", "registry.access.redhat.com"), "no entry leads it here"),
    (
        NODES,
        swap("[[registry.mirror]]\n", "[[registry.mirror]]\npull-from-mirror = 'digest-only'\n"),
        "no entry leads it here",
    ),
    (
        NODES,
        swap("[[registry.mirror]]\n", "[[registry.mirror]]\npull-from-mirror = 'tag-only'\n"),
        "no entry leads it here",
    ),
    (NODES, swap("[[registry.mirror]]\n", "[[registry.mirror]]\ninsecure = true\n"), "would be asked without TLS"),
    (INSTALL_CONF, swap(f'"{COMPONENTS}"', '"quay.io/openshift-release-dev"'), "no entry leads it here"),
    (INSTALL_CONF, swap(f"{REGISTRY}/{RELEASES}", f"{REGISTRY}/{COMPONENTS}"), f"means {COMPONENTS}"),
    (INSTALL_CONFIG, swap(f"source: {RELEASES}", "source: quay.io/openshift-release-dev"), "no entry leads it here"),
    (
        INSTALL_CONFIG,
        swap(f"- {REGISTRY}/{COMPONENTS}", f"- {REGISTRY}/openshift/release"),
        "means openshift/release here",
    ),
    (IDMS, swap(f"source: {COMPONENTS}", "source: quay.io/openshift-release-dev"), f"means {COMPONENTS}/ocp-v4.0-art"),
    (
        IDMS,
        swap(f"  - source: {COMPONENTS}\n    mirrors:\n    - {REGISTRY}/{COMPONENTS}\n", ""),
        "no entry leads it here",
    ),
    (IDMS, swap("source: registry.redhat.io", "source: registry.redhat.io/rhel9"), "no entry leads it here"),
    (IDMS, swap(f"{REGISTRY}/docker.io", f"{REGISTRY}/docker"), "docker/library/busybox"),
    (IDMS, swap("imageDigestMirrors", "imageTagMirrors"), "no entry leads it here"),
    (ITMS, swap("imageTagMirrors", "imageDigestMirrors"), "no entry leads it here"),
    (QUAY, swap("/v2/quay.io", "/quay.io"), "a path without /v2"),
    (QUAY, swap("/v2/quay.io", "/v2/docker.io"), "ns names 'quay.io'"),
    (QUAY, swap('"resolve"', '"push"'), "no entry leads it here"),
    (QUAY, swap("[host.", "[hosts."), "no entry leads it here"),
    (QUAY, swap(f"https://{REGISTRY}", f"http://{REGISTRY}"), "without TLS"),
    (SIGNATURES, swap(REGISTRY, "other.example:5000"), "signatures would not be looked for"),
    (SIGNATURES, swap("use-sigstore-attachments: true", "use-sigstore-attachments: false"), "signatures would not be"),
]


@pytest.mark.parametrize(("path", "fault", "why"), FAULTS, ids=[f"{path}-{at}" for at, (path, *_) in enumerate(FAULTS)])
def test_each_fault_of_a_file_is_found_in_it(path: str, fault: Callable[[str], str], why: str, tmp_path: Path) -> None:
    chosen = site(tmp_path, ca=Authority().pem)
    plan = release_plan("prod", "4.16.15", UBI, BUSYBOX)
    good = made(chosen, plan)
    broken = fault(good.files[path].decode())
    assert broken != good.files[path].decode()
    problems = prove(Resources({**good.files, path: broken.encode()}), labelled(plan), chosen)
    found = [problem for problem in problems if problem.where == path]
    assert found, problems
    assert any(why in problem.what for problem in found), found


def test_containerd_without_override_path_is_found(tmp_path: Path) -> None:
    chosen = site(tmp_path)
    plan = release_plan()
    good = made(chosen, plan)
    # …/v2/quay.io/v2/… is what containerd would ask for
    broken = good.files[QUAY].replace(b"override_path = true", b"override_path = false")
    problems = prove(Resources({**good.files, QUAY: broken}), labelled(plan), chosen)
    assert {problem.where for problem in problems} == {QUAY}


def test_a_host_that_containerd_is_not_told_of_is_found(tmp_path: Path) -> None:
    chosen = site(tmp_path)
    good = made(chosen, release_plan())
    files = {path: content for path, content in good.files.items() if path != QUAY}
    problems = prove(Resources(files), labelled(release_plan()), chosen)
    assert {problem.where for problem in problems} == {QUAY}
    # and what cannot be told: this host's repositories have other names here
    renamed = image("image", "quay.io/team/app", name="quay.io/archive/app")
    found = proven(site(tmp_path, document={"upstreams": {"quay.io": {}}}), Plan.build("prod", images=[renamed]))
    assert {problem.where for problem in found} == {QUAY}


@pytest.mark.parametrize("path", [NODES, INSTALL_CONF, IDMS])
def test_an_open_source_is_found_where_none_may_be(path: str, tmp_path: Path) -> None:
    chosen = site(tmp_path, never_contact_source=True)
    good = made(chosen, release_plan())
    opened = good.files[path].replace(b"blocked = true", b"").replace(b"NeverContactSource", b"AllowContactingSource")
    problems = prove(Resources({**good.files, path: opened}), labelled(release_plan()), chosen)
    assert {problem.where for problem in problems} == {path}
    assert "may still be contacted" in problems[0].what


def test_plain_http_that_the_cluster_is_not_told_of_is_found(tmp_path: Path) -> None:
    chosen = site(tmp_path, "http://10.0.0.1:5000")
    good = made(chosen, release_plan())
    files = {path: content for path, content in good.files.items() if path != CA}
    problems = prove(Resources(files), labelled(release_plan()), chosen)
    assert {problem.where for problem in problems} == {IDMS}
    assert all("with TLS" in problem.what for problem in problems)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (
            {"upstreams": {"quay.io": {"repositories": {"deny": ["openshift-release-dev/ocp-v4.0-art-dev"]}}}},
            "does not serve",
        ),
        ({**CONNECTED, "aliases": {f"{COMPONENTS}": "docker.io/other/place"}}, "means docker.io/other/place here"),
        (
            {**CONNECTED, "aliases": {"quay.io/openshift-release-dev/": "docker.io/other/"}},
            "means docker.io/other/ocp-",
        ),
    ],
)
def test_what_mirror_yaml_says_otherwise_is_found(document: dict[str, Any], why: str, tmp_path: Path) -> None:
    problems = proven(site(tmp_path, document=document), release_plan())
    assert problems
    assert any(why in problem.what for problem in problems)
    assert all(problem.code == "not_led_here" and problem.remedy for problem in problems)


_LABEL = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
_PATH = st.lists(_LABEL, min_size=2, max_size=3).map("/".join)
_HOST = st.builds(lambda label, port: f"{label}.example{port}", _LABEL, st.sampled_from(["", ":5000"]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    hosts=st.lists(_HOST, min_size=1, max_size=3, unique=True),
    paths=st.lists(_PATH, min_size=1, max_size=4),
    never=st.booleans(),
    tagged=st.booleans(),
)
def test_any_set_of_any_upstreams_is_proven(
    hosts: list[str], paths: list[str], never: bool, tagged: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = {host: host if ":" not in host else f"up{index}" for index, host in enumerate(hosts)}
    upstreams = {key: {"endpoints": [f"https://{host}"]} for host, key in keys.items()}
    planned = [
        image("image", f"{host}/{path}", tags=["v1"] if tagged else [], name=f"{key}/{path}")
        for host, key in keys.items()
        for path in paths
    ]
    chosen = site(tmp_path_factory.mktemp("site"), document={"upstreams": upstreams}, never_contact_source=never)
    assert proven(chosen, Plan.build("prod", images=planned)) == []
    assert proven(chosen) == []
