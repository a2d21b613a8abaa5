"""As whom each upstream is asked: pull secrets that can be read, entries that nobody uses, logins that are missing."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from yarl import URL

from mirror.admin.check.files import read_bounded
from mirror.admin.check.report import Finding, Severity
from mirror.config import Config, UpstreamConfig
from mirror.errors import UpstreamLoginRefused
from mirror.upstream.credential import hosts_of
from mirror.upstream.pull_secret import PullSecret, hosts_asked, place_of

# Registries that answer nobody without a login (access.redhat.com/RegistryAuthentication).
_LOGIN_NEEDED = frozenset({"registry.redhat.io", "registry.connect.redhat.com"})
# An OpenShift pull secret holds this one for telemetry; no registry answers there.
_NO_REGISTRY = frozenset({"cloud.openshift.com"})


@dataclass(frozen=True, slots=True)
class SecretFile:
    """One pull secret: its file and what is in it."""

    path: Path
    where: str
    secret: PullSecret


def read_pull_secrets(config: Config) -> tuple[list[SecretFile], list[Finding]]:
    """Return each pull secret, and what is wrong inside them; unreadable files are not told again."""
    secrets: list[SecretFile] = []
    findings: list[Finding] = []
    for index, path in enumerate(config.pull_secrets):
        content = read_bounded(path)
        if content is None:
            continue
        where = config.source.where("pull_secrets", index)
        try:
            secret = PullSecret.parse(content)
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
        secrets.append(SecretFile(path, where, secret))
        findings += _find_in_secret(secrets[-1], hosts_asked(config.upstreams.values()))
    return secrets, findings


def find_in_logins(config: Config, secrets: Sequence[SecretFile]) -> Iterator[Finding]:
    """Yield entries of pull secrets that no upstream uses, and upstreams that need a login and have none."""
    hosts = hosts_asked(config.upstreams.values()) | _NO_REGISTRY
    for file in secrets:
        misnamed = dict(_misnamed(config, file))
        for key, upstream in misnamed.items():
            reached = dict.fromkeys(hosts_of(URL(endpoint))[0] for endpoint in upstream.endpoints)
            what = (
                f"{file.path} has an entry for {key}, but upstream {upstream.name} is reached at {', '.join(reached)}"
            )
            named = " or ".join("/".join(filter(None, (host, place_of(key)[1]))) for host in reached)
            yield Finding(
                "information", "pull_secret_misnamed", what, file.where, f"if it is for that, name it {named}"
            )
        unused = [key for key in file.secret.keys if place_of(key)[0] not in hosts and key not in misnamed]
        if unused:
            what = f"no upstream uses the entries {', '.join(unused)} of {file.path}"
            remedy = "add them under `upstreams` if they are to be pulled through"
            yield Finding("information", "pull_secret_unused", what, file.where, remedy)
    for name, upstream in config.upstreams.items():
        needing = _LOGIN_NEEDED & hosts_asked([upstream])
        if needing and not config.offline and not describe_login(config, upstream, secrets):
            what = f"{', '.join(sorted(needing))} answers nobody without a login, and there is none for it"
            remedy = "name a pull secret (console.redhat.com/openshift/install/pull-secret) under `pull_secrets`"
            yield Finding("warning", "login_missing", what, config.source.where("upstreams", name), remedy)


def _misnamed(config: Config, file: SecretFile) -> Iterator[tuple[str, UpstreamConfig]]:
    """Yield the entries that are meant for an upstream, and that no pull finds."""
    asked = hosts_asked(config.upstreams.values())
    for upstream in config.upstreams.values():
        if upstream.credentials is None:
            hosts = [name for endpoint in upstream.endpoints for name in hosts_of(URL(endpoint))]
            for key in file.secret.misnamed(upstream.name, hosts, asked):
                yield key, upstream


def describe_login(config: Config, upstream: UpstreamConfig, secrets: Sequence[SecretFile]) -> str:
    """Return in words as whom an upstream is asked; empty for nobody."""
    ways: list[str] = []
    if upstream.client_certificate is not None:
        ways.append(f"the certificate {upstream.client_certificate}")
    if upstream.credentials is not None:
        ways.append(f"{upstream.credentials.username} with {upstream.credentials.password_file}")
    elif config.pull_secrets:
        used = [(file.path, _used(file, secrets, upstream)) for file in secrets]
        ways += [f"{', '.join(keys)} of {path}" for path, keys in used if keys]
    return " and ".join(ways)


def _used(file: SecretFile, secrets: Sequence[SecretFile], upstream: UpstreamConfig) -> list[str]:
    """Return the keys of one file that pulls from an upstream find a login by: each is looked for as a pull does."""
    hosts, names = hosts_asked([upstream]), [hosts_of(URL(endpoint)) for endpoint in upstream.endpoints]
    places = [(key, *place_of(key)) for key in file.secret.keys]
    return [
        key
        for key, host, path in places
        if host in hosts and any(_found(secrets, one, path) == (file, key) for one in names)
    ]


def _found(secrets: Sequence[SecretFile], names: Sequence[str], repository: str) -> tuple[SecretFile, str] | None:
    for file in secrets:
        try:
            found = file.secret.find(names, repository)
        except UpstreamLoginRefused:
            return None
        if found is not None:
            return file, found.source
    return None


def _find_in_secret(file: SecretFile, asked: Collection[str]) -> Iterator[Finding]:
    if file.secret.helpers:
        what = f"{file.path} names credential helpers ({', '.join(file.secret.helpers)}), which are not run here"
        remedy = "write the login itself: podman login --authfile"
        yield Finding("warning", "pull_secret_helpers", what, file.where, remedy)
    for key, flaw in file.secret.flaws.items():
        host = place_of(key)[0]
        severity: Severity = "error" if host in asked else "warning"
        what = f"the entry {key} of {file.path} {'cannot be read' if flaw.counts else 'holds no login'}: {flaw.what}"
        remedy = f"podman login --authfile {shlex.quote(str(file.path))} {host}"
        yield Finding(severity, "pull_secret_entry", what, file.where, remedy)
