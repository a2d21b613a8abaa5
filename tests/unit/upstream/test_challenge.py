"""WWW-Authenticate in all its forms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.upstream.challenge import parse

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull"'


def as_pairs(*lines):
    return [(one.scheme, one.parameters) for one in parse(lines)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            HUB,
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:library/x:pull",
                    },
                )
            ],
        ),
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        ("Basic realm=x", [("basic", {"realm": "x"})]),
        ("bAsIc ReAlM=x", [("basic", {"realm": "x"})]),
        ("Negotiate", [("negotiate", {})]),
        ("Negotiate YII+/=", [("negotiate", {})]),
        ('Negotiate YII, Basic realm="x"', [("negotiate", {}), ("basic", {"realm": "x"})]),
        ('Negotiate, Basic realm="x"', [("negotiate", {}), ("basic", {"realm": "x"})]),
        ('Basic realm="a, b", Bearer realm="c"', [("basic", {"realm": "a, b"}), ("bearer", {"realm": "c"})]),
        ('Basic realm="Bearer realm=\\"evil\\""', [("basic", {"realm": 'Bearer realm="evil"'})]),
        ('Bearer realm="a\\\\b"', [("bearer", {"realm": "a\\b"})]),
        ('Bearer realm = "a" , service = b', [("bearer", {"realm": "a", "service": "b"})]),
        ('Bearer realm="a",realm="evil"', [("bearer", {"realm": "a"})]),
        (',, ,Bearer realm="a",,', [("bearer", {"realm": "a"})]),
        ('Bearer\trealm="a"', [("bearer", {"realm": "a"})]),
        ("Bearer realm=https://x/token,service=y", [("bearer", {"realm": "https://x/token", "service": "y"})]),
        ('Bearer scope="repository:a/b:pull,push"', [("bearer", {"scope": "repository:a/b:pull,push"})]),
        ('Bearer realm="unterminated', [("bearer", {"realm": "unterminated"})]),
        ('Bearer realm=""', [("bearer", {"realm": ""})]),
        ('realm="no scheme"', []),
        ("", []),
        (
            'Digest realm="a", nonce="n==", qop="auth,auth-int"',
            [("digest", {"realm": "a", "nonce": "n==", "qop": "auth,auth-int"})],
        ),
    ],
)
def test_forms(line, expected):
    assert as_pairs(line) == expected


def test_several_lines_keep_their_order():
    assert [one.scheme for one in parse(['Basic realm="x"', HUB, "Negotiate"])] == ["basic", "bearer", "negotiate"]


def test_a_comma_joined_line_means_the_same_as_two_lines():
    assert as_pairs(f'{HUB}, Basic realm="x"') == as_pairs(HUB, 'Basic realm="x"')


def test_a_hostile_header_is_bounded():
    assert len(parse(["Basic"] * 1000)) == 16
    assert len(parse(["a," * 100_000])) <= 4096


token = st.text("abcdefgXYZ0123-_", min_size=1, max_size=8)
value = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
challenges = st.lists(
    st.tuples(token, st.dictionaries(token.map(str.lower), value, min_size=1, max_size=4)), min_size=1, max_size=4
)


@given(challenges, st.booleans())
def test_what_is_written_is_read(wanted, joined):
    lines = []
    for scheme, parameters in wanted:
        quoted = ((name, text.replace("\\", "\\\\").replace('"', '\\"')) for name, text in parameters.items())
        lines.append(f"{scheme} " + ", ".join(f'{name}="{text}"' for name, text in quoted))
    got = as_pairs(", ".join(lines)) if joined else as_pairs(*lines)
    assert got == [(scheme.lower(), parameters) for scheme, parameters in wanted]


@given(st.lists(st.text(max_size=60), max_size=5))
def test_anything_is_read_without_an_exception(lines):
    for one in parse(lines):
        assert one.scheme == one.scheme.lower() != ""
