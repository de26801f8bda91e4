"""The limit of open files of this process."""

import resource
from contextlib import suppress
from typing import Final

_WANTED: Final = 65_536


def allow_many_files() -> None:
    """Raise the soft limit (usually 1,024) to the hard limit, at most 65,536."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def file_limit() -> int:
    """Return the limit of open files."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
