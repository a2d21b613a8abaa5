"""Rules in their order, against a slow reading of what access.py's first lines promise."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.config.access import VERBS, Rule, Verb
from mirror.config.patterns import matches
from mirror.registry.access import CATALOG, Access
from mirror.registry.clients import ANONYMOUS, Principal
from tests.unit.registry.access_bed import rule

ALICE = Principal("alice", "user")
NODE = Principal("cert:node7", "certificate")


class Scope:
    def __init__(self, pattern: str, *may: str) -> None:
        self.pattern = pattern
        self.may = may

    def covers(self, verb: Verb, name: str) -> bool:
        return verb in self.may and matches([self.pattern], name)


def robot(name: str, pattern: str, *may: str) -> Principal:
    return Principal(f"robot+{name}", "robot", scope=Scope(pattern, *may))


@pytest.mark.parametrize(
    ("anonymous", "expected"), [("none", set()), ("pull", {"pull"}), ("push", {"pull", "push", "delete"})]
)
def test_without_rules_anonymous_clients_may_what_is_stated(anonymous: Any, expected: set[str]) -> None:
    access = Access(anonymous)
    assert access.verbs(ANONYMOUS, "apps/a") == expected
    assert access.admits_anonymous == bool(expected)
    assert access.is_open == ("pull" in expected)


@pytest.mark.parametrize("who", [ALICE, NODE])
def test_without_rules_who_logs_in_may_pull_and_whatever_anybody_may(who: Principal) -> None:
    assert Access("none").verbs(who, "apps/a") == {"pull"}
    assert Access("pull").verbs(who, "apps/a") == {"pull"}
    assert Access("push").verbs(who, "apps/a") == set(VERBS)


def test_the_first_rule_that_fits_both_decides() -> None:
    access = Access(
        "pull",
        [rule("alice", "apps/secret", "pull"), rule("alice", "apps/**", "pull", "push"), rule("*", "apps/**")],
    )
    assert access.verbs(ALICE, "apps/secret") == {"pull"}
    assert access.verbs(ALICE, "apps/other") == {"pull", "push"}
    assert access.verbs(Principal("bob", "user"), "apps/other") == set()
    assert access.verbs(ANONYMOUS, "other") == {"pull"}


def test_a_repository_in_any_rule_is_outside_anonymous_and_outside_what_users_may_without_rules() -> None:
    access = Access("push", [rule("alice", "quay.io/secret/**", "pull")])
    assert access.verbs(ANONYMOUS, "quay.io/secret/a") == set()
    assert access.verbs(Principal("bob", "user"), "quay.io/secret/a") == set()
    assert access.verbs(ALICE, "quay.io/secret/a") == {"pull"}
    assert access.verbs(ANONYMOUS, "quay.io/public/a") == set(VERBS)
    assert not access.is_open


def test_a_rule_may_let_anonymous_clients_in_where_none_are_else() -> None:
    access = Access("none", [rule("anonymous", "quay.io/openshift-release-dev/**", "pull"), rule("ci", "apps/**")])
    assert access.admits_anonymous
    assert access.verbs(ANONYMOUS, "quay.io/openshift-release-dev/ocp") == {"pull"}
    assert access.verbs(ALICE, "quay.io/openshift-release-dev/ocp") == {"pull"}  # what anybody may, everybody may
    assert access.verbs(ANONYMOUS, "apps/a") == set()
    assert not Access("none", [rule("anonymous", "a")]).admits_anonymous


@pytest.mark.parametrize("who", ["authenticated", "*", "anonymous"])
def test_words_for_many(who: str) -> None:
    access = Access("none", [rule(who, "apps/**", "push")])
    for principal in (ALICE, NODE):
        assert access.may(principal, "push", "apps/a")
    assert access.may(ANONYMOUS, "push", "apps/a") is (who != "authenticated")


def test_a_robot_may_what_its_scope_says_without_any_rule_and_nothing_else() -> None:
    ci = robot("ci", "apps/**", "pull", "push")
    access = Access("none", [rule("alice", "apps/**", "pull")])
    assert access.verbs(ci, "apps/a") == {"pull", "push"}
    assert access.verbs(ci, "other") == set()
    assert Access("pull").verbs(ci, "quay.io/a") == {"pull"}  # as anybody


def test_a_rule_for_a_robot_narrows_its_scope_and_never_widens_it() -> None:
    ci = robot("ci", "apps/**", "pull", "push")
    assert Access("none", [rule("robot+ci", "apps/**", "pull")]).verbs(ci, "apps/a") == {"pull"}
    assert Access("none", [rule("authenticated", "apps/**", "pull")]).verbs(ci, "apps/a") == {"pull"}
    assert Access("none", [rule("robot+ci", "**", *VERBS)]).verbs(ci, "apps/a") == {"pull", "push"}
    assert Access("none", [rule("robot+ci", "**", *VERBS)]).verbs(ci, "other") == set()


def test_a_token_bounds_whoever_has_it() -> None:
    access = Access("none", [rule("alice", "apps/**", *VERBS)])
    narrowed = Principal("alice", "user", granted={"apps/a": frozenset({"pull", "delete"})})
    assert access.verbs(narrowed, "apps/a") == {"pull", "delete"}
    assert access.verbs(narrowed, "apps/b") == set()
    assert Access("pull").verbs(Principal("alice", "user", granted={}), "apps/b") == {"pull"}  # as anybody


def test_the_list_of_repositories() -> None:
    shut, stated = Access("pull"), Access("pull", catalog=True)
    assert not shut.lists(ANONYMOUS)
    assert stated.lists(ANONYMOUS)
    assert shut.lists(ALICE)
    assert not shut.lists(Principal("alice", "user", granted={"apps/a": frozenset({"pull"})}))
    listing = Principal("alice", "user", granted={CATALOG: frozenset({"*"})})
    assert shut.lists(listing)
    sees = Access("none", [rule("alice", "apps/**", "pull"), rule("bob", "**", "pull")]).visible(listing)
    assert sees("apps/a")
    assert not sees("other")


def test_the_rule_that_decides_says_the_quota() -> None:
    access = Access("push", [rule("ci", "apps/**", "push", quota=10), rule("*", "apps/**", "push", quota=20)])
    first = access.deciding(Principal("ci", "user"), "apps/a")
    assert first is not None
    assert first.quota == 10
    other = access.deciding(ANONYMOUS, "apps/a")
    assert other is not None
    assert other.quota == 20
    assert access.deciding(ANONYMOUS, "other") is None


def test_what_is_remembered_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.registry.access._NAMES_REMEMBERED", 5)
    access = Access("pull", [rule("alice", "a/**", "pull")])
    for number in range(50):
        assert access.may(ANONYMOUS, "pull", f"a/{number}") is False
        assert access.may(ANONYMOUS, "pull", f"b/{number}") is True
        assert len(access._found) <= 5


NAMES = ["a", "b", "a/a", "a/b", "b/a", "a/b/c"]
PATTERNS = ["**", "a/**", "*", "b", "a/*", "**/c", "a/b"]
PEOPLE = [
    ANONYMOUS,
    ALICE,
    Principal("bob", "user"),
    NODE,
    robot("r", "a/**", "pull", "push"),
    robot("s", "**", "pull"),
]
WHO = ["*", "anonymous", "authenticated", "alice", "bob", "cert:node7", "robot+r", "robot+s"]
RULES = st.lists(
    st.builds(
        lambda who, patterns, may: Rule(who=tuple(who), repositories=tuple(patterns), may=tuple(may)),
        st.lists(st.sampled_from(WHO), min_size=1, max_size=2),
        st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2),
        st.lists(st.sampled_from(VERBS), max_size=3, unique=True),
    ),
    max_size=4,
)


@given(
    st.sampled_from(["pull", "none", "push"]),
    RULES,
    st.sampled_from(PEOPLE),
    st.sampled_from(VERBS),
    st.sampled_from(NAMES),
)
def test_it_agrees_with_a_slow_reading_of_the_rules(
    anonymous: Any, rules: list[Rule], who: Principal, verb: Verb, name: str
) -> None:
    def first(*words: str) -> Rule | None:
        fitting = [one for one in rules if matches(one.repositories, name) and set(words) & set(one.who)]
        return fitting[0] if fitting else None

    mentioned = any(matches(one.repositories, name) for one in rules)
    base = {"none": [], "pull": ["pull"], "push": list(VERBS)}[anonymous]
    decided = first("anonymous", "*")
    expected = verb in (decided.may if decided else [] if mentioned else base)
    if not expected and who is not ANONYMOUS:
        in_scope = who.scope is None or who.scope.covers(verb, name)
        decided = first(who.name, "authenticated", "*")
        if decided:
            expected = in_scope and verb in decided.may
        elif who.scope is not None:
            expected = in_scope
        else:
            expected = verb == "pull" and not mentioned
    access = Access(anonymous, rules)
    assert access.may(who, verb, name) is expected
    if access.is_open:
        assert access.may(ANONYMOUS, "pull", name)
    if not access.admits_anonymous:
        assert access.verbs(ANONYMOUS, name) == set()
