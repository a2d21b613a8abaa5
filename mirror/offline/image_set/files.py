"""Which of the kinds of file that say what to mirror this one is, and what it says."""

from __future__ import annotations

import re
from pathlib import Path

from mirror.config.document import Document, decode
from mirror.config.document import read as read_yaml
from mirror.errors import ConfigurationError, Problem
from mirror.offline.image_set.configuration import read_configuration
from mirror.offline.image_set.lines import read_lines
from mirror.offline.image_set.model import ImageSet
from mirror.offline.image_set.problems import refusal

_LARGEST = 4 * 2**20
# An image with its name and tag is five; what these take stays well below the 200 MB of a command.
_MOST_VALUES = 200_000
# A key with its colon, which no pullspec looks like: after a tag's colon there is no space.
_YAML = re.compile(r"""[{\[%]|---|(?:-\s+)?["']?[A-Za-z0-9_.-]{1,100}["']?\s*:(?:\s|$)""")


def read(path: Path, raw: bytes | None = None) -> ImageSet:
    """Return what the image set file at `path` asks for; `raw` is its content where somebody else opened it.

    It is an ImageSetConfiguration, a list of pullspecs or a mapping file; which one is told from the content. Raise
    ConfigurationError with every problem found, each with `file:line`. Blocks, for seconds if the file is large.
    """
    content = _read(path) if raw is None else raw
    if len(content) > _LARGEST:
        problem = Problem("too_large", f"is larger than {_LARGEST >> 20} MiB", str(path), "split it into several files")
        raise ConfigurationError([problem])
    text = decode(content, path)
    if _is_yaml(text):
        document = read_yaml(path, content, most=_MOST_VALUES)
        image_set = read_configuration(document)
    else:
        document = Document(path)
        image_set = read_lines(text, document)
    if document.problems:
        raise refusal(document)
    return image_set


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST + 1)
    except FileNotFoundError:
        problem = Problem("unreadable", "there is no such file", str(path), "give the path of an image set")
    except IsADirectoryError:
        problem = Problem("unreadable", "is a folder", str(path), "give the path of an image set")
    except OSError as error:
        problem = Problem("unreadable", f"cannot be read: {error.strerror}", str(path), "let this user read it")
    raise ConfigurationError([problem])


def _is_yaml(text: str) -> bool:
    return any(_YAML.match(line.strip()) for line in text.split("\n"))
