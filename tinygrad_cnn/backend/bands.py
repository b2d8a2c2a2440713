"""A convolution of a fused program with a kernel five columns wide, by Winograd's algorithm, as bound calls.

Two neighbouring outputs of a row need 10 products with a kernel of five columns, or 6 of sums of columns:

    y = Aᵀ [(G w) ⊙ (B x)],     x: 6 columns of the input, y: 2 columns of outputs, w: the 5 columns of a kernel

⊙ is a product of matrices for each of the 6 sums, with a band of two rows of outputs: they see `rows` rows of the
input, so the weight is (2 O, rows · C), a shifted copy of the kernel for either row. What a band sees are neighbours
in memory, since rows are outermost here, and nothing is copied for it. The transforms are products with tiny matrices.
The gradients are the same three steps read backwards:

    gw = Gᵀ [(A gy) ⊙ (B x)],     gx = Bᵀ [(G w)ᵀ ⊙ (A gy)]

Source: Winograd, Arithmetic Complexity of Computations, SIAM 1980; Lavin & Gray, CVPR 2016. See also `winograd`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .patches import Band
from .stages import cut, input_buffer, pieces, route
from .winograd import POINTS, transforms
from .workspaces import aligned

if TYPE_CHECKING:
    from .tiles import Tile

__all__ = ["BandCalls"]

Array = np.ndarray[Any, Any]
Call = Callable[[], Any]

_A, _B, _G = transforms(2)


def _multiply(matrix: Array, x: Array, out: Array) -> Call:
    """Return the product of a tiny matrix with a wide one as a call."""
    count = pieces(x.shape[1], matrix.size)
    return partial(np.matmul, matrix, cut(x[None], count), out=cut(out[None], count))


class BandCalls:
    """The calls of one convolution with its ReLU and pool.

    Inside, arrays are (sum of columns, row, C, pair of columns, N) for the input, and (sum, band, row of the band, O,
    pair, N) for the result.
    """

    def __init__(self, tile: Tile, patch: Band, matrix: Array, gradient: Array, n: int, *, first: bool) -> None:
        self.tile, self.patch, self.layer, self.n, self.first = tile, patch, patch.layer, n, first
        dtype, (c, o), taps = tile.dtype, patch.layer.channels, _G.shape[1]
        self.a, self.b, self.g = (m.astype(dtype) for m in (_A, _B, _G))
        self.buffer, inside = input_buffer(patch, n, dtype)
        self.interior = self.buffer[inside]  # where the layer before writes

        height, inner, self.width = 2 * o, patch.rows * c, patch.tiles * n
        size = taps * height * inner
        self.matrix, self.bias = matrix[:size].reshape(taps, -1), matrix[size:]
        self.gradient, self.bias_gradient = gradient[:size].reshape(taps, -1), gradient[size:]
        self.weight = aligned((POINTS, height, inner), dtype)

        # The columns of the input, which the gradient takes the place of, with two columns more.
        (h, w), self.around = patch.size, patch.rows // 2 - 1
        self.row = w // 2 * n
        wide = aligned(POINTS * h * c * self.row, dtype)
        self.columns = wide[: POINTS * h * c * self.width].reshape(POINTS, -1)
        self.g_columns = wide.reshape(POINTS, -1)
        # Their sums, which the gradient of these sums takes the place of, again with two columns more.
        self.wide_sums = aligned(POINTS * h * c * self.row, dtype)
        self.sums = self.wide_sums[: self.columns.size].reshape(POINTS, -1)
        step, line, size = h * c * self.width, self.width, dtype.itemsize
        self.seen = as_strided(
            self.sums,
            (POINTS, patch.bands, inner, self.width),
            (step * size, 2 * c * line * size, line * size, size),
            writeable=False,
        )
        # The products; then their gradients, with empty bands above and below for the gradient of the input. Behind
        # them the bias, as something that is in both columns.
        biased = len(self.bias) > 0
        self.products = aligned((POINTS + biased, patch.bands + 2 * self.around, height, self.width), dtype)
        if biased:
            self.a = np.concatenate([self.a, np.ones((1, 2), dtype)])
        self.inside = self.products[:, self.around : self.around + patch.bands]
        self.y = aligned((2, patch.bands, 2, o, self.width), dtype)

        self.g_interior = aligned((0,), dtype) if first else self._g_buffer()[inside]

    def _flat(self) -> Array:
        """Return the products, and the bias, of all bands, as rows of a matrix."""
        return self.products.reshape(len(self.products), -1)[:, self._span()]

    def _span(self) -> slice:
        start = self.around * self.products[0, 0].size
        return slice(start, start + self.y[0].size)

    def _g_buffer(self) -> Array:
        """Return where the gradient of the padded input will be, in the shape of the input."""
        c, (h, w) = self.layer.channels[0], self.patch.size
        self.g_input = self.g_columns[:2].reshape(2, h, c, w // 2, self.n).transpose(0, 2, 1, 3, 4)
        self.g_buffer = self.g_input[None]
        if self.patch.phases == (1, 1):
            self.g_buffer = aligned(self.buffer.shape, self.tile.dtype)
        return self.g_buffer

    def _input_columns(self) -> Array:
        """Return what every pair of outputs sees, as a view (3, 2, row, C, pair, N) of the input."""
        _, s_phase, s_c, s_h, s_w, s_n = self.buffer.strides
        odd, step = (s_w, 2 * s_w) if self.patch.phases == (1, 1) else (s_phase, s_w)
        shape = (3, 2, self.patch.size[0], self.layer.channels[0], self.patch.tiles, self.n)
        return as_strided(self.buffer, shape, (step, odd, s_h, s_c, step, s_n), writeable=False)

    def forward(self, result: Array) -> list[Call]:
        patch, layer, dtype = self.patch, self.layer, self.tile.dtype
        seen = self._input_columns()
        calls: list[Call] = [
            partial(np.dot, self.g, self.matrix, self.weight.reshape(POINTS, -1)),
            partial(np.copyto, self.columns.reshape(seen.shape), seen),
            _multiply(self.b, self.columns, self.sums),
            partial(np.matmul, self.weight[:, None], self.seen, out=self.inside[:POINTS]),
        ]
        if len(self.bias):
            biases = self.inside[POINTS].reshape(patch.bands, 2, -1, self.width)
            calls.append(partial(np.copyto, biases, self.bias[:, None]))
        calls.append(_multiply(np.ascontiguousarray(self.a.T), self._flat(), self.y.reshape(2, -1)))
        # A pool compares the columns of pairs, then the rows of bands.
        rows, columns = layer.pool
        self.tall = self.y
        if columns == 2:
            self.tall = aligned(self.y.shape[1:], dtype)
            calls.append(partial(np.maximum, self.y[0], self.y[1], out=self.tall))
        self.pooled = self.tall
        if rows == 2:
            by_rows = np.moveaxis(self.tall, -3, 0)
            self.apart = aligned(by_rows.shape, dtype)
            self.pooled = aligned(by_rows.shape[1:], dtype)
            calls.append(partial(np.copyto, self.apart, by_rows))
            calls.append(partial(np.maximum, self.apart[0], self.apart[1], out=self.pooled))
        if layer.relu:
            calls.append(partial(np.maximum, self.pooled, self.tile.zeros(self.pooled.shape), out=self.pooled))
        calls.append(partial(np.copyto, self._like_pooled(result), self._split(self.pooled)))
        return calls

    def _split(self, pooled: Array) -> Array:
        """Return an array like `pooled` as (column of the pair, band, row of the band, O, pair, N)."""
        rows, columns = self.layer.pool
        return pooled.reshape(2 // columns, self.patch.bands, 2 // rows, -1, self.patch.tiles, self.n)

    def _like_pooled(self, result: Array) -> Array:
        """Return an array like the result in that order, as a view."""
        rows, columns = self.layer.pool
        split = result[0, 0].reshape(-1, self.patch.bands, 2 // rows, self.patch.tiles, 2 // columns, self.n)
        if not np.may_share_memory(split, result):
            raise AssertionError("splitting axes in two copied them")
        view: Array = split.transpose(4, 1, 2, 0, 3, 5)
        return view

    def backward(self, result: Array, incoming: Array) -> list[Call]:
        """Return the calls from the gradient of the result to those of the weight and of the input."""
        layer, tile = self.layer, self.tile
        g = aligned(self.pooled.shape, tile.dtype)
        calls: list[Call] = [partial(np.copyto, self._split(g), self._like_pooled(incoming))]
        if layer.relu:
            mask = aligned(g.shape, bool)
            calls += [partial(np.greater, self.pooled, tile.dtype.type(0), mask), partial(np.multiply, g, mask, g)]
        if len(self.bias):
            sums = aligned(g.size // self.width, tile.dtype)
            calls += [
                partial(np.add.reduce, g.reshape(-1, self.width), axis=1, out=sums),
                partial(np.add.reduce, sums.reshape(-1, len(self.bias)), axis=0, out=self.bias_gradient),
            ]
        # The gradients take the place of the values, which are not needed again.
        rows, columns = layer.pool
        if rows == 2:
            calls += route(g.view(tile.int_type)[None], self.apart[None], tile.int_type, tile.sign_shift)
            calls.append(partial(np.copyto, np.moveaxis(self.tall, -3, 0), self.apart))
        else:
            calls.append(partial(np.copyto, self.tall, g))
        if columns == 2:
            calls += route(self.tall.view(tile.int_type)[None], self.y[None], tile.int_type, tile.sign_shift)
        calls.append(_multiply(self.a[:POINTS], self.y.reshape(2, -1), self._flat()[:POINTS]))
        calls += self._weight_gradient()
        return calls if self.first else calls + self._input_gradient()

    def _weight_gradient(self) -> list[Call]:
        dtype, (height, inner) = self.tile.dtype, self.weight.shape[1:]
        parts = aligned((POINTS, self.patch.bands, inner, height), dtype)
        total = aligned((POINTS, inner * height), dtype)
        return [
            partial(np.matmul, self.seen, self.inside[:POINTS].transpose(0, 1, 3, 2), out=parts),
            partial(np.add.reduce, parts, axis=1, out=total.reshape(POINTS, inner, height)),
            partial(np.dot, np.ascontiguousarray(self.g.T), total, self.gradient),
        ]

    def _input_gradient(self) -> list[Call]:
        """Multiply what the bands that see two rows of the input got by what these rows were multiplied by.

        The sums have a gradient for each pair of outputs; behind the last one of a row stand zeros, because columns
        reach into the next two pairs.
        """
        patch, dtype, c, n = self.patch, self.tile.dtype, self.layer.channels[0], self.n
        height, reach = self.weight.shape[1], self.around + 1  # bands that see a row
        turned = aligned((POINTS, 2 * c, reach * height), dtype)
        split = self.weight.reshape(POINTS, height, reach, 2, c)[:, :, ::-1].transpose(0, 3, 4, 2, 1)
        step, line, size = self.products[0].size, self.width, dtype.itemsize
        pairs = patch.size[0] // 2
        met = as_strided(
            self.products,
            (POINTS, pairs, reach * height, self.width),
            (step * size, height * line * size, line * size, size),
            writeable=False,
        )
        gaps = self.wide_sums.reshape(POINTS, pairs, 2 * c, self.row)
        first = self.g_columns[:2].reshape(-1)
        calls: list[Call] = [
            partial(np.copyto, turned.reshape(split.shape), split),
            partial(gaps[..., self.width :].fill, 0),
            partial(np.matmul, turned[:, None], met, out=gaps[..., : self.width]),
            _multiply(np.ascontiguousarray(self.b.T), self.wide_sums.reshape(POINTS, -1), self.g_columns),
        ]
        for shift in (1, 2):
            there, more = first[shift * n :], self.g_columns[2 * shift : 2 * shift + 2].reshape(-1)
            calls.append(partial(np.add, there, more[: len(there)], there))
        if patch.phases == (1, 1):
            h, w = patch.size
            by_pairs = self.g_buffer.reshape(c, h, w // 2, 2, n)
            calls.append(partial(np.copyto, by_pairs.transpose(3, 0, 1, 2, 4), self.g_input))
        return calls
