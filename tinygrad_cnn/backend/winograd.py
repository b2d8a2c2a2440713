"""Convolution with kernels three rows high in half the multiplications: Winograd's algorithm along the rows.

Four rows of outputs of a 3-row correlation need 12 products of rows, or 6 of sums of rows:

    y = A [(G w) ⊙ (Bᵀ x)],     x: 6 rows of inputs, y: 4 rows of outputs, w: the 3 rows of a kernel

It is applied along the height alone, where memory order (H, C, W, N) makes a row of all channels one long run of
numbers. So the three transforms are products with tiny matrices, and ⊙ is a product of matrices over the channels, one
for each of the 6 sums and each kernel column. The two gradients are the same three-step form, read backwards:

    gw = Gᵀ [(Aᵀ g) ⊙ (Bᵀ x)],     gx: the convolution of g with the kernel turned by 180°

Sums of rows cost some accuracy: errors are a few times those of direct sums, a few 1e-7 of the largest result.
Source: Winograd, Arithmetic Complexity of Computations, SIAM 1980; Lavin & Gray, CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from math import gcd
from typing import Any

import numpy as np

from .blas import multiply, product
from .geometry import Padding, Pair
from .threads import cpus, shared, single_threaded_blas

__all__ = ["POINTS", "correlate", "correlate_weight", "fits", "pays", "transforms"]

Array = np.ndarray[Any, Any]

OUT, POINTS = 4, 6  # rows of outputs of a band, and rows of inputs: as many as sums
_RUN = 16384  # filters that are transformed at once: few calls, and in and out still stay in the L2 cache
_WORTH = 1 << 15  # filters for which a thread is worth waking
_FEWEST_CHANNELS = 32  # below, transforms take longer than the products that are saved
_SHORTEST_LINE = 64  # output columns times batch; below, products are slow

_FINITE = (0, 1, -1, 2, -2)  # the points of the sums; the last one is infinity


def transforms(outputs: int) -> tuple[Array, Array, Array]:
    """Return the matrices (A, B, G) for so many outputs of a correlation of POINTS inputs with POINTS + 1 − outputs.

    y = Aᵀ [(G w) ⊙ (B x)]; A is (POINTS, outputs), B (POINTS, POINTS). The rows of G and A are powers of the points,
    those of B the polynomials that are 0 at all other points (Toom & Cook, transposed).
    """
    taps = POINTS + 1 - outputs
    a, b, g = np.zeros((POINTS, outputs)), np.zeros((POINTS, POINTS)), np.zeros((POINTS, taps))
    for number, point in enumerate(_FINITE):
        others = [other for other in _FINITE if other != point]
        a[number] = [point**k for k in range(outputs)]
        b[number, :-1] = np.poly(others)[::-1]
        g[number] = [point**k / np.prod(np.subtract(point, others)) for k in range(taps)]
    a[-1, -1] = g[-1, -1] = 1
    b[-1] = np.poly(_FINITE)[::-1]
    return a, b, g


_A, _B, _G = transforms(OUT)
_A = np.ascontiguousarray(_A.T)
_AT_ONE = 1  # the sum at point 1 enters all rows of y as it is


def fits(kernel: Sequence[int], stride: Pair, dilation: Pair) -> bool:
    """Return whether a convolution can be computed this way at all."""
    return kernel[0] == 3 and stride == (1, 1) and dilation == (1, 1)


def pays(dtype: Any, batch: int, weight: Sequence[int], stride: Pair, dilation: Pair, output: Pair) -> bool:
    """Return whether this is to be used: where it is faster than direct sums, and for float32.

    It is a matter of geometry alone, so that one convolution is computed the same way every time. float64 is for
    checking, where the last digits count more than the time.

    Args:
        dtype: of the arithmetic.
        batch: the number of images.
        weight: the shape (O, C, KH, KW).
        stride, dilation, output: of the convolution.
    """
    o, c, kh, kw = weight
    bands = -(-output[0] // OUT)
    return (
        fits((kh, kw), stride, dilation)
        and dtype == np.float32
        and min(o, c) >= _FEWEST_CHANNELS
        and batch * output[1] >= _SHORTEST_LINE
        and bands * POINTS * 4 <= output[0] * kh * 3  # a last band that is mostly empty costs as much as a full one
    )


def _kernels(weight: Array, turned: bool) -> Array:
    """Return the sums of kernel rows, (POINTS, KW, O, C).

    With `turned` the kernel is turned by 180°, and the matrices are (O, C) still, to be used transposed.
    """
    o, c, kh, kw = weight.shape
    flat = np.ascontiguousarray(weight).reshape(o * c, kh, kw)
    if turned:
        flat = flat[:, ::-1, ::-1]
    sums, out = _G.astype(weight.dtype), np.empty((POINTS, kw, o * c), weight.dtype)

    def task(start: int, end: int) -> None:
        for a in range(start, end, _RUN):
            part = np.ascontiguousarray(flat[a : min(a + _RUN, end)].transpose(2, 1, 0))  # (KW, KH, filters)
            for j in range(kw):
                multiply(sums, part[j], out[:, j, a : a + part.shape[2]])

    _in_parts(task, o * c)
    return out.reshape(POINTS, kw, o, c)


def _from_kernels(sums: Array) -> Array:
    """Return the gradient of the weight (O, C, KH, KW) from that of the sums of its rows (POINTS, KW, O, C)."""
    _, kw, o, c = sums.shape
    spread, flat, out = _G.T.astype(sums.dtype), sums.reshape(POINTS, kw, o * c), np.empty((o * c, 3, kw), sums.dtype)

    def task(start: int, end: int) -> None:
        part = np.empty((kw, 3, _RUN), sums.dtype)
        for a in range(start, end, _RUN):
            b = min(a + _RUN, end)
            for j in range(kw):
                multiply(spread, flat[:, j, a:b], part[j, :, : b - a])
            out[a:b] = part[:, :, : b - a].transpose(2, 1, 0)

    _in_parts(task, o * c)
    return out.reshape(o, c, 3, kw)


def _in_parts(task: Callable[[int, int], None], count: int) -> None:
    threads = max(1, min(cpus(), count // _WORTH))
    ends = [i * count // threads for i in range(threads + 1)]
    _run([partial(task, a, b) for a, b in pairwise(ends)])


def _run(tasks: list[Callable[[], Any]]) -> None:
    if len(tasks) == 1:
        tasks[0]()
    else:
        shared.run(tasks)


_GAP = 16  # numbers between lines: lines a power of two apart would compete for the same places of the cache


def _lines(count: int, height: int, width: int, dtype: Any) -> Array:
    """Return matrices (count, height, width) with gaps between their lines."""
    return np.empty((count, height, width + _GAP), dtype)[:, :, :width]


def _transform(matrix: Array, rows: Array, out: Array) -> None:
    """Write matrix · rows to out: rows (K, lines, width) and out (M, lines, width)."""
    np.matmul(matrix, rows.transpose(1, 0, 2), out=out.transpose(1, 0, 2))  # one call, one product per line


def _sums_of_rows(matrix: Array, x: Array, first: int, out: Array) -> None:
    """Write the sums of the rows of x (H, C, W · N) from `first` on; rows outside of x are zeros."""
    start, end = max(first, 0), min(first + matrix.shape[1], len(x))
    if start < end:
        _transform(matrix[:, start - first : end - first], x[start:end], out)
    else:
        out[...] = 0


def _columns(j: int, left: int, width: int, output: int) -> tuple[int, int, int]:
    """Return the first and last column of outputs that kernel column j contributes to, and the first it reads."""
    first = max(0, left - j)
    return first, max(first, min(output, width + left - j)), first + j - left


def correlate(
    x: Array, weight: Array, bias: Array | None, *, padding: Padding, output: Pair, turned: bool = False
) -> Array:
    """Return y (OH, O, OW, N) of x (H, C, W, N), contiguous, and a weight (O, C, 3, KW).

    With `turned` the weight is (C, O, 3, KW) and is turned by 180°. Nothing is padded: what lies outside contributes
    nothing.
    """
    _, c, w, n = x.shape
    (oh, ow), (top, _), (left, _) = output, *padding
    o, kw = weight.shape[1 if turned else 0], weight.shape[3]
    y: Array = np.empty((oh, o, ow, n), x.dtype)
    flat, forward, back = x.reshape(len(x), c, w * n), _B.astype(x.dtype), _A.astype(x.dtype)
    # The column that all outputs see comes first: it overwrites, the others add.
    spans = sorted(((j, *_columns(j, left, w, ow)) for j in range(kw)), key=lambda span: span[1] - span[2])

    def task(bands: range, start: int, end: int) -> None:
        sums, products = _lines(POINTS, c, w * n, x.dtype), _lines(POINTS, end - start, ow * n, x.dtype)
        whole = spans[0][2] - spans[0][1] == ow
        calls: list[Callable[[], Any]] = []  # the same for every band
        for k in range(POINTS):
            to = products[k]
            if not whole:
                calls.append(partial(to.fill, 0))
            for number, (j, first, last, seen) in enumerate(spans):
                if first < last:
                    matrix = matrices[k, j][:, start:end].T if turned else matrices[k, j][start:end]
                    read = sums[k, :, seen * n : (seen + last - first) * n]
                    calls.append(product(matrix, read, to[:, first * n : last * n], add=number > 0 or not whole))
        for band in bands:
            _sums_of_rows(forward, flat, band * OUT - top, sums)
            for call in calls:
                call()
            if bias is not None:
                products[_AT_ONE] += bias[start:end, None]
            rows = min(OUT, oh - band * OUT)
            target = y[band * OUT : band * OUT + rows, start:end]
            _transform(back[:rows], products, target.reshape(rows, end - start, ow * n))

    with single_threaded_blas():
        matrices = _kernels(weight, turned)
        count, threads = -(-oh // OUT), cpus()
        if count >= threads:
            ends = [i * count // threads for i in range(threads + 1)]
            _run([partial(task, range(a, b), 0, o) for a, b in pairwise(ends)])
        else:
            shares = min(-(-threads // count), o)
            ends = [i * o // shares for i in range(shares + 1)]
            _run([partial(task, range(band, band + 1), a, b) for band in range(count) for a, b in pairwise(ends)])
    return y


def correlate_weight(x: Array, g: Array, kernel: Pair, *, padding: Padding) -> Array:
    """Return the gradient (O, C, 3, KW) of the weight from x (H, C, W, N) and g (OH, O, OW, N), both contiguous."""
    (_, c, w, n), (oh, o, ow, _) = x.shape, g.shape
    (top, _), (left, _), kw = *padding, kernel[1]
    total = np.zeros((POINTS, kw, o, c), x.dtype)
    count = -(-oh // OUT)
    flat_x, flat_g = x.reshape(len(x), c, w * n), g.reshape(oh, o, ow * n)

    def task(points: list[tuple[int, int, int]]) -> None:
        chosen = sorted({k for k, _, _ in points})
        forward, back = _B[chosen].astype(x.dtype), np.ascontiguousarray(_A.T[chosen]).astype(x.dtype)
        sums, spread = _lines(len(chosen), c, w * n, x.dtype), _lines(len(chosen), o, ow * n, x.dtype)
        calls = []  # the same for every band
        for k, start, end in points:
            number = chosen.index(k)
            for j in range(kw):
                first, last, seen = _columns(j, left, w, ow)
                if first < last:
                    left_side = spread[number, start:end, first * n : last * n]
                    right_side = sums[number, :, seen * n : (seen + last - first) * n].T
                    calls.append(product(left_side, right_side, total[k, j, start:end], add=True))
        for band in range(count):
            _sums_of_rows(forward, flat_x, band * OUT - top, sums)
            _sums_of_rows(back, flat_g, band * OUT, spread)
            for call in calls:
                call()

    with single_threaded_blas():
        threads = cpus()
        shares = min(threads // gcd(threads, POINTS), o)  # so that all threads get the same number of products
        ends = [i * o // shares for i in range(shares + 1)]
        points = [(k, a, b) for k in range(POINTS) for a, b in pairwise(ends)]
        threads = min(threads, len(points))
        cuts = [i * len(points) // threads for i in range(threads + 1)]
        _run([partial(task, points[a:b]) for a, b in pairwise(cuts)])
        return _from_kernels(total)
