"""What counts as a signature of a release, and every way in which one does not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.errors import Corrupt
from mirror.oci.digest import Digest
from mirror.offline.keyring import RED_HAT, Keyring, shipped
from mirror.offline.openpgp import Signature
from mirror.offline.signatures import SIZE_LIMIT, SignatureInvalid, Verified, verify
from tests.tools import openpgp
from tests.tools.openpgp import TestKey, claim

SAMPLES = Path(__file__).parent / "samples"
RELEASE = Digest.of(b"release")
REFERENCE = "quay.io/openshift-release-dev/ocp-release:4.16.15-x86_64"
CLAIM = claim(RELEASE, REFERENCE, "test signer 1", 1_700_000_000)
KEY = TestKey.generate()
STRANGER = TestKey.generate()
KEYRING = Keyring.read(KEY.armored_public(), "keyring")


def proven(raw: bytes, digest: Digest = RELEASE, keyring: Keyring = KEYRING, **more: Any) -> Verified:
    return verify(raw, digest, keyring, **more)


def refused(raw: bytes, digest: Digest = RELEASE, keyring: Keyring = KEYRING, **more: Any) -> str:
    with pytest.raises(SignatureInvalid) as caught:
        verify(raw, digest, keyring, **more)
    return caught.value.why


def message(one_pass: bytes, content: bytes, signature: bytes) -> bytes:
    return (
        openpgp.packet(openpgp.ONE_PASS, one_pass)
        + openpgp.packet(openpgp.LITERAL, content)
        + openpgp.packet(openpgp.SIGNATURE, signature)
    )


# -- what signers of releases published ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "tag", "version"),
    [
        ("195de2a5ef3af1083620a62a45ea61ac1233ffa27bbce7b30609a69775aeca19", "4.10.18-x86_64", 3),
        ("7039e7bd34fd024ff619df914528c8d85e62b847291f6684096fd4ca8dba2bbd", "4.15.49-x86_64", 4),
        ("ea0429e14dc9ff007f56d5db2b75209c2510d81e6869194e33a53352d2b6a4fa", "4.15.46-x86_64", 4),
        ("0065822bf39b11e3a3113eb2dee4bddf0a07fe0967892498771bd9728e145ad0", "4.16.37-x86_64", 4),
    ],
)
def test_real_releases_verify_with_the_shipped_key(release: str, tag: str, version: int) -> None:
    raw = (SAMPLES / "releases" / f"sha256={release}" / "signature-1").read_bytes()
    found = verify(raw, Digest("sha256", release), shipped())
    assert (found.fingerprint, found.version) == (RED_HAT, version)
    assert found.claim.digest == Digest("sha256", release)
    assert found.claim.reference == f"quay.io/openshift-release-dev/ocp-release:{tag}"
    assert found.claim.creator.startswith("Red Hat OpenShift Signing Authority")
    assert refused(raw, RELEASE, shipped()) == f"signs another digest, sha256:{release}"
    assert refused(raw, Digest("sha256", release), KEYRING) == "is signed by the unknown key 199E2F91FD431D51"


@pytest.mark.parametrize(
    ("name", "certificate"),
    [
        ("ed25519", "AB3E85B68C0ED0A6EB26E46AA700DC12C0CCB8E9"),
        ("text", "AB3E85B68C0ED0A6EB26E46AA700DC12C0CCB8E9"),
        ("zlib", "AB3E85B68C0ED0A6EB26E46AA700DC12C0CCB8E9"),
        ("plain", "AB3E85B68C0ED0A6EB26E46AA700DC12C0CCB8E9"),
        ("piped", "AB3E85B68C0ED0A6EB26E46AA700DC12C0CCB8E9"),
        ("p256", "DBDBA6ECE12CAFCA836BBC106B413033A9CA0291"),
        ("p521", "B7461433033D836B9A6C06965BFBCBE444BB7BCB"),
        ("subkey", "AA0AFDDBE1D99682DBB862C4E096EFBB433A7696"),
        ("two-signers", "AB3E85B68C0ED0A6EB26E46AA700DC12C0CCB8E9"),
    ],
)
def test_what_gnupg_signs_verifies(name: str, certificate: str) -> None:
    keyring = Keyring.read((SAMPLES / "gnupg" / "keys.asc").read_bytes(), "keys.asc")
    digest = Digest("sha256", "ab" * 32)
    found = verify((SAMPLES / "gnupg" / f"{name}.sig").read_bytes(), digest, keyring)
    assert (found.claim.digest, found.fingerprint, found.version) == (digest, certificate, 4)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("bzip2", "is compressed by algorithm 3, which is not supported"),
        ("detached", "is not a signed message"),
        ("encrypted", "is not a signed message"),
    ],
)
def test_other_messages_of_gnupg_are_refused(name: str, why: str) -> None:
    assert refused((SAMPLES / "gnupg" / f"{name}.sig").read_bytes()) == why


def test_gnupg_agrees_with_the_test_signer(tmp_path: Path) -> None:
    gpg = shutil.which("gpg")
    if gpg is None:
        pytest.skip("gpg is not installed")
    tmp_path.chmod(0o700)
    base = [gpg, "--homedir", str(tmp_path), "--batch", "--no-autostart", "--no-tty"]
    subprocess.run([*base, "--import"], input=KEY.armored_public(subkeys=[STRANGER]), check=True, capture_output=True)
    for key in (KEY, STRANGER):
        for version in (3, 4):
            raw = key.sign(CLAIM, version)
            done = subprocess.run([*base, "--decrypt"], input=raw, check=True, capture_output=True)
            assert done.stdout == CLAIM


# -- every form that is accepted -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("hash", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("partial", [True, False])
def test_forms_of_signers(version: int, hash: str, compressed: bool, partial: bool) -> None:  # noqa: A002
    found = proven(KEY.sign(CLAIM, version, hash, compressed, partial=partial))
    assert (found.version, found.fingerprint) == (version, KEY.fingerprint)
    assert (found.claim.digest, found.claim.reference) == (RELEASE, REFERENCE)
    assert (found.claim.creator, found.claim.timestamp) == ("test signer 1", 1_700_000_000)


@pytest.mark.parametrize("version", [3, 4])
def test_text_signatures_do_not_depend_on_how_lines_end(version: int) -> None:
    lines = json.dumps(json.loads(CLAIM), indent=1).encode()
    assert lines.count(b"\n") > 5
    for written in (lines, lines.replace(b"\n", b"\r\n")):
        assert proven(KEY.sign(written, version, text=True)).claim.reference == REFERENCE
    # Whoever carries a text may write its lines' ends anew, but not in one that is signed as it is.
    carried = lines.replace(b"\n", b"\r\n")
    for text in (True, False):
        kind = int(text)
        signature = KEY.signature(carried if text else lines, version=version, kind=kind)
        raw = message(KEY.one_pass(kind=kind), openpgp.literal(lines if text else carried), signature)
        if text:
            assert proven(raw).version == version
        else:
            assert "something in it was changed" in refused(raw)


def test_zlib_and_stored_packets_and_long_headers() -> None:
    assert proven(KEY.sign(CLAIM, algorithm=2)).version == 4
    assert proven(KEY.sign(CLAIM, algorithm=0)).version == 4
    parts = [
        (openpgp.ONE_PASS, KEY.one_pass()),
        (openpgp.LITERAL, openpgp.literal(CLAIM)),
        (openpgp.SIGNATURE, KEY.signature(CLAIM)),
    ]
    for octets in (2, 5):
        long = [(tag, body) for tag, body in parts if octets == 5 or len(body) >= 192]
        raw = b"".join(
            openpgp.new_packet(tag, body, octets) if (tag, body) in long else openpgp.packet(tag, body)
            for tag, body in parts
        )
        assert proven(raw).version == 4


def test_markers_are_passed_over() -> None:
    assert proven(openpgp.packet(openpgp.MARKER, b"PGP") + KEY.sign(CLAIM)).version == 4


def test_one_of_several_signers_is_enough() -> None:
    raw = (
        openpgp.packet(openpgp.ONE_PASS, STRANGER.one_pass(last=False))
        + openpgp.packet(openpgp.ONE_PASS, KEY.one_pass())
        + openpgp.packet(openpgp.LITERAL, openpgp.literal(CLAIM))
        + openpgp.packet(openpgp.SIGNATURE, KEY.signature(CLAIM, version=3))
        + openpgp.packet(openpgp.SIGNATURE, STRANGER.signature(CLAIM))
    )
    assert proven(raw).fingerprint == KEY.fingerprint
    both = Keyring.read(STRANGER.public(), "keyring")
    assert proven(raw, keyring=both).fingerprint == STRANGER.fingerprint
    neither = Keyring.read((SAMPLES / "gnupg" / "keys.asc").read_bytes(), "keyring")
    why = refused(raw, keyring=neither)
    assert KEY.key_id in why
    assert STRANGER.key_id in why


def test_a_signature_has_a_lifetime_and_a_key_has_none() -> None:
    raw = KEY.sign(CLAIM, lifetime=100)
    assert proven(raw, now=openpgp.CREATED + 99).version == 4
    assert refused(raw, now=openpgp.CREATED + 101) == "has a signature that expired on 2023-11-14"
    assert refused(raw) == "has a signature that expired on 2023-11-14"
    for lifetime in (1, 1000):
        keyring = Keyring.read(KEY.armored_public(lifetime=lifetime), "keyring")
        assert proven(KEY.sign(CLAIM), keyring=keyring).fingerprint == KEY.fingerprint


# -- who signed, and with what ---------------------------------------------------------------------------------


def test_an_unknown_key_is_named() -> None:
    for version in (3, 4):
        assert refused(STRANGER.sign(CLAIM, version)) == f"is signed by the unknown key {STRANGER.key_id}"


def test_a_signature_that_only_claims_the_key_is_bad() -> None:
    for version in (3, 4):
        raw = (
            openpgp.packet(openpgp.ONE_PASS, KEY.one_pass())
            + openpgp.packet(openpgp.LITERAL, openpgp.literal(CLAIM))
            + openpgp.packet(openpgp.SIGNATURE, STRANGER.signature(CLAIM, version=version, key_id=KEY.key_id))
        )
        assert refused(raw) == f"has a bad signature by {KEY.key_id}: something in it was changed"


@pytest.mark.parametrize("version", [3, 4])
def test_sha1_is_not_accepted(version: int) -> None:
    assert refused(KEY.sign(CLAIM, version, "sha1")) == "is signed with SHA-1, which is not accepted"


@pytest.mark.parametrize("kind", [0x02, 0x10, 0x13, 0x18, 0x40, 0x50])
@pytest.mark.parametrize("version", [3, 4])
def test_other_types_of_signatures_are_refused(kind: int, version: int) -> None:
    assert refused(KEY.sign(CLAIM, version, kind=kind)) == (
        f"has a signature of type 0x{kind:02X}, which is not that of a document"
    )


def test_the_algorithm_is_the_keys() -> None:
    signature = KEY.signature(CLAIM, version=3)
    assert signature[15] == 1  # RSA; version 3 does not cover it
    raw = message(KEY.one_pass()[:3] + b"\x03" + KEY.one_pass()[4:], openpgp.literal(CLAIM), signature)
    assert refused(raw) == "announces another signature than it has"
    other = signature[:15] + b"\x03" + signature[16:]
    raw = message(KEY.one_pass()[:3] + b"\x03" + KEY.one_pass()[4:], openpgp.literal(CLAIM), other)
    assert refused(raw) == f"has a bad signature by {KEY.key_id}: something in it was changed"


def test_a_proven_issuer_goes_before_a_hint() -> None:
    named = openpgp.subpacket(33, b"\x04" + bytes.fromhex(KEY.fingerprint))
    signature = KEY.signature(CLAIM, hashed=named, key_id=STRANGER.key_id)
    assert proven(message(KEY.one_pass(), openpgp.literal(CLAIM), signature)).fingerprint == KEY.fingerprint
    nobody = KEY.signature(CLAIM, key_id="AB")
    assert refused(message(KEY.one_pass(), openpgp.literal(CLAIM), nobody)) == "announces another signature than it has"


def test_critical_subpackets_must_be_understood() -> None:
    assert proven(KEY.sign(CLAIM, hashed=openpgp.subpacket(20, b"note"))).version == 4
    why = refused(KEY.sign(CLAIM, hashed=openpgp.subpacket(0x80 | 20, b"note")))
    assert why == "has a signature with an unknown critical subpacket 20"
    assert refused(KEY.sign(CLAIM, hashed=b"\0")) == "has a signature with an empty subpacket"
    assert refused(KEY.sign(CLAIM, hashed=b"\xff\xff\xff\xff\xff\x02")) == "ends too early"


# -- what is signed --------------------------------------------------------------------------------------------


def test_a_signature_over_another_digest_is_refused() -> None:
    other = Digest.of(b"another release")
    assert refused(KEY.sign(claim(other, REFERENCE))) == f"signs another digest, {other}"
    assert refused(KEY.sign(claim(Digest.of(b"release", "sha512"), REFERENCE))).startswith("signs another digest")


def changed(**changes: Any) -> bytes:
    found = json.loads(CLAIM)
    for path, value in changes.items():
        where = found
        *folders, last = path.split("__")
        for folder in folders:
            where = where[folder]
        where[last.replace("_", "-")] = value
    return json.dumps(found).encode()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is not strict JSON"),
        (b"not json", "is not strict JSON"),
        (b"\xff\xfe{}", "is not strict JSON"),
        (CLAIM.decode().encode("utf-16"), "is not strict JSON"),
        (b"[" * 5000, "is not strict JSON"),
        (b"9" * 5000, "is not strict JSON"),
        (CLAIM + b"{}", "is not strict JSON"),
        (CLAIM + b" x", "is not strict JSON"),
        (CLAIM[:-1], "is not strict JSON"),
        (CLAIM[:-1] + b', "critical": {}}', "is not strict JSON (an object names a key twice)"),
        (CLAIM.replace(b'"type"', b'"type": "x", "type"'), "is not strict JSON (an object names a key twice)"),
        (b"[]", "has no object with critical and optional"),
        (b"null", "has no object with critical and optional"),
        (b"{}", "has no object with type and image and identity"),
        (changed(more=1), "has the unknown field 'more'"),
        (changed(critical__more=1), "has the unknown field 'more'"),
        (changed(critical__image__more=1), "has the unknown field 'more'"),
        (changed(critical__identity__more=1), "has the unknown field 'more'"),
        (changed(optional__more=1), "has the unknown field 'more'"),
        (CLAIM.replace(b"critical", b"Critical"), "has the unknown field 'Critical'"),
        (changed(critical__type="cosign container image signature"), "is of the wrong type"),
        (changed(critical__type=None), "is of the wrong type"),
        (changed(critical__identity__docker_reference=""), "names no image"),
        (changed(critical__identity__docker_reference=["a"]), "names no image"),
        (changed(critical__image__docker_manifest_digest=None), "names no image"),
        (changed(critical__image__docker_manifest_digest=str(RELEASE).upper()), "names an invalid digest"),
        (changed(critical__image=[str(RELEASE)]), "has no object with docker-manifest-digest"),
        (changed(optional__creator=1), "has a creator or a timestamp of the wrong type"),
        (changed(optional__timestamp="1700000000"), "has a creator or a timestamp of the wrong type"),
        (changed(optional__timestamp=1.5), "has a creator or a timestamp of the wrong type"),
        (changed(optional__timestamp=True), "has a creator or a timestamp of the wrong type"),
        (changed(optional__timestamp=1 << 63), "has a creator or a timestamp of the wrong type"),
        (changed(optional=[]), "has no object with creator and timestamp"),
    ],
)
def test_claims_are_strict(content: bytes, why: str) -> None:
    assert refused(KEY.sign(content)).startswith(f"is signed, but its claim {why}")


@pytest.mark.parametrize(
    "content",
    [
        changed(optional={}),
        changed(optional=None),
        changed(optional__creator=None),
        json.dumps({"critical": json.loads(CLAIM)["critical"]}).encode(),
        b" " + CLAIM + b"\n",
    ],
)
def test_what_a_claim_need_not_say(content: bytes) -> None:
    assert proven(KEY.sign(content)).claim.reference == REFERENCE


# -- broken and hostile messages -------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("version", [3, 4])
def test_no_cut_message_verifies(version: int, compressed: bool) -> None:
    raw = KEY.sign(CLAIM, version, compressed=compressed)
    for length in range(len(raw)):
        refused(raw[:length])


def flips(raw: bytes, keyring: Keyring, digest: Digest, expected: Verified) -> list[int]:
    """Return which octets could be changed by a bit without harm; each such message still proves the same."""
    harmless = []
    for place in range(len(raw) * 8):
        broken = bytearray(raw)
        broken[place // 8] ^= 1 << place % 8
        try:
            found = verify(bytes(broken), digest, keyring)
        except SignatureInvalid:
            continue
        assert found == expected
        harmless.append(place // 8)
    return harmless


@pytest.mark.parametrize("version", [3, 4])
def test_no_flipped_bit_makes_another_claim(version: int) -> None:
    raw = KEY.sign(CLAIM, version, compressed=False)
    content = raw.index(CLAIM)
    value = Signature.parse(KEY.signature(CLAIM, version=version)).value
    # What no signature covers: a file's name and date, the flag of the one-pass packet that says whether another one
    # follows, and whether the hint at the key in the unhashed area is critical. How many bits of a number's first
    # octet count may change nothing either.
    unproven = {*range(content - 4 - len(b"claim.bin"), content), 14}
    if version == 4:
        unproven.add(len(raw) - len(value) - 2 - 8 - 1)
    assert set(flips(raw, KEYRING, RELEASE, proven(raw))) - {len(raw) - len(value) + 1} == unproven


def test_no_flipped_bit_of_a_compressed_message_makes_another_claim() -> None:
    raw = KEY.sign(CLAIM)
    assert len(flips(raw, KEYRING, RELEASE, proven(raw))) < len(raw) / 4


def test_no_flipped_bit_of_a_real_signature_makes_another_claim() -> None:
    release = "195de2a5ef3af1083620a62a45ea61ac1233ffa27bbce7b30609a69775aeca19"
    raw = (SAMPLES / "releases" / f"sha256={release}" / "signature-1").read_bytes()
    digest = Digest("sha256", release)
    assert len(flips(raw, shipped(), digest, verify(raw, digest, shipped()))) < len(raw) / 4


_BASES = [KEY.sign(CLAIM, version, compressed=compressed) for version in (3, 4) for compressed in (True, False)]


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_no_octets_verify_or_end_in_another_error(raw: bytes) -> None:
    refused(raw)
    refused(openpgp.compress(raw))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_edits_never_make_another_claim(data: st.DataObject) -> None:
    raw = data.draw(st.sampled_from(_BASES))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(raw)))
        stop = data.draw(st.integers(start, min(len(raw), start + 40)))
        raw = raw[:start] + data.draw(st.binary(max_size=40)) + raw[stop:]
    with suppress(SignatureInvalid):
        assert verify(raw, RELEASE, KEYRING).claim == proven(_BASES[0]).claim


def test_content_around_the_message_is_refused() -> None:
    whole = KEY.sign(CLAIM, compressed=False)
    again = openpgp.packet(openpgp.LITERAL, openpgp.literal(claim(RELEASE, "quay.io/evil/release:1")))
    assert refused(KEY.sign(CLAIM) + b"\n") == "holds more than the compressed message"
    assert refused(whole + b"\n") == "holds octets that are not a packet"
    assert refused(whole + again) == "is not a signed message"
    assert refused(again + whole) == "is not a signed message"
    assert refused(openpgp.compress(whole + again)) == "is not a signed message"
    assert refused(whole + whole) == "is not a signed message"
    assert refused(b"") == "is not a signed message"
    assert refused(openpgp.packet(openpgp.LITERAL, openpgp.literal(CLAIM))) == "is not a signed message"
    assert refused(openpgp.armor(whole, "MESSAGE")) == "holds octets that are not a packet"


def test_packets_that_contradict_each_other_are_refused() -> None:
    content, signature = openpgp.literal(CLAIM), KEY.signature(CLAIM)
    announced = "announces another signature than it has"
    assert refused(message(STRANGER.one_pass(), content, signature)) == announced
    assert refused(message(KEY.one_pass("sha512"), content, signature)) == announced
    assert refused(message(KEY.one_pass(kind=1), content, signature)) == announced
    assert refused(message(KEY.one_pass() + b"x", content, signature)) == "has a one-pass packet of an unknown form"
    assert refused(message(b"\x04" + KEY.one_pass()[1:], content, signature)).startswith("has a one-pass packet")
    assert refused(message(KEY.one_pass(), b"x" + content[1:], signature)) == "has content of an unknown form"
    assert refused(message(KEY.one_pass(), b"b\xff" + content[2:10], signature)) == "ends too early"
    assert refused(message(KEY.one_pass(), content, b"\x05" + signature[1:])).startswith("has a signature of version 5")
    assert refused(message(KEY.one_pass(), content, signature + b"x")).endswith("octets after its numbers")
    old = KEY.signature(CLAIM, version=3)
    assert refused(message(KEY.one_pass(), content, b"\x03\x06" + old[2:])).endswith("a wrong length in it")


@pytest.mark.parametrize("extra", [1, 64 * 1024 * 1024])
def test_a_compression_bomb_is_refused_without_unpacking_it(extra: int) -> None:
    room = SIZE_LIMIT - len(KEY.sign(CLAIM, compressed=False)) - 3  # three octets: a longer header
    assert proven(KEY.sign(CLAIM + b" " * room)).version == 4
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    inner = openpgp.packet(openpgp.ONE_PASS, KEY.one_pass()) + b"\xcb\xff" + b"\xff" * 4
    bomb = packer.compress(inner)
    for size in [1 << 20] * (extra >> 20) or [SIZE_LIMIT + extra - len(inner)]:
        bomb += packer.compress(bytes(size))
    bomb += packer.flush()
    nested = openpgp.compress(bytes((0xA3, 1)) + bomb)
    assert extra == 1 or len(nested) < SIZE_LIMIT / 60
    for raw in (bytes((0xA3, 1)) + bomb, nested):
        if len(raw) > SIZE_LIMIT:
            continue
        tracemalloc.start()
        began = time.thread_time()
        why = refused(raw)
        assert time.thread_time() - began < 1
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
        tracemalloc.stop()
        assert why == "decompresses to far more than a signature has, as a compression bomb does"


def test_what_is_unpacked_counts_together() -> None:
    part = openpgp.packet(openpgp.LITERAL, openpgp.literal(bytes(30_000)))
    inner = zlib.compress(part)
    each = openpgp.packet(openpgp.COMPRESSED, b"\x02" + inner)
    assert refused(each * 2) == "is not a signed message"
    assert "compression bomb" in refused(each * 3)


def test_compression_nests_twice_at_most() -> None:
    raw = KEY.sign(CLAIM)
    assert proven(openpgp.compress(raw)).version == 4
    assert refused(openpgp.compress(openpgp.compress(raw))) == "is compressed several times over"
    assert refused(openpgp.compress(openpgp.compress(raw, 0), 0)) == "is compressed several times over"


def test_damaged_compression_is_refused() -> None:
    assert refused(bytes((0xA3, 1)) + b"\xff\xff\xff") == "cannot be decompressed"
    assert refused(bytes((0xA3, 9)) + b"abc") == "is compressed by algorithm 9, which is not supported"
    assert refused(bytes((0xA3,))) == "ends too early"
    assert refused(bytes((0xA3, 1))) == "ends too early"


def test_sizes_and_counts_are_bounded() -> None:
    assert refused(bytes(SIZE_LIMIT + 1)) == f"has {SIZE_LIMIT + 1} bytes; at most {SIZE_LIMIT} are read"
    began = time.thread_time()
    assert refused(openpgp.packet(openpgp.MARKER, b"") * (SIZE_LIMIT // 2)) == "has more than 16 packets"
    assert refused(b"\xcb" + b"\xe0x" * (SIZE_LIMIT // 2 - 1)) == "ends too early"
    some = openpgp.packet(openpgp.COMPRESSED, b"\0" + openpgp.packet(openpgp.MARKER, b"") * 9)
    assert refused(some * 2) == "has more than 16 packets"
    assert time.thread_time() - began < 2
    five = openpgp.packet(openpgp.ONE_PASS, KEY.one_pass()) * 5 + openpgp.packet(
        openpgp.LITERAL, openpgp.literal(CLAIM)
    )
    assert refused(five + openpgp.packet(openpgp.SIGNATURE, KEY.signature(CLAIM)) * 5) == "is not a signed message"


def test_what_an_error_says() -> None:
    with pytest.raises(SignatureInvalid) as caught:
        verify(STRANGER.sign(CLAIM), RELEASE, KEYRING)
    assert isinstance(caught.value, Corrupt)
    assert re.fullmatch(
        rf"this is not a valid signature of {RELEASE}: it is signed by the unknown key {STRANGER.key_id}",
        caught.value.what,
    )
    assert "releases.keyring" in caught.value.remedy
