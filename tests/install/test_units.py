"""The units as files: valid, confined, and of one mind."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.tools.programs import ROOT

UNITS = ROOT / "systemd"
SERVICES = ("mirror.service", "mirror-sync@.service")
INSTALL = " ".join((ROOT / "docs" / "install.md").read_text().split())
MOST_EXPOSED = 1.5
CONFINEMENT = re.compile(
    r"(Protect|Private|Restrict|System|Lock|Memory|Capability|Ambient|NoNew|Remove|Keyring|Device|UMask|IPAddress|State)"
)


def directives(name):
    """Return the lines of a unit that are no comments, as (name, value)."""
    lines = (UNITS / name).read_text().splitlines()
    return [tuple(line.split("=", 1)) for line in lines if "=" in line and not line.startswith("#")]


@pytest.mark.parametrize("unit", SERVICES)
def test_exposure_is_low(programs, unit):
    analyze = programs.find("systemd-analyze")
    command = [analyze, "security", "--offline=true", "--no-pager", str(UNITS / unit)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (level,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert float(level) <= MOST_EXPOSED, said
    assert f"rates the exposure at {MOST_EXPOSED} or less" in INSTALL


def test_systemd_takes_the_units_as_they_are(programs, tmp_path):
    analyze = programs.find("systemd-analyze")
    for unit in ("mirror.service", "mirror.socket", "mirror-sync@.service", "mirror-sync@.timer"):
        # It looks whether the program is there, which it is only where it is installed.
        text = (UNITS / unit).read_text().replace("/opt/mirror/bin/mirror", "/bin/true")
        (tmp_path / unit).write_text(text)
    units = ["mirror.service", "mirror.socket", "mirror-sync@prod.service", "mirror-sync@prod.timer"]
    command = [analyze, "verify", "--man=no", *(str(tmp_path / unit) for unit in units)]
    done = subprocess.run(command, capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "mirror" in line]
    assert done.returncode == 0, done.stderr
    assert ours == []


def test_both_services_are_confined_alike():
    first, second = ([pair for pair in directives(unit) if CONFINEMENT.match(pair[0])] for unit in SERVICES)
    assert first == second
    assert len(first) > 25


@pytest.mark.parametrize("unit", ["mirror.service", "mirror.container"])
def test_the_journal_drops_no_audit_line_in_a_flood(unit):
    assert dict(directives(unit))["LogRateLimitIntervalSec"] == "0"


def test_the_service_waits_longer_than_answers_are_drained():
    from mirror import app

    found = dict(directives("mirror.service"))
    assert float(found["TimeoutStopSec"]) > app.DRAIN + 5


def test_exit_codes_that_a_restart_cannot_mend_end_it():
    from mirror.cli import outcome

    prevented = dict(directives("mirror.service"))["RestartPreventExitStatus"].split()
    assert {str(outcome.INVALID), str(outcome.NO_SPACE), "2"} <= set(prevented)
    assert not {str(outcome.FAILED), str(outcome.TEMPORARY)} & set(prevented)
    again = dict(directives("mirror-sync@.service"))["RestartPreventExitStatus"].split()
    assert not {str(outcome.INCOMPLETE), str(outcome.TEMPORARY)} & set(again)
    assert {str(outcome.INVALID), str(outcome.UNVERIFIED), str(outcome.NO_SPACE), str(outcome.FAILED)} <= set(again)


def test_image_sets_are_fetched_when_the_manual_says():
    timer, service = (dict(directives(name)) for name in ("mirror-sync@.timer", "mirror-sync@.service"))
    assert (timer["OnCalendar"], timer["RandomizedDelaySec"], timer["Persistent"]) == ("*-*-* 01:00", "3h", "true")
    assert "some time between 1 and 4, catches up what it slept through" in INSTALL
    assert (service["RestartSec"], service["StartLimitBurst"]) == ("15min", "8")
    assert service["StartLimitIntervalSec"] == "12h", "longer than all of them, shorter than a day"
    assert "tries again seven times, a quarter of an hour apart, where upstream is away" in INSTALL


def test_the_service_is_tried_again_when_the_manual_says():
    assert dict(directives("mirror.service"))["RestartSec"] == "5"
    assert "after 78, 5 and 2 systemd does not try again, after anything else it does, every five seconds" in INSTALL
