"""How a running cluster is told of a newer release: the exact commands, and where it asks for updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from mirror.errors import InvalidRequest
from mirror.oci.digest import Digest
from mirror.oci.pullspec import is_pullspec
from mirror.oci.reference import check_tag
from mirror.oci.semver import Version
from mirror.offline.plan import Plan, PlanInvalid, Release
from mirror.offline.resources.documents import to_yaml
from mirror.offline.resources.paths import IDMS, RELEASE_SIGNATURES, UPDATE_SERVICE
from mirror.offline.resources.site import Site

GRAPH_PATH = "/api/upgrades_info/v1/graph"
# Why the command for a release without signatures is another one.
FORCED = """\
A cluster takes a release without a signature only with --force, which skips other checks of it, too: look at what
`oc adm upgrade` says first."""
# What has to be applied before an update, and what for.
_BEFORE = {
    IDMS: "leads the names of releases, which stay as they are, here",
    RELEASE_SIGNATURES: "lets the cluster believe them",
}


@dataclass(frozen=True, slots=True)
class Update:
    """A release of a set, and the command that leads a cluster to it by the name that it has everywhere.

    `registry` is the address here, under which alone a release is found that is kept under a path of its own, and
    `signatures` are those that are here, numbered.
    """

    set: str
    release: Release
    registry: str
    signatures: Sequence[tuple[int, bytes]]

    @property
    def image(self) -> str:
        """The release image by its own name, which the mirror entries lead here, or by its name here."""
        image = f"{self.release.source}@{self.release.digest}"
        return image if is_pullspec(image) else f"{self.registry}/{image}"

    @property
    def command(self) -> str:
        """The line that updates to it, whether the cluster knows an update graph or not."""
        force = "" if self.signatures else " --force"
        return f"oc adm upgrade --allow-explicit-upgrade{force} --to-image={self.image}"


def updates(
    plans: Sequence[tuple[str, Plan]], site: Site, signatures: Callable[[Digest], Sequence[tuple[int, bytes]]]
) -> list[Update]:
    """Return the releases of the plans, those of a set from the oldest to the newest.

    `signatures` gives the numbered ones of a release. Raises PlanInvalid for a version or an architecture that is none:
    they become part of what is pasted into shells.
    """
    found = []
    for label, plan in plans:
        releases = []
        for release in plan.releases:
            try:
                version = Version.parse(release.version)
                for word in (release.architecture, *release.channels):
                    check_tag(word)
            except InvalidRequest as error:
                raise PlanInvalid(f"set {label} names an invalid release: {error.what}") from None
            releases.append((version, release.architecture, release))
        found += [
            Update(label, release, site.registries[0].address, signatures(release.digest))
            for *_, release in sorted(releases)
        ]
    return found


def newest(found: Sequence[Update]) -> Update | None:
    """Return the update to the highest version, the last of equals; None where there is none."""
    return max(reversed(found), key=lambda one: Version.parse(one.release.version), default=None)


def update_text(found: Sequence[Update], site: Site, files: Set[str]) -> bytes:
    """Return update/update.txt, which names what is to be applied before, as far as it is among `files`."""
    before = [f"#   {path:34}{what}" for path, what in _BEFORE.items() if path in files]
    lines = ["# Written by `mirror resources`.", *(["# Apply these first:", *before] if before else [])]
    for update in found:
        release = update.release
        channels = f", channels {' '.join(release.channels)}" if release.channels else ""
        lines += ["", f"# {update.set}: {release.version} for {release.architecture}{channels}"]
        if not update.signatures:
            lines += [f"# {line}" for line in FORCED.splitlines()]
        lines.append(update.command)
    if site.gives_graph:
        lines += [
            "",
            f"# With {UPDATE_SERVICE} the cluster asks {site.registries[0].url} which updates there are:",
            "#   oc adm upgrade                      shows them",
            "#   oc adm upgrade --to=VERSION         takes one",
        ]
    return ("\n".join(lines) + "\n").encode()


def update_service(site: Site, files: Set[str]) -> bytes:
    """Return update/updateservice.patch, a merge patch of clusterversion/version; `files` are those beside it."""
    url = site.registries[0].url
    comment = f"""\
Written by `mirror resources`; make it again rather than edit it.
Lets the cluster ask this mirror for updates; no update service operator is needed. It is a patch, nothing for oc apply:

  oc patch clusterversion version --type merge --patch-file {UPDATE_SERVICE}

Check:  oc adm upgrade  shows the recommended updates, and  oc get clusterversion version -o
jsonpath='{{.status.conditions[?(@.type=="RetrievedUpdates")].message}}'  is empty."""
    if RELEASE_SIGNATURES in files:
        comment += f"""

Where the feature gate for signature stores is on, this takes the place of {RELEASE_SIGNATURES}:

  spec:
    signatureStores:
    - url: {url}"""
    document = {
        "apiVersion": "config.openshift.io/v1",
        "kind": "ClusterVersion",
        "metadata": {"name": "version"},
        "spec": {"upstream": f"{url}{GRAPH_PATH}"},
    }
    return to_yaml(document, comment=comment)
