"""The CPU: NumPy."""

from contextlib import nullcontext
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from .device import Backend

__all__ = ["backend"]


@cache  # an import statement that finds its module loaded still costs as much as a small op
def _kernels() -> ModuleType:
    from . import numpy_kernels

    return numpy_kernels


def _asarray(values: Any, dtype: Any, index: int) -> Any:
    return np.asarray(values, dtype=dtype)


def backend() -> Backend:
    """Describe NumPy to the device layer."""
    return Backend(
        kind="cpu",
        array_type=np.ndarray,
        xp=np,
        kernels=_kernels,
        asarray=_asarray,
        to_host=np.asarray,
        make_generator=lambda seed, index: np.random.Generator(np.random.PCG64(seed)),
        count=lambda: 1,
        context=lambda index: nullcontext(),
        synchronize=lambda index: None,
        index_of=lambda array: 0,
    )
