"""Who runs a command, as far as that is known."""

from __future__ import annotations

import os


def operator() -> str:
    """Return what records call whoever runs this command."""
    user = os.environ.get("SUDO_USER") or os.environ.get("USER") or "root"
    return f"operator {user}"[:255]
