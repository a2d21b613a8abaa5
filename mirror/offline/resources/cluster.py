"""What `oc apply` gives to OpenShift (openshift/api, config/v1): mirror sets, the CA, signatures, catalogs off."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mirror.oci.digest import Digest
from mirror.offline.resources.documents import WRITTEN, to_yaml
from mirror.offline.resources.entries import Entry
from mirror.offline.resources.site import Site

CA_NAME = "mirror-ca"
# What the API takes as `source` (openshift/api, config/v1, ImageDigestMirrors).
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_SOURCE = re.compile(rf"{_LABEL}(?:\.{_LABEL})*(?::[0-9]+)?(?:/[a-z0-9]+(?:(?:[._]|__|-*)[a-z0-9]+)*)*")

_COMMENT = f"{WRITTEN}\n"
# What drains: machine config operator, pkg/daemon/drain.go. It takes nothing but added mirrors by digest for safe.
_IDMS = _COMMENT + "Images by digest: adding these does not drain nodes; taking some away again does."
_IDMS_CLOSED = (
    _COMMENT
    + """\
Images by digest, and the sources are closed (NeverContactSource): closing them drains every node once, one after the
other. Taking some away again drains nodes too."""
)
_ITMS = _COMMENT + "Images by tag. Applying this drains and reloads every node once, one after the other."
_CA = (
    _COMMENT
    + """\
If `oc get image.config/cluster -o jsonpath='{.spec.additionalTrustedCA.name}'` names another ConfigMap already, add
the keys below to that one instead: there can be only one."""
)
_INSECURE = (
    _COMMENT
    + """\
The mirror speaks plain http: nodes must be told. If image.config/cluster lists insecureRegistries already, add those
here first: this list takes the place of that one. Applying this drains every node once, one after the other."""
)
_SIGNATURES = _COMMENT + "The signatures that the cluster version operator wants to see before it believes a release."
_HUB = _COMMENT + "Turns off the catalogs of registry.redhat.io, which a cluster without internet never reaches."


def digest_mirrors(entries: Sequence[Entry], site: Site) -> bytes | None:
    """Return cluster/idms.yaml; None where there is nothing that the API takes."""
    comment = _IDMS_CLOSED if site.never_contact_source else _IDMS
    return _mirror_set("ImageDigestMirrorSet", "imageDigestMirrors", entries, site, comment)


def tag_mirrors(entries: Sequence[Entry], site: Site) -> bytes | None:
    """Return cluster-tags/itms.yaml; None where there is nothing that the API takes."""
    return _mirror_set("ImageTagMirrorSet", "imageTagMirrors", entries, site, _ITMS)


def in_api(entry: Entry) -> bool:
    """Tell whether OpenShift's API takes the entry's source: it takes no IPv6 address and no underscore in a host."""
    return _SOURCE.fullmatch(entry.source) is not None


def authorities(site: Site) -> bytes | None:
    """Return cluster/ca.yaml: the CA for each registry, and image.config/cluster; None where nothing is to be said.

    The key `updateservice-registry` is read by the update service operator, for those who run one.
    """
    trusted = [one.config_map_key for one in site.registries if one.secure and one.in_api] if site.bundle else []
    if not trusted and not site.insecure:
        return None
    spec: dict[str, Any] = {}
    documents: list[Mapping[str, Any]] = []
    if trusted:
        data = dict.fromkeys([*sorted(trusted), "updateservice-registry"], site.bundle)
        metadata = {"name": CA_NAME, "namespace": "openshift-config"}
        documents.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
        spec["additionalTrustedCA"] = {"name": CA_NAME}
    if site.insecure:
        spec["registrySources"] = {"insecureRegistries": sorted(site.insecure)}
    documents.append(
        {"apiVersion": "config.openshift.io/v1", "kind": "Image", "metadata": {"name": "cluster"}, "spec": spec}
    )
    comments = [*([_CA] if trusted else []), *([_INSECURE] if site.insecure else [])]
    return to_yaml(*documents, comment="\n".join(comments))


def release_signatures(signatures: Mapping[Digest, Sequence[tuple[int, bytes]]]) -> bytes | None:
    """Return cluster/release-signatures.yaml, a ConfigMap for each signed release; None where none is signed.

    One for each digest: none grows beyond what a ConfigMap holds, and applying those of a later set removes none.
    """
    documents = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": f"{digest.algorithm}-{digest.hex}",
                "namespace": "openshift-config-managed",
                "labels": {"release.openshift.io/verification-signatures": ""},
            },
            "binaryData": {
                f"{digest.algorithm}-{digest.hex}-{number}": base64.b64encode(raw).decode("ascii")
                for number, raw in sorted(signatures[digest])
            },
        }
        for digest in sorted(signatures)
        if signatures[digest]
    ]
    return to_yaml(*documents, comment=_SIGNATURES) if documents else None


def catalogs_off() -> bytes:
    """Return cluster/operatorhub.yaml."""
    document = {
        "apiVersion": "config.openshift.io/v1",
        "kind": "OperatorHub",
        "metadata": {"name": "cluster"},
        "spec": {"disableAllDefaultSources": True},
    }
    return to_yaml(document, comment=_HUB)


def _mirror_set(kind: str, key: str, entries: Sequence[Entry], site: Site, comment: str) -> bytes | None:
    policy = {"mirrorSourcePolicy": "NeverContactSource"} if site.never_contact_source else {}
    mirrors = [registry.address for registry in site.registries if registry.in_api]
    items = [
        {"source": entry.source, "mirrors": [entry.at(address) for address in mirrors], **policy}
        for entry in entries
        if in_api(entry)
    ]
    if not items or not mirrors:
        return None
    document = {
        "apiVersion": "config.openshift.io/v1",
        "kind": kind,
        "metadata": {"name": "mirror"},
        "spec": {key: items},
    }
    return to_yaml(document, comment=comment)
