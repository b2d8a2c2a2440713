"""How the convolutions of a fused program are cut into patches: see `fused` for what that is good for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from .threads import most_unpacked

__all__ = ["SMALL_MATRIX", "Band", "Convolution", "Linear", "Patch", "choose_patches", "largest_tile"]

Array = np.ndarray[Any, Any]
Pair = tuple[int, int]

TILE = 32  # samples a thread works on at a time, if their buffers fit into
BUDGET = 64 << 20  # bytes per thread
BAND_COLUMNS = 5  # of a kernel
SMALL_MATRIX = 2048  # elements of a patch's matrix up to which products in small pieces are faster


@dataclass(frozen=True)
class Convolution:
    """A convolution, then perhaps ReLU, then perhaps a pool of 1 or 2 without overlap.

    Attributes:
        weight, bias: numbers of the parameters.
        channels: (in, out).
        size: height and width of the input.
    """

    weight: int
    bias: int | None
    channels: Pair
    size: Pair
    kernel: Pair
    stride: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair
    relu: bool
    pool: Pair

    @property
    def output(self) -> Pair:
        """Height and width before the pool."""
        rows, columns = (
            (self.size[a] + sum(self.padding[a]) - self.dilation[a] * (self.kernel[a] - 1) - 1) // self.stride[a] + 1
            for a in (0, 1)
        )
        return rows, columns

    @property
    def pooled(self) -> Pair:
        """Height and width of the result."""
        return self.output[0] // self.pool[0], self.output[1] // self.pool[1]


@dataclass(frozen=True)
class Linear:
    """y = x Wᵀ + b, then perhaps ReLU. `features` is (in, out)."""

    weight: int
    bias: int | None
    features: Pair
    relu: bool


class Patch:
    """How one convolution is cut into patches, and where its weight stands in the matrix of a patch.

    Rows of that matrix are ordered (pool row, pool column, block row, block column, out channel), its columns
    (⌊row / f⌋, ⌊column / f⌋, row mod f, column mod f, in channel) of the window, f the input's phases; then the bias.

    Attributes:
        phases: of the input.
        block: pooled outputs per patch.
        split: the positions of patches are sorted by (row mod split, column mod split). Block or split is (1, 1).
        result_phases: their product, the phases of the result.
    """

    def __init__(self, layer: Convolution, phases: Pair, block: Pair, split: Pair) -> None:
        self.layer = layer
        self.phases = phases
        self.block = block
        self.split = split
        self.result_phases = block[0] * split[0], block[1] * split[1]
        self.patch = block[0] * layer.pool[0], block[1] * layer.pool[1]
        self.step = self.patch[0] * layer.stride[0], self.patch[1] * layer.stride[1]
        self.window = _windows(layer, self.patch)
        self.positions = layer.pooled[0] // self.result_phases[0], layer.pooled[1] // self.result_phases[1]
        self.rows = self.patch[0] * self.patch[1] * layer.channels[1]
        self.inputs = self.window[0] * self.window[1] * layer.channels[0]
        self.columns = self.inputs + (layer.bias is not None)

    def reads(self, phases: Pair) -> bool:
        """Return whether the input may come in these phases: each window then starts with the first."""
        if any(map(any, self.layer.padding)):
            return phases == (1, 1)
        return all(self.step[a] % phases[a] == 0 and self.window[a] % phases[a] == 0 for a in (0, 1))

    def places(self) -> Array:
        """Return for every element of the patch's matrix which weight (then bias) stands there; −1 for a zero."""
        return self._places().ravel()

    def gradient_places(self) -> Array:
        """Return the same for the gradient of the matrix, in the shape in which it is computed."""
        matrix = self._places()
        return (matrix if self.upright else matrix.T).ravel()

    def _places(self) -> Array:
        layer = self.layer
        (c, o), (kh, kw), (sh, sw), (dh, dw) = layer.channels, layer.kernel, layer.stride, layer.dilation
        numbers = np.arange(o * c * kh * kw).reshape(o, c, kh, kw)
        (ph, pw), (wh, ww), (fh, fw) = self.patch, self.window, self.phases
        full = np.full((ph, pw, o, c, wh, ww), -1)
        for i in range(ph):
            for j in range(pw):
                rows = slice(i * sh, i * sh + (kh - 1) * dh + 1, dh)
                columns = slice(j * sw, j * sw + (kw - 1) * dw + 1, dw)
                full[i, j, :, :, rows, columns] = numbers
        split = full.reshape(
            self.block[0], layer.pool[0], self.block[1], layer.pool[1], o, c, wh // fh, fh, ww // fw, fw
        )
        matrix = split.transpose(1, 3, 0, 2, 4, 6, 8, 7, 9, 5).reshape(self.rows, self.inputs)
        if layer.bias is None:
            return matrix
        bias = np.tile(np.arange(o) + numbers.size, ph * pw)[:, None]
        return np.concatenate([matrix, bias], axis=1)

    @property
    def upright(self) -> bool:
        """Whether the gradient of the matrix is computed upright: BLAS is faster with the higher matrix first."""
        return self.rows >= self.columns

    @property
    def elements(self) -> int:
        """Numbers that the buffers hold per sample."""
        return math.prod(self.positions) * math.prod(self.split) * (self.columns + 2 * self.rows + self.inputs)

    @property
    def cost(self) -> float:
        """An estimate of the time: arithmetic, dearer for low matrices and for large, and the copying of columns."""
        patches = math.prod(self.positions) * math.prod(self.split)
        arithmetic = _product(self.rows, self.inputs)
        if self.rows * self.inputs <= SMALL_MATRIX:
            arithmetic *= 0.6
        return patches * (arithmetic + 30 * self.inputs)


def _product(rows: int, inner: int) -> float:
    """Return an estimate of the time of a product per column of its result."""
    return rows * inner * (1 + 16 / rows) * (1 + 16 / inner)


class Band:
    """How a convolution five columns wide is computed in bands two rows high, by Winograd's algorithm: see `bands`.

    A band needs 6 products of matrices for every two columns, where five columns twice would be 10. Their weight is
    a matrix per sum of kernel columns: its rows are ordered (row of the band, out channel), its columns (row of what
    the band sees, in channel).

    Attributes:
        phases: of the input.
        rows: of the input that a band sees.
        size: height and width of the padded input.
        bands, tiles: how many bands there are, and pairs of columns in each.
    """

    result_phases = 1, 1

    def __init__(self, layer: Convolution, phases: Pair = (1, 1)) -> None:
        self.layer = layer
        self.phases = phases
        self.rows = layer.kernel[0] + 1
        self.size = layer.size[0] + sum(layer.padding[0]), layer.size[1] + sum(layer.padding[1])
        self.bands, self.tiles = layer.output[0] // 2, layer.output[1] // 2
        self.positions = layer.pooled

    @staticmethod
    def fits(layer: Convolution) -> bool:
        """Return whether a convolution can be computed so: kernel 5 wide and of odd height, results of even size."""
        return (
            layer.kernel[1] == BAND_COLUMNS
            and layer.kernel[0] % 2 == 1
            and layer.stride == layer.dilation == (1, 1)
            and all(n % 2 == 0 for n in layer.output)
        )

    def reads(self, phases: Pair) -> bool:
        """Return whether the input may come in these phases: as it is, or sorted by even and odd columns."""
        return phases == (1, 1) or (phases == (1, 2) and not any(map(any, self.layer.padding)))

    def places(self) -> Array:
        """Return for every element of the matrices of single kernel columns which weight stands there; then the bias.

        −1 is a zero.
        """
        return np.concatenate([self._places().ravel(), self._biases()])

    def gradient_places(self) -> Array:
        """Return the same for the gradients of these matrices, which are computed transposed."""
        return np.concatenate([self._places().transpose(0, 2, 1).ravel(), self._biases()])

    def _places(self) -> Array:
        (c, o), (kh, kw) = self.layer.channels, self.layer.kernel
        numbers = np.arange(o * c * kh * kw).reshape(o, c, kh, kw)
        full = np.full((kw, 2, o, self.rows, c), -1)
        for row in range(2):
            full[:, row, :, row : row + kh] = numbers.transpose(3, 0, 2, 1)
        return full.reshape(kw, 2 * o, self.rows * c)

    def _biases(self) -> Array:
        (c, o), (kh, kw) = self.layer.channels, self.layer.kernel
        return np.arange(o if self.layer.bias is not None else 0) + o * c * kh * kw

    @property
    def elements(self) -> int:
        """Numbers that the buffers hold per sample."""
        (c, o), (h, w) = self.layer.channels, self.size
        return 12 * h * c * (w // 2) + 2 * o * self.tiles * (7 * (self.bands + self.rows - 2) + 4 * self.bands)

    @property
    def cost(self) -> float:
        """An estimate of the time, on the scale of that of patches: 6 products, and transforms to and fro."""
        c, o = self.layer.channels
        arithmetic = 6 * _product(2 * o, self.rows * c)
        if not most_unpacked():
            arithmetic *= 1.5  # smaller matrices than those of patches
        return self.bands * self.tiles * (arithmetic + 240 * (c + o))


def _windows(layer: Convolution, patch: Pair) -> Pair:
    """Return the height and width of what a patch of outputs sees."""
    rows, columns = ((patch[a] - 1) * layer.stride[a] + layer.dilation[a] * (layer.kernel[a] - 1) + 1 for a in (0, 1))
    return rows, columns


def largest_tile(layers: Sequence[Convolution | Linear], dtype: Any) -> int:
    """Return how many samples a thread works on at a time, as far as they fit into its budget of memory; maybe 0.

    These are 32, or 64 where products are the slower the smaller they are.
    """
    elements = 0
    for patch in choose_patches([layer for layer in layers if isinstance(layer, Convolution)]):
        elements += patch.elements
        elements += 2 * patch.layer.channels[0] * math.prod(patch.layer.size)
    elements += 3 * sum(sum(layer.features) for layer in layers if isinstance(layer, Linear))
    tile = TILE if most_unpacked() else 2 * TILE
    return int(min(tile, BUDGET // (elements * np.dtype(dtype).itemsize)))


def _divisors(n: int, limit: int = 8) -> list[int]:
    return [d for d in range(1, min(n, limit) + 1) if n % d == 0]


def choose_patches(layers: Sequence[Convolution]) -> list[Patch | Band]:
    """Choose the patches of successive convolutions, from the last to the first: the last result has no phases.

    Where bands take less time, they take the place of patches.
    """
    found: list[Patch | Band] = []
    for layer in reversed(layers):
        sizes = [(a, b) for a in _divisors(layer.pooled[0]) for b in _divisors(layer.pooled[1])]
        choices: list[Patch | Band] = [Patch(layer, (1, 1), size, (1, 1)) for size in sizes]
        choices += [Patch(layer, (1, 1), (1, 1), size) for size in sizes]
        if Band.fits(layer):
            choices.append(Band(layer))
        following = found[0] if found else None
        fitting = [c for c in choices if (following.reads(c.result_phases) if following else c.result_phases == (1, 1))]
        found.insert(0, min(fitting, key=lambda c: (c.cost, -math.prod(c.result_phases))))
    for patch, following in pairwise(found):
        following.phases = patch.result_phases
    return found
