"""The patterns of blockedImages: what Go's syntax allows is taken, and nothing that could keep us busy for hours."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.config.values import SpellingError
from mirror.offline.image_set.regexp import parse_regexp

HOSTILE = ["a" * 255 + "!", "a/" * 128, "ab" * 128, "quay.io/" + "foo" * 80, "1" * 255]


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("registry.example/secret/.*", "registry.example/secret/a:b", "registry.example/public/a:b"),
        (r".*foo.*", "quay.io/a/foo:v1", "quay.io/a/bar:v1"),
        (r"^quay\.io/.*/.*-debug:v[0-9]+\.[0-9]+$", "quay.io/a/b-debug:v1.22", "quay.io/a/b-debug:v1.x"),
        (
            r"registry.redhat.io/.*/.*-rhel[0-9]+:v[0-9]+\.[0-9]+.*",
            "registry.redhat.io/a/b-rhel9:v1.2-3",
            "quay.io/a:b",
        ),
        (r"^(?:quay\.io|docker\.io)/([a-z]+/)*debug$", "docker.io/a/b/debug", "docker.io/a/1/debug"),
        (r"(?i)SECRET", "quay.io/secrets/a:b", "quay.io/a/b:c"),
        (r"(?P<host>quay\.io|docker\.io)/a{2,3}\b", "quay.io/aaa:b", "quay.io/aaaa:b"),
        (r"[^]/:@-]+:\d{1,5}/[\w.-]+", "lab:5000/a", "quay.io/a"),
        (r"sha256:[0-9a-f]{64}$", "quay.io/a@sha256:" + "0" * 64, "quay.io/a:v1"),
        (r"a|b||c", "quay.io/x", None),
    ],
)
def test_what_both_languages_read_alike_is_taken(pattern, matching, other):
    found = parse_regexp(pattern)
    assert found.pattern == pattern
    assert found.search(matching)
    assert other is None or found.search(other) is None


@pytest.mark.parametrize(
    "pattern",
    [
        "(", ")", "[", "a**", "*", "a{2,1}", "a{1001}", "a{,3}", "(?=a)", "(?!a)", "(?<=a)", "(?<!a)", "(?>a)", "a*+",
        r"(?P<x>a)\1", "(?P=x)", "(?P<x>a)(?P<x>b)", "(?#comment)", "a(?i)b", "[[:alpha:]]", r"\pL", r"\Qa\E", r"\z",
        r"[\b]", "[a--b]", "[a&&b]", "[z-a]", "[]", "^*", "(a?)*", "docker://quay.io/a", "a" * 513, " a",
        "(" * 40 + ")" * 40,
    ],
)  # fmt: skip
def test_what_only_one_of_them_knows_is_refused_with_a_remedy(pattern):
    with pytest.raises(SpellingError) as raised:
        parse_regexp(pattern)
    assert raised.value.what
    assert raised.value.remedy


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a|a)*b", "(a|ab|b)*c", "(.*)*x", "a?" * 40 + "a" * 40, "(a|a){30}b", ".*a.*a.*a.*ax", "(a{0,9}){99}"],
)
def test_what_could_take_hours_is_refused(pattern):
    with pytest.raises(SpellingError):
        parse_regexp(pattern)


_PIECES = st.lists(
    st.sampled_from([*"ab.*+?|()[]^$-:/", "a{1,3}", r"\.", r"\d", "[a-z]", "[^/]", "(?:", ".*", "(a|b)", "{2}"]),
    max_size=25,
).map("".join)


@given(st.one_of(_PIECES, st.text(max_size=60)))
@settings(max_examples=600, deadline=None)
def test_any_text_is_refused_or_searched_for_in_bounded_time(text):
    try:
        pattern = parse_regexp(text)
    except SpellingError:
        return
    # What was taken is what Python reads from the same text, and trying it comes to an end.
    assert pattern == re.compile(text, re.ASCII)
    began = time.process_time()
    for name in HOSTILE:
        pattern.search(name)
    assert time.process_time() - began < 10
