"""What is wrong or missing in a configuration, before anything serves by it.

surroundings    who will read the secrets, what is mounted where, what time it is
files -> certificates, logins     what the configuration names, and what is inside
storage, exposure                 where content goes, and who reaches what
report          findings with a severity, and the two ways to show them
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from mirror.admin.check.certificates import find_in_certificates
from mirror.admin.check.clients import find_in_clients
from mirror.admin.check.exposure import find_in_exposure
from mirror.admin.check.files import find_in_files
from mirror.admin.check.logins import describe_login, find_in_logins, read_pull_secrets
from mirror.admin.check.report import Finding, Report, UpstreamReport, describe, report_invalid
from mirror.admin.check.storage import StoreProbe, find_in_storage
from mirror.admin.check.surroundings import Surroundings, User
from mirror.config import Config, Proxy, effective_proxy
from mirror.errors import ConfigurationError, MirrorError
from mirror.upstream.health import ProbeResult

__all__ = ["Finding", "Report", "Surroundings", "UpstreamReport", "User", "check", "report_invalid"]

# Tries every endpoint and credential of the upstream of this name.
Probe = Callable[[str], Awaitable[list[ProbeResult]]]

_PROBES_AT_ONCE = 8
# Longer than one endpoint may take to be given up on, shorter than a person's patience.
_PROBE_SECONDS = 60.0


async def check(
    config: Config,
    *,
    online: bool,
    environ: Mapping[str, str],
    probe: Probe | None = None,
    probe_store: StoreProbe | None = None,
    surroundings: Surroundings | None = None,
) -> Report:
    """Return all that is wrong, missing or perhaps not meant in a configuration that loads.

    Only `online` contacts anybody, by `probe`. `probe_store` says what the file system of an existing store does not
    keep; it runs in a thread. `environ` is the service's environment, for its proxies and credentials directory.
    """
    report = await asyncio.to_thread(_check_here, config, environ, probe_store, surroundings)
    if not online or probe is None or config.offline:
        return report
    places = asyncio.Semaphore(_PROBES_AT_ONCE)
    tried = await asyncio.gather(*(_try(config, upstream, probe, places) for upstream in report.upstreams))
    upstreams = [upstream for upstream, _ in tried]
    return replace(report, upstreams=upstreams, findings=[*report.findings, *(f for _, found in tried for f in found)])


def _check_here(
    config: Config,
    environ: Mapping[str, str],
    probe_store: StoreProbe | None,
    surroundings: Surroundings | None,
) -> Report:
    around = surroundings or Surroundings.look(environ, config.storage.path)
    secrets, findings = read_pull_secrets(config)
    findings = [
        *find_in_files(config, around),
        *find_in_certificates(config, around.now),
        *findings,
        *find_in_logins(config, secrets),
        *find_in_storage(config, around, probe_store),
        *find_in_exposure(config),
        *find_in_clients(config),
    ]
    proxies: dict[str, Proxy] = {}
    try:
        general = effective_proxy(config, environ)
        proxies = {name: effective_proxy(config, environ, one) for name, one in config.upstreams.items()}
    except ConfigurationError as error:
        general = Proxy()
        findings += [Finding("error", found.code, found.what, found.where, found.remedy) for found in error.problems]
    upstreams = [
        UpstreamReport(name, one.endpoints, describe_login(config, one, secrets), proxies.get(name, Proxy()))
        for name, one in config.upstreams.items()
    ]
    return Report(findings, describe(config), upstreams, general)


async def _try(
    config: Config, upstream: UpstreamReport, probe: Probe, places: asyncio.Semaphore
) -> tuple[UpstreamReport, list[Finding]]:
    where = config.source.where("upstreams", upstream.name)
    try:
        async with places, asyncio.timeout(_PROBE_SECONDS):
            results = tuple(await probe(upstream.name))
    except MirrorError as error:
        return upstream, [Finding("error", "upstream_failed", f"{upstream.name}: {error.what}", where, error.remedy)]
    except TimeoutError:
        what = f"{upstream.name} could not be tried within {_PROBE_SECONDS:.0f} s"
        return upstream, [Finding("error", "upstream_failed", what, where, "look at the network and the proxy")]
    findings = [
        Finding("error", "upstream_failed", f"{result.endpoint}: {result.what}", where, result.remedy)
        for result in results
        if not result.ok
    ]
    return replace(upstream, probes=results), findings
