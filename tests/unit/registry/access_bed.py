"""Users, robots, certificates and rules, and a gate that decides by them."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import bcrypt
from aiohttp.test_utils import make_mocked_request

from mirror.config.access import VERBS, Rule
from mirror.content.answers import Target
from mirror.errors import MirrorError, NameUnknown
from mirror.registry.access import Access
from mirror.registry.bearer import Signer
from mirror.registry.clients import ANONYMOUS, Clients, Principal, principal_of
from mirror.registry.errors import row_of
from mirror.registry.gate import Gate
from mirror.registry.htpasswd import Htpasswd
from mirror.registry.logins import Logins, basic
from mirror.registry.robots import Robots
from mirror.registry.routes import parse
from mirror.store.tokens import Tokens, new_secret

PASSWORD = "correct horse"
KEY = bytes(range(32))


def hashed(password: str = PASSWORD, kind: str = "$2b$") -> str:
    """Return a bcrypt hash that costs a millisecond."""
    made = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    return kind + made[4:]


def rule(who: str, repositories: str, *may: str, quota: int | None = None) -> Rule:
    return Rule.model_validate({"who": who, "repositories": repositories, "may": list(may), "quota": quota})


def resolve(name: str, ns: str | None = None, prefix: str | None = None) -> Target:
    """One upstream, quay.io, an alias to it, a loaded set under loaded.io, and everything else hosted here."""
    name = f"{prefix}/{name}" if prefix else name
    if ns == "quay.io" and not prefix:  # the path decides
        return Target("quay.io", name, f"quay.io/{name}")
    if name == "short/app":
        return Target("quay.io", "org/app", "quay.io/org/app", aliased=True)
    first, _, rest = name.partition("/")
    if first == "quay.io":
        return Target("quay.io", rest, name)
    if first == "loaded.io":
        return Target("", name, name)
    if "." in first:
        raise NameUnknown(f"no upstream '{first}' is configured here")
    return Target("", name, name, hosted=True)


class Bed:
    """A registry's access, without the registry: `users` maps names to passwords, robots are made by `robot`."""

    def __init__(
        self,
        folder: Path,
        *rules: Rule,
        anonymous: Any = "pull",
        users: Sequence[str] | None = ("alice", "bob"),
        catalog: bool = False,
        certificates: bool = False,
        external_url: str | None = None,
        robots: bool = True,
        delay: float = 0,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.now: float = int(time.time())
        self.monotonic = 0.0
        self.path = folder / "htpasswd"
        self.htpasswd = None
        if users is not None:
            self.path.write_text("".join(f"{name}:{hashed()}\n" for name in users))
            self.htpasswd = Htpasswd(self.path, clock=lambda: self.monotonic)
        self.tokens = Tokens(folder / "tokens")
        self.robots = Robots(self.tokens) if robots else None
        self.signer = Signer(KEY, clock=lambda: self.now)
        self.logins = Logins(self.signer, self.htpasswd, self.robots, delay=delay, clock=lambda: self.now)
        self.clients = Clients(anonymous != "none")
        self.access = Access(anonymous, rules, catalog=catalog)
        self.gate = Gate(
            self.access,
            self.clients,
            resolve,
            logins=self.logins,
            certificates=certificates,
            external_url=external_url,
        )

    def robot(self, name: str, repositories: str, *may: Any, expires: float | None = None) -> tuple[str, str]:
        """Make a token; return its id and the Authorization header that goes with it."""
        secret = new_secret()
        made = self.tokens.create(secret, name, [repositories], may or VERBS, expires)
        return made.id, basic(made.user, secret)

    def token(self, principal: Principal = ANONYMOUS, **access: Sequence[str]) -> str:
        """Return an Authorization header with a token of ours; __ in names stands for /."""
        granted = {name.replace("__", "/"): list(verbs) for name, verbs in access.items()}
        return f"Bearer {self.logins.issue(principal, granted)[0]}"

    async def ask(self, target: str, method: str = "GET", header: str | None = None, **more: Any) -> Principal:
        """Send a request through the gate; return who was let in, or raise what it is refused with."""
        headers = {"Host": "mirror.lab:5000", **({"Authorization": header} if header else {}), **more}
        request = make_mocked_request(method, target, headers=headers)
        route = parse(target)
        principal = await self.gate.identify(request, route, "192.0.2.1", self._arrived())
        assert principal_of(request) is principal
        await self.gate.authorise(request, route, principal, "192.0.2.1")
        return principal

    async def outcome(self, target: str, method: str = "GET", header: str | None = None, **more: Any) -> str:
        """Return `in`, or the status and what a challenge says: `404`, `401 Bearer insufficient_scope`."""
        try:
            await self.ask(target, method, header, **more)
        except MirrorError as error:
            words = [str(row_of(error).status)]
            challenge = getattr(error, "challenge", "")
            if challenge:
                words.append(challenge.partition(" ")[0])
                words += [word for word in ("insufficient_scope", "invalid_token") if f'error="{word}"' in challenge]
            return " ".join(words)
        return "in"

    def _arrived(self) -> float:
        import asyncio

        return asyncio.get_running_loop().time()

    def close(self) -> None:
        if self.htpasswd is not None:
            self.htpasswd.close()


def header_of(user: str, password: str = PASSWORD) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


Make = Callable[..., Bed]


@contextmanager
def beds(folder: Path) -> Iterator[Make]:
    """Make beds in folders of their own, and close them at the end."""
    with ExitStack() as stack:

        def make(*rules: Any, **more: Any) -> Bed:
            made = Bed(folder / str(next(number)), *rules, **more)
            stack.callback(made.close)
            return made

        number = count()
        yield make
