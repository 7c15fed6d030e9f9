"""Keeps freed memory in the process, for commands that run tensors on the CPU.

glibc hands big tensors' memory back to the kernel after every operation, and the next one pays for its page faults
again: on small machines that made elementwise work several times slower. A library must not decide this for the
program that imports it; a command may.
"""

import ctypes
import sys

# From malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4


def keep_memory(top_pad_bytes: int = 256 * 2**20) -> bool:
    """Tell glibc to keep what it has; return whether it took it. Elsewhere than on Linux with glibc: nothing."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    largest = 2**31 - 1
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: largest, _M_TOP_PAD: top_pad_bytes}
    taken = [mallopt(option, value) == 1 for option, value in settings.items()]
    return all(taken)
