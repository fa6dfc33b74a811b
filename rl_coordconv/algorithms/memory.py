"""Keep the C allocator from handing memory back to the system between two updates."""

from __future__ import annotations

import ctypes
import functools
import sys

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


@functools.cache
def keep_freed_memory() -> None:
    """
    Let glibc reuse large blocks, for the whole process; elsewhere do nothing.

    An update on the CPU allocates and frees tensors of some 30 MB at a time. glibc maps these anew each time,
    and the kernel zeroes every page again: a sixth of an update of the Nature network.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
