"""Patterns over repository names, compared with the same rule written as a regular expression."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.config import matches
from mirror.config.patterns import Matcher, parse_pattern
from mirror.config.values import SpellingError


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("**", "a", True),
        ("**", "a/b/c", True),
        ("*", "a", True),
        ("*", "a/b", False),
        ("apps/**", "apps/web", True),
        ("apps/**", "apps/team/web", True),
        ("apps/**", "apps", False),
        ("apps/**", "apps2/web", False),
        ("apps/*", "apps/team/web", False),
        ("team-*/web", "team-a/web", True),
        ("team-*/web", "team-/web", True),
        ("team-*/web", "team-a/x/web", False),
        ("**/web", "a/b/web", True),
        ("**/web", "web", False),
        ("a*b**c", "axxb/y/c", True),
        ("a*b**c", "ax/b/c", False),
        ("library/nginx", "library/nginx", True),
        ("library/nginx", "library/nginx2", False),
        ("a.b", "axb", False),
    ],
)
def test_one_star_stays_in_a_component_and_two_cross(pattern, name, fits):
    assert matches([pattern], name) is fits


def test_any_of_several_patterns_is_enough_and_none_matches_nothing():
    assert matches(["a", "b/**", "*-x"], "b/c")
    assert matches(["a", "b/**", "*-x"], "c-x")
    assert not matches(["a", "b/**", "*-x"], "c/d-x")
    assert not matches([], "a")


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "/", ".", "*", "**"]), min_size=1, max_size=8),
    st.text("ab/.", min_size=0, max_size=10),
)
def test_matching_agrees_with_the_rule_as_a_regular_expression(pieces, name):
    pattern = "".join(pieces)
    pattern = re.sub(r"\*{3,}", "**", pattern)
    rule = re.sub(r"\\\*\\\*|\\\*", lambda star: ".*" if star[0] == r"\*\*" else "[^/]*", re.escape(pattern))
    assert matches([pattern], name) is (re.fullmatch(rule, name) is not None)


def test_a_hostile_name_costs_no_more_than_its_length():
    # Thirty stars against a name that almost fits: with backtracking this would outlive the machine.
    matcher = Matcher(["*-".join("a" * 30) + "/x"])
    assert not matcher.matches("a-" * 127)


@pytest.mark.parametrize("value", ["", "/a", "a/", "a//b", "A", "a b", "a?", "[ab]", "a***", "*" * 300, "!a", "é"])
def test_what_is_no_pattern_is_refused(value):
    with pytest.raises(SpellingError):
        parse_pattern(value)


@pytest.mark.parametrize("value", ["**", "*", "a/**", "*-x/y.z_*", "openshift-release-dev/*"])
def test_a_pattern_is_returned_as_it_is(value):
    assert parse_pattern(value) == value
