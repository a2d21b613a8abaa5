"""From nothing to a configuration that serves over TLS and has a user: every file that is missing, and no other."""

from __future__ import annotations

import datetime
import grp
import os
import secrets
import shlex
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import click

from mirror.admin.authority import Pair, make_authority, make_server, unnamed
from mirror.cli.options import DEFAULT_CONFIG
from mirror.cli.outcome import Outcome
from mirror.cli.secret_files import SecretFile
from mirror.config import Config, load
from mirror.config.addresses import UNIX, bracket, parse_host, split_listen
from mirror.config.values import SpellingError
from mirror.errors import ConfigurationError, Problem
from mirror.registry.htpasswd import hash_password

USER = "admin"
_STORE = Path("/var/lib/mirror")
_UNIT = Path("/etc/systemd/system"), Path("/usr/local/lib/systemd/system"), Path("/usr/lib/systemd/system")
_OPEN, _SECRET, _OURS = 0o644, 0o640, 0o600
# Under these every host reaches itself, for a first try.
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_CONFIGURATION = """\
# Written by `mirror init{options}`. docs/configuration.md has every key; `mirror check` says what is wrong.

listen: {listen}
{external}tls: {{certificate: tls.crt, key: tls.key}}    # clients must trust ca.crt, which signed it

# Logins for the upstreams, as console.redhat.com gives them or `podman login` writes them.
pull_secrets: [pull-secret.json]

# What is pulled through: HOST:5000/quay.io/org/app is quay.io/org/app.
upstreams:
  quay.io: {{}}
  registry.redhat.io: {{}}
  registry.connect.redhat.com: {{}}
  docker.io: {{}}
# offline: true                               # behind a gap: nobody is asked, what was loaded is served

clients:
  # Nothing is pulled without a login; the update graph and release signatures alone need none (releases.public).
  anonymous: none
  htpasswd: htpasswd                          # mirror user add NAME
  rules:                                      # robots need none: mirror token create NAME
    - {{who: {user}, repositories: ["**"], may: [pull, push, delete]}}
    # This rule has every name, so whoever else is to pull needs one, too. Another user:
    # - {{who: NAME, repositories: ["**"], may: [pull]}}
    # Whoever reaches this port, who then may pull what the pull secret can:
    # - {{who: anonymous, repositories: ["**"], may: [pull]}}

storage:
  path: {store}
"""
_EXTERNAL = "external_url: https://{address}:5000    # what clients call this registry\n"
_LISTEN, _LISTEN_V6 = "0.0.0.0:5000", '["0.0.0.0:5000", "[::]:5000"]'


def begin(path: Path, hosts: Sequence[str], store: Path | None, outcome: Outcome) -> None:
    """Make what is missing of the configuration at `path` and of what it names, and say so.

    `hosts` are names and addresses for the certificate, and the first one is how clients see this registry; none: the
    certificate is for those of this host. Raises ConfigurationError.
    """
    made = _Made(path, outcome)
    if store is None:
        store = _STORE if os.geteuid() == 0 else Path("store")
    elif not store.is_absolute():
        store = store.absolute()
    text = _CONFIGURATION.format(
        user=USER,
        store=_quoted(str(store)),
        options="".join(f" --host {host}" for host in hosts),
        listen=_LISTEN_V6 if any(":" in host for host in hosts) else _LISTEN,
        external=_EXTERNAL.format(address=bracket(hosts[0])) if hosts else "",
    )
    made.folder(path.parent)
    made.put(path, text.encode(), _OPEN)
    config = load(path)
    made.group = _group_of(config.storage.path)
    stays = config.tls.certificate is not None and config.tls.certificate.exists()
    certified = _certify(config, hosts or _own_names(), made)
    if hosts and str(path) in made.kept:
        outcome.warn(_other_url(path, config, hosts))
    if hosts and (stays or config.tls.certificate is None):
        outcome.warn(_uncertified(path, config.tls.certificate, hosts))
    password = _first_user(config, made)
    for secret in config.pull_secrets:
        made.put(secret, b'{"auths": {}}\n', _SECRET)
    outcome.facts |= {
        "configuration": str(path),
        "made": made.made,
        "kept": made.kept,
        "ca": str(certified) if certified else None,
        "user": {"name": USER, "password": password} if password else None,
        "next": _next(path, config),
    }
    _say(outcome)


class _Made:
    """What this run has made, and what was there before."""

    def __init__(self, configuration: Path, outcome: Outcome) -> None:
        self.group = _group_of(_STORE)
        self.made: list[str] = []
        self.kept: list[str] = []
        self._outcome = outcome
        self._configuration = configuration

    def folder(self, path: Path) -> None:
        """Make the folder of the configuration, closed to others."""
        try:
            if not path.is_dir():
                path.mkdir(mode=0o750)
                if os.geteuid() == 0:
                    os.chown(path, 0, self.group)
        except OSError as error:
            raise self._refused(path, error) from error

    def put(self, path: Path, content: bytes, mode: int) -> None:
        """Write a file that is not there; one that is stays as it is."""
        there = False

        def change(known: bytes | None) -> bytes | None:
            nonlocal there
            there = known is not None
            return None if there else content

        try:
            if not path.parent.is_dir():
                raise FileNotFoundError(0, "its folder does not exist", str(path.parent))
            if not path.exists() and not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
                raise PermissionError(0, "Permission denied", str(path))
        except OSError as error:
            raise self._refused(path, error) from error
        SecretFile(path, mode, self.group).edit(change)
        (self.kept if there else self.made).append(str(path))

    def keep(self, *paths: Path) -> None:
        """Note files that are there and stay."""
        self.kept += [str(path) for path in paths]

    def _refused(self, path: Path, error: OSError) -> ConfigurationError:
        remedy = (
            "run it as root: sudo mirror init" if os.geteuid() != 0 else "make the folder, or name another --config"
        )
        what = f"cannot be written ({error.strerror})"
        return ConfigurationError([Problem("file_unusable", what, str(path), remedy)])


def _certify(config: Config, hosts: Sequence[str], made: _Made) -> Path | None:
    """Make the server's certificate where it is missing, and an authority for it; return that one's certificate."""
    certificate, key = config.tls.certificate, config.tls.key
    if certificate is None or key is None:
        return None
    authority, authority_key = certificate.with_name("ca.crt"), certificate.with_name("ca.key")
    if _both(certificate, key):
        made.keep(certificate, key)
        return authority if authority.exists() else None
    now = datetime.datetime.now(datetime.UTC)
    if _both(authority, authority_key):
        made.keep(authority, authority_key)
    else:
        fresh = make_authority(hosts[0], now)
        made.put(authority_key, fresh.key, _OURS)
        made.put(authority, fresh.certificate, _OPEN)
    pair = Pair(SecretFile(authority, _OPEN).read() or b"", SecretFile(authority_key, _OURS).read() or b"")
    server = make_server(pair, list(dict.fromkeys((*hosts, *_LOOPBACK))), now)
    made.put(key, server.key, _SECRET)
    made.put(certificate, server.certificate, _OPEN)
    return authority


def _other_url(path: Path, config: Config, hosts: Sequence[str]) -> Iterator[str]:
    """Say what external_url would have to be in a configuration that stays, where it names none of the stated hosts."""
    url = urlsplit(config.external_url or "")
    if url.hostname in hosts:
        return
    ports = [split_listen(address)[1] for address in config.listen if not address.startswith(UNIX)]
    scheme = url.scheme or ("http" if config.tls.certificate is None else "https")
    port = url.port if config.external_url else next(iter(ports), None)
    right = f"{scheme}://{bracket(hosts[0])}" + (f":{port}" if port else "")
    lacks = f"its external_url names {url.hostname}" if url.hostname else "it has no external_url"
    yield f"{path} was kept, and {lacks}: if clients are to call this registry {hosts[0]}, write external_url: {right}"


def _uncertified(path: Path, certificate: Path | None, hosts: Sequence[str]) -> Iterator[str]:
    """Say which of the stated hosts no certificate names: one that stays, or none as the configuration wants none."""
    if certificate is None:
        line = "tls: {certificate: tls.crt, key: tls.key}"
        yield f"{path} was kept, and names no certificate: for one, add the line {line}, then run this again"
    elif lacking := unnamed(SecretFile(certificate, _OPEN).read() or b"", hosts):
        names = ", ".join(lacking)
        yield f"{certificate} was kept, and does not name {names}: move it and its key away, then run this again"


def _both(certificate: Path, key: Path) -> bool:
    """Tell whether a pair is there; half of one is an error."""
    if certificate.exists() != key.exists():
        there, missing = (certificate, key) if certificate.exists() else (key, certificate)
        what = f"{there} exists but {missing} does not, and a certificate is only of use with its own key"
        raise ConfigurationError([Problem("half_a_pair", what, "", f"restore {missing}, or move {there} away")])
    return certificate.exists()


def _first_user(config: Config, made: _Made) -> str | None:
    """Write the users' file where it is missing; return the password, which nobody can read from there."""
    path = config.clients.htpasswd
    if path is None:
        return None
    if path.exists():
        made.keep(path)
        return None
    password = secrets.token_urlsafe(15)
    made.put(path, USER.encode() + b":" + hash_password(password.encode()) + b"\n", _SECRET)
    return password


def _group_of(store: Path) -> int:
    """Return the group that reads secrets: the store's, else that of the service's user, else root's."""
    try:
        return store.stat().st_gid
    except OSError:
        pass
    try:
        return grp.getgrnam("mirror").gr_gid
    except KeyError:
        return 0


def _own_names() -> list[str]:
    """Return what this host is called, the whole name first."""
    names = []
    for name in (socket.getfqdn(), socket.gethostname()):
        try:
            names.append(parse_host(name))
        except SpellingError:
            continue
    return [name for name in dict.fromkeys(names) if not name.startswith("localhost")] or ["localhost"]


def _next(path: Path, config: Config) -> list[str]:
    """Return the three commands that lead on from here."""
    sudo = "sudo " if os.geteuid() == 0 else ""
    option = "" if str(path) == DEFAULT_CONFIG else f" --config {shlex.quote(str(path))}"
    secret = config.pull_secrets[0] if config.pull_secrets else path
    installed = not option and any((folder / "mirror.service").exists() for folder in _UNIT)
    start = f"{sudo}systemctl enable --now mirror" if installed else f"{sudo}mirror serve{option}"
    return [f"{sudo}vi {shlex.quote(str(secret))}", f"{sudo}mirror check --online{option}", start]


def _say(outcome: Outcome) -> None:
    facts = outcome.facts
    outcome.say(*(f"made  {path}" for path in facts["made"]), *(f"kept  {path}" for path in facts["kept"]))
    if facts["user"] and not outcome.as_json:
        # Even when quiet: it is kept nowhere, and this is the one time that it can be read.
        click.echo(f"\nThe user {USER} has the password  {facts['user']['password']}  which is shown only this once.")
    if facts["ca"]:
        outcome.say(f"Clients must trust {facts['ca']}; its key, ca.key, signs the next certificate: keep it safe.")
    outcome.say(
        "", "Next: put your pull secret in, see that it works, start:", *(f"  {line}" for line in facts["next"])
    )


def _quoted(text: str) -> str:
    """Return a path as a YAML scalar."""
    return text if all(letter.isalnum() or letter in "/._-" for letter in text) else f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
