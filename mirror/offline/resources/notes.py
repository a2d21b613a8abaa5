"""What an administrator should know of the files that were written: where clients would not get what they need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mirror.offline.resources.cluster import in_api
from mirror.offline.resources.entries import Entry
from mirror.offline.resources.site import Registry, Site
from mirror.offline.resources.update import Update


def notes(site: Site, entries: Sequence[Entry], found: Sequence[Update]) -> Iterator[str]:
    """Yield them, those of the registries first."""
    for registry in site.registries:
        yield from _of_address(registry)
        yield from _of_port(registry, site)
        yield from _of_tls(registry, site)
    if any(registry.secure for registry in site.registries) and not site.bundle:
        yield "without --ca clients must trust the certificate already: fine for one of a public CA"
    if any(not registry.secure for registry in site.registries):
        yield "an installation of OpenShift takes no mirror over plain http: give this registry tls.certificate"
    if not entries:
        yield "no upstream is configured and no set is named, so there is nothing to lead here"
    yield from (f"OpenShift's API takes no source named {one.source}" for one in entries if not in_api(one))
    if found and not site.gives_graph:
        yield (
            "releases.public is false and nothing is open to clients without a login, so no cluster can ask here for"
            " updates: say releases: {public: true}, or update by the commands in update/update.txt"
        )
    for one in found:
        if not one.signatures:
            yield (
                f"release {one.release.version} for {one.release.architecture} has no signature here:"
                " a cluster updates to it only with --force"
            )


def _of_address(registry: Registry) -> Iterator[str]:
    if not registry.in_api:
        yield (
            f"OpenShift's API takes no mirror named {registry.address}, so cluster/ is without it:"
            " give this host a DNS name of letters, digits and dashes"
        )
    if registry.address.startswith("["):
        # skopeo 1.9 cannot rewrite a name to such an address; the TOML reader of containerd 1 fails at the bracket.
        yield (
            f"podman 4 and containerd 1 cannot read files that name {registry.address}, and use none of their"
            " mirrors then: give this host a DNS name unless all clients are newer"
        )


def _of_port(registry: Registry, site: Site) -> Iterator[str]:
    if site.listens_at(registry) or site.is_external(registry):
        return
    what = f"clients are led to port {registry.port} of {registry.host}, and this registry listens on port {site.port}"
    if registry.secure != site.serves_tls:
        what += ", where it speaks TLS" if site.serves_tls else ", where it speaks plain http"
    meant = site.meant(registry, secure=site.serves_tls).option
    if len(site.registries) > 1:
        yield f"{what}: right only where another machine answers there, else write {meant}"
    else:
        yield (
            f"{what}: write {meant}; where something in front of this registry answers there, say so in mirror.yaml:"
            f" external_url: {registry.url}"
        )


def _of_tls(registry: Registry, site: Site) -> Iterator[str]:
    # What is led to another port is told the whole address already.
    if registry.secure == site.serves_tls or site.is_external(registry) or not site.listens_at(registry):
        return
    if registry.secure:
        yield (
            f"mirror.yaml has no tls.certificate, but clients are told to speak https to {registry.address}: right only"
            f" where something in front of this registry does, else write {site.meant(registry, secure=False).option}"
        )
    else:
        yield (
            f"this registry serves TLS, but clients are told to speak plain http to {registry.address}:"
            f" write {site.meant(registry, secure=True).option}"
        )
