# ruff: noqa: PTH112, PTH113, PTH118
# Text and os, not Path: this runs for every task.
"""Where a program is, as a shell would look for it."""

import os


def find(name: str, path: str, folder: str) -> tuple[bytes | None, bool]:
    """The program `name` as a shell in `folder` finds it in `path`, for the user of this process.

    None if there is none; then also whether there is a file of that name that may not be run.
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
