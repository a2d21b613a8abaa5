"""The OCI distribution conformance suite against what is pushed here, and what comes through the mirror.

The suite's exit code says little (it is 0 where a filter or a configuration is wrong), so its printed result and its
counts decide.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import pytest

from tests.clients.conftest import Authority, MakeMirror
from tests.tools import images, registries
from tests.tools.mirror import Mirror
from tests.tools.processes import Daemon, answers, free_port, running
from tests.tools.programs import ROOT, Programs
from tests.tools.push import push
from tests.tools.registries import Registry

pytestmark = pytest.mark.clients

# What a cache legitimately goes on serving is not asked about.
_NO_DELETES = {f"OCI_API_{kind}_DELETE": "false" for kind in ("BLOBS", "MANIFESTS", "TAGS")}
# Everything that the suite can ask of a registry that takes pushes.
_EVERY_OPTION = {
    f"OCI_{option}": "true"
    for option in (
        *("API_PING", "API_PULL", "API_PUSH", "API_REFERRER"),
        *(f"API_BLOBS_{what}" for what in ("ATOMIC", "DELETE", "DIGEST_HEADER", "MOUNT_ANONYMOUS", "UPLOAD_CANCEL")),
        *(f"API_MANIFESTS_{what}" for what in ("ATOMIC", "DELETE", "DIGEST_HEADER", "TAG_PARAM")),
        *("API_TAGS_ATOMIC", "API_TAGS_DELETE", "API_TAGS_LIST"),
        *("DATA_IMAGE", "DATA_INDEX", "DATA_INDEX_LIST", "DATA_SPARSE", "DATA_NO_LAYERS", "DATA_NONDISTRIBUTABLE"),
        *("DATA_ARTIFACT", "DATA_ARTIFACT_LIST", "DATA_SUBJECT", "DATA_SUBJECT_LIST", "DATA_SUBJECT_MISSING"),
        *("DATA_CUSTOM_FIELDS", "DATA_DATA_FIELD", "DATA_EMPTY_BLOB", "DATA_SHA512"),
    )
}
_COUNT = re.compile(r"^  (Pass|FAIL|Error|Skip|Disabled|Total)\.+: +(\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Front:
    """A mirror, the upstream behind it that takes pushes, and the splitter in front of both."""

    upstream: Registry
    mirror: Mirror
    splitter: str  # host:port


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    with ExitStack() as stack:
        upstream = stack.enter_context(running(registries.hosting(tmp_path / "upstream")))
        tags = {"fresh_for": "0s", "absent_for": "0s"}
        document = {"upstreams": {"lab": {"endpoints": [upstream.url], "tags": tags}}, "default_upstream": "lab"}
        mirror = stack.enter_context(running(Mirror(tmp_path / "mirror", document)))
        port = free_port()
        command = [mirror.program[0], "-m", "tests.tools.splitter", str(port), mirror.url, upstream.url]
        splitter = Daemon(command, tmp_path / "splitter.log", ready=lambda: answers(port), folder=ROOT)
        stack.enter_context(running(splitter))
        yield Front(upstream, mirror, f"127.0.0.1:{port}")
        print(mirror.log)
    assert "Traceback" not in mirror.log


def conformance(programs: Programs, folder: Path, registry: str, settings: Mapping[str, str]) -> dict[str, int]:
    """Run the suite against host:port and return how many tests had which result; fail where it did not pass."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OCI_")},
        "OCI_REGISTRY": registry,
        "OCI_TLS": "disabled",
        "OCI_RESULTS_DIR": str(folder),
        **_NO_DELETES,
        **settings,
    }
    folder.mkdir()
    done = subprocess.run(
        [programs.find("conformance")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
        cwd=folder,
    )
    printed = done.stdout + done.stderr
    failures = [line for line in printed.splitlines() if re.search(r": (FAIL|Error)$|failed test", line)]
    if "OCI Conformance Result: Pass" not in printed:
        pytest.fail("\n".join(failures) or printed)
    counts = {name: int(number) for name, number in _COUNT.findall(printed)}
    assert (counts["FAIL"], counts["Error"]) == (0, 0), failures
    return counts


@pytest.mark.parametrize("version", ["1.1", "dev"])
def test_whole_suite_with_every_option(
    make_mirror: MakeMirror, programs: Programs, tmp_path: Path, version: str
) -> None:
    """Also deletions, which have to be seen by every worker at once."""
    document = {"workers": 2, "clients": {"anonymous": "push"}, "storage": storage(tmp_path)}
    mirror = make_mirror(document)
    counts = conformance(programs, tmp_path / "results", mirror.address, {**_EVERY_OPTION, "OCI_VERSION": version})
    assert_nothing_left_out(counts)
    assert " status=5" not in mirror.log


def test_whole_suite_with_a_login(
    make_mirror: MakeMirror, programs: Programs, authority: Authority, tmp_path: Path
) -> None:
    """Over TLS, and with nothing open to who shows no login."""
    hashed = bcrypt.hashpw(b"correct horse", bcrypt.gensalt(5)).decode()
    (tmp_path / "htpasswd").write_text(f"alice:{hashed}\n")
    rules = [{"who": "alice", "repositories": ["conformance/**"], "may": ["pull", "push", "delete"]}]
    document = {
        "workers": 2,
        "tls": {"certificate": str(authority.certificate), "key": str(authority.key)},
        "clients": {"anonymous": "none", "htpasswd": str(tmp_path / "htpasswd"), "rules": rules},
        "storage": storage(tmp_path),
    }
    mirror = make_mirror(document)
    secure = {"OCI_TLS": "enabled", "SSL_CERT_FILE": str(authority.ca)}
    login = {"OCI_USERNAME": "alice", "OCI_PASSWORD": "correct horse", **secure}
    names = {"OCI_REPO1": "conformance/one", "OCI_REPO2": "conformance/two", "OCI_VERSION": "dev"}
    counts = conformance(programs, tmp_path / "results", mirror.address, {**_EVERY_OPTION, **login, **names})
    assert_nothing_left_out(counts)
    assert " status=5" not in mirror.log


def storage(folder: Path) -> dict[str, object]:
    return {"path": str(folder / "store"), "keep_free": "1%", "sparse_indexes": True}


def assert_nothing_left_out(counts: Mapping[str, int]) -> None:
    assert (counts["Skip"], counts["Disabled"]) == (0, 0)
    assert counts["Pass"] == counts["Total"]
    assert counts["Total"] >= 1000  # a setting gone wrong would run less


@pytest.mark.parametrize("version", ["1.1", "dev"])
def test_whole_suite_reads_through_the_mirror(front: Front, programs: Programs, tmp_path: Path, version: str) -> None:
    counts = conformance(programs, tmp_path / "results", front.splitter, {"OCI_VERSION": version})
    assert counts["Pass"] >= 500  # a filter or a setting gone wrong would run next to nothing
    assert counts["Skip"] <= 2  # anonymous mounts, which the upstream does not do


def test_reads_of_cached_content(front: Front, programs: Programs, tmp_path: Path) -> None:
    layer = images.layer(images.tree({"etc/motd": b"conformant\n"}))
    image = images.image([layer])
    index = images.index([image, images.image([layer], architecture="arm64")])
    sbom = images.artifact("application/vnd.example.sbom", images.Content("text/spdx", b"SPDX"), subject=image)
    for name, manifest in {"index": index, "sbom": sbom}.items():
        push(front.upstream.address, "team/read", manifest, name)
    manifests = {each.digest: each for top in (index, sbom) for each in top.all_manifests()}
    blobs = {**index.all_blobs(), **sbom.all_blobs()}
    settings = {
        "OCI_REPO1": "lab/team/read",
        "OCI_VERSION": "1.1",
        "OCI_API_PUSH": "false",
        # Not for manifests: in this mode the suite looks for the header in a response that it did not keep.
        "OCI_API_BLOBS_DIGEST_HEADER": "true",
        "OCI_RO_DATA_TAGS": "index sbom",
        "OCI_RO_DATA_MANIFESTS": " ".join(manifests),
        "OCI_RO_DATA_BLOBS": " ".join(blobs),
        "OCI_RO_DATA_REFERRERS": image.digest,
        # Without a filter the suite panics at its end in read-only mode.
        "OCI_FILTER_TEST": "OCI Conformance Test/read-only",
    }
    for turn in ("cold", "warm"):
        counts = conformance(programs, tmp_path / turn, front.mirror.address, settings)
        assert counts["Pass"] > len(manifests) + len(blobs)
    # in this mode the suite compares no body, so it is done here
    for digest, made in {**manifests, **blobs}.items():
        kind = "manifests" if digest in manifests else "blobs"
        status, headers, body = front.mirror.get(f"/v2/lab/team/read/{kind}/{digest}")
        assert (status, body, headers["docker-content-digest"]) == (200, made.body, digest)
        assert headers["x-cache"] == "HIT"
    _, _, body = front.mirror.get(f"/v2/lab/team/read/referrers/{image.digest}")
    assert [each["digest"] for each in json.loads(body)["manifests"]] == [sbom.digest]
