"""Real clients with roots, policies and configurations of their own: nothing on the machine is read or touched."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.tools.images import Manifest, tree
from tests.tools.processes import Daemon
from tests.tools.programs import Programs

# Runtimes with what each needs inside another container: crun refuses hybrid cgroups, runc going without any.
_WAYS = (("runc",), ("crun", "--cgroups=disabled"))
_PATIENCE = 60  # seconds that one client command may take


class ClientError(AssertionError):
    """A client's command ended with an error; carries what it printed."""


def run(command: Sequence[str], environment: Mapping[str, str] | None = None, *, timeout: float = _PATIENCE) -> str:
    """Run a command and return its standard output; raise ClientError with all it printed otherwise."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        raise ClientError(f"{' '.join(command)}\nended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def registries_conf(path: Path, mirrors: Mapping[str, str], *, insecure: bool) -> Path:
    """Write a registries.conf in which each key, a prefix of image names, is mirrored by its value and else blocked.

    The location itself leads to a port where nothing listens, so that what is pulled came through the mirror.
    """
    parts = ['unqualified-search-registries = ["docker.io"]\n']
    for prefix, location in mirrors.items():
        parts.append(
            f'[[registry]]\nprefix = "{prefix}"\nlocation = "127.0.0.1:1/{prefix}"\n'
            f'[[registry.mirror]]\nlocation = "{location}"\ninsecure = {str(insecure).lower()}\n'
        )
    path.write_text("\n".join(parts))
    return path


class ContainersImage:
    """What skopeo and podman share: a policy that accepts, a registries.conf, a folder of trusted CAs."""

    def __init__(self, folder: Path, mirrors: Mapping[str, str], ca: Path | None) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.policy = folder / "policy.json"
        self.policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.registries = registries_conf(folder / "registries.conf", mirrors, insecure=ca is None)
        self.certificates: list[str] = []
        self.environment = {
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "CONTAINERS_REGISTRIES_CONF": str(self.registries),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        }
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/root"\nrunroot = "{folder}/runroot"\n'
        )
        if ca is not None:
            (folder / "certs").mkdir()
            (folder / "certs" / "ca.crt").write_bytes(ca.read_bytes())
            self.certificates = [str(folder / "certs")]


class Skopeo(ContainersImage):
    """Copies an image out of a registry into a folder, whole and byte for byte."""

    def __init__(
        self, programs: Programs, folder: Path, mirrors: Mapping[str, str] | None = None, ca: Path | None = None
    ) -> None:
        super().__init__(folder, mirrors or {}, ca)
        self._program = programs.find("skopeo")
        self._secure = ca is not None

    def pull(self, name: str, expected: Manifest) -> None:
        """Copy `name` with all its platforms and compare every byte with what was made."""
        target = self.folder / "copied"
        command = [
            *(self._program, "--registries-conf", str(self.registries), "--policy", str(self.policy)),
            *("copy", "--all", "--preserve-digests", "--quiet"),
            *(f"--src-tls-verify={str(self._secure).lower()}",),
            *(("--src-cert-dir", *self.certificates) if self.certificates else ()),
            *(f"docker://{name}", f"dir:{target}"),
        ]
        run(command, self.environment)
        assert (target / "manifest.json").read_bytes() == expected.body
        for digest, blob in expected.all_blobs().items():
            assert (target / digest.partition(":")[2]).read_bytes() == blob.body


class Podman(ContainersImage):
    """Pulls images into storage of its own and runs containers from it."""

    def __init__(
        self, programs: Programs, folder: Path, mirrors: Mapping[str, str] | None = None, ca: Path | None = None
    ) -> None:
        super().__init__(folder, mirrors or {}, ca)
        self._secure = ca is not None
        self._command = [
            *(programs.find("podman"), "--root", str(folder / "root"), "--runroot", str(folder / "runroot")),
            *("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"),
            *("--tmpdir", str(folder / "tmp")),
        ]
        self._programs = programs
        self._way: Sequence[str] = _WAYS[0]

    def pull(self, name: str) -> dict[str, Any]:
        """Pull `name` and return what podman knows of the image."""
        command = [
            *(*self._command, "pull", "--quiet", "--signature-policy", str(self.policy)),
            *(f"--tls-verify={str(self._secure).lower()}",),
            *(("--cert-dir", *self.certificates) if self.certificates else ()),
            name,
        ]
        run(command, self.environment)
        described = json.loads(run([*self._command, "image", "inspect", name], self.environment))
        return dict(described[0])

    def cannot_run(self) -> str:
        """Return why this machine runs no container, or nothing where it does."""
        archive = self.folder / "probe.tar"
        archive.write_bytes(tree({"bin/busybox": Path("/bin/busybox")}))
        run([*self._command, "import", "--quiet", str(archive), "localhost/probe"], self.environment)
        reasons = []
        for way in _WAYS:
            self._way = way
            try:
                self.run("localhost/probe", "/bin/busybox", "true")
            except ClientError as error:
                reasons.append(f"{way[0]}: {str(error).splitlines()[-1]}")
            else:
                return ""
        return "; ".join(reasons)

    def run(self, name: str, *command: str) -> str:
        """Run a container of an image that is here, without network, and return its output."""
        runtime, *options = self._way
        limits = [f"--ulimit={limit}" for limit in ("nofile=1024:1024", "nproc=1024:1024")]
        return run(
            [
                *(*self._command, "--runtime", self._programs.find(runtime)),
                *("run", "--rm", "--pull=never", "--network=none", *options, *limits),
                *("--signature-policy", str(self.policy), name, *command),
            ],
            self.environment,
        )


class Containerd(Daemon):
    """A containerd of its own. `hosts` names, per registry host, the content of its hosts.toml."""

    def __init__(self, programs: Programs, folder: Path, hosts: Mapping[str, str]) -> None:
        folder.mkdir(parents=True)
        self._ctr = programs.find("ctr")
        self._socket = folder / "containerd.sock"
        self._hosts = folder / "certs.d"
        for host, content in hosts.items():
            (self._hosts / host).mkdir(parents=True)
            (self._hosts / host / "hosts.toml").write_text(content)
        configuration = folder / "config.toml"
        configuration.write_text(
            f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",'
            ' "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",'
            ' "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]\n'
            f'[grpc]\naddress = "{self._socket}"\n[ttrpc]\naddress = "{folder}/ttrpc.sock"\n'
        )
        command = [programs.find("containerd"), "--config", str(configuration)]
        super().__init__(command, folder / "containerd.log", ready=self._responds)

    def fetch(self, name: str, expected: Manifest, login: str = "") -> None:
        """Fetch `name` for all platforms and check that everything under `expected` is here, verified by containerd.

        `login` is user:password for every host.
        """
        user = ["--user", login] if login else []
        self._run("content", "fetch", "--all-platforms", *user, "--hosts-dir", str(self._hosts), name)
        here = set(self._run("content", "ls", "--quiet").split())
        wanted = {manifest.digest for manifest in expected.all_manifests()} | set(expected.all_blobs())
        assert wanted <= here

    def _run(self, *words: str) -> str:
        return run([self._ctr, "--address", str(self._socket), *words])

    def _responds(self) -> bool:
        try:
            self._run("version")
        except ClientError:
            return False
        return True


def digest_of(path: Path) -> str:
    """Return the sha256 digest of a file."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
