"""The store's update graphs, `graph/<architecture>-<channel>.json`: what complete generations say together."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from mirror import logs
from mirror.oci.reference import check_tag
from mirror.offline.graph import GraphInvalid, read, union
from mirror.offline.plan import GraphExcerpt
from mirror.store import files
from mirror.store.layout import Layout

_SUFFIX = ".json"
_READ_LIMIT = 64 * 1024 * 1024

_log = logs.get("offline.graph_files")


def write_graphs(layout: Layout, excerpts: Iterable[GraphExcerpt]) -> None:
    """Make the files say what these excerpts say, durably; those of other channels are removed. For threads only.

    `excerpts` are those of all complete generations in the order of completion: the newer ones decide. One that is no
    graph is logged and left out. Two calls at once are for the caller to prevent. Raises OSError.
    """
    folder = layout.root / "graph"
    said: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in excerpts:
        name = f"{check_tag(one.architecture)}-{check_tag(one.channel)}{_SUFFIX}"
        try:
            read(dict(one.graph))
        except GraphInvalid as error:
            _log.warning("graph_excerpt_invalid", channel=one.channel, architecture=one.architecture, why=error.what)
            continue
        said[name].append(one.graph)
    for name, graphs in said.items():
        path = str(folder / name)
        content = (json.dumps(union(graphs), separators=(",", ":")) + "\n").encode()
        if files.read_small(path, _READ_LIMIT) != content:
            files.write_atomically(path, content, durable=True)
    try:
        present = os.listdir(folder)
    except FileNotFoundError:
        return
    unwanted = [name for name in present if name.endswith(_SUFFIX) and name not in said]
    for name in unwanted:
        files.remove(str(folder / name))
    if unwanted:
        files.sync_folder(str(folder))
