"""What mirror.yaml says about clients: who may pull, push and delete what, and how much of it."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, PrivateAttr

from mirror.config.fields import FilePath, Flag, Pattern, Section, Size, as_items, one_of, parse_word, refuse_none
from mirror.config.patterns import Matcher
from mirror.config.values import SpellingError, expect_text, quote

Verb = Literal["pull", "push", "delete"]
VERBS: tuple[Verb, ...] = ("pull", "push", "delete")
Anonymous = Literal["pull", "none", "push"]

ANYBODY = "*"
ANONYMOUS = "anonymous"
AUTHENTICATED = "authenticated"
# What the name of a robot and of a certificate's holder starts with. No user's may, so that nobody passes for one.
ROBOT = "robot+"
CERTIFICATE = "cert:"

_LONGEST_NAME = 255
# A robot's name, without what it starts with.
_ROBOT = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_LONGEST_ROBOT = 64


def check_user(value: object) -> str:
    """Return `value` if it is the name of a user, as an htpasswd file may hold it; raise SpellingError.

    A colon ends the name in that file and in a Basic login (RFC 7617, section 2).
    """
    text = expect_text(value)
    if text in (ANYBODY, ANONYMOUS, AUTHENTICATED) or text.startswith((ROBOT, CERTIFICATE)):
        raise SpellingError(f"{quote(text)} is no user's name: it means something else in rules", "choose another name")
    if ":" in text or not is_plain(text):
        raise SpellingError(
            f"{quote(text)} is not the name of a user",
            f"use at most {_LONGEST_NAME} printable characters, without a colon and without spaces around them",
        )
    return text


def check_robot(value: object) -> str:
    """Return `value` if it is a robot's name without its prefix; raise SpellingError."""
    text = expect_text(value)
    if len(text) > _LONGEST_ROBOT or _ROBOT.fullmatch(text) is None:
        raise SpellingError(
            f"{quote(text)} is not the name of a robot",
            f"use at most {_LONGEST_ROBOT} lower-case letters and digits, with . _ - between them",
        )
    return text


def is_plain(text: str) -> bool:
    """Tell whether a name can be shown and compared: printable, not too long, and the same when its ends are cut."""
    return 0 < len(text) <= _LONGEST_NAME and text.isprintable() and text == text.strip()


def _parse_who(value: object) -> str:
    text = expect_text(value)
    if text in (ANYBODY, ANONYMOUS, AUTHENTICATED):
        return text
    if text.startswith(ROBOT):
        return ROBOT + check_robot(text.removeprefix(ROBOT))
    if text.startswith(CERTIFICATE) and is_plain(text.removeprefix(CERTIFICATE)):
        return text
    return check_user(text)


def _parse_anonymous(value: object) -> str:
    return parse_word(value, ("pull", "none", "push"))


class Rule(Section):
    """One rule: what some clients may do in some repositories. The first that fits both decides."""

    who: Annotated[
        tuple[Annotated[str, BeforeValidator(_parse_who)], ...],
        BeforeValidator(as_items),
        AfterValidator(refuse_none),
    ]
    """Users, robots (robot+NAME), certificates (cert:NAME), anonymous, authenticated, or * for everybody."""
    repositories: Annotated[tuple[Pattern, ...], BeforeValidator(as_items), AfterValidator(refuse_none)]
    """Patterns of canonical names, the upstream's key included."""
    may: Annotated[tuple[Annotated[Verb, one_of(*VERBS)], ...], BeforeValidator(as_items)]
    """What they may do there; an empty list is nothing."""
    quota: Size | None = None
    """The most bytes that the repositories of this rule may hold together."""

    _matcher: Matcher = PrivateAttr()
    _who: frozenset[str] = PrivateAttr()

    def model_post_init(self, _context: Any, /) -> None:
        """Prepare what every request asks."""
        self._matcher = Matcher(self.repositories)
        self._who = frozenset(self.who)

    def covers(self, name: str) -> bool:
        """Tell whether a repository, by its canonical name, is one of this rule's."""
        return self._matcher.matches(name)

    def names(self, name: str) -> bool:
        """Tell whether `who` lists exactly this."""
        return name in self._who

    def __eq__(self, other: object) -> bool:
        # The private attributes follow from the keys.
        return isinstance(other, Rule) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return self.who, self.repositories, self.may, self.quota


def anybody_may(verb: Verb, covering: Iterable[Rule], anonymous: Container[Verb]) -> bool:
    """Tell whether everybody may do this where the rules `covering` count, in their order, whoever they are or are not.

    `anonymous` is what clients without a login may do where no rule counts.
    """
    covered = False
    for rule in covering:
        covered = True
        if rule.names(ANONYMOUS) or rule.names(ANYBODY):
            return verb in rule.may
    return not covered and verb in anonymous


def anybody_enters(anonymous: Anonymous, rules: Iterable[Rule]) -> bool:
    """Tell whether there is anything that clients without a login may do."""
    return anonymous != "none" or any(rule.may and (rule.names(ANONYMOUS) or rule.names(ANYBODY)) for rule in rules)


class Readers:
    """Which repositories have the same readers, by `clients.anonymous` and `clients.rules`."""

    def __init__(self, anonymous: Anonymous = "pull", rules: Sequence[Rule] = ()) -> None:
        self._rules = tuple(rules)
        self._anonymous: tuple[Verb, ...] = () if anonymous == "none" else ("pull",)
        # Whether everybody may pull everything.
        self.everybody = bool(self._anonymous) and not rules

    def of(self, name: str) -> tuple[int, ...]:
        """Return what is equal for two repositories with the same readers: the rules that cover it, empty for none."""
        return tuple(number for number, rule in enumerate(self._rules) if rule.covers(name))

    def anybody(self, name: str) -> bool:
        """Tell whether everybody may pull from a repository, whoever they are or are not."""
        return anybody_may("pull", (rule for rule in self._rules if rule.covers(name)), self._anonymous)

    def no_more(self, name: str, other: str) -> bool:
        """Tell whether surely nobody may pull from `name` who may not pull from `other`."""
        return self.anybody(other) or self.of(name) == self.of(other)


class Clients(Section):
    """Who may do what here."""

    anonymous: Annotated[Anonymous, BeforeValidator(_parse_anonymous)] = "pull"
    """What clients without a login may do in repositories that no rule names."""
    htpasswd: FilePath | None = None
    """Users and their bcrypt hashes, a line each; reread when it changes."""
    rules: tuple[Rule, ...] = ()
    """Who may do what in which repositories: the first rule that fits the repository and the client decides."""
    catalog: Flag = False
    """Whether clients without a login get /v2/_catalog."""
