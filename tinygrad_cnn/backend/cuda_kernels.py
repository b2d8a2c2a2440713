"""The table of kernels with our own CUDA C where that pays, and `DeviceKernels` for the rest.

The text of the kernels is `kernels.cu`. It is compiled when first used, once per float type, by `raw_module`: CuPy's
`RawModule` on a GPU, or whatever else can compile and launch it with the same calls. Which convolutions take which way
is a table in `convolution_engines`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np

from .convolution_engines import ENGINES, Cudnn, engine_for
from .device import counter_key
from .device_kernels import DeviceKernels
from .geometry import Padding, Pair, positions

__all__ = ["ENGINES", "CudaKernels", "engine_for"]

_REAL = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
_THREADS = 256
_MOST_BLOCKS = 4096


class CudaKernels(DeviceKernels):
    """Kernels in CUDA C for float32 and float64; other types take the way of `DeviceKernels`.


    Args:
        engine: makes what records and replays launches on a device, by its number; see `device_program`.
        make_cudnn: makes the access to cuDNN; called when that is first asked for.
    """

    def __init__(
        self,
        xp: Any,
        erf: Callable[[Any], Any],
        raw_module: Callable[..., Any],
        engine: Callable[[int], Any] | None = None,
        make_cudnn: Callable[[], Cudnn] | None = None,
    ) -> None:
        super().__init__(xp, erf)
        self.raw_module = raw_module
        self.engine = engine
        self._modules: dict[tuple[tuple[str, ...], tuple[str, ...]], Any] = {}
        self._functions: dict[tuple[str, Any], Any] = {}
        self._make_cudnn = make_cudnn
        self._cudnn: Cudnn | None = None

    @property
    def cudnn(self) -> Cudnn | None:
        """cuDNN, looked for when it is first asked for; None where none was offered."""
        if self._cudnn is None and self._make_cudnn is not None:
            self._cudnn = self._make_cudnn()
        return self._cudnn

    def _convolution_engine(self, products: int, *arrays: Any) -> str:
        """Return the engine for a convolution of these arrays: "direct" and "cudnn" only if they take them."""
        found = engine_for(products, ("direct", "cudnn", "gemm"))
        if found == "direct" and not self._ready(*arrays):
            return "gemm"
        if found == "cudnn" and (self.cudnn is None or self.cudnn.reason is not None):
            return "gemm"
        return found

    def module(self, names: tuple[str, ...], options: tuple[str, ...]) -> Any:
        """Return the texts of these files, one after the other, compiled with these options; once."""
        key = names, options
        module = self._modules.get(key)
        if module is None:
            folder = files(__package__)
            text = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)
            module = self._modules[key] = self.raw_module(code=text, options=options)
        return module

    def _launch(self, name: str, dtype: Any, blocks: int, *arguments: Any, threads: int = _THREADS) -> None:
        key = name, dtype
        function = self._functions.get(key)
        if function is None:
            module = self.module(("philox.cu", "kernels.cu"), (f"-DREAL={_REAL[np.dtype(dtype)]}",))
            function = self._functions[key] = module.get_function(name)
        sized = tuple(np.int32(a) if isinstance(a, int) else a for a in arguments)
        function((max(1, min(blocks, _MOST_BLOCKS)),), (threads,), sized)

    def _ready(self, *arrays: Any) -> bool:
        """Return whether the arrays share a float type that is compiled for, and none is empty."""
        kinds = {a.dtype for a in arrays}
        return len(kinds) == 1 and kinds.pop() in _REAL and all(a.size for a in arrays)

    def conv2d(
        self, x: Any, weight: Any, bias: Any = None, *, stride: Pair, padding: Padding, dilation: Pair, groups: int
    ) -> Any:
        """Return the correlation of x with weight, plus bias."""
        given = (x, weight) if bias is None else (x, weight, bias)
        options: Any = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        engine = self._convolution_engine(math.prod(weight.shape[1:]), *given)
        if engine == "cudnn" and self.cudnn is not None:
            y = self.cudnn.conv2d(x, weight, **options)
            if y is not None:
                return y if bias is None else self.xp.add(y, bias.reshape(1, -1, 1, 1), out=y)
        if engine != "direct":
            return super().conv2d(x, weight, bias, **options)
        contiguous = self.xp.ascontiguousarray
        (n, c, h, w), (o, _, kh, kw) = x.shape, weight.shape
        oh = positions(h, padding[0], kh, stride[0], dilation[0])
        ow = positions(w, padding[1], kw, stride[1], dilation[1])
        y = self.xp.empty((n, o, oh, ow), dtype=x.dtype)
        geometry = (n, c, h, w, o, kh, kw, oh, ow, *stride, padding[0][0], padding[1][0], *dilation, groups)
        self._launch(
            "conv2d",
            x.dtype,
            -(-y.size // _THREADS),
            contiguous(x),
            contiguous(weight),
            contiguous(weight if bias is None else bias),
            y,
            int(bias is not None),
            *geometry,
        )
        return y

    def conv2d_input_gradient(
        self, g: Any, weight: Any, *, size: Pair, stride: Pair, padding: Padding, dilation: Pair, groups: int
    ) -> Any:
        """Return the gradient of the input: every g times the kernel, added to its patch."""
        (n, o, oh, ow), (_, cg, kh, kw), (h, w) = g.shape, weight.shape, size
        given: Any = {"size": size, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        engine = self._convolution_engine(cg * kh * kw, g, weight)
        if engine == "cudnn" and self.cudnn is not None:
            gx = self.cudnn.conv2d_input_gradient(g, weight, **given)
            if gx is not None:
                return gx
        if engine != "direct":
            return super().conv2d_input_gradient(g, weight, **given)
        c = cg * groups
        gx = self.xp.empty((n, c, h, w), dtype=g.dtype)
        geometry = (n, c, h, w, o, kh, kw, oh, ow, *stride, padding[0][0], padding[1][0], *dilation, groups)
        contiguous = self.xp.ascontiguousarray
        self._launch(
            "conv2d_input_gradient",
            g.dtype,
            -(-gx.size // _THREADS),
            contiguous(g),
            contiguous(weight),
            gx,
            *geometry,
        )
        return gx

    def conv2d_weight_gradient(
        self, x: Any, g: Any, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, groups: int
    ) -> Any:
        """Return the gradient of the weight: every patch times the g computed from it, summed."""
        (n, c, h, w), (_, o, oh, ow), (kh, kw) = x.shape, g.shape, kernel
        given: Any = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        engine = self._convolution_engine(c // groups * kh * kw, x, g)
        if engine == "cudnn" and self.cudnn is not None:
            gw = self.cudnn.conv2d_weight_gradient(x, g, **given)
            if gw is not None:
                return gw
        if engine != "direct":
            return super().conv2d_weight_gradient(x, g, **given)
        gw = self.xp.empty((o, c // groups, kh, kw), dtype=x.dtype)
        geometry = (n, c, h, w, o, kh, kw, oh, ow, *stride, padding[0][0], padding[1][0], *dilation, groups)
        contiguous = self.xp.ascontiguousarray
        self._launch(
            "conv2d_weight_gradient", x.dtype, gw.size, contiguous(x), contiguous(g), gw, *geometry, threads=64
        )
        return gw

    def max_pool2d(self, x: Any, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, output: Pair) -> Any:
        """Return the maximum of every window; outside counts as -inf, and NaN is larger than everything."""
        if not self._ready(x):
            return super().max_pool2d(
                x, kernel=kernel, stride=stride, padding=padding, dilation=dilation, output=output
            )
        n, c, h, w = x.shape
        y = self.xp.empty((n, c, *output), dtype=x.dtype)
        window = (*kernel, *output, *stride, padding[0][0], padding[1][0], *dilation)
        self._launch(
            "max_pool2d", x.dtype, -(-y.size // _THREADS), self.xp.ascontiguousarray(x), y, n * c, h, w, *window
        )
        return y

    def max_pool2d_input_gradient(
        self, g: Any, x: Any, y: Any, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, ties: str
    ) -> Any:
        """Return the gradient of the input: g goes to the maximum of its window."""
        if not self._ready(g, x, y):
            return super().max_pool2d_input_gradient(
                g, x, y, kernel=kernel, stride=stride, padding=padding, dilation=dilation, ties=ties
            )
        n, c, h, w = x.shape
        gx = self.xp.empty(x.shape, dtype=x.dtype)
        window = (*kernel, *y.shape[2:], *stride, padding[0][0], padding[1][0], *dilation)
        contiguous = self.xp.ascontiguousarray
        self._launch(
            "max_pool2d_input_gradient",
            x.dtype,
            -(-gx.size // _THREADS),
            contiguous(g),
            contiguous(x),
            contiguous(y),
            gx,
            n * c,
            h,
            w,
            *window,
            int(ties == "split"),
        )
        return gx

    def keep_mask(self, shape: tuple[int, ...], p: float) -> Any:
        """Return whether each element stays if each is dropped with probability p, by Philox 4x32-10."""
        mask = self.xp.empty(shape, dtype=np.bool_)
        if mask.size:
            key = counter_key()
            signed = np.uint64(key.value).astype(np.int64)
            blocks = -(-mask.size // (4 * _THREADS))
            call = np.int64(key.next_call(self))
            self._launch("keep_mask", np.float32, blocks, mask, np.int64(mask.size), np.float64(p), signed, call)
        return mask

    def softmax_cross_entropy(self, logits: Any, labels: Any) -> tuple[Any, Any]:
        """Return (-log p[label] per sample, log p) of (N, K) logits; a label that is no class gives NaN."""
        if not self._ready(logits):
            return super().softmax_cross_entropy(logits, labels)
        n, k = logits.shape
        losses = self.xp.empty((n,), dtype=logits.dtype)
        log_p = self.xp.empty((n, k), dtype=logits.dtype)
        contiguous = self.xp.ascontiguousarray
        self._launch(
            "softmax_cross_entropy",
            logits.dtype,
            -(-n // _THREADS),
            contiguous(logits),
            contiguous(labels.astype(np.int64)),
            losses,
            log_p,
            n,
            k,
        )
        return losses, log_p

    def softmax_cross_entropy_gradient(self, g: Any, log_probabilities: Any, labels: Any) -> Any:
        """Return the gradient of the logits: g · (p - one-hot label), with one g per sample."""
        if not self._ready(g, log_probabilities):
            return super().softmax_cross_entropy_gradient(g, log_probabilities, labels)
        n, k = log_probabilities.shape
        gz = self.xp.empty((n, k), dtype=g.dtype)
        contiguous = self.xp.ascontiguousarray
        self._launch(
            "softmax_cross_entropy_gradient",
            g.dtype,
            -(-gz.size // _THREADS),
            contiguous(g),
            contiguous(log_probabilities),
            contiguous(labels.astype(np.int64)),
            gz,
            n,
            k,
        )
        return gz

    def adam_step(
        self,
        p: Any,
        g: Any,
        m: Any,
        v: Any,
        *,
        step: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ) -> None:
        """Update p, m and v in place; see `numpy_kernels.adam_step` for the formulas."""
        flat = all(a.flags.c_contiguous for a in (p, g, m, v))
        if not flat or not self._ready(p, g, m, v):
            super().adam_step(
                p, g, m, v, step=step, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay,
                decoupled=decoupled,
            )  # fmt: skip
            return
        kind = p.dtype.type
        rate, root = lr / (1 - beta1**step), (1 - beta2**step) ** 0.5
        coupled = 0.0 if decoupled else weight_decay
        keep = 1 - lr * weight_decay if decoupled else 1.0
        numbers = (kind(a) for a in (rate, root, beta1, beta2, 1 - beta1, 1 - beta2, eps, coupled, keep))
        self._launch("adam_step", p.dtype, -(-p.size // _THREADS), p, g, m, v, *numbers, np.int64(p.size))
