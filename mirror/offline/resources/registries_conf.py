"""registries.conf for podman, skopeo, buildah, CRI-O and the agent installer (containers-registries.conf(5))."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mirror.offline.resources.documents import to_comment, to_toml_text, to_yaml
from mirror.offline.resources.entries import Entry
from mirror.offline.resources.site import Site

_NODES = """\
Written by `mirror resources`; make it again rather than edit it.
For hosts with podman, skopeo, buildah or CRI-O that OpenShift does not manage:
/etc/containers/registries.conf.d/50-mirror.conf. OpenShift's own nodes are told by cluster/idms.yaml.
Tags and signatures come through the mirror too, so there is no pull-from-mirror here."""

_INSTALL = """\
Written by `mirror resources`; make it again rather than edit it.
For the agent-based installer: mirror/registries.conf beside its manifests."""

_SIGNATURES = """\
Written by `mirror resources`; make it again rather than edit it.
/etc/containers/registries.d/mirror.yaml: where sigstore signatures are looked for, which is beside the image.
Whole hosts such as registry.redhat.io are left out: RHEL ships files for them, and a host named in two files
stops every pull."""


def for_nodes(entries: Sequence[Entry], site: Site) -> bytes:
    """Return nodes/containers/registries.conf; our own address is in it only where it speaks plain http."""
    blocks = [_block(entry, site, prefix=True) for entry in entries]
    for registry in sorted(site.registries, key=lambda one: one.address):
        if not registry.secure:
            location = to_toml_text(registry.address)
            blocks.append(f"[[registry]]\nprefix = {location}\nlocation = {location}\ninsecure = true\n")
    return "\n".join([to_comment(_NODES), *blocks]).encode()


def for_installer(entries: Sequence[Entry], site: Site) -> bytes:
    """Return install/mirror/registries.conf. The installer compares `location`, and every entry needs a mirror."""
    blocks = [_block(entry, site, prefix=False) for entry in entries]
    return "\n".join([to_comment(_INSTALL), *blocks]).encode()


def for_signatures(signed: Iterable[str], site: Site) -> bytes:
    """Return nodes/containers/registries.d/mirror.yaml; `signed` are repositories outside that hold signed images."""
    scopes = sorted({*(registry.address for registry in site.registries), *signed})
    return to_yaml({"docker": {scope: {"use-sigstore-attachments": True} for scope in scopes}}, comment=_SIGNATURES)


def _block(entry: Entry, site: Site, *, prefix: bool) -> str:
    source = to_toml_text(entry.source)
    lines = ["[[registry]]", *([f"prefix = {source}"] if prefix else []), f"location = {source}"]
    if site.never_contact_source:
        lines.append("blocked = true")
    elif site.source_url(entry.source).startswith("http://"):
        lines.append("insecure = true")
    for registry in site.registries:
        lines += ["", "  [[registry.mirror]]", f"  location = {to_toml_text(entry.at(registry.address))}"]
        if not registry.secure:
            lines.append("  insecure = true")
    return "\n".join(lines) + "\n"
