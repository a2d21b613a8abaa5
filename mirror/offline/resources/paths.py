"""Where each file is in the output folder."""

from __future__ import annotations

README, MAPPING = "README.md", "mapping.txt"
INSTALL_CONFIG, INSTALL_CONF = "install/install-config.part.yaml", "install/mirror/registries.conf"
BUNDLE = "install/mirror/ca-bundle.crt"
IDMS, ITMS, CA = "cluster/idms.yaml", "cluster-tags/itms.yaml", "cluster/ca.yaml"
RELEASE_SIGNATURES, OPERATORHUB = "cluster/release-signatures.yaml", "cluster/operatorhub.yaml"
# A patch, and so called that `oc apply -f update/`, which takes .yaml, .yml and .json, does not take it for an object.
UPDATE_TEXT, UPDATE_SERVICE = "update/update.txt", "update/updateservice.patch"
NODES, SIGNATURES = "nodes/containers/registries.conf", "nodes/containers/registries.d/mirror.yaml"
CERTIFICATES, CONTAINERD = "nodes/containers/certs.d", "nodes/containerd/certs.d"
