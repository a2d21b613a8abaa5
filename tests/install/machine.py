"""A Debian of its own with systemd as its first process, in namespaces: no network but its own loopback."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.tools.processes import wait_until
from tests.tools.programs import ROOT, Programs

PACKAGES = ("procps", "python3", "systemd", "systemd-sysv")
# What nobody reads in a test: half of the files.
_LEFT_OUT = ("doc", "locale", "man", "info", "zoneinfo")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class MachineError(AssertionError):
    """A command in the machine ended otherwise than it should; carries all that it printed."""


def debian(programs: Programs) -> Path:
    """Return the tar of a small Debian, made once for this checkout."""
    maker = programs.find("mmdebstrap")
    options = ["--dpkgopt=force-unsafe-io", *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT)]
    command = [maker, "--quiet", "--variant=essential", f"--include={','.join(PACKAGES)}", *options, "bookworm"]
    folder = ROOT / ".tools" / "roots"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{hashlib.sha256(repr(command).encode()).hexdigest()[:16]}.tar"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            made = target.with_suffix(".new.tar")
            subprocess.run([*command, str(made)], check=True, timeout=600)
            made.rename(target)
    return target


class Machine:
    """A container that boots. `root` is its file tree, laid out here from `image`."""

    def __init__(self, programs: Programs, image: Path, root: Path) -> None:
        self._nspawn = programs.find("systemd-nspawn")
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._console = root.with_name(f"{root.name}.console")
        self.root = root
        root.mkdir()
        subprocess.run(["tar", "-C", str(root), "-xf", str(image)], check=True)
        # Nothing to wait for, and nothing to log in by.
        for unit in ("getty.target", "systemd-networkd-wait-online.service", "systemd-logind.service"):
            (root / "etc/systemd/system" / unit).symlink_to("/dev/null")

    def boot(self) -> None:
        """Start systemd and wait until everything is up."""
        options = ["--quiet", "--boot", "--private-network", "--register=no", "--keep-unit", "--console=read-only"]
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                [self._nspawn, *options, "-D", str(self.root)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(self._up, "the machine to boot", 60)

    def halt(self) -> None:
        """End every process of the machine."""
        if self._process is None:
            return
        if self._leader and self._process.poll() is None:
            os.kill(self._leader, signal.SIGKILL)  # the first process takes all others with it
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def bring(self, source: Path, target: str) -> None:
        """Copy a file or a folder into the machine."""
        there = self.root / target.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, there, symlinks=True)
        else:
            shutil.copy(source, there)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Put a file in place by a rename, as root."""
        there = self.root / path.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        known = there.stat() if there.exists() else None
        temporary = there.with_name(f".{there.name}~")
        temporary.write_text(text)
        temporary.chmod(mode)
        if known is not None:
            os.chown(temporary, known.st_uid, known.st_gid)
        temporary.rename(there)

    def read(self, path: str) -> str:
        """Return what a file of the machine holds."""
        return (self.root / path.lstrip("/")).read_text()

    def enter(self, *command: str) -> list[str]:
        """Return the command line that runs a program of the machine in it, as root."""
        return ["nsenter", "-t", str(self._leader), "-a", "env", "-i", f"PATH={_PATH}", "HOME=/root", *command]

    def beside(self, *command: str) -> list[str]:
        """Return the command line that runs a program of this host in the machine's network."""
        return ["nsenter", "-t", str(self._leader), "-n", *command]

    def run(self, *command: str, code: int = 0, timeout: float = 60) -> str:
        """Run a program of the machine and return what it printed; raise MachineError unless it ends with `code`."""
        return _run(self.enter(*command), code, timeout)

    def sh(self, script: str, code: int = 0) -> str:
        """The same for a line of shell."""
        return self.run("sh", "-euc", script, code=code)

    def here(self, *command: str, code: int = 0) -> str:
        """Run a program of this host in the machine's network."""
        return _run(self.beside(*command), code, 60)

    def listens(self, port: int) -> bool:
        """Tell whether something in the machine listens on a TCP port."""
        wanted = f":{port:04X} "
        tables = (Path(f"/proc/{self._leader}/net/{name}").read_text() for name in ("tcp", "tcp6"))
        return any(wanted in line and " 0A " in line for table in tables for line in table.splitlines())

    def journal(self, unit: str = "mirror") -> str:
        """Return what a unit said."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "-u", unit, "--no-pager", "-o", "cat")

    def show(self, unit: str, *names: str) -> list[str]:
        """Return properties of a unit."""
        said = self.run("systemctl", "show", unit, *(f"-p{name}" for name in names))
        found = dict(line.split("=", 1) for line in said.splitlines())
        return [found[name] for name in names]

    def settled(self, unit: str = "mirror", seconds: float = 30) -> str:
        """Wait until a unit is active or failed for good; return which."""
        deadline = time.monotonic() + seconds
        while (state := self.show(unit, "ActiveState")[0]) not in ("active", "failed", "inactive"):
            if time.monotonic() > deadline:
                raise MachineError(f"{unit} is still {state}\n{self.journal(unit)}")
            time.sleep(0.1)
        return state

    def _up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise MachineError(f"the machine ended\n{self._console.read_text(errors='replace')}")
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            return False
        self._leader = int(children[0])
        asked = subprocess.run(self.enter("systemctl", "is-system-running"), capture_output=True, text=True)
        return asked.stdout.strip() in ("running", "degraded")


def _run(command: Sequence[str], code: int, timeout: float) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
    )
    if done.returncode != code:
        raise MachineError(f"{' '.join(command)}\nended with {done.returncode}\n{done.stdout}")
    return done.stdout
