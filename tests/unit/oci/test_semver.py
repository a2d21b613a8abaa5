"""Versions: the grammar and precedence of semver.org."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.semver import Version, VersionInvalid, is_version

# semver.org sections 9 to 11, and what releases are called.
ASCENDING = [
    "0.0.0",
    "0.9.0",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "2.0.0",
    "2.1.0",
    "2.1.1",
    "4.5.0-0.okd-2020-08-12-020541",
    "4.5.0-0.okd-2020-10-15-235428",
    "4.9.0",
    "4.16.0-0.nightly-2024-05-01-111315",
    "4.16.0-ec.6",
    "4.16.0-rc.0",
    "4.16.0-rc.9",
    "4.16.0-rc.10",
    "4.16.0",
    "4.16.9",
    "4.16.10",
    "4.17.0--",
    "4.17.0-A",
    "4.17.0-a",
    "4.17.0",
    "10.0.0",
]


def test_the_table_ascends():
    versions = [Version.parse(text) for text in ASCENDING]
    for (low, one), (high, other) in itertools.combinations(enumerate(versions), 2):
        assert low < high
        assert one < other
        assert other > one
        assert one.precedence < other.precedence
    assert [str(version) for version in versions] == ASCENDING


def test_build_metadata_has_no_precedence_but_a_place():
    plain, one, two, word = (Version.parse(f"4.16.1{build}") for build in ("", "+9", "+10", "+amd64"))
    assert plain.precedence == one.precedence == two.precedence == word.precedence
    assert plain < one < two < word < Version.parse("4.16.2-0")
    assert len({plain, one, two, word}) == 4
    assert Version.parse("1.0.0+01") != Version.parse("1.0.0+1")
    assert Version.parse("1.0.0+01") < Version.parse("1.0.0+1")


# The list of the grammar's own regular expression at semver.org, and what does not fit a Go reader's numbers.
@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.2",
        "1.2.3.4",
        "v1.2.3",
        "1.2.3-",
        "1.2.3+",
        "1.2.3-0123",
        "1.2.3-0123.0123",
        "1.1.2+.123",
        "+invalid",
        "-invalid",
        "alpha",
        "1.0.0-alpha_beta",
        "1.0.0-alpha.",
        "1.0.0-alpha..1",
        "01.1.1",
        "1.01.1",
        "1.1.01",
        "1.1.2+meta+meta",
        " 1.2.3",
        "1.2.3\n",
        "1.2.٣",
        "1.2.18446744073709551616",
        "1.2.3-18446744073709551616",
        "1.2.3-" + "a" * 250,
        "9" * 5000 + ".0.0",
    ],
)
def test_no_versions(text):
    assert not is_version(text)
    with pytest.raises(VersionInvalid, match="is not a version"):
        Version.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "1.2.3-0",
        "1.2.3----RC-SNAPSHOT.12.9.1--.12+788",
        "1.0.0+0.build.1-rc.10000aaa-kk-0.1",
        "1.0.0-0A.is.legal",
        "1.2.18446744073709551615",
    ],
)
def test_versions(text):
    assert str(Version.parse(text)) == text


numbers = st.integers(0, 2**64 - 1)
identifiers = st.from_regex(r"(0|[1-9][0-9]{0,3}|[0-9]{0,2}[A-Za-z-][0-9A-Za-z-]{0,3})", fullmatch=True)
builds = st.from_regex(r"[0-9A-Za-z-]{1,4}", fullmatch=True)
small = st.integers(0, 2) | numbers
versions = st.builds(
    Version,
    small,
    small,
    small,
    st.lists(identifiers, max_size=3).map(tuple),
    st.lists(builds, max_size=2).map(tuple),
)


@given(versions)
def test_what_is_written_is_read_back(version):
    assert Version.parse(str(version)) == version


@given(versions, versions, versions)
def test_the_order_is_total(one, two, three):
    assert (one < two) + (one == two) + (one > two) == 1
    if one <= two <= three:
        assert one <= three
    if one < two:
        assert one.precedence <= two.precedence
        assert two > one
