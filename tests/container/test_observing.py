"""config/alerts.yaml and config/dashboard.json: what they name is counted, and the alerts fire when they should."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from mirror.admin.conditions import REASONS
from mirror.metrics import FAMILIES
from tests.tools import mounts
from tests.tools.clients import run
from tests.tools.mirror import Mirror
from tests.tools.processes import wait_until
from tests.tools.programs import ROOT, Programs

ALERTS = ROOT / "config" / "alerts.yaml"
DASHBOARD = ROOT / "config" / "dashboard.json"
# What no panel shows, and why.
LEFT_OUT = {
    "mirror_evicted_blobs_total": "its bytes say more",
    "mirror_store_inodes": "an alert watches them",
    "mirror_memory_short_seconds": "`mirror status` tells it, and connections that were cut are shown",
}


def series() -> dict[str, set[str]]:
    """Return the labels of each series that Prometheus gets."""
    found = {}
    for family in FAMILIES:
        if family.kind == "histogram":
            found[f"{family.name}_bucket"] = {*family.labels, "le"}
            found |= {f"{family.name}_{part}": set(family.labels) for part in ("sum", "count")}
        else:
            found[family.name] = set(family.labels)
    return found


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    return found


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


@pytest.mark.parametrize(("place", "expression"), list(expressions()))
def test_what_is_named_is_counted(place: str, expression: str) -> None:
    known = series()
    names = re.findall(r"\b(mirror_\w+)(?:\{([^}]*)\})?", re.sub(r'"mirror"', "", expression))
    assert names or expression.startswith("up")
    for name, selector in names:
        assert name in known, f"{place}: nothing counts {name}"
        for label in re.findall(r"(\w+)\s*[=!]", selector):
            assert label in known[name] | {"job", "instance"}, f"{place}: {name} has no label {label}"
    everywhere = set().union(*(known[name] for name, _ in names)) | {"job", "instance"}
    for group in re.findall(r"\bby \(([^)]*)\)", expression):
        for label in group.split(","):
            assert label.strip() in everywhere, f"{place}: {label} is no label"


def test_every_metric_is_shown_or_left_out() -> None:
    shown = " ".join(expression for _, expression in expressions() if "$job" in expression)
    names = {family.name for family in FAMILIES}
    missing = {name for name in names if not re.search(rf"\b{name}(?:_bucket)?\b", shown)}
    assert missing == LEFT_OUT.keys()


def test_the_dashboard_is_one() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert dashboard.get("id") is None, "an id of the Grafana that it was drawn with"
    variables = {one["name"] for one in dashboard["templating"]["list"]}
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["targets"]
        for target in panel.get("targets", []):
            assert set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"} <= variables
            assert 'job="$job"' in target["expr"]


def test_panels_are_understood(programs: Programs, tmp_path: Path) -> None:
    found = [expression for _, expression in expressions() if "$job" in expression]
    filled = [one.replace("$__rate_interval", "5m").replace("$job", "j").replace("$instance", ".*") for one in found]
    rules = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(filled)]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(found)} rules found" in run([programs.find("promtool"), "check", "rules", str(path)])


def test_alerts_say_what_to_do(programs: Programs) -> None:
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    run([programs.find("promtool"), "check", "rules", str(ALERTS)])
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description"}
        # What a message shows is there to be shown.
        labels = series()
        known = set().union(*(labels[name] for name in re.findall(r"mirror_\w+", rule["expr"]) if name in labels))
        for label in re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())):
            assert label in known | {"instance"}, f"{rule['alert']} shows {label}"


def condition(reason: str, kind: str = "Degraded") -> str:
    """Return the series of a condition."""
    return f'mirror_condition{{type="{kind}",reason="{reason}"}}'


# Two hours of a service that is well, a minute apart: series and values as promtool writes them. Its disk of 1 TB is
# full of cache: keep_free, 5% of it, is all that is free.
HEALTHY = {
    'up{job="mirror"}': "1x500",
    "mirror_build_info": "1x500",
    "mirror_workers": "2x500",
    condition("AsExpected", "Available"): "1x500",
    condition("Syncing", "Progressing"): "1x500",
    **{condition(reason): "0x500" for reason in REASONS["Degraded"]},
    "mirror_config_reload_ok": "1x500",
    "mirror_tls_certificate_expires_seconds": "8640000x500",
    'mirror_requests_total{status="200"}': "0+600x500",
    'mirror_requests_total{status="503"}': "0+1x500",
    'mirror_request_seconds_bucket{route="manifest",cache="HIT",le="0.05"}': "0+100x500",
    'mirror_request_seconds_bucket{route="manifest",cache="HIT",le="0.25"}': "0+100x500",
    'mirror_request_seconds_bucket{route="manifest",cache="HIT",le="+Inf"}': "0+100x500",
    'mirror_loop_lag_seconds_bucket{le="0.05"}': "0+60x500",
    'mirror_loop_lag_seconds_bucket{le="0.25"}': "0+60x500",
    'mirror_loop_lag_seconds_bucket{le="+Inf"}': "0+60x500",
    'mirror_worker_restarts_total{why="exit"}': "1x500",
    'mirror_faults_total{kind="digest_mismatch"}': "4x500",
    'mirror_accept_pauses_total{why="connections"}': "2x500",
    'mirror_fetches_total{upstream="quay.io",result="done"}': "0+10x500",
    'mirror_fetches_total{upstream="quay.io",result="failed"}': "0x500",
    'mirror_upstream_request_seconds_bucket{upstream="quay.io",le="2.5"}': "0+60x500",
    'mirror_upstream_request_seconds_bucket{upstream="quay.io",le="10"}': "0+60x500",
    'mirror_upstream_request_seconds_bucket{upstream="quay.io",le="+Inf"}': "0+60x500",
    'mirror_upstream_login_refused{upstream="quay.io"}': "0x500",
    'mirror_upstream_endpoints_away{upstream="quay.io"}': "0x500",
    'mirror_cache_answers_total{upstream="quay.io",cache="STALE"}': "7x500",
    "mirror_docker_hub_pulls_limit": "0x500",
    "mirror_docker_hub_pulls_remaining": "0x500",
    "mirror_store_free_bytes": "50000000000x500",
    "mirror_store_keep_free_bytes": "50000000000x500",
    "mirror_store_room_bytes": "900000000000x500",
    'mirror_store_inodes{kind="free"}': "900000x500",
    'mirror_store_inodes{kind="total"}': "1000000x500",
    'mirror_faults_total{kind="store_read_eio"}': "0x500",
    "mirror_evicted_bytes_total": "0+1000000x500",
    'mirror_upstream_received_bytes_total{upstream="quay.io"}': "0+900000000x500",
    'mirror_sent_bytes_total{upstream="quay.io",cache="HIT"}': "0+900000000x500",
    'mirror_sent_bytes_total{upstream="quay.io",cache="BYPASS"}': "0+9000000x500",
    'mirror_corrupt_blobs_total{found_by="client"}': "1x500",
    "mirror_scrub_ended_seconds": "0x500",
    "mirror_scrub_unhealed": "0x500",
    'mirror_set_complete{set="prod",generation="4"}': "1x500",
    'mirror_set_complete{set="prod",generation="3"}': "0x500",  # left unfinished, before one that is complete
    'mirror_notifications_total{target="ci",result="delivered"}': "0+5x500",
    'mirror_notifications_total{target="ci",result="refused"}': "3x500",
    'mirror_notifications_waiting{target="ci"}': "3x500",
    "mirror_log_lines_dropped_total": "0x500",
    "mirror_worker_memory_peak_bytes": "120000000x500",
}
# What goes wrong, and which alert says so.
CASES: dict[str, dict[str, str]] = {
    "MirrorDown": {'up{job="mirror"}': "1x30 0x90"},
    "MirrorUnavailable": {condition("AsExpected", "Available"): "1x50 0x70"},
    "MirrorStoreIll": {condition("RecordDamaged"): "0x50 1x70"},
    "MirrorDegraded": {condition("HousekeepingIdle"): "0x50 1x70"},
    "MirrorHasNoWorker": {"mirror_workers": "2x50 0x70"},
    # The first events of a kind: their series begins with them.
    "MirrorWorkersDie": {'mirror_worker_restarts_total{why="exit"}': "_x70 3x50"},
    "MirrorReloadRefused": {"mirror_config_reload_ok": "1x30 0x90"},
    "MirrorCertificateExpires": {"mirror_tls_certificate_expires_seconds": "864000x120"},
    "MirrorCertificateEnds": {"mirror_tls_certificate_expires_seconds": "86400x120"},
    "MirrorFailsRequests": {'mirror_requests_total{status="503"}': "0+9x120"},
    "MirrorHitsAreSlow": {
        'mirror_request_seconds_bucket{route="manifest",cache="HIT",le="0.05"}': "0+90x120",
        'mirror_request_seconds_bucket{route="manifest",cache="HIT",le="0.25"}': "0+100x120",
    },
    "MirrorRefusesConnections": {'mirror_accept_pauses_total{why="descriptors"}': "_x85 1x35"},
    "MirrorWorkerLarge": {"mirror_worker_memory_peak_bytes": "900000000x120"},
    "MirrorLogStalls": {"mirror_log_lines_dropped_total": "0x80 40x40"},
    "MirrorWorksAroundFaults": {'mirror_faults_total{kind="store_enospc"}': "_x70 1x50"},
    "MirrorLoginRefused": {'mirror_upstream_login_refused{upstream="quay.io"}': "0x50 1x70"},
    "MirrorUpstreamAway": {'mirror_upstream_endpoints_away{upstream="quay.io"}': "0x50 1x70"},
    "MirrorUpstreamFails": {'mirror_fetches_total{upstream="quay.io",result="failed"}': "0+5x120"},
    "MirrorServesOldTags": {'mirror_cache_answers_total{upstream="quay.io",cache="STALE"}': "0+5x120"},
    "MirrorHubBudget": {"mirror_docker_hub_pulls_limit": "100x120", "mirror_docker_hub_pulls_remaining": "7x120"},
    # Nothing may be evicted, and free is what was free before: keep_free sees to it.
    "MirrorStoreFull": {"mirror_store_room_bytes": "900000000000x30 0x90", condition("StoreFull"): "0x30 1x90"},
    "MirrorStoreInodes": {'mirror_store_inodes{kind="free"}': "50x120"},
    "MirrorStoreFaults": {'mirror_faults_total{kind="store_read_eio"}': "0+5x120"},
    "MirrorPassesThrough": {'mirror_sent_bytes_total{upstream="quay.io",cache="BYPASS"}': "0+900000000x120"},
    "MirrorCacheTooSmall": {"mirror_evicted_bytes_total": "0+600000000x120"},
    "MirrorContentCorrupt": {'mirror_corrupt_blobs_total{found_by="scrub"}': "_x60 1x60"},
    "MirrorContentLost": {"mirror_scrub_unhealed": "2x120"},
    "MirrorNotificationsWait": {'mirror_notifications_waiting{target="ci"}': "3x30 500x90"},
    "MirrorNotificationsLost": {'mirror_notifications_total{target="ci",result="refused"}': "_x60 1x60"},
    "MirrorLoopLags": {
        'mirror_loop_lag_seconds_bucket{le="0.05"}': "0+1x120",
        'mirror_loop_lag_seconds_bucket{le="0.25"}': "0+60x120",
        'mirror_loop_lag_seconds_bucket{le="+Inf"}': "0+60x120",
    },
    "MirrorUpstreamSlow": {
        'mirror_upstream_request_seconds_bucket{upstream="quay.io",le="2.5"}': "0+1x120",
        'mirror_upstream_request_seconds_bucket{upstream="quay.io",le="10"}': "0+60x120",
        'mirror_upstream_request_seconds_bucket{upstream="quay.io",le="+Inf"}': "0+60x120",
    },
    "MirrorSetIncomplete": {
        'mirror_set_complete{set="prod",generation="4"}': "0x500",
        condition("SetIncomplete"): "1x500",
    },
}


# For what a service is Degraded: the alert, how grave it is, and whether it is the condition that it looks at.
DEGRADED: dict[str, tuple[str, str, bool]] = {
    "StoreUnreadable": ("MirrorStoreFaults", "critical", True),
    "StoreUnwritable": ("MirrorStoreFaults", "critical", True),
    "StoreUnusable": ("MirrorStoreIll", "critical", True),
    "StoreFull": ("MirrorStoreFull", "critical", True),
    "CollectionStopped": ("MirrorDegraded", "warning", True),
    "ContentCorrupt": ("MirrorContentLost", "critical", True),
    "RecordDamaged": ("MirrorStoreIll", "critical", True),
    "SetIncomplete": ("MirrorSetIncomplete", "warning", False),
    "LoginRefused": ("MirrorLoginRefused", "critical", False),
    "UpstreamAway": ("MirrorUpstreamAway", "warning", False),
    "FileRefused": ("MirrorDegraded", "warning", True),
    "CertificateExpired": ("MirrorCertificateEnds", "critical", False),
    "CertificateExpires": ("MirrorCertificateExpires", "warning", False),
    "ReloadRefused": ("MirrorReloadRefused", "warning", False),
    "WorkersMissing": ("MirrorDegraded", "warning", True),
    "MemoryShort": ("MirrorDegraded", "warning", True),
    "HousekeepingIdle": ("MirrorDegraded", "warning", True),
    "NotificationsWaiting": ("MirrorNotificationsWait", "warning", False),
}


def fired(name: str, changed: dict[str, str], names: set[str], minutes: int = 90) -> dict[str, Any]:
    """Return promtool's test that exactly these alerts fire."""
    values = {_placed(series): value for series, value in (HEALTHY | changed).items()}
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": series, "values": value} for series, value in values.items()],
        "promql_expr_test": [
            {
                "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{minutes}m",
                "exp_samples": [{"labels": f'{{alertname="{one}"}}', "value": 1} for one in sorted(names)],
            }
        ],
    }


def _placed(series: str) -> str:
    """Return a series with the labels that a scrape gives it."""
    name, _, labels = series.rstrip("}").partition("{")
    placed = ['instance="m"', *(['job="mirror"'] if "job=" not in labels else []), *filter(None, [labels])]
    return f"{name}{{{','.join(placed)}}}"


def test_alerts_fire_when_they_should_and_else_never(programs: Programs, tmp_path: Path) -> None:
    rules = {rule["alert"] for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]}
    assert CASES.keys() | {"MirrorScrubStands"} == rules
    tests = [fired("well", {}, set()), fired("well for long", {}, set(), 450)]
    for name, changed in CASES.items():
        also = {"MirrorCertificateExpires"} if name == "MirrorCertificateEnds" else set()
        tests.append(fired(name, changed, {name, *also}, 450 if name == "MirrorSetIncomplete" else 90))
    _promtool(programs, tmp_path, "5m", tests)


def test_what_a_service_is_degraded_for_is_told_once_and_as_grave_as_it_is(programs: Programs, tmp_path: Path) -> None:
    assert DEGRADED.keys() == set(REASONS["Degraded"])
    rules = {rule["alert"]: rule for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]}
    tests = []
    for reason, (alert, severity, is_looked_at) in DEGRADED.items():
        assert rules[alert]["labels"]["severity"] == severity
        tests.append(fired(reason, {condition(reason): "0x50 1x70"}, {alert} if is_looked_at else set()))
        ended = {condition(reason): "0x20 1x50 0x50"}
        tests.append(fired(f"{reason} has ended", ended, set()))
    _promtool(programs, tmp_path, "1m", tests)


@pytest.mark.parametrize("told", ["mirror_store_room_bytes", condition("StoreFull")])
def test_a_full_store_is_told_by_its_room_and_by_its_condition(programs: Programs, tmp_path: Path, told: str) -> None:
    """One that gives no room to evict has none, and one without inodes or with snapshots is full all the same."""
    values = "900000000000x30 60000000x90" if told == "mirror_store_room_bytes" else "0x30 1x90"
    _promtool(programs, tmp_path, "1m", [fired(told, {told: values}, {"MirrorStoreFull"})])


def scraped(text: str) -> dict[str, float]:
    """Return the series of conditions and of the store, with their values, from what /metrics says."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if family.name == "mirror_condition":
                found[condition(sample.labels["reason"], sample.labels["type"])] = sample.value
            elif not sample.labels and sample.name.startswith("mirror_store_"):
                found[sample.name] = sample.value
    return found


def _full_of_what_stays(root: Path) -> None:
    """A store whose disk something else has filled down to keep_free, as it is by default; nothing is cached."""
    service = Mirror(root.with_name("service"), {"workers": 2, "storage": {"path": str(root / "store")}})
    try:
        service.start()
        wait_until(lambda: "mirror_store_room_bytes" in scraped(service.metrics()), "the room to be measured")
        root.with_name("well").write_text(service.metrics())
        disk = os.statvfs(root)
        keep_free, free = disk.f_blocks * disk.f_frsize // 20, disk.f_bavail * disk.f_frsize
        with root.joinpath("other").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - keep_free - (32 << 20))
        wait_until(lambda: scraped(service.metrics())[condition("StoreFull")] == 1, "the condition", 45)
        root.with_name("full").write_text(service.metrics())
        root.joinpath("other").unlink()
        wait_until(lambda: scraped(service.metrics())[condition("StoreFull")] == 0, "the condition to end", 45)
    finally:
        service.kill()


def test_a_store_that_is_full_with_the_default_keep_free_is_told(programs: Programs, tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    mounts.on_disk(_full_of_what_stays, root, "40G")
    tests = []
    for state, names in (("well", set()), ("full", {"MirrorStoreFull"})):
        found = scraped((tmp_path / state).read_text())
        assert found["mirror_store_free_bytes"] > 1 << 30, "which nobody takes for few"
        values = {series: f"{value}x500" for series, value in found.items() if series in HEALTHY}
        assert {"mirror_store_room_bytes", "mirror_store_keep_free_bytes"} <= values.keys()
        tests.append(fired(state, values, names))
    _promtool(programs, tmp_path, "1m", tests)


def test_a_scrub_that_stands_is_told(programs: Programs, tmp_path: Path) -> None:
    last = {"series": _placed("mirror_scrub_ended_seconds"), "values": "1x40"}
    told = {"expr": 'ALERTS{alertname="MirrorScrubStands"}', "exp_samples": []}
    labels = 'ALERTS{alertname="MirrorScrubStands",alertstate="firing",instance="m",job="mirror",severity="info"}'
    late = {**told, "eval_time": "36d", "exp_samples": [{"labels": labels, "value": 1}]}
    test = {"interval": "1d", "input_series": [last], "promql_expr_test": [{**told, "eval_time": "34d"}, late]}
    _promtool(programs, tmp_path, "1d", [test])


def test_which_mirror_is_down_is_told_where_that_is_known(programs: Programs, tmp_path: Path) -> None:
    up, info = 'up{instance="m",job="mirror"}', 'mirror_build_info{instance="m",job="mirror"}'
    both_known = [{"series": up, "values": "0x20"}, {"series": info, "values": "1x20"}]
    (description,) = (one["annotations"]["description"] for one in rules() if one["alert"] == "MirrorDown")
    tests = []
    for values, labels, summary in (
        (both_known, {"instance": "m", "job": "mirror"}, "The mirror m does not answer Prometheus."),
        ([], {}, "No mirror answers Prometheus."),
    ):
        told = {
            "exp_labels": {"severity": "critical", **labels},
            "exp_annotations": {"summary": summary, "description": description},
        }
        expected = {"eval_time": "10m", "alertname": "MirrorDown", "exp_alerts": [told]}
        tests.append({"interval": "1m", "input_series": values, "alert_rule_test": [expected]})
    _promtool(programs, tmp_path, "1m", tests)


def _promtool(programs: Programs, folder: Path, interval: str, tests: list[dict[str, Any]]) -> None:
    path = folder / "tests.yaml"
    document = {"rule_files": [str(ALERTS)], "evaluation_interval": interval, "tests": tests}
    path.write_text(yaml.safe_dump(document))
    run([programs.find("promtool"), "test", "rules", str(path)])
