"""Pull secrets: docker's config.json and dockercfg, podman's auth.json, OpenShift's; one form with variants."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yarl import URL

from mirror.config import DOCKER_HUB_SYNONYMS, UpstreamConfig
from mirror.errors import UpstreamLoginRefused
from mirror.upstream.credential import Credential, hosts_of
from mirror.upstream.secret import Secret
from mirror.upstream.watched import WatchedFile

_HUB = "docker.io"
_PORT = re.compile(r":[0-9]+$")
# What stands for the whole registry in a key: `https://index.docker.io/v1/` is docker's own.
_API = frozenset({"v1", "v2"})
_HELPERS = ("credHelpers", "credsStore")
_FIELDS = frozenset({"auth", "username", "password", "identitytoken", "registrytoken"})
# docker's word for "the password is an identity token" (docker-credential-helpers).
_TOKEN_USER = "<token>"  # noqa: S105 a marker, no secret


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why an entry gives no login, in words without a word of it.

    One that `counts` cannot be read, which is not "anonymous"; another holds nothing to log in with and is passed over.
    """

    what: str
    counts: bool


class PullSecret:
    """The logins of one file, by the keys `host[:port][/path]` that containers-auth.json(5) describes.

    `flaws` are the entries that give none, `helpers` the credential helpers that the file names.
    """

    def __init__(self, entries: Mapping[str, Credential | Flaw], helpers: Sequence[str] = ()) -> None:
        self.flaws = {key: entry for key, entry in entries.items() if isinstance(entry, Flaw)}
        self.helpers = tuple(helpers)
        self._order = tuple(entries)
        self._by_place: dict[tuple[str, str], tuple[str, Credential | Flaw]] = {}
        for key in sorted(entries, key=_closeness):
            entry = entries[key]
            if not isinstance(entry, Flaw) or entry.counts:
                self._by_place.setdefault(place_of(key), (key, entry))

    @classmethod
    def parse(cls, content: bytes) -> PullSecret:
        """Return the logins that `content` holds; raise ValueError if it is no pull secret."""
        document = json.loads(content, object_hook=_without_nulls)
        if not isinstance(document, dict):
            raise ValueError("no JSON object")  # noqa: TRY004 one error for all that is wrong with a file
        helpers = [name for name in _HELPERS if document.get(name)]
        auths = document.get("auths")
        if auths is None:
            # Either dockercfg, the entries without a wrapper, or credential helpers alone.
            auths = {} if document.keys() & set(_HELPERS) else document
            if not all(isinstance(entry, dict) for entry in auths.values()) and not any(map(_is_login, auths.values())):
                raise ValueError("no object of objects")
        if not isinstance(auths, dict):
            raise ValueError("no object under auths")  # noqa: TRY004 as above
        read = {key: _read(key, entry) for key, entry in auths.items()}
        return cls({key: entry for key, entry in read.items() if entry is not None}, helpers)

    def find(self, hosts: Iterable[str], repository: str) -> Credential | None:
        """Return the login for `repository` at a registry of these names: the longest key wins, a host alone is last.

        Raise UpstreamLoginRefused if the entry that counts cannot be read: that is not "anonymous".
        """
        names = [_canonical(host) for host in hosts]
        for path in _parents(repository):
            for name in names:
                if (found := self._by_place.get((name, path))) is None:
                    continue
                key, entry = found
                if isinstance(entry, Flaw):
                    what = f"the pull secret's entry {key} cannot be read: {entry.what}"
                    raise UpstreamLoginRefused(what, "write it anew: podman login does")
                return entry
        return None

    def misnamed(self, upstream: str, hosts: Sequence[str], asked: Container[str]) -> list[str]:
        """Return the keys that are named after an upstream, or its host without the port, and not by one of `hosts`.

        A key is no such one if its host is among `asked`, those of all endpoints: it is then found for one of them.
        """
        meant = {_canonical(upstream), *map(_without_port, hosts)}
        places = [(key, place_of(key)[0]) for key in self.keys]
        return [key for key, host in places if host not in asked and (host in meant or _without_port(host) in meant)]

    @property
    def keys(self) -> list[str]:
        """The keys that a login is found by, in the file's order."""
        found = {key for key, entry in self._by_place.values() if isinstance(entry, Credential)}
        return [key for key in self._order if key in found]


class PullSecrets:
    """Several files; the first that has a login wins. `asked` are the hosts of all endpoints, by `hosts_asked`."""

    def __init__(self, paths: Sequence[Path], asked: Container[str] = frozenset()) -> None:
        self._files = tuple(WatchedFile(path, PullSecret.parse) for path in paths)
        self._asked = asked

    async def find(self, hosts: Sequence[str], repository: str) -> Credential | None:
        """Return the login for `repository` at a registry of these names (host[:port]), or None.

        Raise UpstreamLoginRefused if a file that may hold it cannot be read.
        """
        for file in self._files:
            found = (await file.value()).find(hosts, repository)
            if found is not None:
                return _named(found, file.path)
        return None

    async def misnamed(self, upstream: str, hosts: Sequence[str]) -> str:
        """Return the first entry that `PullSecret.misnamed` finds, empty for none."""
        for file in self._files:
            for key in (await file.value()).misnamed(upstream, hosts, self._asked):
                return key
        return ""


class SharedLogin:
    """What pull secrets hold for one upstream."""

    def __init__(self, upstream: str, secrets: PullSecrets) -> None:
        self._upstream = upstream
        self._secrets = secrets
        self.find = secrets.find

    async def misnamed(self, hosts: Sequence[str]) -> str:
        """Return the first entry that `PullSecret.misnamed` finds, empty for none."""
        return await self._secrets.misnamed(self._upstream, hosts)


class OwnLogin:
    """An upstream's own `credentials`: a user name and a file with the password."""

    def __init__(self, username: str, password_file: Path) -> None:
        self._username = username
        self._file = WatchedFile(password_file, _parse_password)

    async def find(self, hosts: Sequence[str], repository: str) -> Credential | None:  # noqa: ARG002 it is the only one
        """Return the login; raise UpstreamLoginRefused if the file cannot be read or is empty."""
        password = await self._file.value()
        return Credential(self._username, password, source=f"credentials with {self._file.path}")

    async def misnamed(self, hosts: Sequence[str]) -> str:  # noqa: ARG002 it has no name
        """Return nothing: it is found whatever the endpoint is called."""
        return ""


def hosts_asked(upstreams: Iterable[UpstreamConfig]) -> frozenset[str]:
    """Return the hosts of all endpoints as keys have them, Docker Hub under its one name."""
    endpoints = [URL(endpoint) for upstream in upstreams for endpoint in upstream.endpoints]
    return frozenset(place_of(host)[0] for endpoint in endpoints for host in hosts_of(endpoint))


def _named(credential: Credential, path: Path) -> Credential:
    return Credential(
        credential.username,
        credential.password,
        credential.identity_token,
        credential.registry_token,
        f"{path}, entry {credential.source}",
    )


def place_of(key: str) -> tuple[str, str]:
    """Return the host[:port] and the path of a key, the path empty for the whole registry.

    As containers/image reads it: with a scheme the host alone counts, as in docker's `https://index.docker.io/v1/`,
    and all names of Docker Hub are one.
    """
    _, scheme, rest = key.rpartition("://")
    host, _, path = rest.partition("/")
    path = path.strip("/")
    return _canonical(host), "" if scheme or path in _API else path


def _without_port(host: str) -> str:
    return _PORT.sub("", host.lower())


def _canonical(host: str) -> str:
    host = host.lower()
    return _HUB if host in DOCKER_HUB_SYNONYMS else host


def _closeness(key: str) -> int:
    """Return how far a key is from the plain spelling of its place: of two for one place the plainer counts."""
    host, path = place_of(key)
    return 0 if key == (f"{host}/{path}" if path else host) else 2 if "://" in key else 1


def _without_nulls(members: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object without what is null: to Go, and so to docker, podman and the kubelet, that is absent."""
    return {name: value for name, value in members.items() if value is not None}


def _is_login(entry: Any) -> bool:
    return isinstance(entry, dict) and bool(entry.keys() & _FIELDS)


def _read(key: str, entry: Any) -> Credential | Flaw | None:
    """Return what one entry says; None for one that says nothing (`{}` marks a credential helper)."""
    if not isinstance(entry, dict):
        return Flaw("it is not an object", counts=True)
    if not entry:
        return None
    for name in sorted(_FIELDS):
        if not isinstance(entry.get(name, ""), str):
            return Flaw(f"its {name} is not a text", counts=True)
    username, password = entry.get("username", ""), entry.get("password", "")
    if encoded := entry.get("auth", ""):
        try:
            decoded = base64.b64decode(encoded.replace("\n", ""), validate=True).decode()
        except (binascii.Error, ValueError):
            return Flaw("its auth is not the base64 of a text", counts=True)
        if ":" not in decoded:
            # containers/image passes over it together with its identity token.
            return Flaw("its auth is not the base64 of USER:PASSWORD", counts=False)
        username, _, password = decoded.partition(":")
    password = password.rstrip("\0")
    identity, registry = entry.get("identitytoken", ""), entry.get("registrytoken", "")
    if username == _TOKEN_USER and not identity:
        username, password, identity = "", "", password
    if identity or registry or (username and password):
        return Credential(username, Secret(password), Secret(identity), Secret(registry), key)
    return Flaw(_lacking(username, password), counts=False)


def _lacking(username: str, password: str) -> str:
    if username:
        return "it has a user name and no password"
    return "it has a password and no user name" if password else "it has neither auth nor a user name and password"


def _parse_password(content: bytes) -> Secret:
    text = content.decode().removesuffix("\n").removesuffix("\r")
    if not text:
        raise ValueError("empty")
    return Secret(text)


def _parents(repository: str) -> Iterator[str]:
    """Yield the repository, the paths above it, and the empty one."""
    path = repository
    while path:
        yield path
        path = path.rpartition("/")[0]
    yield ""
