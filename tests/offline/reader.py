"""Somebody who does what a document says: sides of the gap with files and commands, in the small world of the tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import trustme
import yaml

from tests.offline.documented import Command, Session, WrittenFile
from tests.offline.preloaded import Preloaded
from tests.offline.world import World
from tests.tools.processes import Daemon, answers, free_port, running
from tests.tools.programs import ROOT, Programs

CONFIGURATION = "/etc/mirror/mirror.yaml"
CENTRAL = "inside"  # who answers as mirror.example
_ADDRESS = "mirror.example:5000"
_NAMES = ("mirror.example", "edge1.example", "127.0.0.1", "localhost")
_SHELL = ("cat", "cd", "cp", "curl", "mv", "rm", "sha256sum")  # what may be run beside the mirror
_PLACE = re.compile(r"(?<![\w.:/-])/(?:etc|media|var)(?:/[\w.@*?\[\]-]+)*")
_LAST_LINE = re.compile(r"^set \S+ (sha256:[0-9a-f]{64})$", re.MULTILINE)
_STORE = ("var", "lib", "mirror")
_PART_SIZE = "1536KiB"  # of parts: as much less than the default as releases here are smaller
_GRAPH = "https://api.openshift.com/api/upgrades_info/v1/graph"
_SIGNATURES = "https://mirror.openshift.com/pub/openshift-v4/signatures/openshift/release"


class Reader:
    """What is typed where. What lies in /media, and in the folder one works in, is carried from side to side."""

    def __init__(self, root: Path, world: World, programs: Programs, commands: Preloaded, stack: ExitStack) -> None:
        self._root = root
        self._world = world
        self._programs = programs
        self._commands = commands
        self._stack = stack
        self._ports: dict[str, int] = {}
        self._texts: dict[str, str] = {}  # mirror.yaml of each side, as documented
        self._noted = ""  # the digest that the last save ended with
        self._unplaced: str | None = None  # a mirror.yaml of whoever runs the next command
        self._authority = trustme.CA()
        self.home = root / "home"
        self.media = root / "media"
        self.disks: dict[Path, int] = {}  # those in /media that are small, with their bytes
        self.alternatives: frozenset[str] = frozenset()  # options that say the same in another way, on another disk
        for folder in (self.home, self.media):
            folder.mkdir()

    # -- what the document says --------------------------------------------------------------------------------

    def write(self, file: WrittenFile) -> None:
        """Write a file: a mirror.yaml on its side, anything else where one works."""
        if file.path == CONFIGURATION:
            if file.side:
                self._configure(file.side, file.text)
            else:
                self._unplaced = file.text
        else:
            (self.home / file.path).write_text(file.text)

    def run(self, session: Session) -> str:
        """Run commands, each of which must end as the document says; return what they print."""
        if self._unplaced is not None:
            self._configure(session.side, self._unplaced)
            self._unplaced = None
        elif not (self._folder(session.side) / CONFIGURATION[1:]).exists():
            self._configure(session.side, self._texts[CENTRAL])  # one more site like it
        return "".join(self._run(session, command) for command in session.commands)

    def _run(self, session: Session, command: Command) -> str:
        words = command.words
        if words[0] != "mirror":
            return self._shell(session, command)
        if words[1] == "serve":
            self._serve(session.side, words[1:])
            return ""
        if words[1] == "save" and "--part-size" not in words:
            words += ["--part-size", _PART_SIZE]
        words = [self._placed(session.side, word).replace("sha256:…", self._noted) for word in words[1:]]
        if self.alternatives & set(words):
            words = [word.replace(str(self.media / "disk"), str(self.media / "alternative")) for word in words]
        if words[0] == "save":
            Path(words[words.index("--to") + 1]).mkdir(exist_ok=True)  # the disk is mounted
        environment = {"MIRROR_CONFIG": str(self._folder(session.side) / CONFIGURATION[1:]), "COLUMNS": "200"}
        before = self._folders()
        code, printed = self._commands.run(words, self.home, environment, self.disks)
        said = f"line {session.line}: {command.text}\nended with {code}, not {command.code}\n{printed}"
        asked = [self.home / word for word in words]
        made = [one for one in self._folders() - before if not any(one.is_relative_to(word) for word in asked)]
        assert not made, f"line {session.line}: {command.text}\nmade {made}, which nobody asked for"
        assert code == command.code, said
        assert "Traceback" not in printed, said
        if noted := _LAST_LINE.search(printed):
            self._noted = noted[1]
        return self._named(session.side, printed)

    def _shell(self, session: Session, command: Command) -> str:
        text = command.text
        for word in re.findall(r"(?:^|&& |\| )(\w+)", text):
            assert word in _SHELL, f"line {session.line}: {text}"
            self._programs.find(word) if word != "cd" else None
        text = self._placed(session.side, text)
        if text.startswith("curl "):
            port = self._ports[CENTRAL]
            text = text.replace("curl ", f"curl --silent --show-error --connect-to {_ADDRESS}:127.0.0.1:{port} ", 1)
        done = subprocess.run(
            ["sh", "-c", text], cwd=self.home, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        assert done.returncode == command.code, f"line {session.line}: {text}\n{done.stdout}"
        return self._named(session.side, done.stdout)

    def _folders(self) -> set[Path]:
        """Return all folders but what is in stores."""
        found = set()
        for place, folders, _ in os.walk(self._root):
            folders[:] = [one for one in folders if Path(place, one).parts[-3:] != _STORE]
            found |= {Path(place, one) for one in folders}
        return found

    # -- the sides ---------------------------------------------------------------------------------------------

    def _folder(self, side: str) -> Path:
        return self._root / side.replace(" ", "-")

    def _placed(self, side: str, text: str) -> str:
        """Return a text with the paths that documents name as they are here."""

        def place(found: re.Match[str]) -> str:
            shared = found[0].startswith("/media")
            return f"{self._root if shared else self._folder(side)}{found[0]}"

        return _PLACE.sub(place, text)

    def _named(self, side: str, text: str) -> str:
        """Return a text with paths and addresses as the document names them."""
        for here, there in (
            (str(self.home), "/home/admin"),
            (str(self._folder(side)), ""),
            (str(self._root), ""),
            (self._world.registry.url, "https://quay.io"),
            (self._world.graph.url, _GRAPH),
            (self._world.signatures.url, _SIGNATURES),
        ):
            text = text.replace(here, there)
        return text

    def _configure(self, side: str, text: str) -> None:
        """Write a side's mirror.yaml: as documented, but for where the world is, and where the side listens."""
        self._texts[side] = text
        document = yaml.safe_load(self._placed(side, text))
        world = self._world.configuration()
        folder = self._folder(side)
        self._stock(folder / "etc/mirror")
        port = self._ports.setdefault(side, free_port())
        document["listen"] = f"127.0.0.1:{port}"
        document["metrics"] = {"listen": "none"}
        releases = {**({} if document.get("offline") else world["releases"]), **document.get("releases", {})}
        document["releases"] = self._reachable({**releases, "keyring": world["releases"]["keyring"]})
        for host, upstream in document.get("upstreams", {}).items():
            document["upstreams"][host] = self._reachable(upstream) or world["upstreams"][host]
        if document.get("upstreams"):
            document["ca"] = [*document.get("ca", []), *world["ca"]]
        (folder / CONFIGURATION[1:]).write_text(yaml.safe_dump(document, sort_keys=False))

    def _reachable(self, document: Mapping[str, Any]) -> Any:
        """Return values with mirror.example where it answers; it is started when somebody first asks for it."""
        text = yaml.safe_dump(dict(document))
        if _ADDRESS in text:
            if not answers(self._ports[CENTRAL]):
                self._serve(CENTRAL, ["serve"])
            text = text.replace(_ADDRESS, f"127.0.0.1:{self._ports[CENTRAL]}")
        return yaml.safe_load(text)

    def _stock(self, folder: Path) -> None:
        """Put the files that a mirror.yaml may name."""
        if folder.exists():
            return
        folder.mkdir(parents=True)
        (folder.parents[1] / "var/lib").mkdir(parents=True)
        issued = self._authority.issue_cert(*_NAMES)
        for name in ("ca.crt", "central-ca.crt"):
            self._authority.cert_pem.write_to_path(folder / name)
        for place, part in enumerate(issued.cert_chain_pems):
            part.write_to_path(folder / "tls.crt", append=place > 0)
        issued.private_key_pem.write_to_path(folder / "tls.key")
        shutil.copy(self._world.pull_secret, folder / "pull-secret.json")
        for name in ("tls.key", "pull-secret.json"):
            (folder / name).chmod(0o600)

    def _serve(self, side: str, words: list[str]) -> None:
        configuration = self._folder(side) / CONFIGURATION[1:]
        line = [sys.executable, "-m", "mirror", *words, "--config", str(configuration)]
        port = self._ports[side]
        self._stack.enter_context(
            running(Daemon(line, self._folder(side) / "serve.log", ready=lambda: answers(port), folder=ROOT))
        )


@contextmanager
def reading(root: Path, world: World, programs: Programs) -> Iterator[Reader]:
    """Give somebody who reads a document, with everything started stopped at the end."""
    with ExitStack() as stack:
        commands = stack.enter_context(Preloaded(root))
        yield Reader(root, world, programs, commands, stack)
