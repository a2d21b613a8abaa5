"""Rules for clients as mirror.yaml spells them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from mirror.config.access import ANONYMOUS, Clients, Rule, check_robot, check_user
from mirror.config.values import SpellingError


def test_defaults() -> None:
    assert Clients().model_dump() == {"anonymous": "pull", "htpasswd": None, "rules": (), "catalog": False}


def test_a_rule_as_the_documentation_has_it() -> None:
    clients = Clients.model_validate(
        {
            "anonymous": "none",
            "htpasswd": "users",
            "rules": [{"who": "ci", "repositories": ["apps/**"], "may": ["pull", "push", "delete"], "quota": "100GiB"}],
            "catalog": True,
        },
        context={"base": "/etc/mirror"},
    )
    (rule,) = clients.rules
    assert str(clients.htpasswd) == "/etc/mirror/users"
    assert (rule.who, rule.may, rule.quota) == (("ci",), ("pull", "push", "delete"), 100 * 2**30)
    assert rule.names("ci")
    assert not rule.names("c")
    assert rule.covers("apps/a/b")
    assert not rule.covers("app")
    assert rule.model_dump(mode="json")["quota"] == "100GiB"


def test_one_text_stands_for_a_list_of_it() -> None:
    written = Rule.model_validate({"who": "*", "repositories": "a/**", "may": "pull"})
    assert written == Rule(who=("*",), repositories=("a/**",), may=("pull",))
    assert hash(written) == hash(Rule(who=("*",), repositories=("a/**",), may=("pull",)))
    assert written != Rule(who=("*",), repositories=("a/**",), may=("push",))


@pytest.mark.parametrize(
    "who", ["*", "anonymous", "authenticated", "ci", "Jörg Müller", "a@b.c", "robot+ci-1", "cert:n"]
)
def test_who(who: str) -> None:
    assert Rule(who=(who,), repositories=("a",), may=()).who == (who,)


@pytest.mark.parametrize(
    "broken",
    [
        {"who": ["robot+"]},
        {"who": ["robot+CI"]},
        {"who": ["robot+" + "a" * 65]},
        {"who": ["cert:"]},
        {"who": ["cert: a"]},
        {"who": ["a:b"]},
        {"who": [" a"]},
        {"who": ["a\nb"]},
        {"who": ["a" * 256]},
        {"who": []},
        {"who": None},
        {"who": 1},
        {"repositories": []},
        {"repositories": ["A/**"]},
        {"repositories": ["a/***"]},
        {"may": ["write"]},
        {"may": "all"},
        {"may": True},
        {"quota": -1},
        {"quota": "1Gi"},
        {"verbs": ["pull"]},
    ],
)
def test_what_a_rule_may_not_say(broken: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Rule.model_validate({"who": "ci", "repositories": ["a"], "may": ["pull"], **broken})


@pytest.mark.parametrize("missing", ["who", "repositories", "may"])
def test_a_rule_is_whole(missing: str) -> None:
    rule = {"who": "ci", "repositories": ["a"], "may": ["pull"]}
    del rule[missing]
    with pytest.raises(ValidationError):
        Rule.model_validate(rule)


@pytest.mark.parametrize("name", ["*", ANONYMOUS, "authenticated", "robot+x", "cert:x", "a:b", "", " ", "a\tb", "\x7f"])
def test_names_that_no_user_may_have(name: str) -> None:
    with pytest.raises(SpellingError):
        check_user(name)


@pytest.mark.parametrize("name", ["", "A", "a+b", "-a", "a..b", "a/b", "a" * 65])
def test_names_that_no_robot_may_have(name: str) -> None:
    with pytest.raises(SpellingError):
        check_robot(name)


@pytest.mark.parametrize("value", ["push", "none", "pull"])
def test_anonymous(value: str) -> None:
    assert Clients(anonymous=value).anonymous == value  # type: ignore[arg-type] # parametrised


def test_anonymous_is_one_of_three_words() -> None:
    with pytest.raises(ValidationError):
        Clients.model_validate({"anonymous": "all"})
