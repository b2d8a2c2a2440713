"""The CPU: NumPy."""

from __future__ import annotations

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


def _generator_state(generator: np.random.Generator) -> dict[str, Any]:
    return dict(generator.bit_generator.state)


def _set_generator_state(generator: np.random.Generator, state: dict[str, Any]) -> None:
    generator.bit_generator.state = state


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
        generator_state=_generator_state,
        set_generator_state=_set_generator_state,
    )
