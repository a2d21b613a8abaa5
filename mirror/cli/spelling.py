"""How the options about users and robots are spelled; each function raises SpellingError."""

from __future__ import annotations

import math

from mirror.config.access import VERBS, Verb, check_robot, check_user
from mirror.config.addresses import parse_host_and_port
from mirror.config.patterns import parse_pattern
from mirror.config.values import SpellingError, parse_duration, quote

NEVER = "never"


def robot(value: str) -> str:
    """Return a robot's name, given with or without what it logs in with before it."""
    return check_robot(value.removeprefix("robot+"))


def user(value: str) -> str:
    """Return a user's name."""
    return check_user(value)


def expiry(value: str) -> float:
    """Return for how many seconds a token is good, infinity for `never`."""
    if value == NEVER:
        return math.inf
    seconds = parse_duration(value)
    if seconds <= 0:
        raise SpellingError(f"{quote(value)} expires before it begins", "write a duration such as 90d, or never")
    return seconds


def patterns(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return patterns of canonical repository names, without those that stand twice."""
    return tuple(dict.fromkeys(parse_pattern(value) for value in values))


def verbs(value: str) -> tuple[Verb, ...]:
    """Return the verbs of a list with commas."""
    stated = [word.strip() for word in value.split(",")]
    unknown = [word for word in stated if word not in VERBS]
    if unknown:
        raise SpellingError(f"{quote(unknown[0])} is not one of {', '.join(VERBS)}", "separate them by commas")
    return tuple(verb for verb in VERBS if verb in stated)


def host(value: str) -> str:
    """Return host or host:port."""
    return parse_host_and_port(value)
