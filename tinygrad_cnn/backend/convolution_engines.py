"""The ways in which a GPU computes convolutions, and which shape takes which.

- `direct`: a kernel of ours, one thread per output, which reads the few products it needs from the cache;
- `cudnn`: NVIDIA's library, by the package nvidia-cudnn-frontend, which takes plain device pointers;
- `gemm`: columns and a matrix product of cuBLAS, in batches of bounded memory. It is always there.

`ENGINES` is the table. What cannot be had falls back to the next name in its row, and `Cudnn.reason` says why. float32
is exact in all of them: products in TF32, of 10 bits, are taken only where CuPy's own variable CUPY_TF32=1 allows them.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from .geometry import Padding, Pair, positions

__all__ = ["ENGINES", "Cudnn", "Runtime", "engine_for", "load_cudnn", "tf32_allowed"]

# (largest c / groups · kh · kw for which the row holds, engines in order of preference)
ENGINES: tuple[tuple[float, tuple[str, ...]], ...] = ((160, ("direct", "gemm")), (math.inf, ("cudnn", "gemm")))

WORKSPACE = 512 << 20  # bytes that a plan of cuDNN may ask for


def engine_for(products: int, available: tuple[str, ...] = ("direct", "gemm")) -> str:
    """Return how a convolution with `products` multiplications per output is computed, of the engines available."""
    names = next(names for limit, names in ENGINES if products <= limit)
    return next(name for name in names if name in available or name == "gemm")


def tf32_allowed() -> bool:
    """Return whether products of float32 may be rounded to TF32: what CUPY_TF32 says, for CuPy and cuDNN alike."""
    try:
        return int(os.environ.get("CUPY_TF32", "0")) > 0
    except ValueError:
        return False


def load_cudnn() -> tuple[Any, str | None]:
    """Return (the module cudnn, None), or (None, the reason why it cannot be used)."""
    try:
        module = import_module("cudnn")
    except ImportError:
        return None, "nvidia-cudnn-frontend is not installed: pip install 'tinygrad-cnn[cudnn]'"
    except Exception as error:  # a broken library must not take the GPU away
        return None, f"nvidia-cudnn-frontend cannot be imported ({type(error).__name__}: {error})"
    missing = [
        name for name in ("pygraph", "create_handle", "set_stream", "backend_version") if not hasattr(module, name)
    ]
    if missing:
        return None, f"the module 'cudnn' at {getattr(module, '__file__', '?')} has no {missing[0]}"
    try:
        module.backend_version()
    except Exception as error:
        return None, f"libcudnn is not found ({error}): pip install nvidia-cudnn-cu13 (or -cu12)"
    return module, None


@dataclass(frozen=True)
class Runtime:
    """What is asked of the array library: the address of an array, the current stream's address, the current device."""

    pointer: Callable[[Any], int]
    stream: Callable[[], int]
    device: Callable[[], int]


@dataclass
class _Plan:
    graph: Any
    workspace: int


@dataclass
class _Local(threading.local):
    """cuDNN handles and plans belong to a thread and a device."""

    handles: dict[int, Any] = field(default_factory=dict)
    plans: dict[tuple[Any, ...], _Plan | None] = field(default_factory=dict)


_X, _W, _Y = 1, 2, 3  # the identities of image, filter and result in every graph


class Cudnn:
    """Convolution and both gradients by cuDNN, in float32 and in float16 that is summed in float32.

    A plan is made once per shape and kept. Engines that round their inputs, and such whose sums depend on the order in
    which threads finish, are left out, so that a run can be repeated to the last bit.

    Attributes:
        reason: why cuDNN is not used; None where it is.
        refused: why single shapes were not accepted, by shape.
    """

    types = ("float32", "float16")

    def __init__(
        self,
        xp: Any,
        runtime: Runtime,
        load: Callable[[], tuple[Any, str | None]] = load_cudnn,
        tf32: bool | None = None,
    ) -> None:
        self.xp, self.runtime = xp, runtime
        self.module, self.reason = load()
        self.tf32 = tf32_allowed() if tf32 is None else tf32
        self.refused: dict[str, str] = {}
        self._local = _Local()

    def conv2d(self, x: Any, weight: Any, *, stride: Pair, padding: Padding, dilation: Pair, groups: int) -> Any:
        """Return the correlation of x with weight, or None where cuDNN has no plan for it."""
        (n, _, h, w), (o, _, kh, kw) = x.shape, weight.shape
        output = tuple(
            positions(size, padding[a], k, stride[a], dilation[a]) for a, (size, k) in enumerate(((h, kh), (w, kw)))
        )
        return self._run("conv_fprop", x, weight, (n, o, *output), stride, padding, dilation)

    def conv2d_input_gradient(
        self, g: Any, weight: Any, *, size: Pair, stride: Pair, padding: Padding, dilation: Pair, groups: int
    ) -> Any:
        """Return the gradient of the input, or None where cuDNN has no plan for it."""
        shape = (g.shape[0], weight.shape[1] * groups, *size)
        return self._run("conv_dgrad", g, weight, shape, stride, padding, dilation)

    def conv2d_weight_gradient(
        self, x: Any, g: Any, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, groups: int
    ) -> Any:
        """Return the gradient of the weight, or None where cuDNN has no plan for it."""
        shape = (g.shape[1], x.shape[1] // groups, *kernel)
        return self._run("conv_wgrad", x, g, shape, stride, padding, dilation)

    def _run(
        self, kind: str, a: Any, b: Any, shape: tuple[int, ...], stride: Pair, padding: Padding, dilation: Pair
    ) -> Any:
        if self.module is None or a.dtype != b.dtype or a.dtype.name not in self.types or not all(shape):
            return None
        device = self.runtime.device()
        key = (device, kind, a.dtype.name, a.shape, b.shape, shape, stride, padding, dilation)
        plans = self._local.plans
        if key not in plans:
            try:
                plans[key] = self._made(device, kind, a, b, shape, stride, padding, dilation)
            except Exception as error:  # whatever the library says, there is another way
                plans[key] = None
                self.refused[f"{kind} {a.shape} {b.shape} {a.dtype.name}"] = f"{type(error).__name__}: {error}"
        plan = plans[key]
        if plan is None:
            return None
        xp, pointer = self.xp, self.runtime.pointer
        a, b = xp.ascontiguousarray(a), xp.ascontiguousarray(b)
        y = xp.empty(shape, dtype=a.dtype)
        workspace = xp.empty(max(1, plan.workspace), dtype=np.uint8)
        handle = self._handle(device)
        self.module.set_stream(handle=handle, stream=self.runtime.stream())
        plan.graph.execute({_X: pointer(a), _W: pointer(b), _Y: pointer(y)}, pointer(workspace), handle=handle)
        return y

    def _handle(self, device: int) -> Any:
        handles = self._local.handles
        if device not in handles:
            handles[device] = self.module.create_handle()
        return handles[device]

    def _made(
        self, device: int, kind: str, a: Any, b: Any, shape: tuple[int, ...], stride: Pair, padding: Padding,
        dilation: Pair,
    ) -> _Plan:  # fmt: skip
        """Build the graph of one convolution, and the plan that computes it."""
        cudnn = self.module
        types, notes = cudnn.data_type, cudnn.numerical_note
        real = types.HALF if a.dtype.itemsize == 2 else types.FLOAT
        graph = cudnn.pygraph(
            handle=self._handle(device),
            name=f"tinygrad_cnn_{kind}",
            io_data_type=real,
            intermediate_data_type=types.FLOAT,
            compute_data_type=types.FLOAT,
        )
        given = []
        for name, uid, array in (("a", _X, a), ("b", _W, b)):
            tensor = graph.tensor(name=name, dim=list(array.shape), stride=_strides(array.shape), data_type=real)
            given.append(tensor.set_uid(uid))
        names = {"conv_fprop": ("image", "weight"), "conv_dgrad": ("loss", "filter"), "conv_wgrad": ("image", "loss")}
        result = getattr(graph, kind)(
            **dict(zip(names[kind], given, strict=True)),
            pre_padding=[before for before, _ in padding],
            post_padding=[after for _, after in padding],
            stride=list(stride),
            dilation=list(dilation),
            compute_data_type=types.FLOAT,
            name=kind,
        )
        result.set_output(True).set_data_type(real).set_dim(list(shape)).set_stride(_strides(shape)).set_uid(_Y)
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        unwanted = [notes.NONDETERMINISTIC, notes.DOWN_CONVERT_INPUTS, notes.REDUCED_PRECISION_REDUCTION]
        if real is types.FLOAT and not self.tf32:
            unwanted.append(notes.TENSOR_CORE)  # float32 in tensor cores is TF32
        elif real is types.FLOAT:
            unwanted.remove(notes.DOWN_CONVERT_INPUTS)
        graph.deselect_numeric_notes(unwanted)
        graph.deselect_workspace_greater_than(WORKSPACE)
        graph.check_support()
        graph.build_plans()
        return _Plan(graph, int(graph.get_workspace_size()))


def _strides(shape: tuple[int, ...]) -> list[int]:
    """Return the strides, in elements, of a contiguous array."""
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]
