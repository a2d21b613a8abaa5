"""mirror gc, history and rollback over a store that was pushed to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from mirror.cli.hosted import COMMANDS
from mirror.oci.digest import Digest
from mirror.store.tags import TagRecord, Tags
from tests.peers.images import OCI_MANIFEST, noise
from tests.unit.content.hosted_bed import NOWHERE, Shelf

MIRROR = click.Group("mirror", {command.name: command for command in COMMANDS})
LAB = {"upstreams": {"lab": {"endpoints": ["http://127.0.0.1:9"], "plain_http": True}}}

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def loop_never_blocks() -> None:
    """A command serves nobody beside what it does, so its loop may wait for the disk."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def one(*words: str, code: int = 0) -> Result:
        command, *rest = words
        done = CliRunner().invoke(MIRROR, [command, "--config", str(tmp_path / "mirror.yaml"), *rest])
        assert done.exit_code == code, done.output
        return done

    return one


def pushed(folder: Path, work: Callable[[Shelf], Awaitable[Any]]) -> Any:
    """Push to the store as a service would, and end."""

    async def all_of_it() -> Any:
        shelf = Shelf(folder, LAB)
        try:
            return await work(shelf)
        finally:
            await shelf.close()

    return asyncio.run(all_of_it())


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """The digests of three images that team/app:v1 meant one after the other; and a blob that nothing names."""

    async def work(shelf: Shelf) -> list[str]:
        found = [str(Digest.of(await shelf.image(seed, "v1"))) for seed in range(3)]
        await shelf.blob(noise(5000, 9))
        return found

    return pushed(tmp_path, work)


def test_gc(tmp_path: Path, images: list[str], run: Run) -> None:
    spare = str(Digest.of(noise(5000, 9)))

    async def age(shelf: Shelf) -> None:
        shelf.age(2 * 86400)

    assert "freed 0 B of 0 blobs" in run("gc").output
    pushed(tmp_path, age)
    dry = json.loads(run("gc", "--dry-run", "--json").output)
    assert (dry["ok"], dry["dry_run"], dry["freed_bytes"], dry["digests"]) == (
        True,
        True,
        5000,
        [{"digest": spare, "bytes": 5000}],
    )
    assert "would free 4.9 KiB of one blob or manifest" in run("gc", "--dry-run").output
    done = run("gc").output
    assert f"{spare}  4.9 KiB" in done
    assert "freed 4.9 KiB of one blob or manifest" in done
    assert json.loads(run("gc", "--json").output)["freed_bytes"] == 0


def test_history_and_rollback(images: list[str], run: Run) -> None:
    first, second, third = images
    told = json.loads(run("history", "team/app", "--json").output)
    (tag,) = told["tags"]
    assert (told["name"], tag["tag"], tag["now"]["digest"]) == ("team/app", "v1", third)
    assert [one["digest"] for one in tag["earlier"]] == [second, first]
    assert [one["who"] for one in (tag["now"], *tag["earlier"])] == ["ci"] * 3
    assert tag["now"]["until"] is None
    assert tag["now"]["since"] == tag["earlier"][0]["until"]
    assert tag["earlier"][1]["since"] is None
    text = run("history", "team/app:v1").output
    assert [line.split()[1] for line in text.splitlines()] == ["digest", third, second, first]
    done = json.loads(run("rollback", "team/app:v1", first[:20], "--json").output)
    assert (done["from"], done["to"]) == (third, first)
    assert "already" in run("rollback", "team/app:v1", first).output
    (tag,) = json.loads(run("history", "team/app:v1", "--json").output)["tags"]
    assert tag["now"]["digest"] == first
    assert tag["now"]["who"].startswith("operator ")


def test_a_damaged_record_is_told_and_can_be_said_anew(tmp_path: Path, images: list[str], run: Run) -> None:
    first, _, third = images
    path = tmp_path / "store/repositories/team/app/_tags/v1"
    path.write_bytes(b"")
    assert "v1 is damaged" in run("history", "team/app:v1", code=1).output
    told = json.loads(run("history", "team/app", "--json", code=1).output)
    assert (told["tags"], [one["code"] for one in told["problems"]]) == ([], ["record_damaged"])
    assert "rollback" in told["problems"][0]["remedy"]
    assert "v1 is damaged" in run("rollback", "team/app:v1", first[:20], code=1).output, "a beginning says too little"
    done = json.loads(run("rollback", "team/app:v1", third, "--json").output)
    assert (done["from"], done["to"]) == (None, third)
    (tag,) = json.loads(run("history", "team/app", "--json").output)["tags"]
    assert tag["now"]["digest"] == third


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("history", "team/none"), 1, "has no tags"),
        (("history", "team/app:v2"), 1, "no tag team/app:v2"),
        (("history", "Team/app"), 2, "not a repository name"),
        (("history", "team/app:-"), 2, "not a tag"),
        (("rollback", "team/app", "sha256:"), 2, "NAME:TAG"),
        (("rollback", "team/app:v1", str(NOWHERE)), 1, "never meant"),
        (("rollback", "team/app:v1", "sha25"), 1, "too short"),
        (("rollback", "team/app:v1", "sha256:"), 1, "too short"),
        (("rollback", "lab/app:v1", str(NOWHERE)), 1, "not hosted"),
        (("rollback", "quay.io/app:v1", str(NOWHERE)), 1, "no upstream"),
    ],
)
def test_what_cannot_be_done(images: list[str], run: Run, words: tuple[str, ...], code: int, says: str) -> None:
    assert says in run(*words, code=code).output


def test_history_of_a_proxied_tag(tmp_path: Path, images: list[str], run: Run) -> None:
    async def seen(shelf: Shelf) -> None:
        record = TagRecord(NOWHERE, OCI_MANIFEST, 5.0, "lab").moved_to(Digest.parse(images[0]), "", 9.0, "lab", 3)
        Tags(shelf.layout).write("lab/team/app", "v1", record, durable=False)
        Tags(shelf.layout).write("lab/team/app", "v2", TagRecord(NOWHERE, "", 5.0, "lab"), durable=False)

    pushed(tmp_path, seen)
    first, second = json.loads(run("history", "lab/team/app", "--json").output)["tags"]
    assert (first["now"]["since"], first["now"]["here"]) == ("1970-01-01T00:00:09Z", True)
    assert (first["earlier"][0]["who"], first["earlier"][0]["here"]) == ("lab", False)
    assert second["now"]["since"] is None, "it was checked then, and may have meant this before"
