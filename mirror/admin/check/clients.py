"""Who may do what: users, rules and robots that do not fit together, and doors that stand open or are shut for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mirror.admin.check.files import read_bounded
from mirror.admin.check.report import Finding
from mirror.config import Config
from mirror.config.access import ANONYMOUS, ANYBODY, AUTHENTICATED, CERTIFICATE, ROBOT, anybody_enters
from mirror.errors import ConfigurationError, StoreError
from mirror.registry.htpasswd import parse
from mirror.store.layout import Layout
from mirror.store.tokens import Tokens


def find_in_clients(config: Config) -> Iterator[Finding]:
    """Yield what about users, robots, certificates and rules is wrong or may not be meant."""
    users: Sequence[str] = ()
    try:
        users = _users(config)
    except ConfigurationError as error:
        yield from (Finding("error", one.code, one.what, one.where, one.remedy) for one in error.problems)
    robots = _robots(config)
    yield from _doors(config, users, robots)
    yield from _rules(config, users, robots)


def _users(config: Config) -> Sequence[str]:
    """Return the names in the htpasswd file; none where it cannot be read, which is told elsewhere."""
    path = config.clients.htpasswd
    content = read_bounded(path) if path is not None else None
    return () if path is None or content is None else tuple(parse(content, path).hashes)


def _robots(config: Config) -> Sequence[str]:
    """Return what rules call the robots that have a token; none where the store cannot be read."""
    try:
        return tuple({robot.user for robot in Tokens(Layout(config.storage.path).tokens).all()})
    except (OSError, StoreError):
        return ()


def _doors(config: Config, users: Sequence[str], robots: Sequence[str]) -> Iterator[Finding]:
    clients, where = config.clients, config.source.where
    login = bool(users or robots or config.tls.client_ca)
    if not login and not anybody_enters(clients.anonymous, clients.rules):
        what = "clients without a login may not pull, and nobody has one: nobody can pull"
        remedy = "make a login with `mirror user add NAME` or `mirror token create NAME`, or write anonymous: pull"
        yield Finding("warning", "nobody_can_pull", what, where("clients", "anonymous"), remedy)
    if clients.anonymous == "push" and not config.loopback_only:
        what = "whoever reaches this registry may push to it and delete from it"
        remedy = "give logins and `clients.rules` to those who push, and write anonymous: pull"
        yield Finding("warning", "anybody_can_push", what, where("clients", "anonymous"), remedy)
    in_the_clear = config.tls.certificate is None and not (config.external_url or "").startswith("https://")
    if login and in_the_clear and not config.loopback_only:
        what = "logins cross the network in the clear: whoever sees them can use them"
        yield Finding("warning", "logins_in_the_clear", what, where("tls"), "give `tls: {certificate: , key: }`")
    if config.tls.client_ca is not None and config.tls.certificate is None:
        what = "clients show certificates over TLS only, and there is none"
        yield Finding("warning", "client_ca_unused", what, where("tls", "client_ca"), "give `certificate` and `key`")


def _rules(config: Config, users: Sequence[str], robots: Sequence[str]) -> Iterator[Finding]:
    for index, rule in enumerate(config.clients.rules):
        for number, name in enumerate(rule.who):
            remedy = _remedy_for(config, name, users, robots)
            if remedy:
                where = config.source.where("clients", "rules", index, "who", number)
                yield Finding("warning", "nobody_is_called_so", f"nobody can log in as {name}", where, remedy)
        if not {"push", "delete"} & set(rule.may):
            continue
        for number, pattern in enumerate(rule.repositories):
            upstream = pattern.partition("/")[0]
            if upstream in config.upstreams:
                what = f"{pattern} is proxied: nobody can push there or delete anything"
                where = config.source.where("clients", "rules", index, "repositories", number)
                yield Finding("warning", "push_to_proxied", what, where, "push to names that are under no upstream")


def _remedy_for(config: Config, name: str, users: Sequence[str], robots: Sequence[str]) -> str:
    """Return what lets somebody log in under a name that a rule uses; nothing where somebody can."""
    if name in (ANONYMOUS, ANYBODY, AUTHENTICATED) or name in users or name in robots:
        return ""
    if name.startswith(ROBOT):
        return f"mirror token create {name.removeprefix(ROBOT)}"
    if name.startswith(CERTIFICATE):
        return (
            "" if config.tls.client_ca is not None else "give `tls.client_ca`, the CA that signs clients' certificates"
        )
    if config.clients.htpasswd is None:
        return "give `clients.htpasswd`, a file of users"
    return f"mirror user add {name}"
