"""`python -m mirror` is the `mirror` command."""

from __future__ import annotations

import os
import sys

from mirror.cli import main


def run() -> None:
    """Run the command and end the process without taking it apart: that takes longer than many a command.

    `serve` ends as processes do, because workers have more to close than files.
    """
    try:
        main()
    except SystemExit as leaving:
        if "serve" in sys.argv[1:2] or not isinstance(leaving.code, int):
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(leaving.code)


if __name__ == "__main__":
    run()
