"""How an upstream's endpoints fare, for `status`, `explain` and `check --online`."""

from __future__ import annotations

from dataclasses import dataclass

from mirror.upstream.login import CredentialState


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """One endpoint: its breaker (`closed`, `open`, `half-open`), the last error (empty after a success), the login.

    `asked_again` is in how many seconds it is asked again, 0 for now; `judged` when it last answered or failed, on the
    host's monotonic clock, 0 for never.
    """

    endpoint: str
    breaker: str
    asked_again: float
    last_error: str
    credential: CredentialState
    judged: float = 0.0


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one endpoint answered when it was tried: `credential` says where the login was found, empty for none."""

    endpoint: str
    credential: str
    ok: bool
    what: str
    remedy: str = ""
