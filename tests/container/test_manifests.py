"""config/openshift: what kustomize makes of it is what the cluster's APIs take, and its parts belong together."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from mirror import __version__
from mirror.config import load
from tests.container.pod import MANIFESTS
from tests.container.schemas import Schemas
from tests.tools.clients import run
from tests.tools.programs import ROOT, Programs

Built = dict[str, dict[str, Any]]


def build(programs: Programs, folder: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(run([programs.find("kustomize"), "build", str(folder)])))


@pytest.fixture(scope="module")
def built(programs: Programs) -> Built:
    """What `oc apply -k config/openshift` would send, by kind."""
    manifests = build(programs, MANIFESTS)
    by_kind = {manifest["kind"]: manifest for manifest in manifests}
    assert len(by_kind) == len(manifests)
    return by_kind


@pytest.fixture(scope="module")
def schemas() -> Schemas:
    folder = ROOT / ".tools" / "schemas"
    if not folder.is_dir():
        if {"all", "schemas"} & set(os.environ.get("REQUIRE_TOOLS", "").split(",")):
            pytest.fail("there are no API schemas, and REQUIRE_TOOLS asks for them: .ci/tools schemas", pytrace=False)
        pytest.skip("there are no API schemas: .ci/tools schemas")
    return Schemas(folder)


def test_clusters_take_them(built: Built, schemas: Schemas) -> None:
    expected = {
        *("Namespace", "ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "Deployment", "Service", "Route"),
        *("PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor", "PrometheusRule"),
    }
    assert built.keys() == expected
    for kind, manifest in built.items():
        assert schemas.faults(manifest) == [], kind


@pytest.mark.parametrize(
    ("kind", "place", "wrong"),
    [
        ("Deployment", "spec.template.spec.containers.0.readinessProbe.httpGet.scheme", 443),
        ("Deployment", "spec.template.spec.containers.0.readinesProbe", {}),
        ("Deployment", "spec.template.spec.securityContext.runAsNonRoot", "true"),
        ("Deployment", "spec.selector", None),
        ("Service", "spec.ports.0.targetPort", [5000]),
        ("PodDisruptionBudget", "spec.maxUnavailable", 1.5),
        ("NetworkPolicy", "spec.egress.1.to.0.ipBlock.cidr", None),
        ("Route", "spec.tls.termination", "reencrypted"),
        ("Route", "spec.to", None),
        ("ServiceMonitor", "spec.endpoints.0.interval", "half a minute"),
        ("PrometheusRule", "spec.groups.0.rules.0.expr", None),
        ("Namespace", "metadata.lables", {}),
    ],
)
def test_what_is_wrong_is_seen(built: Built, schemas: Schemas, kind: str, place: str, wrong: object) -> None:
    manifest = yaml.safe_load(yaml.safe_dump(built[kind]))
    *path, last = place.split(".")
    inner: Any = manifest
    for step in path:
        inner = inner[int(step)] if isinstance(inner, list) else inner[step]
    if wrong is None:
        del inner[last]
    else:
        inner[last] = wrong
    faults = schemas.faults(manifest)
    assert len(faults) == 1
    assert last in faults[0]


def test_parts_belong_together(built: Built) -> None:
    template = built["Deployment"]["spec"]["template"]
    labels, pod = template["metadata"]["labels"], template["spec"]
    (container,) = pod["containers"]
    for selector in (
        built["Deployment"]["spec"]["selector"]["matchLabels"],
        built["Service"]["spec"]["selector"],
        built["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        built["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector
        assert selector.items() <= labels.items()
        assert not any("version" in name for name in selector), "a selector cannot change with the release"
    service = built["Service"]
    assert built["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    # An alert looks for the job of that name, which an operator gives by the service's.
    assert service["metadata"]["name"] == "mirror"
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    offered = {one["name"]: one["targetPort"] for one in service["spec"]["ports"]}
    assert set(offered.values()) == ports.keys()
    assert {one["port"] for one in built["ServiceMonitor"]["spec"]["endpoints"]} == {"metrics"} <= offered.keys()
    route = built["Route"]["spec"]
    assert route["to"]["name"] == service["metadata"]["name"]
    assert route["port"]["targetPort"] in offered
    allowed = {port["port"] for rule in built["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]}
    assert allowed == set(ports.values())
    assert pod["serviceAccountName"] == built["ServiceAccount"]["metadata"]["name"]
    sources = {one["name"]: one for one in pod["volumes"]}
    assert sources["config"]["configMap"]["name"] == built["ConfigMap"]["metadata"]["name"]
    assert sources["store"]["persistentVolumeClaim"]["claimName"] == built["PersistentVolumeClaim"]["metadata"]["name"]
    annotated = service["metadata"]["annotations"]["service.beta.openshift.io/serving-cert-secret-name"]
    assert sources["tls"]["secret"]["secretName"] == annotated
    assert {one["name"] for one in container["volumeMounts"]} == sources.keys()
    assert container["image"].endswith(f":{__version__}")
    assert {one["metadata"]["labels"]["app.kubernetes.io/version"] for one in built.values()} == {__version__}
    own = built["Namespace"]["metadata"]["name"]
    assert {one["metadata"].get("namespace") for one in built.values() if one["kind"] != "Namespace"} == {own}


def test_the_restricted_policy_lets_the_pod_in(built: Built) -> None:
    # kubernetes.io/docs/concepts/security/pod-security-standards, "Restricted"
    assert built["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = built["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
    assert all({"configMap", "secret", "persistentVolumeClaim"} & one.keys() for one in pod["volumes"])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    # OpenShift gives these; stated here they would be outside the namespace's range.
    assert not {"runAsUser", "fsGroup"} & pod["securityContext"].keys()
    own = container["securityContext"]
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False


def test_the_configuration_is_for_this_pod(built: Built, tmp_path: Path) -> None:
    path = tmp_path / "mirror.yaml"
    path.write_text(built["ConfigMap"]["data"]["mirror.yaml"])
    config = load(path)
    pod = built["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    assert config.tls.certificate is not None
    assert mounts[str(config.tls.certificate.parent)] == "tls"
    assert [mounts[str(secret.parent)] for secret in config.pull_secrets] == ["pull-secret"]
    assert mounts[str(config.storage.path)] == "store"
    assert mounts["/etc/mirror"] == "config"
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert config.listen == (f"0.0.0.0:{ports['registry']}",)
    assert config.metrics.listen == f"0.0.0.0:{ports['metrics']}"
    probes = [container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {(one["scheme"], one["port"]) for one in probes} == {("HTTPS", "registry")}


def test_a_drain_gets_through_and_waits_for_answers(built: Built) -> None:
    from mirror.app import DRAIN

    deployment, budget = built["Deployment"]["spec"], built["PodDisruptionBudget"]["spec"]
    assert deployment["replicas"] == budget["maxUnavailable"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}
    assert built["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] > DRAIN + 5


def test_rules_are_those_of_the_file(built: Built) -> None:
    alerts = yaml.safe_load((ROOT / "config" / "alerts.yaml").read_text())
    assert built["PrometheusRule"]["spec"] == alerts, "copy the groups of config/alerts.yaml into prometheusrule.yaml"


def test_the_overlay_of_the_manual_builds(programs: Programs, schemas: Schemas, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "container.md").read_text()
    files: Mapping[str, str] = dict(re.findall(r"```yaml\n# my-mirror/(\S+)\n(.*?)```", text, re.DOTALL))
    assert {"kustomization.yaml", "mirror.yaml"} <= files.keys()
    for name, content in files.items():
        (tmp_path / name).write_text(content.replace("../config/openshift", os.path.relpath(MANIFESTS, tmp_path)))
    manifests = build(programs, tmp_path)
    for manifest in manifests:
        assert schemas.faults(manifest) == [], manifest["kind"]
    (configuration,) = [one for one in manifests if one["kind"] == "ConfigMap"]
    assert configuration["data"]["mirror.yaml"] == files["mirror.yaml"]
    assert load(tmp_path / "mirror.yaml").upstreams.keys() != load(MANIFESTS / "mirror.yaml").upstreams.keys()
