"""What to do with the files on a running cluster, in order: commands, and how to see that each worked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from mirror.offline.resources.paths import (
    BUNDLE,
    CA,
    IDMS,
    ITMS,
    OPERATORHUB,
    RELEASE_SIGNATURES,
    UPDATE_SERVICE,
    UPDATE_TEXT,
)
from mirror.offline.resources.site import Site
from mirror.offline.resources.update import FORCED, GRAPH_PATH, Update, newest

_POOLS = "oc get machineconfigpools        # each: UPDATED True, UPDATING False"
_RETRIEVED = """\
oc get clusterversion version \\
  -o jsonpath='{.status.conditions[?(@.type=="RetrievedUpdates")].status}{"\\n"}'        # True"""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to apply: what it is, the commands, and what to look at before the next step."""

    title: str
    text: str
    commands: str
    check: str

    def section(self, number: int) -> str:
        """Return it as a section of Markdown."""
        text = f"{self.text}\n\n" if self.text else ""
        return (
            f"### {number}. {self.title}\n\n{text}```\n{self.commands}\n```\n\nThen look at:\n\n```\n{self.check}\n```"
        )


def steps(site: Site, updates: Sequence[Update], files: Set[str]) -> Iterator[Step]:
    """Yield the steps for those of `files` that were written."""
    if CA in files:
        yield _trust(site)
    if IDMS in files:
        yield _digests(site)
    if ITMS in files:
        yield _tags()
    if RELEASE_SIGNATURES in files:
        yield _signatures()
    if OPERATORHUB in files:
        yield _catalogs()
    if UPDATE_SERVICE in files:
        yield _service(site, updates)
    if UPDATE_TEXT in files:
        yield _update(updates)


def _trust(site: Site) -> Step:
    text = """\
Look at `oc get image.config/cluster -o yaml` first. A ConfigMap of trusted CAs that it names already would be put
aside: add the keys of this one to that one instead. The same holds for a list of insecure registries."""
    if site.insecure:
        text += "\n\nIt tells nodes of plain http, for which each is **drained once**."
    secure = [registry for registry in site.registries if registry.secure and site.bundle]
    if not secure:
        return Step("Trust", text, f"oc apply -f {CA}", f"oc get image.config/cluster -o yaml\n{_POOLS}")
    address = secure[0].address
    check = f"""\
oc debug node/NODE -- chroot /host \\
  curl -sS --cacert '/etc/docker/certs.d/{address}/ca.crt' https://{address}/livez    # nothing about certificates"""
    return Step("Trust", text, f"oc apply -f {CA}", check)


def _digests(site: Site) -> Step:
    check = f"""\
{_POOLS}
oc debug node/NODE -- chroot /host grep -c '{site.registries[0].address}/' /etc/containers/registries.conf"""
    text = "Nodes take it up one after the other; give them some minutes."
    if site.never_contact_source:
        text += " It closes the sources, so each node is **drained once**."
    return Step("Images by digest", text, f"oc apply -f {IDMS}", check)


def _tags() -> Step:
    text = "This **drains every node once**, one after the other. Leave it out where nothing is pulled by tag."
    return Step("Images by tag", text, f"oc apply -f {ITMS}", f"{_POOLS}\noc get imagetagmirrorset mirror")


def _signatures() -> Step:
    check = """\
oc get configmaps -n openshift-config-managed \\
  -l release.openshift.io/verification-signatures        # the digests of the releases above"""
    return Step("Signatures", "", f"oc apply -f {RELEASE_SIGNATURES}", check)


def _catalogs() -> Step:
    text = """\
Leave this out where the cluster's operators come from registry.redhat.io, directly or through this registry."""
    check = "oc get catalogsources -n openshift-marketplace        # none of Red Hat's own"
    return Step("Catalogs off", text, f"oc apply -f {OPERATORHUB}", check)


def _service(site: Site, updates: Sequence[Update]) -> Step:
    text = f"""\
This registry answers `{GRAPH_PATH}` with what is complete here; no update service operator is needed."""
    lines = []
    if site.bundle:
        text += """
The version operator trusts the CAs that proxy/cluster names. After an installation with the files of install/ that is
done. Otherwise: where `oc get proxy/cluster -o jsonpath='{.spec.trustedCA.name}'` names a ConfigMap, add the CA to its
ca-bundle.crt; where it names none, the first two commands make one. CRI-O and the kubelet restart for it, without a
drain."""
        lines = [
            "oc create configmap user-ca-bundle -n openshift-config \\",
            f"  --from-file=ca-bundle.crt={BUNDLE}",
            """oc patch proxy/cluster --type merge --patch '{"spec":{"trustedCA":{"name":"user-ca-bundle"}}}'""",
        ]
    lines.append(f"oc patch clusterversion version --type merge --patch-file {UPDATE_SERVICE}")
    last = newest(updates)
    if last and last.release.channels:
        known = " ".join(sorted({channel for one in updates for channel in one.release.channels}))
        lines.append(f"oc adm upgrade channel {last.release.channels[0]}        # these sets know: {known}")
    return Step("Where updates are asked for", text, "\n".join(lines), f"{_RETRIEVED}\noc adm upgrade")


def _update(updates: Sequence[Update]) -> Step:
    commands = "\n".join(
        f"{one.command}        # {one.release.version} {one.release.architecture}, {one.set}" for one in updates
    )
    check = f"""\
oc adm upgrade                   # how far it is
oc get clusterversion            # the version, AVAILABLE True, PROGRESSING False
oc get clusteroperators          # none DEGRADED
{_POOLS}"""
    text = "By the graph, `oc adm upgrade --to=VERSION`, or without it one of:"
    if not all(one.signatures for one in updates):
        text = f"{FORCED}\n\n{text}"
    return Step("Update", text, commands, check)
