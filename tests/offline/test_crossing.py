"""A release crosses the gap: planned, fetched, carried and loaded, then pulled by its own names with all else gone."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from mirror.offline.plan import Plan
from tests.offline.nodes import GeneratedContainerd, Node
from tests.offline.site import Done, Site, mounted
from tests.offline.world import EXTRA, HOSTS, MULTI_CHANNEL, Authority, Releases, World, image_set
from tests.tools.cincinnati import PATH
from tests.tools.cosign import tag
from tests.tools.mirror import Mirror
from tests.tools.payload import RELEASE_REPOSITORY
from tests.tools.processes import running
from tests.tools.programs import Programs
from tests.tools.release import Release

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass
class Crossing:
    """What an administrator did, and what each command said."""

    bastion: Site
    inside: Site
    plan: Plan
    said: dict[str, Done] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)  # bytes by digest, for plan and first sync
    sent_again: int = 0
    resources: Path = Path()


@pytest.fixture(scope="module")
def crossed(
    outside: World, inside_authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Crossing, Mirror]]:
    """Walk from the plan to a mirror that serves behind the gap, and take the world away."""
    folder = tmp_path_factory.mktemp("crossing")
    bastion = Site(folder / "bastion", outside.configuration())
    prod = image_set(folder / "prod.yaml")
    edge = image_set(
        folder / "edge.yaml", versions=("4.17.2", "4.17.2"), channel=MULTI_CHANNEL, architecture="multi", extra=False
    )
    outside.registry.front.forget()
    said = {"plan": bastion.mirror("plan", prod, "-o", folder / "prod.plan")}
    plan = Plan.parse((folder / "prod.plan").read_bytes())
    crossing = Crossing(bastion, _inside(folder, outside, inside_authority), plan)
    said["sync"] = bastion.mirror("sync", prod, "--json")
    crossing.sent = dict(outside.registry.front.sent)
    outside.registry.front.forget()
    said["again"] = bastion.mirror("sync", prod, "--json")
    crossing.sent_again = outside.registry.front.total
    bastion.mirror("sync", edge)
    said["save"] = bastion.mirror("save", "prod", "--to", mounted(folder / "disk"), "--part-size", "16MiB")
    bastion.mirror("save", "edge", "--to", mounted(folder / "disk"))
    shutil.move(folder / "disk", folder / "carried")
    said["load"] = crossing.inside.mirror("load", folder / "carried", "--json")
    said["verify"] = crossing.inside.mirror("verify", "--json")
    mirror = crossing.inside.serving()
    mirror.command.append("--offline")
    said["resources"] = crossing.inside.mirror(
        *("resources", "prod", "edge", "--registry", mirror.address, "--ca", inside_authority.ca),
        *("-o", folder / "resources"),
    )
    crossing.resources = folder / "resources"
    crossing.said = said
    outside.registry.front.go_away()
    outside.graph.unavailable = 503
    with running(mirror):
        yield crossing, mirror
    outside.registry.front.come_back()
    outside.graph.unavailable = None
    assert "Traceback" not in mirror.log


def _inside(folder: Path, outside: World, authority: Authority) -> Site:
    """Return a site whose configuration says nothing of the world but its names."""
    return Site(
        folder / "inside",
        {
            "upstreams": {host: {} for host in HOSTS},
            "tls": {"certificate": str(authority.certificate), "key": str(authority.key)},
            "clients": {"anonymous": "pull"},
            "releases": {"keyring": str(outside.keyring)},
        },
    )


@pytest.fixture(scope="module")
def crossing(crossed: tuple[Crossing, Mirror]) -> Crossing:
    return crossed[0]


@pytest.fixture(scope="module")
def mirror(crossed: tuple[Crossing, Mirror]) -> Mirror:
    return crossed[1]


@pytest.fixture
def node(crossing: Crossing, programs: Programs, inside_authority: Authority, short: Path) -> Node:
    return Node(programs, short / "node", crossing.resources / "nodes", inside_authority.ca)


@pytest.fixture(scope="module")
def everything(crossing: Crossing, releases: Releases) -> Release:
    """The release whose every image must be pullable."""
    return releases.older


def test_the_plan_names_all_that_belongs_to_the_release(crossing: Crossing, everything: Release) -> None:
    planned = {str(digest): size for digest, size in crossing.plan.content.items()}
    assert everything.content().items() <= planned.items()
    (release,) = crossing.plan.releases
    assert (release.version, release.architecture, str(release.digest)) == ("4.16.15", "amd64", everything.digest)
    assert release.signed_by
    assert not crossing.plan.lacking
    assert {signature.number for signature in crossing.plan.signatures} == {1, 2}
    kinds = crossing.plan.totals
    assert kinds["images_component"] == 190
    assert kinds["images_release"] == kinds["images_kubevirt"] == kinds["images_image"] == 1


def test_each_unique_byte_was_taken_once(crossing: Crossing) -> None:
    content = {str(digest): size for digest, size in crossing.plan.content.items()}
    assert {digest: size for digest, size in crossing.sent.items() if size != content.get(digest)} == {}
    assert crossing.sent_again == 0


def test_memory_stays_within_bounds(crossing: Crossing) -> None:
    assert {name: done.memory for name, done in crossing.said.items() if done.memory > 200 * 2**20} == {}


def test_save_and_load_agree_on_what_crossed(crossing: Crossing) -> None:
    carried = crossing.resources.parent / "carried"
    parts = sorted(carried.glob("prod-1-*.tar"))
    assert len(parts) > 2
    assert all(part.stat().st_size <= 16 * 2**20 for part in parts)
    assert {"SHA256SUMS", "README.txt"} <= {path.name for path in carried.iterdir()}
    last = crossing.said["save"].out.strip().splitlines()[-1]
    assert last == f"set prod@1 {crossing.plan.digest}"
    assert crossing.said["load"].report["ok"]
    assert crossing.said["verify"].report["ok"]


def test_skopeo_copies_every_image_by_its_own_name(node: Node, everything: Release, releases: Releases) -> None:
    node.copy_all(everything.images())
    assert node.inspect(everything.pullspec) == everything.image.body
    node.copy(f"{EXTRA}:latest", releases.extra)


def test_podman_pulls_every_image_by_its_own_name(node: Node, everything: Release) -> None:
    wanted = everything.images()
    pulled = node.pull_all(wanted)
    assert {name: f"sha256:{one['Id']}" for name, one in pulled.items()} == {
        name: (image.children or (image,))[0].blobs[0].digest  # the configuration, of a list this platform's
        for name, image in wanted.items()
    }


def test_containerd_fetches_every_image_by_its_own_name(
    crossing: Crossing, programs: Programs, everything: Release, short: Path
) -> None:
    generated = crossing.resources / "nodes"
    with running(GeneratedContainerd(programs, short / "ctr", generated)) as containerd:
        containerd.fetch_all(everything.images())


def test_a_release_for_several_architectures(node: Node, releases: Releases) -> None:
    node.copy_all(releases.multi.images())


def test_the_release_is_found_by_its_tag(mirror: Mirror, everything: Release, releases: Releases) -> None:
    name = f"/v2/quay.io/{RELEASE_REPOSITORY}"
    status, headers, body = mirror.get(f"{name}/manifests/{everything.tag}")
    assert (status, body) == (200, everything.image.body)
    assert headers["docker-content-digest"] == everything.digest
    tags = json.loads(mirror.get(f"{name}/tags/list")[2])["tags"]
    assert {everything.tag, releases.multi.tag, tag(everything.digest)} <= set(tags)


def test_sigstore_signatures_came_along_and_verify(mirror: Mirror, everything: Release, releases: Releases) -> None:
    signed = [*everything.image.all_manifests(), *releases.multi.image.all_manifests()]
    for one in signed:
        status, _, body = mirror.get(f"/v2/quay.io/{RELEASE_REPOSITORY}/manifests/{tag(one.digest)}")
        assert status == 200, one.digest
        described = json.loads(body)["layers"][0]
        status, _, claim = mirror.get(f"/v2/quay.io/{RELEASE_REPOSITORY}/blobs/{described['digest']}")
        assert json.loads(claim)["critical"]["image"]["docker-manifest-digest"] == one.digest
        signature = base64.b64decode(described["annotations"]["dev.cosignproject.cosign/signature"])
        load_pem_public_key(everything.policy_key).verify(signature, claim, ec.ECDSA(hashes.SHA256()))
    assert mirror.get(f"/v2/quay.io/{RELEASE_REPOSITORY}/manifests/{tag(everything.digest, 'att')}")[0] == 200


def test_referrers_came_along(mirror: Mirror, everything: Release) -> None:
    subject = everything.components["cli"].digest
    status, _, body = mirror.get(f"/v2/quay.io/openshift-release-dev/ocp-v4.0-art-dev/referrers/{subject}")
    assert status == 200
    assert [one["digest"] for one in json.loads(body)["manifests"]] == [one.digest for one in everything.referrers]


def test_release_signatures_are_served_as_stores_do(mirror: Mirror, outside: World, everything: Release) -> None:
    for number in (1, 2):
        path = f"{everything.digest.replace(':', '=')}/signature-{number}"
        assert mirror.get(f"/{path}")[::2] == (200, (outside.signatures.folder / path).read_bytes())
    assert mirror.get(f"/{everything.digest.replace(':', '=')}/signature-3")[0] == 404


def test_the_update_graph_has_what_is_here_and_nothing_else(
    mirror: Mirror, everything: Release, releases: Releases
) -> None:
    for channel, arch, release in (
        ("stable-4.16", "amd64", everything),
        ("stable-4.17", "multi", releases.multi),
    ):
        status, _, body = mirror.get(f"{PATH}?channel={channel}&arch={arch}", headers={"Accept": "application/json"})
        graph = json.loads(body)
        assert status == 200
        assert [(one["version"], one["payload"]) for one in graph["nodes"]] == [(release.version, release.pullspec)]
        assert graph["edges"] == []


def test_what_is_not_of_a_set_is_absent_at_once(mirror: Mirror, releases: Releases) -> None:
    status, _, body = mirror.get(f"/v2/quay.io/{RELEASE_REPOSITORY}/manifests/{releases.newer.digest}")
    assert status == 404
    assert "offline" in json.loads(body)["errors"][0]["message"] or "not here" in str(body)


def test_what_is_loaded_is_enough_without_any_upstream_in_the_configuration(
    crossing: Crossing, programs: Programs, everything: Release, inside_authority: Authority, short: Path
) -> None:
    document = {key: value for key, value in crossing.inside.document.items() if key not in ("upstreams", "listen")}
    bare = Site(short / "bare", document)
    mirror = bare.serving()
    bare.mirror(
        *("resources", "prod", "--registry", mirror.address, "--ca", inside_authority.ca, "--never-contact-source"),
        *("-o", short / "resources"),
    )
    some = dict(list(everything.images().items())[:3])
    generated = short / "resources" / "nodes"
    with running(mirror):
        Node(programs, short / "node", generated, inside_authority.ca).copy_all(some)
        with running(GeneratedContainerd(programs, short / "ctr", generated)) as containerd:
            containerd.fetch_all(some)


def test_a_lost_blob_is_named_and_can_be_asked_for(
    crossing: Crossing, mirror: Mirror, everything: Release, tmp_path: Path
) -> None:
    lost = everything.components["etcd"].blobs[-1]
    path = crossing.inside.store / "blobs" / "sha256" / lost.digest[7:]
    kept = tmp_path / "kept"
    shutil.copy2(path, kept)
    path.unlink()
    done = crossing.inside.mirror("verify", "prod", "-o", tmp_path / "missing", code=3)
    assert lost.digest in done.err + done.out
    assert lost.digest in (tmp_path / "missing").read_text()
    crossing.bastion.mirror("save", "prod", "--to", mounted(tmp_path / "more"), "--want", tmp_path / "missing")
    assert sum(part.stat().st_size for part in (tmp_path / "more").glob("*.tar")) < 2 * 2**20
    crossing.inside.mirror("load", tmp_path / "more")
    crossing.inside.mirror("verify", "prod", "--deep")
    assert mirror.get(f"/v2/quay.io/openshift-release-dev/ocp-v4.0-art-dev/blobs/{lost.digest}")[0] == 200
