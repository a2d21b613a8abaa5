"""Real clients push to the service, over TLS and with a login, and pull what they pushed: every byte of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import pytest

from tests.clients.conftest import Authority, Shelf
from tests.tools import cosign, images
from tests.tools.clients import ClientError, run
from tests.tools.desks import COPIERS, NOTHING, Desk
from tests.tools.images import Manifest
from tests.tools.mirror import Mirror
from tests.tools.processes import wait_until
from tests.tools.programs import Programs

pytestmark = pytest.mark.clients

PASSWORD = "correct horse"
EVERY = (*COPIERS, "podman", "buildah")
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"


@dataclass(frozen=True)
class House:
    """A registry that alice may do everything in under apps/, bob may pull there, and robot+ci may push to apps/ci."""

    mirror: Mirror
    robot: Path  # the file with the robot's login, as `mirror token create` wrote it

    @property
    def host(self) -> str:
        return self.mirror.address

    def tells(self, event: str, repository: str, times: int) -> None:
        """Wait until the log, which is written in batches, tells of an event so many times; fail where it does not."""
        pattern = re.compile(rf"event={event} .*\bname={re.escape(repository)} ")
        wait_until(lambda: len(pattern.findall(self.mirror.log)) >= times, f"{times} {event} of {repository}", 5)
        assert len(pattern.findall(self.mirror.log)) == times


def opened(folder: Path, authority: Authority, anonymous: str) -> Iterator[House]:
    verbs = ["pull", "push", "delete"]
    rules = [
        {"who": "alice", "repositories": ["apps/**"], "may": verbs},
        {"who": "bob", "repositories": ["apps/**"], "may": ["pull"]},
    ]
    mirror = Mirror(
        folder,
        {
            "workers": 2,
            "tls": {"certificate": str(authority.certificate), "key": str(authority.key)},
            "clients": {"anonymous": anonymous, "htpasswd": str(folder / "htpasswd"), "rules": rules},
            "storage": {"path": str(folder / "store"), "keep_free": "1%", "immutable_tags": ["apps/fixed/**:v*"]},
        },
    )

    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    (folder / "htpasswd").write_text(f"alice:{hashed}\nbob:{hashed}\n")
    robot = folder / "robot.json"
    scope = ("--repositories", "apps/ci/**", "--may", "pull,push", "--expires", "1d")
    command = (*mirror.program, "token", "create", "ci", *scope, "--registry", mirror.address, "--merge", str(robot))
    run([*command, "--config", str(mirror.configuration)])
    mirror.start()
    try:
        yield House(mirror, robot)
    finally:
        code = mirror.stop()
        print(mirror.log)
    assert code == 0
    assert "Traceback" not in mirror.log
    assert " status=5" not in mirror.log
    assert "mrt_" not in mirror.log
    assert PASSWORD not in mirror.log


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[House]:
    """Where who shows no login may pull what is in no rule: clients are sent to /token."""
    yield from opened(tmp_path_factory.mktemp("beside"), authority, "pull")


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[House]:
    """Where nobody is let in without a login: clients show it at once."""
    yield from opened(tmp_path_factory.mktemp("closed"), authority, "none")


@pytest.fixture(params=["beside", "closed"])
def house(request: pytest.FixtureRequest) -> House:
    found: House = request.getfixturevalue(request.param)
    return found


NewDesk = Callable[..., Desk]


@pytest.fixture
def desk(programs: Programs, short: Path, authority: Authority) -> NewDesk:
    """Return a function that makes desks; with a house and a user it knows the login."""

    def one(house: House | None = None, user: str = "alice") -> Desk:
        made = Desk(programs, short / f"desk{len(list(short.iterdir()))}", authority.ca)
        if house is not None and user == "robot+ci":
            made.logins.write_bytes(house.robot.read_bytes())
        elif house is not None:
            made.know(house.host, user, PASSWORD)
        return made

    return one


def motd(text: str, **more: str) -> Manifest:
    return images.image([images.layer(images.tree({"etc/motd": text.encode()}))], **more)


@pytest.fixture(scope="module")
def shapes(shelf: Shelf) -> dict[str, tuple[Manifest, frozenset[str]]]:
    """Images of every form, each with the digests of what clients leave where it is."""
    empty = images.Layer(images.OCI_LAYER, b"", diff_id=images.Content("", b"").digest)
    far = images.layer(images.tree({"windows/system32": b"not ours to hand out"}))
    foreign = images.Layer(FOREIGN, far.body, diff_id=far.diff_id)
    linked = images.image([images.layer(images.tree({"etc/motd": b"near"})), foreign])
    document = json.loads(linked.body)
    document["layers"][1]["urls"] = ["https://example.com/layer.tar.gz"]
    linked = Manifest(linked.media_type, json.dumps(document).encode(), linked.blobs, (), linked.platform)
    return {
        "index": (shelf.multi, NOTHING),
        "docker": (shelf.docker, NOTHING),
        "zstd": (shelf.zstd, NOTHING),
        "empty": (images.image([empty, images.layer(images.tree({"etc/motd": b"full"}))]), NOTHING),
        "foreign": (linked, frozenset({foreign.digest})),
    }


# -- images of every form


@pytest.mark.parametrize("shape", ["index", "docker", "zstd", "empty", "foreign"])
@pytest.mark.parametrize("program", COPIERS)
def test_what_was_pushed_is_pulled(
    beside: House, desk: NewDesk, shapes: dict[str, tuple[Manifest, frozenset[str]]], program: str, shape: str
) -> None:
    image, leave = shapes[shape]
    alice, bob = desk(beside), desk(beside, "bob")
    name = f"{beside.host}/apps/{program}/{shape}:v1"
    if (program, shape) == ("crane", "docker"):  # it pushes no docker lists but those that it copies
        alice.push("skopeo", image, source := f"{beside.host}/apps/source/{shape}:v1")
        alice.copy(program, source, name)
    else:
        alice.push(program, image, name, leave)
    if leave and program in ("skopeo", "crane"):
        alice.copy(program, name, name := f"{beside.host}/apps/{program}/{shape}/copy:v1")  # not to disk without it
    else:
        bob.pull(program, name, image, leave)
    # What another client sees is the same.
    assert images.Content("", bob("crane", "manifest", name).encode()).digest == image.digest
    beside.tells("manifest_pushed", f"apps/{program}/{shape}", len(image.all_manifests()))


@pytest.mark.parametrize("program", COPIERS)
def test_a_copy_to_another_repository_sends_nothing_again(beside: House, desk: NewDesk, program: str) -> None:
    image = images.index([motd(f"for {program}"), motd(f"for {program}", architecture="arm64")])
    alice, name = desk(beside), f"apps/mount/{program}"
    alice.push(program, image, f"{beside.host}/{name}:v1")
    sent = len(image.all_blobs())
    beside.tells("blob_pushed", name, sent)
    alice.copy(program, f"{beside.host}/{name}:v1", f"{beside.host}/{name}/copy:v1")
    again = len(image.children) if program == "skopeo" else 0  # it sends configurations, and mounts every layer
    beside.tells("blob_mounted", f"{name}/copy", sent - again)
    beside.tells("blob_pushed", f"{name}/copy", again)
    alice.pull(program, f"{beside.host}/{name}/copy:v1", image)


# -- who pushes


@pytest.mark.parametrize("program", EVERY)
def test_a_login_is_what_it_takes(house: House, desk: NewDesk, program: str) -> None:
    """Each client as it is used: logging in, building or copying, pushing, and out again."""
    image = motd(f"pushed by {program}")
    somebody, name = desk(), f"{house.host}/apps/login/{program}:v1"
    with pytest.raises(ClientError, match=r"(?i)unauthorized|authentication required|401|credential"):
        _push_somehow(somebody, program, image, name)
    if program != "crane":  # which writes down whatever it is told
        with pytest.raises(ClientError, match=r"(?i)unauthorized|invalid username|401"):
            somebody.log_in(program, house.host, "alice", "wrong")
    somebody.log_in(program, house.host, "alice", PASSWORD)
    pushed = _push_somehow(somebody, program, image, name)
    _pull_somehow(desk(house, "bob"), program, name, pushed)
    somebody.log_out(program, house.host)
    with pytest.raises(ClientError, match=r"(?i)unauthorized|authentication required|401|credential"):
        _push_somehow(somebody, program, image, name)


@pytest.mark.parametrize("program", EVERY)
def test_a_robot_with_its_file(closed: House, desk: NewDesk, program: str) -> None:
    """What `mirror token create --merge` wrote is the login of every client, as far as the token goes."""
    image = motd(f"built for {program}")
    robot, name = desk(closed, "robot+ci"), f"apps/ci/{program}"
    pushed = _push_somehow(robot, program, image, f"{closed.host}/{name}:v1")
    _pull_somehow(desk(closed, "robot+ci"), program, f"{closed.host}/{name}:v1", pushed)
    with pytest.raises(ClientError, match=r"(?i)denied|403|forbidden"):
        _push_somehow(robot, program, image, f"{closed.host}/apps/other/{program}:v1")
    with pytest.raises(ClientError, match=r"(?i)denied|403|forbidden"):
        _push_somehow(desk(closed, "bob"), program, motd("not bob's"), f"{closed.host}/{name}:v1")


def _push_somehow(desk: Desk, program: str, image: Manifest, name: str) -> str:
    """Push by any client; return the digest of what was pushed."""
    if program in COPIERS:
        desk.push(program, image, name)
        return image.digest
    digest = desk.folder / "digest"
    if program == "podman":
        if not (desk.folder / "archive.tar").exists():
            (desk.folder / "archive.tar").write_bytes(images.tree({"etc/motd": name.encode()}))
            desk("podman", "import", "--quiet", desk.folder / "archive.tar", "localhost/made")
        desk("podman", "push", "--quiet", "--digestfile", digest, "localhost/made", name)
    else:
        if not (desk.folder / "motd").exists():
            (desk.folder / "motd").write_text(name)
            made = desk("buildah", "from", "scratch").strip()
            desk("buildah", "copy", "--quiet", made, desk.folder / "motd", "/etc/motd")
            desk("buildah", "commit", "--quiet", "--signature-policy", desk.policy, made, "localhost/made")
        policy = ("--signature-policy", str(desk.policy))
        desk("buildah", "push", "--quiet", *policy, "--digestfile", digest, "localhost/made", f"docker://{name}")
    return digest.read_text()


def _pull_somehow(desk: Desk, program: str, name: str, digest: str) -> None:
    """Pull by any client into an empty place; fail where that is not what `digest` is of."""
    assert desk("crane", "digest", name).strip() == digest
    desk("crane", "validate", "--remote", name)  # every layer, hashed
    if program in ("podman", "buildah"):
        desk(program, "pull", "--quiet", "--signature-policy", desk.policy, name)
        inspected = json.loads(desk(program, "inspect", "--type", "image", name))
        described = inspected[0] if isinstance(inspected, list) else inspected
        assert digest in (described.get("Digest"), described.get("FromImageDigest"))


# -- signatures


@pytest.mark.parametrize("program", COPIERS)
def test_a_signature_s_tag_goes_with_its_image(beside: House, desk: NewDesk, program: str) -> None:
    """cosign's scheme: the signature is an image under a tag that is made of the digest."""
    image, key, alice = motd(f"signed for {program}"), cosign.SigstoreKey("team"), desk(beside)
    source = f"{beside.host}/apps/signed/{program}"
    target = f"{source}/copy"
    signature, tag = key.sign(source, image.digest), cosign.tag(image.digest)
    alice.push(program, image, f"{source}:v1")
    alice.push(program, signature, f"{source}:{tag}")
    copies = [target]
    if program == "skopeo":
        # It takes signatures along by itself, once it is told that a registry has such.
        told = alice.folder / ".config" / "containers" / "registries.d"
        told.mkdir(parents=True)
        (told / "lab.yaml").write_text(json.dumps({"docker": {beside.host: {"use-sigstore-attachments": True}}}))
        alice.copy(program, f"{source}:v1", f"{target}:v1")
        alice("skopeo", "sync", "--all", "--src", "docker", "--dest", "docker", source, f"{target}/synced")
        copies.append(f"{target}/synced/{program}")
    elif program == "regctl":
        alice(program, "image", "copy", "--digest-tags", f"{source}:v1", f"{target}:v1")
    else:
        for one in ("v1", tag):
            alice.copy(program, f"{source}:{one}", f"{target}:{one}")
    for copy in copies:
        assert alice("crane", "ls", copy).split() == sorted([tag, "v1"])
        assert alice("crane", "digest", f"{copy}:v1").strip() == image.digest
        (layer,) = json.loads(alice("crane", "manifest", f"{copy}:{tag}"))["layers"]
        claim = alice("crane", "blob", f"{copy}@{layer['digest']}").encode()
        assert json.loads(claim)["critical"]["image"]["docker-manifest-digest"] == image.digest
        key.verify(layer["annotations"], claim)


@pytest.mark.parametrize("program", ["oras", "regctl"])
def test_what_is_attached_goes_with_its_image(beside: House, desk: NewDesk, program: str) -> None:
    """Referrers: found by the digest that they are about, in pages, by their type, and copied with the image."""
    image, alice = images.index([motd(f"attached for {program}")]), desk(beside)
    source, target = f"{beside.host}/apps/attached/{program}", f"{beside.host}/apps/attached/{program}/copy"
    alice.push(program, image, f"{source}:v1")
    sbom = alice.folder / "sbom.json"
    sbom.write_text('{"packages": []}')
    for kind in ("sbom", "signature"):
        words = {
            "oras": ["attach", "--disable-path-validation", "--artifact-type", f"application/{kind}", f"{source}:v1"],
            "regctl": ["artifact", "put", "--artifact-type", f"application/{kind}", "--subject", f"{source}:v1"],
        }
        named = [f"{sbom}:text/spdx+json"] if program == "oras" else ["--file", sbom]
        alice(program, *words[program], *named)
    copying = {
        "oras": ["cp", "--recursive", f"{source}:v1", f"{target}:v1"],
        "regctl": ["image", "copy", "--referrers", f"{source}:v1", f"{target}:v1"],
    }
    alice(program, *copying[program])
    for name in (source, target):
        found = json.loads(alice("oras", "discover", "--format", "json", f"{name}:v1"))
        listed = {one["artifactType"]: one["digest"] for one in found.get("manifests") or found["referrers"]}
        assert set(listed) == {"application/sbom", "application/signature"}
        one = json.loads(
            alice("oras", "discover", "--format", "json", "--artifact-type", "application/sbom", f"{name}:v1")
        )
        assert [each["digest"] for each in one.get("manifests") or one["referrers"]] == [listed["application/sbom"]]
        # No tag stands in for what the registry itself lists.
        assert alice("crane", "ls", name).split() == ["v1"]
        (layer,) = json.loads(alice("crane", "manifest", f"{name}@{listed['application/sbom']}"))["layers"]
        assert alice("oras", "blob", "fetch", "--output", "-", f"{name}@{layer['digest']}") == sbom.read_text()


# -- tags


def test_tags_are_listed_deleted_and_kept(beside: House, desk: NewDesk) -> None:
    alice, bob, name = desk(beside), desk(beside, "bob"), f"{beside.host}/apps/tags"
    first, second = motd("first"), motd("second")
    for tag, image in (("v1", first), ("v2", second), ("v3", second), ("v4", second)):
        alice.push("crane", image, f"{name}:{tag}")
    assert bob("crane", "ls", name).split() == ["v1", "v2", "v3", "v4"]
    with pytest.raises(ClientError, match=r"(?i)denied|403"):
        bob("regctl", "tag", "delete", f"{name}:v2")
    alice("regctl", "tag", "delete", f"{name}:v2")  # by the tag alone: the manifest stays
    assert json.loads(bob("skopeo", "list-tags", f"docker://{name}"))["Tags"] == ["v1", "v3", "v4"]
    alice("skopeo", "delete", f"docker://{name}:v1")  # by digest, and so with its tags
    assert bob("oras", "repo", "tags", name).split() == ["v3", "v4"]
    alice("oras", "manifest", "delete", "--force", f"{name}:v3")
    with pytest.raises(ClientError, match="MANIFEST_UNKNOWN"):
        bob("crane", "manifest", f"{name}@{second.digest}")
    alice.push("crane", first, f"{name}:v1")
    alice("crane", "tag", f"{name}:v1", "latest")
    alice("crane", "delete", f"{name}:latest")
    bob.pull("crane", f"{name}:v1", first)


def test_a_tag_that_is_fixed_stays(beside: House, desk: NewDesk) -> None:
    alice, name = desk(beside), f"{beside.host}/apps/fixed/app"
    alice.push("skopeo", motd("first"), f"{name}:v1")
    alice.push("skopeo", motd("first"), f"{name}:v1")
    for program in COPIERS:
        with pytest.raises(ClientError, match=r"(?i)denied|403"):
            alice.push(program, motd("second"), f"{name}:v1")
    alice.push("skopeo", motd("second"), f"{name}:latest")
    alice.pull("crane", f"{name}:v1", motd("first"))


def test_the_catalog_is_what_one_may_pull(beside: House, desk: NewDesk) -> None:
    desk(beside).push("crane", motd("listed"), f"{beside.host}/apps/listed:v1")
    assert "apps/listed" in desk(beside, "bob")("crane", "catalog", beside.host).split()
    seen = desk(beside, "robot+ci")("crane", "catalog", beside.host).split()
    assert all(name.startswith("apps/ci/") for name in seen)
    with pytest.raises(ClientError, match=r"(?i)unauthorized"):
        desk()("crane", "catalog", beside.host)
