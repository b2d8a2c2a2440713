"""Small array functions that the array libraries lack or name differently."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .device import kernels

__all__ = ["erf", "scatter_add"]


def erf(xp: Any, x: Any) -> Any:
    """Return the error function of x, 2/√π ∫₀ˣ e^(-t²) dt.

    NumPy has none of its own; Python's, which is the C library's and exact to the last digit, is called per element.
    """
    if xp is not np:
        return kernels(x).erf(x)
    dtype = x.dtype if x.dtype.kind == "f" else np.dtype(float)
    return np.fromiter(map(math.erf, x.ravel().tolist()), dtype, count=x.size).reshape(x.shape)


def scatter_add(xp: Any, out: Any, index: Any, values: Any) -> None:
    """Add `values` to `out[index]`, counting an element as often as `index` names it."""
    xp.add.at(out, index, values)
