"""Archives of other tools, made by hand byte for byte, and a store to bring them into."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mirror.config import Amount, Storage
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec
from mirror.offline import foreign
from mirror.outside import Direct
from mirror.store import files
from mirror.store.index import Index
from mirror.store.intake import Intake
from mirror.store.layout import Layout
from mirror.store.probe import prepare
from mirror.store.quarantine import Quarantine
from mirror.store.space import Space
from tests.tools import images
from tests.tools.images import Content, Manifest

V2 = "docker/registry/v2"

BASE = images.layer(images.tree({"etc/os-release": b"ID=base\n" * 400}), docker=True)


def app(text: str = "app", *, architecture: str = "amd64", docker: bool = True) -> Manifest:
    """Return an image of a shared base and a layer of its own."""
    own = images.layer(images.tree({f"app/{text}": text.encode() * 100}), docker=docker)
    base = BASE if docker else images.layer(images.tree({"etc/os-release": b"ID=base\n" * 400}))
    return images.image([base, own], architecture=architecture, docker=docker)


def many(text: str = "app", *architectures: str, docker: bool = True) -> Manifest:
    """Return an index of one image for each architecture."""
    children = (app(f"{text} {one}", architecture=one, docker=docker) for one in architectures or ("amd64", "arm64"))
    return images.index(children, docker=docker)


def contents(*wanted: Manifest) -> dict[str, bytes]:
    """Return everything of some images by digest."""
    found: dict[str, bytes] = {}
    for one in wanted:
        found |= {manifest.digest: manifest.body for manifest in one.all_manifests()}
        found |= {digest: blob.body for digest, blob in one.all_blobs().items()}
    return found


def blob_path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def oci_layout(*listed: Manifest | tuple[Manifest, Mapping[str, str]], leave: Iterable[str] = ()) -> dict[str, bytes]:
    """Return the files of an OCI layout whose index.json lists images, with annotations; `leave` digests out."""
    entries = [one if isinstance(one, tuple) else (one, {}) for one in listed]
    index = {
        "schemaVersion": 2,
        "manifests": [one.descriptor(**({"annotations": notes} if notes else {})) for one, notes in entries],
    }
    blobs = contents(*(one for one, _ in entries))
    return {
        **{blob_path(digest): body for digest, body in blobs.items() if digest not in set(leave)},
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps(index).encode(),
    }


def storage(
    repositories: Mapping[str, Iterable[tuple[Manifest, str]]], leave: Iterable[str] = (), at: str = ""
) -> dict[str, bytes]:
    """Return the files of a registry's storage: repository -> (image, tag or nothing); `leave` blobs out."""
    found: dict[str, bytes] = {}
    for name, listed in repositories.items():
        folder = f"{at}{V2}/repositories/{name}"
        for one, tag in listed:
            for manifest in one.all_manifests():
                _, _, encoded = manifest.digest.partition(":")
                found[f"{folder}/_manifests/revisions/sha256/{encoded}/link"] = manifest.digest.encode()
            for digest in one.all_blobs():
                found[f"{folder}/_layers/sha256/{digest[7:]}/link"] = digest.encode()
            if tag:
                found[f"{folder}/_manifests/tags/{tag}/current/link"] = one.digest.encode()
                found[f"{folder}/_manifests/tags/{tag}/index/sha256/{one.digest[7:]}/link"] = one.digest.encode()
    everything = contents(*(one for listed in repositories.values() for one, _ in listed))
    for digest, body in everything.items():
        if digest not in set(leave):
            found[f"{at}{V2}/blobs/sha256/{digest[7:9]}/{digest[7:]}/data"] = body
    return found


def docker_archive(
    one: Manifest, layers: Iterable[bytes], repo_tags: Iterable[str] = (), links: Mapping[str, str] | None = None
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the files and links of what `docker save` wrote before it wrote layouts."""
    config = one.blobs[0].body
    names = [f"{hashlib.sha256(body).hexdigest()}/layer.tar" for body in layers]
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    entry = {"Config": name, "RepoTags": list(repo_tags), "Layers": names}
    found = {each: body for each, body in zip(names, layers, strict=True) if each not in (links or {})}
    return {**found, name: config, "manifest.json": json.dumps([entry]).encode()}, dict(links or {})


def lay(folder: Path, contents_: Mapping[str, bytes]) -> Path:
    """Write files into a folder."""
    for name, body in contents_.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return folder


def pack(path: Path, members: Mapping[str, bytes], links: Mapping[str, str] | None = None, **options: Any) -> Path:
    """Write files, in their order, and symbolic links into a tar archive."""
    options.setdefault(
        "format", tarfile.USTAR_FORMAT if not any(len(name) > 99 for name in members) else tarfile.PAX_FORMAT
    )
    with tarfile.open(path, "w", **options) as archive:
        for name, body in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return path


class Bench:
    """A store, and what is brought into it. Images keep their hosts' names: `quay.io/ns/app`."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        prepare(self.layout)
        self.index = Index(self.layout, Quarantine(self.layout))
        self.space = Space(self.layout, self.index, Storage(path=root, keep_free=Amount(bytes=0)))
        self.intake = Intake(self.layout, self.space, lambda _digest, _size: None)

    def close(self) -> None:
        self.index.close()

    def open(self, *paths: Path) -> foreign.Foreign:
        found = foreign.recognise(paths, Direct())
        assert found is not None
        return found

    def here(self, digest: Digest) -> bytes | None:
        return files.read_small(self.layout.blob(digest), 1 << 26)

    def survey(self, archive: foreign.Foreign, as_name: str = "", **options: Any) -> foreign.Survey:
        return foreign.survey(
            archive,
            as_name=Pullspec.parse(as_name) if as_name else None,
            name=lambda pullspec: pullspec.source,
            here=self.here,
            has=self.intake.has,
            **options,
        )

    def bring(self, *paths: Path, as_name: str = "", **options: Any) -> tuple[foreign.Survey, foreign.Brought]:
        """Look at what is at `paths` and bring it; what was brought must be there to the byte."""
        archive = self.open(*paths)
        try:
            found = self.survey(archive, as_name, **options)
            needed = found.needed(self.intake.has)
            brought = foreign.bring(found, self.intake)
            if not brought.damaged:
                assert brought.size == needed
                assert all(self.intake.has(digest, size) for digest, size in found.content.items())
                assert found.needed(self.intake.has) == 0
            return found, brought
        finally:
            archive.close()

    def holds(self, *wanted: Manifest | Content) -> bool:
        """Tell whether everything of some images is here, with these bytes."""
        everything: dict[str, bytes] = {}
        for one in wanted:
            everything |= contents(one) if isinstance(one, Manifest) else {one.digest: one.body}
        return all(self.here(Digest.parse(digest)) == body for digest, body in everything.items())
