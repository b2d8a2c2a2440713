"""Memory for kernels: arrays that start at a cache line."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["aligned"]

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
