"""Convolution of images with few channels: strips some columns wide, in memory order (H, W, C, N).

With the batch innermost and the channels next, neighbouring pixels of a row are neighbours in memory, all channels of
them. So a strip, which holds what some columns of outputs see, is copied in a few long pieces, and in it what one row
of outputs sees is one matrix (KH · columns · C, N) as it lies in memory, which overlaps with that of the next row:

- Every pixel is copied (P + KW − 1) / P times for P columns of outputs, not KH · KW times.
- One product computes P outputs of all channels. Its weight holds P copies of the kernel, each shifted by a column: a P
  times higher matrix for (P + KW − 1) / KW times the arithmetic. BLAS is slow for the few rows of a small layer.
- The gradients are the same strips read backwards, and the gradient of the input is written once per strip.

Threads share the rows of an image, not the batch: slices of the batch would shorten all runs in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from .geometry import Padding, Pair
from .threads import in_parts, single_threaded_blas

__all__ = ["correlate", "correlate_weight", "input_gradient", "pays"]

Array = np.ndarray[Any, Any]

_FEW_ROWS = 48  # KH · C below which this is to be used: then most of the time goes into columns
_FEW_FILTERS = 32
_SMALLEST_BATCH = 16
_SMALL = 25_000_000  # multiplications below which two threads hinder each other more than they help
_COPYING = 16  # multiplications in the time of copying a number


def pays(batch: int, weight: Sequence[int], stride: Pair, dilation: Pair) -> bool:
    """Return whether this is to be used for a weight (O, C, KH, KW) in one group, which geometry alone decides."""
    o, c, kh, _ = weight
    return (
        stride == dilation == (1, 1) and kh * c < _FEW_ROWS and 0 < o <= _FEW_FILTERS and c > 0
        and batch >= _SMALLEST_BATCH
    )  # fmt: skip


class _Span:
    """Some rows or columns of outputs, `start` to `end`, and those of the image that they see.

    Attributes:
        width: how many rows or columns of the padded image they see.
        first, last: which of them are in the image.
        before: how many lie before the image.
    """

    def __init__(self, start: int, end: int, kernel: int, padding: int, size: int) -> None:
        self.start, self.end, self.count = start, end, end - start
        self.width = self.count + kernel - 1
        self.first = min(size, max(0, start - padding))
        self.last = max(self.first, min(size, start - padding + self.width))
        self.before = min(self.width, self.first - (start - padding))
        self.after = self.before + self.last - self.first


_Run = tuple[int, int, int, int, int]


class _Plan:
    """How a convolution is cut into strips of columns, and into bands of rows for threads."""

    def __init__(self, weight: Sequence[int], batch: int, size: Pair, padding: Padding, output: Pair) -> None:
        self.o, self.c, self.kh, self.kw = weight
        self.n, (self.h, self.w), (self.oh, self.ow) = batch, size, output
        (self.top, _), (self.left, _) = padding
        count = -(-self.ow // min(range(1, self.ow + 1), key=self._cost))
        ends = [i * self.ow // count for i in range(count + 1)]
        self.strips = [_Span(a, b, self.kw, self.left, self.w) for a, b in pairwise(ends)]
        self.counts = {strip.count for strip in self.strips}
        self.widest = max(self.counts)

        self._runs: dict[Pair, list[_Run]] = {}

    def _cost(self, columns: int) -> float:
        """Estimate the time per output of strips so many columns wide: arithmetic, dearer if low, and copying."""
        rows, inner = columns * self.o, self.kh * (columns + self.kw - 1) * self.c
        return self.o * inner * (1 + 12 / rows) * (1 + 12 / inner) + _COPYING * (1 + (self.kw - 1) / columns) * self.c

    def matrix(self, weight: Array, count: int) -> Array:
        """Return the weight of a strip of P = `count` columns: (P, O, KH, columns, C), a shifted kernel for each."""
        matrix = np.zeros((count, self.o, self.kh, count + self.kw - 1, self.c), weight.dtype)
        filters = weight.transpose(0, 2, 3, 1)
        for p in range(count):
            matrix[p, :, :, p : p + self.kw] = filters
        return matrix

    def rows(self, start: int, end: int) -> _Span:
        """Return some rows of outputs, and what they see."""
        return _Span(start, end, self.kh, self.top, self.h)

    def runs(self, start: int, end: int) -> list[_Run]:
        """Return runs of image rows that meet equally many rows of outputs through the same rows of the kernel.

        Each is (first, last row, first row of outputs that the first one meets, how many, how many taps are left out);
        in a run of several, each row meets outputs one row further down.
        """
        if (start, end) not in self._runs:
            self._runs[start, end] = list(self._find_runs(start, end))
        return self._runs[start, end]

    def _find_runs(self, start: int, end: int) -> Iterator[_Run]:
        met = {}
        for row in range(start, end):
            first = row + self.top - (self.kh - 1)
            above, below = min(self.oh, max(0, first)), min(self.oh, row + self.top + 1)
            met[row] = above, max(0, below - above), above - first
        row = start
        while row < end:
            last = row + 1
            while last < end and met[last] == (met[row][0] + last - row, *met[row][1:]):
                last += 1
            yield row, last, *met[row]
            row = last

    def run(self, task: Callable[[int, int], Any], rows: int) -> list[Any]:
        """Run `task(start, end)` on parts of so many rows, in as many threads as pay; return what it returns."""
        work = self.n * self.oh * self.ow * self.o * self.c * self.kh * self.kw
        with single_threaded_blas():
            return in_parts(task, rows, work, _SMALL)


@lru_cache(maxsize=64)
def _plan(weight: tuple[int, ...], batch: int, size: Pair, padding: Padding, output: Pair) -> _Plan:
    """Return the plan of a convolution: making one costs as much as copying a strip."""
    return _Plan(weight, batch, size, padding, output)


class _Seen:
    """Memory for the part of a strip that some rows of outputs see, and what each of them sees in it.

    With `ones`, there is one more line behind the pixels of each row, all 1: in the product, the bias belongs to it.
    """

    def __init__(self, plan: _Plan, rows: _Span, dtype: Any, *, ones: bool = False) -> None:
        self.plan, self.rows, self.ones = plan, rows, ones
        self.memory = np.empty(rows.width * self._lines(plan.widest + plan.kw - 1) * plan.n, dtype)
        self.width = -1

    def _lines(self, width: int) -> int:
        return width * self.plan.c + self.ones

    def windows(self, strip: _Span, x: Array) -> Array:
        """Return (rows, KH · lines, N) of what the rows see of a strip in images (H, W, C, N)."""
        rows, c, n, lines = self.rows, self.plan.c, self.plan.n, self._lines(strip.width)
        seen = self.memory[: rows.width * lines * n].reshape(rows.width, lines, n)
        if strip.width != self.width:  # what is padding, or 1, is the same for all strips of one width
            seen[: rows.before] = 0
            seen[rows.after :] = 0
            if self.ones:
                seen[:, -1] = 1
            self.width = strip.width
        inside, pixels = seen[rows.before : rows.after], strip.width * c
        if strip.before:
            inside[:, : strip.before * c] = 0
        if strip.after < strip.width:
            inside[:, strip.after * c : pixels] = 0
        image = x[rows.first : rows.last, strip.first : strip.last]
        np.copyto(inside[:, strip.before * c : strip.after * c].reshape(image.shape), image)
        return _overlapping(seen, rows.count, self.plan.kh)


def _overlapping(rows: Array, count: int, height: int) -> Array:
    """Return (count, height · lines, N): so many neighbouring rows (lines, N) from each of the first rows on."""
    _, lines, samples = rows.shape
    return np.ndarray((count, height * lines, samples), rows.dtype, rows, strides=rows.strides)


def _by_pixels(x: Array, dtype: Any) -> Array:
    """Return (N, C, H, W) as (H, W, C, N), a view if it lies in memory like that."""
    return np.ascontiguousarray(x.transpose(2, 3, 1, 0), dtype)


def correlate(x: Array, weight: Array, bias: Array | None, *, padding: Padding, output: Pair) -> Array:
    """Return y (N, O, OH, OW), in memory order (OH, OW, O, N), of x (N, C, H, W) and a weight (O, C, KH, KW).

    All are computed in the type of the weight.
    """
    plan = _plan(weight.shape, len(x), (x.shape[2], x.shape[3]), padding, output)
    images = _by_pixels(x, weight.dtype)
    matrices = {count: _with_bias(plan.matrix(weight, count), bias) for count in plan.counts}
    y = np.empty((plan.oh, plan.ow, plan.o, plan.n), weight.dtype)

    def task(start: int, end: int) -> None:
        seen = _Seen(plan, plan.rows(start, end), y.dtype, ones=bias is not None)
        for strip in plan.strips:
            block = y[start:end, strip.start : strip.end].reshape(end - start, -1, plan.n)
            np.matmul(matrices[strip.count], seen.windows(strip, images), out=block)

    plan.run(task, plan.oh)
    return y.transpose(3, 2, 0, 1)


def _with_bias(matrix: Array, bias: Array | None) -> Array:
    """Return the matrix (P · O, KH · lines) of a strip, with the bias in the last line of the first row."""
    p, o, kh, *_ = matrix.shape
    if bias is None:
        return matrix.reshape(p * o, -1)
    wide = np.zeros((p, o, kh, matrix[0, 0, 0].size + 1), matrix.dtype)
    wide[..., :-1] = matrix.reshape(p, o, kh, -1)
    wide[:, :, 0, -1] = bias
    return wide.reshape(p * o, -1)


def correlate_weight(x: Array, g: Array, kernel: Pair, *, padding: Padding, dtype: Any) -> Array:
    """Return the gradient (O, C, KH, KW) of the weight from x (N, C, H, W) and g (N, O, OH, OW)."""
    n, o, *output = g.shape
    c, *size = x.shape[1:]
    plan = _plan((o, c, *kernel), n, (size[0], size[1]), padding, (output[0], output[1]))
    images, given = _by_pixels(x, dtype), _by_pixels(g, dtype)

    def task(start: int, end: int) -> dict[int, Array]:
        seen = _Seen(plan, plan.rows(start, end), dtype)
        totals: dict[int, Array] = {}
        for strip in plan.strips:
            windows = seen.windows(strip, images)
            block = given[start:end, strip.start : strip.end].reshape(end - start, -1, n)
            # BLAS is faster with the higher matrix first.
            total = np.matmul(windows, block.transpose(0, 2, 1)).sum(axis=0)
            totals[strip.count] = totals.get(strip.count, 0) + total
        return totals

    gw = np.zeros((*kernel, c, o), dtype)
    for totals in plan.run(task, plan.oh):
        for count, total in totals.items():
            matrix = total.reshape(plan.kh, count + plan.kw - 1, c, count, o)
            for p in range(count):
                gw += matrix[:, p : p + plan.kw, :, p]
    return np.ascontiguousarray(gw.transpose(3, 2, 0, 1))


def input_gradient(g: Array, weight: Array, *, size: Pair, padding: Padding) -> Array:
    """Return the gradient (N, C, H, W) of the input, in memory order (H, W, C, N), from g (N, O, OH, OW)."""
    n, _, oh, ow = g.shape
    plan = _plan(weight.shape, n, size, padding, (oh, ow))
    given = _by_pixels(g, weight.dtype)
    # Rows of outputs in ascending order meet the rows of the kernel in descending order.
    matrices = {
        count: plan.matrix(weight, count)[:, :, ::-1].transpose(3, 4, 2, 0, 1).reshape(-1, plan.kh * count * plan.o)
        for count in plan.counts
    }
    gx = np.empty((plan.h, plan.w, plan.c, n), weight.dtype)

    def task(start: int, end: int) -> None:
        runs = plan.runs(start, end)
        rows = np.empty(oh * plan.widest * plan.o * n, gx.dtype)
        sums = np.empty((end - start) * (plan.widest + plan.kw - 1) * plan.c * n, gx.dtype)
        upper, lower = (
            min(run[2] for run in runs),
            max(last - first + row + count for first, last, row, count, _ in runs),
        )
        done = 0  # columns of the image that earlier strips have written
        for strip in plan.strips:
            block = given[upper:lower, strip.start : strip.end]
            outputs = rows[: block.size].reshape(len(block), strip.count * plan.o, n)
            np.copyto(outputs.reshape(block.shape), block)
            spread = sums[: (end - start) * strip.width * plan.c * n].reshape(end - start, -1, n)
            for first, last, row, count, tap in runs:
                _products(
                    matrices[strip.count], outputs[row - upper :], spread[first - start : last - start], count, tap
                )
            pixels = spread.reshape(end - start, strip.width, plan.c, n)
            _add(pixels[:, strip.before :], gx[start:end], strip, done)
            done = max(done, strip.last)
        gx[start:end, done:] = 0

    plan.run(task, plan.h)
    return gx.transpose(3, 2, 0, 1)


def _products(matrix: Array, outputs: Array, to: Array, count: int, tap: int) -> None:
    """Write, for a run of image rows, the products with the `count` rows of outputs that each of them meets."""
    if not count:
        to[...] = 0
        return
    height = outputs.shape[1]
    np.matmul(matrix[:, tap * height : (tap + count) * height], _overlapping(outputs, len(to), count), out=to)


def _add(pixels: Array, gx: Array, strip: _Span, done: int) -> None:
    """Add a strip to the gradient of the image (H, W, C, N), of which the first `done` columns have been written."""
    again = max(0, min(done, strip.last) - strip.first)
    old = gx[:, strip.first : strip.first + again]
    np.add(old, pixels[:, :again], out=old)
    np.copyto(gx[:, strip.first + again : strip.last], pixels[:, again : strip.last - strip.first])
