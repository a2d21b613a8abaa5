"""What a check found: findings with a severity, the configuration as it is understood, and both ways to show them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from mirror.config import Config, Proxy
from mirror.errors import ConfigurationError, Problem
from mirror.upstream.health import ProbeResult

SCHEMA = 1
FAILED = 1
INVALID = 78  # EX_CONFIG of sysexits.h

Severity = Literal["error", "warning", "information"]
_ORDER: tuple[Severity, ...] = ("error", "warning", "information")


class Finding(Problem):
    """A problem and how much it matters: an error fails the check, a warning may be meant, information only tells."""

    __slots__ = ("severity",)

    def __init__(self, severity: Severity, code: str, what: str, where: str = "", remedy: str = "") -> None:
        super().__init__(code, what, where, remedy)
        self.severity = severity

    def as_dict(self) -> dict[str, str]:
        """The form that `--json` lists under `problems`: a problem's, with the severity."""
        return {"severity": self.severity, **super().as_dict()}


@dataclass(frozen=True, slots=True)
class UpstreamReport:
    """One upstream: where it answers, as whom we go there (empty: nobody), by which proxy, and how trying it went."""

    name: str
    endpoints: tuple[str, ...]
    login: str
    proxy: Proxy
    probes: tuple[ProbeResult, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The form that `--json` lists under `upstreams`."""
        probes = [
            {"endpoint": probe.endpoint, "ok": probe.ok, "credential": probe.credential, "what": probe.what}
            for probe in self.probes
        ]
        return {
            "name": self.name,
            "endpoints": list(self.endpoints),
            "login": self.login,
            "proxy": self.proxy.shown,
            "proxy_source": self.proxy.source,
            "probes": probes,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found. `configuration` is the resolved one as plain data, without a secret in it."""

    findings: Sequence[Finding]
    configuration: Mapping[str, Any] = field(default_factory=dict)
    upstreams: Sequence[UpstreamReport] = ()
    proxy: Proxy = field(default_factory=Proxy)

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings and information do not count."""
        return all(finding.severity != "error" for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """0; 78 if the configuration is wrong; 1 if it is not, and an upstream failed when it was tried."""
        wrong = {finding.code for finding in self.findings if finding.severity == "error"}
        if not wrong:
            return 0
        return FAILED if wrong == {"upstream_failed"} else INVALID

    def as_dict(self) -> dict[str, Any]:
        """Return the one object that `mirror check --json` prints."""
        return {
            "schema": SCHEMA,
            "command": "check",
            "ok": self.ok,
            "exit": self.exit_code,
            "problems": [finding.as_dict() for finding in _sorted(self.findings)],
            "configuration": dict(self.configuration),
            "proxy": {"url": self.proxy.shown, "source": self.proxy.source},
            "upstreams": [upstream.as_dict() for upstream in self.upstreams],
        }

    def render(self, *, quiet: bool = False) -> str:
        """Return the report as lines for people; quiet: only errors and warnings."""
        lines: list[str] = []
        if not quiet and self.configuration:
            lines += ["The configuration as it is understood:", ""]
            dumped = yaml.safe_dump(_without_empty(dict(self.configuration)), sort_keys=False, allow_unicode=True)
            lines += [f"  {line}" for line in dumped.splitlines()]
            lines += ["", *self._egress(), ""]
        for finding in _sorted(self.findings):
            if not (quiet and finding.severity == "information"):
                lines += _render_finding(finding)
        counts = [f"{_count(self.findings, severity)} {_plural(self.findings, severity)}" for severity in _ORDER[:2]]
        lines.append(("" if not self.ok else "The configuration is valid: ") + ", ".join(counts))
        return "\n".join(lines) + "\n"

    def _egress(self) -> Iterator[str]:
        for upstream in self.upstreams:
            login = upstream.login or "nobody (anonymous)"
            yield f"{upstream.name}: {', '.join(upstream.endpoints)}; as {login}; {_way(upstream.proxy)}"
            for probe in upstream.probes:
                yield f"  {probe.endpoint}: {'ok' if probe.ok else 'failed'}, {probe.what}"
        if not self.upstreams:
            yield f"No upstream; everything else that goes out: {_way(self.proxy)}"


def report_invalid(error: ConfigurationError) -> Report:
    """Return the report of a file that is no configuration at all."""
    findings = [Finding("error", found.code, found.what, found.where, found.remedy) for found in error.problems]
    return Report(findings)


def describe(config: Config) -> dict[str, Any]:
    """Return the configuration as mirror.yaml would spell it. It names secrets' files and holds no secret."""
    described: dict[str, Any] = config.model_dump(mode="json")
    return described


def _without_empty(described: Any) -> Any:
    """Return plain data without the keys that are not set: people look for what is."""
    if not isinstance(described, dict):
        return described
    pairs = ((key, _without_empty(value)) for key, value in described.items())
    return {key: value for key, value in pairs if value is not None}


def _sorted(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def _render_finding(finding: Finding) -> list[str]:
    where = f"{finding.where}: " if finding.where else ""
    lines = [f"{finding.severity}: {where}{finding.what}  [{finding.code}]"]
    if finding.remedy:
        lines.append(f"    {finding.remedy}")
    return lines


def _way(proxy: Proxy) -> str:
    return f"by the proxy {proxy.shown} ({proxy.source})" if proxy.shown else "directly"


def _count(findings: Sequence[Finding], severity: Severity) -> int:
    return sum(finding.severity == severity for finding in findings)


def _plural(findings: Sequence[Finding], severity: Severity) -> str:
    return severity if _count(findings, severity) == 1 else f"{severity}s"
