"""Which keys of a keyring file may sign, and what is said of a file that has none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.errors import ConfigurationError, Problem
from mirror.offline import keyring as keyrings
from mirror.offline.keyring import RED_HAT, Keyring, shipped
from mirror.offline.packets import PUBLIC_KEY, packets
from tests.tools import openpgp
from tests.tools.openpgp import TestKey

SAMPLES = Path(__file__).parent / "samples"
KEY = TestKey.generate()
OTHER = TestKey.generate()
SUBKEY = TestKey.generate()


def ids(raw: bytes) -> set[str]:
    return set(Keyring.read(raw, "keyring").keys)


def problem(raw: bytes) -> Problem:
    with pytest.raises(ConfigurationError) as caught:
        Keyring.read(raw, "mirror.yaml:7")
    (found,) = caught.value.problems
    assert found.where == "mirror.yaml:7"
    assert "gpg --armor --export" in found.remedy or found.remedy == "keep the one that you know"
    return found


def framed(key: TestKey) -> bytes:
    return b"\x99" + len(key.body).to_bytes(2, "big") + key.body


def test_the_shipped_key_is_red_hats_release_key_and_nothing_else() -> None:
    (key,) = shipped().keys.values()
    assert key.fingerprint == key.certificate == "567E347AD0044ADE55BA8A5F199E2F91FD431D51"
    assert key.key_id == "199E2F91FD431D51"
    # Once more from the file, without the code that reads it.
    text = (Path(keyrings.__file__).parent / "keys" / "redhat-release.asc").read_text()
    raw = openpgp.base64.b64decode("".join(text.split("\n\n")[1].split("\n=")[0].split()))
    length = int.from_bytes(raw[1:3], "big")
    assert hashlib.sha1(b"\x99" + raw[1 : 3 + length]).hexdigest().upper() == RED_HAT
    assert (length, raw[0], raw[9:11]) == (525, 0x99, b"\x10\x00")  # RSA, 4096 bits


def test_another_key_in_the_place_of_the_shipped_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyrings, "RED_HAT", KEY.fingerprint)
    with pytest.raises(ConfigurationError, match="not that of Red Hat"):
        shipped()


@pytest.mark.parametrize("self_signature", ["sha256", "sha1", None])
def test_a_key_needs_no_good_word_from_itself(self_signature: str | None) -> None:
    found = Keyring.read(KEY.public(self_signature=self_signature), "keyring")
    assert list(found.keys) == [KEY.key_id]
    assert found.keys[KEY.key_id].fingerprint == KEY.fingerprint
    assert found.ignored == ()


def test_the_copy_of_red_hats_key_that_older_releases_carry() -> None:
    raw = (SAMPLES / "redhat-release-sha1.gpg").read_bytes()
    assert b"\x04\x13\x01\x02" in raw  # it vouches for itself with SHA-1
    assert Keyring.read(raw, "keyring").keys == shipped().keys


def test_several_keys_armored_or_not() -> None:
    both = {KEY.key_id, OTHER.key_id}
    assert ids(KEY.public() + OTHER.public()) == both
    assert ids(openpgp.armor(KEY.public() + OTHER.public())) == both
    assert ids(KEY.armored_public() + b"\n" + OTHER.armored_public()) == both
    assert (
        ids(b"Our keys:\n\n" + KEY.armored_public().replace(b"\n", b"\r\n") + b"and\n" + OTHER.armored_public()) == both
    )
    assert ids(KEY.public() + KEY.public(self_signature=None)) == {KEY.key_id}
    assert ids(KEY.armored_public().replace(b"Comment: a test key\n", b"")) == {KEY.key_id}


def test_gnupgs_own_export() -> None:
    found = Keyring.read((SAMPLES / "gnupg" / "keys.asc").read_bytes(), "keyring")
    assert {key.certificate for key in found.keys.values()} == {
        "AB3E85B68C0ED0A6EB26E46AA700DC12C0CCB8E9",
        "DBDBA6ECE12CAFCA836BBC106B413033A9CA0291",
        "B7461433033D836B9A6C06965BFBCBE444BB7BCB",
        "AA0AFDDBE1D99682DBB862C4E096EFBB433A7696",
    }
    assert found.keys["0E6014D74E194434"].certificate == "AA0AFDDBE1D99682DBB862C4E096EFBB433A7696"
    assert "981933ED83CD3BD2" not in found.keys  # an encryption subkey


def test_a_subkey_counts_when_its_key_says_so() -> None:
    found = Keyring.read(KEY.public(subkeys=[SUBKEY]), "keyring").keys
    assert set(found) == {KEY.key_id, SUBKEY.key_id}
    assert (found[SUBKEY.key_id].fingerprint, found[SUBKEY.key_id].certificate) == (SUBKEY.fingerprint, KEY.fingerprint)


def test_a_subkey_that_anybody_could_have_added_does_not_count() -> None:
    unbound = KEY.public() + openpgp.packet(openpgp.SUBKEY, SUBKEY.body)
    assert ids(unbound) == {KEY.key_id}
    flags = openpgp.subpacket(27, b"\x02")
    both = framed(KEY) + framed(SUBKEY)

    def bound(signature: bytes) -> Keyring:
        return Keyring.read(unbound + openpgp.packet(openpgp.SIGNATURE, signature), "keyring")

    assert set(bound(KEY.signature(both, kind=0x18, hashed=flags)).keys) == {KEY.key_id, SUBKEY.key_id}
    for signature in (
        SUBKEY.signature(both, kind=0x18, hashed=flags),
        OTHER.signature(both, kind=0x18, hashed=flags, key_id=KEY.key_id),
        KEY.signature(framed(KEY) + framed(OTHER), kind=0x18, hashed=flags),
    ):
        found = bound(signature)
        assert set(found.keys) == {KEY.key_id}
        assert found.ignored == (f"{SUBKEY.fingerprint} is bound to its key by a bad signature",)
    for signature in (
        KEY.signature(both, kind=0x18, hashed=openpgp.subpacket(27, b"\x0c")),
        KEY.signature(both, kind=0x18, unhashed=flags),
        KEY.signature(both, kind=0x10, hashed=flags),
        KEY.signature(both, kind=0x18),
    ):
        assert set(bound(signature).keys) == {KEY.key_id}
    found = Keyring.read(KEY.public(subkeys=[SUBKEY], bound="sha1"), "keyring")
    assert set(found.keys) == {KEY.key_id}
    assert found.ignored == (f"what binds {SUBKEY.fingerprint} to its key is signed with SHA-1, which is not accepted",)


def test_a_subkey_belongs_to_the_key_before_it() -> None:
    moved = KEY.public() + OTHER.public() + openpgp.packet(openpgp.SUBKEY, SUBKEY.body)
    binding = KEY.signature(framed(KEY) + framed(SUBKEY), kind=0x18, hashed=openpgp.subpacket(27, b"\x02"))
    assert ids(moved + openpgp.packet(openpgp.SIGNATURE, binding)) == {KEY.key_id, OTHER.key_id}


def test_a_key_that_is_not_read_is_not_mixed_up_with_the_one_before() -> None:
    binding = openpgp.packet(
        openpgp.SIGNATURE, KEY.signature(framed(KEY) + framed(SUBKEY), kind=0x18, hashed=openpgp.subpacket(27, b"\x02"))
    )
    subkey = openpgp.packet(openpgp.SUBKEY, SUBKEY.body)
    unknown = KEY.body[:5] + b"\x12" + KEY.body[6:]
    assert ids(KEY.public() + subkey + binding) == {KEY.key_id, SUBKEY.key_id}
    assert ids(KEY.public() + subkey + openpgp.packet(openpgp.SUBKEY, unknown) + binding) == {KEY.key_id}
    assert ids(KEY.public() + openpgp.packet(openpgp.PUBLIC_KEY, unknown) + subkey + binding) == {KEY.key_id}
    assert ids(KEY.public() + openpgp.packet(5, unknown) + subkey + binding) == {KEY.key_id}


def test_a_revoked_key_takes_its_subkeys_along() -> None:
    revocation = openpgp.packet(openpgp.SIGNATURE, KEY.signature(framed(KEY), kind=0x20))
    raw = KEY.public(subkeys=[SUBKEY]) + revocation + OTHER.public()
    found = Keyring.read(raw, "keyring")
    assert set(found.keys) == {OTHER.key_id}
    assert found.ignored == (f"{KEY.fingerprint} is revoked",)
    assert problem(KEY.public() + revocation).what == (
        f"no key of the keyring can be used: {KEY.fingerprint} is revoked"
    )
    gone = openpgp.packet(openpgp.SIGNATURE, KEY.signature(framed(KEY) + framed(SUBKEY), kind=0x28))
    assert ids(KEY.public(subkeys=[SUBKEY]) + gone) == {KEY.key_id}


def test_weak_foreign_and_secret_keys_are_named() -> None:
    weak = TestKey.generate(1024)
    found = Keyring.read(weak.public() + KEY.public(), "keyring")
    assert set(found.keys) == {KEY.key_id}
    assert found.ignored == (f"one is an RSA key of 1024 bits; 2048 to 16384 are accepted ({weak.fingerprint})",)
    assert weak.fingerprint in problem(weak.armored_public()).what
    for body, why in (
        (b"\x03" + KEY.body[1:], "is a key of version 3, which is not supported"),
        (b"\x06" + KEY.body[1:], "is a key of version 6, which is not supported"),
        (KEY.body[:5] + b"\x11" + KEY.body[6:], "is a key for algorithm 17, which is not supported"),
        (KEY.body[:5] + b"\x13\x03abc" + KEY.body[6:], "is an ECDSA key of a curve that is not supported"),
        (KEY.body[:-1] + b"\x02", "has impossible numbers"),  # an even exponent
        (KEY.body[:100], "ends too early"),
        (b"", "ends too early"),
    ):
        assert why in problem(openpgp.packet(PUBLIC_KEY, body)).what
    p256 = bytes.fromhex("082a8648ce3d030107")
    off = openpgp.number(int.from_bytes(b"\x04" + b"\x01" * 64, "big"))
    assert "has impossible numbers" in problem(openpgp.packet(PUBLIC_KEY, KEY.body[:5] + b"\x13" + p256 + off)).what
    assert "it holds a secret key" in problem(openpgp.packet(5, KEY.body + b"secret")).what


def test_two_keys_of_one_id_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = hashlib.sha1

    def colliding(raw: bytes, **more: bool) -> object:
        found = real(raw, **more)

        class Hash:
            def hexdigest(self) -> str:
                return found.hexdigest()[:24] + "0" * 16

        return Hash()

    monkeypatch.setattr(hashlib, "sha1", colliding)
    assert problem(KEY.public() + OTHER.public()).what == "two keys of the keyring share the id 0000000000000000"
    assert set(Keyring.read(KEY.public() + KEY.public(), "keyring").keys) == {"0" * 16}


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"", "no key of the keyring can be used: there is none in it"),
        (b"<html>not found</html>", "the keyring holds octets that are not a packet"),
        (b"\0\0\0\x20\1\1\0\2KBXf", "the keyring is GnuPG's own keybox"),
        (bytes(1024 * 1024 + 1), "the keyring has 1048577 bytes; at most 1048576 are read"),
        (b"\xca\x00" * 10_001, "the keyring has more than 10000 packets"),
        (KEY.armored_public()[:-40], "the keyring has damaged ASCII armor"),
        (KEY.armored_public().replace(b"\n\n", b"\n"), "the keyring has damaged ASCII armor"),
        (KEY.armored_public() + b"-----END PGP PUBLIC KEY BLOCK-----\n", "the keyring has damaged ASCII armor"),
        (KEY.armored_public()[:200] + KEY.armored_public(), "the keyring has damaged ASCII armor"),
        (KEY.armored_public().replace(b"\n=", b"\n!\n="), "the keyring has damaged ASCII armor"),
        (KEY.public()[:-1], "the keyring ends too early"),
        (openpgp.armor(KEY.sign(b"x", compressed=False), "MESSAGE"), "no key of the keyring can be used"),
    ],
)
def test_files_without_keys(raw: bytes, what: str) -> None:
    assert problem(raw).what.startswith(what)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_no_edit_ends_in_another_error_or_brings_a_key_in(data: st.DataObject) -> None:
    raw = KEY.public(subkeys=[SUBKEY])
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(raw)))
        stop = data.draw(st.integers(start, min(len(raw), start + 40)))
        raw = raw[:start] + data.draw(st.binary(max_size=40)) + raw[stop:]
    try:
        found = Keyring.read(raw, "keyring")
    except ConfigurationError:
        return
    # A subkey is in only with its own key, unchanged: what binds it covers both.
    for key in found.keys.values():
        if key.fingerprint != key.certificate:
            assert (key.fingerprint, key.certificate) == (SUBKEY.fingerprint, KEY.fingerprint)


@given(st.integers(0, 70_000), st.sampled_from([0, 2, 6, 11, 15]), st.sampled_from(["old", "new", "partial"]))
@settings(max_examples=60, deadline=None)
def test_packets_come_back_as_they_were_written(size: int, tag: int, form: str) -> None:
    write = {"old": openpgp.packet, "new": openpgp.new_packet, "partial": openpgp.partial_packet}[form]
    body = (b"%d " % size * size)[:size]
    raw = write(tag, body) + write(tag, b"after")
    assert packets(raw, 2) == [(tag, body), (tag, b"after")]
