"""Signatures out of several stores: all of them, each once, bounded, and what is said when none holds."""

from __future__ import annotations

import asyncio

import pytest

from mirror.errors import ConfigurationError, MirrorError, Problem, UpstreamInvalid, UpstreamUnavailable
from mirror.oci.digest import Digest
from mirror.offline.keyring import Keyring
from mirror.offline.signatures import SIZE_LIMIT, Candidate, SignatureInvalid, SignatureStores, check, verify_release
from tests.tools.openpgp import TestKey, claim

RELEASE = Digest.of(b"release")
REFERENCE = "quay.io/openshift-release-dev/ocp-release:4.16.15-x86_64"
FIRST, SECOND = "https://one.example/signatures", "https://two.example/signatures/"
KEY = TestKey.generate()
COLLEAGUE = TestKey.generate()
STRANGER = TestKey.generate()
KEYRING = Keyring.read(KEY.public() + COLLEAGUE.public(), "keyring")
CLAIM = claim(RELEASE, REFERENCE)
OLD, NEW = KEY.sign(CLAIM, 3), KEY.sign(CLAIM, 4)
OTHER = KEY.sign(claim(Digest.of(b"another"), REFERENCE))


class Documents:
    """Documents by URL; an error where one is given, none where nothing is."""

    def __init__(self, found: dict[str, bytes | MirrorError]) -> None:
        self.found = found
        self.asked: list[str] = []
        self.together = self.most = 0

    async def get(self, url: str, *, limit: int) -> bytes | None:
        assert limit == SIZE_LIMIT
        self.asked.append(url)
        self.together += 1
        self.most = max(self.most, self.together)
        await asyncio.sleep(0)
        self.together -= 1
        host = url.split("/sha256=")[0]
        found = self.found.get(url, self.found.get(host))
        if isinstance(found, MirrorError):
            raise found
        return found


def url(store: str, number: int) -> str:
    return f"{store.rstrip('/')}/sha256={RELEASE.hex}/signature-{number}"


def stores(found: dict[str, bytes | MirrorError], *names: str) -> tuple[Documents, SignatureStores]:
    documents = Documents(found)
    return documents, SignatureStores(documents, names or (FIRST, SECOND))


async def test_all_stores_together_each_signature_once() -> None:
    documents, asked = stores(
        {url(FIRST, 1): OLD, url(FIRST, 2): OTHER, url(SECOND, 1): NEW, url(SECOND, 2): OLD, url(SECOND, 3): b""}
        | {url(SECOND, 4): STRANGER.sign(CLAIM)}
    )
    found = await asked.fetch(RELEASE)
    assert found == [(1, OLD), (2, OTHER), (3, NEW), (4, STRANGER.sign(CLAIM))]
    assert sorted(documents.asked) == sorted(
        [url(FIRST, number) for number in (1, 2, 3)] + [url(SECOND, number) for number in (1, 2, 3, 4, 5)]
    )
    assert documents.most == 2  # both at once


async def test_nine_of_a_store_are_asked_for_at_most() -> None:
    documents, asked = stores({FIRST: OLD}, FIRST)
    assert await asked.fetch(RELEASE) == [(1, OLD)]
    assert documents.asked == [url(FIRST, number) for number in range(1, 10)]


async def test_one_store_that_fails_is_made_up_for_by_the_other() -> None:
    _, asked = stores({FIRST: UpstreamUnavailable("one.example is away"), url(SECOND, 1): NEW})
    assert await asked.fetch(RELEASE) == [(1, NEW)]
    assert await verify_release(RELEASE, asked, KEYRING) == ([(1, NEW)], (KEY.fingerprint,))


async def test_what_came_before_a_failure_counts() -> None:
    _, asked = stores({url(FIRST, 1): OLD, url(FIRST, 2): UpstreamInvalid("an answer of 70000 bytes")}, FIRST)
    assert await asked.fetch(RELEASE) == [(1, OLD)]


async def test_no_store_that_can_be_asked() -> None:
    away = UpstreamUnavailable("one.example is away", "look at the proxy", retry_after=7)
    _, asked = stores({FIRST: away, SECOND.rstrip("/"): UpstreamInvalid("a login page")})
    for call in (asked.fetch(RELEASE), verify_release(RELEASE, asked, KEYRING)):
        with pytest.raises(UpstreamUnavailable) as caught:
            await call
        assert caught.value.what == (
            f"no signature store could be asked for {RELEASE}: {FIRST}: one.example is away; {SECOND}: a login page"
        )
        assert (caught.value.remedy, caught.value.retry_after) == ("look at the proxy", 7)


async def test_a_store_that_never_can_be_asked_is_a_mistake_in_the_configuration() -> None:
    wrong = ConfigurationError([Problem("document_url", "ftp is not spoken")])
    _, asked = stores({FIRST: wrong, url(SECOND, 1): NEW})
    with pytest.raises(ConfigurationError):
        await asked.fetch(RELEASE)


async def test_a_release_keeps_what_holds_numbered_anew() -> None:
    signed = COLLEAGUE.sign(CLAIM)
    _, asked = stores(
        {url(FIRST, 1): STRANGER.sign(CLAIM), url(FIRST, 2): NEW, url(FIRST, 3): OTHER, url(SECOND, 1): signed}
    )
    kept, signers = await verify_release(RELEASE, asked, KEYRING)
    assert kept == [(1, NEW), (2, signed)]
    assert signers == tuple(sorted((KEY.fingerprint, COLLEAGUE.fingerprint)))


async def test_a_release_without_a_valid_signature_is_told_why() -> None:
    _, asked = stores(
        {
            url(FIRST, 1): STRANGER.sign(CLAIM),
            url(FIRST, 2): OTHER,
            SECOND.rstrip("/"): UpstreamUnavailable("it is away"),
        }
    )
    with pytest.raises(SignatureInvalid) as caught:
        await verify_release(RELEASE, asked, KEYRING)
    assert caught.value.what == (
        f"release {RELEASE} has no valid signature: "
        f"{url(FIRST, 1)}: it is signed by the unknown key {STRANGER.key_id}; "
        f"{url(FIRST, 2)}: it signs another digest, {Digest.of(b'another')}; "
        f"{SECOND} could not be asked (it is away)"
    )
    for key in ("releases.signature_stores", "releases.keyring", "require_signature: false"):
        assert key in caught.value.remedy


async def test_a_release_that_nobody_signed() -> None:
    for names in ((FIRST, SECOND), (FIRST,)):
        _, asked = stores({}, *names)
        assert await asked.fetch(RELEASE) == []
        with pytest.raises(SignatureInvalid, match=f"release {RELEASE} has no valid signature: there is none"):
            await verify_release(RELEASE, asked, KEYRING)
    nowhere = SignatureStores(Documents({}), ())
    with pytest.raises(SignatureInvalid, match="there is none"):
        await verify_release(RELEASE, nowhere, KEYRING)


async def test_one_store_without_a_signature_is_an_answer_and_the_other_is_named() -> None:
    _, asked = stores({FIRST: UpstreamUnavailable("one.example is away")})
    assert await asked.fetch(RELEASE) == []
    with pytest.raises(SignatureInvalid) as caught:
        await verify_release(RELEASE, asked, KEYRING)
    assert caught.value.what.endswith(f": there is none; {FIRST} could not be asked (one.example is away)")


async def test_no_secret_of_a_url_is_told() -> None:
    store = "https://user:hunter2@one.example/signatures"
    _, asked = stores({url(store, 1): OTHER}, store)
    with pytest.raises(SignatureInvalid) as caught:
        await verify_release(RELEASE, asked, KEYRING)
    assert "hunter2" not in str(caught.value)
    assert "one.example" in str(caught.value)


def test_signatures_from_elsewhere_are_checked_alike() -> None:
    kept, signers = check(RELEASE, [Candidate("part 1", OTHER), Candidate("part 2", OLD)], KEYRING)
    assert (kept, signers) == ([(1, OLD)], (KEY.fingerprint,))
    with pytest.raises(SignatureInvalid, match="part 1: it signs another digest"):
        check(RELEASE, [Candidate("part 1", OTHER)], KEYRING)
