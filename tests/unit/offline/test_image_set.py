"""An ImageSetConfiguration: what a good one means, and that all that is wrong with a bad one is said with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.errors import ConfigurationError
from mirror.oci.pullspec import Pullspec
from mirror.offline.image_set import Channel, ImageSet, Platform, WantedImage, read

SAMPLES = Path(__file__).parent / "samples"
FILE = Path("set.yaml")
A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
HEAD = "kind: ImageSetConfiguration\napiVersion: mirror.openshift.io/v2alpha1\nmirror:\n"
PLATFORM = f"{HEAD}  platform:\n"
CHANNEL = f"{PLATFORM}    channels:\n"
IMAGES = f"{HEAD}  additionalImages:\n"
OPERATORS = f"{HEAD}  operators:\n"
CATALOG = "- catalog: q.io/a/b:c\n"
PACKAGES = f"{CATALOG}    packages:\n"
RANGE = "{name: s, maxVersion: 2.0.0}"
ARM_FIRST = "{name: q.io/a:b, platforms: [linux/arm64, linux/amd64]}"
AMD_FIRST = "{name: q.io/a:b, platforms: [linux/amd64, linux/arm64]}"


def load(text: str) -> ImageSet:
    return read(FILE, text.encode())


def problems(text: str):
    with pytest.raises(ConfigurationError) as raised:
        load(text)
    assert all(problem.where.startswith("set.yaml:") and problem.remedy for problem in raised.value.problems)
    return raised.value.problems


def found(text: str) -> list[tuple[str, int]]:
    return [(problem.code, int(problem.where.rpartition(":")[2])) for problem in problems(text)]


def only(text: str, code: str, line: int) -> str:
    assert found(text) == [(code, line)], [str(problem) for problem in problems(text)]
    return str(problems(text)[0])


def test_a_whole_file_is_read_as_it_stands():
    path = SAMPLES / "image-set.yaml"
    image_set = read(path)
    patterns = tuple(pattern.pattern for pattern in image_set.blocked)
    assert patterns == ("registry.example/secret/.*", r"^quay\.io/.*-debug:")
    assert image_set == ImageSet(
        path,
        channels=(
            Channel("stable-4.16", "ocp", "4.16.3", "4.16.15", shortest_path=True, where=f"{path}:13"),
            Channel("candidate-4.17", "ocp", "4.17.0-rc.2", "4.17.0", where=f"{path}:17"),
            Channel("stable-scos-4", "okd", full=True, where=f"{path}:21"),
        ),
        architectures=("amd64", "multi"),
        graph=True,
        kubevirt=True,
        images=(
            WantedImage(
                Pullspec.parse("registry.redhat.io/ubi9/ubi:latest"),
                "base/ubi",
                "9",
                (Platform("linux", "amd64"), Platform("linux", "arm64", "v8")),
                f"{path}:23",
            ),
            WantedImage(Pullspec.parse(f"quay.io/ns/app@{A}"), where=f"{path}:29"),
            WantedImage(Pullspec.parse(f"lab:5000/ns/app:v1@{B}"), where=f"{path}:30"),
        ),
        blocked=image_set.blocked,
        archive_size=4 * 2**30,
        warnings=(f"{path}:36: `mirror.samples` does nothing, as with oc-mirror",),
    )
    assert image_set.hosts == {
        "registry.redhat.io": (f"{path}:23",),
        "quay.io": (f"{path}:29",),
        "lab:5000": (f"{path}:30",),
    }


def test_content_that_somebody_else_opened_means_the_same(tmp_path):
    raw = (SAMPLES / "image-set.yaml").read_bytes()
    path = tmp_path / "set.yaml"
    path.write_bytes(raw)
    again = read(path, raw)
    assert read(path) == again
    assert again.path == path


def test_blocked_images_are_looked_for_anywhere_in_a_pullspec():
    image_set = read(SAMPLES / "image-set.yaml")
    assert image_set.blocking(Pullspec.parse("docker://registry.example/secret/app:v1")) == "registry.example/secret/.*"
    assert image_set.blocking(Pullspec.parse("quay.io/ns/app-debug:v1")) == r"^quay\.io/.*-debug:"
    assert image_set.blocking(Pullspec.parse("quay.io/ns/app:v1-debug")) == ""


def test_json_is_yaml():
    text = (
        '{"kind": "ImageSetConfiguration", "apiVersion": "mirror.openshift.io/v2alpha1",'
        ' "mirror": {"additionalImages": [{"name": "quay.io/a/b:c"}]}}'
    )
    assert [str(image.pullspec) for image in load(text).images] == ["quay.io/a/b:c"]


@pytest.mark.parametrize("architectures", ["", "    architectures: []\n", "    architectures:\n"])
def test_architecture_is_amd64_unless_one_is_asked_for(architectures):
    image_set = load(f"{PLATFORM}{architectures}    channels: [{{name: stable-4.16}}]\n")
    assert (image_set.architectures, image_set.platforms) == (("amd64",), ())


def test_platforms_are_parts_of_the_multi_payload():
    image_set = load(f"{PLATFORM}    platforms: [linux/arm64, {{os: linux, architecture: s390x}}]\n    graph: true\n")
    assert image_set.architectures == ("multi",)
    assert image_set.platforms == (Platform("linux", "arm64"), Platform("linux", "s390x"))


def test_releases_are_one_pullspec_or_several():
    name = "quay.io/openshift-release-dev/ocp-release"
    one = load(f"{PLATFORM}    release: {name}@{A}\n")
    assert (one.releases, one.release_wheres) == ((Pullspec.parse(f"{name}@{A}"),), ("set.yaml:5",))
    two = load(f"{PLATFORM}    release:\n    - {name}@{A}\n    - {name}:4.16.3-x86_64\n")
    assert two.releases == (Pullspec.parse(f"{name}@{A}"), Pullspec.parse(f"{name}:4.16.3-x86_64"))
    assert two.release_wheres == ("set.yaml:6", "set.yaml:7")
    assert two.hosts == {"quay.io": ("set.yaml:6", "set.yaml:7")}


def test_a_release_takes_the_place_of_channels_and_this_is_said():
    image_set = load(f"{CHANNEL}    - name: stable-4.16\n    release: quay.io/o/ocp-release@{A}\n")
    assert image_set.channels == ()
    assert len(image_set.releases) == 1
    assert image_set.warnings == (
        (
            "set.yaml:5: `mirror.platform.channels` are left out because `mirror.platform.release` is given,"
            " which is what oc-mirror does"
        ),
    )


def test_a_release_asked_for_as_an_image_gets_a_warning():
    image_set = load(f"{IMAGES}  - name: quay.io/openshift-release-dev/ocp-release:4.16.3-x86_64\n")
    (warning,) = image_set.warnings
    assert warning.startswith("set.yaml:5: quay.io/openshift-release-dev/ocp-release:4.16.3-x86_64 is taken as one")


def test_an_empty_value_is_none():
    image_set = load(f'{CHANNEL}    - {{name: stable-4.16, minVersion: "", maxVersion: }}\narchiveSize: 0\n')
    assert image_set.channels == (Channel("stable-4.16", where="set.yaml:6"),)
    assert image_set.archive_size is None


@pytest.mark.parametrize(
    ("text", "line", "remedy"),
    [
        ("kind: ImageSetConfiguration\n", 1, "add `apiVersion: mirror.openshift.io/v2alpha1`"),
        ("apiVersion: mirror.openshift.io/v2alpha1\n", 1, "add `kind: ImageSetConfiguration`"),
    ],
)
def test_kind_and_version_must_be_stated(text, line, remedy):
    message = only(f"{text}mirror: {{additionalImages: [{{name: quay.io/a/b:c}}]}}\n", "missing_key", line)
    assert remedy in message


def test_a_file_of_oc_mirror_v1_is_told_every_line_to_change():
    text = """kind: ImageSetConfiguration
apiVersion: mirror.openshift.io/v1alpha2
storageConfig:
  registry:
    imageURL: reg.example/oc-mirror
mirror:
  ocp:
    channels: [{name: stable-4.16}]
  additionalimages:
  - name: quay.io/a/b:c
  operators:
  - catalog: registry.redhat.io/redhat/redhat-operator-index:v4.16
    skipDeps: true
    targetName: my-index
    packages:
    - name: foo
      minBundle: foo.v1
  helm:
    repos: []
"""
    remedies = {problem.where: problem.remedy for problem in problems(text) if problem.code != "not_supported"}
    assert remedies["set.yaml:2"].startswith("write `apiVersion: mirror.openshift.io/v2alpha1`")
    assert remedies["set.yaml:3"].startswith("leave it out with all that is under it (imageURL")
    assert remedies["set.yaml:7"] == "it is called `platform` now"
    assert remedies["set.yaml:9"] == "did you mean `additionalImages`?"
    assert remedies["set.yaml:13"] == "it is called `skipDependencies` now, and does nothing"
    assert remedies["set.yaml:14"].startswith("write `targetCatalog`")
    assert remedies["set.yaml:17"] == "write `minVersion`"
    assert remedies["set.yaml:19"] == "it is called `repositories` now"
    assert len(remedies) == 8


@pytest.mark.parametrize("kind", ["DeleteImageSetConfiguration", "DeleteImageList"])
def test_what_says_what_to_delete_is_told_how_to_delete(kind):
    message = only(
        f"apiVersion: mirror.openshift.io/v2alpha1\nkind: {kind}\ndelete: {{platform: {{}}}}\n", "wrong_kind", 2
    )
    assert "mirror unpin SET@N" in message


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("kind: Pod\napiVersion: v1\nspec: {}\n", "wrong_kind", 1),
        ("kind: [a]\napiVersion: v1\n", "wrong_kind", 1),
        (HEAD.replace("v2alpha1", "v3") + "  additionalImages: [{name: quay.io/a/b:c}]\n", "wrong_version", 2),
        (HEAD.replace("mirror:\n", ""), "missing_key", 1),
        (f"{HEAD}  platform: {{}}\n", "invalid_value", 3),
        ("- name: quay.io/a/b:c\n", "wrong_type", 1),
        ("---\nquay.io\n", "wrong_type", 1),
        (f"archiveSize: 4GiB\n{HEAD}  platform: {{graph: true}}\n", "wrong_type", 1),
        (f"archiveSize: -1\n{HEAD}  platform: {{graph: true}}\n", "invalid_value", 1),
        (f"{HEAD}  platform: {{graph: true}}\n  platform: {{graph: true}}\n", "duplicate_key", 5),
        (f"{HEAD}  platform: {{graph: &a true}}\n", "syntax", 4),
        (f"{HEAD}  platform: {{graph: !!bool true}}\n", "syntax", 4),
        (f"{HEAD}  platform: [a\n", "syntax", 5),
        (f"{PLATFORM}    graph: 1\n", "wrong_type", 5),
        (f"{PLATFORM}    architectures: amd64\n", "wrong_type", 5),
        (f"{PLATFORM}    platforms: [linux/amd64]\n    architectures: [amd64]\n    graph: yes\n", "contradiction", 6),
        (f"{PLATFORM}    platforms: [windows/amd64]\n", "invalid_value", 5),
        (f"{PLATFORM}    platforms: [linux/multi]\n", "invalid_value", 5),
        (f"{PLATFORM}    platforms: [{{os: linux}}]\n", "missing_key", 5),
        (f"{PLATFORM}    release: quay.io/a/ocp-release\n", "invalid_value", 5),
        (f"{CHANNEL}    - type: ocp\n", "missing_key", 6),
        (f"{CHANNEL}    - name: stable/4\n", "invalid_value", 6),
        (f"{CHANNEL}    - name: a\n      type: rhel\n", "invalid_value", 7),
        (f"{CHANNEL}    - name: a\n    - name: b\n    - {{name: a, full: true}}\n", "duplicate", 8),
        (f"{CHANNEL}    - name: a\n    - {{name: a, type: okd}}\n", "duplicate", 7),
        (f"{CHANNEL}    - name: a\n      minVersion: 4.16\n", "wrong_type", 7),
        (f"{CHANNEL}    - name: a\n      minVersion: '4.16'\n", "invalid_value", 7),
        (f"{CHANNEL}    - name: a\n      minVersion: v4.16.3\n", "invalid_value", 7),
        (f"{CHANNEL}    - name: a\n      minVersion: 4.16.03\n", "invalid_value", 7),
        (f"{CHANNEL}    - name: a\n      minVersion: 4.16.10\n      maxVersion: 4.16.9\n", "contradiction", 7),
        (
            f"{CHANNEL}    - name: a\n      maxVersion: 4.17.0-rc.9\n      minVersion: 4.17.0-rc.10\n",
            "contradiction",
            8,
        ),
        (f"{IMAGES}  - quay.io/a/b:c\n", "wrong_type", 5),
        (f"{IMAGES}  -\n", "wrong_type", 5),
        (f"{IMAGES}  - {{}}\n", "missing_key", 5),
        (f"{IMAGES}  - name: ubi9/ubi:latest\n", "invalid_value", 5),
        (f"{IMAGES}  - name: quay.io/a/b\n", "invalid_value", 5),
        (f"{IMAGES}  - name: quay.io/a/b:4.*\n", "invalid_value", 5),
        (f"{IMAGES}  - name: quay.io/A/b:c\n", "invalid_value", 5),
        (f"{IMAGES}  - name: quay.io/a/b@sha256:123\n", "invalid_value", 5),
        (f"{IMAGES}  - name: quay.io/a/b:c\n    targetRepo: x:y\n", "invalid_value", 6),
        (f"{IMAGES}  - name: quay.io/a/b:c\n    targetRepo: /x\n", "invalid_value", 6),
        (f"{IMAGES}  - name: quay.io/a/b:c\n    targetTag: -x\n", "invalid_value", 6),
        (f"{IMAGES}  - name: quay.io/a/b:c\n    targetTag: 1.10\n", "wrong_type", 6),
        (f"{IMAGES}  - name: quay.io/a/b:c\n    platforms: [linux/x86_64]\n", "invalid_value", 6),
        (f"{IMAGES}  - name: quay.io/a/b:c\n  - {{name: quay.io/a/b:c, platforms: [linux/arm64]}}\n", "duplicate", 6),
        (f"{IMAGES}  - name: quay.io/a/b:c@{A}\n  - name: quay.io/a/b:c\n", "duplicate", 6),
        (f"{IMAGES}  - name: quay.io/a/b:c\n  - {{name: quay.io/a/b:d, targetTag: c}}\n", "duplicate", 6),
        (f"{IMAGES}  - name: quay.io/a/b:c@{A}\n  - name: quay.io/a/b:c@{B}\n", "duplicate", 6),
        (f"{HEAD}  blockedImages:\n  - name: '('\n  platform: {{graph: true}}\n", "invalid_value", 5),
    ],
)
def test_each_fault_is_found_at_its_line(text, code, line):
    only(text, code, line)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{IMAGES}  - name: quay.io/a/b:c\n  - name: quay.io/a/b:c\n", 6),
        (f"{IMAGES}  - name: quay.io/a/b:c\n  - name: docker://quay.io/a/b:c\n", 6),
        (f"{IMAGES}  - {{name: quay.io/a/b:c, targetTag: d}}\n  - {{targetTag: d, name: quay.io/a/b:c}}\n", 6),
        (f"{IMAGES}  - name: quay.io/a/b@{A}\n  - name: q.io/x:y\n  - name: quay.io/a/b@{A}\n", 7),
        (f"{IMAGES}  - {ARM_FIRST}\n  - {AMD_FIRST}\n", 6),
        (f"{IMAGES}  - name: q.io/a/b:c\n  - {{name: q.io/a/b:c, targetRepo: a/b, targetTag: c}}\n", 6),
        (f"{IMAGES}  - {{name: q.io/a:b, platforms: [linux/arm64, linux/arm64]}}\n", 5),
        (f"{HEAD}  blockedImages:\n  - name: a\n  - name: a\n  platform: {{graph: true}}\n", 6),
        (f"{HEAD}  blockedImages: [{{name: a}}, {{name: a}}]\n  platform: {{graph: true}}\n", 4),
        (f"{CHANNEL}    - name: a\n    - name: b\n    - name: a\n", 8),
        (f"{CHANNEL}    - name: a\n    - {{name: a, type: ocp}}\n", 7),
        (f"{PLATFORM}    architectures: [amd64, amd64]\n    graph: true\n", 5),
        (f"{PLATFORM}    graph: true\n    platforms: [linux/arm64, {{os: linux, architecture: arm64}}]\n", 6),
        (f"{PLATFORM}    release:\n    - q.io/a/b@{A}\n    - q.io/a/b@{A}\n", 5),
    ],
)
def test_what_is_named_twice_and_alike_is_taken_once(text, line):
    """People name an image for each thing that needs it (RedHatGov/ocp, 4.19AutoShiftAIandVirt.yaml)."""
    twice = load(text)
    [warning] = twice.warnings
    assert f":{line}: " in warning
    assert warning.endswith("it is taken once")
    assert len({*twice.images}) == len(twice.images)
    assert len({one.name for one in twice.channels}) == len(twice.channels)
    assert len(twice.images) + len(twice.channels) + len(twice.blocked) + len(twice.releases) <= 2


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (f"{CHANNEL}    - name: a\n      minVersion: 4.10\n", 'found a number (`4.10`): put it in quotes: "4.10"'),
        (f"{CHANNEL}    - name: a\n      minVersion: '4.10'\n", "write all three numbers, as in 4.10.0"),
        (f"{CHANNEL}    - name: a\n      minVersion: v4.10.1\n", "write 4.10.1"),
        (f"{CHANNEL}    - name: 4.10\n", 'put it in quotes: "4.10"'),
        (f"{CHANNEL}    - name: a\n      minversion: 4.10.1\n", "did you mean `minVersion`?"),
        (f"{CHANNEL}    - name: a\n      graph: true\n", "it belongs under `mirror.platform`"),
        (f"{HEAD}  archiveSize: 4\n", "it belongs at the top level"),
        (f"{PLATFORM}    xyz: true\n", "the keys here are graph, architectures"),
        (f"{PLATFORM}    architectures: [aarch64]\n", "write arm64, as Go spells it"),
        (f"{PLATFORM}    architectures: [x86_64]\n", "write amd64, as Go spells it"),
        (f"{PLATFORM}    architectures: [AMD64]\n", "write amd64, as Go spells it"),
        (f"{PLATFORM}    architectures: [riscv64]\n", "write one of amd64, arm64, ppc64le, s390x, multi"),
        (f"{IMAGES}  - name: a.io/b:c\n    platforms: [linux/aarch64]\n", "write arm64"),
        (f"{IMAGES}  - name: a.io/b:c\n    platforms: [{{os: Linux, architecture: amd64}}]\n", "write linux"),
        (f"{IMAGES}  - name: a.io/b:c\n    platforms: [amd64]\n", "write OS/ARCHITECTURE, as in linux/amd64"),
        (f"{IMAGES}  - quay.io/a/b:c\n", "write `name: quay.io/a/b:c`"),
        (f"{IMAGES}  - name: oci:///tmp/app\n", "give its folder or archive to `mirror load PATH --as NAME`"),
        (f"{IMAGES}  - name: https://quay.io/a/b:c\n", "`https://` is not a transport for images"),
        (f"{HEAD}  blockedImages: [{{name: 'docker://quay.io/a'}}]\n", "images are compared without docker://"),
    ],
)
def test_the_message_says_what_to_write(text, hint):
    assert any(hint in str(problem) for problem in problems(text)), [str(problem) for problem in problems(text)]


def test_everything_that_is_wrong_is_said_at_once_in_the_order_of_lines():
    text = f"""{CHANNEL}    - name: stable-4.16
      minVersion: 4.16
      shortestPaht: true
    architectures: [x86_64]
  blockedImages:
  - name: "["
  additionalImages:
  - name: ubi
    targetTag: "a b"
"""
    assert [line for _, line in found(text)] == [7, 8, 9, 11, 13, 14]


def test_no_message_holds_a_login():
    text = f"{IMAGES}  - name: https://me:hunter2@quay.io/a/b:c\n  - name: me:hunter2@quay.io/a/b\n"
    assert "hunter2" not in "".join(map(str, problems(text)))


def test_more_problems_than_a_person_reads_are_not_looked_for():
    text = IMAGES + "  - {nam: a}\n" * 1000
    assert len(problems(text)) == 100


def test_operators_and_charts_are_refused_each_by_name_with_the_way_round():
    text = f"""{OPERATORS}  - catalog: registry.redhat.io/redhat/index:v4.16
    targetCatalog: my/index
    packages:
    - name: foo
      channels: [{{name: stable, minVersion: 1.2.0, maxVersion: v1.4}}]
    - {{name: bar, minVersion: "2.0"}}
  - catalog: oci:///srv/index
    full: true
    packages: [{{name: foo, defaultChannel: stable}}]
  helm:
    repositories:
    - {{name: r, url: "https://charts.example", charts: [{{name: c, version: 1.0.0, imagePaths: ["{{.spec.x}}"]}}]}}
    - {{name: all, url: "https://charts.example/all"}}
    local: [{{name: c2, path: /charts/c2.tgz}}]
"""
    refused = problems(text)
    assert [(problem.code, problem.what) for problem in refused] == [
        ("not_supported", "the operator catalog `registry.redhat.io/redhat/index:v4.16` is not yet supported"),
        ("not_supported", "the operator catalog `oci:///srv/index` is not yet supported"),
        ("not_supported", "the Helm chart `c` is not yet supported"),
        ("not_supported", "the Helm repository `all` is not yet supported"),
        ("not_supported", "the Helm chart `c2` is not yet supported"),
    ]  # fmt: skip
    assert all("oc-mirror" in problem.remedy and "mirror load DIR" in problem.remedy for problem in refused)


@pytest.mark.parametrize(
    ("entry", "code", "line"),
    [
        ("- full: true\n", "missing_key", 5),
        ("- catalog: index\n", "invalid_value", 5),
        ("- catalog: oci://index\n", "invalid_value", 5),
        (f"{CATALOG}  - {{catalog: q.io/a/b:c, full: true}}\n", "duplicate", 6),
        (f"{CATALOG}  - {{catalog: q.io/a/b:d, targetTag: c}}\n", "duplicate", 6),
        (f"{CATALOG}    targetCatalog: x:y\n", "invalid_value", 6),
        (f"{CATALOG}    targetCatalogSourceTemplate: cs.yaml\n", "invalid_value", 6),
        (f"{PACKAGES}    - name: foo\n    - {{name: foo, defaultChannel: x}}\n", "duplicate", 8),
        (f"{PACKAGES}    - minVersion: 1.0.0\n", "missing_key", 7),
        (f"{PACKAGES}    - {{name: foo, minVersion: 1.10}}\n", "wrong_type", 7),
        (f"{PACKAGES}    - {{name: foo, minVersion: 2.0.0, maxVersion: 1.0.0}}\n", "contradiction", 7),
        (f"{PACKAGES}    - name: foo\n      channels: [{{name: s}}, {{name: s, minVersion: 1.0.0}}]\n", "duplicate", 8),
        (f"{PACKAGES}    - {{name: foo, minVersion: 1.0.0}}\n    full: true\n", "contradiction", 7),
        (f"{PACKAGES}    - name: foo\n      minVersion: 1.0.0\n      channels: [{RANGE}]\n", "contradiction", 9),
    ],
)
def test_operators_are_checked_in_full_before_they_are_refused(entry, code, line):
    others = [one for one in found(f"{OPERATORS}  {entry}") if one[0] != "not_supported"]
    assert others == [(code, line)]


@pytest.mark.parametrize(
    "text",
    [
        f"{OPERATORS}  {CATALOG}  - catalog: q.io/a/b:c\n",
        f"{OPERATORS}  {CATALOG}  - catalog: docker://q.io/a/b:c\n",
        f"{OPERATORS}  {PACKAGES}    - name: foo\n    - name: foo\n",
        f"{OPERATORS}  {PACKAGES}    - name: foo\n      channels: [{{name: s}}, {{name: s}}]\n",
        f"{HEAD}  helm: {{repositories: [{{name: r, url: https://x, charts: [{{name: c}}, {{name: c}}]}}]}}\n",
        f"{HEAD}  helm: {{repositories: [{{name: r, url: https://x}}, {{name: r, url: https://x}}]}}\n",
        f"{HEAD}  helm: {{local: [{{name: c, path: /c.tgz}}, {{name: c, path: /c.tgz}}]}}\n",
    ],
)
def test_what_is_refused_may_be_named_twice_alike(text):
    assert {one[0] for one in found(text)} == {"not_supported"}


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ("repositories: [{name: r, url: ftp://x}]", "invalid_value"),
        ("repositories: [{name: r, url: https://x, charts: [{name: c}, {name: c, imagePaths: [x]}]}]", "duplicate"),
        ("repositories: [{name: r, url: https://x}, {name: r, url: https://y}]", "duplicate"),
        ("local: [{name: c}]", "missing_key"),
        ("local: [{name: c, path: c.tgz}]", "invalid_value"),
        ("local: [{name: c, path: /c.tgz, imagePaths: [1]}]", "wrong_type"),
    ],
)
def test_charts_are_checked_in_full_before_they_are_refused(entry, code):
    others = [one for one in found(f"{HEAD}  helm: {{{entry}}}\n") if one[0] != "not_supported"]
    assert others == [(code, 4)]


def test_a_file_that_is_not_there_or_no_file_is_said(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigurationError) as raised:
            read(path)
        (problem,) = raised.value.problems
        assert (problem.code, problem.where) == ("unreadable", str(path))


@pytest.mark.parametrize(
    "text",
    [
        "#" * (4 * 2**20 + 1),
        IMAGES + "".join(f"  - name: q.io/a/b:{number}\n" for number in range(20_001)),
        CHANNEL + "".join(f"    - name: c{number}\n" for number in range(101)),
        HEAD + "  samples: [" + "{}," * 300_000 + "]\n",
    ],
)
def test_what_is_too_large_is_refused(text):
    with pytest.raises(ConfigurationError) as raised:
        load(text)
    assert [problem.code for problem in raised.value.problems] == ["too_large"]
