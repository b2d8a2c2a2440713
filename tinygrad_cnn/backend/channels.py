"""Layers between convolutions on NumPy arrays: batch normalisation and ReLU, block by block within the cache.

Written as whole-array expressions they read and write their arrays ten times, from main memory. Here a block of some
channels goes through all steps while it is in the cache, and threads share the blocks. Arrays may lie in memory in any
order; x decides in which order results lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .threads import in_parts

__all__ = ["batch_norm", "batch_norm_gradients", "chosen", "relu", "relu_gradient"]

Array = np.ndarray[Any, Any]

_BLOCK = 1 << 18  # numbers; smaller blocks fit the L2 cache, but make threads wait for Python's lock more often
_MEDIUM = 1 << 15  # numbers below which one call for all of them is fastest
_LINE = 4096  # numbers of a row of zeros to compare with
_RUN = 4096  # numbers of one sum without a tree: rounding errors grow with their count
_PASSES = 24  # a number of a block counts as so many where threads are concerned: it is passed over often
_SHORTEST = 16  # numbers of a channel that lie side by side; below, loops cost more than they save


class _Blocks:
    """Views (lead, C, trail) of arrays (N, C, ...), all in the memory order of the first one."""

    def __init__(self, x: Array) -> None:
        self.order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
        self.back = [self.order.index(axis) for axis in range(x.ndim)]
        before = self.order.index(1)
        self.sizes = [x.shape[axis] for axis in self.order]
        lead = int(np.prod(self.sizes[:before], dtype=int))
        trail = int(np.prod(self.sizes[before + 1 :], dtype=int))
        self.shape = lead, x.shape[1], trail
        self.count = lead * trail
        self.step = max(1, _BLOCK // max(1, self.count))

    def view(self, x: Array) -> Array:
        """Return x as (lead, C, trail), without a copy if it lies in memory like the first array."""
        return np.ascontiguousarray(x.transpose(self.order)).reshape(self.shape)

    def like(self, y: Array) -> Array:
        """Return an array (lead, C, trail) in the shape of the first array."""
        return y.reshape(self.sizes).transpose(self.back)

    def cut(self, first: int, last: int) -> Iterator[slice]:
        """Yield the channels from `first` to `last` in blocks."""
        for start in range(first, last, self.step):
            yield slice(start, min(start + self.step, last))


def _blocks(x: Array, *others: Array | None) -> _Blocks | None:
    """Return how to cut x and arrays of its type, or None where plain expressions do as well."""
    if (
        x.ndim < 2
        or x.dtype.char not in "fd"
        or not x.size
        or any(a is not None and a.dtype != x.dtype for a in others)
    ):
        return None
    blocks = _Blocks(x)
    return blocks if blocks.shape[2] >= _SHORTEST else None


def _sums(a: Array) -> Array:
    """Return the sum per channel of a block."""
    total: Array = a.sum(axis=2).sum(axis=0)
    return total


def _dots(a: Array, b: Array) -> Array:
    """Return Σ a b per channel of two blocks."""
    parts = [np.vecdot(a[..., i : i + _RUN], b[..., i : i + _RUN]).sum(axis=0) for i in range(0, a.shape[2], _RUN)]
    total: Array = parts[0] if len(parts) == 1 else np.sum(parts, axis=0)
    return total


def _centre(x: Array, out: Array) -> tuple[Array, Array]:
    """Write x - mean x to out, and return mean and variance per channel of a block."""
    count = x.shape[0] * x.shape[2]
    mean = _sums(x) / x.dtype.type(count)
    np.subtract(x, mean[:, None], out=out)
    return mean, _dots(out, out) / x.dtype.type(count)


def batch_norm(x: Array, weight: Array | None, bias: Array | None, *, eps: float) -> tuple[Array, Array, Array] | None:
    """Return y, mean and variance, or None where there is no fast way.

    y = (x - μ) / √(σ² + eps) · weight + bias per channel of (N, C, ...), with the variance σ² divided by n.
    """
    blocks = _blocks(x, weight, bias)
    if blocks is None:
        return None
    seen, y = blocks.view(x), np.empty(blocks.shape, x.dtype)
    mean, variance = np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)

    def task(first: int, last: int) -> None:
        for part in blocks.cut(first, last):
            out = y[:, part]
            mean[part], variance[part] = _centre(seen[:, part], out)
            scale = 1 / np.sqrt(variance[part] + eps)
            if weight is not None:
                scale *= weight[part]
            out *= scale[:, None]
            if bias is not None:
                out += bias[part, None]

    in_parts(task, x.shape[1], x.size * _PASSES)
    return blocks.like(y), mean, variance


def batch_norm_gradients(g: Array, x: Array, weight: Array | None, *, eps: float) -> tuple[Array, Array, Array] | None:
    """Return the gradients of x, weight and bias of `batch_norm`, or None where there is no fast way.

    With c = x - μ, s = 1 / √(σ² + eps) and n elements per channel:

        gx = weight s (g - Σ g / n - c s² Σ g c / n),   gw = s Σ g c,   gb = Σ g
    """
    blocks = _blocks(x, weight, g)
    if blocks is None:
        return None
    seen, given, gx = blocks.view(x), blocks.view(g), np.empty(blocks.shape, x.dtype)
    gw, gb = np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    n = x.dtype.type(blocks.count)

    def task(first: int, last: int) -> None:
        for part in blocks.cut(first, last):
            block, out = given[:, part], gx[:, part]
            _, variance = _centre(seen[:, part], out)
            scale = 1 / np.sqrt(variance + eps)
            dots, sums = _dots(block, out), _sums(block)
            gw[part], gb[part] = dots * scale, sums
            out *= (dots * scale * scale / -n)[:, None]
            out += block
            out -= (sums / n)[:, None]
            out *= (scale if weight is None else scale * weight[part])[:, None]

    in_parts(task, x.shape[1], x.size * _PASSES)
    return blocks.like(gx), gw, gb


def _flat(x: Array, *others: Array) -> list[Array] | None:
    """Return arrays as they lie in memory, one number after the other, if all lie in the same order without holes."""
    order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
    views = [a.transpose(order) for a in (x, *others)]
    if not all(view.flags.c_contiguous and a.shape == x.shape for view, a in zip(views, (x, *others), strict=True)):
        return None
    return [view.reshape(-1) for view in views]


def relu(x: Array) -> Array:
    """Return max(x, 0)."""
    if x.size < _MEDIUM:
        return np.maximum(x, 0)
    y = np.empty_like(x)
    flat = _flat(x, y)
    if flat is None:
        return np.maximum(x, 0, out=y)
    source, to = flat
    zeros = np.zeros(_LINE, x.dtype)  # NumPy's maximum of two arrays is four times as fast as that with a number

    def task(first: int, last: int) -> None:
        end = last - (last - first) % _LINE
        lines = source[first:end].reshape(-1, _LINE)
        np.maximum(lines, zeros, out=to[first:end].reshape(lines.shape))
        np.maximum(source[end:last], zeros[: last - end], out=to[end:last])

    in_parts(task, x.size, 2 * x.size)
    return y


def relu_gradient(g: Array, x: Array) -> Array:
    """Return g where x > 0, else 0; of g nothing is taken over there, not even a NaN."""
    if g.dtype != x.dtype or x.dtype.char not in "fd":
        return np.where(x > 0, g, g.dtype.type(0))
    # In the memory order of x, whatever that of g is.
    if g.strides != x.strides:
        same = np.empty_like(x)
        same[...] = g
        g = same
    y = np.empty_like(x)
    flat = _flat(x, g, y) if x.size > _BLOCK else None
    if flat is None:
        _mask(x, g, y)
        return y
    source, given, to = flat

    def task(first: int, last: int) -> None:
        for a in range(first, last, _BLOCK):
            b = min(a + _BLOCK, last)
            _mask(source[a:b], given[a:b], to[a:b])

    in_parts(task, x.size, 6 * x.size)
    return y


def _mask(x: Array, g: Array, out: Array) -> None:
    """Write g where x > 0, else 0, without branches."""
    chosen(np.greater(x, 0), g, out)


_BITS = {size: np.dtype(f"i{size}") for size in (2, 4, 8)}


def chosen(mask: Array, g: Array, out: Array) -> None:
    """Write g where the mask holds, else 0, to another array of the same type, 2, 4 or 8 bytes wide.

    The bits of g are multiplied as whole numbers, by 1 or by 0, so that a NaN or an infinity is left out like any other
    number. This is ten times as fast as `np.where`.
    """
    kind = _BITS[g.dtype.itemsize]
    bits = out.view(kind)
    if bits.shape == g.shape:
        np.copyto(bits, mask)  # a product of two types would be taken by way of a buffer
        np.multiply(g.view(kind), bits, out=bits)
    else:
        np.multiply(g.view(kind), mask, out=bits)
