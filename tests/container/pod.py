"""The pod of config/openshift as a node would run it: every field of its manifest becomes what podman does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.tools.programs import ROOT

MANIFESTS = ROOT / "config" / "openshift"
# What the restricted policy gives a namespace: a user that no image knows, and a group for its volumes.
USER, GROUP = 1000680000, 1000680000

_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# Fields that say something to the cluster alone.
_CLUSTER = frozenset((
    "serviceAccountName", "automountServiceAccountToken", "enableServiceLinks", "priorityClassName",
    "terminationGracePeriodSeconds", "resources", "ports", "name", "image",
))  # fmt: skip


def document(name: str) -> dict[str, Any]:
    """Return a manifest of config/openshift."""
    return dict(yaml.safe_load((MANIFESTS / name).read_text()))


class Pod:
    """The pod of deployment.yaml. `folder` takes its volumes."""

    def __init__(self, folder: Path) -> None:
        self.template = document("deployment.yaml")["spec"]["template"]["spec"]
        (self.container,) = self.template["containers"]
        self._folder = folder
        self._made: dict[str, Path] = {}

    def fill(self, source: str, files: Mapping[str, bytes]) -> None:
        """Lay out a ConfigMap or Secret as the kubelet does; again, to change all its files in one rename."""
        (volume,) = [one for one in self.template["volumes"] if source in _sources(one)]
        mode = (volume.get("secret") or volume["configMap"])["defaultMode"]
        folder = self._folder / volume["name"]
        version = folder / f"..{len(list(folder.glob('..[0-9]*')))}"
        version.mkdir(parents=True)
        for name, content in files.items():
            (version / name).write_bytes(content)
            (version / name).chmod(mode)
            os.chown(version / name, 0, GROUP)
            link = folder / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        (folder / "..new").symlink_to(version.name)
        (folder / "..new").rename(folder / "..data")
        self._made[volume["name"]] = folder

    @property
    def store(self) -> Path:
        """The volume of the claim, empty and for the pod's group as the kubelet makes it."""
        folder = self._folder / "store"
        if not folder.exists():
            folder.mkdir()
            os.chown(folder, 0, GROUP)
            folder.chmod(0o2770)
        return folder

    def options(self) -> list[str]:
        """Return podman's options for the container; raise AssertionError for a field that nobody here knows."""
        policy = dict(self.template["securityContext"])
        assert policy.pop("runAsNonRoot") is True
        assert policy.pop("fsGroupChangePolicy") == "OnRootMismatch"
        assert policy.pop("seccompProfile") == {"type": "RuntimeDefault"}  # podman's own, too
        assert not policy
        known = {"securityContext", "containers", "volumes"} | _CLUSTER
        assert self.template.keys() <= known, self.template.keys() - known
        words = [f"--user={USER}:0", f"--group-add={GROUP}", *self._confined()]
        volumes = {volume["name"]: volume for volume in self.template["volumes"]}
        for mount in self.container["volumeMounts"]:
            volume = volumes.pop(mount["name"])
            if "persistentVolumeClaim" in volume:
                folder = self.store
            elif mount["name"] in self._made:
                folder = self._made[mount["name"]]
            else:
                assert volume["secret"]["optional"], f"nothing fills {mount['name']}"
                folder = self._folder / mount["name"]
                folder.mkdir()
            assert "subPath" not in mount
            words.append(f"--volume={folder}:{mount['mountPath']}{':ro' if mount.get('readOnly') else ''}")
        assert not volumes
        return words

    def _confined(self) -> Iterator[str]:
        known = {
            "args",
            "volumeMounts",
            "securityContext",
            "startupProbe",
            "readinessProbe",
            "livenessProbe",
        } | _CLUSTER
        assert self.container.keys() <= known, self.container.keys() - known
        context = dict(self.container["securityContext"])
        assert context.pop("allowPrivilegeEscalation") is False
        yield "--security-opt=no-new-privileges"
        assert context.pop("readOnlyRootFilesystem") is True
        yield from ("--read-only", "--read-only-tmpfs=false")
        assert context.pop("capabilities") == {"drop": ["ALL"]}
        yield "--cap-drop=all"
        assert not context

    def probe(self, ask: Callable[[str, str, str], int]) -> dict[str, int]:
        """Return what each probe is answered; `ask` takes scheme, port name and path."""
        answers = {}
        for name in _PROBES:
            request = self.container[name]["httpGet"]
            answers[name] = ask(request["scheme"].lower(), request["port"], request["path"])
        return answers

    def port(self, name: str) -> int:
        """Return the number of a named port."""
        (found,) = [one["containerPort"] for one in self.container["ports"] if one["name"] == name]
        return int(found)


def _sources(volume: Mapping[str, Any]) -> set[str]:
    return {
        str(volume.get("secret", {}).get("secretName")),
        str(volume.get("configMap", {}).get("name")),
    }


def configuration(changes: Mapping[str, Any]) -> bytes:
    """Return config/openshift/mirror.yaml with top-level keys replaced."""
    return yaml.safe_dump({**document("mirror.yaml"), **changes}).encode()
