"""Files that nobody sane would write: every one is an image set or a ConfigurationError, soon and in little memory."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.errors import ConfigurationError
from mirror.offline.image_set import ImageSet, Platform, PlatformInvalid, read
from mirror.offline.image_set.keys import KEYS
from mirror.offline.image_set.versions import precedence

FILE = Path("set.yaml")
HEAD = b"kind: ImageSetConfiguration\napiVersion: mirror.openshift.io/v2alpha1\nmirror:\n"
GOOD = (Path(__file__).parent / "samples" / "image-set.yaml").read_bytes()
LARGE = 4 * 2**20


def outcome(raw: bytes) -> ImageSet | ConfigurationError:
    try:
        return read(FILE, raw)
    except ConfigurationError as error:
        found = error
    assert 1 <= len(found.problems) <= 100
    assert all(problem.where.startswith("set.yaml") and problem.what for problem in found.problems)
    return found


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_any_bytes(raw):
    outcome(raw)
    outcome(HEAD + b"  " + raw)


_WORDS = st.sampled_from(
    sorted({key for keys in KEYS.values() for key in keys} | {"ocp", "", "4.10", "v1", "quay.io/a/b:c", "=", "*"})
)
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), _WORDS, st.text(max_size=12), st.just("linux/amd64")
)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_WORDS, inner, max_size=4)),
    max_leaves=25,
)


@given(tree=_TREES)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_value_under_any_key(tree):
    for keys in ((), ("platform",), ("platform", "channels"), ("additionalImages",), ("operators",), ("helm",)):
        text = repr(_yaml(tree, keys)).replace("None", "null").replace("True", "true").replace("False", "false")
        outcome(HEAD.removesuffix(b"mirror:\n") + b"mirror: " + text.encode("utf-8", "surrogatepass") + b"\n")


def _yaml(tree: object, keys: tuple[str, ...]) -> object:
    for key in reversed(keys):
        tree = {key: tree}
    return tree


@given(
    st.lists(st.sampled_from(["a.io/b", ":c", "=", " ", "#", "\n", "@sha256:" + "a" * 64, "R/x:y", "*", "docker://"]))
)
@settings(max_examples=200, deadline=None)
def test_any_lines(words):
    outcome("".join(words).encode())


def test_a_good_file_cut_anywhere_is_refused_or_means_less():
    whole = read(FILE, GOOD)
    for end in range(0, len(GOOD), 7):
        found = outcome(GOOD[:end])
        assert isinstance(found, ConfigurationError) or len(found.images) <= len(whole.images)


@pytest.mark.parametrize(
    "raw",
    [
        b" " * LARGE,
        b"\n" * LARGE,
        b"ab\n" * (LARGE // 3),
        b"a " * (LARGE // 2),
        b"a-" * (LARGE // 2),
        b"a=b " * (LARGE // 4),
        b"quay.io/" + b"a/" * (LARGE // 2 - 8),
        b"{a: [" + b"a," * (LARGE // 2 - 8),
        b"[" * LARGE,
        HEAD + b"".join(b"  k%d: 1\n" % number for number in range(20_000)),
        HEAD + b"  additionalImages:\n" + b"  - {name: a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a}\n" * 4_000,
        HEAD + b"  additionalImages:\n  - name: " + b"a-" * (LARGE // 4) + b"\n  " + b"b-" * 500 + b": 1\n",
        HEAD + b"  blockedImages:\n" + b"  - name: '((((a|b)?c){9})*)*'\n" * 200,
    ],
    ids=lambda raw: f"{len(raw)}",
)
def test_a_large_file_is_refused_soon(raw):
    began = time.process_time()
    assert isinstance(outcome(raw), ConfigurationError)
    assert time.process_time() - began < 10


# The high-water mark of its own memory: getrusage would count what forked it.
_READ = r"""
import re, sys
from pathlib import Path
from mirror.offline.image_set import read
print(len(read(Path(sys.argv[1])).images), re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
"""


def test_the_largest_image_set_is_read_in_little_memory(tmp_path):
    names = (b"  - {name: registry.example/ns/app%d@sha256:%064x}\n" % (number, number) for number in range(20_000))
    path = tmp_path / "set.yaml"
    path.write_bytes(HEAD + b"  additionalImages:\n" + b"".join(names))
    done = subprocess.run([sys.executable, "-c", _READ, path], capture_output=True, check=True, timeout=60)
    count, kibibytes = map(int, done.stdout.split())
    assert count == 20_000
    assert kibibytes < 150 * 1024


@given(st.one_of(st.text(max_size=40), st.from_regex(r"[a-z]{1,5}/[a-z0-9_]{1,6}(/v[0-9])?", fullmatch=True)))
@settings(deadline=None)
def test_a_platform_is_spelled_back_as_it_was_read(text):
    try:
        platform = Platform.parse(text)
    except PlatformInvalid:
        return
    assert str(platform) == text
    assert Platform.of(platform.os, platform.architecture, platform.variant) == platform


def test_versions_are_ordered_as_semantic_versioning_says():
    # Semantic Versioning 2.0.0, 11.4, with what operators may write between them.
    ordered = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11",
               "1.0.0-rc.1", "1.0.0", "v1.0.1", "1.2", "1.10", "2"]  # fmt: skip
    assert sorted(sorted(ordered), key=precedence) == ordered
    assert precedence("1.0.0+b") == precedence("1.0.0+a") == precedence("1")
