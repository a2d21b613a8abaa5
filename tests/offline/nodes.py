"""A node behind the gap: real clients that know nothing but the files under `nodes/` that `mirror resources` wrote."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.tools.clients import Containerd, run
from tests.tools.images import Manifest
from tests.tools.programs import Programs

_AT_ONCE = 3  # clients that run side by side
_PATIENCE = 300  # seconds for one batch
_BATCH = 24  # images in one storage of podman, which becomes slower with each


class Node:
    """Pulls with skopeo and podman. `generated` is the folder `nodes`; `ca` is trusted as the README says it shall."""

    def __init__(self, programs: Programs, folder: Path, generated: Path, ca: Path) -> None:
        folder.mkdir(parents=True)
        self._programs = programs
        self.folder = folder
        # Where they lie in a home of one's own; /etc/containers of the machine is not touched.
        home = folder / ".config" / "containers"
        shutil.copytree(generated / "containers" / "registries.d", home / "registries.d")
        self.policy = folder / "policy.json"
        self.policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/root"\nrunroot = "{folder}/runroot"\n'
        )
        self._registries = generated / "containers" / "registries.conf"
        self._environment = {
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "CONTAINERS_REGISTRIES_CONF": str(self._registries),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "SSL_CERT_FILE": str(ca),
        }

    def inspect(self, name: str) -> bytes:
        """Return the manifest of an image as skopeo sees it."""
        return self._skopeo("inspect", "--raw", f"docker://{name}").encode()

    def copy(self, name: str, expected: Manifest) -> None:
        """Copy an image with all its platforms into a folder and compare every byte with what was published."""
        target = self.folder / "copied" / expected.digest[7:]
        target.parent.mkdir(exist_ok=True)
        self._skopeo("copy", "--all", "--preserve-digests", "--quiet", f"docker://{name}", f"dir:{target}")
        assert (target / "manifest.json").read_bytes() == expected.body, name
        for digest, blob in expected.all_blobs().items():
            with (target / digest[7:]).open("rb") as file:
                assert hashlib.file_digest(file, "sha256").hexdigest() == digest[7:], (name, digest)
            assert len(blob.body) == (target / digest[7:]).stat().st_size
        shutil.rmtree(target)

    def copy_all(self, wanted: Mapping[str, Manifest]) -> None:
        """Copy images by name, some at a time."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self.copy, wanted.keys(), wanted.values()))

    def pull_all(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Pull images with podman, into several storages side by side; return what it knows of each, by name."""
        names = list(names)
        batches = [names[start : start + _BATCH] for start in range(0, len(names), _BATCH)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            known = pool.map(self._pull, batches, (self.folder / str(number) for number in range(len(batches))))
            return dict(zip(names, (one for batch in known for one in batch), strict=True))

    def _pull(self, names: list[str], storage: Path) -> list[dict[str, Any]]:
        podman = [
            *(self._programs.find("podman"), "--root", f"{storage}/root", "--runroot", f"{storage}/run"),
            *("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"),
            *("--tmpdir", f"{storage}/tmp"),
        ]
        command = [*podman, "pull", "--quiet", "--signature-policy", str(self.policy), *names]
        run(command, self._environment, timeout=_PATIENCE)
        found = list(json.loads(run([*podman, "image", "inspect", *names], self._environment)))
        shutil.rmtree(storage)  # each layer is there with all those below it
        return found

    def _skopeo(self, *words: str) -> str:
        skopeo = [self._programs.find("skopeo"), "--policy", str(self.policy)]
        return run([*skopeo, "--registries-conf", str(self._registries), *words], self._environment)


class GeneratedContainerd(Containerd):
    """A containerd whose certs.d is the generated one."""

    def __init__(self, programs: Programs, folder: Path, generated: Path) -> None:
        super().__init__(programs, folder, {})
        self._hosts = generated / "containerd" / "certs.d"

    def fetch_all(self, wanted: Mapping[str, Manifest]) -> None:
        """Fetch images by name, some at a time, and check that all of them is here, verified by containerd."""
        hosts = ("--hosts-dir", str(self._hosts))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda name: self._run("content", "fetch", "--all-platforms", *hosts, name), wanted))
        here = set(self._run("content", "ls", "--quiet").split())
        for name, image in wanted.items():
            assert {one.digest for one in image.all_manifests()} | set(image.all_blobs()) <= here, name
