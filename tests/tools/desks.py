"""Where somebody works with any of the real clients: a home, logins and a trusted CA of their own."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.tools.clients import ClientError, run
from tests.tools.images import Manifest
from tests.tools.layouts import assert_folder_holds, assert_layout_holds, write_folder, write_layout
from tests.tools.programs import Programs

NOTHING: frozenset[str] = frozenset()
COPIERS = ("skopeo", "crane", "oras", "regctl")


def entry(user: str, password: str) -> dict[str, str]:
    """Return what a pull secret says of one login."""
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


class Desk:
    """A folder in which clients find all that they read: one file of logins, one CA, policies that accept."""

    def __init__(self, programs: Programs, folder: Path, ca: Path | None = None) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.logins = folder / "config.json"  # docker's name for it, which podman and skopeo take by a variable
        self.logins.write_text('{"auths": {}}')  # podman and buildah want it to be there
        self.policy = folder / "policy.json"
        self.policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        registries = folder / "registries.conf"
        registries.write_text("")
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/root"\nrunroot = "{folder}/runroot"\n'
        )
        self.environment = {
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "DOCKER_CONFIG": str(folder),
            "REGISTRY_AUTH_FILE": str(self.logins),
            "CONTAINERS_REGISTRIES_CONF": str(registries),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            **({"SSL_CERT_FILE": str(ca)} if ca is not None else {}),
        }
        storage = ("--root", f"{folder}/root", "--runroot", f"{folder}/runroot", "--storage-driver", "vfs")
        self._options: Mapping[str, tuple[str, ...]] = {
            "skopeo": ("--policy", str(self.policy), "--registries-conf", str(registries)),
            "podman": (
                *storage,
                *("--cgroup-manager", "cgroupfs", "--events-backend", "none", "--tmpdir", f"{folder}/tmp"),
            ),
            "buildah": storage,
        }
        self._programs = programs
        self._made = 0

    def know(self, host: str, user: str, password: str) -> None:
        """Put a login where every client looks for it."""
        self.logins.write_text(json.dumps({"auths": {host: entry(user, password)}}))

    def __call__(self, program: str, *words: str | Path, given: str | None = None) -> str:
        """Run a client and return what it printed; `given` is its standard input. Raises ClientError."""
        command = [self._programs.find(program), *self._options.get(program, ()), *map(str, words)]
        if given is None:
            return run(command, self.environment)
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **self.environment},
        )
        if done.returncode:
            raise ClientError(f"{' '.join(command)}\nended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def push(self, program: str, image: Manifest, name: str, leave: frozenset[str] = NOTHING) -> None:
        """Push an image as `name` (host/repository:tag) by one of COPIERS; blobs in `leave` it does not have."""
        folder = self._new()
        tag = name.rpartition(":")[2]
        if program == "skopeo":
            write_folder(folder, image, leave)
            self("skopeo", "copy", "--all", "--preserve-digests", "--quiet", f"dir:{folder}", f"docker://{name}")
        else:
            write_layout(folder, image, tag, leave)
            if program == "crane" and image.children:
                (folder / "index.json").write_bytes(image.body)  # what it pushes is the list of the layout itself
            words: dict[str, list[str | Path]] = {
                "crane": ["push", folder, name, *(["--index"] if image.children else [])],
                "oras": ["cp", "--from-oci-layout", f"{folder}:{tag}", name],
                "regctl": ["image", "copy", f"ocidir://{folder}:{tag}", name],
            }
            self(program, *words[program])
        shutil.rmtree(folder)

    def copy(self, program: str, source: str, target: str) -> None:
        """Copy an image within registries, with all its platforms, by one of COPIERS."""
        words = {
            "skopeo": ["copy", "--all", "--preserve-digests", "--quiet", f"docker://{source}", f"docker://{target}"],
            "crane": ["copy", source, target],
            "oras": ["cp", source, target],
            "regctl": ["image", "copy", source, target],
        }
        self(program, *words[program])

    def pull(self, program: str, name: str, image: Manifest, leave: frozenset[str] = NOTHING) -> None:
        """Pull by one of COPIERS, and compare every byte with what was made."""
        folder = self._new()
        if program == "skopeo":
            self("skopeo", "copy", "--all", "--preserve-digests", "--quiet", f"docker://{name}", f"dir:{folder}")
            assert_folder_holds(folder, image, leave)
        else:
            words: dict[str, list[str | Path]] = {
                "crane": ["pull", "--format", "oci", name, folder],
                "oras": ["cp", name, "--to-oci-layout", f"{folder}:pulled"],
                "regctl": ["image", "copy", name, f"ocidir://{folder}:pulled"],
            }
            self(program, *words[program])
            assert_layout_holds(folder, image, leave)
        shutil.rmtree(folder)

    def log_in(self, program: str, host: str, user: str, password: str) -> None:
        """Log in as `program` has it. Raises ClientError where that is refused."""
        words = {
            "skopeo": ["login", "--username", user, "--password-stdin", host],
            "podman": ["login", "--username", user, "--password-stdin", host],
            "buildah": ["login", "--username", user, "--password-stdin", host],
            "crane": ["auth", "login", "--username", user, "--password-stdin", host],
            "oras": ["login", "--username", user, "--password-stdin", host],
            "regctl": ["registry", "login", "--user", user, "--pass-stdin", host],
        }
        self(program, *words[program], given=password)

    def log_out(self, program: str, host: str) -> None:
        """Forget the login again, as `program` has it."""
        words = {"crane": ["auth", "logout", host], "regctl": ["registry", "logout", host]}
        self(program, *words.get(program, ["logout", host]))

    def _new(self) -> Path:
        self._made += 1
        return self.folder / f"image{self._made}"
