"""The image: what it is and holds, and how it starts with nothing but itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mirror import __version__
from tests.container.conftest import NAME
from tests.container.engine import Engine
from tests.tools.processes import running
from tests.tools.programs import ROOT

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(900)]

# As the restricted policy of a cluster runs it: a user that nobody knows, and nothing else.
CONFINED = (
    *("--user=1000730000:0", "--read-only", "--read-only-tmpfs=false", "--cap-drop=all"),
    "--security-opt=no-new-privileges",
)


def test_it_says_what_it_is_and_who_runs_it(engine: Engine, archive: Path) -> None:
    assert archive.name == f"mirror-{__version__}.oci.tar"
    found = engine.inspect(NAME)
    config, labels = found["Config"], found["Labels"]
    user, _, group = config["User"].partition(":")
    assert int(user) > 0, "a cluster that wants runAsNonRoot cannot tell who a name is"
    assert group == "0"
    assert config["Entrypoint"] == ["/opt/mirror/bin/mirror"]
    assert config["Cmd"] == ["serve"]
    assert list(config["Volumes"]) == ["/var/lib/mirror"]
    assert set(config["ExposedPorts"]) == {"5000/tcp", "9000/tcp"}
    stated = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    assert stated["version"] == labels["version"] == __version__
    assert stated["licenses"] == "Apache-2.0"
    assert stated["base.name"] == "localhost/base"
    assert {"title", "description", "revision"} <= stated.keys()
    assert found["Size"] < 220 * 2**20


def test_it_holds_what_runs_and_nothing_that_builds(engine: Engine) -> None:
    program = (
        "import importlib.metadata as m, json, os, sys, py_compile, glob\n"
        "names = sorted(d.name for d in m.distributions())\n"
        "root = sys.prefix\n"
        "writable = [p for p, _, _ in os.walk('/opt') if os.access(p, os.W_OK)]\n"
        "cached = len(glob.glob(root + '/lib/*/site-packages/mirror/**/*.pyc', recursive=True))\n"
        "print(json.dumps([names, writable, cached]))"
    )
    said = engine.once(
        NAME, *CONFINED, "--network=none", "--entrypoint=/opt/mirror/bin/python", command=("-Ic", program)
    )
    names, writable, cached = json.loads(said)
    assert {"mirror-registry", "aiohttp", "pydantic", "cryptography"} <= set(names)
    assert not {"pip", "hatchling", "setuptools", "pytest", "ruff"} & set(names)
    assert writable == []
    assert cached > 50, "each start would compile everything: the root is read-only"


def test_it_starts_with_nothing_but_a_volume(engine: Engine, tmp_path: Path) -> None:
    # As in a first try: the configuration that it brings, and a volume that takes its folder's mode.
    log = tmp_path / "log"
    options = ("--network=none", "--volume=first:/var/lib/mirror", *CONFINED[1:])
    with running(engine.container("first", NAME, log, *options)) as container:
        status = json.loads(container.do("mirror", "status", "--json"))
        assert status["exit"] == 0, status["problems"]
        assert {one["type"]: one["status"] for one in status["conditions"]}["Available"] is True
    assert container.stop() == 0


def test_it_says_why_it_does_not_start(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "mirror.yaml").write_text("listen: 0.0.0.0:5000\nupstream: {quay.io: {}}\n")
    tmp_path.chmod(0o755)
    wrong = engine.attempt(NAME, *CONFINED, f"--volume={tmp_path}:/etc/mirror:ro", "--network=none", command=())
    assert wrong.returncode == 78
    assert "mirror.yaml:2" in wrong.stderr
    assert "upstreams" in wrong.stderr
    # A store that it may not write: the volume of another user.
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    closed = engine.attempt(NAME, *CONFINED, f"--volume={store}:/var/lib/mirror", "--network=none", command=())
    assert closed.returncode == 78
    assert "/var/lib/mirror" in closed.stderr


def test_nothing_comes_in_unseen() -> None:
    # Every wheel is compared with the lock's hashes in the one command that may ask an index.
    text = (ROOT / "Containerfile").read_text().replace("\\\n", " ")
    installs = [line for step in text.splitlines() for line in step.split("&&") if "bin/pip " in line]
    asking = [line for line in installs if "--no-index" not in line]
    assert len(installs) > 2
    assert len(asking) == 1
    assert "--require-hashes" in asking[0]
    assert "--only-binary :all:" in asking[0]
    assert "\nADD " not in text
    assert f"\nARG VERSION={__version__}\n" in text
    lock = (ROOT / "requirements" / "runtime.txt").read_text()
    pinned = [line for line in lock.splitlines() if "==" in line and not line.startswith((" ", "#"))]
    assert pinned
    assert all(line.endswith("\\") for line in pinned), "a requirement without a hash"
