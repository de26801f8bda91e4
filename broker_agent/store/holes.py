"""Holes in files: frees the space of a span and keeps all other offsets."""

import sys
from typing import Final

# Source: the kernel's falloc.h.
_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_BLOCK: Final = 4096


def punch(fd: int, start: int, end: int) -> bool:
    """Free the disk space from `start` to before `end`; False if the file system cannot.

    Only whole blocks are freed, so a little on both sides may stay. `fd` must be open for writing.
    The span reads as zeros.
    """
    start = -(-start // _BLOCK) * _BLOCK
    size = end // _BLOCK * _BLOCK - start
    if size <= 0:
        return True
    if sys.platform != "linux":
        return False
    # Imported on demand: most agents never use it.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, start, size):
        if ctypes.get_errno() != 4:  # EINTR
            return False
    return True
