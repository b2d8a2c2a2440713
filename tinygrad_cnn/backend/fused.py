"""A training step of a convolutional network as one fixed list of array calls.

A `Program` is built from a description of the layers. It holds every buffer of the step, and running it is a loop over
calls that are bound to their arguments, so that the time goes into arithmetic. Three ideas make the calls few and fast:

- The batch is the innermost axis in memory (see `numpy_kernels`), and a thread works through its own slice of it, small
  enough to stay in its cache, from the first layer to the last and back.
- *Patches.* A convolution is computed for a patch of neighbouring outputs at once, as the rows of one higher matrix
  product, whose weight holds a shifted copy of the kernel per output of the patch. For LeNet-5 the matrices get 4 times
  as high, which BLAS likes, and the columns 2.8 times fewer, for 1.4 times the arithmetic.
- *Phases.* Outputs that a pool compares lie in different row blocks of that product, so pooling takes maxima of whole
  contiguous blocks. And the positions of the patches are sorted by their place (the phase) in the patches of the next
  layer, which then reads each phase as one strided view: no element is ever moved only to change its place.
- *Pieces.* OpenBLAS multiplies small matrices without packing them first, up to twice as fast. So a wide product is cut
  into pieces of at most a million multiplications, as one batched call.

Bias and ReLU come after the pool, on a quarter of the elements: max(x + b) = max(x) + b, and ReLU is monotonic.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from sys import getrefcount
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from . import processes
from .numpy_kernels import adam_step
from .threads import Crew, cpus, single_threaded_blas
from .workspaces import aligned, release

__all__ = ["Convolution", "Linear", "Parameters", "Program", "largest_tile"]

Array = np.ndarray[Any, Any]
Call = Callable[[], Any]
Pair = tuple[int, int]

TILE = 64  # samples a thread works on at a time, if their buffers fit into
BUDGET = 64 << 20  # bytes per thread
_UNPACKED = 1_000_000  # multiplications up to which OpenBLAS does not pack
_NARROWEST = 64  # columns of a piece below which its overhead is more than it gains
_SMALL_MATRIX = 2048  # elements of a patch's matrix up to which gradients gain from pieces too


def _pieces(width: int, matrix: int) -> int:
    """Return into how many pieces to cut the columns of a product with a matrix of so many elements."""
    for count in range(1, width // _NARROWEST + 1):
        if width % count == 0 and matrix * (width // count) <= _UNPACKED:
            return count
    return 1


def _cut(x: Array, pieces: int) -> Array:
    """Return (S, rows, columns) as the view (S, pieces, rows, columns / pieces)."""
    s, rows, columns = x.shape
    return x.reshape(s, rows, pieces, columns // pieces).transpose(0, 2, 1, 3)


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


class _Patch:
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
    def cost(self) -> float:
        """An estimate of the time: arithmetic, dearer for low matrices and for large, and the copying of columns."""
        patches = math.prod(self.positions) * math.prod(self.split)
        arithmetic = self.rows * self.inputs * (1 + 16 / self.rows) * (1 + 16 / self.inputs)
        if self.rows * self.inputs <= _SMALL_MATRIX:
            arithmetic *= 0.6
        return patches * (arithmetic + 30 * self.inputs)


def _windows(layer: Convolution, patch: Pair) -> Pair:
    """Return the height and width of what a patch of outputs sees."""
    rows, columns = ((patch[a] - 1) * layer.stride[a] + layer.dilation[a] * (layer.kernel[a] - 1) + 1 for a in (0, 1))
    return rows, columns


def largest_tile(layers: Sequence[Convolution | Linear], dtype: Any) -> int:
    """Return how many samples a thread works on at a time: 64, or as many as fit into its budget of memory; maybe 0."""
    elements = 0
    for number, patch in enumerate(_patches([layer for layer in layers if isinstance(layer, Convolution)])):
        places = math.prod(patch.positions) * math.prod(patch.split)
        elements += places * (patch.columns + 2 * patch.rows + (patch.inputs if number else 0))
        elements += 2 * patch.layer.channels[0] * math.prod(patch.layer.size)
    elements += 3 * sum(sum(layer.features) for layer in layers if isinstance(layer, Linear))
    return int(min(TILE, BUDGET // (elements * np.dtype(dtype).itemsize)))


def _divisors(n: int, limit: int = 8) -> list[int]:
    return [d for d in range(1, min(n, limit) + 1) if n % d == 0]


def _patches(layers: Sequence[Convolution]) -> list[_Patch]:
    """Choose the patches of successive convolutions, from the last to the first: the last result has no phases."""
    found: list[_Patch] = []
    for layer in reversed(layers):
        sizes = [(a, b) for a in _divisors(layer.pooled[0]) for b in _divisors(layer.pooled[1])]
        choices = [_Patch(layer, (1, 1), size, (1, 1)) for size in sizes]
        choices += [_Patch(layer, (1, 1), (1, 1), size) for size in sizes]
        following = found[0] if found else None
        fitting = [c for c in choices if (following.reads(c.result_phases) if following else c.result_phases == (1, 1))]
        found.insert(0, min(fitting, key=lambda c: (c.cost, -math.prod(c.result_phases))))
    for patch, following in pairwise(found):
        following.phases = patch.result_phases
    return found


class Parameters:
    """All parameters of a network in one flat array, which several programs can share, and what else is flat like it.

    Attributes:
        flat: the values.
        views: its parts in the parameters' shapes; who reads or writes them reads or writes `flat`.
        moments: two more such arrays, for an optimizer.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self.shapes = list(shapes)
        self.sizes = [math.prod(shape) for shape in shapes]
        self.starts = np.cumsum([0, *self.sizes]).tolist()
        # One more element than there are parameters: the zero that stands between the shifted kernels of a patch.
        self.with_zero = _shared(self.starts[-1] + 1, dtype)
        self.flat = self.with_zero[:-1]
        self.views = self.split(self.flat)
        self.moments = [_shared(len(self.flat), dtype) for _ in range(2)]
        self.gradients = [_shared(len(self.flat), dtype) for _ in range(2)]
        self._references = [getrefcount(_owner(g)) for g in self.gradients]

    def empty(self) -> Array:
        """Return a flat array for gradients that nobody else refers to: one of `gradients` if possible."""
        for g, alone in zip(self.gradients, self._references, strict=True):
            if getrefcount(_owner(g)) == alone:
                return g[:]  # which refers to the owner
        return np.empty(len(self.flat), self.dtype)

    def split(self, flat: Array) -> list[Array]:
        """Return the parts of such a flat array in the parameters' shapes."""
        return [
            flat[start : start + size].reshape(shape)
            for start, size, shape in zip(self.starts, self.sizes, self.shapes, strict=False)
        ]


def _shared(size: int | tuple[int, ...], dtype: Any) -> Array:
    """Return memory that helper processes see too, where there can be any."""
    return processes.shared_array(size, dtype) if processes.available() else aligned(size, dtype)


def _owner(array: Array) -> Any:
    """Return what all views of the same memory refer to."""
    return array if array.base is None else array.base


class Program:
    """Forward, mean cross-entropy and all gradients of a chain of convolutions and linear layers.

    Args:
        layers: convolutions, then at least one `Linear`; the outputs of the last are the logits.
        parameters: where the numbers in the layers point to.
        batch: how many samples a step has.
        tile: how many samples a thread works on at a time; default: `largest_tile()`.
        threads: at most this many; default: as many as the process may use.
        forking: let helper processes do what threads would do, where they can be had (see `processes`).

    Attributes:
        logits: (N, classes), as the last run left them.
    """

    def __init__(
        self,
        layers: Sequence[Convolution | Linear],
        parameters: Parameters,
        batch: int,
        *,
        tile: int | None = None,
        threads: int | None = None,
        forking: bool = True,
    ) -> None:
        tile = max(1, largest_tile(layers, parameters.dtype)) if tile is None else tile
        self.batch = batch
        self.parameters = parameters
        self.dtype = parameters.dtype
        convolutions = [layer for layer in layers if isinstance(layer, Convolution)]
        self.linears = [layer for layer in layers if isinstance(layer, Linear)]
        self.patches = _patches(convolutions)
        self._lay_out()

        threads = max(1, min(cpus() if threads is None else threads, batch))
        slices = -(-batch // (threads * tile))
        bounds = np.linspace(0, batch, threads * slices + 1).astype(int).tolist()
        allot = _shared if threads > 1 else aligned
        self.logits = allot((batch, self.linears[-1].features[1]), self.dtype)
        self.losses = allot(batch, self.dtype)
        self.shares: list[_Share] = []
        for number in range(threads):
            ends = bounds[number * slices : (number + 1) * slices + 1]
            pieces = [(a, b) for a, b in pairwise(ends) if b > a]
            if pieces:
                self.shares.append(_Share(self, pieces))
        self._crew = Crew()
        self._team = _Team(self, layers[0], forking)
        weakref.finalize(self, self._team.stop)

    def _lay_out(self) -> None:
        """Say where the matrix of each patch stands in one flat array, and where the gradients do.

        `_source` is a gather that makes all matrices from the parameters; `_folds` gather the gradients of the copies
        of each weight, to be summed.
        """
        parameters = self.parameters
        sources = [np.empty(0, int)]
        self._folds: list[tuple[Array, Array, int, int]] = []
        self._starts: list[int] = []
        start = 0
        for patch in self.patches:
            layer = patch.layer
            places = patch.places().ravel()
            numbers = np.arange(parameters.sizes[layer.weight]) + parameters.starts[layer.weight]
            if layer.bias is not None:
                numbers = np.concatenate([numbers, np.arange(layer.channels[1]) + parameters.starts[layer.bias]])
            sources.append(np.where(places < 0, len(parameters.flat), numbers[places]))
            order = np.argsort(places, kind="stable")[np.count_nonzero(places < 0) :]
            copies = start + np.ascontiguousarray(order.reshape(len(numbers), -1).T)
            scratch = aligned(copies.shape, self.dtype)
            weights = parameters.sizes[layer.weight]
            self._folds.append((copies[:, :weights], scratch[:, :weights], *self._span(layer.weight)))
            if layer.bias is not None:
                self._folds.append((copies[:, weights:], scratch[:, weights:], *self._span(layer.bias)))
            self._starts.append(start)
            start += places.size
        self._source = np.concatenate(sources)
        self._matrices = aligned(start, self.dtype)
        self._linear_start = start
        # Behind the matrices those of the linear layers, in the order of the parameters: then runs of them are one.
        self._linear_starts: dict[int, int] = {}
        self._runs: list[tuple[int, int, int]] = []  # (start here, start among the parameters, elements)
        for number in sorted(n for layer in self.linears for n in (layer.weight, layer.bias) if n is not None):
            self._linear_starts[number] = start
            source, target, size = self._runs[-1] if self._runs else (start, -1, 0)
            if target + size == parameters.starts[number]:
                self._runs[-1] = source, target, size + parameters.sizes[number]
            else:
                self._runs.append((start, parameters.starts[number], parameters.sizes[number]))
            start += parameters.sizes[number]
        self.width = start

    def _span(self, number: int) -> Pair:
        start = self.parameters.starts[number]
        return start, start + self.parameters.sizes[number]

    def matrix(self, number: int, flat: Array | None = None) -> Array:
        """Return the matrix of patch `number`, or its part of a flat array laid out like all matrices."""
        start, patch = self._starts[number], self.patches[number]
        size = patch.rows * patch.columns
        return (self._matrices if flat is None else flat)[start : start + size].reshape(patch.rows, patch.columns)

    def linear_gradients(self, flat: Array) -> dict[int, Array]:
        """Return where in such a flat array the gradients of the linear layers go, by number of the parameter."""
        sizes, shapes = self.parameters.sizes, self.parameters.shapes
        return {n: flat[a : a + sizes[n]].reshape(shapes[n]) for n, a in self._linear_starts.items()}

    def run(self, x: Array, labels: Array, gradients: Array) -> float:
        """Write the gradients of all parameters into a flat array, fill `logits`, and return the mean loss."""
        labels = labels.astype(np.intp, copy=False)  # a narrow type would overflow when indices are made of it
        with single_threaded_blas():
            helped = self._team.begin(x, labels)
            self.gather()
            if helped:
                self.shares[0].run(x, labels)
                for number in self._team.left_undone():
                    self.shares[0].stand_in(self.shares[number], x, labels)
            elif self._team.coming:
                for share in self.shares[1:]:
                    self.shares[0].stand_in(share, x, labels)
                self.shares[0].run(x, labels)
            else:
                self._crew.run([partial(share.run, x, labels) for share in self.shares])
        self._add_up(gradients)
        return float(self.losses.sum(dtype=np.float64)) / self.batch

    def _add_up(self, gradients: Array) -> None:
        """Add the gradients of all shares, and those of all copies of a weight."""
        total, *others = (share.total for share in self.shares)
        matrices = slice(self._linear_start)
        for other in others:
            np.add(total[matrices], other[matrices], out=total[matrices])
        for copies, scratch, start, end in self._folds:
            np.take(total, copies, out=scratch, mode="clip")
            np.add.reduce(scratch, axis=0, out=gradients[start:end])
        for source, start, size in self._runs:
            here, there = slice(source, source + size), slice(start, start + size)
            sum_of_first = total[here]
            for other in others:
                sum_of_first = np.add(sum_of_first, other[here], out=gradients[there])
            if not others:
                np.copyto(gradients[there], sum_of_first)

    def gather(self) -> None:
        """Make the matrices of all patches from the parameters."""
        np.take(self.parameters.with_zero, self._source, out=self._matrices, mode="clip")

    def adam_step(self, gradients: Array, **options: Any) -> None:
        """Update all parameters and the moments: see `numpy_kernels.adam_step` for the formulas and the options."""
        helped = self._team.begin_adam(gradients, options)
        self.update_part(0, gradients, options)
        for number in self._team.left_undone() if helped else range(1, len(self.shares)):
            self.update_part(number, gradients, options)

    def update_part(self, number: int, gradients: Array, options: dict[str, Any]) -> None:
        """Take a step of Adam on one of as many parts of the parameters as there are shares."""
        store, count = self.parameters, len(self.shares)
        part = slice(len(store.flat) * number // count, len(store.flat) * (number + 1) // count)
        adam_step(store.flat[part], gradients[part], *(m[part] for m in store.moments), **options)


class _Share:
    """What one thread or process does: its slices of the batch, one after the other, in one set of buffers.

    The buffers are made when they are first needed, and so only by the process that needs them.
    """

    def __init__(self, program: Program, pieces: list[Pair]) -> None:
        self.program = weakref.proxy(program)
        self.pieces = pieces
        self.span = slice(pieces[0][0], pieces[-1][1])
        self.total = _shared(program.width, program.dtype)
        self.gradients = aligned(program.width, program.dtype) if len(pieces) > 1 else self.total
        self.tiles: dict[int, _Tile] = {}

    def run(self, x: Array, labels: Array, pieces: list[Pair] | None = None) -> None:
        """Leave the gradients of these samples in `total`, and their logits and losses with the program."""
        program = self.program
        for number, (a, b) in enumerate(self.pieces if pieces is None else pieces):
            tile = self.tiles.get(b - a)
            if tile is None:
                tile = self.tiles[b - a] = _Tile(program, b - a, self.gradients)
            tile.run(x[a:b], labels[a:b], program.losses[a:b])
            program.logits[a:b] = tile.logits.T
            if self.total is not self.gradients:
                if number == 0:
                    np.copyto(self.total, self.gradients)
                else:
                    np.add(self.total, self.gradients, out=self.total)

    def stand_in(self, other: _Share, x: Array, labels: Array) -> None:
        """Do what another share should do, in the buffers of this one: slower than two threads, but in half as much."""
        kept = self.total.copy()
        self.run(x, labels, other.pieces)
        np.copyto(other.total, self.total)
        np.copyto(self.total, kept)


_GRADIENTS, _ADAM = range(2)
_RUNS_ALONE = 2  # before processes are started for a program: most are run often, or hardly at all
_OPTIONS = ("step", "lr", "beta1", "beta2", "eps", "weight_decay", "decoupled")


class _Team:
    """The helper processes of a program, one for each share but the first, and what they are told in shared memory.

    Whoever begins something asks `left_undone()` afterwards: it waits, and names the shares that the caller must do.
    """

    def __init__(self, program: Program, first: Convolution | Linear, wanted: bool) -> None:
        self.program = weakref.proxy(program)
        self.helpers: list[processes.Helper] = []
        self.runs = 0
        self.wanted = wanted and processes.available() and len(program.shares) > 1
        if self.wanted:
            shape = (first.channels[0], *first.size) if isinstance(first, Convolution) else (first.features[0],)
            self.rest = slice(program.shares[1].span.start, None)
            self.x = processes.shared_array((program.batch, *shape), program.dtype)
            self.labels = processes.shared_array(program.batch, np.intp)
            self.options = processes.shared_array(len(_OPTIONS), np.float64)

    def begin(self, x: Array, labels: Array) -> bool:
        """Let the helpers compute the gradients of their shares; return False if there are no helpers."""
        self.runs += self.wanted
        if self.coming or not self.wanted:
            return False
        if not self.helpers and not self._started():
            return False
        if not all(helper.usable for helper in self.helpers):
            return False
        np.copyto(self.x[self.rest], x[self.rest].reshape(self.x[self.rest].shape))
        np.copyto(self.labels[self.rest], labels[self.rest])
        self._send(_GRADIENTS)
        return True

    def _started(self) -> bool:
        """Start the helpers; return False if the system has no processes to give."""
        # Of memory that exists now, each process would come to have a copy of its own.
        self.program.shares[0].tiles.clear()
        release()
        try:
            for number in range(1, len(self.program.shares)):
                self.helpers.append(processes.Helper(partial(self._work, number)))
        except OSError:
            self.stop()
            self.wanted = False
        return self.wanted

    @property
    def coming(self) -> bool:
        """Whether there are no helpers yet, but soon will be."""
        return self.wanted and self.runs <= _RUNS_ALONE

    def begin_adam(self, gradients: Array, options: dict[str, Any]) -> bool:
        """Let the helpers update their parts of the parameters; return False if they cannot."""
        owners = [_owner(g) is _owner(gradients) for g in self.program.parameters.gradients]
        if not self.helpers or not any(owners) or not all(helper.usable for helper in self.helpers):
            return False
        self.options[...] = [options[name] for name in _OPTIONS]
        self._send(_ADAM + owners.index(True))
        return True

    def left_undone(self) -> list[int]:
        """Wait for all helpers; return the numbers of those that did not do what they were told."""
        done = [helper.wait() for helper in self.helpers]
        return [number for number, well in enumerate(done, 1) if not well]

    def stop(self) -> None:
        for helper in self.helpers:
            helper.stop()
        self.helpers.clear()

    def _send(self, command: int) -> None:
        for helper in self.helpers:
            helper.send(command)

    def _work(self, number: int, command: int) -> None:
        """Do, in a helper, what it was told."""
        program = self.program
        if command == _GRADIENTS:
            program.gather()
            program.shares[number].run(self.x, self.labels)
        else:
            options = dict(zip(_OPTIONS, self.options.tolist(), strict=True))
            program.update_part(number, program.parameters.gradients[command - _ADAM], options)


class _Tile:
    """The calls for one slice of the batch, bound to their buffers."""

    def __init__(self, program: Program, n: int, gradients: Array) -> None:
        patches, linears = program.patches, program.linears
        self.n = n
        self.scale = program.dtype.type(1 / program.batch)
        self.dtype = program.dtype
        self.int_type = np.dtype(f"i{program.dtype.itemsize}")
        self.sign_shift = program.dtype.itemsize * 8 - 1
        self._zeros: dict[int, Array] = {}
        self.forward: list[Call] = []
        backward: list[list[Call]] = []
        h: Array
        gh: Array | None

        stages = [
            _ConvolutionCalls(self, patch, program.matrix(i), program.matrix(i, gradients), n, first=i == 0)
            for i, patch in enumerate(patches)
        ]
        if stages:
            self.input = stages[0].interior
            for stage, following in zip(stages, [*stages[1:], None], strict=False):
                if following is None:
                    patch = stage.patch
                    shape = (*patch.result_phases, patch.layer.channels[1], *patch.positions, n)
                    result = aligned(shape, self.dtype)
                    incoming = aligned(result.shape, self.dtype)
                else:
                    result, incoming = following.interior, following.g_interior
                self.forward += stage.forward(result)
                backward.append(stage.backward(result, incoming))
            h, gh = result.reshape(-1, n), incoming.reshape(-1, n)
        else:
            self.input = aligned((linears[0].features[0], n), self.dtype)
            h, gh = self.input, None

        ones = np.ones(n, self.dtype)
        targets = program.linear_gradients(gradients)
        views = program.parameters.views
        for layer in linears:
            w = views[layer.weight]
            z = aligned((layer.features[1], n), self.dtype)
            gz = aligned(z.shape, self.dtype)
            self.forward.append(partial(np.dot, w, h, z))
            if layer.bias is not None:
                self.forward.append(partial(np.add, z, views[layer.bias][:, None], z))
            calls: list[Call] = []
            if layer.relu:
                self.forward.append(partial(np.maximum, z, self.zeros(z.shape), out=z))
                mask = aligned(z.shape, bool)
                calls += [partial(np.greater, z, self.dtype.type(0), mask), partial(np.multiply, gz, mask, gz)]
            calls.append(partial(np.dot, gz, h.T, targets[layer.weight]))
            if layer.bias is not None:
                calls.append(partial(np.dot, gz, ones, targets[layer.bias]))
            if gh is not None:
                calls.append(partial(np.dot, w.T, gz, gh))
            backward.append(calls)
            h, gh = z, gz

        self.logits, self.g_logits = h, gz
        self.highest = aligned((1, n), self.dtype)
        self.backward = [call for calls in reversed(backward) for call in calls]
        self.samples = np.arange(n)

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Return zeros to compare with: NumPy's maximum of two arrays is several times as fast as that with a number.

        Layers share them; nobody writes there.
        """
        size = math.prod(shape)
        if size not in self._zeros:
            self._zeros[size] = aligned(size, self.dtype)
        return self._zeros[size].reshape(shape)

    def run(self, x: Array, labels: Array, losses: Array) -> None:
        """Write the loss of each of these samples, and leave their gradients in the buffers."""
        if self.input.ndim == 2:
            np.copyto(self.input, x.reshape(self.n, -1).T)
        else:
            np.copyto(self.input[0, 0], x.transpose(1, 2, 3, 0))
        for call in self.forward:
            call()
        self._cross_entropy(labels, losses)
        for call in self.backward:
            call()

    def _cross_entropy(self, labels: Array, losses: Array) -> None:
        """loss = log Σ exp(z) − z[label], gradient (softmax(z) − one-hot) / batch."""
        z, g, high = self.logits, self.g_logits, self.highest
        np.maximum.reduce(z, axis=0, out=high, keepdims=True)
        np.subtract(z, high, g)
        true = labels * self.n
        true += self.samples
        flat = g.reshape(-1)
        picked = flat.take(true)
        np.exp(g, g)
        np.add.reduce(g, axis=0, out=high, keepdims=True)
        np.divide(g, high, g)
        flat[true] -= 1
        np.multiply(g, self.scale, g)
        np.log(high, high)
        np.subtract(high[0], picked, losses)


class _ConvolutionCalls:
    """The calls of one convolution with its ReLU and pool."""

    def __init__(self, tile: _Tile, patch: _Patch, matrix: Array, gradient: Array, n: int, *, first: bool) -> None:
        layer = patch.layer
        self.tile, self.patch, self.layer, self.matrix, self.gradient, self.n = tile, patch, layer, matrix, gradient, n
        self.first = first
        dtype = tile.dtype
        (top, bottom), (left, right) = layer.padding
        fh, fw = patch.phases
        c, (h, w) = layer.channels[0], layer.size
        shape = (fh, fw, c, (h + top + bottom) // fh, (w + left + right) // fw, n)
        inside = (
            (..., slice(top, top + h), slice(left, left + w), slice(None)) if any((top, bottom, left, right)) else ...
        )
        self.buffer = aligned(shape, dtype)
        self.interior = self.buffer[inside]  # where the layer before writes
        self.by_rows = (*patch.split, patch.step[0] // fh, patch.step[1] // fw) == (1, 1, 1, 1)
        if first:
            self.g_buffer = aligned((0,), dtype)
        elif self.by_rows:
            self.g_buffer = aligned((*shape[3:4], *shape[:3], *shape[4:]), dtype).transpose(1, 2, 3, 0, 4, 5)
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
        calls: list[Call] = [partial(np.copyto, self.columns[:, : patch.inputs].reshape(seen.shape), seen)]
        pieces = _pieces(self.y.shape[2], patch.rows * patch.columns)
        calls.append(partial(np.matmul, self.matrix, _cut(self.columns, pieces), out=_cut(self.y, pieces)))
        # Pairs that a 2 x 2 pool compares, along columns, then along rows: (…, 2, *result) each.
        self.pairs: list[Array] = []
        rows, columns = layer.pool
        tall = self.y_apart
        if columns == 2:
            self.pairs.append(tall)
            tall = result[None] if rows == 1 else aligned((rows, *result.shape), self.tile.dtype)
            calls.append(partial(np.maximum, self.pairs[-1][:, 0], self.pairs[-1][:, 1], out=tall))
        else:
            tall = tall[:, 0]
        if rows == 2:
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
        if layer.relu:
            mask = aligned(result.shape, bool)
            calls += [
                partial(np.greater, result, tile.dtype.type(0), mask),
                partial(np.multiply, incoming, mask, g),
            ]
        elif g is not incoming:
            calls.append(partial(np.copyto, g, incoming))
        # Going back, the gradients of the pairs take the place of their values, which are not needed again.
        flow = g.view(tile.int_type)[None]
        for pairs in reversed(self.pairs):
            calls += _route(flow, pairs, tile.int_type, tile.sign_shift)
            flow = pairs[0].view(tile.int_type)
        calls += self._matrix_gradient()
        return calls if self.first else calls + self._input_gradient()

    def _matrix_gradient(self) -> list[Call]:
        patch, dtype = self.patch, self.tile.dtype
        size = patch.rows * patch.columns
        pieces = _pieces(self.y.shape[2], size) if size <= _SMALL_MATRIX else 1
        y, columns = _cut(self.y, pieces), _cut(self.columns, pieces)
        count = y.shape[0] * pieces
        # BLAS is faster with the higher matrix first.
        if patch.rows >= patch.columns:
            parts = aligned((*y.shape[:2], patch.rows, patch.columns), dtype)
            calls = [partial(np.matmul, y, columns.transpose(0, 1, 3, 2), out=parts)]
            turned = parts.reshape(count, patch.rows, patch.columns)
        else:
            parts = aligned((*y.shape[:2], patch.columns, patch.rows), dtype)
            calls = [partial(np.matmul, columns, y.transpose(0, 1, 3, 2), out=parts)]
            turned = parts.reshape(count, patch.columns, patch.rows).transpose(0, 2, 1)
        if count == 1:
            return [*calls, partial(np.copyto, self.gradient, turned[0])]
        return [*calls, partial(np.add.reduce, turned, axis=0, out=self.gradient)]

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


def _route(flow: Array, pair: Array, int_type: Any, shift: int) -> list[Call]:
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
