"""Convolution of whole rows of images: the memory order (H, C, W, N), in which most of it is a view.

With the batch innermost and the rows outermost, what a row of outputs sees is a block of neighbouring rows, in which
(row, channel) pairs lie one stride apart. So the products need no copy of the input, or a small one:

- *views*: y = Σ_j W_j X_j, where X_j, the block shifted by kernel column j, is a matrix (KH · C, W · N) as it lies in
  memory. One product per kernel column, no columns at all. Good where KH · C is large. With a stride, the columns of
  the image are sorted by their remainder first.
- *columns*: for few channels, the block's columns (KH · C · KW, W · N) are copied into a workspace that stays in the
  cache, and a *band* of r output rows is computed in one product, whose weight holds r shifted copies of the kernel:
  an r times higher matrix and (KH + r − 1) / r instead of KH copies of each input.

Bands are independent, so threads share them, each with BLAS held to one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .blas import add_products, multiply
from .geometry import Padding, Pair
from .threads import cpus, in_parts, most_unpacked, shared, single_threaded_blas

__all__ = ["correlate", "correlate_weight", "from_rows", "padded_rows", "spread"]

Array = np.ndarray[Any, Any]
Piece = tuple[int, int, int, int]  # first and last band, first and last column of outputs

_WORKSPACE = 1 << 18  # elements of a workspace: 1 MiB of float32, half of a usual L2 cache
_SMALL = 30_000_000  # multiplications below which two threads hinder each other more than they help
_FILTERS = 1 << 16  # numbers of the filters that are reordered at once
_COPYING = 4  # numbers computed with in the time of copying one in short runs
_FEW_ROWS = 48  # KH · C below which columns beat views

_NARROWEST = 256  # columns of a product below which its overhead is more than that gains


def padded_rows(x: Array, rows: Pair, columns: Pair, dtype: Any) -> Array:
    """Return an (N, C, H, W) array in memory order (H, C, W, N), with zeros around; no copy if it is that already."""
    view = x.transpose(2, 1, 3, 0)
    (top, bottom), (left, right) = rows, columns
    if not (top or bottom or left or right) and view.flags.c_contiguous and view.dtype == dtype:
        # NumPy calls an array contiguous whatever the strides of its axes of size 1; the views taken later rely on
        # all of them, and reshaping from one axis sets them right.
        return view.reshape(-1).reshape(view.shape)
    h, c, w, n = view.shape
    out: Array = np.empty((h + top + bottom, c, w + left + right, n), dtype)
    out[:top] = 0
    out[top + h :] = 0
    inside = out[top : top + h]

    def task(first: int, last: int) -> None:
        inside[first:last, :, :left] = 0
        inside[first:last, :, left + w :] = 0
        inside[first:last, :, left : left + w] = view[first:last]

    in_parts(task, h, _COPYING * x.size)
    return out


def from_rows(y: Array) -> Array:
    """Return the (N, C, H, W) view of an array in memory order (H, C, W, N)."""
    return y.transpose(3, 1, 0, 2)


def _columns_by_phase(x: Array, rows: Pair, columns: Pair, stride: int, dtype: Any) -> Array:
    """Return a padded (N, C, H, W) array as (H, C, stride, ⌈W / stride⌉, N).

    Columns that a kernel with this stride meets lie side by side. They are padded and sorted in one pass.
    """
    if stride == 1:
        return padded_rows(x, rows, columns, dtype)[:, :, None]
    view = x.transpose(2, 1, 3, 0)
    (top, bottom), (left, right) = rows, columns
    h, c, w, n = view.shape
    out: Array = np.empty((h + top + bottom, c, stride, -(-(w + left + right) // stride), n), dtype)
    out[:top] = 0
    out[top + h :] = 0
    inside = out[top : top + h]

    def task(first: int, last: int) -> None:
        for phase in range(stride):
            start = max(0, -((phase - left) // stride))  # the first of these columns that is inside of the image
            met = view[first:last, :, start * stride + phase - left :: stride]
            end = start + met.shape[2]
            to = inside[first:last, :, phase]
            to[:, :, :start] = 0
            to[:, :, start:end] = met
            to[:, :, end:] = 0

    in_parts(task, h, _COPYING * x.size)
    return out


def _elements_last(filters: Array) -> Array:
    """Return (O, KW, KH, C) as (O, C, KH, KW), some filters at a time, which stay in the cache."""
    o, kw, kh, c = filters.shape
    out: Array = np.empty((o, c, kh, kw), filters.dtype)
    step = max(1, _FILTERS // max(1, c * kh * kw))

    def task(start: int, end: int) -> None:
        for first in range(start, end, step):
            last = min(first + step, end)
            for i in range(kh):
                for j in range(kw):
                    out[first:last, :, i, j] = filters[first:last, j, i]

    in_parts(task, o, _COPYING * filters.size)
    return out


def _thinned(x: Array, kernel: Pair, stride: Pair, padding: Padding, output: Pair) -> tuple[Array, Pair]:
    """Return an (N, C, H, W) array without what a kernel of one row or column steps over, and the stride left."""
    parts, strides = [slice(None), slice(None)], list(stride)
    for axis in (0, 1):
        if kernel[axis] == 1 and not any(padding[axis]):
            parts.append(slice(0, (output[axis] - 1) * stride[axis] + 1, stride[axis]))
            strides[axis] = 1
        else:
            parts.append(slice(None))
    return x[tuple(parts)], (strides[0], strides[1])


def _plan(
    x: Array, weight: tuple[int, ...], stride: Pair, padding: Padding, dilation: Pair, output: Pair, dtype: Any
) -> _Plan:
    """Return the plan of a correlation of x (N, C, H, W) with a weight of this shape."""
    x, stride = _thinned(x, (weight[2], weight[3]), stride, padding, output)
    seen = _columns_by_phase(x, *padding, stride[1], dtype)
    return _Plan(seen, weight, stride, dilation, output, views=weight[1] * weight[2] >= _FEW_ROWS)


class _Plan:
    """How one convolution is cut into bands of output rows and pieces of output columns."""

    def __init__(
        self,
        x: Array,
        weight_shape: tuple[int, ...],
        stride: Pair,
        dilation: Pair,
        output: Pair,
        *,
        views: bool,
        copying: int = 12,
    ) -> None:
        """Take x as padded rows with their columns by phase, (H, C, stride, W, N)."""
        self.o, self.c, self.kh, self.kw = weight_shape
        (self.sh, self.sw), (self.dh, self.dw), (self.oh, self.ow) = stride, dilation, output
        self.n = int(x.shape[-1])
        self.views, self.x = views, x
        # Kernel columns that are one product, as (first, count): with a stride, those of neighbouring phases lie in
        # memory as if they were further channels.
        whole = self.kw // self.sw if self.dh == self.dw == 1 else 0
        self.taps = [(i * self.sw, self.sw) for i in range(whole)]
        self.taps += [(j, 1) for j in range(whole * self.sw, self.kw)]
        self.band = 1 if self.views or self.dh > 1 else self._best_band(copying)
        self.depth = (self.band - 1) * self.sh + self.kh if self.dh == 1 else self.kh  # input rows of a band
        self.inner = self.depth * self.c * (1 if self.views else self.kw)
        # A piece is a batch of bands, as many as fit into the workspace, but enough pieces for all threads.
        self.threads = cpus() if self.work > _SMALL else 1
        self.bands = self.oh // self.band
        width = max(1, min(self._room(1), self.ow))
        self.run = self._unpacked(width)
        if self.views:
            width = self.run
        several = 1
        if width == self.ow:
            # Bands share rows, so that each further one needs less than the first.
            share = max(1, -(-self.bands // self.threads))
            several = next((count for count in range(share, 1, -1) if self._room(count) >= self.ow), 1)
        self.pieces = [
            (first, min(first + several, self.bands), start, min(start + width, self.ow))
            for first in range(0, self.bands, several)
            for start in range(0, self.ow, width)
        ]

    def _room(self, bands: int) -> int:
        """Return for how many output columns of so many bands the workspace has room."""
        if self.views:
            lines = bands * self.band * self.o
        else:
            lines = self._lines(bands) * self.c * self.kw
        return _WORKSPACE // max(1, lines * self.n)

    def _lines(self, bands: int) -> int:
        """Return how many rows of columns so many bands need: where nothing lies between rows, bands share them."""
        return (bands - 1) * self.band * self.sh + self.depth if self.dh == 1 else bands * self.depth

    def _unpacked(self, width: int) -> int:
        """Return how many of these columns a product has: as many as BLAS does not pack, if they divide all."""
        most = most_unpacked() // max(1, self.band * self.o * self.inner * self.n)
        run = next((run for run in range(min(most, width), 0, -1) if width % run == 0), 0)
        return run if run * self.n >= _NARROWEST else width

    def _best_band(self, copying: int) -> int:
        def cost(band: int) -> float:
            # Arithmetic, and the handling of columns at the price of so many further rows of it.
            return (band * self.o + copying) * ((band - 1) * self.sh + self.kh) / band

        return min((b for b in range(1, min(self.oh, 8) + 1) if self.oh % b == 0), key=cost)

    @property
    def work(self) -> int:
        """Multiplications of the whole convolution."""
        return int(self.oh * self.ow * self.n * self.o * self.c * self.kh * self.kw)

    def weights(self, weight: Array, turned: bool = False) -> list[Array]:
        """Return the matrices of a band, (band · O, inner), one per kernel column for views, else one.

        With `turned` they are those of the weight turned by 180°, its in and out channels exchanged.
        """
        if self.views:
            # Elements are moved filter by filter, within the cache, and then as whole rows.
            filters = np.ascontiguousarray(weight.transpose(0, 3, 2, 1))  # (o, kw, kh, c)
            if not turned:
                return [self._beside(filters[:, j : j + count]).reshape(self.o, -1) for j, count in self.taps]
            columns = np.ascontiguousarray(filters.transpose(1, 2, 0, 3)[::-1, ::-1])  # (kw, kh, o, c)
            return [column.reshape(self.inner, self.o).T for column in columns]
        if turned:
            weight = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
        matrix = np.zeros((self.band, self.o, self.depth, self.c, self.kw), weight.dtype)
        for r in range(self.band):
            matrix[r, :, r * self.sh : r * self.sh + self.kh] = weight.transpose(0, 2, 1, 3)
        return [matrix.reshape(self.band * self.o, self.inner)]

    def _beside(self, filters: Array) -> Array:
        """Return (O, phases, KH, C) as (O, KH, C, phases)."""
        o, count, kh, c = filters.shape
        if count == 1:
            return filters
        out: Array = np.empty((o, kh, c, count), filters.dtype)
        for phase in range(count):  # one at a time: numbers are moved in long loops
            out[..., phase] = filters[:, phase]
        return out

    def from_weights(self, matrices: list[Array]) -> Array:
        """Return the gradient of the weight from those of the matrices of a band: the sum over its shifted copies."""
        if self.views:
            filters = np.empty((self.o, self.kw, self.kh, self.c), matrices[0].dtype)
            for (j, count), m in zip(self.taps, matrices, strict=True):
                for phase in range(count):  # one at a time: numbers are moved in long loops
                    filters[:, j + phase] = m.reshape(self.o, self.kh, self.c, count)[..., phase]
            return _elements_last(filters)
        total: Array = np.zeros((self.o, self.c, self.kh, self.kw), matrices[0].dtype)
        full = matrices[0].reshape(self.band, self.o, self.depth, self.c, self.kw)
        for r in range(self.band):
            total += full[r, :, r * self.sh : r * self.sh + self.kh].transpose(0, 2, 1, 3)
        return total

    def block(self, y: Array, piece: Piece) -> Array:
        """Return the part of y (OH, O, OW, N) that belongs to a piece, as matrices (bands, band · O, columns)."""
        first, last, start, end = piece
        bands = y.reshape(self.bands, self.band * self.o, self.ow * self.n)
        return bands[first:last, :, start * self.n : end * self.n]

    def in_runs(self, matrices: Array) -> Array:
        """Return the view (bands, runs, lines, columns of a run) of matrices (bands, lines, columns) of a piece."""
        bands, lines, columns = matrices.shape
        length = self.run * self.n
        if not length or columns % length:
            return matrices[:, None]
        band, line, size = matrices.strides
        shape, strides = (bands, columns // length, lines, length), (band, length * size, line, size)
        return as_strided(matrices, shape, strides)

    def shifted(self, j: int, start: int = 0) -> Array:
        """Return what kernel column j sees from the output column `start` on: (H, C, columns, N), all neighbours."""
        column, phase = divmod(j * self.dw, self.sw)
        return self.x[:, :, phase, column + start :]

    def seen(self, piece: Piece, workspace: Array) -> list[Array]:
        """Return what a piece sees, as matrices (bands, inner, columns): views, or columns copied to the workspace."""
        first, last, start, end = piece
        h, c, n = self.x.strides[0], self.x.strides[1], self.x.strides[-1]
        step, count = self.band * self.sh * h, last - first
        if self.views:
            length = (end - start) * self.n
            shifted = [self.shifted(j, start)[first * self.band * self.sh :] for j, _ in self.taps]
            if self.dh == 1:  # (row, channel) lie one stride apart, and so do (column, sample)
                return [
                    as_strided(x, (count, self.inner * taken, length), (step, c // taken, n), writeable=False)
                    for x, (_, taken) in zip(shifted, self.taps, strict=True)
                ]
            by_row = (count, self.depth, self.c, length), (step, h * self.dh, c, n)
            return [
                as_strided(x, *by_row, writeable=False).reshape(count, self.inner, length)  # rows are left out
                for x in shifted
            ]
        w, length = self.x.strides[3], (end - start) * self.n
        if self.dh > 1:
            lines, steps = [count, self.depth], [step, h * self.dh]
        else:  # every row once, whatever the number of bands that see it
            lines, steps = [self._lines(count)], [h]
        shape = (*lines, self.c, self.kw, end - start, self.n)
        columns = workspace[: prod(shape)].reshape(shape)
        for j, (across, phases) in self._copies():
            part = columns[..., j : j + across * phases, :, :]
            part = part.reshape(*part.shape[:-3], across, phases, *part.shape[-2:])  # a view: one axis becomes two
            corner = self.shifted(j, start)[first * self.band * self.sh :]
            strides = (*steps, c, w * self.dw, self.x.strides[2], w, n)
            np.copyto(part, as_strided(corner, part.shape, strides, writeable=False))
        size = columns.itemsize
        between = self.c * self.kw * (self.depth if self.dh > 1 else self.band * self.sh)  # lines from band to band
        places = (between * length * size, length * size, size)
        return [as_strided(columns, (count, self.inner, length), places, writeable=False)]

    def _copies(self) -> list[tuple[int, Pair]]:
        """Return which kernel columns can be copied at once: (the first, (columns across, phases of each))."""
        if self.sw == 1:
            return [(0, (self.kw, 1))]
        if self.dw > 1:
            return [(j, (1, 1)) for j in range(self.kw)]
        across, rest = divmod(self.kw, self.sw)
        found = [(0, (across, self.sw)), (across * self.sw, (1, rest))]
        return [(first, size) for first, size in found if prod(size)]

    def workspace(self) -> Array:
        """Return memory for the columns of the largest piece."""
        if self.views:
            return np.empty(0, self.x.dtype)
        sizes = (self._lines(last - first) * (end - start) for first, last, start, end in self.pieces)
        return np.empty(max(sizes, default=0) * self.c * self.kw * self.n, self.x.dtype)

    def share(self, task: Callable[[list[Piece]], Any]) -> list[Any]:
        """Run `task(pieces)` in as many threads as pay, each on a contiguous part of the pieces."""
        with single_threaded_blas():
            count = min(self.threads, len(self.pieces))
            if count <= 1:
                return [task(self.pieces)]
            ends = [i * len(self.pieces) // count for i in range(count + 1)]
            return shared.run([partial(task, self.pieces[a:b]) for a, b in pairwise(ends)])


def correlate(
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    output: Pair,
    turned: bool = False,
) -> Array:
    """Return y (OH, O, OW, N) of x (N, C, H, W), in any memory order, and a weight (O, C, KH, KW).

    With `turned` the weight is (C, O, KH, KW) and is turned by 180°; then the stride is 1.
    """
    o, c, *kernel = weight.shape
    shape = (c, o, *kernel) if turned else weight.shape
    plan = _plan(x, shape, stride, padding, dilation, output, weight.dtype)
    matrices = plan.weights(weight, turned)
    y: Array = np.empty((plan.oh, plan.o, plan.ow, plan.n), weight.dtype)
    offsets = None if bias is None else np.tile(bias, plan.band)[:, None]

    def task(pieces: list[Piece]) -> None:
        workspace = plan.workspace()
        for piece in pieces:
            block = plan.block(y, piece)
            for number, (matrix, seen) in enumerate(zip(matrices, plan.seen(piece, workspace), strict=True)):
                if number == 0:
                    np.matmul(matrix, plan.in_runs(seen), out=plan.in_runs(block))
                else:
                    add_products(matrix, seen, block)
            if offsets is not None:
                np.add(block, offsets, out=block)

    plan.share(task)
    return y


def correlate_weight(x: Array, g: Array, kernel: Pair, *, stride: Pair, padding: Padding, dilation: Pair) -> Array:
    """Return the gradient (O, C, KH, KW) of the weight from x (N, C, H, W), in any memory order, and g (OH, O, OW, N).

    The type of g is that of the result.
    """
    oh, o, ow, _ = g.shape
    plan = _plan(x, (o, x.shape[1], *kernel), stride, padding, dilation, (oh, ow), g.dtype)

    # BLAS is faster with the higher matrix first; from some height on, that does not pay for a transposed result.
    height = plan.band * plan.o
    upright = height >= min(128, plan.inner)

    def task(pieces: list[Piece]) -> list[Array]:
        workspace = plan.workspace()
        widths = [plan.inner * count for _, count in plan.taps] if plan.views else [plan.inner]
        totals = [np.zeros((height, width) if upright else (width, height), g.dtype) for width in widths]
        for piece in pieces:
            block = plan.block(g, piece)
            for total, seen in zip(totals, plan.seen(piece, workspace), strict=True):
                left, right = (block, seen) if upright else (seen, block)
                if plan.views:
                    add_products(left, right.transpose(0, 2, 1), total)
                else:  # small products: one call for all bands of a piece
                    parts = np.matmul(plan.in_runs(left), plan.in_runs(right).transpose(0, 1, 3, 2))
                    for part in parts.reshape(-1, *total.shape):
                        np.add(total, part, out=total)
        return totals

    shares = plan.share(task)
    totals = shares[0]
    for share in shares[1:]:
        for a, b in zip(totals, share, strict=True):
            np.add(a, b, out=a)
    return plan.from_weights(totals if upright else [total.T for total in totals])


def spread(g: Array, weight: Array, *, size: Pair, stride: Pair, dilation: Pair) -> Array:
    """Return the gradient (H, C, W, N) of a padded input: every g (OH, O, OW, N) times the kernel, in its place."""
    oh, o, ow, n = g.shape
    c = weight.shape[1]
    total: Array = np.zeros((size[0], c, size[1], n), g.dtype)
    # Columns are wanted whatever their number, and adding them costs more than copying.
    plan = _Plan(total[:, :, None], weight.shape, stride, dilation, (oh, ow), views=False, copying=60)
    matrix = plan.weights(weight)[0].T
    (sh, sw), (dh, dw) = stride, dilation
    step = plan.band * sh  # rows of the input from band to band
    reach = (plan.depth - 1) * dh + 1
    lines = g.reshape(plan.bands, plan.band * o, ow * n)
    several = max(1, _WORKSPACE // max(1, plan.inner * ow * n))

    def task(start: int, end: int, to: Array) -> None:
        for first in range(start, end, several):
            last = min(first + several, end)
            seen = np.matmul(matrix, lines[first:last]).reshape(last - first, plan.depth, c, plan.kw, ow, n)
            rows = to[(first - start) * step :]
            # As few additions as there can be: of one row of all bands, or of all rows of one band.
            if last - first > plan.depth:
                parts = [(i * dh, step, last - first, seen[:, i]) for i in range(plan.depth)]
            else:
                parts = [(k * step, dh, plan.depth, seen[k]) for k in range(last - first)]
            for at, apart, count, part in parts:
                for j in range(plan.kw):
                    columns = slice(j * dw, j * dw + sw * (ow - 1) + 1, sw)
                    target = rows[at : at + (count - 1) * apart + 1 : apart, :, columns]
                    np.add(target, part[:, :, j], out=target)

    with single_threaded_blas():
        count = min(cpus(), plan.bands) if plan.work > _SMALL else 1
        if count <= 1:
            task(0, plan.bands if n else 0, total)
            return total
        # Bands of two threads meet in the same rows, so each has rows of its own, which are added at the end.
        ends = [i * plan.bands // count for i in range(count + 1)]
        places = [slice(a * step, (b - 1) * step + reach) for a, b in pairwise(ends)]
        parts = [total[places[0]], *(np.zeros_like(total[place]) for place in places[1:])]
        shared.run([partial(task, a, b, part) for (a, b), part in zip(pairwise(ends), parts, strict=True)])
        for place, part in zip(places[1:], parts[1:], strict=True):
            np.add(total[place], part, out=total[place])
    return total


def gather(g: Array, weight: Array, *, size: Pair, before: Pair, stride: Pair, dilation: Pair) -> Array:
    """Return the gradient (H, C, W, N) of an input without its padding, from g (OH, O, OW, N).

    The other way round from `spread`: every row of the input, and in it the columns of every remainder modulo the
    stride, is the sum of the few products that reach it, and is written once.

    Args:
        g: contiguous.
        weight: (O, C, KH, KW).
        size: (H, W) without padding.
        before: rows and columns of padding above and to the left.
        stride, dilation: of the convolution.
    """
    oh, o, ow, n = g.shape
    _, c, kh, kw = weight.shape
    (h, w), (top, left), (sh, sw), (dh, dw) = size, before, stride, dilation
    gx: Array = np.empty((h, c, w, n), g.dtype)
    matrices = _filters(weight, sh)
    columns = [_reached(s, w, left, ow, kw, sw, dw) for s in range(sw)]

    def task(first: int, last: int) -> None:
        buffer = np.empty(c * -(-w // sw) * n, g.dtype)
        for row in range(first, last):
            reached = ((i, *divmod(row + top - (kh - 1 - i) * dh, sh)) for i in range(kh))
            met = [(i, at) for i, at, rest in reached if not rest and 0 <= at < oh]
            # Without dilation the rows of g that are met are neighbours: one product for all.
            runs = [(*met[0], len(met))] if dh == 1 and met else [(i, at, 1) for i, at in met]
            for s, taps in enumerate(columns):
                width = len(range(s, w, sw))
                total = buffer[: c * width * n].reshape(c, width * n)
                whole = bool(runs) and bool(taps) and taps[0][1:3] == (0, width)
                if not whole:
                    total[...] = 0
                for number, (q, start, end, seen) in enumerate(taps):
                    for place, (i, at, count) in enumerate(runs):
                        matrix = matrices[q, i % sh, i // sh : i // sh + count].reshape(count * o, c)
                        lines = g[at : at + count].reshape(count * o, ow * n)[:, seen * n : (seen + end - start) * n]
                        multiply(matrix.T, lines, total[:, start * n : end * n], add=number + place > 0 or not whole)
                gx[row, :, s::sw] = total.reshape(c, width, n)

    with single_threaded_blas():
        count = min(cpus(), h) if g.size * c * kh * kw > _SMALL else 1
        ends = [i * h // count for i in range(count + 1)]
        tasks = [partial(task, a, b) for a, b in pairwise(ends)]
        if count == 1:
            tasks[0]()
        elif count:
            shared.run(tasks)
    return gx


def _reached(
    s: int, width: int, left: int, ow: int, kw: int, stride: int, dilation: int
) -> list[tuple[int, int, int, int]]:
    """Return what the columns s, s + stride, ... of an image get: (kernel column, first and last of them, first of g).

    The kernel column that reaches most of them comes first.
    """
    count = len(range(s, width, stride))
    found = []
    for q in range(kw):
        at, rest = divmod(s + left - q * dilation, stride)  # the column of g that meets the first of them
        start, end = max(0, -at), min(count, ow - at)
        if not rest and start < end:
            found.append((q, start, end, start + at))
    return sorted(found, key=lambda tap: tap[1] - tap[2])


def _filters(weight: Array, stride: int) -> Array:
    """Return the weight (O, C, KH, KW) as matrices of one kernel element each: (KW, stride, ⌈KH / stride⌉, O, C).

    Kernel rows are counted from the last one backwards, and those with the same remainder lie side by side.
    """
    o, c, kh, kw = weight.shape
    out: Array = np.empty((kw, stride, -(-kh // stride), o, c), weight.dtype)

    def task(first: int, last: int) -> None:
        for i in range(kh):
            out[:, i % stride, i // stride, first:last] = weight[first:last, :, kh - 1 - i].transpose(2, 0, 1)

    in_parts(task, o, _COPYING * weight.size)
    return out
