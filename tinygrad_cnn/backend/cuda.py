"""NVIDIA GPUs: CuPy. Imported only when a device "cuda" is asked for."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import cupy
from cupyx.scipy.special import erf

from ..errors import DeviceError
from .cuda_kernels import CudaKernels
from .device import Backend

__all__ = ["backend"]


def _count() -> int:
    if not cupy.cuda.is_available():
        raise DeviceError(
            "device 'cuda': CuPy is installed, but finds no NVIDIA GPU or driver; "
            "use device 'cpu', or look at `nvidia-smi`"
        )
    return int(cupy.cuda.runtime.getDeviceCount())


def _asarray(values: Any, dtype: Any, index: int) -> Any:
    with cupy.cuda.Device(index):
        return cupy.asarray(values, dtype=dtype)


def _context(index: int) -> AbstractContextManager[Any]:
    device: AbstractContextManager[Any] = cupy.cuda.Device(index)
    return device


def _synchronize(index: int) -> None:
    cupy.cuda.Device(index).synchronize()


def _make_generator(seed: int, index: int) -> Any:
    with cupy.cuda.Device(index):
        return cupy.random.Generator(cupy.random.Philox4x3210(seed))


def _engine(index: int) -> Any:
    from .cuda_graph import Engine

    return Engine(index)


def backend() -> Backend:
    """Describe CuPy to the device layer."""
    table = CudaKernels(cupy, erf, cupy.RawModule, _engine)
    return Backend(
        kind="cuda",
        array_type=cupy.ndarray,
        xp=cupy,
        kernels=lambda: table,
        asarray=_asarray,
        to_host=cupy.asnumpy,
        make_generator=_make_generator,
        count=_count,
        context=_context,
        synchronize=_synchronize,
        index_of=lambda array: int(array.device.id),
    )
