"""Fast kernels for NumPy arrays: convolution, pooling, cross-entropy, Adam.

Shapes are (N, C, H, W) throughout, in any memory layout. Inside, everything runs on the view (C, H, W, N), and results
are made with the batch as the innermost axis of their memory: then every shift, slice and copy of a convolution or a
pool moves runs of N neighbouring numbers, whatever the kernel size and the stride.
Source of the layout: Krizhevsky, cuda-convnet, 2012; of columns + GEMM: Chellapilla, Puri & Simard, IWFHR 2006.
Which way a convolution is computed is a matter of its geometry alone: modules `few_images`, `rows`, `strips` and
`winograd`.

Geometry comes normalised: `stride` and `dilation` are pairs, `padding` is ((top, bottom), (left, right)), none of it
negative. Every result is a fresh array that nobody else refers to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from . import few_images, rows, strips, winograd
from .channels import batch_norm, batch_norm_gradients, chosen, relu, relu_gradient
from .geometry import Padding, Pair, positions, window_padding
from .threads import in_parts
from .workspaces import keep_freed_memory

__all__ = [
    "adam_step",
    "avg_pool2d",
    "avg_pool2d_input_gradient",
    "batch_norm",
    "batch_norm_gradients",
    "conv2d",
    "conv2d_input_gradient",
    "conv2d_weight_gradient",
    "masked",
    "max_pool2d",
    "max_pool2d_input_gradient",
    "max_pool2d_select",
    "relu",
    "relu_gradient",
    "softmax_cross_entropy",
    "softmax_cross_entropy_gradient",
]

Array = np.ndarray[Any, Any]


keep_freed_memory()


# Layout ---------------------------------------------------------------------------------------------------------------


def _innermost(x: Array) -> Array:
    """Return the view (C, H, W, N) of an (N, C, H, W) array."""
    return x.transpose(1, 2, 3, 0)


def _outermost(x: Array) -> Array:
    """Return the view (N, C, H, W) of a (C, H, W, N) array."""
    return x.transpose(3, 0, 1, 2)


def _padded(x: Array, rows: Pair, columns: Pair, fill: float, dtype: Any = None) -> Array:
    """Return (C, H, W, N) with `fill` around it; `x` itself where nothing is to be added or converted."""
    dtype = x.dtype if dtype is None else dtype
    (top, bottom), (left, right) = rows, columns
    if not (top or bottom or left or right):
        return x.astype(dtype, copy=False)
    c, h, w, n = x.shape
    out: Array = np.empty((c, h + top + bottom, w + left + right, n), dtype)
    out[:, :top] = fill
    out[:, top + h :] = fill
    out[:, top : top + h, :left] = fill
    out[:, top : top + h, left + w :] = fill
    out[:, top : top + h, left : left + w] = x
    return out


def _work_type(*arrays: Array) -> Any:
    """Return the type to compute in: half precision has no fast arithmetic on CPUs."""
    dtype = np.result_type(*arrays)
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def _shift(offset: int, stride: int, count: int) -> slice:
    """Return the slice of `count` elements from `offset` on, `stride` apart."""
    return slice(offset, offset + stride * (count - 1) + 1 if count else offset, stride)


# Convolution ----------------------------------------------------------------------------------------------------------


def _columns(x: Array, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, groups: int, dtype: Any) -> Array:
    """Return what every kernel position sees: (groups, C/groups · KH · KW, OH · OW · N) of an (N, C, H, W) array."""
    n, c, h, w = x.shape
    (kh, kw), (sh, sw), (dh, dw) = kernel, stride, dilation
    oh, ow = positions(h, padding[0], kh, sh, dh), positions(w, padding[1], kw, sw, dw)
    p = _padded(_innermost(x), *padding, 0, dtype)
    c_step, h_step, w_step, n_step = p.strides
    windows = as_strided(
        p,
        (c, kh, kw, oh, ow, n),
        (c_step, dh * h_step, dw * w_step, sh * h_step, sw * w_step, n_step),
        writeable=False,
    )
    return windows.reshape(groups, c // groups * kh * kw, oh * ow * n)


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Array:
    """Return y[n, o, i, j] = bias[o] + Σ weight[o, c, p, q] · x[n, c, i·s + p·d − top, j·s + q·d − left]."""
    n, _, h, w = x.shape
    o, _, kh, kw = weight.shape
    result = np.result_type(x, weight) if bias is None else np.result_type(x, weight, bias)
    work = _work_type(x, weight) if bias is None else _work_type(x, weight, bias)
    oh = positions(h, padding[0], kh, stride[0], dilation[0])
    ow = positions(w, padding[1], kw, stride[1], dilation[1])
    kernel = weight.astype(work, copy=False)
    if groups == 1 and few_images.pays(n, weight.shape, (oh, ow)):
        y = few_images.correlate(x, kernel, bias, stride=stride, padding=padding, dilation=dilation, output=(oh, ow))
        return y.astype(result, copy=False)
    if groups == 1 and winograd.pays(work, n, weight.shape, stride, dilation, (oh, ow)):
        seen = rows.padded_rows(x, (0, 0), (0, 0), work)
        y = winograd.correlate(seen, kernel, bias, padding=padding, output=(oh, ow))
        return rows.from_rows(y.astype(result, copy=False))
    if groups == 1 and strips.pays(n, weight.shape, stride, dilation):
        y = strips.correlate(x, kernel, bias, padding=padding, output=(oh, ow))
        return y.astype(result, copy=False)
    if groups == 1:
        y = rows.correlate(x, kernel, bias, stride=stride, padding=padding, dilation=dilation, output=(oh, ow))
        return rows.from_rows(y.astype(result, copy=False))
    columns = _columns(x, (kh, kw), stride, padding, dilation, groups, work)
    y = np.matmul(kernel.reshape(groups, o // groups, columns.shape[1]), columns).reshape(o, oh, ow, n)
    if bias is not None:
        y += bias[:, None, None, None]
    return _outermost(y.astype(result, copy=False))


def conv2d_input_gradient(
    g: Array, weight: Array, *, size: Pair, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> Array:
    """Return the gradient of the input: every g[n, o, i, j] spread over what position (i, j) of the kernel has seen."""
    n, o, oh, ow = g.shape
    _, cg, kh, kw = weight.shape
    (h, w), (sh, sw), (dh, dw) = size, stride, dilation
    (top, bottom), (left, right) = padding
    work, result = _work_type(g, weight), np.result_type(g, weight)
    if groups == 1 and few_images.pays(n, weight.shape, (oh, ow)):
        kernel = weight.astype(work, copy=False)
        gx = few_images.input_gradient(g, kernel, size=size, stride=stride, padding=padding, dilation=dilation)
        return gx.astype(result, copy=False)
    if groups == 1:
        return _single_input_gradient(g, weight.astype(work, copy=False), size, stride, padding, dilation, result)
    flat = _innermost(g).reshape(groups, o // groups, oh * ow * n).astype(work, copy=False)
    matrices = weight.reshape(groups, o // groups, cg * kh * kw).astype(work, copy=False)
    spread = np.matmul(matrices.transpose(0, 2, 1), flat).reshape(groups * cg, kh, kw, oh, ow, n)
    gx = np.zeros((groups * cg, h + top + bottom, w + left + right, n), work)
    for i in range(kh):
        for j in range(kw):
            gx[:, _shift(i * dh, sh, oh), _shift(j * dw, sw, ow)] += spread[:, i, j]
    return _outermost(gx[:, top : top + h, left : left + w].astype(result, copy=False))


_FEWEST_CHANNELS = 4  # of the input, below which strips make too low matrices for its gradient
_FEW_CHANNELS = 16  # of the input, below which one high product that is spread beats several low ones


def _single_input_gradient(
    g: Array, weight: Array, size: Pair, stride: Pair, padding: Padding, dilation: Pair, result: Any
) -> Array:
    """Return the gradient of the input of a convolution without groups.

    With stride 1 it is itself a convolution, of g with the kernel turned by 180°, without the additions into
    overlapping places that spreading needs; with few input channels its matrices are too low, and spreading wins.
    With another stride, every place of the input gathers the few products that reach it, if there are many channels.
    """
    (o, c, kh, kw), (h, w), (top, bottom), (left, right) = weight.shape, size, *padding
    reach = dilation[0] * (kh - 1), dilation[1] * (kw - 1)
    around = (reach[0] - top, reach[0] - bottom), (reach[1] - left, reach[1] - right)
    if min(map(min, around)) >= 0 and winograd.pays(weight.dtype, len(g), (c, o, kh, kw), stride, dilation, size):
        seen = rows.padded_rows(g, (0, 0), (0, 0), weight.dtype)
        gx = winograd.correlate(seen, weight, None, padding=around, output=size, turned=True)
        return rows.from_rows(gx.astype(result, copy=False))
    if c >= _FEWEST_CHANNELS and strips.pays(len(g), weight.shape, stride, dilation):
        gx = strips.input_gradient(g, weight, size=size, padding=padding)
        return gx.astype(result, copy=False)
    if stride == (1, 1) and c * 2 >= o and min(map(min, around)) >= 0:
        gx = rows.correlate(g, weight, None, stride=(1, 1), padding=around, dilation=dilation, output=size, turned=True)
        return rows.from_rows(gx.astype(result, copy=False))
    flat = rows.padded_rows(g, (0, 0), (0, 0), weight.dtype)
    if c >= _FEW_CHANNELS:
        gx = rows.gather(flat, weight, size=size, before=(top, left), stride=stride, dilation=dilation)
        return rows.from_rows(gx.astype(result, copy=False))
    gx = rows.spread(flat, weight, size=(h + top + bottom, w + left + right), stride=stride, dilation=dilation)
    return rows.from_rows(gx[top : top + h, :, left : left + w].astype(result, copy=False))


def conv2d_weight_gradient(
    x: Array, g: Array, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> Array:
    """Return the gradient of the weight: per kernel element Σ over positions of g · what it was multiplied by."""
    n, o, oh, ow = g.shape
    c = x.shape[1]
    work = _work_type(x, g)
    if groups == 1 and few_images.pays(n, (o, c, *kernel), (oh, ow)):
        gw: Array = few_images.correlate_weight(
            x, g, kernel, stride=stride, padding=padding, dilation=dilation, dtype=work
        )
        return gw.astype(np.result_type(x, g), copy=False)
    if groups == 1 and winograd.pays(work, n, (o, c, *kernel), stride, dilation, (oh, ow)):
        seen, flat = (rows.padded_rows(a, (0, 0), (0, 0), work) for a in (x, g))
        gw = winograd.correlate_weight(seen, flat, kernel, padding=padding)
        return gw.astype(np.result_type(x, g), copy=False)
    if groups == 1 and strips.pays(n, (o, c, *kernel), stride, dilation):
        gw = strips.correlate_weight(x, g, kernel, padding=padding, dtype=work)
        return gw.astype(np.result_type(x, g), copy=False)
    if groups == 1:
        flat = rows.padded_rows(g, (0, 0), (0, 0), work)
        gw = rows.correlate_weight(x, flat, kernel, stride=stride, padding=padding, dilation=dilation)
        return gw.astype(np.result_type(x, g), copy=False)
    columns = _columns(x, kernel, stride, padding, dilation, groups, work)
    flat = _innermost(g).reshape(groups, o // groups, oh * ow * n).astype(work, copy=False)
    gw = np.matmul(flat, columns.transpose(0, 2, 1)).reshape(o, c // groups, *kernel)
    return gw.astype(np.result_type(x, g), copy=False)


# Pooling --------------------------------------------------------------------------------------------------------------


_POOLED = 1 << 19  # elements of an input that are pooled at a time: intermediate results stay in the cache


def _blocks(start: int, end: int, row: int) -> Iterator[slice]:
    """Cut rows of outputs, which see `row` elements each, into blocks; smaller ones cost more calls than they save."""
    step = max(1, _POOLED // max(1, row))
    for first in range(start, end, step):
        yield slice(first, min(first + step, end))


def max_pool2d(x: Array, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, output: Pair) -> Array:
    """Return the maximum of every window; outside counts as -inf, and NaN is larger than everything."""
    (kh, kw), (sh, sw), (dh, dw), (oh, ow) = kernel, stride, dilation, output
    p = _padded(_innermost(x), *window_padding(x.shape[2:], kernel, stride, padding, dilation, output), -np.inf)
    y = np.empty_like(p[:, _shift(0, sh, oh), _shift(0, sw, ow)])

    def task(start: int, end: int) -> None:
        for band in _blocks(start, end, sh * p[:, 0].size):
            count = band.stop - band.start
            tall = p[:, _shift(band.start * sh, sh, count)]
            for i in range(1, kh):  # a maximum over a rectangle is one over its rows' maxima
                tall = np.maximum(tall, p[:, _shift(band.start * sh + i * dh, sh, count)], out=None if i == 1 else tall)
            part = y[:, band]
            first, *others = (tall[:, :, _shift(j * dw, sw, ow)] for j in range(kw))
            if not others:
                np.copyto(part, first)
            for other in others:
                first = np.maximum(first, other, out=part)

    in_parts(task, oh, 2 * x.size)
    return _outermost(y)


def masked(mask: Array, x: Array) -> Array:
    """Return x where the mask holds, else 0."""
    if x.dtype.itemsize not in (2, 4, 8) or not x.ndim:
        return np.where(mask, x, x.dtype.type(0))
    out = np.empty_like(x, shape=np.broadcast_shapes(mask.shape, x.shape))
    chosen(mask, x, out)
    return out


class _Maxima:
    """Where the maxima of the windows are: masks of output shape, one per kernel element."""

    def __init__(
        self, x: Array, y: Array, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, ties: str
    ) -> None:
        self.y = _innermost(y)
        self.output = y.shape[2], y.shape[3]
        self.kernel, self.stride, self.dilation, self.ties = kernel, stride, dilation, ties
        self.size = x.shape[2:]
        self.reach = window_padding(self.size, kernel, stride, padding, dilation, self.output)
        self.x = _padded(_innermost(x), *self.reach, -np.inf)
        self.has_nan = bool(np.isnan(y).any())
        # Only where a whole window is -inf can the outside be taken for its maximum.
        self.inside = None
        if any(map(any, self.reach)) and np.isneginf(y).any():
            self.inside = _padded(np.ones((1, *self.size, 1), bool), *self.reach, False)

    def windows(self) -> list[tuple[slice, slice]]:
        """Return the slices of the padded input that belong to each kernel element, in row-major order."""
        (kh, kw), (sh, sw), (dh, dw), (oh, ow) = self.kernel, self.stride, self.dilation, self.output
        return [(_shift(i * dh, sh, oh), _shift(j * dw, sw, ow)) for i in range(kh) for j in range(kw)]

    def equal(self, down: slice, across: slice) -> Array:
        """Return whether this kernel element's input is the maximum of its window."""
        x = self.x[:, down, across]
        mask: Array = x == self.y
        if self.has_nan:
            mask |= np.isnan(x)
        if self.inside is not None:
            mask &= self.inside[:, down, across]
        return mask

    def masks(self) -> Any:
        """Yield (slice of rows, of columns, mask) per kernel element; with ties "first", one maximum per window."""
        free = np.ones_like(self.y, bool)
        for down, across in self.windows():
            mask = self.equal(down, across)
            if self.ties == "first":
                mask &= free
                free ^= mask
            yield down, across, mask

    def counts(self) -> Array:
        """Return how many maxima each window has."""
        count = np.zeros_like(self.y, np.int32)
        for down, across in self.windows():
            count += self.equal(down, across)
        return count


def max_pool2d_input_gradient(
    g: Array, x: Array, y: Array, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, ties: str
) -> Array:
    """Return the gradient of the input: g goes to the maximum of its window.

    Several equal maxima: with `ties="first"` the first in row-major order gets everything, as in PyTorch; with
    `ties="split"` they get equal shares.
    """
    halves = kernel == stride == (2, 2) and dilation == (1, 1) and not any(map(any, padding))
    # In ceil mode the last window may reach beyond the image; then it has no second row or column.
    halves = halves and 2 * g.shape[2] <= x.shape[2] and 2 * g.shape[3] <= x.shape[3]
    if halves and ties == "first" and g.dtype == x.dtype and not np.isnan(y).any():
        return _halved_gradient(g, x, y)
    maxima = _Maxima(x, y, kernel, stride, padding, dilation, ties)
    share = _innermost(g)
    if ties == "split":
        share = share / np.maximum(maxima.counts(), 1).astype(g.dtype)
    gx = np.zeros_like(maxima.x, dtype=np.result_type(g, x))
    for down, across, mask in maxima.masks():
        gx[:, down, across] += masked(mask, share)
    (top, _), (left, _) = maxima.reach
    h, w = maxima.size
    return _outermost(gx[:, top : top + h, left : left + w])


def _halved_gradient(g: Array, x: Array, y: Array) -> Array:
    """Return the gradient of a 2 x 2 pool with stride 2, of whose maxima none is NaN.

    One place of all windows after the other takes g where it has the maximum y, and leaves the rest to the next; the
    last gets what remains. NumPy is slow with arrays that have gaps, but copies them fast.
    """
    (h, w), (oh, ow) = x.shape[2:], g.shape[2:]
    values, maxima, given = _innermost(x), _innermost(y), _innermost(g)
    gx = np.empty_like(values)
    if (2 * oh, 2 * ow) != (h, w):
        gx[:, 2 * oh :] = 0
        gx[:, :, 2 * ow :] = 0
    bits = np.dtype(f"i{g.dtype.itemsize}")

    def task(start: int, end: int) -> None:
        for band in _blocks(start, end, 2 * values[:, 0].size):
            count = band.stop - band.start
            left, best, share = (np.empty_like(values[:, :count, :ow]) for _ in range(3))
            np.copyto(left, given[:, band])
            np.copyto(best, maxima[:, band])
            for place in range(4):
                down, across = _shift(2 * band.start + place // 2, 2, count), _shift(place % 2, 2, ow)
                if place == 3:
                    share = left
                else:
                    np.copyto(share, values[:, down, across])
                    chosen(np.equal(share, best), left, share)
                    np.bitwise_xor(left.view(bits), share.view(bits), out=left.view(bits))
                np.copyto(gx[:, down, across], share)

    in_parts(task, oh, 10 * x.size)
    return _outermost(gx)


def max_pool2d_select(
    u: Array, x: Array, y: Array, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, ties: str
) -> Array:
    """Return of every window the element of `u` at the maximum of x, or the mean over equal maxima ("split").

    This is the adjoint of `max_pool2d_input_gradient` in g.
    """
    maxima = _Maxima(x, y, kernel, stride, padding, dilation, ties)
    p = _padded(_innermost(u), *maxima.reach, 0)
    out = np.zeros_like(maxima.y, dtype=np.result_type(u, x))
    for down, across, mask in maxima.masks():
        out += masked(mask, p[:, down, across])
    if ties == "split":
        out /= np.maximum(maxima.counts(), 1).astype(out.dtype)
    return _outermost(out)


def _divisors(
    size: int, kernel: int, stride: int, padding: Pair, output: int, count_include_pad: bool
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return how many elements of each window along one axis count, by PyTorch's rule.

    Padding counts if `count_include_pad`; what ceil mode adds behind it never does.
    """
    start = np.arange(output) * stride - padding[0]
    end = np.minimum(start + kernel, size + padding[1])
    if not count_include_pad:
        start, end = np.maximum(start, 0), np.minimum(end, size)
    return end - start


def _divisor(
    size: Pair, kernel: Pair, stride: Pair, padding: Padding, output: Pair, include: bool, override: int | None
) -> Array:
    """Return the divisor of every window as an array that broadcasts over (C, OH, OW, N)."""
    if override is not None:
        return np.full((1, 1, 1), override)
    rows, columns = (_divisors(size[a], kernel[a], stride[a], padding[a], output[a], include) for a in (0, 1))
    return np.maximum(rows[:, None] * columns, 1)[:, :, None]  # an empty window sums to 0 and gives 0


def avg_pool2d(
    x: Array,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Padding,
    output: Pair,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Array:
    """Return the mean of every window, divided as PyTorch does at the edges."""
    (kh, kw), (sh, sw), (oh, ow), size = kernel, stride, output, (x.shape[2], x.shape[3])
    work = _work_type(x)
    p = _padded(_innermost(x), *window_padding(size, kernel, stride, padding, (1, 1), output), 0, work)
    tall = p[:, _shift(0, sh, oh)].copy(order="K")
    for i in range(1, kh):
        tall += p[:, _shift(i, sh, oh)]
    y = tall[:, :, _shift(0, sw, ow)].copy(order="K")
    for j in range(1, kw):
        y += tall[:, :, _shift(j, sw, ow)]
    y /= _divisor(size, kernel, stride, padding, output, count_include_pad, divisor_override).astype(work)
    return _outermost(y.astype(x.dtype, copy=False))


def avg_pool2d_input_gradient(
    g: Array,
    *,
    size: Pair,
    kernel: Pair,
    stride: Pair,
    padding: Padding,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Array:
    """Return the gradient of the input: every element of a window gets g divided by the window's divisor."""
    (kh, kw), (sh, sw), (h, w), output = kernel, stride, size, (g.shape[2], g.shape[3])
    oh, ow = output
    work = _work_type(g)
    (top, bottom), (left, right) = window_padding(size, kernel, stride, padding, (1, 1), output)
    divisor = _divisor(size, kernel, stride, padding, output, count_include_pad, divisor_override).astype(work)
    share = _innermost(g) / divisor
    c, n = share.shape[0], share.shape[3]
    tall = np.zeros((c, oh, left + w + right, n), work)
    for j in range(kw):
        tall[:, :, _shift(j, sw, ow)] += share
    gx = np.zeros((c, top + h + bottom, left + w + right, n), work)
    for i in range(kh):
        gx[:, _shift(i, sh, oh)] += tall
    return _outermost(gx[:, top : top + h, left : left + w].astype(g.dtype, copy=False))


# Loss and update ------------------------------------------------------------------------------------------------------


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Return (−log p[label] per sample, log p) of (N, K) logits: log p = z − max z − log Σ exp(z − max z)."""
    z = logits - logits.max(axis=1, keepdims=True)
    z -= np.log(np.exp(z).sum(axis=1, keepdims=True))
    return -z[np.arange(len(z)), labels], z


def softmax_cross_entropy_gradient(g: Array, log_probabilities: Array, labels: Array) -> Array:
    """Return the gradient of the logits: g · (p − one-hot label), with one g per sample."""
    p = np.exp(log_probabilities)
    p[np.arange(len(p)), labels] -= 1
    p *= g[:, None]
    return p


def adam_step(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> None:
    """Update p, m and v in place; `step` counts from 1.

        m = β1 m + (1 − β1) g,   v = β2 v + (1 − β2) g²
        p = p − lr / (1 − β1^step) · m / (√v / √(1 − β2^step) + eps)

    Weight decay adds weight_decay · p to g, or takes lr · weight_decay · p off p if `decoupled` (AdamW).
    Source: Kingma & Ba, ICLR 2015; Loshchilov & Hutter, ICLR 2019.
    """
    parts = list(_chunks(p, g, m, v))
    work = partial(
        _adam_chunks, step=step, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay,
        decoupled=decoupled,
    )  # fmt: skip
    in_parts(lambda first, last: work(parts[first:last]), len(parts), 24 * p.size)


def adam_step_alone(p: Array, g: Array, m: Array, v: Array, **options: Any) -> None:
    """Do what `adam_step` does, in this thread alone: for those who share the work out themselves."""
    _adam_chunks(_chunks(p, g, m, v), **options)


def _adam_chunks(
    parts: Iterable[tuple[Array, ...]],
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> None:
    # The two corrections are taken out of the root: m / (√v / c + eps) = c m / (√v + c eps).
    correction = (1 - beta2**step) ** 0.5
    eps *= correction
    rate = lr * correction / (1 - beta1**step)
    work: Array = np.empty(0)
    for p, g, m, v in parts:
        if work.size < p.size:
            work = np.empty(p.size, p.dtype)
        w = work[: p.size].reshape(p.shape)
        if weight_decay and decoupled:
            p *= 1 - lr * weight_decay
        elif weight_decay:
            g = g + weight_decay * p
        np.multiply(g, 1 - beta1, out=w)
        m *= beta1
        m += w
        np.multiply(g, g, out=w)
        w *= 1 - beta2
        v *= beta2
        v += w
        np.sqrt(v, out=w)
        w += eps
        np.divide(m, w, out=w)
        w *= rate
        p -= w


_ADAM_CHUNK = 65536  # elements; five chunks of float32 come to 1.3 MB, about the size of an L2 cache


def _chunks(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Cut arrays of one shape into flat pieces that stay in the cache; arrays in another order remain whole rows."""
    if all(a.flags.c_contiguous for a in arrays):
        flat = [a.reshape(-1) for a in arrays]
        for start in range(0, flat[0].size, _ADAM_CHUNK):
            yield tuple(a[start : start + _ADAM_CHUNK] for a in flat)
    elif arrays[0].size <= _ADAM_CHUNK:
        yield arrays
    else:
        for parts in zip(*arrays, strict=True):
            yield from _chunks(*parts)
