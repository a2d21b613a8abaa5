"""README.md of the folder: which file when, in which order, with the exact commands and digests of these sets."""

from __future__ import annotations

from collections.abc import Sequence, Set

from mirror.offline.plan import Image, Plan
from mirror.offline.resources.entries import RELEASE_KINDS
from mirror.offline.resources.paths import (
    BUNDLE,
    CA,
    CERTIFICATES,
    IDMS,
    INSTALL_CONF,
    INSTALL_CONFIG,
    ITMS,
    MAPPING,
    OPERATORHUB,
    RELEASE_SIGNATURES,
    UPDATE_SERVICE,
    UPDATE_TEXT,
)
from mirror.offline.resources.site import Site
from mirror.offline.resources.steps import steps
from mirror.offline.resources.update import Update, newest

_HEAD = """\
# Resources for {sets}

Written by `mirror resources`; make it again rather than edit it. The same sets and options give the same bytes: keep
this folder in git, and read the difference before you apply it.

Images keep the names that they have everywhere; what is here leads these names to {registries}. Name all sets of a site
in one `mirror resources`: the cluster/idms.yaml of some would take away what the others need."""

_TABLE = """\
Taking a mirror or a source away again drains every node, and so does closing a source that was open.

Where releases come from, a source is there twice: its whole host for nodes, and each repository of releases because the
agent-based installer and `oc --idms-file` compare whole repositories. Other images they find only if you add the
repositories of these to the file that they read."""

_INSTALLATION = """\
## A new cluster

On the host that makes the installation medium; `oc` trusts what this host trusts:

```
{trust}oc adm release extract --idms-file={idms} --command=openshift-install \\
  {image}
```

Copy the keys of {part} into install-config.yaml, then `./openshift-install agent create image`. (From manifests of your
own, `openshift-install` reads {conf} and ca-bundle.crt in a folder `mirror` beside them.)

Then look at `oc get clusterversion`: the version, AVAILABLE True. The installer has made the mirror set
image-digest-mirror; the steps below add what it leaves out and repeat what is there, which does no harm."""

_HOSTS = """\
## Hosts that OpenShift does not manage

podman, skopeo, buildah, CRI-O:

```
sudo install -D -m 0644 nodes/containers/registries.conf /etc/containers/registries.conf.d/50-mirror.conf
sudo install -D -m 0644 nodes/containers/registries.d/mirror.yaml /etc/containers/registries.d/mirror.yaml
{certificates}podman pull {image}
```

containerd 1.6 or newer; its CRI plugin wants `config_path = "/etc/containerd/certs.d"` under `registry`:

```
sudo mkdir -p /etc/containerd/certs.d && sudo cp -r nodes/containerd/certs.d/. /etc/containerd/certs.d/
sudo ctr images pull --hosts-dir /etc/containerd/certs.d {image}
```

Then look at the log of this registry: it has the pull's requests, with `status=200`."""

_LOGIN = """\
## The login

This registry lets nobody pull without one. A cluster keeps it in its global pull secret; changing that drains nothing:

```
oc extract secret/pull-secret -n openshift-config --to=- > pull-secret.json
{logins}
oc set data secret/pull-secret -n openshift-config --from-file=.dockerconfigjson=pull-secret.json
rm pull-secret.json
```

podman and skopeo take it from `podman login`, CRI-O from the file of its `global_auth_file`, containerd's CRI plugin
from `registry.configs` in its configuration."""


def readme(
    plans: Sequence[tuple[str, Plan]],
    site: Site,
    updates: Sequence[Update],
    wanted: Sequence[Image],
    files: Set[str],
) -> bytes:
    """Return the text for the files that were written."""
    sets = ", ".join(label for label, _ in plans) or "pulling through"
    registries = ", then ".join(f"`{registry.address}`" for registry in site.registries)
    parts = [
        _HEAD.format(sets=sets, registries=registries),
        _releases(updates),
        _table(site, files),
        _installation(plans, updates, files),
        *_running(site, updates, files),
        _hosts(wanted, files),
        _login(site),
        _images(plans, wanted),
    ]
    return ("\n\n".join(part for part in parts if part) + "\n").encode()


def _releases(updates: Sequence[Update]) -> str:
    if not updates:
        return ""
    rows = [
        f"| {one.set} | {one.release.version} | {one.release.architecture} | `{one.image}` |"
        f" {len(one.signatures) or '**none**'} |"
        for one in updates
    ]
    return "\n".join(
        ["## Releases", "", "| set | version | architecture | image | signatures |", "|---|---|---|---|---|", *rows]
    )


def _table(site: Site, files: Set[str]) -> str:
    closing = "**once**, as it closes the sources" if site.never_contact_source else "no, while it only adds"
    trust = "**once**, as it tells them of plain http" if site.insecure else "no"
    rows = [
        (INSTALL_CONFIG, "before an installation: keys for install-config.yaml", ""),
        (INSTALL_CONF, "before an agent-based installation from manifests of your own", ""),
        (BUNDLE, "the CA, for these and for your own host", ""),
        (CA, "first of all on a running cluster: trust in this registry", trust),
        (IDMS, "then: images by digest come from here", closing),
        (ITMS, "images by tag come from here", "**once**"),
        (RELEASE_SIGNATURES, "before an update", "no"),
        (OPERATORHUB, "once: the catalogs of registry.redhat.io are out of reach", "no"),
        (UPDATE_SERVICE, "once, by `oc patch`: the cluster asks this registry which updates there are", "no"),
        (UPDATE_TEXT, "for an update: the exact commands", "the update itself does"),
        (MAPPING, "which image outside is which here", ""),
    ]
    lines = [f"| {path} | {when} | {drains} |" for path, when, drains in rows if path in files]
    lines += [
        "| nodes/containers/ | hosts with podman, skopeo, buildah or CRI-O that OpenShift does not manage | |",
        "| nodes/containerd/ | hosts with containerd | |",
    ]
    return "\n".join(
        ["## Which file when", "", "| file | when | drains every node |", "|---|---|---|", *lines, "", _TABLE]
    )


def _installation(plans: Sequence[tuple[str, Plan]], updates: Sequence[Update], files: Set[str]) -> str:
    last = newest(updates)
    # A site without sets may pull any release through; sets without a release install nothing.
    if IDMS not in files or (plans and not last):
        return ""
    image = last.image if last else "quay.io/openshift-release-dev/ocp-release@sha256:…"
    anchors = "/etc/pki/ca-trust/source/anchors/mirror.crt"
    trust = f"sudo cp {BUNDLE} {anchors} && sudo update-ca-trust\n" if BUNDLE in files else ""
    return _INSTALLATION.format(trust=trust, idms=IDMS, image=image, part=INSTALL_CONFIG, conf=INSTALL_CONF)


def _running(site: Site, updates: Sequence[Update], files: Set[str]) -> list[str]:
    sections = [step.section(number) for number, step in enumerate(steps(site, updates, files), 1)]
    if not sections:
        return []
    return ["## A running cluster\n\nIn this order, from this folder; look before you take the next step.", *sections]


def _hosts(wanted: Sequence[Image], files: Set[str]) -> str:
    copied = any(path.startswith(CERTIFICATES) for path in files)
    certificates = f"sudo mkdir -p /etc/containers/certs.d && sudo cp -r {CERTIFICATES}/. /etc/containers/certs.d/\n"
    own = [image for image in wanted if image.kind == "image"] or wanted
    image = f"{own[0].source}@{own[0].digest}" if own else "quay.io/REPOSITORY:TAG"
    return _HOSTS.format(certificates=certificates if copied else "", image=image)


def _login(site: Site) -> str:
    if not site.needs_login:
        return ""
    return _LOGIN.format(
        logins="\n".join(f"podman login --authfile pull-secret.json {one.address}" for one in site.registries)
    )


def _images(plans: Sequence[tuple[str, Plan]], wanted: Sequence[Image]) -> str:
    if not plans:
        return ""
    counted = sum(image.kind in RELEASE_KINDS for image in wanted)
    own = [image for image in wanted if image.kind == "image"]
    text = f"## Images\n\n{counted} of releases"
    text += f", and those below. {MAPPING} has a line for every one, signatures included."
    if not own:
        return text.replace(", and those below", "")
    rows = [f"| `{image.source}@{image.digest}` | {' '.join(image.tags)} |" for image in own]
    return "\n".join([text, "", "| image | tags |", "|---|---|", *rows])
