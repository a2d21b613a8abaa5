"""mirror.yaml as values: every key, its type and its default. Sizes are bytes, durations seconds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, PrivateAttr

from mirror.config.access import Clients
from mirror.config.addresses import is_loopback
from mirror.config.fields import (
    DocumentUrl,
    ExternalUrl,
    FilePath,
    Flag,
    Listen,
    MetricsListen,
    Network,
    Pattern,
    ProxyUrl,
    Section,
    Share,
    Size,
    SizeLimit,
    TagPattern,
    Text,
    Timeout,
    as_items,
    as_list,
    one_of,
    whole,
)
from mirror.config.notifications import Notifications
from mirror.config.upstreams import UpstreamConfig
from mirror.config.values import Amount, SpellingError, count
from mirror.oci.manifest import MANIFEST_LIMIT

# Beyond four, workers share the kernel's and the disk's time and gain nothing.
_MOST_WORKERS_BY_DEFAULT = 4
_MOST = 1_000_000

GRAPH = "https://api.openshift.com/api/upgrades_info/v1/graph"
SIGNATURE_STORES = (
    "https://mirror.openshift.com/pub/openshift-v4/signatures/openshift/release",
    "https://storage.googleapis.com/openshift-release/official/signatures/openshift/release",
)


def _parse_workers(value: object) -> int | str:
    if value == "auto":
        return "auto"
    if isinstance(value, str):
        raise SpellingError("`workers` is auto or a number", "write auto, or a whole number from 1 to 64")
    return count(1, 64)(value)


def _check_manifest_limit(value: int) -> int:
    if not 64 * 2**10 <= value <= MANIFEST_LIMIT:
        raise SpellingError("is out of range: manifests are held in memory", "write a size from 64KiB to 256MiB")
    return value


def _check_memory_limit(value: int) -> int:
    if value < 256 * 2**20:
        raise SpellingError("is too little: a worker takes up to 120 MiB without clients", "write 256MiB or more")
    return value


@dataclass(frozen=True, slots=True)
class Source:
    """Where the configuration was read: the file, and the line of each key. Two configurations are equal without it."""

    path: Path | None = field(default=None, compare=False)
    lines: Mapping[tuple[str | int, ...], int] = field(default_factory=dict, compare=False)

    def where(self, *key: str | int) -> str:
        """Return `file:line` of a key, or of the nearest key around it that was written; the file alone if none was."""
        if self.path is None:
            return ".".join(str(part) for part in key)
        while key:
            if key in self.lines:
                return f"{self.path}:{self.lines[key]}"
            key = key[:-1]
        return str(self.path)


class Tls(Section):
    """What clients see; reread when the files change."""

    certificate: FilePath | None = None
    """The server's certificate chain, PEM."""
    key: FilePath | None = None
    """Its private key, PEM, not encrypted."""
    client_ca: FilePath | None = None
    """Who signs clients' certificates, PEM; without it none is asked for."""


class Storage(Section):
    """Where content is kept and how much of it."""

    path: FilePath = Path("/var/lib/mirror")
    """The store's directory; its owner is who runs the service."""
    cache_size: Size | None = None
    """The most bytes of evictable content; None: all that keep_free leaves."""
    keep_free: Share = Amount(percent=5.0)
    """What stays free on the file system."""
    sparse_indexes: Flag = False
    """Whether a manifest may be pushed before all that it names is here."""
    immutable_tags: Annotated[tuple[TagPattern, ...], BeforeValidator(as_items)] = ()
    """Patterns `REPOSITORY[:TAG]` of hosted tags that keep the digest they were pushed with."""
    tag_history: Annotated[int, whole(0, 1000)] = 10
    """How many earlier digests of a tag are remembered."""
    scrub_rate: Size = 8 * 2**20
    """Bytes a second at which the service hashes all content again, 0 for never."""


class Releases(Section):
    """How releases are found and trusted."""

    graph: DocumentUrl = GRAPH
    """Where the update graph is: an URL that takes `channel` and `arch`, or a file or folder of it."""
    signature_stores: tuple[DocumentUrl, ...] = SIGNATURE_STORES
    """Where release signatures are, asked in this order."""
    keyring: FilePath | None = None
    """The keys that may sign releases; None: the release key of Red Hat, which is shipped."""
    require_signature: Flag = True
    """Whether a release without a signature that holds is refused."""
    public: Flag = True
    """Whether the update graph and release signatures are served without a login, whatever `clients` says."""


class Limits(Section):
    """What one client or upstream can take. No limit is 0 in counts, infinity in seconds, 2**63 - 1 in bytes."""

    connections: Annotated[int, whole(0, _MOST)] = 4096
    """Open connections of clients."""
    connections_per_client: Annotated[int, whole(0, _MOST)] = 0
    """The same from one address; nodes come from behind one, so it is off."""
    requests_per_second: Annotated[int, whole(0, _MOST)] = 0
    """Requests from one address."""
    fetches_per_upstream: Annotated[int, whole(0, _MOST)] = 16
    """Downloads from one upstream at a time."""
    header_timeout: Timeout = 10.0
    """Seconds for a request's header to arrive."""
    idle_timeout: Timeout = 75.0
    """Seconds that a connection may be idle between requests."""
    write_stall: Timeout = 60.0
    """Seconds that a client may take no byte of a body."""
    manifest: Annotated[Size, AfterValidator(_check_manifest_limit)] = 4 * 2**20
    """The largest manifest, in bytes."""
    blob: SizeLimit = 50 * 2**30
    """The largest blob, in bytes."""
    memory: Annotated[SizeLimit, AfterValidator(_check_memory_limit)] = 512 * 2**20
    """What one worker may take, in bytes."""
    trusted_proxies: tuple[Network, ...] = ()
    """Networks whose X-Forwarded-For is believed."""


class Admin(Section):
    """How other commands reach a running service."""

    socket: FilePath | None = None
    """The service's unix socket; None: <storage.path>/run/serve.sock. `admin_socket` says which it is."""


class Log(Section):
    """What is logged, and how."""

    level: Annotated[Literal["debug", "info", "warning", "error"], one_of("debug", "info", "warning", "error")] = "info"
    """The least that is logged."""
    format: Annotated[Literal["logfmt", "json", "console"], one_of("logfmt", "json", "console")] = "logfmt"
    """logfmt and json for machines, console for people."""


class Metrics(Section):
    """Figures for Prometheus."""

    listen: MetricsListen = "127.0.0.1:9000"
    """Where /metrics answers, and nowhere else; `none`: nowhere."""


class Config(Section):
    """The whole of mirror.yaml. Every key has a default, so an empty file is valid."""

    listen: Annotated[tuple[Listen, ...], BeforeValidator(as_list)] = ("127.0.0.1:5000",)
    """Addresses: host:port, [v6]:port, unix:/path."""
    external_url: ExternalUrl | None = None
    """scheme://host[:port] as clients see us; None: scheme and Host of each request."""
    tls: Tls = Tls()
    workers: Annotated[int | Literal["auto"], PlainValidator(_parse_workers)] = "auto"
    """Processes that serve; `worker_count` says the number."""
    offline: Flag = False
    """Never contact an upstream."""
    ca: tuple[FilePath, ...] = ()
    """PEM bundles added to the system's, for everything outgoing."""
    proxy: ProxyUrl | None = None
    """The forward proxy; None: the environment's. `effective_proxy` says which it is."""
    pull_secrets: tuple[FilePath, ...] = ()
    """Files with credentials for registries, as docker, podman or OpenShift write them; the first with a host wins."""
    default_upstream: Text | None = None
    """The key of the upstream that bare names mean."""
    hosted: Annotated[tuple[Pattern, ...], BeforeValidator(as_items)] = ()
    """Patterns of names that are pushed and served here, where `default_upstream` takes the other bare names."""
    upstreams: Mapping[str, UpstreamConfig] = Field(default_factory=dict)
    """By key."""
    aliases: Mapping[str, Text] = Field(default_factory=dict)
    """Repository names, or prefixes ending in /, and what they stand for."""
    storage: Storage = Storage()
    clients: Clients = Clients()
    releases: Releases = Releases()
    notifications: Notifications = ()
    """Webhooks, and what each is told."""
    limits: Limits = Limits()
    admin: Admin = Admin()
    log: Log = Log()
    metrics: Metrics = Metrics()

    _source: Source = PrivateAttr(default_factory=Source)

    @property
    def source(self) -> Source:
        """Where this was read."""
        return self._source

    def read_from(self, source: Source) -> Config:
        """Return this configuration with the place that it was read from."""
        copy = self.model_copy()
        copy._source = source  # noqa: SLF001 its own class's
        return copy

    @property
    def worker_count(self) -> int:
        """How many processes serve: as stated, else one for each core that this process may use, at most 4."""
        if isinstance(self.workers, int):
            return self.workers
        return min(len(os.sched_getaffinity(0)), _MOST_WORKERS_BY_DEFAULT)

    @property
    def admin_socket(self) -> Path:
        """Where the first service on the store listens for `mirror status` and `explain`."""
        return self.admin.socket or self.storage.path / "run" / "serve.sock"

    @property
    def loopback_only(self) -> bool:
        """Whether only this host can reach any address of `listen`."""
        return all(is_loopback(address) for address in self.listen)

    @property
    def holds_credential(self) -> bool:
        """Whether some upstream is shown who we are, so that clients may see here what they could not pull there."""
        return bool(self.pull_secrets) or any(upstream.has_credential for upstream in self.upstreams.values())
