"""Whom a failure counts against: the repository that was asked for, or its endpoint."""

import pytest

from mirror.upstream.breakers import Breakers


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def play(breakers, clock, said):
    """One step a letter: a and b fail, A and B answer, x cannot be reached, `.` is ten seconds."""
    for one in said:
        if one == ".":
            clock.now += 10
            continue
        repository = one.lower()
        breakers.begin(repository)
        if one == "x":
            breakers.unreachable(repository)
        elif one == repository:
            breakers.failed(repository)
        else:
            breakers.succeeded(repository)


@pytest.mark.parametrize(
    ("said", "endpoint", "waiting"),
    [
        ("aaaa", "closed", ""),
        ("aaaaa", "closed", "a"),
        ("aaaaaaaaaa", "closed", "a"),
        ("aaaaab", "closed", "a"),
        ("aabbb", "closed", ""),
        ("aaabbbb", "closed", ""),
        ("abcdef", "open", ""),
        ("ababab", "open", ""),
        ("aAbAcAdAeA", "closed", ""),
        ("a....b....c....d....e....f", "closed", ""),
        ("xxxxx", "open", ""),
        ("xxxx", "closed", ""),
        ("aaaaxa", "closed", "a"),
        ("xxxxab", "open", ""),
        ("aaaaaA", "closed", ""),
    ],
)
def test_a_repositorys_trouble_is_its_own_until_a_second_one_agrees(said, endpoint, waiting):
    clock = Clock()
    breakers = Breakers(clock)
    play(breakers, clock, said)
    assert breakers.endpoint.state == endpoint
    assert [name for name in "abcdef" if breakers.wait(name)] == list(waiting)


def test_a_repository_that_always_fails_is_no_verdict_on_an_endpoint_that_has_rested():
    clock = Clock()
    breakers = Breakers(clock)
    play(breakers, clock, "ababab......")
    assert breakers.endpoint.state == "half-open"
    play(breakers, clock, "a")
    assert breakers.endpoint.wait() == 0
    play(breakers, clock, "b")
    assert breakers.endpoint.wait() == 10


def test_a_repository_is_tried_again_after_its_rest():
    clock = Clock()
    breakers = Breakers(clock)
    play(breakers, clock, "aaaaa")
    assert breakers.wait("a") == 5
    clock.now += 5
    assert breakers.wait("a") == 0
    breakers.begin("a")
    assert breakers.wait("a") > 0  # one at a time
    breakers.abandoned("a")
    assert breakers.wait("a") == 0
    play(breakers, clock, "a")
    assert breakers.wait("a") == 10


def test_repositories_take_little_room():
    breakers = Breakers(Clock())
    for number in range(1000):
        breakers.failed(f"a{number}")
    assert len(breakers._repositories) == len(breakers._failed) <= 256
