"""From a configuration to what workers are started with, before the fork; and from a changed one, while they serve.

All of this runs in the supervisor's process, which has no event loop and no threads, and it blocks.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from socket import socket

from mirror import listeners
from mirror.admin.check.files import find_in_files
from mirror.admin.check.logins import read_pull_secrets
from mirror.admin.check.surroundings import Surroundings
from mirror.config import Config
from mirror.errors import ConfigurationError, Problem
from mirror.registry.htpasswd import Htpasswd
from mirror.registry.tls import ServerTls
from mirror.workers import Crew, WorkerContext

# What a service that starts without it can be mended by itself; one that serves would lose what it has.
_LOST = frozenset({"file_missing", "file_unreadable", "file_empty", "file_too_large", "pull_secret_invalid"})
_LARGEST = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Prepared:
    """A configuration, and what is made of it once for all workers. `digest` is that of the file as it was read."""

    config: Config
    tls: ServerTls | None
    users: Htpasswd | None
    read_at: float
    digest: str

    @property
    def has_changed(self) -> bool:
        """Whether the file says something else by now. Blocks."""
        return digest_of(self.config.source.path) not in ("", self.digest)


class Preparation:
    """Makes the crew of the first configuration, and those of later ones. `work` is what a worker does.

    `reread` reads the configuration anew, and `taken` is told of one that is in force. `adopted` are sockets that the
    service manager opened, `admin` the socket of the service, which stays.
    """

    def __init__(
        self,
        work: Callable[[Prepared, WorkerContext], None],
        reread: Callable[[], Config],
        environ: Mapping[str, str],
        taken: Callable[[Config], object] = lambda _: None,
        adopted: Iterable[socket] = (),
    ) -> None:
        self._work = work
        self._reread = reread
        self._environ = environ
        self._taken = taken
        self._adopted = tuple(adopted)
        self._held: dict[str, list[socket]] = {}
        self._config: Config | None = None
        self.admin: socket | None = None

    def bind(self, config: Config) -> None:
        """Open what a configuration listens on, waiting for ports in use. Raises ConfigurationError."""
        self._held = listeners.bind_each(_addresses(config), adopted=self._adopted, keys=_keys(config))

    def close(self) -> None:
        """Close what `bind` opened."""
        listeners.close(listener for found in self._held.values() for listener in found)

    def first(self, config: Config) -> Crew:
        """Return the workers of the configuration that `bind` was called for. Raises ConfigurationError."""
        self._config = config
        return self._crew(config, self._held)

    def next(self) -> Crew:
        """Return the workers of what the configuration says now.

        Raise ConfigurationError for one that is wrong, or that this process cannot change to: nothing has changed then.
        """
        config = self._reread()
        self._refuse_what_stays(config)
        self._refuse_what_would_be_lost(config)
        # What it still listens on when it was given up again is closed by then, and opened anew.
        known = {address: found for address, found in self._held.items() if all(one.fileno() >= 0 for one in found)}
        held = listeners.bind_each(
            _addresses(config), patience=0.0, adopted=self._adopted, held=known, keys=_keys(config)
        )
        try:
            crew = self._crew(config, held)
        except BaseException:
            listeners.close(one for address, found in held.items() if address not in known for one in found)
            raise
        # Of those that are given up, `held` still knows the ones that may come back with another configuration.
        self._held = {**known, **held}
        return crew

    def _crew(self, config: Config, held: Mapping[str, list[socket]]) -> Crew:
        tls = None
        if config.tls.certificate is not None and config.tls.key is not None:
            tls = ServerTls(config.tls.certificate, config.tls.key, config.tls.client_ca)
        users = Htpasswd(config.clients.htpasswd) if config.clients.htpasswd is not None else None
        prepared = Prepared(config, tls, users, time.time(), digest_of(config.source.path))
        return Crew(
            lambda context: self._work(prepared, context),
            tuple(listener for address in config.listen for listener in held[address]),
            config.worker_count,
            held[config.metrics.listen][0] if config.metrics.listen else None,
            self.admin,
            lambda: self._take(config),
        )

    def _take(self, config: Config) -> None:
        self._config = config
        self._taken(config)

    def _refuse_what_stays(self, config: Config) -> None:
        """Raise ConfigurationError for what a running service cannot change."""
        old = self._config
        if old is None:
            return
        fixed = [(("storage", "path"), old.storage.path, config.storage.path)]
        if old.admin.socket != config.admin.socket:  # one that nobody stated moves with the store
            fixed.append((("admin", "socket"), old.admin_socket, config.admin_socket))
        problems = [
            Problem(
                "needs_restart",
                f"`{'.'.join(key)}` cannot change while the service runs, from {before} to {after}",
                config.source.where(*key),
                "restart the service",
            )
            for key, before, after in fixed
            if before != after
        ]
        if problems:
            raise ConfigurationError(problems)

    def _refuse_what_would_be_lost(self, config: Config) -> None:
        """Raise ConfigurationError for files without which new workers would know less than those that serve."""
        around = Surroundings.look(self._environ, config.storage.path)
        findings = [*find_in_files(config, around), *read_pull_secrets(config)[1]]
        problems: list[Problem] = [one for one in findings if one.severity == "error" and one.code in _LOST]
        if problems:
            raise ConfigurationError(problems)


def _addresses(config: Config) -> list[str]:
    metrics = [config.metrics.listen] if config.metrics.listen else []
    return [*config.listen, *metrics]


def _keys(config: Config) -> dict[str, str]:
    return {config.metrics.listen: "metrics.listen"} if config.metrics.listen else {}


def digest_of(path: Path | None) -> str:
    """Return what tells one state of a configuration file from another; empty where it cannot be read."""
    if path is None:
        return ""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            return hashlib.sha256(file.read(_LARGEST)).hexdigest()
    except OSError:
        return ""
