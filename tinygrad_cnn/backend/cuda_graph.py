"""What a `DeviceProgram` needs of CUDA: its own stream, memory, matrix products, and graphs. Imported with CuPy only.

CuPy's own matrix products refuse to be captured, so cuBLAS is called directly, with a handle and a workspace of its
own: what a graph has captured must neither move nor be shared with anybody.
"""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import cupy

from ..errors import DeviceError

__all__ = ["Engine"]

_WORKSPACE = 32 << 20  # bytes; what NVIDIA recommends for Hopper and later
# cudaDataType_t, cublasComputeType_t and cublasGemmAlgo_t of library_types.h and cublas_api.h.
_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
_COMPUTE_32F, _COMPUTE_64F, _GEMM_DEFAULT = 68, 70, -1
_KEEP, _TURN = 0, 1


class Engine:
    """A stream, a pool of memory and a cuBLAS handle that belong to one recorded step alone; see `device_program`."""

    def __init__(self, index: int = 0) -> None:
        self.index = index
        with cupy.cuda.Device(index):
            # Blocking streams would wait for the default stream at every launch, and cannot be captured beside it.
            self.stream = cupy.cuda.Stream(non_blocking=True)
            self.pool = cupy.cuda.MemoryPool()
            self._before = cupy.cuda.Event(disable_timing=True)
            self._after = cupy.cuda.Event(disable_timing=True)
        self._products: _Products | None = None

    @contextmanager
    def working(self) -> Iterator[None]:
        """Queue kernels behind what the caller queued, and what the caller queues next behind them."""
        with cupy.cuda.Device(self.index):
            outer = cupy.cuda.get_current_stream()
            outer.record(self._before)
            self.stream.wait_event(self._before)
            try:
                with cupy.cuda.using_allocator(self.pool.malloc), self.stream:
                    yield
            finally:
                self.stream.record(self._after)
                outer.wait_event(self._after)

    def record(self, calls: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
        """Return a function that launches as one graph what these calls launch; inside `working()`.

        Every call must have run before: then its kernel is loaded, and nothing is allocated while it is captured.
        """
        collecting = gc.isenabled()
        gc.disable()  # what it finds may be another engine, and giving back its handle would wait for the device
        self.stream.begin_capture()
        try:
            for call in calls:
                call()
        except BaseException:
            with suppress(Exception):  # it has become invalid by the error; ended it must be, or the stream stays lost
                self.stream.end_capture()
            raise
        else:
            graph = self.stream.end_capture()
        finally:
            if collecting:
                gc.enable()
        return partial(graph.launch, self.stream)

    def product(
        self, a: Any, b: Any, out: Any, *, kind: str, result: str, turn_a: bool = False, turn_b: bool = False
    ) -> None:
        """Compute out = a b, with a or b transposed, for contiguous matrices.

        Args:
            kind, result: the element types of a and b and of out; float16 and bfloat16 are given as bits.
        """
        if self._products is None:
            self._products = _Products(self.stream.ptr, self.pool)
        self._products(a, b, out, _TYPES[kind], _TYPES[result], turn_a, turn_b)


class _Products:
    """Matrix products by cuBLAS on one stream. All sums are in the type of the result's scalars, without TF32."""

    def __init__(self, stream: int, pool: Any) -> None:
        library = _cublas()
        self._gemm = library.cublasGemmEx
        pointer, number = ctypes.c_void_p, ctypes.c_int
        self._gemm.argtypes = [
            pointer, number, number, number, number, number, pointer, pointer, number, number, pointer, number, number,
            pointer, pointer, number, number, number, number,
        ]  # fmt: skip
        handle = ctypes.c_void_p()
        _checked("cublasCreate_v2", library.cublasCreate_v2(ctypes.byref(handle)))
        self._handle = handle.value
        weakref.finalize(self, library.cublasDestroy_v2, pointer(self._handle)).atexit = False
        # In this order: setting the stream takes the workspace away.
        _checked("cublasSetStream_v2", library.cublasSetStream_v2(pointer(self._handle), pointer(stream)))
        self._workspace = pool.malloc(_WORKSPACE)
        _checked(
            "cublasSetWorkspace_v2",
            library.cublasSetWorkspace_v2(
                pointer(self._handle), pointer(self._workspace.ptr), ctypes.c_size_t(_WORKSPACE)
            ),
        )

    def __call__(self, a: Any, b: Any, out: Any, kind: int, result: int, turn_a: bool, turn_b: bool) -> None:
        # cuBLAS counts down columns, so it sees our matrices transposed: outᵀ = bᵀ aᵀ.
        rows, columns = out.shape
        depth = a.shape[0] if turn_a else a.shape[1]
        double = kind == _TYPES["float64"]
        scalar = ctypes.c_double if double else ctypes.c_float
        one, zero = scalar(1), scalar(0)
        status = self._gemm(
            self._handle,
            _TURN if turn_b else _KEEP,
            _TURN if turn_a else _KEEP,
            columns,
            rows,
            depth,
            ctypes.addressof(one),
            b.data.ptr,
            kind,
            b.shape[1],
            a.data.ptr,
            kind,
            a.shape[1],
            ctypes.addressof(zero),
            out.data.ptr,
            result,
            columns,
            _COMPUTE_64F if double else _COMPUTE_32F,
            _GEMM_DEFAULT,
        )
        _checked("cublasGemmEx", status)


def _cublas() -> Any:
    """Return cuBLAS by ctypes: the very library that CuPy uses."""
    with suppress(Exception):
        from cuda import pathfinder  # type: ignore[import-not-found,unused-ignore]

        path = pathfinder.load_nvidia_dynamic_lib("cublas").abs_path
        if path:
            return ctypes.CDLL(path)
    version = cupy.cuda.runtime.runtimeGetVersion() // 1000
    try:
        return ctypes.CDLL(f"libcublas.so.{version}")
    except OSError as error:
        raise DeviceError(
            f"a recorded step on a GPU needs cuBLAS {version}, which CuPy finds but this does not ({error}); "
            "put its folder into LD_LIBRARY_PATH, or pip install nvidia-cublas"
        ) from error


def _checked(name: str, status: int) -> None:
    if status:
        raise DeviceError(f"{name} failed with status {status}; see cublasStatus_t in NVIDIA's documentation")
