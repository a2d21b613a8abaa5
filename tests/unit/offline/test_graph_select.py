"""Which releases the channels of an image set mean: every row of the table, paths, crossings, what is wrong."""

import hashlib
import itertools
import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import ConfigurationError, Problem, UpstreamUnavailable
from mirror.oci.semver import Version
from mirror.offline.graph import ChannelUnknown, Graph, excerpt, read, select
from mirror.offline.graph.paths import shortest

RELEASE = "quay.io/openshift-release-dev/ocp-release@sha256:"
CHANNELS = "io.openshift.upgrades.graph.release.channels"


@dataclass(frozen=True)
class Channel:
    """As the image set holds it."""

    name: str
    min_version: str = ""
    max_version: str = ""
    shortest_path: bool = False
    full: bool = False
    type: str = "ocp"
    where: str = "set.yaml:7"


def payload(version):
    return RELEASE + hashlib.sha256(version.encode()).hexdigest()


def graph(versions, updates="", risky=None, payloads=None, channels=""):
    """Draw a graph: `versions` parted by blanks, `updates` as `a>b`, `risky` as {`a>b`: (names of risks)}."""
    order = versions.split()
    nodes = [
        {
            "version": one,
            "payload": (payloads or {}).get(one, payload(one)),
            "metadata": {CHANNELS: channels} if channels else {},
        }
        for one in order
    ]
    return read(
        {
            "nodes": nodes,
            "edges": [[order.index(end) for end in update.split(">")] for update in updates.split()],
            "conditionalEdges": [
                {
                    "edges": [dict(zip(("from", "to"), update.split(">"), strict=True))],
                    "risks": [
                        {"name": name, "message": f"{name} hurts", "url": f"https://kb/{name}"} for name in names
                    ],
                }
                for update, names in (risky or {}).items()
            ],
        }
    )


class Service:
    """Gives graphs by channel; unknown ones as the real service does, or as a folder of files does."""

    def __init__(self, empty=True, **graphs):
        self.graphs = {name.replace("_", "-").replace("v", "."): found for name, found in graphs.items()}
        self.empty = empty
        self.asked = []

    async def fetch(self, channel, architecture, kind="ocp"):
        self.asked.append((channel, architecture, kind))
        if channel not in self.graphs and not self.empty:
            raise ChannelUnknown(channel, architecture)
        return self.graphs.get(channel, Graph())


# A channel as they are: an older minor in it, releases in no order, one that nothing leads to, a pre-release.
STABLE = graph(
    "4.16.10 4.15.9 4.16.3 4.16.9 4.15.10 4.16.4 4.16.15 4.16.12 4.16.0-rc.1",
    "4.15.9>4.15.10 4.15.10>4.16.3 4.15.10>4.16.4 4.16.3>4.16.4 4.16.3>4.16.9 4.16.3>4.16.10 4.16.4>4.16.10"
    " 4.16.9>4.16.15 4.16.10>4.16.15",
    {"4.16.10>4.16.12": ["Slow"], "4.16.9>4.16.10": ["Crash", "Slow"]},
)
ALL = "4.15.9 4.15.10 4.16.0-rc.1 4.16.3 4.16.4 4.16.9 4.16.10 4.16.12 4.16.15"


async def versions_of(service, *channels):
    selection = await select(channels, "amd64", service.fetch)
    return " ".join(one.version for one in selection.releases)


@pytest.mark.parametrize(
    ("low", "high", "flags", "expected"),
    [
        ("", "", "", "4.16.15"),
        ("", "", "shortest_path", "4.16.15"),
        ("", "", "full", ALL),
        ("4.16.9", "", "", "4.16.9 4.16.10 4.16.12 4.16.15"),
        ("4.16.9", "", "full", "4.16.9 4.16.10 4.16.12 4.16.15"),
        ("", "4.16.3", "", "4.15.9 4.15.10 4.16.0-rc.1 4.16.3"),
        ("", "4.16.3", "full", "4.15.9 4.15.10 4.16.0-rc.1 4.16.3"),
        ("4.16.3", "4.16.10", "", "4.16.3 4.16.4 4.16.9 4.16.10"),
        ("4.16.3", "4.16.10", "full", "4.16.3 4.16.4 4.16.9 4.16.10"),
        ("4.16.12", "4.16.12", "", "4.16.12"),
        ("4.16.0-rc.1", "4.16.3", "", "4.16.0-rc.1 4.16.3"),
        ("4.16.3", "4.16.15", "shortest_path", "4.16.3 4.16.10 4.16.15"),
        ("4.15.10", "", "shortest_path", "4.15.10 4.16.4 4.16.10 4.16.15"),
        ("", "4.16.4", "shortest_path", "4.15.9 4.15.10 4.16.4"),
        ("", "", "full shortest_path", "4.15.9 4.15.10 4.16.4 4.16.10 4.16.15"),
        ("4.16.4", "4.16.4", "shortest_path", "4.16.4"),
    ],
)
async def test_one_channel(low, high, flags, expected):
    service = Service(stable_4v16=STABLE)
    wanted = Channel("stable-4.16", low, high, **dict.fromkeys(flags.split(), True))
    selection = await select([wanted], "amd64", service.fetch)
    assert " ".join(one.version for one in selection.releases) == expected
    assert {one.channels for one in selection.releases} == {("stable-4.16",)}
    assert [str(one.payload) for one in selection.releases] == [payload(one) for one in expected.split()]
    assert selection.warnings == ()
    assert selection.graphs == {"stable-4.16": STABLE}
    assert service.asked == [("stable-4.16", "amd64", "ocp")]


@pytest.mark.parametrize(
    ("low", "high", "flags", "why"),
    [
        ("", "", "", "its head 4.16.15"),
        ("", "", "shortest_path", "its head 4.16.15"),
        ("", "", "full", "its oldest 4.15.9 to its head 4.16.15"),
        ("4.16.9", "", "", "minVersion 4.16.9 to its head 4.16.15"),
        ("", "4.16.3", "full", "its oldest 4.15.9 to maxVersion 4.16.3"),
        ("4.16.3", "4.16.10", "", "minVersion 4.16.3 to maxVersion 4.16.10"),
        ("4.15.10", "", "shortest_path", "shortest path from minVersion 4.15.10 to its head 4.16.15"),
    ],
)
async def test_why(low, high, flags, why):
    wanted = Channel("stable-4.16", low, high, **dict.fromkeys(flags.split(), True))
    selection = await select([wanted], "amd64", Service(stable_4v16=STABLE).fetch)
    assert {one.why for one in selection.releases} == {f"stable-4.16: {why}"}


async def test_nothing_wanted():
    service = Service()
    assert (await select([], "amd64", service.fetch)).releases == ()
    assert service.asked == []


async def test_a_prerelease_may_be_the_head():
    service = Service(candidate_4v17=graph("4.16.9 4.17.0-rc.10 4.17.0-rc.9 4.17.0-ec.3"))
    assert await versions_of(service, Channel("candidate-4.17")) == "4.17.0-rc.10"


async def test_build_metadata_is_no_part_of_a_range():
    service = Service(stable_4v16=graph("4.16.1+amd64 4.16.2 4.16.3+a 4.16.3+b 4.16.4"))
    wanted = Channel("stable-4.16", "4.16.1", "4.16.3")
    assert await versions_of(service, wanted) == "4.16.1+amd64 4.16.2 4.16.3+a 4.16.3+b"
    assert await versions_of(service, Channel("stable-4.16", "4.16.3+a", "4.16.3+a")) == "4.16.3+a 4.16.3+b"


@pytest.mark.parametrize(
    ("updates", "expected"),
    [
        ("1>2 1>3 2>9 3>9", "1 3 9"),  # of two equally short ones the newer
        ("1>2 1>10 2>90 10>90", "1 10 90"),  # newer, not later in the alphabet
        ("1>2 2>3 3>9 1>9", "1 9"),
        ("1>8 8>9 1>2 2>3 3>9", "1 8 9"),  # fewest updates before newest
        ("1>12 12>9 1>2 2>9", "1 12 9"),  # over a newer one, as oc-mirror goes
        ("1>2 2>1 2>9", "1 2 9"),  # around in a circle
    ],
)
def test_the_shortest_path(updates, expected):
    said = " ".join(f"4.16.{one.replace('>', '>4.16.')}" for one in updates.split())
    versions = " ".join(f"4.16.{patch}" for patch in (90, 12, 2, 10, 9, 3, 8, 1))
    goal = expected.split()[-1]
    assert shortest(graph(versions, said), "4.16.1", f"4.16.{goal}") == [f"4.16.{one}" for one in expected.split()]


versions = [f"4.16.{patch}" for patch in range(7)]


@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=20))
def test_a_shortest_path_is_a_path_and_none_is_shorter(pairs):
    drawn = graph(" ".join(versions), " ".join(f"4.16.{one}>4.16.{other}" for one, other in pairs))
    found = shortest(drawn, "4.16.0", "4.16.6")
    reached, hops = {"4.16.0"}, 0
    while "4.16.6" not in reached:
        further = reached | {other for one, other in drawn.edges if one in reached}
        if further == reached:
            assert found is None
            return
        reached, hops = further, hops + 1
    assert len(found) == hops + 1
    assert set(itertools.pairwise(found)) <= drawn.edges


# -- conditional updates


async def test_risks_are_told_of_updates_within_the_selection():
    service = Service(stable_4v16=STABLE)
    selection = await select([Channel("stable-4.16", "4.16.4", "4.16.12")], "amd64", service.fetch)
    slow = "Slow: Slow hurts (https://kb/Slow)"
    assert {one.version: one.risks for one in selection.releases if one.risks} == {
        "4.16.10": (f"the update from 4.16.9 is conditional: Crash: Crash hurts (https://kb/Crash); {slow}",),
        "4.16.12": (f"the update from 4.16.10 is conditional: {slow}",),
    }
    assert (await select([Channel("stable-4.16", "4.16.12", "4.16.12")], "amd64", service.fetch)).releases[
        0
    ].risks == ()


async def test_risks_ascend_by_origin_and_steer_no_terminal():
    names = ["\x1b[2J\u202eEvil\nName\ud800", "x" * 1000]
    service = Service(a=graph("4.16.9 4.16.10 4.16.11", "", {"4.16.10>4.16.11": names, "4.16.9>4.16.11": ["A"]}))
    one = (await select([Channel("a", full=True)], "amd64", service.fetch)).releases[2]
    assert [risk.split(" is ")[0] for risk in one.risks] == ["the update from 4.16.9", "the update from 4.16.10"]
    assert " [2J Evil Name : [2J Evil Name hurts (" in one.risks[1].replace("conditional:", "")
    assert all(letter.isprintable() for risk in one.risks for letter in risk)
    assert len(one.risks[1]) < 1500


async def test_a_path_never_uses_a_conditional_update():
    drawn = graph("4.16.1 4.16.2 4.16.3", "4.16.1>4.16.2 4.16.2>4.16.3", {"4.16.1>4.16.3": ["Bug"]})
    wanted = Channel("stable-4.16", shortest_path=True, full=True)
    assert await versions_of(Service(stable_4v16=drawn), wanted) == "4.16.1 4.16.2 4.16.3"


async def refused(service, *channels):
    with pytest.raises(ConfigurationError) as error:
        await select(channels, "amd64", service.fetch)
    return error.value.problems


async def test_only_a_conditional_update_leads_there():
    wanted = Channel("stable-4.16", "4.16.4", "4.16.12", shortest_path=True, where="set.yaml:12")
    (problem,) = await refused(Service(stable_4v16=STABLE), wanted)
    assert problem.code == "no_update_path"
    assert problem.where == "set.yaml:12"
    assert problem.what == (
        "channel stable-4.16 has no update path from 4.16.4 to 4.16.12: only a conditional update leads there"
        " (4.16.10 to 4.16.12: Slow: Slow hurts (https://kb/Slow))"
    )
    assert "take maxVersion 4.16.10, the newest that can be reached" in problem.remedy
    assert "leave shortestPath out" in problem.remedy


async def test_nothing_leads_there():
    wanted = Channel("stable-4.16", "4.16.15", "4.16.15")
    assert await versions_of(Service(stable_4v16=STABLE), wanted) == "4.16.15"
    wanted = Channel("stable-4.16", "4.16.0-rc.1", "4.16.15", shortest_path=True)
    (problem,) = await refused(Service(stable_4v16=STABLE), wanted)
    assert problem.what == "channel stable-4.16 has no update path from 4.16.0-rc.1 to 4.16.15"
    assert "take other versions" in problem.remedy


# -- what is wrong


@pytest.mark.parametrize(
    ("given", "what", "remedy"),
    [
        ({"min_version": "4.16.5"}, "has no release 4.16.5 for amd64, its minVersion", "nearest: 4.16.4 and 4.16.9"),
        ({"max_version": "4.16.99"}, "has no release 4.16.99 for amd64, its maxVersion", "nearest: 4.16.15"),
        ({"min_version": "4.14.0"}, "has no release 4.14.0", "nearest: 4.15.9"),
        ({"max_version": "4.16.0"}, "has no release 4.16.0 ", "nearest: 4.16.0-rc.1 and 4.16.3"),
        ({"min_version": "4.16"}, "minVersion: '4.16' is not a version", "4.16.3"),
        ({"min_version": "4.16.9", "max_version": "4.16.3"}, "minVersion 4.16.9 .* above maxVersion 4.16.3", "swap"),
    ],
)
async def test_versions_that_are_not_there(given, what, remedy):
    (problem,) = await refused(Service(stable_4v16=STABLE), Channel("stable-4.16", **given))
    assert pytest.raises(AssertionError, match=what).matches(AssertionError(problem.what)), problem.what
    assert remedy in problem.remedy
    assert problem.where == "set.yaml:7"


async def test_a_version_of_another_channel_is_named():
    service = Service(stable_4v16=graph("4.16.1"), fast_4v16=graph("4.16.1 4.16.2"))
    (problem,) = await refused(service, Channel("stable-4.16", "4.16.2"), Channel("fast-4.16"))
    assert problem.remedy == "nearest: 4.16.1; 4.16.2 is in fast-4.16"


@pytest.mark.parametrize("empty", [True, False])
async def test_unknown_channels(empty):
    told = graph("4.16.1", channels="candidate-4.16,stable-4.16,stable-4.17,eus-4.16")
    service = Service(empty, stable_4v16=told)
    one, other = await refused(
        service, Channel("stable-4.61", where="a:1"), Channel("stable-4.16"), Channel("x", where="a:9")
    )
    assert one.code == other.code == "channel_unknown"
    assert one.what == "the update graph has no release in channel stable-4.61 for amd64"
    assert one.remedy == "nearest: stable-4.17, stable-4.16"
    assert (one.where, other.where) == ("a:1", "a:9")
    assert "stable-4.16, fast-4.16" in other.remedy


async def test_an_unknown_channel_alone():
    (problem,) = await refused(Service(), Channel("stabel-4.16"))
    assert problem.remedy == "nearest: stable-4.16"
    (problem,) = await refused(Service(), Channel("eus-4.15"))
    assert "eus-4.16 for even minor versions" in problem.remedy


async def test_all_problems_at_once():
    service = Service(stable_4v16=STABLE)
    problems = await refused(
        service,
        Channel("stable-4.16", "4.16.5", "4.16.6"),
        Channel("fast-4.16"),
        Channel("stable-4.16", "4.16.0-rc.1", "4.16.15", shortest_path=True),
        Channel("stable-4.16", type="okd"),
    )
    assert sorted(one.code for one in problems) == [
        "channel_type",
        "channel_unknown",
        "no_update_path",
        "version_unknown",
        "version_unknown",
    ]
    assert len(service.asked) == 2


@pytest.mark.parametrize("said", ["quay.io/ocp/release:4.16.1", "release@sha256:00", "", "\ud800"])
async def test_a_release_that_is_not_pinned(said):
    service = Service(a=graph("4.16.1 4.16.2", payloads={"4.16.1": said}))
    assert await versions_of(service, Channel("a")) == "4.16.2"
    (problem,) = await refused(service, Channel("a", full=True))
    assert problem.code == "release_not_pinned"
    assert "names release 4.16.1 by" in problem.what


async def test_two_releases_of_one_version():
    service = Service(a=graph("4.16.1"), b=graph("4.16.1", payloads={"4.16.1": payload("other")}))
    (problem,) = await refused(service, Channel("a"), Channel("b"))
    assert "channels a and b name two releases 4.16.1" in problem.what


async def test_a_graph_that_cannot_be_asked_for_is_said_once():
    async def fetch(channel, architecture):
        raise ConfigurationError([Problem("url", "releases.graph is no URL")])

    with pytest.raises(ConfigurationError) as error:
        await select([Channel("a"), Channel("b")], "amd64", fetch)
    assert [one.what for one in error.value.problems] == ["releases.graph is no URL"]


async def test_a_graph_that_is_away():
    async def fetch(channel, architecture):
        raise UpstreamUnavailable("https://graph is away")

    with pytest.raises(UpstreamUnavailable, match="is away"):
        await select([Channel("a"), Channel("b")], "amd64", fetch)


# -- several channels


def minor(number, updates=""):
    """Draw stable-4.<number>: releases .1 and .2 of it and of the minor before, each leading to the next."""
    order = [f"4.{number - 1}.1", f"4.{number - 1}.2", f"4.{number}.1", f"4.{number}.2"]
    steps = [f"{one}>{other}" for one, other in itertools.pairwise(order)]
    return graph(" ".join(order), updates or " ".join(steps))


def minors(**changes):
    return Service(**{f"stable_4v{number}": minor(number) for number in (14, 15, 16)} | changes)


async def test_a_path_leads_from_channel_to_channel():
    service = minors()
    wanted = [Channel("stable-4.14", "4.14.1", "4.14.1"), Channel("stable-4.16", "4.16.1", "4.16.1")]
    selection = await select(wanted, "amd64", service.fetch)
    why = "update path from 4.14.1 (stable-4.14) to 4.16.1 (stable-4.16)"
    assert {one.version: one.why for one in selection.releases} == {
        "4.14.1": f"stable-4.14: minVersion 4.14.1 to maxVersion 4.14.1; {why}",
        "4.14.2": why,  # the head of the first channel, over its maxVersion
        "4.15.1": why,
        "4.15.2": why,
        "4.16.1": f"stable-4.16: minVersion 4.16.1 to maxVersion 4.16.1; {why}",
    }
    assert selection.releases[2].channels == ("stable-4.15", "stable-4.16")
    assert list(selection.graphs) == ["stable-4.14", "stable-4.15", "stable-4.16"]
    assert service.asked[2:] == [("stable-4.15", "amd64", "ocp")]
    assert selection.warnings == ()


async def test_the_lowest_and_the_highest_count_wherever_they_stand():
    wanted = [
        Channel("stable-4.16"),
        Channel("stable-4.15", "4.15.2", "4.15.2"),
        Channel("stable-4.14", "4.14.2", "4.14.2"),
    ]
    service = minors()
    assert await versions_of(service, *wanted) == "4.14.2 4.15.1 4.15.2 4.16.1 4.16.2"
    assert len(service.asked) == 3  # the channel between is wanted itself, and is asked once


async def test_two_channels_of_one_minor():
    service = Service(
        stable_4v16=graph("4.16.1 4.16.2"),
        fast_4v16=graph("4.16.1 4.16.2 4.16.3 4.16.4 4.16.5", "4.16.1>4.16.3 4.16.3>4.16.5 4.16.1>4.16.4"),
    )
    wanted = Channel("stable-4.16", "4.16.1", "4.16.1"), Channel("fast-4.16")
    assert await versions_of(service, *wanted) == "4.16.1 4.16.3 4.16.5"


async def test_one_channel_that_holds_both_ends_is_no_crossing():
    service = Service(stable_4v16=STABLE, fast_4v16=graph("4.16.4"))
    wanted = Channel("stable-4.16", "4.16.0-rc.1", "4.16.15"), Channel("fast-4.16")
    selection = await select(wanted, "amd64", service.fetch)
    assert selection.warnings == ()


async def test_a_channel_named_twice():
    service = Service(stable_4v16=STABLE)
    wanted = Channel("stable-4.16"), Channel("stable-4.16", "4.16.3", "4.16.3")
    assert await versions_of(service, *wanted) == "4.16.3 4.16.10 4.16.15"
    assert len(service.asked) == 1


async def test_where_the_next_channel_lacks_the_head_only_what_was_asked_is_taken():
    service = minors(stable_4v15=graph("4.14.1 4.15.1", "4.14.1>4.15.1"))
    wanted = [Channel("stable-4.14", "4.14.1", "4.14.1"), Channel("stable-4.16")]
    selection = await select(wanted, "amd64", service.fetch)
    assert [one.version for one in selection.releases] == ["4.14.1", "4.16.2"]
    (warning,) = selection.warnings
    assert warning == (
        "no update path from 4.14.1 to 4.16.2: channel stable-4.15 does not hold 4.14.2, the newest before it is"
        " 4.14.1: only what each channel means itself is taken"
    )
    assert list(selection.graphs) == ["stable-4.14", "stable-4.16"]


async def test_no_crossing_is_an_error_where_a_shortest_path_was_asked_for():
    service = minors(stable_4v15=minor(15, "4.14.1>4.14.2 4.15.1>4.15.2"))
    wanted = [
        Channel("stable-4.14", "4.14.1", "4.14.2", shortest_path=True),
        Channel("stable-4.16", where="set.yaml:9"),
    ]
    (problem,) = await refused(service, *wanted)
    assert problem.code == "no_update_path"
    assert problem.where == "set.yaml:9"
    assert problem.what == (
        "no update path from 4.14.1 to 4.16.2: channel stable-4.15 has no update path from 4.14.2 to 4.15.2"
    )
    assert "two image sets" in problem.remedy


async def test_a_crossing_over_a_conditional_update_alone():
    drawn = graph("4.14.2 4.15.1", "", {"4.14.2>4.15.1": ["Bug"]})
    service = Service(stable_4v14=graph("4.14.2"), stable_4v15=drawn)
    selection = await select([Channel("stable-4.14"), Channel("stable-4.15")], "amd64", service.fetch)
    (warning,) = selection.warnings
    assert "only a conditional update leads there (4.14.2 to 4.15.1: Bug: Bug hurts (https://kb/Bug))" in warning
    assert selection.releases[1].risks


@pytest.mark.parametrize("empty", [True, False])
async def test_eus_channels_pass_over_what_does_not_exist(empty):
    service = Service(
        empty,
        eus_4v14=graph("4.14.1 4.14.2", "4.14.1>4.14.2"),
        eus_4v16=graph("4.14.2 4.15.7 4.16.1", "4.14.2>4.15.7 4.15.7>4.16.1"),
    )
    selection = await select([Channel("eus-4.14", "4.14.1"), Channel("eus-4.16")], "amd64", service.fetch)
    assert [one.version for one in selection.releases] == ["4.14.1", "4.14.2", "4.15.7", "4.16.1"]
    (warning,) = selection.warnings
    assert warning.startswith("eus-4.16 from 4.14.1 to 4.16.1 spans 2 minor versions: an update between EUS releases")
    assert "passes through 4.15," in warning


async def test_an_eus_channel_that_spans_minors_itself():
    service = Service(eus_4v16=graph("4.14.2 4.15.7 4.16.1"))
    assert len((await select([Channel("eus-4.16", "4.14.2")], "amd64", service.fetch)).warnings) == 1
    assert (await select([Channel("eus-4.16", "4.15.7")], "amd64", service.fetch)).warnings == ()


@pytest.mark.parametrize(
    ("one", "other"), [("lab", "stable-4.16"), ("stable-4.14", "stable-5.0"), ("a-4.1", "a-4.999")]
)
async def test_channels_whose_names_say_no_way(one, other):
    service = Service()
    service.graphs = {one: graph("4.14.1"), other: graph("4.14.1 4.16.1", "4.14.1>4.16.1")}
    assert await versions_of(service, Channel(one), Channel(other)) == "4.14.1 4.16.1"
    assert len(service.asked) == 2
    service.graphs[other] = graph("4.16.1")
    selection = await select([Channel(one), Channel(other)], "amd64", service.fetch)
    assert "does not hold 4.14.1: only what" in selection.warnings[0]


async def test_okd_has_a_graph_of_its_own_and_no_crossing():
    service = minors(stable_4=graph("4.5.0-0.okd-2020-08-12-020541 4.5.0-0.okd-2020-10-15-235428"))
    wanted = [Channel("stable-4", type="okd"), Channel("stable-4.16")]
    selection = await select(wanted, "amd64", service.fetch)
    assert [one.version for one in selection.releases] == ["4.5.0-0.okd-2020-10-15-235428", "4.16.2"]
    assert selection.warnings == ()
    assert service.asked == [("stable-4", "amd64", "okd"), ("stable-4.16", "amd64", "ocp")]


async def test_the_selection_makes_the_same_excerpts_again():
    wanted = [Channel("stable-4.14", "4.14.1"), Channel("stable-4.16", "4.16.1")]
    texts = set()
    for channels in (wanted, wanted[::-1]):
        selection = await select(channels, "arm64", minors().fetch)
        chosen = [one.version for one in selection.releases]
        assert chosen == sorted(chosen, key=Version.parse)
        texts.add(json.dumps({name: excerpt(found, chosen) for name, found in selection.graphs.items()}))
    assert len(texts) == 1
