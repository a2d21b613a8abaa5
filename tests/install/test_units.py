"""The units as files: valid, confined, and of one mind."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.tools.programs import ROOT

UNITS = ROOT / "systemd"
SERVICES = ("mirror.service", "mirror-sync@.service")
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
