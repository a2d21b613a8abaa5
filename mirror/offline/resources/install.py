"""What an installation needs: a part of install-config.yaml, and the agent-based installer's mirror folder."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from mirror.offline.resources.documents import to_yaml
from mirror.offline.resources.entries import Entry
from mirror.offline.resources.site import Site

# The installer wants an entry for every mirror. Without a login here nobody ever sends it: we ask for none.
_ANONYMOUS = base64.b64encode(b"anonymous:anonymous").decode("ascii")
_PLACEHOLDER = "BASE64-OF-USER:PASSWORD"

_COMMENT = """\
Written by `mirror resources`; make it again rather than edit it.
Copy these keys into install-config.yaml."""
_LOGIN = """
This mirror wants a login: put the output of  printf %s USER:PASSWORD | base64 -w0  where pullSecret says
BASE64-OF-USER:PASSWORD."""
_BUNDLE = """
additionalTrustBundlePolicy Always: the version operator trusts the CA too, and may ask this mirror for updates."""
_POLICY = """
An installer that knows sourcePolicy takes `sourcePolicy: NeverContactSource` in each of imageDigestSources; all others
are told by cluster/idms.yaml after the installation."""


def install_config(entries: Sequence[Entry], site: Site) -> bytes:
    """Return install/install-config.part.yaml."""
    document: dict[str, Any] = {}
    comment = _COMMENT
    if site.bundle:
        document |= {"additionalTrustBundle": site.bundle, "additionalTrustBundlePolicy": "Always"}
        comment += _BUNDLE
    document["imageDigestSources"] = [
        {"source": entry.source, "mirrors": [entry.at(registry.address) for registry in site.registries]}
        for entry in entries
    ]
    document["pullSecret"] = pull_secret(site)
    if site.needs_login:
        comment += _LOGIN
    if site.never_contact_source:
        comment += _POLICY
    return to_yaml(document, comment=comment)


def pull_secret(site: Site) -> str:
    """Return the pull secret's entries for this mirror, as the JSON text that install-config.yaml holds."""
    auth = _PLACEHOLDER if site.needs_login else _ANONYMOUS
    auths = {registry.address: {"auth": auth} for registry in site.registries}
    return json.dumps({"auths": auths}, separators=(",", ":"))
