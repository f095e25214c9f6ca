"""Keeps freed memory in the process, so that it need not be mapped, and zeroed by the kernel, for every activation.

glibc gives each block above 128 kB to 32 MB back when it is freed, and the next step pays a page fault for every 4 kB
of its activations: 7 % of a ResNet-20 step at batch 64 (`benchmarks/hot_path.py`).
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""The options of mallopt(3), as in malloc.h."""


def keep_freed_memory() -> None:
    """Where the C library is not glibc, nothing happens. For processes of our own: it holds for all of their memory."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 << 20)
