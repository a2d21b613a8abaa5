"""What mirror.yaml says about one upstream: where it answers, as whom we go there, what may be pulled, how fresh."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationInfo, field_validator

from mirror.config.addresses import DOCKER_HUB_ENDPOINT, DOCKER_HUB_SYNONYMS, parse_endpoint
from mirror.config.fields import (
    Duration,
    FilePath,
    Flag,
    Host,
    HostOrNetwork,
    OpenDuration,
    Pattern,
    ProxyUrl,
    Section,
    Text,
)
from mirror.config.patterns import Matcher
from mirror.config.values import SpellingError, expect_text, quote
from mirror.errors import NameInvalid
from mirror.oci.reference import check_name


def _check_key(value: object) -> str:
    text = expect_text(value)
    remedy = "use one component of a repository name (lower-case letters and digits, with . _ - between them)"
    if ":" in text and "/" not in text:
        host = text.partition(":")[0].replace(":", "-")
        raise SpellingError(
            f"the key {quote(text)} holds a colon, which no repository name may",
            f"choose a key such as `{host}` and give it `endpoints: [https://{text}]`",
        )
    if text == "v2":
        raise SpellingError("the key `v2` is the API's own first word", "choose another key and give it endpoints")
    try:
        if "/" in check_name(text):
            raise SpellingError(f"the key {quote(text)} holds a slash", "use the host alone; endpoints may hold a path")
    except NameInvalid:
        if text.lower() != text:
            remedy = f"write `{text.lower()}`"
        raise SpellingError(f"the key {quote(text)} is not the name of an upstream", remedy) from None
    return text


def _check_endpoint(value: object, info: ValidationInfo) -> str:
    return parse_endpoint(value, plain_http=info.data.get("plain_http", False))


def _refuse_repeated(endpoints: tuple[str, ...]) -> tuple[str, ...]:
    for index, endpoint in enumerate(endpoints):
        if endpoint in endpoints[:index]:
            raise SpellingError(f"{quote(endpoint)} is listed twice", "leave one of them out")
    return endpoints


class Credentials(Section):
    """As whom we go to an upstream."""

    username: Text
    """The user, robot or service account."""
    password_file: FilePath
    """The file that holds the password or token; a newline at its end does not count."""


class Repositories(Section):
    """Which repositories of an upstream may be pulled, by their names without the upstream's key."""

    allow: tuple[Pattern, ...] = ("**",)
    """Patterns that may be pulled."""
    deny: tuple[Pattern, ...] = ()
    """Patterns that may not, whatever `allow` says."""

    _allowed: Matcher = PrivateAttr()
    _denied: Matcher = PrivateAttr()

    def model_post_init(self, _context: Any, /) -> None:
        """Prepare the matchers, which every request uses."""
        self._allowed = Matcher(self.allow)
        self._denied = Matcher(self.deny)

    def allows(self, repository: str) -> bool:
        """Tell whether `repository`, a name without the upstream's key, may be pulled."""
        return self._allowed.matches(repository) and not self._denied.matches(repository)

    def __eq__(self, other: object) -> bool:
        # The matchers follow from the patterns.
        return isinstance(other, Repositories) and (self.allow, self.deny) == (other.allow, other.deny)

    def __hash__(self) -> int:
        return hash((self.allow, self.deny))


class TagRules(Section):
    """How long what a tag means is believed, in seconds."""

    fresh_for: Duration = 300.0
    """Within this the known digest is served without asking; 0: every request asks, and no absence is remembered."""
    absent_for: Duration = 10.0
    """Within this a name that upstream did not have is not asked for again."""
    stale_for: OpenDuration = math.inf
    """How long after its last check a known digest is served while upstream cannot be asked."""


class UpstreamConfig(Section):
    """One upstream. `name` is its key under `upstreams`, and the path prefix under this registry."""

    name: Annotated[str, BeforeValidator(_check_key)] = Field(exclude=True)
    """The key: the host as image names spell it, or any one component of a repository name."""
    plain_http: Flag = False
    """Endpoints without a scheme are http."""
    endpoints: Annotated[
        tuple[Annotated[str, BeforeValidator(_check_endpoint)], ...], AfterValidator(_refuse_repeated)
    ] = Field(default=(), validate_default=True)
    """Base URLs, tried in order: requests go to <endpoint>/v2/<repository>. Never empty after validation."""
    ca: FilePath | None = None
    """A PEM bundle that this upstream's certificates are verified with, beside the system's and the general `ca`."""
    client_certificate: FilePath | None = None
    """A PEM certificate (chain) that we show to this upstream."""
    client_key: FilePath | None = None
    """Its private key."""
    proxy: ProxyUrl | None = None
    """The forward proxy to this upstream, in place of the general one."""
    credentials: Credentials | None = None
    """As whom we go there; without it the pull secrets are looked up by each endpoint's own host[:port]/repository."""
    auth_realms: tuple[Host, ...] = ()
    """Hosts (host or host:port) outside the endpoint's domain whose token service may see the credentials."""
    redirects: tuple[HostOrNetwork, ...] = ()
    """Hosts (with or without a port) and networks that a redirect or realm may lead to although they are private."""
    repositories: Repositories = Repositories()
    """Which repositories may be pulled."""
    tags: TagRules = TagRules()
    """How fresh tags are."""

    @field_validator("endpoints", mode="after")
    @classmethod
    def _default_endpoint(cls, endpoints: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        key = info.data.get("name")
        if endpoints or key is None:
            return endpoints
        if key in DOCKER_HUB_SYNONYMS:
            return (DOCKER_HUB_ENDPOINT,)
        try:
            return (parse_endpoint(key, plain_http=info.data.get("plain_http", False)),)
        except SpellingError:
            what = f"the key {quote(key)} is no host name, so nothing says where it is"
            raise SpellingError(what, "give it `endpoints`") from None

    @property
    def has_credential(self) -> bool:
        """Whether this upstream is shown who we are by something of its own (pull secrets aside)."""
        return self.credentials is not None or self.client_certificate is not None
