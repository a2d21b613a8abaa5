"""As whom each upstream is asked: pull secrets that can be read, entries that nobody uses, logins that are missing."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mirror.admin.check.files import read_bounded
from mirror.admin.check.report import Finding, Severity
from mirror.config import DOCKER_HUB_SYNONYMS, Config, UpstreamConfig
from mirror.errors import UpstreamLoginRefused
from mirror.upstream.pull_secret import PullSecret

# Registries that answer nobody without a login (access.redhat.com/RegistryAuthentication).
_LOGIN_NEEDED = frozenset({"registry.redhat.io", "registry.connect.redhat.com"})
# An OpenShift pull secret holds this one for telemetry; no registry answers there.
_NO_REGISTRY = frozenset({"cloud.openshift.com"})


@dataclass(frozen=True, slots=True)
class SecretFile:
    """One pull secret: its file and the keys, `host[:port][/path]`, under which it has a login."""

    path: Path
    where: str
    keys: tuple[str, ...]


def read_pull_secrets(config: Config) -> tuple[list[SecretFile], list[Finding]]:
    """Return the keys of each pull secret, and what is wrong inside them; unreadable files are not told again."""
    secrets: list[SecretFile] = []
    findings: list[Finding] = []
    asked = _asked_hosts(config)
    for index, path in enumerate(config.pull_secrets):
        content = read_bounded(path)
        if content is None:
            continue
        where = config.source.where("pull_secrets", index)
        try:
            document = json.loads(content)
            PullSecret.parse(content)
        except json.JSONDecodeError as error:
            what = f"{path} is not JSON: line {error.lineno}, column {error.colno}"
            findings.append(Finding("error", "pull_secret_invalid", what, where, "download or write it again"))
            continue
        except (ValueError, RecursionError):
            # The parser's words may quote the secret.
            what = f"{path} is not a pull secret"
            remedy = 'it holds {"auths": {"HOST": {"auth": "BASE64 OF USER:PASSWORD"}}}; `podman login` writes one'
            findings.append(Finding("error", "pull_secret_invalid", what, where, remedy))
            continue
        findings += _find_in_document(document, path, where)
        keys: list[str] = []
        for key, entry in _entries(document):
            problem = _find_in_entry(key, entry)
            if not problem:
                keys.append(key)
                continue
            severity: Severity = "error" if _host(key) in asked else "warning"
            what = f"the entry {key} of {path} {problem}"
            remedy = f"podman login --authfile {shlex.quote(str(path))} {_host(key)}"
            findings.append(Finding(severity, "pull_secret_entry", what, where, remedy))
        secrets.append(SecretFile(path, where, tuple(keys)))
    return secrets, findings


def find_in_logins(config: Config, secrets: Sequence[SecretFile]) -> Iterator[Finding]:
    """Yield entries of pull secrets that no upstream uses, and upstreams that need a login and have none."""
    hosts = _asked_hosts(config)
    for secret in secrets:
        unused = [key for key in secret.keys if _host(key) not in hosts and _host(key) not in _NO_REGISTRY]
        if unused:
            what = f"no upstream uses the entries {', '.join(unused)} of {secret.path}"
            remedy = "add them under `upstreams` if they are to be pulled through"
            yield Finding("information", "pull_secret_unused", what, secret.where, remedy)
    for name, upstream in config.upstreams.items():
        needing = _LOGIN_NEEDED & hosts_of(upstream)
        if needing and not config.offline and not describe_login(config, upstream, secrets):
            what = f"{', '.join(sorted(needing))} answers nobody without a login, and there is none for it"
            remedy = "name a pull secret (console.redhat.com/openshift/install/pull-secret) under `pull_secrets`"
            yield Finding("warning", "login_missing", what, config.source.where("upstreams", name), remedy)


def describe_login(config: Config, upstream: UpstreamConfig, secrets: Sequence[SecretFile]) -> str:
    """Return in words as whom an upstream is asked; empty for nobody."""
    ways: list[str] = []
    if upstream.client_certificate is not None:
        ways.append(f"the certificate {upstream.client_certificate}")
    if upstream.credentials is not None:
        ways.append(f"{upstream.credentials.username} with {upstream.credentials.password_file}")
    elif config.pull_secrets:
        hosts = hosts_of(upstream)
        used = [(secret.path, [key for key in secret.keys if _host(key) in hosts]) for secret in secrets]
        ways += [f"{', '.join(keys)} of {path}" for path, keys in used if keys]
    return " and ".join(ways)


def hosts_of(upstream: UpstreamConfig) -> set[str]:
    """Return the host[:port] of each endpoint, Docker Hub under its one name."""
    return {_canonical(urlsplit(endpoint).netloc) for endpoint in upstream.endpoints}


def _find_in_document(document: Mapping[str, Any], path: Path, where: str) -> Iterator[Finding]:
    helpers = [name for name in ("credHelpers", "credsStore") if document.get(name)]
    if helpers:
        what = f"{path} names credential helpers ({', '.join(helpers)}), which are not run here"
        yield Finding("warning", "pull_secret_helpers", what, where, "write the login itself: podman login --authfile")


def _entries(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the entries by key; an empty one only marks a credential helper and is passed over."""
    auths = document.get("auths")
    if auths is None and not document.keys() & {"credHelpers", "credsStore"}:
        auths = document
    yield from ((key, entry) for key, entry in (auths or {}).items() if entry)


def _find_in_entry(key: str, entry: Any) -> str:
    """Return what is wrong with one entry, without a word of it; empty for nothing. It is read as a pull reads it."""
    host, _, path = (key.partition("://")[2] or key).partition("/")
    alone = json.dumps({"auths": {key: entry}}).encode()
    try:
        found = PullSecret.parse(alone).find(host, "" if "://" in key else path)
    except UpstreamLoginRefused:
        return "cannot be read: its auth is not the base64 of a text"
    return "" if found is not None else "holds no login: its auth is not the base64 of USER:PASSWORD"


def _asked_hosts(config: Config) -> set[str]:
    return {host for upstream in config.upstreams.values() for host in hosts_of(upstream)}


def _host(key: str) -> str:
    """Return the host[:port] of a key (containers-auth.json(5)), Docker Hub under its one name."""
    without_scheme = key.partition("://")[2] or key
    return _canonical(without_scheme.partition("/")[0])


def _canonical(host: str) -> str:
    return "docker.io" if host.lower() in DOCKER_HUB_SYNONYMS else host.lower()
