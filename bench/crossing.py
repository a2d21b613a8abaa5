"""How fast a set crosses the gap on one disk: saved, loaded and verified, beside copying and hashing its bytes."""

from __future__ import annotations

import json
from pathlib import Path

from bench.copiers import Ours, Taken, take
from bench.peers import find, mirror_command
from bench.report import Row, Sample, Verdict

MB = 1e6
_SET = "release"


def crossing(ours: Ours, folder: Path, size: int, memory_limit: float) -> Row:
    """Save the set of `size` bytes that `ours` has, load it into an empty store, and hash that.

    `memory_limit` is in MB.
    """
    folder.mkdir()
    log, parts, inside = folder / "output.log", folder / "parts", folder / "inside"
    inside.mkdir()
    (inside / "mirror.yaml").write_text(
        json.dumps({"storage": {"path": str(inside / "store")}, "releases": {"keyring": str(ours.afar.keyring)}})
    )

    def behind(*words: str) -> Taken:
        command = [*mirror_command(), *words, "--config", str(inside / "mirror.yaml")]
        return take(command, log, ours.environment)

    parts.mkdir()
    row = Row(f"a set of {size / MB:.0f} MB on one disk")
    steps = {
        "mirror save": ours.run("save", _SET, "--to", str(parts)),
        "mirror load": behind("load", str(parts)),
        "mirror verify": behind("verify"),
        "mirror verify --deep": behind("verify", "--deep"),
        "cp, sync": take(["sh", "-c", 'cp -r "$1" "$2" && sync -f "$2"', "sh", str(parts), str(folder / "copy")], log),
        "sha256sum": take(["sh", "-c", f'{find("sha256sum")} "$1"/*', "sh", str(parts)], log),
    }
    row.samples = {name: [_sample(taken, size)] for name, taken in steps.items()}
    peak = max(taken.memory for name, taken in steps.items() if name.startswith("mirror")) / MB
    row.verdicts = [Verdict("peak memory", peak, memory_limit, " MB")]
    return row


def _sample(taken: Taken, size: int) -> Sample:
    return {
        "s": taken.seconds,
        "MB/s": size / MB / taken.seconds,
        "CPU s": taken.cpu,
        "peak MB": taken.memory / MB,
    }
