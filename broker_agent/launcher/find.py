# ruff: noqa: PTH112, PTH113, PTH118
# Text and os, not Path: this runs for every task.
"""Lookup of a program as a shell does it."""

import os


def find(name: str, path: str, folder: str) -> tuple[bytes | None, bool]:
    """Find the program `name` as a shell in `folder` does in `path`, for the user of this process.

    Returns its path, or None and whether a file of that name exists but may not be run.
    """
    if "/" in name:
        return os.fsencode(name), False
    is_denied = False
    for part in path.split(":"):
        candidate = os.fsencode(os.path.join(folder, part, name))
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
            return candidate, False
        is_denied = is_denied or os.path.isfile(candidate)
    return None, is_denied
