"""NVIDIA GPUs: CuPy. Imported only when a device "cuda" is asked for."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import cupy
import numpy as np
from cupyx.scipy.special import erf

from ..errors import DeviceError
from .convolution_engines import Cudnn, Runtime
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
        if isinstance(values, cupy.ndarray) and values.device.id != index:
            values = values.copy()  # onto the current device; `asarray` would leave it where it is
        return cupy.asarray(values, dtype=dtype)


def _context(index: int) -> AbstractContextManager[Any]:
    device: AbstractContextManager[Any] = cupy.cuda.Device(index)
    return device


def _synchronize(index: int) -> None:
    cupy.cuda.Device(index).synchronize()


# Numbers drawn side by side. CuPy's own choice depends on the card; this one gives the same numbers on every card, and
# a state of 64 bytes each that is small enough to be saved.
_STREAMS = 1 << 16


def _make_generator(seed: int, index: int) -> Any:
    with cupy.cuda.Device(index):
        return cupy.random.Generator(cupy.random.Philox4x3210(seed, size=_STREAMS))


def _generator_state(generator: Any) -> dict[str, Any]:
    # `state` of CuPy's bit generators is a method that gives an address; the memory itself has no public name.
    return {"kind": "Philox4x3210", "memory": cupy.asnumpy(generator.bit_generator._state)}


def _set_generator_state(generator: Any, state: dict[str, Any]) -> None:
    memory = generator.bit_generator._state
    given = np.asarray(state.get("memory"))
    if state.get("kind") != "Philox4x3210" or given.shape != memory.shape or given.dtype != memory.dtype:
        raise DeviceError("the state of the GPU's random generator was saved by another version of CuPy")
    memory.set(given)


def _engine(index: int) -> Any:
    from .cuda_graph import Engine

    return Engine(index)


def backend() -> Backend:
    """Describe CuPy to the device layer."""
    runtime = Runtime(
        pointer=lambda array: int(array.data.ptr),
        stream=lambda: int(cupy.cuda.get_current_stream().ptr),
        device=cupy.cuda.get_device_id,
    )
    table = CudaKernels(cupy, erf, cupy.RawModule, _engine, lambda: Cudnn(cupy, runtime))
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
        generator_state=_generator_state,
        set_generator_state=_set_generator_state,
    )
