"""Taking bytes out of the middle of a file: the offsets of all others stay as they are."""

import sys
from typing import Final

# Source: the kernel's falloc.h.
_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_BLOCK: Final = 4096


def punch(fd: int, start: int, end: int) -> bool:
    """Give the disk back what lies between; False where the file system cannot do that.

    Only whole blocks are given back, so a little of both sides may stay. `fd` must be open for
    writing. What was punched out reads as zeros.
    """
    start = -(-start // _BLOCK) * _BLOCK
    size = end // _BLOCK * _BLOCK - start
    if size <= 0:
        return True
    if sys.platform != "linux":
        return False
    # Loaded when it is needed first, which in most agents is never.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, start, size):
        if ctypes.get_errno() != 4:  # EINTR
            return False
    return True
