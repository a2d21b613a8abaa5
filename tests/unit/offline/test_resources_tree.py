"""The files themselves: which there are, what stands in them, and that they are always the same."""

from __future__ import annotations

import base64
import json
import random
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.oci.digest import Digest
from mirror.offline.plan import Image, Plan, PlanInvalid, Release
from mirror.offline.resources import Resources, Site, make
from tests.unit.offline.resources_bed import (
    COMPONENTS,
    CONNECTED,
    REGISTRY,
    RELEASES,
    Authority,
    configuration,
    digest,
    documents,
    image,
    labelled,
    made,
    release_plan,
    signatures,
)

UBI = image("image", "registry.redhat.io/ubi9/ubi", tags=["latest"])
BUSYBOX = image("image", "docker.io/library/busybox")
TREE = {
    "README.md",
    "cluster/ca.yaml",
    "cluster/idms.yaml",
    "cluster/operatorhub.yaml",
    "cluster/release-signatures.yaml",
    "install/install-config.part.yaml",
    "install/mirror/ca-bundle.crt",
    "install/mirror/registries.conf",
    "mapping.txt",
    "nodes/containerd/certs.d/docker.io/ca.crt",
    "nodes/containerd/certs.d/docker.io/hosts.toml",
    "nodes/containerd/certs.d/quay.io/ca.crt",
    "nodes/containerd/certs.d/quay.io/hosts.toml",
    "nodes/containerd/certs.d/registry.redhat.io/ca.crt",
    "nodes/containerd/certs.d/registry.redhat.io/hosts.toml",
    "nodes/containers/certs.d/mirror.example:5000/ca.crt",
    "nodes/containers/registries.conf",
    "nodes/containers/registries.d/mirror.yaml",
    "update/update.txt",
    "update/updateservice.patch",
}
_API_MIRROR = re.compile(  # openshift/api, config/v1, ImageMirror
    r"((?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))+)?"
    r"(?::[0-9]+)?)(?:(?:/[a-z0-9]+(?:(?:(?:[._]|__|[-]*)[a-z0-9]+)+)?)+)?"
)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def site(folder: Path, *registries: str, document: Any = CONNECTED, **options: Any) -> Site:
    return Site(registries or (REGISTRY,), configuration(folder, document), **options)


def sources(resources: Resources, path: str = "cluster/idms.yaml", key: str = "imageDigestMirrors") -> dict[str, Any]:
    (document,) = documents(resources, path)
    return {one["source"]: one["mirrors"] for one in document["spec"][key]}


def test_the_tree_of_a_release(tmp_path: Path, authority: Authority) -> None:
    resources = made(site(tmp_path, ca=authority.pem), release_plan())
    assert set(resources.files) == TREE
    assert list(resources.files) == sorted(resources.files)
    for path, content in resources.files.items():
        assert content.endswith(b"\n"), path
        assert not content.endswith(b"\n\n") or path.endswith(".toml"), path
        if path.endswith((".toml", ".conf")):
            tomllib.loads(content.decode())
        if path.endswith(".yaml"):
            list(yaml.safe_load_all(content))
        if path.endswith((".crt",)):
            assert content == authority.pem


def test_what_oc_apply_takes_of_a_folder_is_there_to_be_applied(tmp_path: Path, authority: Authority) -> None:
    files = made(site(tmp_path, ca=authority.pem), release_plan("prod", "4.16.15", UBI)).files
    taken: dict[str, list[Any]] = {}
    for path, content in files.items():
        folder, _, name = path.rpartition("/")
        if name.endswith((".yaml", ".yml", ".json")):  # what kubectl takes of a folder
            taken.setdefault(folder, []).extend(yaml.safe_load_all(content))
    assert all({"apiVersion", "kind", "metadata"} <= set(one) for one in taken["cluster"] + taken["cluster-tags"])
    # the others are pasted or copied, and what has no kind is refused
    others = [one for folder in set(taken) - {"cluster", "cluster-tags"} for one in taken[folder]]
    assert "update" not in taken
    assert not any("kind" in one for one in others)
    patch = "oc patch clusterversion version --type merge --patch-file update/updateservice.patch"
    for path in ("README.md", "update/updateservice.patch"):
        assert patch in files[path].decode()


def test_what_is_not_needed_is_not_written(tmp_path: Path, authority: Authority) -> None:
    plain = set(made(site(tmp_path), release_plan()).files)
    assert TREE - plain == {path for path in TREE if path.endswith(".crt")} | {"cluster/ca.yaml"}
    pull_through = set(made(site(tmp_path, ca=authority.pem)).files)
    assert TREE - pull_through == {
        "cluster/release-signatures.yaml",
        "cluster/operatorhub.yaml",
        "mapping.txt",
        "update/update.txt",
        "update/updateservice.patch",  # there is no release here that the graph could show
    }
    assert pull_through - TREE == {"cluster-tags/itms.yaml"}
    assert "cluster-tags/itms.yaml" in made(site(tmp_path), release_plan("prod", "4.16.15", UBI)).files
    assert "cluster-tags/itms.yaml" not in made(site(tmp_path), release_plan("prod", "4.16.15", BUSYBOX)).files
    offline = site(tmp_path, document={**CONNECTED, "offline": True})
    assert "cluster/operatorhub.yaml" in made(offline).files
    assert "cluster/operatorhub.yaml" in made(site(tmp_path, never_contact_source=True)).files


def test_one_entry_for_each_host_and_each_repository_of_releases(tmp_path: Path) -> None:
    resources = made(site(tmp_path), release_plan("prod", "4.16.15", UBI, BUSYBOX))
    expected = {
        one: [f"{REGISTRY}/{one}"] for one in ("docker.io", "quay.io", RELEASES, COMPONENTS, "registry.redhat.io")
    }
    assert sources(resources) == expected
    assert sources(resources, "cluster-tags/itms.yaml", "imageTagMirrors") == {
        "registry.redhat.io": [f"{REGISTRY}/registry.redhat.io"]
    }
    part = yaml.safe_load(resources.files["install/install-config.part.yaml"])
    assert {one["source"]: one["mirrors"] for one in part["imageDigestSources"]} == expected
    for path in ("install/mirror/registries.conf", "nodes/containers/registries.conf"):
        rules = tomllib.loads(resources.files[path].decode())["registry"]
        assert {rule["location"]: [one["location"] for one in rule["mirror"]] for rule in rules} == expected
        assert [rule["location"] for rule in rules] == sorted(expected)
        assert all(rule.get("prefix", rule["location"]) == rule["location"] for rule in rules)
        # tags and signatures come through these too
        assert b"pull-from-mirror =" not in resources.files[path]
        assert b"digest-only" not in resources.files[path]


def test_names_that_only_the_plan_knows(tmp_path: Path) -> None:
    # behind the gap nothing need be configured, and what has another name here gets an entry of its own
    moved = image("image", "reg.lab:5000/team/app", name="lab/team/app")
    renamed = image("image", "old.lab/team/app", name="lab/archive/app")
    resources = made(site(tmp_path, document={}), Plan.build("prod", images=[moved, renamed, BUSYBOX]))
    assert sources(resources) == {
        "docker.io": [f"{REGISTRY}/docker.io"],
        "old.lab/team/app": [f"{REGISTRY}/lab/archive/app"],
        "reg.lab:5000": [f"{REGISTRY}/lab"],
    }
    assert "nodes/containerd/certs.d/reg.lab:5000/hosts.toml" in resources.files
    assert "nodes/containerd/certs.d/old.lab/hosts.toml" not in resources.files


def test_a_site_that_pulls_releases_through_has_their_repositories(tmp_path: Path) -> None:
    before = sources(made(site(tmp_path)))
    assert {"quay.io", RELEASES, COMPONENTS} <= set(before)
    # so that nothing is taken away, which would drain nodes, when releases are synced later
    assert before == sources(made(site(tmp_path), release_plan()))
    assert RELEASES not in sources(made(site(tmp_path, document={"upstreams": {"docker.io": {}}})))


def test_several_registries_are_tried_in_their_order(tmp_path: Path, authority: Authority) -> None:
    resources = made(site(tmp_path, "b.example:5000", "http://a.example", ca=authority.pem), release_plan())
    assert sources(resources)["quay.io"] == ["b.example:5000/quay.io", "a.example/quay.io"]
    (rule,) = [
        rule
        for rule in tomllib.loads(resources.files["nodes/containers/registries.conf"].decode())["registry"]
        if rule["prefix"] == "quay.io"
    ]
    assert rule["mirror"] == [
        {"location": "b.example:5000/quay.io"},
        {"location": "a.example/quay.io", "insecure": True},
    ]
    hosts = tomllib.loads(resources.files["nodes/containerd/certs.d/quay.io/hosts.toml"].decode())
    shared = {"capabilities": ["pull", "resolve"], "override_path": True}
    assert list(hosts["host"].items()) == [
        ("https://b.example:5000/v2/quay.io", {**shared, "ca": "ca.crt"}),
        ("http://a.example/v2/quay.io", shared),
    ]
    assert hosts["server"] == "https://quay.io"
    config_map, cluster = documents(resources, "cluster/ca.yaml")
    assert set(config_map["data"]) == {"b.example..5000", "updateservice-registry"}
    assert cluster["spec"] == {
        "additionalTrustedCA": {"name": config_map["metadata"]["name"]},
        "registrySources": {"insecureRegistries": ["a.example"]},
    }
    scopes = yaml.safe_load(resources.files["nodes/containers/registries.d/mirror.yaml"])["docker"]
    assert set(scopes) == {"a.example", "b.example:5000", RELEASES}
    assert all(settings == {"use-sigstore-attachments": True} for settings in scopes.values())


def test_sources_that_are_never_contacted(tmp_path: Path) -> None:
    resources = made(site(tmp_path, never_contact_source=True), release_plan("prod", "4.16.15", UBI))
    for path, key in (("cluster/idms.yaml", "imageDigestMirrors"), ("cluster-tags/itms.yaml", "imageTagMirrors")):
        (document,) = documents(resources, path)
        assert {one["mirrorSourcePolicy"] for one in document["spec"][key]} == {"NeverContactSource"}
    for path in ("nodes/containers/registries.conf", "install/mirror/registries.conf"):
        assert all(rule["blocked"] for rule in tomllib.loads(resources.files[path].decode())["registry"])
    hosts = tomllib.loads(resources.files["nodes/containerd/certs.d/quay.io/hosts.toml"].decode())
    assert hosts["server"] == f"https://{REGISTRY}/v2/quay.io"
    assert hosts["override_path"] is True
    assert "quay.io" not in hosts["server"].removeprefix(f"https://{REGISTRY}/v2/quay.io")


def drains(resources: Resources) -> dict[str, str]:
    """Return for each file of the README's table what it says about drains."""
    rows = re.findall(r"^\| (\S+) \| .* \| (.*) \|$", resources.files["README.md"].decode(), re.MULTILINE)
    return dict(rows)


def comment(resources: Resources, path: str) -> str:
    """Return the comment at the head of a file, on one line."""
    lines = resources.files[path].decode().splitlines()
    return " ".join(line.removeprefix("# ") for line in lines if line.startswith("# "))


def test_what_drains_nodes_is_said(tmp_path: Path) -> None:
    # machine-config-operator, pkg/daemon/drain.go: a source that is closed is no added mirror
    step = "so each node is **drained once**"
    adding = made(site(tmp_path), release_plan("prod", "4.16.15", UBI))
    assert "adding these does not drain nodes" in comment(adding, "cluster/idms.yaml")
    assert drains(adding)["cluster/idms.yaml"].startswith("no")
    assert step not in adding.files["README.md"].decode()
    for plans in ([release_plan("prod", "4.16.15", UBI)], []):
        closing = made(site(tmp_path, never_contact_source=True), *plans)
        assert "does not drain" not in comment(closing, "cluster/idms.yaml")
        assert "closing them drains every node once" in comment(closing, "cluster/idms.yaml")
        assert drains(closing)["cluster/idms.yaml"].startswith("**once**")
        assert step in closing.files["README.md"].decode()
    for resources in (adding, closing):
        assert "drains and reloads every node once" in comment(resources, "cluster-tags/itms.yaml")
        assert drains(resources)["cluster-tags/itms.yaml"] == "**once**"


def test_telling_nodes_of_plain_http_drains_them(tmp_path: Path, authority: Authority) -> None:
    secure = made(site(tmp_path, ca=authority.pem), release_plan())
    assert drains(secure)["cluster/ca.yaml"] == "no"
    assert "drains" not in comment(secure, "cluster/ca.yaml")
    plain = made(site(tmp_path, "http://10.0.0.1:5000", REGISTRY, ca=authority.pem), release_plan())
    assert drains(plain)["cluster/ca.yaml"].startswith("**once**")
    assert "Applying this drains every node once" in comment(plain, "cluster/ca.yaml")
    assert "for which each is **drained once**" in plain.files["README.md"].decode()


def test_plain_http_is_said_wherever_a_client_must_know(tmp_path: Path) -> None:
    resources = made(site(tmp_path, "http://10.0.0.1:5000"), release_plan())
    rules = tomllib.loads(resources.files["nodes/containers/registries.conf"].decode())["registry"]
    assert {"prefix": "10.0.0.1:5000", "location": "10.0.0.1:5000", "insecure": True} in rules
    assert all(one["insecure"] for rule in rules for one in rule.get("mirror", []))
    installer = tomllib.loads(resources.files["install/mirror/registries.conf"].decode())["registry"]
    assert all(rule["mirror"] for rule in installer)  # the installer takes the first mirror of what it finds
    (cluster,) = documents(resources, "cluster/ca.yaml")
    assert cluster["spec"] == {"registrySources": {"insecureRegistries": ["10.0.0.1:5000"]}}
    (patch,) = documents(resources, "update/updateservice.patch")
    assert patch["spec"] == {"upstream": "http://10.0.0.1:5000/api/upgrades_info/v1/graph"}
    assert any("plain http" in note for note in resources.notes)


SOURCES: list[tuple[dict[str, Any], str, str]] = [
    ({"reg.lab": {"plain_http": True}}, "reg.lab", "http://reg.lab"),
    ({"reg.lab": {"endpoints": ["http://reg.lab"]}}, "reg.lab", "http://reg.lab"),
    ({"reg.lab": {}}, "reg.lab", "https://reg.lab"),
    # no key holds a port: the endpoint says where the host is
    ({"reg.lab": {"endpoints": ["http://reg.lab:5000"]}}, "reg.lab", "http://reg.lab:5000"),
    ({"reg.lab": {"endpoints": ["reg.lab:5000"], "plain_http": True}}, "reg.lab", "http://reg.lab:5000"),
    ({"lab": {"endpoints": ["http://reg.lab:5000"]}}, "reg.lab:5000", "http://reg.lab:5000"),
    ({"lab": {"endpoints": ["https://reg.lab:5000"]}}, "reg.lab:5000", "https://reg.lab:5000"),
    ({"lab": {"endpoints": ["http://[fd00::2]:5000"]}}, "[fd00::2]:5000", "http://[fd00::2]:5000"),
    ({"lab": {"endpoints": ["http://reg.lab:5000"], "plain_http": False}}, "reg.lab:5000", "http://reg.lab:5000"),
    # a plain cache before a registry does not make that one plain
    ({"quay.io": {"endpoints": ["http://nexus.lab:8081/quay"]}}, "quay.io", "https://quay.io"),
    ({"quay.io": {"endpoints": ["http://10.0.0.7:5000", "https://quay.io"]}}, "quay.io", "https://quay.io"),
    ({"docker.io": {"endpoints": ["http://nexus.lab"]}}, "docker.io", "https://registry-1.docker.io"),
    ({"hub": {"endpoints": ["https://registry-1.docker.io"]}}, "docker.io", "https://registry-1.docker.io"),
]


@pytest.mark.parametrize(("upstreams", "source", "url"), SOURCES)
def test_who_falls_back_to_the_source_finds_it(
    upstreams: dict[str, Any], source: str, url: str, tmp_path: Path
) -> None:
    resources = made(site(tmp_path, document={"upstreams": upstreams}))
    hosts = tomllib.loads(resources.files[f"nodes/containerd/certs.d/{source}/hosts.toml"].decode())
    assert hosts["server"] == url
    for path in ("nodes/containers/registries.conf", "install/mirror/registries.conf"):
        (rule,) = [
            one for one in tomllib.loads(resources.files[path].decode())["registry"] if one["location"] == source
        ]
        assert rule.get("insecure", False) is url.startswith("http://")
        assert not any("insecure" in mirror for mirror in rule["mirror"])


def test_a_source_that_is_never_contacted_is_asked_for_nowhere(tmp_path: Path) -> None:
    document = {"upstreams": {"lab": {"endpoints": ["http://reg.lab:5000"]}}}
    resources = made(site(tmp_path, document=document, never_contact_source=True))
    hosts = tomllib.loads(resources.files["nodes/containerd/certs.d/reg.lab:5000/hosts.toml"].decode())
    assert hosts["server"] == f"https://{REGISTRY}/v2/lab"
    (rule,) = tomllib.loads(resources.files["nodes/containers/registries.conf"].decode())["registry"]
    assert (rule["blocked"], "insecure" in rule) == (True, False)


def test_a_source_of_a_set_that_no_upstream_speaks_for_is_asked_over_tls(tmp_path: Path) -> None:
    plan = Plan.build("prod", images=[image("image", "reg.lab:5000/team/app", name="lab/team/app")])
    unknown = made(site(tmp_path), plan)
    hosts = tomllib.loads(unknown.files["nodes/containerd/certs.d/reg.lab:5000/hosts.toml"].decode())
    assert hosts["server"] == "https://reg.lab:5000"
    # two upstreams go through one host: that it is plain is known all the same
    shared = {name: {"endpoints": [f"http://reg.lab:5000/{name}"]} for name in ("lab", "other")}
    plain = made(site(tmp_path, document={"upstreams": shared}), plan)
    hosts = tomllib.loads(plain.files["nodes/containerd/certs.d/reg.lab:5000/hosts.toml"].decode())
    assert hosts["server"] == "http://reg.lab:5000"


def test_docker_hub_is_named_as_each_client_names_it(tmp_path: Path) -> None:
    resources = made(site(tmp_path), Plan.build("prod", images=[BUSYBOX]))
    hosts = tomllib.loads(resources.files["nodes/containerd/certs.d/docker.io/hosts.toml"].decode())
    assert hosts["server"] == "https://registry-1.docker.io"
    assert list(hosts["host"]) == [f"https://{REGISTRY}/v2/docker.io"]
    assert sources(resources)["docker.io"] == [f"{REGISTRY}/docker.io"]


def test_addresses_that_the_api_does_not_take(tmp_path: Path, authority: Authority) -> None:
    both = made(site(tmp_path, "[fd00::1]:5000", REGISTRY, ca=authority.pem), release_plan())
    assert sources(both)["quay.io"] == [f"{REGISTRY}/quay.io"]
    assert set(documents(both, "cluster/ca.yaml")[0]["data"]) == {"mirror.example..5000", "updateservice-registry"}
    nodes = both.files["nodes/containers/registries.conf"].decode()
    assert 'location = "[fd00::1]:5000/quay.io"' in nodes
    alone = made(site(tmp_path, "[fd00::1]:5000", ca=authority.pem), release_plan("prod", "4.16.15", UBI))
    assert not {path for path in alone.files if path.startswith("cluster")} & {
        "cluster/idms.yaml",
        "cluster/ca.yaml",
        "cluster-tags/itms.yaml",
    }
    assert sum("[fd00::1]:5000" in note and "DNS name" in note for note in alone.notes) == 2


def test_mirrors_are_spelled_as_the_api_wants_them(tmp_path: Path) -> None:
    odd = image("image", "quay.io/a__b/c---d/e.f_g")
    for mirrors in sources(made(site(tmp_path, REGISTRY, "10.0.0.1"), release_plan("prod", "4.16.15", odd))).values():
        assert all(_API_MIRROR.fullmatch(mirror) for mirror in mirrors)


def test_signatures_are_one_config_map_a_release(tmp_path: Path) -> None:
    plans = (release_plan("old", "4.16.9"), release_plan("new", "4.16.15"))
    resources = made(site(tmp_path), *plans)
    found = documents(resources, "cluster/release-signatures.yaml")
    assert len(found) == 2
    for document in found:
        name = document["metadata"]["name"]
        release = next(plan.releases[0].digest for plan in plans if plan.releases[0].digest.hex == name[7:])
        assert document["metadata"]["namespace"] == "openshift-config-managed"
        assert document["metadata"]["labels"] == {"release.openshift.io/verification-signatures": ""}
        raw = {key: base64.b64decode(value) for key, value in document["binaryData"].items()}
        assert raw == {f"sha256-{release.hex}-{number}": content for number, content in signatures(release)}
        assert list(raw) == sorted(raw)
    unsigned = make(labelled(*plans), site(tmp_path), lambda release: [])
    assert "cluster/release-signatures.yaml" not in unsigned.files
    assert sum("no signature" in note for note in unsigned.notes) == 2


def test_the_pull_secret_has_an_entry_for_each_registry(tmp_path: Path) -> None:
    def auths(chosen: Site) -> dict[str, Any]:
        part = yaml.safe_load(made(chosen).files["install/install-config.part.yaml"])
        found: dict[str, Any] = json.loads(part["pullSecret"])["auths"]
        return found

    anonymous = auths(site(tmp_path, REGISTRY, "http://10.0.0.1:5000"))
    assert set(anonymous) == {REGISTRY, "10.0.0.1:5000"}
    assert all(base64.b64decode(one["auth"]).count(b":") == 1 for one in anonymous.values())
    everybody = {"who": "anonymous", "repositories": ["**"], "may": ["pull"]}
    admin = {"who": "admin", "repositories": ["**"], "may": ["pull", "push"]}
    apps = {"who": "admin", "repositories": ["apps/**"], "may": ["push"]}
    for clients, asked in (
        ({"anonymous": "none", "rules": [admin, everybody]}, False),
        ({"anonymous": "pull", "rules": [apps]}, False),
        ({"anonymous": "pull", "rules": [admin]}, True),  # a name in a rule is outside anonymous
        ({"anonymous": "none", "rules": [admin]}, True),
    ):
        for upstreams in (CONNECTED, {}):
            guarded = made(site(tmp_path, document={**upstreams, "clients": clients}), release_plan())
            assert (b"BASE64-OF-USER:PASSWORD" in guarded.files["install/install-config.part.yaml"]) is asked
            assert (b"global pull secret" in guarded.files["README.md"]) is asked
    closed = site(tmp_path, document={**CONNECTED, "clients": {"anonymous": "none"}})
    placeholder = auths(closed)[REGISTRY]["auth"]
    with pytest.raises(ValueError):
        base64.b64decode(placeholder, validate=True)  # nobody installs with it by mistake
    assert placeholder in made(closed).files["install/install-config.part.yaml"].decode().partition("pullSecret:")[0]
    assert b"global pull secret" in made(closed).files["README.md"]


def test_the_update_has_its_exact_command(tmp_path: Path) -> None:
    plan = release_plan()
    resources = made(site(tmp_path), plan)
    command = (
        "oc adm upgrade --allow-explicit-upgrade"
        f" --to-image=quay.io/openshift-release-dev/ocp-release@{plan.releases[0].digest}"
    )
    assert command in resources.files["update/update.txt"].decode().splitlines()
    assert command in resources.files["README.md"].decode()
    (patch,) = documents(resources, "update/updateservice.patch")
    assert patch == {
        "apiVersion": "config.openshift.io/v1",
        "kind": "ClusterVersion",
        "metadata": {"name": "version"},
        "spec": {"upstream": f"https://{REGISTRY}/api/upgrades_info/v1/graph"},
    }


def test_a_release_without_signatures_gets_the_command_that_a_cluster_follows(tmp_path: Path) -> None:
    bare, signed = release_plan("bare", "4.16.9"), release_plan("prod", "4.16.15")
    digests = {plan.set: plan.releases[0].digest for plan in (bare, signed)}

    def some(release: Digest) -> list[tuple[int, bytes]]:
        return [] if release == digests["bare"] else signatures(release)

    forced = f"oc adm upgrade --allow-explicit-upgrade --force --to-image={RELEASES}@{digests['bare']}"
    plain = f"oc adm upgrade --allow-explicit-upgrade --to-image={RELEASES}@{digests['prod']}"
    for plans, commands in (([bare], {forced}), ([signed], {plain}), ([bare, signed], {forced, plain})):
        files = make(labelled(*plans), site(tmp_path), some).files
        for path in ("update/update.txt", "README.md"):
            lines = files[path].decode().splitlines()
            found = {line.partition("  ")[0] for line in lines if line.startswith("oc adm upgrade --allow")}
            assert found == commands
            assert any("without a signature only with --force" in line for line in lines) == (forced in commands)


def test_what_is_to_be_applied_before_an_update_is_there(tmp_path: Path) -> None:
    def named(chosen: Site, *, signed: bool) -> set[str]:
        files = make(labelled(release_plan()), chosen, signatures if signed else lambda release: []).files
        updating = [content.decode() for path, content in files.items() if path.startswith("update/")]
        found = {path for path in TREE for text in updating if path.startswith("cluster/") and path in text}
        assert found <= set(files)
        return found

    idms, kept = "cluster/idms.yaml", "cluster/release-signatures.yaml"
    assert named(site(tmp_path), signed=True) == {idms, kept}
    assert named(site(tmp_path), signed=False) == {idms}
    assert named(site(tmp_path, "[fd00::1]:5000"), signed=False) == set()


def test_an_installation_is_spoken_of_where_there_is_something_to_install(tmp_path: Path) -> None:
    for plans, spoken in (([Plan.build("tools", images=[BUSYBOX])], False), ([release_plan()], True), ([], True)):
        assert ("## A new cluster" in made(site(tmp_path), *plans).files["README.md"].decode()) == spoken


CLOSED = {"anonymous": "none"}
LET_IN = {**CLOSED, "rules": [{"who": "*", "repositories": ["quay.io/**"], "may": ["pull"]}]}


@pytest.mark.parametrize(
    ("document", "asks"),
    [
        ({"clients": CLOSED}, True),
        ({"clients": CLOSED, "releases": {"public": True}}, True),
        ({"clients": CLOSED, "releases": {"public": False}}, False),
        ({"clients": LET_IN, "releases": {"public": False}}, True),
        ({"clients": {"anonymous": "pull"}, "releases": {"public": False}}, True),
    ],
)
def test_a_cluster_is_led_to_the_graph_where_it_may_ask_for_it(
    document: dict[str, Any], asks: bool, tmp_path: Path
) -> None:
    resources = made(site(tmp_path, document={**CONNECTED, **document}), release_plan())
    assert ("update/updateservice.patch" in resources.files) == asks
    for path in ("README.md", "update/update.txt"):
        assert ("updateservice.patch" in resources.files[path].decode()) == asks
    assert any("releases: {public: true}" in note for note in resources.notes) != asks


def test_releases_are_listed_from_the_oldest_to_the_newest(tmp_path: Path) -> None:
    names = ("4.16.9", "4.16.15", "4.9.3")
    releases = [Release(name, "amd64", RELEASES, digest(f"release {name}"), ("stable-4.16",)) for name in names]
    plans = [release_plan("prod", name) for name in names]
    joined = Plan.build("prod", releases=releases, images=[one for plan in plans for one in plan.images])
    text = made(site(tmp_path), joined).files["update/update.txt"].decode()
    listed = re.findall(r"^# prod@5: (\S+) for", text, re.MULTILINE)
    assert listed == ["4.9.3", "4.16.9", "4.16.15"]
    readme = made(site(tmp_path), joined).files["README.md"].decode()
    extract = readme[readme.index("oc adm release extract") :].partition("```")[0]
    assert str(digest("release 4.16.15")) in extract


def test_mapping_names_every_image_here(tmp_path: Path) -> None:
    plan = release_plan("prod", "4.16.15", UBI, BUSYBOX)
    lines = made(site(tmp_path), plan).files["mapping.txt"].decode().splitlines()
    release = plan.releases[0]
    assert f"{RELEASES}@{release.digest}={REGISTRY}/{RELEASES}:4.16.15-x86_64" in lines
    assert f"{BUSYBOX.source}@{BUSYBOX.digest}={REGISTRY}/docker.io/library/busybox" in lines
    assert f"{UBI.source}@{UBI.digest}={REGISTRY}/registry.redhat.io/ubi9/ubi:latest" in lines
    assert len(lines) == len(plan.images)
    assert lines == sorted(lines)


def test_the_readme_names_only_files_that_are_there(tmp_path: Path, authority: Authority) -> None:
    everything = set(made(site(tmp_path, ca=authority.pem), release_plan("prod", "4.16.15", UBI)).files)
    for plans, options in (
        ((), {}),
        ((release_plan(),), {}),
        ((release_plan("prod", "4.16.15", UBI),), {"ca": authority.pem}),
        ((Plan.build("tools", images=[BUSYBOX]),), {"ca": authority.pem, "never_contact_source": True}),
    ):
        resources = made(site(tmp_path, **options), *plans)
        text = resources.files["README.md"].decode()
        named = {path for path in everything if path in text}
        assert named <= set(resources.files), named - set(resources.files)
        for path in set(resources.files) - {"README.md"}:
            assert path in text or path.startswith("nodes/"), path
        assert text.count("```") % 2 == 0


def test_each_release_and_image_is_in_the_readme(tmp_path: Path) -> None:
    plan = release_plan("prod", "4.16.15", UBI, BUSYBOX)
    text = made(site(tmp_path), plan).files["README.md"].decode()
    for expected in (f"{UBI.source}@{UBI.digest}", f"{BUSYBOX.source}@{BUSYBOX.digest}", str(plan.releases[0].digest)):
        assert expected in text
    assert "**once**" in text  # what drains nodes


@settings(max_examples=25, deadline=None)
@given(seed=st.randoms(use_true_random=False))
def test_the_same_input_is_the_same_bytes(seed: random.Random, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("site")
    plans = [release_plan("prod", "4.16.15", UBI, BUSYBOX), release_plan("lab", "4.17.1", BUSYBOX)]
    upstreams = list(CONNECTED["upstreams"].items())
    expected = made(site(folder), *plans)
    seed.shuffle(upstreams)
    shuffled = [Plan.build(plan.set, releases=plan.releases, images=_shuffled(plan.images, seed)) for plan in plans]
    again = made(site(folder, document={"upstreams": dict(upstreams)}), *shuffled)
    assert dict(again.files) == dict(expected.files)
    assert again.notes == expected.notes


def _shuffled(images: Iterable[Image], seed: random.Random) -> list[Image]:
    found = list(images)
    seed.shuffle(found)
    return found


@pytest.mark.parametrize(
    "source",
    [
        *("quay.io/a\nb", 'quay.io/a"b', "quay.io/a`b", "quay.io/a b", "quay.io/../a", "quay.io/A", "QUAY.io/a"),
        *("quay.io", "a/b", "quay.io/a:tag", "docker.io/busybox", ""),
    ],
)
def test_a_plan_cannot_write_what_it_likes(source: str, tmp_path: Path) -> None:
    with pytest.raises(PlanInvalid):
        made(site(tmp_path), Plan.build("prod", images=[image("image", source, name="quay.io/a")]))
    release = Release("4.16.15", "amd64", source, digest("x"))
    with pytest.raises(PlanInvalid):
        made(site(tmp_path), Plan.build("prod", releases=[release]))


@pytest.mark.parametrize(
    ("version", "architecture", "channel"),
    [
        ("4.16.15; rm -rf /", "amd64", "stable"),
        ("4.16", "amd64", "stable"),
        ("4.16.15", "amd64\n", "stable"),
        ("4.16.15", "amd64", "$(id)"),
        ("4.16.15\n", "amd64", "stable"),
    ],
)
def test_a_release_cannot_either(version: str, architecture: str, channel: str, tmp_path: Path) -> None:
    release = Release(version, architecture, RELEASES, digest("x"), (channel,))
    with pytest.raises(PlanInvalid):
        made(site(tmp_path), Plan.build("prod", releases=[release]))


def test_notes_say_what_an_administrator_should_know(tmp_path: Path, authority: Authority) -> None:
    certificate = tmp_path / "tls.crt"
    certificate.write_bytes(authority.issue("mirror.example"))
    tls = {**CONNECTED, "tls": {"certificate": str(certificate), "key": str(certificate)}}
    assert made(site(tmp_path, document=tls, ca=authority.pem), release_plan()).notes == ()
    assert any("--ca" in note for note in made(site(tmp_path, document=tls)).notes)
    assert any("plain http" in note for note in made(site(tmp_path, "http://a.example", document=tls)).notes)
    assert any("tls.certificate" in note for note in made(site(tmp_path, ca=authority.pem)).notes)
    assert any("nothing to lead" in note for note in made(site(tmp_path, document={})).notes)


# listen, external_url, what --registry was given, and what it says to write: nothing where clients find it.
PORTS: list[tuple[Any, str, str, str]] = [
    ("0.0.0.0:5000", "", "mirror.lab:5000", ""),
    ("0.0.0.0:5000", "", "mirror.lab", "--registry http://mirror.lab:5000;"),
    ("0.0.0.0:5000", "", "mirror.lab:443", "--registry http://mirror.lab:5000;"),
    ("0.0.0.0:5000", "", "mirror.lab:8443", "--registry http://mirror.lab:5000;"),
    ("0.0.0.0:5000", "", "http://mirror.lab", "--registry http://mirror.lab:5000;"),
    ("[::]:5000", "", "[fd00::1]", "--registry http://[fd00::1]:5000;"),
    ("[::]:5000", "", "[fd00::443]:443", "--registry http://[fd00::443]:5000;"),
    ("0.0.0.0:443", "", "mirror.lab", ""),
    ("0.0.0.0:443", "", "mirror.lab:5000", "--registry http://mirror.lab:443;"),
    ("0.0.0.0:80", "", "http://mirror.lab", ""),
    (["127.0.0.1:5001", "0.0.0.0:5000", "0.0.0.0:8443"], "", "mirror.lab:8443", ""),
    (["127.0.0.1:5001", "0.0.0.0:5000", "0.0.0.0:8443"], "", "mirror.lab", "--registry http://mirror.lab:5000;"),
    ("127.0.0.1:5000", "", "localhost", "--registry http://localhost:5000;"),
    # something in front of it has that address
    ("0.0.0.0:5000", "https://mirror.lab", "mirror.lab", ""),
    ("0.0.0.0:5000", "https://Mirror.Lab:443", "mirror.lab", ""),
    ("0.0.0.0:5000", "https://mirror.lab", "mirror.lab:443", ""),
    ("0.0.0.0:5000", "https://mirror.lab", "mirror.lab:5000", ""),
    ("0.0.0.0:5000", "https://mirror.lab:8443", "mirror.lab:8443", ""),
    ("0.0.0.0:5000", "https://mirror.lab:8443", "mirror.lab", "--registry mirror.lab:8443;"),
    ("0.0.0.0:5000", "https://other.lab", "mirror.lab", "--registry http://mirror.lab:5000;"),
    ("0.0.0.0:5000", "http://mirror.lab", "mirror.lab", "--registry http://mirror.lab;"),
    # who is at a socket is seen by what is in front of it alone
    ("unix:/run/mirror.sock", "", "mirror.lab", ""),
    ("0.0.0.0:0", "", "mirror.lab", ""),
]


@pytest.mark.parametrize(("listen", "url", "given", "right"), PORTS)
def test_a_port_where_nothing_answers_is_said(listen: Any, url: str, given: str, right: str, tmp_path: Path) -> None:
    document = {**CONNECTED, "listen": listen, **({"external_url": url} if url else {})}
    notes = [note for note in made(site(tmp_path, given, document=document)).notes if "clients are led to port" in note]
    assert len(notes) == bool(right)
    if right:
        assert f"write {right}" in notes[0]
        assert "external_url" in notes[0]
        # what it says helps, either way
        again = right.removeprefix("--registry ").removesuffix(";")
        stated = {"external_url": notes[0].rpartition(" ")[2]}
        for chosen in (site(tmp_path, again, document=document), site(tmp_path, given, document=document | stated)):
            assert not any("clients are led to port" in note for note in made(chosen).notes)


def test_with_several_registries_the_other_may_be_another_machine(tmp_path: Path) -> None:
    document = {**CONNECTED, "listen": "0.0.0.0:5000"}
    (note,) = [
        note
        for note in made(site(tmp_path, "edge.lab:5000", "central.lab", document=document)).notes
        if "clients are led to port" in note
    ]
    assert "right only where another machine answers there, else write --registry http://central.lab:5000" in note


@pytest.mark.parametrize(
    ("tls", "listen", "given", "right"),
    [
        (False, "0.0.0.0:5000", "mirror.lab:5000", "--registry http://mirror.lab:5000"),
        (False, "0.0.0.0:5000", "mirror.lab", "--registry http://mirror.lab:5000"),
        (False, "0.0.0.0:443", "mirror.lab", "--registry http://mirror.lab:443"),
        (False, ["0.0.0.0:5000", "0.0.0.0:8443"], "mirror.lab:8443", "--registry http://mirror.lab:8443"),
        (True, "0.0.0.0:5000", "http://mirror.lab:5000", "--registry mirror.lab:5000"),
        (True, "0.0.0.0:5000", "http://mirror.lab", "--registry mirror.lab:5000"),
        (True, "0.0.0.0:80", "http://mirror.lab", "--registry mirror.lab:80"),
    ],
)
def test_who_speaks_in_another_way_than_this_registry_is_told_the_whole_address(
    tls: bool, listen: Any, given: str, right: str, tmp_path: Path, authority: Authority
) -> None:
    certificate = tmp_path / "tls.crt"
    certificate.write_bytes(authority.issue("mirror.lab"))
    pair = {"tls": {"certificate": str(certificate), "key": str(certificate)}} if tls else {}
    document = {**CONNECTED, "listen": listen, **pair}
    led = re.compile(r"clients are (?:told|led) to .* write (--registry [^ ;]*)")
    notes = made(site(tmp_path, given, document=document)).notes
    assert [found[1] for note in notes if (found := led.search(note))] == [right]  # one remedy, right in both respects
    helped = made(site(tmp_path, right.removeprefix("--registry "), document=document)).notes
    assert not any("clients are told to" in note or "clients are led to" in note for note in helped)
    url = f"{'http' if given.startswith('http:') else 'https'}://{given.removeprefix('http://')}"
    stated = made(site(tmp_path, given, document=document | {"external_url": url})).notes
    assert not any("clients are told to" in note or "clients are led to" in note for note in stated)
