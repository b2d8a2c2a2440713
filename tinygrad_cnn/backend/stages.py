"""A convolution of a fused program computed in patches, with its ReLU and pool, as calls bound to their buffers.

See `fused` for the ideas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .patches import SMALL_MATRIX, Band, Patch
from .threads import most_unpacked
from .workspaces import aligned

if TYPE_CHECKING:
    from .tiles import Tile

__all__ = ["PatchCalls", "cut", "input_buffer", "pieces", "route"]

Array = np.ndarray[Any, Any]
Call = Callable[[], Any]

_NARROWEST = 64  # columns of a piece below which its overhead is more than it gains


def pieces(width: int, matrix: int) -> int:
    """Return into how many pieces to cut the columns of a product with a matrix of so many elements."""
    for count in range(1, width // _NARROWEST + 1):
        if width % count == 0 and matrix * (width // count) <= most_unpacked():
            return count
    return 1


def cut(x: Array, count: int) -> Array:
    """Return (S, rows, columns) as the view (S, count, rows, columns / count)."""
    s, rows, columns = x.shape
    return x.reshape(s, rows, count, columns // count).transpose(0, 2, 1, 3)


def _as_wholes(x: Array) -> Array:
    """Return x with its last axis, contiguous in memory, as one element of so many bytes.

    NumPy moves a few large elements faster than many short rows.
    """
    return x.view(np.dtype(f"V{x.shape[-1] * x.itemsize}"))


def product(matrix: Array, x: Array, out: Array) -> Call:
    """Return the product of a high matrix with a narrow one as a call, in pieces that are some rows of the matrix."""
    rows, inner = matrix.shape
    for count in range(1, rows + 1):
        if rows % count == 0 and rows // count * inner * x.shape[1] <= most_unpacked():
            return partial(np.matmul, matrix.reshape(count, -1, inner), x, out=out.reshape(count, -1, x.shape[1]))
    return partial(np.matmul, matrix, x, out=out)


def input_buffer(patch: Patch | Band, n: int, dtype: Any) -> tuple[Array, Any]:
    """Return zeros (f, f, C, rows / f, columns / f, N) for the padded input, f its phases, and where the image is."""
    layer = patch.layer
    (top, bottom), (left, right), (h, w), (fh, fw) = *layer.padding, layer.size, patch.phases
    shape = (fh, fw, layer.channels[0], (h + top + bottom) // fh, (w + left + right) // fw, n)
    padded = any((top, bottom, left, right))
    inside = (..., slice(top, top + h), slice(left, left + w), slice(None)) if padded else ...
    return aligned(shape, dtype), inside


class PatchCalls:
    """The calls of one convolution with its ReLU and pool."""

    def __init__(self, tile: Tile, patch: Patch, matrix: Array, gradient: Array, n: int, *, first: bool) -> None:
        layer = patch.layer
        self.tile, self.patch, self.layer, self.n = tile, patch, layer, n
        self.matrix = matrix.reshape(patch.rows, patch.columns)
        shape = (patch.rows, patch.columns) if patch.upright else (patch.columns, patch.rows)
        self.gradient = gradient.reshape(shape)
        self.first = first
        dtype = tile.dtype
        self.buffer, inside = input_buffer(patch, n, dtype)
        self.interior = self.buffer[inside]  # where the layer before writes
        (fh, fw), shape = patch.phases, self.buffer.shape
        self.by_rows = (*patch.split, patch.step[0] // fh, patch.step[1] // fw) == (1, 1, 1, 1)
        if first:
            self.g_buffer = aligned((0,), dtype)
        elif self.by_rows:
            self.g_buffer = aligned((shape[3], *shape[:3], *shape[4:]), dtype).transpose(1, 2, 3, 0, 4, 5)
        else:
            self.g_buffer = aligned(shape, dtype)
        self.g_interior = self.g_buffer if first else self.g_buffer[inside]
        sorts, count = math.prod(patch.split), math.prod(patch.positions) * n
        self.columns = aligned((sorts, patch.columns, count), dtype)
        if layer.bias is not None:
            self.columns[:, -1] = 1
        self.y = aligned((sorts, patch.rows, count), dtype)
        # The same with the pool's rows and columns first, and then in the shape of the result.
        (mh, mw), (ph, pw), (bh, bw) = patch.split, layer.pool, patch.block
        apart = self.y.reshape(mh, mw, ph, pw, bh, bw, layer.channels[1], *patch.positions, n)
        self.y_apart = apart.transpose(2, 3, 0, 4, 1, 5, 6, 7, 8, 9).reshape(
            ph, pw, mh * bh, mw * bw, layer.channels[1], *patch.positions, n
        )

    def _seen(self) -> Array:
        """Return what all patches see, as a view (split, split, row / f, column / f, f, f, C, rows, columns, N)."""
        patch = self.patch
        (mh, mw), (fh, fw), (ph, pw) = patch.split, patch.phases, patch.positions
        s_fh, s_fw, s_c, s_h, s_w, s_n = self.buffer.strides
        down, across = patch.step[0] // fh * s_h, patch.step[1] // fw * s_w
        shape = (mh, mw, patch.window[0] // fh, patch.window[1] // fw, fh, fw, self.layer.channels[0], ph, pw, self.n)
        steps = (down, across, s_h, s_w, s_fh, s_fw, s_c, mh * down, mw * across, s_n)
        return as_strided(self.buffer, shape, steps, writeable=False)

    def forward(self, result: Array) -> list[Call]:
        patch, layer = self.patch, self.layer
        seen = self._seen()
        columns = self.columns[:, : patch.inputs].reshape(seen.shape)
        if patch.step[1] * patch.split[1] != patch.phases[1]:
            # Neighbours in a row of columns are none in the image.
            columns, seen = _as_wholes(columns), _as_wholes(seen)
        calls: list[Call] = [partial(np.copyto, columns, seen)]
        number = pieces(self.y.shape[2], patch.rows * patch.columns)
        calls.append(partial(np.matmul, self.matrix, cut(self.columns, number), out=cut(self.y, number)))
        # Pairs that a 2 x 2 pool compares, along columns, then along rows: (…, 2, *result) each.
        self.pairs: list[Array] = []
        pool_rows, pool_columns = layer.pool
        tall = self.y_apart
        if pool_columns == 2:
            self.pairs.append(tall)
            tall = result[None] if pool_rows == 1 else aligned((pool_rows, *result.shape), self.tile.dtype)
            calls.append(partial(np.maximum, self.pairs[-1][:, 0], self.pairs[-1][:, 1], out=tall))
        else:
            tall = tall[:, 0]
        if pool_rows == 2:
            self.pairs.append(tall[None])
            calls.append(partial(np.maximum, tall[0], tall[1], out=result))
        source = result if self.pairs else self.y_apart[0, 0]
        if layer.relu:
            calls.append(partial(np.maximum, source, self.tile.zeros(result.shape), out=result))
        elif source is not result:
            calls.append(partial(np.copyto, result, source))
        return calls

    def backward(self, result: Array, incoming: Array) -> list[Call]:
        """Return the calls from the gradient of the result to those of the matrix and of the input."""
        layer, tile = self.layer, self.tile
        calls: list[Call] = []
        # The gradient in front of the pool takes the place of the convolution's result, which is not needed again.
        if not self.pairs:
            g = self.y_apart[0, 0]
        else:
            g = incoming if incoming.flags.c_contiguous else aligned(result.shape, tile.dtype)
        if g is not incoming:
            calls.append(partial(np.copyto, g, incoming))
        if layer.relu:
            mask = aligned(result.shape, bool)
            calls += [partial(np.greater, result, tile.dtype.type(0), mask), partial(np.multiply, g, mask, g)]
        # Going back, the gradients of the pairs take the place of their values, which are not needed again.
        flow = g.view(tile.int_type)[None]
        for pairs in reversed(self.pairs):
            calls += route(flow, pairs, tile.int_type, tile.sign_shift)
            flow = pairs[0].view(tile.int_type)
        calls += self._matrix_gradient()
        return calls if self.first else calls + self._input_gradient()

    def _matrix_gradient(self) -> list[Call]:
        patch, dtype = self.patch, self.tile.dtype
        size = patch.rows * patch.columns
        count = pieces(self.y.shape[2], size) if size <= SMALL_MATRIX else 1
        y, columns = cut(self.y, count), cut(self.columns, count)
        left, right = (y, columns) if patch.upright else (columns, y)
        right = right.transpose(0, 1, 3, 2)
        if len(y) * count == 1:
            return [partial(np.matmul, left[0, 0], right[0, 0], out=self.gradient)]
        parts = aligned((*y.shape[:2], *self.gradient.shape), dtype)
        return [
            partial(np.matmul, left, right, out=parts),
            partial(np.add.reduce, parts.reshape(-1, *self.gradient.shape), axis=0, out=self.gradient),
        ]

    def _input_gradient(self) -> list[Call]:
        """Multiply by the transposed matrix, and add what belongs to each place of the windows, one after the other."""
        patch = self.patch
        # In the place of the columns, which are not needed again, and are in the cache still.
        spread = self.columns[:, : patch.inputs]
        multiply = partial(np.matmul, self.matrix[:, : patch.inputs].T, self.y, out=spread)
        (mh, mw), (fh, fw), (ph, pw) = patch.split, patch.phases, patch.positions
        wh, ww, c = patch.window[0] // fh, patch.window[1] // fw, self.layer.channels[0]
        parts = spread.reshape(mh, mw, wh, ww, fh, fw, c, ph, pw, self.n).transpose(2, 3, 4, 5, 6, 7, 0, 8, 1, 9)
        if self.by_rows:
            return [multiply, *self._added_by_rows(parts.reshape(wh, ww, fh, fw, c, ph, pw, self.n))]
        down, across = patch.step[0] // fh, patch.step[1] // fw
        calls: list[Call] = [multiply, partial(self.g_buffer.fill, 0)]
        for a in range(wh):
            for b in range(ww):
                rows = slice(a, a + down * (mh * ph - 1) + 1, down)
                columns = slice(b, b + across * (mw * pw - 1) + 1, across)
                target = self.g_buffer[:, :, :, rows, columns].reshape(fh, fw, c, ph, mh, pw, mw, self.n)
                if not np.may_share_memory(target, self.g_buffer):
                    raise AssertionError("splitting an axis in two copied it")
                calls.append(partial(np.add, target, parts[a, b], target))
        return calls

    def _added_by_rows(self, parts: Array) -> list[Call]:
        """Return the calls that add parts[a, b], shifted down by a and across by b, up in `g_buffer`.

        NumPy adds arrays that have gaps through a buffer, four times as slow as arrays without, but copies them fast.
        So each part is copied to where it belongs in rows of full width, zeros left and right of it, and whole rows,
        the outermost axis here, are added up.
        """
        (wh, ww), (ph, pw) = parts.shape[:2], parts.shape[5:7]
        total = self.g_buffer.transpose(3, 0, 1, 2, 4, 5)
        calls: list[Call] = [partial(total[ph:].fill, 0)]
        for b in range(ww):
            widened = aligned((ph, *total.shape[1:]), self.tile.dtype)
            place = widened[:, :, :, :, b : b + pw]
            for a in range(wh):
                target = total[a : a + ph]
                calls.append(partial(np.copyto, place, parts[a, b].transpose(3, 0, 1, 2, 4, 5)))
                first = a == b == 0
                calls.append(partial(np.copyto, target, widened) if first else partial(np.add, target, widened, target))
        return calls


def route(flow: Array, pair: Array, int_type: Any, shift: int) -> list[Call]:
    """Send the gradient `flow` to the larger of each pair, to the first if they are equal, in place of the pair.

    The sign of first − second, spread over the whole word, is a mask; what the mask takes away from the second belongs
    to the first, and exclusive or gets it there without a second mask.
    """
    first, second = pair[:, 0], pair[:, 1]
    first_bits, second_bits = first.view(int_type), second.view(int_type)
    return [
        partial(np.subtract, first, second, second),
        partial(np.right_shift, second_bits, shift, second_bits),
        partial(np.bitwise_and, flow, second_bits, second_bits),
        partial(np.bitwise_xor, flow, second_bits, first_bits),
    ]
