"""One image from a laptop: OCI layouts, oci-archives, docker-archives, made by hand and by skopeo itself."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.errors import ConfigurationError, InvalidRequest, NameUnknown
from mirror.oci.digest import Digest
from mirror.offline import foreign
from mirror.offline.foreign import ImageNotFound, docker_archive
from mirror.offline.plan import Plan
from mirror.offline.tar import ArchiveInvalid, FormatUnsupported
from mirror.outside import Direct
from tests.tools import images
from tests.tools.images import Manifest
from tests.unit.offline import foreign_bed as bed
from tests.unit.offline.foreign_bed import Bench

NAME = "quay.io/ns/app"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "store")
    yield made
    made.close()


def only(survey: foreign.Survey):
    assert len(survey.images) == 1
    return survey.images[0]


# -- OCI layouts and archives ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["folder", "archive", "archive, index last", "archive, from inside"])
def test_an_oci_layout_is_brought_by_its_digest(bench, tmp_path, form):
    image = bed.many()
    files = bed.oci_layout(image)
    if form == "folder":
        path = bed.lay(tmp_path / "layout", files)
    else:
        if form == "archive, index last":
            files = dict(sorted(files.items(), key=lambda file: (file[0] in ("index.json", "oci-layout"), file[0])))
        elif form == "archive, from inside":
            files = {f"./{name}": body for name, body in files.items()}
        path = bed.pack(tmp_path / "image.tar", files)
    survey, brought = bench.bring(path, as_name=f"{NAME}@{image.digest}")
    assert survey.foreign.kind == ("oci-layout" if form == "folder" else "oci-archive")
    assert bench.holds(image)
    found = only(survey)
    assert (found.name, found.source, str(found.digest), found.tags) == (NAME, NAME, image.digest, ())
    assert found.architectures == ()
    assert brought.contents == len(bed.contents(image))
    plan = survey.plan("laptop", require_signature=False)
    assert Plan.parse(plan.dump()) == plan
    assert {str(digest): size for digest, size in plan.content.items()} == {
        digest: len(body) for digest, body in bed.contents(image).items()
    }


def test_the_digest_may_be_that_of_a_child(bench, tmp_path):
    image = bed.many()
    child = image.children[1]
    path = bed.lay(tmp_path / "layout", bed.oci_layout(image))
    survey, _ = bench.bring(path, as_name=f"{NAME}:v1@{child.digest}")
    assert (str(only(survey).digest), only(survey).tags) == (child.digest, ("v1",))
    assert bench.holds(child)
    assert bench.here(Digest.parse(image.digest)) is None


def test_a_name_is_enough_for_the_only_image(bench, tmp_path):
    tagged = (bed.app(), {"org.opencontainers.image.ref.name": "1.4"})
    path = bed.lay(tmp_path / "layout", bed.oci_layout(tagged))
    assert only(bench.bring(path, as_name=NAME)[0]).tags == ("1.4",)
    assert only(bench.bring(path, as_name=f"{NAME}:mine")[0]).tags == ("mine",)


def test_children_that_are_listed_too_are_no_images_of_their_own(bench, tmp_path):
    image = bed.many()
    path = bed.lay(tmp_path / "layout", bed.oci_layout(image, *image.children))
    assert str(only(bench.bring(path, as_name=NAME)[0]).digest) == image.digest


def test_several_images_need_a_digest(bench, tmp_path):
    one, other = bed.app("one"), bed.app("other")
    path = bed.lay(tmp_path / "layout", bed.oci_layout(one, other))
    with pytest.raises(ImageNotFound) as caught:
        bench.bring(path, as_name=NAME)
    assert one.digest in caught.value.what
    assert other.digest in caught.value.what
    assert f"--as {NAME}@" in caught.value.remedy
    assert bench.bring(path, as_name=f"{NAME}@{other.digest}")[1].damaged == ()
    assert bench.holds(other)


def test_another_digest_is_not_found(bench, tmp_path):
    image, wanted = bed.app(), bed.app("another")
    path = bed.lay(tmp_path / "layout", bed.oci_layout(image))
    with pytest.raises(ImageNotFound, match=wanted.digest) as caught:
        bench.bring(path, as_name=f"{NAME}@{wanted.digest}")
    assert image.digest in caught.value.remedy
    assert f"skopeo copy --all --preserve-digests docker://{NAME}@{wanted.digest} dir:" in caught.value.remedy


def test_an_archive_may_say_names_itself(bench, tmp_path):
    one, other, nameless = bed.app("one"), bed.app("other"), bed.app("nameless")
    path = bed.lay(
        tmp_path / "layout",
        bed.oci_layout(
            (one, {"io.containerd.image.name": "quay.io/ns/one:v1", "org.opencontainers.image.ref.name": "v1"}),
            (one, {"org.opencontainers.image.ref.name": "quay.io/ns/one:v2"}),
            (other, {"io.containerd.image.name": "docker.io/library/other:latest"}),
            (nameless, {"org.opencontainers.image.ref.name": "latest"}),
        ),
    )
    survey, _ = bench.bring(path)
    assert [(image.source, image.tags) for image in survey.images] == [
        ("docker.io/library/other", ("latest",)),
        ("quay.io/ns/one", ("v1", "v2")),
    ]
    (left,) = survey.left_out
    assert nameless.digest in left.what
    assert left.remedy == f"name it: --as HOST/REPOSITORY@{nameless.digest}"


@pytest.mark.parametrize("note", [7, "localhost/built:here", "/", "a b", "-", "quay.io/UPPER:x", None, "x" * 300])
def test_names_that_are_none_are_no_names(bench, tmp_path, note):
    image = (bed.app(), {"org.opencontainers.image.ref.name": note, "io.containerd.image.name": note})
    path = bed.lay(tmp_path / "layout", bed.oci_layout(image))
    survey, _ = bench.bring(path)
    assert survey.images == ()
    assert len(survey.left_out) == 1


def test_platforms_that_were_not_saved_are_left_out_and_said(bench, tmp_path):
    """Newer dockers save the index with every platform in it, and the content of one."""
    image = bed.many("app", "amd64", "arm64", "s390x")
    lost = [digest for child in image.children[1:] for digest in (child.digest, child.blobs[0].digest)]
    path = bed.lay(tmp_path / "layout", bed.oci_layout(image, leave=lost))
    survey, brought = bench.bring(path, as_name=f"{NAME}@{image.digest}")
    assert only(survey).architectures == ("amd64",)
    assert survey.missing == {}
    assert survey.left_out == ()
    assert brought.damaged == ()
    assert [warning for warning in survey.warnings if "amd64 only; left out: 2 images" in warning]
    index = next(one for one in survey.manifests if str(one.digest) == image.digest)
    assert [str(child) for child in index.manifests] == [image.children[0].digest]
    Plan.parse(survey.plan("laptop", require_signature=False).dump())


def test_a_lost_blob_leaves_its_image_out_and_is_named(bench, tmp_path):
    whole, broken = bed.app("whole"), bed.app("broken")
    lost = broken.blobs[2]
    files = bed.oci_layout(
        (whole, {"io.containerd.image.name": "quay.io/ns/whole:v1"}),
        (broken, {"io.containerd.image.name": "quay.io/ns/broken:v1"}),
        leave=[lost.digest],
    )
    survey, brought = bench.bring(bed.lay(tmp_path / "layout", files))
    assert only(survey).source == "quay.io/ns/whole"
    assert {str(digest): image for digest, image in survey.missing.items()} == {
        lost.digest: f"quay.io/ns/broken@{broken.digest}"
    }
    assert [left.what for left in survey.left_out] == [f"quay.io/ns/broken@{broken.digest}"]
    assert brought.damaged == ()
    assert bench.holds(whole)
    assert bench.here(Digest.parse(broken.digest)) is None


def test_what_is_here_already_need_not_be_in_the_archive(bench, tmp_path):
    old, new = bed.app("old"), bed.app("new")
    bench.bring(bed.lay(tmp_path / "first", bed.oci_layout(old)), as_name=NAME)
    files = bed.oci_layout(new, leave=[bed.BASE.digest])
    survey, brought = bench.bring(bed.lay(tmp_path / "second", files), as_name=NAME)
    assert survey.missing == {}
    assert brought.contents == 3
    assert bench.holds(old, new)


def test_bringing_it_twice_writes_nothing(bench, tmp_path):
    path = bed.pack(tmp_path / "image.tar", bed.oci_layout(bed.many()))
    assert bench.bring(path, as_name=NAME)[1].contents == 8
    survey, brought = bench.bring(path, as_name=NAME)
    assert (brought.contents, brought.size, len(survey.manifests)) == (0, 0, 3)


def test_a_flipped_bit_is_found_and_the_rest_is_brought(bench, tmp_path):
    image = bed.app()
    files = bed.oci_layout(image)
    layer = image.blobs[2]
    wrong = bytearray(layer.body)
    wrong[len(wrong) // 2] ^= 1
    files[bed.blob_path(layer.digest)] = bytes(wrong)
    survey, brought = bench.bring(bed.lay(tmp_path / "layout", files), as_name=NAME)
    assert [one.what for one in brought.damaged] == [layer.digest]
    assert bench.here(Digest.parse(layer.digest)) is None
    assert bench.holds(image.blobs[0], image.blobs[1])
    assert only(survey)


def test_a_manifest_with_other_bytes_is_damage(bench, tmp_path):
    image = bed.app()
    files = bed.oci_layout(image)
    files[bed.blob_path(image.digest)] += b" "
    survey, _ = bench.bring(bed.lay(tmp_path / "layout", files), as_name=NAME)
    assert survey.images == ()
    assert "has other bytes" in survey.damaged[0].why


def test_a_blob_of_another_size_is_damage(bench, tmp_path):
    image = bed.app()
    files = bed.oci_layout(image)
    files[bed.blob_path(image.blobs[1].digest)] += b"more"
    survey, _ = bench.bring(bed.lay(tmp_path / "layout", files), as_name=NAME)
    assert survey.images == ()
    assert f"{len(image.blobs[1].body) + 4} bytes in the archive" in survey.damaged[0].why


def test_a_file_that_shrinks_while_it_is_brought_is_damage(bench, tmp_path):
    image = bed.app()
    path = bed.lay(tmp_path / "layout", bed.oci_layout(image))
    archive = bench.open(path)
    survey = bench.survey(archive, NAME)
    lost, cut = image.blobs[1], image.blobs[2]
    (path / bed.blob_path(lost.digest)).unlink()
    os.truncate(path / bed.blob_path(cut.digest), 10)
    brought = foreign.bring(survey, bench.intake)
    assert {one.what for one in brought.damaged} == {lost.digest, cut.digest}


def test_layers_from_their_publisher_alone_are_left_out(bench, tmp_path):
    image = bed.app()
    document = json.loads(image.body)
    document["layers"][1]["urls"] = ["https://publisher.example/layer"]
    body = json.dumps(document).encode()
    apart = Manifest(image.media_type, body, blobs=image.blobs)
    survey, _ = bench.bring(bed.lay(tmp_path / "layout", bed.oci_layout(apart)), as_name=NAME)
    assert image.blobs[2].digest not in map(str, survey.content)
    assert any("left out, to be fetched only from the publisher: 1 layer" in warning for warning in survey.warnings)


def _nested(depth: int) -> Manifest:
    image = bed.app()
    for _ in range(depth):
        image = images.index([image])
    return image


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (_nested(5), "nested too deeply"),
        (Manifest(images.OCI_MANIFEST, b"not json"), "not valid JSON"),
        (Manifest(images.OCI_MANIFEST, b'{"schemaVersion": 1, "fsLayers": []}'), "schema 1"),
        (Manifest(images.OCI_MANIFEST, b'{"schemaVersion": 2, "manifests": [], "layers": []}'), "at once"),
    ],
)
def test_manifests_that_cannot_be_kept(bench, tmp_path, image, said):
    survey, _ = bench.bring(bed.lay(tmp_path / "layout", bed.oci_layout(image)), as_name=NAME)
    assert survey.images == ()
    assert said in survey.damaged[0].why


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("oci-layout", b"{}"),
        ("oci-layout", b'{"imageLayoutVersion": "2.0.0"}'),
        ("oci-layout", b"[]"),
        ("oci-layout", b"\xff"),
        ("index.json", b""),
        ("index.json", b"{}"),
        ("index.json", b'{"manifests": {}}'),
        ("index.json", b'{"manifests": [7]}'),
        ("index.json", b'{"manifests": [{"digest": "sha256:../../etc/passwd", "size": 1}]}'),
        ("index.json", b'{"manifests": [{"digest": "sha256:' + b"a" * 64 + b'", "size": -1}]}'),
        ("index.json", b'{"manifests": [{"digest": "md5:' + b"a" * 32 + b'", "size": 1}]}'),
        ("index.json", b"[" * 100_000),
        ("index.json", b'{"a": "' + b"x" * 5_000_000 + b'"}'),
    ],
)
def test_layouts_that_are_none(bench, tmp_path, name, content):
    files = bed.oci_layout(bed.app()) | {name: content}
    with pytest.raises((ArchiveInvalid, FormatUnsupported)):
        bench.open(bed.lay(tmp_path / "layout", files))
    with pytest.raises((ArchiveInvalid, FormatUnsupported)):
        bench.open(bed.pack(tmp_path / "layout.tar", files))


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_folder_is_never_read_through_a_link_or_a_pipe(bench, tmp_path, kind):
    image = bed.app()
    path = bed.lay(tmp_path / "layout", bed.oci_layout(image))
    blob = path / bed.blob_path(image.blobs[2].digest)
    if kind == "link":
        blob.rename(tmp_path / "elsewhere")
        blob.symlink_to(tmp_path / "elsewhere")
    else:
        blob.unlink()
        os.mkfifo(blob) if kind == "pipe" else blob.mkdir()
    survey, _ = bench.bring(path, as_name=NAME)
    assert survey.images == ()
    assert len(survey.damaged) == 1


def test_the_name_must_be_one_here(bench, tmp_path):
    path = bed.lay(tmp_path / "layout", bed.oci_layout(bed.app()))
    archive = bench.open(path)

    def unknown(pullspec):
        raise NameUnknown(f"no upstream has {pullspec.source}")

    def named(text):
        return foreign.survey(archive, as_name=foreign_name(text), name=unknown, here=bench.here, has=bench.intake.has)

    assert only(named("registry.example/ns/app")).name == "registry.example/ns/app"
    with pytest.raises(InvalidRequest):
        named("registry.example:5000/ns/app")


def foreign_name(text):
    from mirror.oci.pullspec import Pullspec

    return Pullspec.parse(text)


# -- docker-archives -------------------------------------------------------------------------------------------------


def _plain(image: Manifest) -> list[bytes]:
    return [zlib.decompress(layer.body, wbits=31) for layer in image.blobs[1:]]


def test_a_docker_archive_gets_a_manifest_and_says_its_digest(bench, tmp_path):
    image = bed.app()
    files, links = bed.docker_archive(image, _plain(image), ["quay.io/ns/app:v1", "quay.io/ns/app:v2", "short:v3"])
    survey, _ = bench.bring(bed.pack(tmp_path / "image.tar", files, links), as_name=f"{NAME}:mine")
    found = only(survey)
    body = bench.here(found.digest)
    assert body is not None
    manifest = json.loads(body)
    assert manifest["mediaType"] == images.DOCKER_MANIFEST
    assert manifest["config"]["digest"] == image.blobs[0].digest
    assert [layer["digest"] for layer in manifest["layers"]] == [
        "sha256:" + hashlib.sha256(layer).hexdigest() for layer in _plain(image)
    ]
    assert {layer["mediaType"] for layer in manifest["layers"]} == {"application/vnd.docker.image.rootfs.diff.tar"}
    assert [bench.here(Digest.parse(layer["digest"])) for layer in manifest["layers"]] == _plain(image)
    (warning,) = survey.warnings
    assert str(found.digest) in warning
    assert "not the source's" in warning
    assert found.tags == ("mine",)


def test_a_docker_archive_names_what_it_names(bench, tmp_path):
    image = bed.app()
    files, links = bed.docker_archive(image, _plain(image), ["quay.io/ns/app:v1", "quay.io/ns/other:v2"])
    survey, _ = bench.bring(bed.pack(tmp_path / "image.tar", files, links))
    assert [(one.source, one.tags) for one in survey.images] == [(NAME, ("v1",)), ("quay.io/ns/other", ("v2",))]
    files, links = bed.docker_archive(image, _plain(image), ["short:1.2"])
    path = bed.pack(tmp_path / "short.tar", files, links)
    assert only(bench.bring(path, as_name="docker.io/short")[0]).tags == ("1.2",)
    assert bench.bring(path)[0].left_out != ()


def test_compressed_layers_keep_their_bytes(bench, tmp_path):
    image = bed.app()
    files, links = bed.docker_archive(image, [layer.body for layer in image.blobs[1:]])
    survey, _ = bench.bring(bed.pack(tmp_path / "image.tar", files, links), as_name=NAME)
    assert bench.holds(*image.blobs)
    manifest = json.loads(bench.here(only(survey).digest))
    assert {layer["mediaType"] for layer in manifest["layers"]} == {images.DOCKER_LAYER}


def test_the_sources_digest_is_not_found_in_a_docker_archive(bench, tmp_path):
    image = bed.app()
    files, links = bed.docker_archive(image, _plain(image))
    with pytest.raises(ImageNotFound) as caught:
        bench.bring(bed.pack(tmp_path / "image.tar", files, links), as_name=f"{NAME}@{image.digest}")
    assert "a docker-archive keeps no manifest" in caught.value.remedy


def test_links_between_layers_are_followed_within_the_archive(bench, tmp_path):
    image = bed.app()
    plain = _plain(image)
    files, _ = bed.docker_archive(image, plain)
    name = json.loads(files["manifest.json"])[0]["Layers"][1]
    files["shared/layer.tar"] = files.pop(name)
    path = bed.pack(tmp_path / "image.tar", files, {name: "../hop/layer.tar", "hop/layer.tar": "../shared/layer.tar"})
    survey, brought = bench.bring(path, as_name=NAME)
    assert only(survey)
    assert brought.damaged == ()


@pytest.mark.parametrize("target", ["../../../../etc/passwd", "/etc/passwd", "layer.tar", "../gone/layer.tar", "."])
def test_links_that_lead_out_or_nowhere_are_refused(bench, tmp_path, target):
    image = bed.app()
    files, _ = bed.docker_archive(image, _plain(image))
    name = json.loads(files["manifest.json"])[0]["Layers"][1]
    del files[name]
    with pytest.raises(ArchiveInvalid, match="leads nowhere"):
        bench.open(bed.pack(tmp_path / "image.tar", files, {name: target}))


def test_a_layer_of_other_bytes_is_damage(bench, tmp_path):
    image = bed.app()
    plain = _plain(image)
    files, links = bed.docker_archive(image, plain)
    name = json.loads(files["manifest.json"])[0]["Layers"][1]
    files[name] = files[name][:-1] + b"x"
    survey, brought = bench.bring(bed.pack(tmp_path / "image.tar", files, links), as_name=NAME)
    assert len(brought.damaged) == 1
    assert brought.damaged[0].what == "sha256:" + hashlib.sha256(plain[1]).hexdigest()
    assert only(survey)


def _listing(config: str, layers: object) -> bytes:
    return json.dumps([{"Config": config, "Layers": layers}]).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda files, config: files.update({"manifest.json": b"[]"}),
        lambda files, config: files.update({"manifest.json": b"{}"}),
        lambda files, config: files.update({"manifest.json": b"[{}]"}),
        lambda files, config: files.update({"manifest.json": b'[{"Config": 7}]'}),
        lambda files, config: files.update({"manifest.json": b'[{"Config": "gone"}]'}),
        lambda files, config: files.update({"manifest.json": _listing(config, 7)}),
        lambda files, config: files.update({"manifest.json": _listing(config, [7, 7])}),
        lambda files, config: files.update({"manifest.json": _listing(config, ["gone"])}),
        lambda files, config: files.update({"manifest.json": _listing(config, ["gone", "too"])}),
        lambda files, config: files.update({"manifest.json": b"[" * 100_000}),
        lambda files, config: files.update({config: b"{}"}),
        lambda files, config: files.update({config: b'{"rootfs": {"diff_ids": ["sha256:x", "y"]}}'}),
        lambda files, config: files.update({config: b'{"rootfs": {"diff_ids": 7}}'}),
        lambda files, config: files.update({config: b"\x00" * 100}),
    ],
)  # fmt: skip
def test_docker_archives_that_are_none(bench, tmp_path, change):
    image = bed.app()
    files, links = bed.docker_archive(image, _plain(image))
    change(files, next(name for name in files if name.endswith(".json") and name != "manifest.json"))
    with pytest.raises(ArchiveInvalid):
        bench.open(bed.pack(tmp_path / "image.tar", files, links))


def test_repository_tags_may_be_anything_in_a_strange_archive(bench, tmp_path):
    image = bed.app()
    files, links = bed.docker_archive(image, _plain(image))
    for strange in (7, {"a": 1}, [7, None, ":", "a:b c"], "text"):
        entry = json.loads(files["manifest.json"])[0] | {"RepoTags": strange}
        files["manifest.json"] = json.dumps([entry]).encode()
        survey, _ = bench.bring(bed.pack(tmp_path / "image.tar", files, links), as_name=NAME)
        assert only(survey).tags == ()


def test_layers_that_nodes_cannot_unpack_are_refused(bench, tmp_path):
    image = bed.app()
    files, links = bed.docker_archive(image, [b"BZh9" + bytes(100), b"\xfd7zXZ\0" + bytes(100)])
    with pytest.raises(FormatUnsupported):
        bench.open(bed.pack(tmp_path / "image.tar", files, links))


def test_archives_with_links_are_no_layouts(bench, tmp_path):
    path = bed.pack(tmp_path / "image.tar", bed.oci_layout(bed.app()), {"blobs/sha256/x": "/etc/passwd"})
    with pytest.raises(ArchiveInvalid, match="is a link"):
        bench.open(path)


# -- what is recognised ----------------------------------------------------------------------------------------------


def test_our_own_parts_and_other_folders_are_not_foreign(tmp_path):
    (tmp_path / "empty").mkdir()
    bed.lay(tmp_path / "parts", {"prod-5-001-of-002.tar": b"x"})
    bed.pack(tmp_path / "renamed.tar", {"mirror-part.json": b"{}", "plan.json": b"{}"})
    bed.pack(tmp_path / "other.tar", {"some/file": b"x"})
    for name in ("empty", "parts", "parts/prod-5-001-of-002.tar", "renamed.tar", "other.tar"):
        assert foreign.recognise([tmp_path / name], Direct()) is None


def test_what_cannot_be_taken_says_the_way_round(tmp_path):
    files = bed.oci_layout(bed.app())
    one, other = bed.pack(tmp_path / "one.tar", files), bed.pack(tmp_path / "other.tar", files)
    for name, unpacked in (("a b.tar.gz", "a b.tar"), ("a.tgz", "a.tar"), ("c", "c.tar"), ("d.tar", "d-unpacked.tar")):
        (tmp_path / name).write_bytes(gzip.compress(one.read_bytes()))
        with pytest.raises(FormatUnsupported, match="gzip") as caught:
            foreign.recognise([tmp_path / name], Direct())
        subprocess.run(["sh", "-c", caught.value.remedy.partition("load that: ")[2]], check=True)
        assert (tmp_path / unpacked).read_bytes() == one.read_bytes()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatUnsupported, match="is not a regular file"):  # and waits for nobody who writes into it
        foreign.recognise([tmp_path / "pipe"], Direct())
    with pytest.raises(ConfigurationError, match="load one at a time"):
        foreign.recognise([one, other], Direct())
    with pytest.raises(ConfigurationError, match="No such file"):
        foreign.recognise([tmp_path / "gone"], Direct())


def test_a_closed_archive_leaves_no_descriptor(bench, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    image = bed.app()
    path = bed.pack(tmp_path / "image.tar", bed.oci_layout(image))
    bench.bring(path, as_name=NAME)
    with pytest.raises(ArchiveInvalid):
        bench.open(bed.pack(tmp_path / "bad.tar", bed.oci_layout(image) | {"index.json": b"{"}))
    assert len(os.listdir("/proc/self/fd")) == before


# -- real archives ---------------------------------------------------------------------------------------------------


def _skopeo(programs, *arguments: str) -> None:
    subprocess.run([programs.find("skopeo"), "--insecure-policy", *arguments], check=True, capture_output=True)


def test_an_archive_of_skopeo_keeps_the_digest(bench, tmp_path, programs):
    image = bed.many(docker=False)
    layout = bed.lay(tmp_path / "layout", bed.oci_layout(image))
    archive = tmp_path / "image.tar"
    _skopeo(programs, "copy", "--all", "--preserve-digests", f"oci:{layout}", f"oci-archive:{archive}:v1")
    survey, _ = bench.bring(archive, as_name=f"{NAME}@{image.digest}")
    assert survey.foreign.kind == "oci-archive"
    assert bench.holds(image)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("docker", [False, True])
def test_a_dir_of_skopeo_keeps_every_digest(bench, tmp_path, programs, docker, packed):
    """Releases are of docker's media types, which skopeo rewrites for a layout."""
    image = bed.many(docker=docker)
    source = {"version": b"Directory Transport Version: 1.1\n", "manifest.json": image.body}
    source |= {f"{child.digest[7:]}.manifest.json": child.body for child in image.children}
    source |= {digest[7:]: blob.body for digest, blob in image.all_blobs().items()}
    folder = tmp_path / "copied"
    source_folder = bed.lay(tmp_path / "source", source)
    _skopeo(programs, "copy", "--all", "--preserve-digests", f"dir:{source_folder}", f"dir:{folder}")
    if packed:
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        folder = bed.pack(tmp_path / "dir.tar", files)
    survey, _ = bench.bring(folder, as_name=f"{NAME}@{image.digest}")
    assert survey.foreign.kind == "dir"
    assert bench.holds(image)
    assert str(only(survey).digest) == image.digest
    assert bench.bring(folder)[0].left_out[0].remedy.startswith("name it: --as")


def test_folders_of_another_version_are_sent_back(bench, tmp_path):
    path = bed.lay(tmp_path / "dir", {"version": b"Directory Transport Version: 2.0\n", "manifest.json": b"{}"})
    with pytest.raises(FormatUnsupported):
        bench.open(path)


def test_a_docker_archive_of_skopeo_can_be_pulled_again(bench, tmp_path, programs):
    """What is brought is an image: skopeo reads the manifest that was made, and every layer of it."""
    image = bed.app()
    layout = bed.lay(tmp_path / "layout", bed.oci_layout(image))
    archive = tmp_path / "image.tar"
    _skopeo(programs, "copy", f"oci:{layout}", f"docker-archive:{archive}:quay.io/ns/app:v1")
    survey, _ = bench.bring(archive)
    assert survey.foreign.kind == "docker-archive"
    found = only(survey)
    assert (found.source, found.tags) == (NAME, ("v1",))
    folder = tmp_path / "dir"
    folder.mkdir()
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
    (folder / "manifest.json").write_bytes(bench.here(found.digest))
    for one in survey.blobs:
        (folder / one.digest.hex).write_bytes(bench.here(one.digest))
    _skopeo(programs, "copy", f"dir:{folder}", f"oci:{tmp_path / 'again'}")
    inspected = subprocess.run(
        [programs.find("skopeo"), "inspect", "--config", f"oci:{tmp_path / 'again'}"], check=True, capture_output=True
    )
    assert json.loads(inspected.stdout)["rootfs"]["diff_ids"] == [layer.diff_id for layer in image.blobs[1:]]


def test_a_layout_of_skopeo_is_read_where_it_lies(bench, tmp_path, programs):
    image = bed.app(docker=False)
    _skopeo(
        programs,
        "copy",
        f"oci:{bed.lay(tmp_path / 'layout', bed.oci_layout(image))}",
        f"oci:{tmp_path / 'copy'}:quay.io/ns/app:v9",
    )
    survey, _ = bench.bring(tmp_path / "copy")
    assert (only(survey).source, only(survey).tags) == (NAME, ("v9",))
    assert bench.holds(image)


def test_bounds_are_what_they_say(bench, tmp_path, monkeypatch):
    image = bed.app()
    files, links = bed.docker_archive(image, _plain(image))
    monkeypatch.setattr(docker_archive, "LAYERS_LIMIT", 1)
    with pytest.raises(ArchiveInvalid, match="at most 1 names"):
        bench.open(bed.pack(tmp_path / "image.tar", files, links))
