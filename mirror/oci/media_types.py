"""Media types of manifests and the one Accept list that is sent upstream."""

from __future__ import annotations

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
ORAS_ARTIFACT = "application/vnd.cncf.oras.artifact.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"

INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
SCHEMA1 = frozenset({DOCKER_SCHEMA1_SIGNED, DOCKER_SCHEMA1})
ARTIFACTS = frozenset({OCI_ARTIFACT, ORAS_ARTIFACT})  # retired, and still in registries
MANIFESTS = INDEXES | SCHEMA1 | ARTIFACTS | {OCI_MANIFEST, DOCKER_MANIFEST}

# One canonical list for every request: a client's own narrower list, cached by tag, would poison the
# others, and a registry rewrites a stored type that the list lacks to schema1 (quay).
ACCEPT = ", ".join(
    (
        OCI_INDEX,
        DOCKER_LIST,
        OCI_MANIFEST,
        DOCKER_MANIFEST,
        OCI_ARTIFACT,
        ORAS_ARTIFACT,
        f"{DOCKER_SCHEMA1_SIGNED};q=0.5",
        f"{DOCKER_SCHEMA1};q=0.4",
    )
)


def bare(content_type: str) -> str:
    """Return a Content-Type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()
