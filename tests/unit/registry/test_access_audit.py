"""What the audit log says of pushes and deletions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.registry.test_face_hosted import APP, DIGEST, LAYER, put, serving


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    """Return the fields of the audit lines so far."""
    found = [line for line in capsys.readouterr().out.splitlines() if "] audit " in line]
    return [
        {key: value.strip("'") for key, value in (field.split("=", 1) for field in line.split() if "=" in field)}
        for line in found
    ]


async def test_each_push_and_deletion_has_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(tmp_path) as (face, shelf):
        await shelf.blob(LAYER)
        await shelf.blob(b"{}")
        assert (await put(face, f"{APP}/manifests/v1")).status == 201
        assert (await put(face, f"{APP}/manifests/{DIGEST}?tag=v2&tag=v3")).status == 201
        assert (await put(face, f"{APP}/manifests/v4", b"no manifest")).status == 400
        assert (await face.ask(f"{APP}/manifests/v1", "DELETE")).status == 202
        assert (await face.ask(f"{APP}/manifests/{DIGEST}", "DELETE")).status == 202
    said = lines(capsys)
    common = {"who": "anonymous", "client": "127.0.0.1", "name": "team/app", "result": "done"}
    assert all(one.items() >= common.items() for one in said)
    assert [(one["verb"], one["digest"], one["tag"], one.get("tags")) for one in said] == [
        ("push", str(DIGEST), "v1", None),
        ("push", str(DIGEST), "v2,v3", None),
        ("delete", "", "v1", None),
        ("delete", str(DIGEST), "", "2"),
    ]
