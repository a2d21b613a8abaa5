"""docs/operations.md as an administrator follows it at night: each command runs, beside a service and between two."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
import yaml

from tests.offline.documented import Command, Session, read
from tests.tools.processes import free_port
from tests.tools.programs import ROOT, Programs
from tests.tools.registries import Registry

pytestmark = pytest.mark.clients

SESSIONS = [step for step in read((ROOT / "docs" / "operations.md").read_text()) if isinstance(step, Session)]
PLACES = re.compile(r"(?<![\w./-])/(etc|var/lib/mirror|backup|data)(?=[/\s|']|$)")

SYSTEMCTL = """\
case $1 in
start)
    nohup mirror serve > {folder}/service.log 2>&1 < /dev/null &
    echo $! > {folder}/service.pid
    # 75 says that nobody answers, anything else that somebody does.
    for _ in $(seq 200); do mirror status -q > /dev/null 2>&1; case $? in 0|1) exit 0 ;; esac; sleep 0.1; done
    cat {folder}/service.log; exit 1 ;;
stop)
    [ -e {folder}/service.pid ] || exit 0
    kill "$(cat {folder}/service.pid)"
    for _ in $(seq 400); do [ -e /proc/"$(cat {folder}/service.pid)" ] || break; sleep 0.1; done
    rm {folder}/service.pid ;;
restart) systemctl stop && systemctl start ;;
*) exit 2 ;;
esac
"""


class Host:
    """A host in a folder: its /etc/mirror, its disks, and a service manager that knows one service."""

    def __init__(self, folder: Path, upstream: Registry) -> None:
        self.folder = folder
        self.etc = folder / "etc" / "mirror"
        for place in (self.etc, folder / "var" / "lib", folder / "backup", folder / "data", folder / "bin"):
            place.mkdir(parents=True)
        authority = trustme.CA()
        for start in (f"{self.etc}/", f"{folder}/new-"):
            issued = authority.issue_cert("mirror.example", "127.0.0.1")
            authority.cert_pem.write_to_path(f"{start}ca.crt")
            issued.private_key_pem.write_to_path(f"{start}tls.key")
            issued.cert_chain_pems[0].write_to_path(f"{start}tls.crt")
        for path in (self.etc / "tls.key", folder / "new-tls.key"):
            path.chmod(0o640)
        for path in (self.etc / "pull-secret.json", folder / "new-pull-secret.json"):
            path.write_text('{"auths": {}}')
            path.chmod(0o640)
        self.document = {
            "listen": f"127.0.0.1:{free_port()}",
            "metrics": {"listen": "none"},
            "tls": {"certificate": "tls.crt", "key": "tls.key"},
            "pull_secrets": ["pull-secret.json"],
            "upstreams": {"lab.example": {"endpoints": [upstream.url]}},
            "storage": {"path": str(folder / "var" / "lib" / "mirror"), "keep_free": "1%"},
        }
        self.configure()
        self._program("mirror", f'exec {sys.executable} -m mirror "$@"')
        self._program("sudo", 'exec "$@"')
        self._program("systemctl", SYSTEMCTL.format(folder=folder))

    def configure(self, keep_free: str = "1%") -> None:
        self.document["storage"]["keep_free"] = keep_free  # type: ignore[index]
        (self.etc / "mirror.yaml").write_text(yaml.safe_dump(self.document))

    def _program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def run(self, command: Command) -> str:
        # The accounts of an installation are not here, and the test's own user has all rights.
        text = PLACES.sub(lambda found: f"{self.folder}/{found[1]}", command.text)
        text = text.replace("-g mirror", "-g root").replace("chown -R mirror:", "chown -R root:")
        environment = {
            **os.environ,
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "MIRROR_CONFIG": str(self.etc / "mirror.yaml"),
        }
        before = self._folders()
        done = subprocess.run(
            ["sh", "-c", text],
            cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == command.code, f"{text}\n{done.stdout}"
        asked = [self.folder / word for word in text.split()]
        made = [one for one in self._folders() - before if not any(one.is_relative_to(word) for word in asked)]
        assert not made, f"{text}\nmade {made}, which nobody asked for"
        return done.stdout

    def _folders(self) -> set[Path]:
        """Return all folders but what is in the store."""
        store = self.folder / "var/lib/mirror"
        return {path for path in self.folder.rglob("*") if path.is_dir() and not path.is_relative_to(store)}

    def do(self, text: str, code: int = 0) -> str:
        return self.run(Command(text, code))


@pytest.mark.timeout(300)
def test_what_is_told_to_type_works(tmp_path: Path, plain: Registry, programs: Programs) -> None:
    programs.find("rsync")
    host = Host(tmp_path, plain)
    done = 0
    try:
        for images in (["app:1"], ["app:1", "tool:1"]):
            (tmp_path / "prod.txt").write_text("".join(f"lab.example/team/{image}\n" for image in images))
            host.do("mirror sync prod.txt")
        host.do("systemctl start")
        for session in SESSIONS:
            assert session.side == "the mirror", session.line
            disk_full = any(command.code == 1 for command in session.commands)
            if disk_full:
                host.configure(keep_free="99%")
                host.do("systemctl restart")
            for command in session.commands:
                printed = host.run(command)
                if command.code == 1:
                    assert "StoreFull" in printed
            if disk_full:
                host.configure()
                host.do("systemctl restart")
            done += 1
        assert done == 9
        assert "prod@2" in host.do("mirror ls prod@2") + host.do("mirror verify")
        assert (tmp_path / "data" / "mirror" / "format").exists()
        assert (tmp_path / "for-clusters" / "README.md").exists()
    finally:
        host.do("systemctl stop")
