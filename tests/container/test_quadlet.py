"""systemd/mirror.container: what podman's generator makes of it, and the service run with exactly those options."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.container.conftest import NAME
from tests.container.engine import Engine
from tests.tools.clients import run
from tests.tools.processes import free_port, running
from tests.tools.programs import ROOT, Programs

UNITS = ROOT / "systemd"


def generate(programs: Programs, folder: Path, *drop_ins: str) -> dict[str, configparser.RawConfigParser]:
    """Return the units that the generator makes, by name."""
    for name in ("mirror.container", "mirror.volume"):
        shutil.copy(UNITS / name, folder / name)
    (folder / "mirror.container.d").mkdir()
    for name in drop_ins:
        shutil.copy(UNITS / name, folder / "mirror.container.d")
    printed = run([programs.find("quadlet"), "-dryrun"], {"QUADLET_UNIT_DIRS": str(folder)})
    units = {}
    for name, text in re.findall(r"^---(\S+)---\n(.*?)(?=^---|\Z)", printed, re.MULTILINE | re.DOTALL):
        # A key may be there twice, and what the generator says to the journal comes after the last unit.
        units[name] = configparser.RawConfigParser(strict=False, delimiters=("=",), allow_no_value=True)
        units[name].optionxform = str  # type: ignore[assignment, method-assign]
        units[name].read_string(text)
    return units


def podman_run(unit: configparser.RawConfigParser) -> list[str]:
    """Return the words of `podman run` as systemd would split and unescape them."""
    line = unit["Service"]["ExecStart"].replace("$$", "$")
    words = shlex.split(re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), line))
    assert words[:2] == ["/usr/bin/podman", "run"]
    return words[2:]


def test_the_generator_takes_it(programs: Programs, tmp_path: Path) -> None:
    units = generate(programs, tmp_path)
    assert units.keys() == {"mirror.service", "mirror-volume.service"}
    service = units["mirror.service"]["Service"]
    assert service["Type"] == "notify"
    assert service["RestartPreventExitStatus"] == "2 5 78"
    words = podman_run(units["mirror.service"])
    for option in (
        "--sdnotify=container",
        "--read-only",
        "--read-only-tmpfs=false",
        "--security-opt=no-new-privileges",
    ):
        assert option in words
    assert words[words.index("--cap-drop") + 1] == "all"
    assert words[words.index("--user") + 1] == "1001:0"
    assert words[-1] == "localhost/mirror:latest"
    assert "create" in units["mirror-volume.service"]["Service"]["ExecStart"]
    # The native unit says the same of restarts, and more of what a container does not have.
    native = (UNITS / "mirror.service").read_text()
    for key in ("RestartPreventExitStatus", "Restart", "RestartSec"):
        assert f"\n{key}={service[key]}" in native


def test_the_drop_in_brings_the_secret(programs: Programs, tmp_path: Path) -> None:
    words = podman_run(generate(programs, tmp_path, "container-secret.conf")["mirror.service"])
    assert words[words.index("--secret") + 1].startswith("mirror-pull-secret,type=mount,target=pull-secret.json,")


@pytest.mark.clients
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_runs_what_init_made(programs: Programs, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    words = podman_run(generate(programs, tmp_path / "units")["mirror.service"])
    # As docs/container.md says: init as root of the container, into the host's /etc/mirror.
    etc = tmp_path / "etc"
    etc.mkdir(mode=0o755)
    options = ("--network=none", "--user=0", f"--volume={etc}:/etc/mirror")
    engine.once(NAME, *options, command=("init", "--host", "mirror.example"))
    assert (etc / "tls.key").stat().st_mode & 0o007 == 0
    port = free_port()
    text = (etc / "mirror.yaml").read_text().replace("0.0.0.0:5000", f"127.0.0.1:{port}")
    (etc / "mirror.yaml").write_text(f"{text}\nmetrics: {{listen: 127.0.0.1:{free_port()}}}\n")

    # Without what needs a service manager or a network of podman's own; all else as it is.
    health = words[words.index("--health-cmd") + 1]
    kept = []
    ignored = {"--name", "--publish", "--pull", "--health-cmd", "--ulimit"}
    given = iter(words[:-1])
    for word in given:
        if word in ignored or word.startswith("--health-"):
            next(given)
        elif word not in ("--replace", "--rm", "-d", "--cgroups=split", "--sdnotify=container"):
            kept.append(word.replace("/etc/mirror:/etc/mirror:ro,z", f"{etc}:/etc/mirror:ro"))
    assert f"{etc}:/etc/mirror:ro" in kept
    with running(engine.container("mirror", NAME, tmp_path / "log", "--network=host", *kept)) as container:
        container.do("sh", "-c", health)
        status = json.loads(container.do("mirror", "status", "--json"))
        assert {one["type"]: one["status"] for one in status["conditions"]}["Available"] is True
    assert container.stop() == 0
    # Nobody answers in a container that only looks: not healthy.
    idle = [*kept, "--network=none", "--entrypoint=sh"]
    assert engine.attempt(NAME, *idle, command=("-c", health)).returncode == 1
