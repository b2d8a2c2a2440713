"""The table of kernels for array libraries other than NumPy, written with nothing but the array module.

Same names and arguments as `numpy_kernels`. Arrays stay (N, C, H, W), the layout that GPU libraries are made for;
convolution is columns and one matrix product per group. float16 and bfloat16 reach the convolutions as they are, and
sums are kept in float32; the op that called rounds the result. Nothing here waits for the device: no value is looked
at from the host, so that a whole step can be queued.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .basics import product
from .dtypes import float32, is_half, widened
from .geometry import Padding, Pair, positions, window_padding

__all__ = ["DeviceKernels"]


# Bytes of columns at a time. Larger batches are computed in parts, so that the memory a convolution takes beside its
# result is bounded at any batch size.
WORKSPACE = 256 << 20


def _taps(kernel: Pair, stride: Pair, dilation: Pair, output: Pair) -> Iterator[tuple[int, Any]]:
    """Yield (number, index into the padded image) of every kernel element, in row-major order."""
    (kh, kw), (sh, sw), (dh, dw), (oh, ow) = kernel, stride, dilation, output
    for i in range(kh):
        rows = slice(i * dh, i * dh + sh * (oh - 1) + 1, sh)
        for j in range(kw):
            yield i * kw + j, (..., rows, slice(j * dw, j * dw + sw * (ow - 1) + 1, sw))


class DeviceKernels:
    """The kernels of one array library; `xp` is its array module and `erf` its error function."""

    def __init__(self, xp: Any, erf: Callable[[Any], Any]) -> None:
        self.xp = xp
        self.erf = erf

    def _padded(self, x: Any, padding: Padding, fill: float) -> Any:
        if not any(map(any, padding)):
            return x
        (top, bottom), (left, right) = padding
        n, c, h, w = x.shape
        out = self.xp.full((n, c, top + h + bottom, left + w + right), fill, dtype=x.dtype)
        out[:, :, top : top + h, left : left + w] = x
        return out

    # Convolution

    def _parts(self, n: int, bytes_per_sample: int) -> list[slice]:
        """Return the parts of a batch of n samples whose columns fit into the workspace; at least one."""
        step = max(1, WORKSPACE // max(1, bytes_per_sample))
        return [slice(start, min(start + step, n)) for start in range(0, max(n, 1), step)]

    def _columns(
        self, x: Any, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, groups: int, output: Pair
    ) -> Any:
        """Return the patches as (groups, c/groups · kh · kw, n · oh · ow)."""
        n, c = x.shape[:2]
        p = self._padded(x, padding, 0)
        count = kernel[0] * kernel[1]
        columns = self.xp.empty((c, count, n, *output), dtype=x.dtype)
        for k, tap in _taps(kernel, stride, dilation, output):
            columns[:, k] = p[tap].transpose(1, 0, 2, 3)
        return columns.reshape(groups, c // groups * count, n * output[0] * output[1])

    def _products(self, a: Any, b: Any) -> Any:
        """Return the matrix product of each group; that of a single group is a product of two matrices."""
        return product(self.xp, a[0], b[0])[None] if len(a) == 1 else product(self.xp, a, b)

    def conv2d(
        self, x: Any, weight: Any, bias: Any = None, *, stride: Pair, padding: Padding, dilation: Pair, groups: int
    ) -> Any:
        """Return the correlation of x with weight, plus bias."""
        n, _, h, w = x.shape
        o, _, kh, kw = weight.shape
        output = (
            positions(h, padding[0], kh, stride[0], dilation[0]),
            positions(w, padding[1], kw, stride[1], dilation[1]),
        )
        matrices = weight.reshape(groups, o // groups, -1)
        parts = self._parts(n, x.shape[1] * kh * kw * output[0] * output[1] * x.dtype.itemsize)
        y = self.xp.empty((n, o, *output), dtype=self.xp.result_type(x, weight)) if len(parts) > 1 else None
        for part in parts:
            columns = self._columns(x[part], (kh, kw), stride, padding, dilation, groups, output)
            found = self._products(matrices, columns).reshape(o, -1, *output).transpose(1, 0, 2, 3)
            if y is None:
                return found if bias is None else found + bias.reshape(1, -1, 1, 1)
            y[part] = found if bias is None else found + bias.reshape(1, -1, 1, 1)
        return y

    def conv2d_input_gradient(
        self, g: Any, weight: Any, *, size: Pair, stride: Pair, padding: Padding, dilation: Pair, groups: int
    ) -> Any:
        """Return the gradient of the input: every g times the kernel, added to its patch."""
        n, _, oh, ow = g.shape
        _, per_group, kh, kw = weight.shape
        parts = self._parts(n, per_group * groups * kh * kw * oh * ow * g.dtype.itemsize)
        geometry: Any = {"size": size, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        if len(parts) == 1:
            return self._input_gradient(g, weight, **geometry)
        gx = self.xp.empty((n, per_group * groups, *size), dtype=self.xp.result_type(g, weight))
        for part in parts:
            gx[part] = self._input_gradient(g[part], weight, **geometry)
        return gx

    def _input_gradient(
        self, g: Any, weight: Any, *, size: Pair, stride: Pair, padding: Padding, dilation: Pair, groups: int
    ) -> Any:
        n, o, oh, ow = g.shape
        _, per_group, kh, kw = weight.shape
        (top, bottom), (left, right) = padding
        w2 = weight.reshape(groups, o // groups, -1).transpose(0, 2, 1)
        flat = g.transpose(1, 0, 2, 3).reshape(groups, o // groups, n * oh * ow)
        columns = self._products(w2, flat).reshape(per_group * groups, kh * kw, n, oh, ow)
        sums = float32 if is_half(columns.dtype) else columns.dtype
        image = self.xp.zeros((per_group * groups, n, top + size[0] + bottom, left + size[1] + right), dtype=sums)
        for k, tap in _taps((kh, kw), stride, dilation, (oh, ow)):
            image[tap] += columns[:, k]
        return image[:, :, top : top + size[0], left : left + size[1]].transpose(1, 0, 2, 3)

    def conv2d_weight_gradient(
        self, x: Any, g: Any, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, groups: int
    ) -> Any:
        """Return the gradient of the weight: every patch times the g computed from it, summed."""
        n, o, oh, ow = g.shape
        parts = self._parts(n, x.shape[1] * kernel[0] * kernel[1] * oh * ow * x.dtype.itemsize)
        total = None
        for part in parts:
            columns = self._columns(x[part], kernel, stride, padding, dilation, groups, (oh, ow))
            flat = g[part].transpose(1, 0, 2, 3).reshape(groups, o // groups, -1)
            gw = self._products(flat, columns.transpose(0, 2, 1))
            if len(parts) > 1:
                gw = widened(gw)  # sums of 16-bit floats are taken in float32
            total = gw if total is None else total + gw
        assert total is not None  # there is at least one part
        return total.reshape(o, x.shape[1] // groups, *kernel)

    # Choosing

    def masked(self, mask: Any, x: Any) -> Any:
        """Return x where the mask holds, else 0."""
        return self.xp.where(mask, x, 0)

    # Pooling

    def max_pool2d(self, x: Any, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, output: Pair) -> Any:
        """Return the maximum of every window; outside counts as -inf, and NaN is larger than everything."""
        p = self._padded(x, window_padding(x.shape[2:], kernel, stride, padding, dilation, output), -float("inf"))
        y = None
        for _, tap in _taps(kernel, stride, dilation, output):
            y = p[tap].copy() if y is None else self.xp.maximum(y, p[tap])
        return y

    def _masks(
        self, x: Any, y: Any, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, ties: str
    ) -> tuple[Padding, list[tuple[Any, Any]]]:
        """Return the padding, and per kernel element (index, share of the window that this element gets)."""
        xp = self.xp
        output = y.shape[2:]
        reach = window_padding(x.shape[2:], kernel, stride, padding, dilation, output)
        p = self._padded(x, reach, -float("inf"))
        inside = self._padded(xp.ones((1, 1, *x.shape[2:]), dtype=bool), reach, False)
        taps, hits = [], []
        free = xp.ones(y.shape, dtype=bool)
        for _, tap in _taps(kernel, stride, dilation, output):
            hit = ((p[tap] == y) | (xp.isnan(p[tap]) & xp.isnan(y))) & inside[tap]
            if ties == "first":
                hit = hit & free
                free = free & ~hit
            taps.append(tap)
            hits.append(hit.astype(y.dtype))
        if ties == "split":
            count = hits[0].copy()
            for hit in hits[1:]:
                count = count + hit
            count = xp.maximum(count, 1)
            hits = [hit / count for hit in hits]
        return reach, list(zip(taps, hits, strict=True))

    def max_pool2d_input_gradient(
        self, g: Any, x: Any, y: Any, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, ties: str
    ) -> Any:
        """Return the gradient of the input: g goes to the maximum of its window."""
        ((top, bottom), (left, right)), shares = self._masks(x, y, kernel, stride, padding, dilation, ties)
        n, c, h, w = x.shape
        out = self.xp.zeros((n, c, top + h + bottom, left + w + right), dtype=self.xp.result_type(g, x))
        for tap, share in shares:
            out[tap] += self.xp.where(share != 0, g * share, 0)
        return out[:, :, top : top + h, left : left + w]

    def max_pool2d_select(
        self, u: Any, x: Any, y: Any, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, ties: str
    ) -> Any:
        """Return of every window the element of u at the maximum of x, or the mean over equal maxima."""
        reach, shares = self._masks(x, y, kernel, stride, padding, dilation, ties)
        p = self._padded(u, reach, 0)
        out = self.xp.zeros(y.shape, dtype=self.xp.result_type(u, x))
        for tap, share in shares:
            out += self.xp.where(share != 0, p[tap] * share, 0)
        return out

    def _divisor(
        self, dtype: Any, size: Pair, kernel: Pair, stride: Pair, padding: Padding, output: Pair, include: bool
    ) -> Any:
        """Return how many elements of each window count, by PyTorch's rule."""
        counts = []
        for a in (0, 1):
            start = self.xp.arange(output[a]) * stride[a] - padding[a][0]
            end = self.xp.minimum(start + kernel[a], size[a] + padding[a][1])
            if not include:
                start, end = self.xp.maximum(start, 0), self.xp.minimum(end, size[a])
            counts.append(end - start)
        return self.xp.maximum(counts[0][:, None] * counts[1], 1).astype(dtype)

    def avg_pool2d(
        self,
        x: Any,
        *,
        kernel: Pair,
        stride: Pair,
        padding: Padding,
        output: Pair,
        count_include_pad: bool,
        divisor_override: int | None,
    ) -> Any:
        """Return the mean of every window, divided as PyTorch does at the edges."""
        p = self._padded(x, window_padding(x.shape[2:], kernel, stride, padding, (1, 1), output), 0)
        y = self.xp.zeros((*x.shape[:2], *output), dtype=x.dtype)
        for _, tap in _taps(kernel, stride, (1, 1), output):
            y += p[tap]
        if divisor_override is not None:
            return y / divisor_override
        return y / self._divisor(x.dtype, x.shape[2:], kernel, stride, padding, output, count_include_pad)

    def avg_pool2d_input_gradient(
        self,
        g: Any,
        *,
        size: Pair,
        kernel: Pair,
        stride: Pair,
        padding: Padding,
        count_include_pad: bool,
        divisor_override: int | None,
    ) -> Any:
        """Return the gradient of the input: every element of a window gets g divided by the window's divisor."""
        output = (g.shape[2], g.shape[3])
        (top, bottom), (left, right) = window_padding(size, kernel, stride, padding, (1, 1), output)
        if divisor_override is not None:
            share = g / divisor_override
        else:
            share = g / self._divisor(g.dtype, size, kernel, stride, padding, output, count_include_pad)
        out = self.xp.zeros((*g.shape[:2], top + size[0] + bottom, left + size[1] + right), dtype=g.dtype)
        for _, tap in _taps(kernel, stride, (1, 1), output):
            out[tap] += share
        return out[:, :, top : top + size[0], left : left + size[1]]

    # Loss and update

    def softmax_cross_entropy(self, logits: Any, labels: Any) -> tuple[Any, Any]:
        """Return (-log p[label] per sample, log p) of (N, K) logits."""
        z = logits - logits.max(axis=1, keepdims=True)
        z = z - self.xp.log(self.xp.exp(z).sum(axis=1, keepdims=True))
        return -z[self.xp.arange(len(z)), labels], z

    def softmax_cross_entropy_gradient(self, g: Any, log_probabilities: Any, labels: Any) -> Any:
        """Return the gradient of the logits: g · (p - one-hot label), with one g per sample."""
        one_hot = self.xp.arange(log_probabilities.shape[1]) == labels[:, None]
        return (self.xp.exp(log_probabilities) - one_hot.astype(log_probabilities.dtype)) * g[:, None]

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
        if weight_decay and decoupled:
            p *= 1 - lr * weight_decay
        elif weight_decay:
            g = g + weight_decay * p
        m *= beta1
        m += (1 - beta1) * g
        v *= beta2
        v += (1 - beta2) * g * g
        root = (1 - beta2**step) ** 0.5
        p -= (lr / (1 - beta1**step)) * m / (self.xp.sqrt(v) / root + eps)
