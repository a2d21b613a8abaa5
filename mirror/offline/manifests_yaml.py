"""The cluster's manifests inside a payload: the few that say something about images, read as untrusted YAML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from mirror.oci import strict_json

DEPTH_LIMIT = 64
EVENTS_LIMIT = 100_000  # what YAML's parser says, about one a word; a composed one takes some 700 bytes

_API = frozenset(("config.openshift.io/v1", "config.openshift.io/v1alpha1"))
_FEATURE_SET = "release.openshift.io/feature-set"
_DELETED = "release.openshift.io/delete"
_NOT_BY_DEFAULT = frozenset(("CustomNoUpgrade", "DevPreviewNoUpgrade", "TechPreviewNoUpgrade"))

# containers-policy.json(5), docker: a host, a namespace, a repository or one image; `*.` before a domain.
_SCOPE = re.compile(r"(?:\*\.)?[A-Za-z0-9][A-Za-z0-9.-]{0,252}(?::[0-9]{1,5})?(?:/[A-Za-z0-9._/@:-]{1,400})?")
_WORD = re.compile(r"[A-Za-z0-9_]{1,32}")


def documents(content: bytes) -> Iterator[Any]:
    """Yield the documents of a YAML (or JSON) file, every scalar as text; raise ValueError for what is none.

    For threads.
    """
    try:
        _measure(content)
        # The base loader makes nothing but texts, lists and mappings: no merge keys, no dates.
        yield from yaml.load_all(content, Loader=yaml.CBaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {' '.join(str(error).split())[:200]}") from None


def _measure(content: bytes) -> None:
    """Raise ValueError where composing the file would recurse or grow beyond the limits."""
    depth = 0
    # The scan itself is iterative; composing recurses in C, where no limit of the interpreter holds.
    for count, event in enumerate(yaml.parse(content, Loader=yaml.CBaseLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH_LIMIT or count > EVENTS_LIMIT:
            raise ValueError("it is nested too deeply or too long")


def sigstore_scopes(document: Any) -> tuple[str, ...]:
    """Return the scopes of a ClusterImagePolicy that a cluster of the default feature set applies; else nothing.

    Raises ValueError for a scope outside the grammar.
    """
    if not isinstance(document, dict) or document.get("kind") != "ClusterImagePolicy":
        return ()
    annotations = _mapping(_mapping(document.get("metadata")).get("annotations"))
    sets = {one.strip() for one in str(annotations.get(_FEATURE_SET, "")).split(",")}
    if document.get("apiVersion") not in _API or annotations.get(_DELETED) == "true":
        return ()
    if sets & _NOT_BY_DEFAULT and "Default" not in sets:
        return ()
    scopes = _mapping(document.get("spec")).get("scopes")
    found = tuple(str(scope) for scope in scopes) if isinstance(scopes, list) else ()
    if not found:
        raise ValueError("a ClusterImagePolicy has no scopes")
    for scope in found:
        if _SCOPE.fullmatch(scope) is None:
            raise ValueError(f"a ClusterImagePolicy has the scope {scope[:160]!r}")
    return found


def kubevirt_images(document: Any) -> dict[str, str]:
    """Return the pullspecs of the boot image ConfigMap's kubevirt disks by RPM architecture; raise ValueError."""
    if not isinstance(document, dict) or document.get("kind") != "ConfigMap":
        return {}
    if _mapping(document.get("metadata")).get("name") != "coreos-bootimages":
        return {}
    stream = _mapping(document.get("data")).get("stream")
    if not isinstance(stream, str):
        return {}
    found: dict[str, str] = {}
    for architecture, artifacts in _mapping(_mapping(strict_json.loads(stream.encode())).get("architectures")).items():
        image = _mapping(_mapping(_mapping(artifacts).get("images")).get("kubevirt")).get("digest-ref")
        if isinstance(image, str) and _WORD.fullmatch(architecture):
            found[architecture] = image
    return found


def covers(scope: str, source: str) -> bool:
    """Tell whether a policy of `scope` covers the repository `source`, host[:port]/path (containers-policy.json(5)).

    A scope that names one image by tag or digest covers its repository here: which one it means is not settled by
    a name.
    """
    host, _, _ = source.partition("/")
    if scope.startswith("*."):
        # `*.example.com` is a suffix of the host alone.
        return host.endswith(scope[1:])
    repository, _, _ = scope.partition("@")
    path, slash, last = repository.rpartition("/")
    if slash:
        repository = f"{path}/{last.partition(':')[0]}"
    return source == repository or source.startswith(f"{repository}/")


def _mapping(value: object) -> Mapping[str, Any]:
    """Return `value` where it is an object, else an empty one: what is missing says nothing."""
    return value if isinstance(value, dict) else {}
