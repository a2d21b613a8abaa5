"""Pull secrets: docker's config.json and dockercfg, podman's auth.json, OpenShift's; one form with variants."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mirror.errors import UpstreamLoginRefused
from mirror.upstream.credential import Credential
from mirror.upstream.secret import Secret
from mirror.upstream.watched import WatchedFile

_HUB = ("docker.io", "registry-1.docker.io", "index.docker.io")
# docker's word for "the password is an identity token" (docker-credential-helpers).
_TOKEN_USER = "<token>"  # noqa: S105 a marker, no secret


class PullSecret:
    """The logins of one file, by the keys `host[:port][/path]` that containers-auth.json(5) describes."""

    def __init__(self, entries: Mapping[str, Credential | None]) -> None:
        """Take the entries by key; None stands for one that cannot be read."""
        self._exact = dict(entries)
        self._by_host: dict[str, Credential | None] = {}
        for key, credential in entries.items():
            self._by_host.setdefault(_normal(key), credential)

    @classmethod
    def parse(cls, content: bytes) -> PullSecret:
        """Return the logins that `content` holds; raise ValueError if it is no pull secret."""
        document = json.loads(content)
        if not isinstance(document, dict):
            raise ValueError("no JSON object")  # noqa: TRY004 one error for all that is wrong with a file
        auths = document.get("auths")
        if auths is None and not document.keys() & {"auths", "credHelpers", "credsStore"}:
            auths = document  # dockercfg: the entries without a wrapper
        if auths is None:
            auths = {}  # credential helpers alone
        if not isinstance(auths, dict) or not all(isinstance(entry, dict) for entry in auths.values()):
            raise ValueError("no object of objects under auths")
        entries: dict[str, Credential | None] = {}
        for key, entry in auths.items():
            try:
                credential = _credential(key, entry)
            except ValueError:
                entries[key] = None
                continue
            if credential is not None:
                entries[key] = credential
        return cls(entries)

    def find(self, host: str, repository: str) -> Credential | None:
        """Return the login for `repository` at `host`: the longest key wins, a host alone comes last.

        Raise UpstreamLoginRefused if the entry that counts cannot be read: that is not "anonymous".
        """
        hosts = _HUB if host in _HUB else (host,)
        for path in _parents(repository):
            for name in hosts:
                if (key := f"{name}/{path}") in self._exact:
                    return _readable(key, self._exact[key])
        for entries in (self._exact, self._by_host):
            for name in hosts:
                if name in entries:
                    return _readable(name, entries[name])
        return None


class PullSecrets:
    """Several files; the first that has a login wins."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = tuple(WatchedFile(path, PullSecret.parse) for path in paths)

    async def find(self, host: str, repository: str) -> Credential | None:
        """Return the login for `repository` at `host` (host[:port]), or None.

        Raise UpstreamLoginRefused if a file that may hold it cannot be read.
        """
        for file in self._files:
            found = (await file.value()).find(host, repository)
            if found is not None:
                return _named(found, file.path)
        return None


class OwnLogin:
    """An upstream's own `credentials`: a user name and a file with the password."""

    def __init__(self, username: str, password_file: Path) -> None:
        self._username = username
        self._file = WatchedFile(password_file, _parse_password)

    async def find(self, host: str, repository: str) -> Credential | None:  # noqa: ARG002 the same for every repository
        """Return the login; raise UpstreamLoginRefused if the file cannot be read or is empty."""
        password = await self._file.value()
        return Credential(self._username, password, source=f"credentials with {self._file.path}")


def _readable(key: str, credential: Credential | None) -> Credential:
    if credential is None:
        raise UpstreamLoginRefused(f"the pull secret's entry {key} cannot be read", "write it anew: podman login does")
    return credential


def _named(credential: Credential, path: Path) -> Credential:
    return Credential(
        credential.username,
        credential.password,
        credential.identity_token,
        credential.registry_token,
        f"{path}, entry {credential.source}",
    )


def _credential(key: str, entry: Mapping[str, Any]) -> Credential | None:
    """Return what one entry says; None for one that says nothing (`{}` marks a credential helper)."""
    username, password = _text(entry, "username"), _text(entry, "password")
    encoded = _text(entry, "auth")
    if encoded:
        try:
            decoded = base64.b64decode(encoded.replace("\n", ""), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise ValueError("auth is no base64 of a text") from None
        if ":" not in decoded:
            return None  # containers/image passes over it together with its identity token
        username, _, password = decoded.partition(":")
    password = password.rstrip("\0")
    identity, registry = _text(entry, "identitytoken"), _text(entry, "registrytoken")
    if username == _TOKEN_USER and not identity:
        username, password, identity = "", "", password
    if not (identity or registry or (username and password)):
        return None
    return Credential(username, Secret(password), Secret(identity), Secret(registry), key)


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")  # noqa: TRY004 one error for all that is wrong with a file
    return value


def _parse_password(content: bytes) -> Secret:
    text = content.decode().removesuffix("\n").removesuffix("\r")
    if not text:
        raise ValueError("empty")
    return Secret(text)


def _parents(repository: str) -> Iterator[str]:
    path = repository
    while path:
        yield path
        path = path.rpartition("/")[0]


def _normal(key: str) -> str:
    """Return the host of a key; docker writes `https://index.docker.io/v1/`."""
    for scheme in ("https://", "http://"):
        if key.startswith(scheme):
            return key.removeprefix(scheme).partition("/")[0]
    return key
