"""Where Python loads modules from, kept within reach when a process becomes another user.

A program that root installed for itself (/root is closed to others) goes on to load modules when they are needed first,
and by then the process may not walk there any more. A folder that was opened before can still be walked from.
"""

from __future__ import annotations

import os
import sys

import click


class Library:
    """The folders of `sys.path`, opened while that is allowed."""

    def __init__(self) -> None:
        self._folders: dict[str, int] = {}
        for path in sys.path:
            if path and path not in self._folders and os.path.isdir(path):
                self._folders[path] = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def follow(self) -> None:
        """Lead imports to the opened folders, where their paths are closed to us now; for the process's whole life.

        Raises PermissionError where that does not help.
        """
        led: dict[str, str] = {}
        for path, fd in self._folders.items():
            if os.access(path, os.R_OK | os.X_OK, effective_ids=True):
                os.close(fd)
            else:
                led[path] = f"/proc/self/fd/{fd}"
        if led:
            sys.path[:] = [led.get(path, path) for path in sys.path]
            sys.path_importer_cache.clear()
            _lead_modules(led)
        require_readable()


def require_readable() -> None:
    """Raise PermissionError where this process may not read this program, its packages or its Python."""
    for path in (__file__, click.__file__, os.__file__):
        if not os.access(path, os.R_OK):
            raise PermissionError(f"it may not read {path}")


def _lead_modules(led: dict[str, str]) -> None:
    """Tell packages that are loaded already where their modules and data files are found."""
    for module in list(sys.modules.values()):
        folders = getattr(module, "__path__", None)
        if isinstance(folders, list):
            folders[:] = [_led(folder, led) for folder in folders]
        loader = getattr(module, "__loader__", None)
        for one, name in ((module, "__file__"), (loader, "path")):
            value = getattr(one, name, None)
            if isinstance(value, str):
                setattr(one, name, _led(value, led))


def _led(path: str, led: dict[str, str]) -> str:
    """Return `path` by way of the opened folder that it is in, if there is one."""
    for folder in sorted(led, key=len, reverse=True):
        if path == folder or path.startswith(f"{folder}/"):
            return led[folder] + path.removeprefix(folder)
    return path
