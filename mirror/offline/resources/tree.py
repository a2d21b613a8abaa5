"""All the files, by their paths in the output folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mirror.oci.digest import Digest
from mirror.offline.plan import Image, Plan
from mirror.offline.resources import cluster, hosts_toml, install, registries_conf, update
from mirror.offline.resources.entries import Entry, images, make_entries, tag_entries
from mirror.offline.resources.mapping import mapping
from mirror.offline.resources.notes import notes
from mirror.offline.resources.paths import (
    BUNDLE,
    CA,
    CERTIFICATES,
    CONTAINERD,
    IDMS,
    INSTALL_CONF,
    INSTALL_CONFIG,
    ITMS,
    MAPPING,
    NODES,
    OPERATORHUB,
    README,
    RELEASE_SIGNATURES,
    SIGNATURES,
    UPDATE_SERVICE,
    UPDATE_TEXT,
)
from mirror.offline.resources.readme import readme
from mirror.offline.resources.site import Site


@dataclass(frozen=True)
class Resources:
    """The files by path, and what to say about them."""

    files: Mapping[str, bytes]
    notes: tuple[str, ...] = ()


def make(
    plans: Sequence[tuple[str, Plan]], site: Site, signatures: Callable[[Digest], Sequence[tuple[int, bytes]]]
) -> Resources:
    """Return what nodes and clusters of `site` need for these plans, each with its label, `set@n`.

    Without plans it is a pull-through site for the configured upstreams. `signatures` gives the numbered OpenPGP
    signatures of a release as they are in the store. The same input gives the same bytes. Raises PlanInvalid where a
    plan holds what may not be written into a file.
    """
    wanted = images(plans)
    entries = make_entries(wanted, site)
    found = update.updates(plans, site, signatures)
    files = {
        **_for_clusters(plans, site, entries, wanted, found),
        **_for_nodes(site, entries, wanted),
        INSTALL_CONFIG: install.install_config(entries, site),
        INSTALL_CONF: registries_conf.for_installer(entries, site),
    }
    if site.bundle:
        files[BUNDLE] = site.bundle.encode()
    if wanted:
        files[MAPPING] = mapping(wanted, site)
    if found and site.gives_graph:
        # Without releases here the graph is empty: a cluster that asked for it would see no update at all.
        files[UPDATE_SERVICE] = update.update_service(site, frozenset(files))
    if found:
        files[UPDATE_TEXT] = update.update_text(found, site, frozenset(files))
    files[README] = readme(plans, site, found, wanted, frozenset(files))
    return Resources({path: files[path] for path in sorted(files)}, tuple(notes(site, entries, found)))


def _for_clusters(
    plans: Sequence[tuple[str, Plan]],
    site: Site,
    entries: Sequence[Entry],
    wanted: Sequence[Image],
    found: Sequence[update.Update],
) -> dict[str, bytes]:
    tagged = tag_entries(entries, wanted)
    made = {
        IDMS: cluster.digest_mirrors(entries, site),
        ITMS: cluster.tag_mirrors(tagged, site),
        CA: cluster.authorities(site),
        RELEASE_SIGNATURES: cluster.release_signatures({one.release.digest: one.signatures for one in found}),
    }
    files = {path: content for path, content in made.items() if content is not None}
    # A site that only pulls through may well pull catalogs through; a set without catalogs leaves them out of reach.
    if plans or site.never_contact_source or site.config.offline:
        files[OPERATORHUB] = cluster.catalogs_off()
    return files


def _for_nodes(site: Site, entries: Sequence[Entry], wanted: Sequence[Image]) -> dict[str, bytes]:
    signed = {image.source for image in wanted if image.kind == "release" or image.sigstore != "none"}
    files = {
        NODES: registries_conf.for_nodes(entries, site),
        SIGNATURES: registries_conf.for_signatures(signed, site),
    }
    for entry in entries:
        if entry.is_host:
            files[f"{CONTAINERD}/{entry.source}/hosts.toml"] = hosts_toml.hosts_toml(entry, site)
            if site.bundle:
                files[f"{CONTAINERD}/{entry.source}/{hosts_toml.CA}"] = site.bundle.encode()
    for registry in site.registries:
        if site.bundle and registry.secure:
            files[f"{CERTIFICATES}/{registry.address}/ca.crt"] = site.bundle.encode()
    return files
