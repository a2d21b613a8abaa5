"""Who may do what: rules in their order, what a robot was made for, and what needs no login.

1. What anonymous clients may do, everybody may.
2. A robot may do nothing beyond its scope, a client with a token of ours nothing beyond what the token was given for.
3. The first rule that covers the repository and names the client decides.
4. Where none does, a robot may do what its scope says; users and certificates may pull what is in no rule at all.

Everything is decided by the canonical name, upstream included, before it is known whether anything is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mirror.config.access import (
    ANONYMOUS,
    ANYBODY,
    AUTHENTICATED,
    VERBS,
    Anonymous,
    Rule,
    Verb,
    anybody_enters,
    anybody_may,
)
from mirror.content.answers import Quota
from mirror.registry.clients import Principal

# What a token calls the right to list repositories, beside its repositories' names; no repository is called so.
CATALOG = "registry:catalog"

_NAMES_REMEMBERED = 10_000
_WITHOUT_LOGIN: dict[Anonymous, frozenset[Verb]] = {
    "none": frozenset(),
    "pull": frozenset({"pull"}),
    "push": frozenset(VERBS),
}


class Access:
    """What the configuration lets clients do: `clients.anonymous`, `clients.rules` and `clients.catalog`."""

    def __init__(self, anonymous: Anonymous = "pull", rules: Sequence[Rule] = (), *, catalog: bool = False) -> None:
        self._anonymous = _WITHOUT_LOGIN[anonymous]
        self._rules = tuple(rules)
        self._catalog = catalog
        self._found: dict[str, tuple[Rule, ...]] = {}
        # Whether everybody may pull everything.
        self.is_open = "pull" in self._anonymous and not rules
        # Whether there is anything that needs no login.
        self.admits_anonymous = anybody_enters(anonymous, rules)

    def may(self, principal: Principal, verb: Verb, name: str) -> bool:
        """Tell whether a client may do this in a repository, by its canonical name."""
        rules = self._covering(name)
        if anybody_may(verb, rules, self._anonymous):
            return True
        if principal.is_anonymous:
            return False
        if principal.granted is not None and verb not in principal.granted.get(name, ()):
            return False
        if principal.scope is not None and not principal.scope.covers(verb, name):
            return False
        rule = _first(principal, rules)
        if rule is not None:
            return verb in rule.may
        return principal.scope is not None or (verb == "pull" and not rules)

    def deciding(self, principal: Principal, name: str) -> Rule | None:
        """Return the rule that decides for a client in a repository; None where no rule does."""
        return _first(principal, self._covering(name))

    def quota(self, principal: Principal, name: str) -> Quota | None:
        """Return the quota of the rule that decides for a client in a repository; None where there is none."""
        rule = self.deciding(principal, name)
        if rule is None or rule.quota is None:
            return None
        return Quota(repr((rule.who, rule.repositories, rule.quota)), rule.quota, rule.covers)

    def lists(self, principal: Principal) -> bool:
        """Tell whether a client may list repositories; which of them it sees, `visible` says."""
        if self._catalog:
            return True
        return not principal.is_anonymous and (principal.granted is None or CATALOG in principal.granted)

    def visible(self, principal: Principal) -> Callable[[str], bool]:
        """Return what tells whether a client may see a repository in a list."""
        # A token for the list names no repositories, so it does not bound what the list shows.
        whole = replace(principal, granted=None)
        return lambda name: self.may(whole, "pull", name)

    def verbs(self, principal: Principal, name: str) -> frozenset[Verb]:
        """Return all that a client may do in a repository."""
        return frozenset(verb for verb in VERBS if self.may(principal, verb, name))

    def _covering(self, name: str) -> tuple[Rule, ...]:
        if not self._rules:
            return ()
        found = self._found.get(name)
        if found is None:
            found = tuple(rule for rule in self._rules if rule.covers(name))
            if len(self._found) >= _NAMES_REMEMBERED:
                self._found.clear()
            self._found[name] = found
        return found


def _first(principal: Principal, rules: tuple[Rule, ...]) -> Rule | None:
    kinds = (ANYBODY, ANONYMOUS) if principal.is_anonymous else (ANYBODY, AUTHENTICATED)
    return next((rule for rule in rules if rule.names(principal.name) or any(map(rule.names, kinds))), None)
