"""hosts.toml for containerd 1.6 and newer (containerd, docs/hosts.md): it maps whole hosts and keeps the repository."""

from __future__ import annotations

from mirror.offline.resources.documents import WRITTEN, to_comment, to_toml_list, to_toml_text
from mirror.offline.resources.entries import Entry
from mirror.offline.resources.site import Registry, Site

# Another capability than these two makes containerd 1.6 refuse the whole file.
_CAPABILITIES = ("pull", "resolve")
CA = "ca.crt"  # beside hosts.toml: containerd resolves it against the file's own folder


def hosts_toml(entry: Entry, site: Site) -> bytes:
    """Return certs.d/<host>/hosts.toml of a host entry.

    The upstream's key is part of the path (`/v2/<key>` with override_path), so that the path alone decides what a
    name means here, whatever `ns` containerd adds. Where the source must never be contacted the last resort, `server`,
    is one of ours too.
    """
    lines = [to_comment(WRITTEN)]
    if site.never_contact_source:
        lines += [f"server = {_url(site.registries[-1], entry)}", *_settings(site.registries[-1], site), ""]
    else:
        lines += [f"server = {to_toml_text(site.source_url(entry.source))}", ""]
    for registry in site.registries:
        settings = [f"  {line}" for line in _settings(registry, site)]
        lines += [f"[host.{_url(registry, entry)}]", *settings, ""]
    return "\n".join(lines).encode()


def _url(registry: Registry, entry: Entry) -> str:
    return to_toml_text(entry.at(f"{registry.url}/v2"))


def _settings(registry: Registry, site: Site) -> list[str]:
    lines = [f"capabilities = {to_toml_list(_CAPABILITIES)}", "override_path = true"]
    if site.bundle and registry.secure:
        lines.append(f"ca = {to_toml_text(CA)}")
    return lines
