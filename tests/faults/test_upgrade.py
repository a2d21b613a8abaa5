"""A store that the last release has made, served by this one; and the other way round, as often as one likes.

The last release is the commit below, out of the history of this repository: `git clone` has it, an archive has not.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mirror.store.adopt import adopt_all
from mirror.store.layout import Layout
from tests.faults.private_bed import (
    EMPTY,
    RULES,
    Content,
    Labs,
    image,
    kind_of,
    laboratories,
    naming,
    opening,
)
from tests.faults.wire import Got, ask
from tests.peers.images import Image, digest_of, noise
from tests.tools.mirror import Mirror
from tests.tools.programs import ROOT
from tests.unit.offline.foreign_bed import pack

LAST = "9660217858c0fce10aa5826934fe3e640fa5857b"
LAB, OPEN = "lab.example", "open.example"
NAMING, VAULT, HOSTED = f"{OPEN}/pub/naming", f"{LAB}/vault/app", "secret/app"
HOSTED_RULES = [{"who": "robot+alice", "repositories": ["secret/**"], "may": ["pull", "push", "delete"]}]
ALL_RULES = [
    {"who": "robot+alice", "repositories": ["secret/**", f"{LAB}/vault/**"], "may": ["pull", "push", "delete"]}
]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="session")
def last(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the last release's code."""
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", LAST, "mirror"]
    found = subprocess.run(command, capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"the history of this repository is not here, so there is no last release ({LAST[:7]}) to run")
    folder = tmp_path_factory.mktemp("last")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


class Release(Mirror):
    """`mirror serve`, and the commands beside it, of the code in a folder."""

    def __init__(self, code: Path, folder: Path, document: Mapping[str, Any]) -> None:
        super().__init__(folder, document)
        self.code = code
        self._folder = code
        self._environment = {"PYTHONPATH": str(code)}
        self.host, self.port = self.address.split(":")

    def run(self, *words: str | Path, code: int | None = 0) -> str:
        done = subprocess.run(
            [*self.program, *map(str, words), "--config", str(self.configuration)],
            cwd=self.code, env={**os.environ, **self._environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    async def do(self, *words: str | Path, code: int | None = 0) -> str:
        return await asyncio.to_thread(self.run, *words, code=code)

    async def ask(self, target: str, method: str = "GET", login: str = "", body: bytes | None = None,
                  kind: str = "") -> Got:  # fmt: skip
        headers = {"Authorization": login} if login else {}
        if kind:
            headers["Content-Type"] = kind
        return await ask((self.host, int(self.port)), target, method, headers, body)

    async def blob(self, name: str, content: bytes, login: str = "") -> Got:
        return await self.ask(f"/v2/{name}/blobs/{digest_of(content)}", login=login)

    async def manifest(self, name: str, content: bytes | str, login: str = "") -> Got:
        reference = content if isinstance(content, str) else digest_of(content)
        return await self.ask(f"/v2/{name}/manifests/{reference}", login=login)

    async def push(self, name: str, tag: str, manifests: Sequence[bytes], blobs: Sequence[bytes],
                   login: str = "") -> None:  # fmt: skip
        for blob in blobs:
            begun = await self.ask(f"/v2/{name}/blobs/uploads/", "POST", login, b"")
            assert begun.status == 202, begun
            place = begun.headers["location"].removeprefix(self.url)
            glue = "&" if "?" in place else "?"
            done = await self.ask(f"{place}{glue}digest={digest_of(blob)}", "PUT", login, blob)
            assert done.status == 201, done
        for body in manifests:
            reference = tag if body is manifests[-1] else digest_of(body)
            done = await self.ask(f"/v2/{name}/manifests/{reference}", "PUT", login, body, kind_of(body))
            assert done.status == 201, done

    async def has(self, name: str, tag: str, manifests: Sequence[bytes], blobs: Sequence[bytes],
                  login: str = "") -> None:  # fmt: skip
        """Pull it; every byte must come. The last manifest is the one that the tag means."""
        got = await self.manifest(name, tag, login)
        assert got.body == manifests[-1], (name, tag, got.status, got.body[:300])
        for body in manifests:
            got = await self.manifest(name, body, login)
            assert got.body == body, (name, got.status, got.body[:300])
        for blob in blobs:
            got = await self.blob(name, blob, login)
            assert got.body == blob, (name, got.status, got.body[:300])


@contextlib.asynccontextmanager
async def serving(code: Path, folder: Path, document: Mapping[str, Any]) -> AsyncIterator[Release]:
    release = Release(code, folder, document)
    await asyncio.to_thread(release.start)
    try:
        yield release
    finally:
        await asyncio.to_thread(release.stop)


SHARED = noise(150_000, 77)
PUSHED = (image(EMPTY, SHARED, noise(4000, 78)),), (EMPTY, SHARED, noise(4000, 78))
LAYOUT = image(EMPTY, noise(6000, 79)), noise(6000, 79)

Thing = tuple[str, str, tuple[bytes, ...], tuple[bytes, ...]]  # name, tag, manifests, blobs


class Estate:
    """What there is to have, and what of it was had."""

    def __init__(self, labs: Labs, root: Path) -> None:
        self.labs = labs
        self.root = root
        self.folder = root / "site"
        images = [
            labs.lab.add_image(f"team/{name}", "v1", layers=(SHARED, noise(3000, seed)), seed=seed)
            for seed, name in enumerate(("a", "b", "set", "later"))
        ]
        self.a, self.b, self.set, self.later = (
            self.thing(f"{LAB}/team/{name}", one) for name, one in zip(("a", "b", "set", "later"), images, strict=True)
        )
        self.vault: Thing = (VAULT, "v1", self.both(labs.proxied), labs.proxied.blobs)
        self.secret: Thing = (HOSTED, "v1", self.both(labs.pushed), labs.pushed.blobs)
        self.web: Thing = ("apps/web", "v1", *PUSHED)
        self.laid: Thing = ("loaded.example/app", "v1", LAYOUT[:1], (EMPTY, LAYOUT[1]))

    @staticmethod
    def both(content: Content) -> tuple[bytes, bytes]:
        return content.child, content.index

    @staticmethod
    def thing(name: str, one: Image) -> Thing:
        return name, "v1", (one.manifest,), (one.config, *one.layers)

    def document(self, **more: Any) -> dict[str, Any]:
        return {
            "upstreams": {
                LAB: {"endpoints": [self.labs.lab.url], "tags": {"fresh_for": "0s"}},
                OPEN: {"endpoints": [self.labs.free.url], "tags": {"fresh_for": "0s"}},
            },
            "storage": {"path": str(self.folder / "store"), "keep_free": "0%"},
            "metrics": {"listen": "none"},
            "clients": {"anonymous": "push"},
            "releases": {"require_signature": False},
            **more,
        }

    def layout_archive(self) -> Path:
        """Return an OCI layout in a tar archive."""
        path = self.root / "laid.tar"
        listed = {"mediaType": kind_of(LAYOUT[0]), "digest": digest_of(LAYOUT[0]), "size": len(LAYOUT[0]),
                  "annotations": {"org.opencontainers.image.ref.name": "v1"}}  # fmt: skip
        files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
                 "index.json": json.dumps({"schemaVersion": 2, "manifests": [listed]}).encode()}  # fmt: skip
        files |= {f"blobs/{digest_of(one).replace(':', '/')}": one for one in (LAYOUT[0], EMPTY, LAYOUT[1])}
        return pack(path, files)

    async def make(self, release: Release) -> str:
        """Have all that a site comes to have; return the login of a robot."""
        for name, tag, manifests, blobs in (self.a, self.b, self.vault):
            await release.has(name, tag, manifests, blobs)
        for one in (self.web, self.secret):
            await release.push(*one)
        for tag, body in naming(self.labs.proxied, self.labs.pushed, self.labs.absent):
            assert (await release.manifest(NAMING, tag)).body == body
        # What the last release opens: this is what is to be mended.
        wanted = self.root / "prod.yaml"
        wanted.write_text(
            "kind: ImageSetConfiguration\napiVersion: mirror.openshift.io/v2alpha1\nmirror:\n"
            f"  additionalImages:\n    - name: {LAB}/team/set:v1\n"
        )
        await release.do("sync", wanted)
        await release.do("load", self.layout_archive(), "--as", "loaded.example/app:v1", "--set", "laid")
        await release.do("pin", f"{self.a[0]}@{digest_of(self.a[2][-1])}")
        made = await release.do("token", "create", "alice", "--expires", "never", "--repositories", "**",
                                "--may", "pull,push,delete")  # fmt: skip
        found = json.loads(made[made.index("{") : made.rindex("}") + 1])
        return "Basic " + str(next(iter(found["auths"].values()))["auth"])

    @property
    def opened(self) -> tuple[Thing, ...]:
        return self.a, self.b, self.set, self.web, self.laid

    @property
    def private(self) -> tuple[Content, Content]:
        return self.labs.proxied, self.labs.pushed


@pytest.fixture
async def estate(tmp_path: Path) -> AsyncIterator[Estate]:
    async with laboratories() as labs:
        yield Estate(labs, tmp_path)


async def is_closed(release: Release, estate: Estate) -> None:
    """What is private is not given where it is only named."""
    for content in estate.private:
        for body in content.all:
            for kind in ("blobs", "manifests"):
                for method in ("HEAD", "GET"):
                    got = await release.ask(f"/v2/{NAMING}/{kind}/{digest_of(body)}", method)
                    assert got.status == 404, (kind, method, got.status, got.cache)


async def test_this_release_goes_on_with_a_store_of_the_last(last: Path, estate: Estate) -> None:
    """Nothing that was open is lost, offline and asking nobody; what was named is private again once a rule says so."""
    async with serving(last, estate.folder, estate.document()) as old:
        login = await estate.make(old)
    store = Path(estate.folder / "store")
    assert not (store / "brought").exists()
    # No rules: everything is there for everybody, and at once.
    estate.labs.forget()
    async with serving(ROOT, estate.folder, estate.document(offline=True)) as new:
        for one in (*estate.opened, estate.vault, estate.secret):
            await new.has(*one)
        for tag, body in naming(*estate.private, estate.labs.absent):
            assert (await new.manifest(NAMING, tag)).body == body
    assert not (store / "brought").exists(), "nobody asked for it"
    # Rules that cover only what is hosted, on a store that has not been taken over.
    clients = {"anonymous": "pull", "rules": HOSTED_RULES}
    async with serving(ROOT, estate.folder, estate.document(offline=True, clients=clients)) as new:
        for one in (*estate.opened, estate.vault):
            await new.has(*one)
        await new.has(*estate.secret, login=login)
        for body in estate.labs.pushed.all:
            assert (await new.blob(NAMING, body)).status == 404
        for tag, body in naming(*estate.private, estate.labs.absent):
            assert (await new.manifest(NAMING, tag)).body == body
    # Rules that cover a proxied repository too.
    clients = {"anonymous": "pull", "rules": ALL_RULES}
    async with serving(ROOT, estate.folder, estate.document(offline=True, clients=clients)) as new:
        await is_closed(new, estate)
        for one in estate.opened:
            await new.has(*one)
        for one in (estate.secret, estate.vault):
            await new.has(*one, login=login)
        await is_closed(new, estate)
    assert estate.labs.asked == []
    # Online those names are proven again: not here for whom upstream does not say so.
    async with serving(ROOT, estate.folder, estate.document(clients=clients)) as new:
        await is_closed(new, estate)
        assert all(one.startswith(("HEAD", "GET")) for one in estate.labs.asked)
        await new.has(*estate.vault, login=login)
        for words in (("ls",), ("verify", "prod"), ("gc", "--dry-run")):
            await new.do(*words)


async def test_who_asks_too_early_waits(last: Path, estate: Estate) -> None:
    """A client that asks before the rows of the last release are taken over is let wait, and gets what it asked for."""
    async with serving(last, estate.folder, estate.document()) as old:
        await estate.make(old)
    document = {**estate.document(offline=True, clients={"anonymous": "pull", "rules": HOSTED_RULES})}
    async with opening(estate.folder, document) as bed:
        layout = bed.room.layout
        name, _, manifests, blobs = estate.a
        asked = [
            asyncio.create_task(bed.manifest(name, manifests[0])),
            *(asyncio.create_task(bed.blob(name, blob)) for blob in blobs),
        ]
        await asyncio.sleep(0.5)
        assert not any(one.done() for one in asked)
        await asyncio.to_thread(adopt_all, layout)
        assert [(await one).body for one in asked] == [manifests[0], *blobs]


@pytest.mark.parametrize("first", ["named", "brought"])
async def test_an_old_row_that_was_good_is_not_when_somebody_else_brings_it(
    last: Path, estate: Estate, first: str
) -> None:
    """Named by an open repository in the old store, brought by a private one only now."""
    labs = estate.labs
    async with serving(last, estate.folder, estate.document()) as old:
        for tag, body in naming(labs.proxied, labs.pushed, labs.absent):
            assert (await old.manifest(NAMING, tag)).body == body
    document = estate.document(clients={"anonymous": "pull", "rules": [*ALL_RULES, *RULES[1:]]})
    async with opening(estate.folder, document) as bed:
        await asyncio.to_thread(adopt_all, bed.room.layout)
        if first == "named":
            for content in estate.private:
                for body in content.all:
                    assert (await bed.blob(NAMING, body)).status == 404
        await bed.push(HOSTED, labs.pushed, "alice")
        await bed.pull(VAULT, labs.proxied, "alice")
        for content in estate.private:
            for body in content.all:
                for ask_for in (bed.blob, bed.manifest):
                    assert (await ask_for(NAMING, body)).status == 404


@pytest.mark.parametrize("kept", [True, False])
async def test_the_last_release_serves_what_this_one_wrote_and_back(last: Path, estate: Estate, *, kept: bool) -> None:
    """Down and up again, with something new from each; nobody loses anything. `kept`: there were rules once.

    The way down works on the commit before as well, which is that release: it is here to stay so.
    """
    private = estate.document(clients={"anonymous": "pull", "rules": ALL_RULES})
    async with serving(ROOT, estate.folder, estate.document()) as new:
        if kept:
            await asyncio.to_thread(adopt_all, Layout(estate.folder / "store"))
        login = await estate.make(new)
    estate.labs.forget()
    async with serving(last, estate.folder, estate.document(offline=True)) as old:
        for one in (*estate.opened, estate.vault, estate.secret):
            await old.has(*one)
    async with serving(last, estate.folder, estate.document()) as old:
        await old.has(*estate.later)
        await old.push("apps/second", "v1", *PUSHED)
        await old.do("load", estate.layout_archive(), "--as", "loaded.example/second:v1", "--set", "second")
        await old.do("verify", "prod")
        await old.has(*estate.secret, login=login)
    estate.labs.forget()
    second: Thing = ("apps/second", *estate.web[1:])
    laid: Thing = ("loaded.example/second", *estate.laid[1:])
    clients = {"anonymous": "pull", "rules": HOSTED_RULES}
    async with serving(ROOT, estate.folder, estate.document(offline=True, clients=clients)) as new:
        for one in (*estate.opened, estate.later, estate.vault, second, laid):
            await new.has(*one)
        await new.has(*estate.secret, login=login)
    assert estate.labs.asked == []
    async with serving(ROOT, estate.folder, private) as new:
        await is_closed(new, estate)
        await new.push("secret/third", "v1", *PUSHED, login=login)
        await new.has(*estate.vault, login=login)
    async with serving(last, estate.folder, private) as old:
        for one in (*estate.opened, estate.later, second, laid):
            await old.has(*one)
        await old.has("secret/third", *estate.web[1:], login=login)
