"""The site that resources are for: under which addresses clients reach us, and what of the configuration they feel."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mirror.config import DOCKER_HUB_SYNONYMS, Config, is_loopback, split_listen
from mirror.config.access import Readers, anybody_enters
from mirror.config.addresses import UNIX, parse_host_and_port
from mirror.config.values import SpellingError
from mirror.errors import ConfigurationError, Problem

HUB = "docker.io"
PROBE = "library/probe"  # stands for whatever is pulled through a host that no plan speaks of
_HUB_URL = "https://registry-1.docker.io"
# What the API takes as `mirrors` (openshift/api, config/v1, ImageMirror): letters, digits and dashes, no IPv6 address.
_API_HOST = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*(?::[0-9]+)?"
)
_PORTS = {True: 443, False: 80}  # by whether TLS is spoken
_CA_LIMIT = 1024 * 1024  # bytes, what a ConfigMap holds


@dataclass(frozen=True, slots=True)
class Registry:
    """An address of ours as clients write it: `host[:port]`, IPv6 in brackets; `secure` is false for plain http."""

    address: str
    secure: bool = True

    @classmethod
    def parse(cls, text: str, port: int | None = None) -> Registry:
        """Return what `--registry` says, `[http://]HOST[:PORT]`; raise ConfigurationError.

        `port` is the one that is proposed where one is missing; None: that of the scheme.
        """
        scheme, separator, rest = text.rpartition("://")
        try:
            if separator and scheme not in ("http", "https"):
                raise SpellingError(f"'{text[:160]}' is neither http nor https")
            if "@" in rest:
                raise SpellingError("a registry's address holds no user name")
            address = parse_host_and_port(rest.rstrip("/"))
            if not (set(".:[") & set(address) or address == "localhost"):
                # The first component of an image's name is a host only with a dot or a port (distribution's grammar).
                named = cls(f"{address}:{port or _PORTS[scheme != 'http']}", scheme != "http")
                raise SpellingError(f"clients would take '{address}' for a repository", f"write {named.option}")
        except SpellingError as error:
            remedy = error.remedy or "write --registry [http://]HOST:PORT, as nodes reach this registry"
            raise ConfigurationError([Problem("registry_invalid", error.what, "--registry", remedy)]) from None
        return cls(address, scheme != "http")

    @property
    def url(self) -> str:
        """Its base URL, without a slash at its end."""
        return f"{'https' if self.secure else 'http'}://{self.address}"

    @property
    def host(self) -> str:
        """The name or address alone, IPv6 without brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port that clients ask: without one in the address that of the scheme."""
        return urlsplit(self.url).port or _PORTS[self.secure]

    @property
    def option(self) -> str:
        """It as it is given on the command line."""
        return f"--registry {self.address if self.secure else self.url}"

    @property
    def config_map_key(self) -> str:
        """The key of its CA in a ConfigMap for image.config/cluster: two dots stand for the colon before the port."""
        return self.address.replace(":", "..")

    @property
    def in_api(self) -> bool:
        """Whether OpenShift's API takes it as a mirror."""
        return _API_HOST.fullmatch(self.address) is not None


@dataclass(frozen=True)
class Site:
    """What resources are made for.

    `registries` are tried in this order. `ca` is what `--ca` named and `certificate` what `tls.certificate` names, both
    PEM; only certificates are taken out of them. Raises ConfigurationError for a registry that is none and for a CA
    without certificates.
    """

    addresses: tuple[str, ...]
    config: Config
    ca: bytes | None = None
    never_contact_source: bool = False
    certificate: bytes | None = None
    registries: tuple[Registry, ...] = field(init=False)
    bundle: str = field(init=False)

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        registries: list[Registry] = []
        for text in self.addresses:
            try:
                registries.append(Registry.parse(text, self.port))
            except ConfigurationError as error:
                problems += error.problems
        if len({registry.address for registry in registries}) < len(registries):
            problems.append(Problem("registry_invalid", "a registry is given twice", "--registry", "leave one out"))
        if not self.addresses:
            what = "no registry is given"
            remedy = "say where nodes reach this registry: --registry mirror.example:5000"
            problems.append(Problem("registry_invalid", what, "--registry", remedy))
        bundle = ""
        try:
            bundle = _normal(self.ca) if self.ca is not None else ""
        except ValueError:
            what = "the file of --ca holds no certificate"
            problems.append(Problem("ca_invalid", what, "--ca", "give the CA's certificate as PEM"))
        if problems:
            raise ConfigurationError(problems)
        object.__setattr__(self, "registries", tuple(registries))
        object.__setattr__(self, "bundle", bundle)

    @property
    def serves_tls(self) -> bool:
        """Whether `serve` itself speaks TLS."""
        return self.config.tls.certificate is not None

    @property
    def port(self) -> int | None:
        """The port of `listen` that clients ask; None where that says none, so that something in front has it."""
        asked = [address for address in self.config.listen if not is_loopback(address)] or self.config.listen
        return next((port for port in map(_port, asked) if port), None)

    def listens_at(self, registry: Registry) -> bool:
        """Tell whether `serve` itself may be what answers at the port of a registry."""
        return registry.port in self._ports or not all(self._ports)

    @property
    def _ports(self) -> set[int]:
        return set(map(_port, self.config.listen))

    @property
    def external(self) -> Registry | None:
        """Where clients see this registry, whatever stands in front of it, as far as external_url says so."""
        scheme, _, address = (self.config.external_url or "").partition("://")
        return Registry(address, scheme == "https") if address else None

    def is_external(self, registry: Registry) -> bool:
        """Tell whether external_url names a registry."""
        return self.external is not None and _reached(self.external) == _reached(registry)

    def meant(self, registry: Registry, *, secure: bool) -> Registry:
        """Return what is meant by a registry as which clients would not find this one: its host, where that answers."""
        if self.external is not None and self.external.host == registry.host:
            return self.external
        if self.port is None:
            return Registry(registry.address, secure)
        port = registry.port if registry.port in self._ports else self.port
        return Registry(f"{registry.address.removesuffix(f':{registry.port}')}:{port}", secure)

    @property
    def insecure(self) -> list[str]:
        """Our addresses that OpenShift's nodes must be told are of plain http."""
        return [registry.address for registry in self.registries if registry.in_api and not registry.secure]

    @property
    def needs_login(self) -> bool:
        """Whether clients must log in to pull what no narrower rule singles out, be it of one upstream alone."""
        readers = Readers(self.config.clients.anonymous, self.config.clients.rules)
        # Behind a gap no upstream need be configured: sets have the names of hosts all the same.
        return not all(readers.anybody(f"{key}/{PROBE}") for key in self.config.upstreams or (HUB,))

    @property
    def gives_graph(self) -> bool:
        """Whether clusters, which have no login for it, may ask us for updates."""
        clients = self.config.clients
        return self.config.releases.public or anybody_enters(clients.anonymous, clients.rules)

    @cached_property
    def hosts(self) -> dict[str, str]:
        """Each host that image names begin with, and the key of the upstream that answers for it."""
        found: dict[str, str] = {key: key for key in self.config.upstreams if _is_host(key)}
        claims: dict[str, set[str]] = {}
        for key, upstream in self.config.upstreams.items():
            if key in found:
                continue  # images are named by the key; where it is fetched from is nobody else's business
            for endpoint in upstream.endpoints:
                parts = urlsplit(endpoint)
                # A path is no part of image names: only the whole host speaks for an upstream.
                if not parts.path and _is_host(parts.netloc):
                    host = HUB if parts.netloc in DOCKER_HUB_SYNONYMS else parts.netloc
                    claims.setdefault(host, set()).add(key)
        for host, keys in claims.items():
            if len(keys) == 1 and host not in found:
                found[host] = keys.pop()
        return found

    def source_url(self, source: str) -> str:
        """Return where the host of a source is itself, for who falls back to it: https unless an upstream says http."""
        host = source.partition("/")[0]
        if host == HUB:
            return _HUB_URL
        near = ""
        for key, upstream in self.config.upstreams.items():
            for endpoint in upstream.endpoints:
                parts = urlsplit(endpoint)
                if parts.netloc == host:
                    return f"{parts.scheme}://{host}"
                # No key holds a port. What is fetched from another host says nothing of this one.
                if key == host == parts.hostname and not parts.path:
                    near = near or endpoint
        return near or f"https://{host}"


def _reached(registry: Registry) -> tuple[bool, str, int]:
    return registry.secure, registry.host, registry.port


def _port(address: str) -> int:
    """Return the port of an address of `listen`; 0 where clients do not see it: a socket, or any that is free."""
    return 0 if address.startswith(UNIX) else split_listen(address)[1]


def _is_host(text: str) -> bool:
    return bool(set(".:") & set(text)) or text == "localhost"


def _normal(pem: bytes) -> str:
    """Return the certificates of a PEM file and nothing else of it: a private key in it goes no further."""
    if len(pem) > _CA_LIMIT:
        raise ValueError("too large")
    certificates = x509.load_pem_x509_certificates(pem)
    return "".join(one.public_bytes(Encoding.PEM).decode("ascii") for one in dict.fromkeys(certificates))
