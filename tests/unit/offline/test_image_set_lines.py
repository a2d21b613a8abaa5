"""Lists of pullspecs and mapping files: what they mean here, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.errors import ConfigurationError
from mirror.oci.pullspec import Pullspec
from mirror.offline.image_set import ImageSet, WantedImage, read

SAMPLES = Path(__file__).parent / "samples"
FILE = Path("list.txt")
A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def load(text: str) -> ImageSet:
    return read(FILE, text.encode())


def images(text: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(str(image.pullspec), image.tags) for image in load(text).images]


def only(text: str, code: str, line: int) -> str:
    with pytest.raises(ConfigurationError) as raised:
        load(text)
    (problem,) = raised.value.problems
    assert (problem.code, problem.where) == (code, f"list.txt:{line}")
    assert problem.remedy
    return str(problem)


def test_a_list_is_one_image_a_line():
    text = f"""\ufeff# what the laboratory needs

quay.io/ns/app:v1          # the newest
  docker://quay.io/ns/app@{A}\r
lab:5000/ns/app:v1@{B}
nothing.example/ns/app:v1
quay.io/ns/app:v1
docker.io/nginx:1.27"""
    image_set = load(text)
    assert image_set == ImageSet(
        FILE,
        images=(
            WantedImage(Pullspec.parse("quay.io/ns/app:v1"), where="list.txt:3"),
            WantedImage(Pullspec.parse(f"quay.io/ns/app@{A}"), where="list.txt:4"),
            WantedImage(Pullspec.parse(f"lab:5000/ns/app:v1@{B}"), where="list.txt:5"),
            WantedImage(Pullspec.parse("nothing.example/ns/app:v1"), where="list.txt:6"),
            WantedImage(Pullspec.parse("docker.io/library/nginx:1.27"), where="list.txt:8"),
        ),
    )


def test_a_mapping_gives_content_more_tags_and_no_other_name():
    path = SAMPLES / "mapping.txt"
    image_set = read(path)
    assert [(str(image.pullspec), image.tags, image.where) for image in image_set.images] == [
        (f"quay.io/ns/app@{A}", ("v1", "old"), f"{path}:2"),
        ("quay.io/ns/app:v2", ("stable",), f"{path}:4"),
        ("docker.io/library/nginx:1.27", (), f"{path}:6"),
        # sha256-… is how oc-mirror spells a digest as a tag, and where referrers are listed: no name of ours.
        (f"quay.io/ns/db@{B}", (), f"{path}:7"),
        ("quay.io/ns/a:v1", (), f"{path}:8"),
        ("quay.io/ns/b:v1", (), f"{path}:8"),
    ]


def test_the_same_mapping_twice_is_one():
    line = f"quay.io/ns/app@{A}=REG/ns/app:v1\n"
    assert images(line * 3) == [(f"quay.io/ns/app@{A}", ("v1",))]


@pytest.mark.parametrize("destination", ["REG/ns/app", "docker://reg.lab:5000/a/b/c", "localhost/x"])
def test_a_destination_without_a_tag_adds_none(destination):
    assert images(f"quay.io/ns/app:v1={destination}\nquay.io/ns/app@{A} {destination}/x") == [
        ("quay.io/ns/app:v1", ()),
        (f"quay.io/ns/app@{A}", ()),
    ]


def test_a_release_in_a_list_gets_a_warning_unless_its_components_are_there():
    release = f"quay.io/openshift-release-dev/ocp-release@{A}\n"
    assert [warning[:11] for warning in load(release).warnings] == ["list.txt:1:"]
    assert load(f"{release}quay.io/openshift-release-dev/ocp-v4.0-art-dev@{B}\n").warnings == ()


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("", "invalid_value", 1),
        ("# nothing\n\n", "invalid_value", 1),
        ("ubi9/ubi:latest\n", "invalid_value", 1),
        ("\nquay.io/ns/app\n", "invalid_value", 2),
        ("- quay.io/ns/app:v1\n", "invalid_value", 1),
        ("quay.io/ns/app:4.*=REG/ns/app\n", "invalid_value", 1),
        ("oci:///tmp/app\n", "invalid_value", 1),
        ("file://ns/app:v1=REG/ns/app:v1\n", "invalid_value", 1),
        (f"quay.io/ns/app:v1=REG/ns/app@{A}\n", "invalid_value", 1),
        ("quay.io/ns/app:v1=file://ns/app:v1\n", "invalid_value", 1),
        ("quay.io/ns/app:v1 s3://region/bucket/app:v1\n", "invalid_value", 1),
        ("quay.io/ns/app:v1=REG\n", "invalid_value", 1),
        ("quay.io/ns/app:v1=REG/ns/app:-\n", "invalid_value", 1),
        ("quay.io/ns/app:v1=\n", "invalid_value", 1),
        ("quay.io/ns/app:v1 = REG/ns/app:v1\n", "invalid_value", 1),
        ("a.io/b:c=REG/b:c REG/d:e\n", "invalid_value", 1),
        ("a.io/b:c=d=e\n", "invalid_value", 1),
        ("a.io/b:c=REG/b:c\na.io/b:d\n", "invalid_value", 2),
        # Two images cannot have one tag: neither where they are pushed to elsewhere ...
        ("a.io/b:c=REG/x:y\na.io/d:e=REG/x:y\n", "duplicate", 2),
        # ... nor in the repository that they keep here.
        (f"a.io/b@{A}=REG/x:y\na.io/b@{B}=REG/z:y\n", "duplicate", 2),
        (f"a.io/b:y=REG/b:y\n\na.io/b@{B}=REG/z:y\n", "duplicate", 3),
    ],
)
def test_each_fault_is_found_at_its_line(text, code, line):
    only(text, code, line)


def test_the_reason_is_said():
    assert "it would mean other images on another day" in only("a.io/b:4.*=REG/b\n", "invalid_value", 1)
    assert "`mirror save` writes what is to be carried" in only("a.io/b:c=file://b:c\n", "invalid_value", 1)
    assert "no dashes" in only("# list\n- a.io/b:c\n", "invalid_value", 2)


def test_all_faults_are_said_at_once():
    with pytest.raises(ConfigurationError) as raised:
        load("a.io/b=R/b:c\na.io/b:c=R/b:c\nb:c=R/b:c\na.io/d:e=file://x:y\n")
    assert [problem.where for problem in raised.value.problems] == ["list.txt:1", "list.txt:3", "list.txt:4"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("".join(f"a.io/b:{number}\n" for number in range(20_001)), 20_001),
        ("a.io/b:c" + " R/b:c" * 60_000 + "\n", 1),
    ],
)
def test_what_is_too_large_is_refused(text, line):
    only(text, "too_large", line)
