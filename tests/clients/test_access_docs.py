"""docs/access.md as its readers follow it: each command runs, prints what is shown, and the clients get in."""

from __future__ import annotations

import logging
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import structlog
import yaml
from click.testing import CliRunner

from mirror import logs
from mirror.cli.access import COMMANDS
from mirror.config.access import Clients as ClientsSection
from mirror.store.tokens import Tokens
from tests.clients.conftest import Authority
from tests.clients.test_access import Guarded
from tests.offline.documented import Session, WrittenFile, normalised, read, shows
from tests.tools import images
from tests.tools.clients import ClientError, Podman, Skopeo, run
from tests.tools.programs import ROOT, Programs

pytestmark = pytest.mark.clients

PAGE = (ROOT / "docs" / "access.md").read_text()
STEPS = read(PAGE)
FILES = [step for step in STEPS if isinstance(step, WrittenFile)]
MIRROR = click.Group("mirror", {command.name: command for command in COMMANDS})
PASSWORDS = {"alice.txt": "correct horse", "bob.txt": "battery staple"}
# What differs from run to run beside what every page has.
VARYING = (
    (re.compile(r"mrt_[0-9a-f]{16}_(?:[A-Za-z0-9_-]{43}|…)"), "mrt_SECRET"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "ID"),
    (re.compile(r'"auth": "[A-Za-z0-9+/=]+…?"'), '"auth": "AUTH"'),
    (re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}"), "TIME"),
)


def plain(text: str) -> str:
    for pattern, word in VARYING:
        text = pattern.sub(word, text)
    return "\n".join(normalised(text))


def sessions(side: str) -> list[Session]:
    return [step for step in STEPS if isinstance(step, Session) and step.side == side]


def test_every_block_is_one_that_a_test_here_follows() -> None:
    sides = {step.side for step in STEPS if isinstance(step, Session)}
    assert sides == {"mirror", "client", "ca", "node"}
    assert [file.path for file in FILES] == ["/etc/mirror/mirror.yaml"] * 2


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"line {file.line}")
def test_the_configurations_are_ones(file: WrittenFile) -> None:
    document = yaml.safe_load(file.text)
    clients = ClientsSection.model_validate(document["clients"])
    assert clients.rules


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Commands set the logs of their process up, which is this one here."""
    yield
    structlog.reset_defaults()
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if type(handler).__module__ != logs.__name__]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the first configuration and the passwords."""
    document: dict[str, Any] = yaml.safe_load(FILES[0].text)
    # The keys that commands do not need are left out as long as the service does not know them.
    del document["clients"], document["tls"]
    document["storage"] = {"path": str(tmp_path / "store")}
    (tmp_path / "mirror.yaml").write_text(yaml.safe_dump(document))
    for name, password in PASSWORDS.items():
        (tmp_path / name).write_text(password + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIRROR_CONFIG", str(tmp_path / "mirror.yaml"))
    return tmp_path


def follow(session: Session, site: Path) -> None:
    printed = ""
    for command in session.commands:
        words = command.words
        assert words.pop(0) == "mirror"
        if words[0] == "user":
            words += ["--file", str(site / "htpasswd")]
        done = CliRunner().invoke(MIRROR, words)
        assert done.exit_code == command.code, (command.text, done.output, done.exception)
        printed += done.output
    if session.output is not None:
        assert shows(plain(session.output), plain(printed)), f"line {session.line}:\n{printed}"


@pytest.fixture(scope="module")
def app() -> images.Manifest:
    return images.image([images.layer(images.tree({"etc/motd": b"hello"}))])


def test_what_is_run_on_the_mirror(site: Path) -> None:
    for session in sessions("mirror"):
        follow(session, site)
    (robot,) = Tokens(site / "store" / "tokens").all()
    assert robot.user == "robot+node"
    assert (site / "pull-secret.json").exists()


def test_clients_log_in_with_what_was_made(site: Path, app: images.Manifest, programs: Programs, short: Path) -> None:
    for session in sessions("mirror")[:3]:
        follow(session, site)
    clients = ClientsSection.model_validate(yaml.safe_load(FILES[0].text)["clients"])
    with Guarded(site / "guarded", app, None, rules=clients.rules, anonymous=clients.anonymous) as registry:
        registry.bed.path.write_bytes((site / "htpasswd").read_bytes())
        registry.bed.monotonic += 2
        shutil.copytree(site / "store" / "tokens", site / "guarded" / "bed" / "tokens", dirs_exist_ok=True)
        podman = Podman(programs, short / "podman")
        podman.environment["REGISTRY_AUTH_FILE"] = str(short / "auth.json")
        (login, copy) = sessions("client")[0].commands
        logging_in = ["sh", "-c", told(login.text, registry, programs, "podman login", "--tls-verify=false")]
        options = ("--src-tls-verify=false", "--policy", str(podman.policy))
        pulling = ["sh", "-c", told(copy.text, registry, programs, "skopeo copy", *options)]
        assert "Login Succeeded" in run(logging_in, podman.environment)
        run(
            pulling,
            podman.environment,
        )
        assert (site / "web" / "manifest.json").read_bytes() == app.body
        secret = (site / "pull-secret.json").read_text().replace("mirror.lab:5000", registry.address)
        (short / "auth.json").write_text(secret)
        shutil.rmtree(site / "web")
        run(
            pulling,
            podman.environment,
        )
        (short / "auth.json").unlink()
        with pytest.raises(ClientError):
            run(
                pulling,
                podman.environment,
            )


def told(text: str, registry: Guarded, programs: Programs, start: str, *options: str) -> str:
    """Return a documented command line for this registry and this machine."""
    assert text.startswith(start), text
    program, verb = start.split()
    text = text.replace("mirror.lab:5000", registry.address)
    return text.replace(start, shlex.join([programs.find(program), verb, *options]), 1)


def test_certificates_made_as_the_page_says(
    site: Path, app: images.Manifest, programs: Programs, short: Path, authority: Authority
) -> None:
    programs.find("openssl")
    (making,) = sessions("ca")
    for command in making.commands:
        subprocess.run(["sh", "-c", command.text], cwd=site, check=True, capture_output=True)
    clients = ClientsSection.model_validate(yaml.safe_load(FILES[1].text)["clients"])
    tls = (authority.certificate, authority.key, site / "people.crt")
    (site / "certs").mkdir()
    with Guarded(site / "guarded", app, tls, rules=clients.rules, anonymous=clients.anonymous, users=None) as registry:
        for name in ("client.cert", "client.key"):
            shutil.copy(site / name, site / "certs" / name)
        shutil.copy(authority.ca, site / "certs" / "ca.crt")
        skopeo = Skopeo(programs, short / "skopeo", None, authority.ca)
        (command,) = sessions("node")[0].commands
        text = told(command.text, registry, programs, "skopeo copy", "--policy", str(skopeo.policy))
        text = text.replace("app:1", "app:v1")
        run(["sh", "-c", text], skopeo.environment)
        assert (site / "app" / "manifest.json").read_bytes() == app.body
        (site / "certs" / "client.cert").unlink()
        (site / "certs" / "client.key").unlink()
        with pytest.raises(ClientError):
            run(["sh", "-c", text], skopeo.environment)
