"""What a release image carries in `release-manifests/`, and how its components are called."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tests.tools.images import Manifest

HOST = "quay.io"
RELEASE_REPOSITORY = "openshift-release-dev/ocp-release"
COMPONENT_REPOSITORY = "openshift-release-dev/ocp-v4.0-art-dev"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "ppc64le": "ppc64le", "s390x": "s390x", "multi": "multi"}
ALIASES = {"machine-os-content": "rhel-coreos", "kube-proxy": "sdn", "hyperkube": "pod", "tests-base": "tests"}

_FOLDER = "release-manifests"
_SINGLE = """
cluster-version-operator cli cli-artifacts installer installer-artifacts baremetal-installer tests must-gather pod
rhel-coreos rhel-coreos-extensions sdn ovn-kubernetes etcd hyperkube-apiserver oauth-server oauth-proxy console coredns
oauth-apiserver openshift-apiserver openshift-controller-manager haproxy-router docker-registry docker-builder deployer
tools network-tools jenkins jenkins-agent-base prometheus prometheus-alertmanager prometheus-config-reloader thanos frr
prometheus-node-exporter prom-label-proxy telemeter kube-rbac-proxy kube-state-metrics kube-storage-version-migrator
keepalived-ipfailover multus-cni multus-admission-controller multus-networkpolicy multus-route-override-cni hypershift
multus-whereabouts-ipam-cni container-networking-plugins egress-router-cni network-interface-bond-cni metrics-server
network-metrics-daemon ironic ironic-agent ironic-machine-os-downloader ironic-static-ip-manager baremetal-operator
baremetal-runtimecfg monitoring-plugin networking-console-plugin operator-lifecycle-manager operator-registry
operator-marketplace driver-toolkit insights-operator k8s-prometheus-adapter csi-external-attacher csi-livenessprobe
csi-external-provisioner csi-external-resizer csi-external-snapshotter csi-node-driver-registrar csi-snapshot-controller
csi-snapshot-validation-webhook agent-installer-api-server agent-installer-csr-approver agent-installer-node-agent
agent-installer-orchestrator agent-installer-utils apiserver-network-proxy cluster-autoscaler vsphere-problem-detector
vsphere-csi-driver-syncer configmap-reloader machine-image-customization-controller route-controller-manager
secrets-store-csi-mustgather prometheus-operator prometheus-operator-admission-webhook service-ca-operator
console-operator machine-config-operator cloud-credential-operator machine-api-operator cloud-network-config-controller
"""
_OPERATED = """
authentication autoscaler baremetal bootstrap capi capi-controllers cloud-controller-manager config config-api
control-plane-machine-set csi-snapshot-controller dns etcd image-registry ingress kube-apiserver
kube-controller-manager kube-scheduler kube-storage-version-migrator machine-approver monitoring network node-tuning
olm openshift-apiserver openshift-controller-manager policy-controller samples storage update-keys version
"""
_CLOUDS = "alibaba aws azure gcp ibmcloud kubevirt nutanix openstack ovirt powervs vsphere"
_OF_A_CLOUD = "cloud-controller-manager cluster-api-controllers csi-driver csi-driver-operator machine-controllers"
_STORES = {
    "store-openshift-official-release": "https://storage.googleapis.com/openshift-release/official/signatures/openshift/release",
    "store-openshift-official-release-mirror": "https://mirror.openshift.com/pub/openshift-v4/signatures/openshift/release",
}


def component_names(number: int) -> list[str]:
    """Return so many names as components of a release have; the well-known ones come first."""
    clouds = (f"{cloud}-{thing}" for thing, cloud in itertools.product(_OF_A_CLOUD.split(), _CLOUDS.split()))
    known = dict.fromkeys([*_SINGLE.split(), *(f"cluster-{name}-operator" for name in _OPERATED.split()), *clouds])
    more = (f"component-{count}" for count in itertools.count(1))
    names = (name for name in itertools.chain(known, more) if name not in ALIASES)
    return list(itertools.islice(names, number))


def manifests(
    version: str,
    components: Mapping[str, Manifest],
    kubevirt: Manifest | None,
    *,
    multi: bool,
    previous: Sequence[str],
    armored: str,
    policy_key: bytes,
) -> dict[str, bytes]:
    """Return the files of `release-manifests/` by path.

    `armored` is the public key of whoever signs the next release; `policy_key`, PEM, of whoever signs by sigstore.
    Without them there is no ConfigMap of keys, no ClusterImagePolicy.
    """
    files: dict[str, bytes] = {
        "image-references": to_json(_image_references(version, components)),
        "release-metadata": to_json(_metadata(version, previous, multi=multi)),
        "0000_50_installer_coreos-bootimages.yaml": _yaml(_boot_images(version, kubevirt)),
    }
    if armored:
        files["0000_90_cluster-update-keys_configmap.yaml"] = _yaml(_update_keys(armored))
    if policy_key:
        files["0000_90_openshift-cluster-image-policy.yaml"] = _yaml(_image_policy(policy_key))
    for number, (name, component) in enumerate(sorted(components.items())):
        if "operator" in name:
            files[f"0000_{number % 90:02}_{name}_deployment.yaml"] = _yaml(_deployment(name, component))
    files["0000_10_config-operator_01_infrastructures.crd.yaml"] = b"# a schema of many lines\n" * 20_000
    return {f"{_FOLDER}/{name}": body for name, body in files.items()}


def decoy() -> dict[str, bytes]:
    """Return what a lower layer may hold and nobody may believe: references to images that are nowhere."""
    nowhere = {
        "kind": "ImageStream",
        "apiVersion": "image.openshift.io/v1",
        "metadata": {"name": "0.0.1-base"},
        "spec": {"tags": [_tag("cli", "sha256:" + "0" * 64)]},
    }
    return {f"{_FOLDER}/image-references": to_json(nowhere)}


def to_json(document: object) -> bytes:
    """Return JSON as the tools of releases indent it."""
    return json.dumps(document, indent=2).encode()


def _yaml(document: object) -> bytes:
    return yaml.safe_dump(document, sort_keys=False).encode()


def _image_references(version: str, components: Mapping[str, Manifest]) -> dict[str, Any]:
    return {
        "kind": "ImageStream",
        "apiVersion": "image.openshift.io/v1",
        "metadata": {
            "name": version,
            "creationTimestamp": "2024-10-02T00:00:00Z",
            "annotations": {"release.openshift.io/from-image-stream": f"ocp/{version[:4]}-art-latest"},
        },
        "spec": {
            "lookupPolicy": {"local": False},
            "tags": [_tag(name, component.digest) for name, component in sorted(components.items())],
        },
        "status": {"dockerImageRepository": ""},
    }


def _tag(name: str, digest: str) -> dict[str, Any]:
    annotations = {
        "io.openshift.build.commit.id": hashlib.sha1(name.encode()).hexdigest(),
        "io.openshift.build.commit.ref": "",
        "io.openshift.build.source-location": f"https://github.com/openshift/{name}",
    }
    if name.startswith("rhel-coreos"):
        annotations["io.openshift.build.versions"] = "machine-os=416.94.202410020000-0"
        annotations["io.openshift.build.version-display-names"] = "machine-os=Red Hat Enterprise Linux CoreOS"
    return {
        "name": name,
        "annotations": annotations,
        "from": {"kind": "DockerImage", "name": f"{HOST}/{COMPONENT_REPOSITORY}@{digest}"},
        "generation": None,
        "importPolicy": {},
        "referencePolicy": {"type": ""},
    }


def _metadata(version: str, previous: Sequence[str], *, multi: bool) -> dict[str, Any]:
    metadata = {"url": "https://access.redhat.com/errata/RHSA-0000:0000"}
    if multi:
        metadata["release.openshift.io/architecture"] = "multi"
    return {
        "kind": "cincinnati-metadata-v0",
        "version": version,
        "previous": list(previous),
        "next": [],
        "metadata": metadata,
    }


def _boot_images(version: str, kubevirt: Manifest | None) -> dict[str, Any]:
    disk = {"location": "https://rhcos.example/rhcos.qcow2.gz", "sha256": "0" * 64}
    artifacts = {"openstack": {"release": "416.94", "formats": {"qcow2.gz": {"disk": disk}}}}
    architectures: dict[str, Any] = {
        machine: {"artifacts": artifacts, "images": {}} for machine in ("aarch64", "x86_64")
    }
    if kubevirt is not None:
        repository = f"{HOST}/{COMPONENT_REPOSITORY}"
        architectures["x86_64"]["images"]["kubevirt"] = {
            "release": "416.94.202410020000-0",
            "image": f"{repository}:{version[:4]}-9.4-kubevirt",
            "digest-ref": f"{repository}@{kubevirt.digest}",
        }
    stream = {"stream": f"rhcos-{version[:4]}", "metadata": {}, "architectures": architectures}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "coreos-bootimages", "namespace": "openshift-machine-config-operator"},
        "data": {"releaseVersion": version, "stream": to_json(stream).decode()},
    }


def _update_keys(armored: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "release-verification",
            "namespace": "openshift-config-managed",
            "annotations": {"release.openshift.io/verification-config-map": ""},
        },
        "data": {"verifier-public-key-redhat": armored, **_STORES},
    }


def _image_policy(public: bytes) -> dict[str, Any]:
    return {
        "apiVersion": "config.openshift.io/v1",
        "kind": "ClusterImagePolicy",
        "metadata": {"name": "openshift"},
        "spec": {
            "scopes": [f"{HOST}/{RELEASE_REPOSITORY}"],
            "policy": {
                "rootOfTrust": {
                    "policyType": "PublicKey",
                    "publicKey": {"keyData": base64.b64encode(public).decode()},
                }
            },
        },
    }


def _deployment(name: str, component: Manifest) -> dict[str, Any]:
    container = {"name": name, "image": f"{HOST}/{COMPONENT_REPOSITORY}@{component.digest}"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": f"openshift-{name}"},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }
