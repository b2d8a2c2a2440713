"""Memory for kernels: arrays that start at a cache line, and a C library that keeps what was freed."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from functools import cache
from typing import Any

import numpy as np

__all__ = ["aligned", "keep_freed_memory", "release"]

_LINE = 64  # bytes; vector loads that straddle two cache lines take twice as long


def aligned(shape: tuple[int, ...] | int, dtype: Any) -> np.ndarray[Any, Any]:
    """Return an array of zeros that starts at a cache line."""
    shape = (shape,) if isinstance(shape, int) else shape
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    memory = np.zeros(size + _LINE, np.uint8)
    start = -memory.ctypes.data % _LINE
    array: np.ndarray[Any, Any] = memory[start : start + size].view(dtype).reshape(shape)
    return array


# Options of mallopt() in glibc's malloc.h, and what they are set to.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 256 << 20  # bytes of freed memory at the top of the heap that are not given back to the system
_FROM_HEAP = 32 << 20  # arrays up to this size come from the heap; glibc allows no more


@cache
def _libc() -> Any:
    """Return the C library if it is glibc, else None."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed arrays for the next ones, up to 256 MiB.

    As it comes, glibc returns large arrays to the system at once, and the next array of that size is zeroed again, page
    by page, by the kernel: a third of the time of a LeNet-5 step. Nothing is changed if the user has set glibc's own
    variables (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_, GLIBC_TUNABLES), or with another C library.
    """
    if any(name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")):
        return
    library = _libc()
    if library is not None:
        library.mallopt(_MMAP_THRESHOLD, _FROM_HEAP)
        library.mallopt(_TRIM_THRESHOLD, _KEPT)


def release() -> None:
    """Give freed memory that the C library keeps back to the system."""
    library = _libc()
    if library is not None:
        library.malloc_trim(0)
