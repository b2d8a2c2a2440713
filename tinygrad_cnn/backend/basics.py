"""Small array functions that the array libraries lack or name differently."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from .device import kernels
from .dtypes import widened

__all__ = ["erf", "product", "scatter_add"]


def erf(xp: Any, x: Any) -> Any:
    """Return the error function of x, 2/√π ∫₀ˣ e^(-t²) dt.

    NumPy has none of its own; Python's, which is the C library's and exact to the last digit, is called per element.
    """
    if xp is not np:
        return kernels(x).erf(x)
    dtype = x.dtype if x.dtype.kind == "f" else np.dtype(float)
    return np.fromiter(map(math.erf, x.ravel().tolist()), dtype, count=x.size).reshape(x.shape)


def product(xp: Any, a: Any, b: Any) -> Any:
    """Return the matrix product, whose sums are of float32 where the inputs have 16 bits.

    cuBLAS sees to that for two matrices, on tensor cores. Of a stack of matrices in float16 CuPy makes float32 itself,
    and for bfloat16 it has no product of stacks.
    """
    if a.ndim > 2 or b.ndim > 2:
        a, b = widened(a), widened(b)
    return _matmul()(a, b) if xp is np else xp.matmul(a, b)


@cache
def _matmul() -> Callable[[Any, Any], Any]:
    """Return the product on the host; its threads are imported when they are first needed."""
    from .blas import matmul

    return matmul


def scatter_add(xp: Any, out: Any, index: Any, values: Any) -> None:
    """Add `values` to `out[index]`, counting an element as often as `index` names it."""
    xp.add.at(out, index, values)
