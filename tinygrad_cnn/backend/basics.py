"""Small array functions that the array libraries lack or name differently."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["erf", "scatter_add"]


def erf(xp: Any, x: Any) -> Any:
    """Return the error function of x.

    erf(x) = 2/sqrt(pi) exp(-x²) Σ 2^n x^(2n+1) / (2n+1)!!, a series of terms with one sign, so nothing cancels
    (Abramowitz & Stegun, Handbook of Mathematical Functions, 7.1.6). NumPy has no erf of its own.
    """
    if xp is not np:
        from cupyx.scipy.special import erf as device_erf

        return device_erf(x)
    dtype = x.dtype if x.dtype.kind == "f" else np.dtype(float)
    work = np.clip(x.astype(np.float64, copy=False), -6.0, 6.0)  # erf(6) is 1 - 2e-17
    square = work * work
    term = work.copy()
    total = work.copy()
    largest = float(np.nanmax(square, initial=0.0))
    for n in range(1, 8 + int(4 * largest)):
        term *= square
        term *= 2.0 / (2 * n + 1)
        total += term
    return (total * np.exp(-square) * (2.0 / math.sqrt(math.pi))).astype(dtype)


def scatter_add(xp: Any, out: Any, index: Any, values: Any) -> None:
    """Add `values` to `out[index]`, counting an element as often as `index` names it."""
    if xp is np:
        np.add.at(out, index, values)
        return
    add_at = getattr(xp.add, "at", None)
    if add_at is None:
        from cupyx import scatter_add as device_scatter_add

        device_scatter_add(out, index, values)
        return
    add_at(out, index, values)
