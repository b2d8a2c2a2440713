"""A training step of a convolutional network as one fixed list of array calls.

A `Program` is built from a description of the layers. It holds every buffer of the step, and running it is a loop over
calls that are bound to their arguments, so that the time goes into arithmetic. These ideas make the calls few and fast:

- The batch is the innermost axis in memory (see `numpy_kernels`), and a thread works through its own slice of it, small
  enough to stay in its cache, from the first layer to the last and back.
- *Patches.* A convolution is computed for a patch of neighbouring outputs at once, as the rows of one higher matrix
  product, whose weight holds a shifted copy of the kernel per output of the patch. For LeNet-5 the matrices get 4 times
  as high, which BLAS likes, and the columns 2.8 times fewer, for 1.4 times the arithmetic.
- *Phases.* Outputs that a pool compares lie in different row blocks of that product, so pooling takes maxima of whole
  contiguous blocks. And the positions of the patches are sorted by their place (the phase) in the patches of the next
  layer, which then reads each phase as one strided view: no element is ever moved only to change its place.
- *Bands.* A convolution five columns wide takes 6 products where it took 10, by Winograd's algorithm: see `bands`.
- *Pieces.* With AVX-512, OpenBLAS multiplies small matrices without packing them first, up to twice as fast. So there a
  wide product is cut into pieces of at most a million multiplications, as one batched call; elsewhere it is not, and
  bands, whose products are small, are for layers of more channels.

Bias and ReLU come after the pool, on a quarter of the elements: max(x + b) = max(x) + b, and ReLU is monotonic.

`patches` chooses the patches and phases, `stages`, `bands` and `tiles` have the calls, and here they are shared out
to helper processes where there can be any (see `processes`), else to threads.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from sys import getrefcount
from typing import Any

import numpy as np

from ..errors import ProcessError
from . import processes
from .numpy_kernels import adam_step_alone
from .patches import Convolution, Linear, choose_patches, largest_tile
from .threads import Crew, cpus, single_threaded_blas
from .tiles import Tile
from .workspaces import aligned, release

__all__ = ["Convolution", "Linear", "Parameters", "Program", "largest_tile"]

Array = np.ndarray[Any, Any]
Call = Callable[[], Any]
Pair = tuple[int, int]


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
        logits, losses: (N, classes) and (N,), as the last run left them.
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
        self.patches = choose_patches(convolutions)
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
        self.parts = self._divide()
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
        self._folds: list[list[tuple[Array, Array, slice]]] = []
        self._starts: list[int] = []
        start = 0
        for patch in self.patches:
            layer = patch.layer
            places = patch.places()
            numbers = np.arange(parameters.sizes[layer.weight]) + parameters.starts[layer.weight]
            if layer.bias is not None:
                numbers = np.concatenate([numbers, np.arange(layer.channels[1]) + parameters.starts[layer.bias]])
            sources.append(np.where(places < 0, len(parameters.flat), numbers[places]))
            laid = patch.gradient_places()
            order = np.argsort(laid, kind="stable")
            weights = parameters.sizes[layer.weight]
            ends = np.searchsorted(laid[order], [0, weights, len(numbers)]).tolist()
            self._folds.append([])
            for number, (first, last) in zip((layer.weight, layer.bias), pairwise(ends), strict=True):
                if number is not None:
                    # Every weight, and every bias, has as many copies as the others.
                    copies = start + np.ascontiguousarray(order[first:last].reshape(parameters.sizes[number], -1).T)
                    self._folds[-1].append((copies, aligned(copies.shape, self.dtype), self._span(number)))
            self._starts.append(start)
            start += places.size
        self._starts.append(start)
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

    def _span(self, number: int) -> slice:
        start = self.parameters.starts[number]
        return slice(start, start + self.parameters.sizes[number])

    def matrix(self, number: int) -> Array:
        """Return the matrix of patch `number`, flat."""
        return self.matrix_gradient(number, self._matrices)

    def matrix_gradient(self, number: int, flat: Array) -> Array:
        """Return the part of a flat array laid out like all matrices where the gradient of that matrix goes."""
        return flat[self._starts[number] : self._starts[number + 1]]

    def linear_gradients(self, flat: Array) -> dict[int, Array]:
        """Return where in such a flat array the gradients of the linear layers go, by number of the parameter."""
        sizes, shapes = self.parameters.sizes, self.parameters.shapes
        return {n: flat[a : a + sizes[n]].reshape(shapes[n]) for n, a in self._linear_starts.items()}

    def run(
        self,
        x: Array,
        labels: Array,
        gradients: Array,
        adam: dict[str, Any] | None = None,
        meanwhile: Callable[[], Any] | None = None,
    ) -> float:
        """Write the gradients of all parameters into a flat array, fill `logits`, and return the mean loss.

        Args:
            x, labels: the batch.
            gradients: best from `Parameters.empty()`, where helper processes can write too.
            adam: with these options of `numpy_kernels.adam_step`, all parameters and the moments are updated as well.
            meanwhile: called when all gradients have been computed, while others already add them up.

        Raises:
            ProcessError: a helper process ended in the middle of its part of the update.
        """
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
        helped = adam is not None and self._team.begin_parts(gradients, adam)
        if meanwhile is not None:
            meanwhile()
        self.parts[0].run(gradients, adam)
        for number in self._team.left_undone() if helped else range(1, len(self.parts)):
            self.parts[number].run(gradients, adam)
        return float(self.losses.sum(dtype=np.float64)) / self.batch

    def gather(self) -> None:
        """Make the matrices of all patches from the parameters."""
        np.take(self.parameters.with_zero, self._source, out=self._matrices, mode="clip")

    def _divide(self) -> list[_Part]:
        """Return a part of the parameters for each share, so that all take about the same time."""
        count = len(self.shares)
        parts = [_Part(self) for _ in range(count)]
        loads = [float(_CALLERS_WORK if count > 1 and not number else 0) for number in range(count)]
        for number, folds in enumerate(self._folds):
            least = loads.index(min(loads))
            size = sum(span.stop - span.start for _, _, span in folds)
            parts[least].add_patch(slice(*self._starts[number : number + 2]), folds)
            loads[least] += size * _FOLDED
        # Of the linear layers, everybody gets what he can take until all have the same.
        left = [list(run) for run in self._runs]
        rest = sum(size for _, _, size in left)
        for number in reversed(range(count)):
            level = (rest + sum(loads[: number + 1])) / (number + 1)
            wanted = rest if number == 0 else min(rest, max(0, round(level - loads[number])))
            while wanted:
                source, start, size = left[0]
                taken = min(size, wanted)
                parts[number].add_run(source, start, taken)
                left[0] = [source + taken, start + taken, size - taken]
                if taken == size:
                    left.pop(0)
                wanted -= taken
                rest -= taken
        return parts


_FOLDED = 5.0  # the work of adding up the copies of a weight and updating it, in updates of other weights
_CALLERS_WORK = 4000  # the same for what the caller does meanwhile


class _Part:
    """What one thread or process does when all shares are done: add up gradients, and update the parameters."""

    def __init__(self, program: Program) -> None:
        self.program = weakref.proxy(program)
        self.patches: list[tuple[slice, list[tuple[Array, Array, slice]]]] = []
        self.runs: list[tuple[int, int, int]] = []
        self.spans: list[slice] = []  # of the parameters
        self._summed = aligned(program._linear_start, program.dtype)
        self.progress = _shared(1, np.int64)

    def add_patch(self, matrix: slice, folds: list[tuple[Array, Array, slice]]) -> None:
        """Add the weights and biases of a convolution."""
        self.patches.append((matrix, folds))
        for _, _, span in folds:
            self._add_span(span)

    def add_run(self, source: int, start: int, size: int) -> None:
        """Add parameters of linear layers, from `start` on; their gradients lie from `source` on."""
        self.runs.append((source, start, size))
        self._add_span(slice(start, start + size))

    def _add_span(self, span: slice) -> None:
        joined: list[slice] = []
        for one in sorted([*self.spans, span], key=lambda s: s.start):
            if joined and joined[-1].stop == one.start:
                joined[-1] = slice(joined[-1].start, one.stop)
            else:
                joined.append(one)
        self.spans = joined

    def run(self, gradients: Array, adam: dict[str, Any] | None) -> None:
        """Add up the gradients of all shares, and of all copies of a weight; then take a step of Adam, if wanted."""
        total, *others = (share.total for share in self.program.shares)
        for matrix, folds in self.patches:
            summed = total
            for other in others:
                np.add(summed[matrix], other[matrix], out=self._summed[matrix])
                summed = self._summed
            for copies, scratch, span in folds:
                np.take(summed, copies, out=scratch, mode="clip")
                np.add.reduce(scratch, axis=0, out=gradients[span])
        for source, start, size in self.runs:
            here, there = slice(source, source + size), slice(start, start + size)
            sum_of_first = total[here]
            for other in others:
                sum_of_first = np.add(sum_of_first, other[here], out=gradients[there])
            if not others:
                np.copyto(gradients[there], sum_of_first)
        if adam is not None:
            self._update(gradients, adam)

    def _update(self, gradients: Array, adam: dict[str, Any]) -> None:
        store = self.program.parameters
        arrays = [store.flat, gradients, *store.moments]
        if self.progress[0] == _UPDATING:
            raise ProcessError(
                "a helper process ended while it updated parameters, and it is not known how many it had done; load "
                "the last checkpoint, or make the step with compile(..., processes=False)"
            )
        if self.progress[0] == _UPDATED:
            # A helper has done it, and met a floating point error: meet it here too, but do not update twice.
            arrays = [a.copy() for a in arrays]
        self.progress[0] = _UPDATING
        for span in self.spans:
            adam_step_alone(*(a[span] for a in arrays), **adam)
        self.progress[0] = _UPDATED


_IDLE, _UPDATING, _UPDATED = range(3)  # how far a part is


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
        self.tiles: dict[int, Tile] = {}

    def run(self, x: Array, labels: Array, pieces: list[Pair] | None = None) -> None:
        """Leave the gradients of these samples in `total`, and their logits and losses with the program."""
        program = self.program
        for number, (a, b) in enumerate(self.pieces if pieces is None else pieces):
            tile = self.tiles.get(b - a)
            if tile is None:
                tile = self.tiles[b - a] = Tile(program, b - a, self.gradients)
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


_GRADIENTS, _PARTS = range(2)
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
            self._x_rest, self._labels_rest = self.x[self.rest], self.labels[self.rest]
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
        np.copyto(self._x_rest, x[self.rest].reshape(self._x_rest.shape))
        np.copyto(self._labels_rest, labels[self.rest])
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

    def begin_parts(self, gradients: Array, adam: dict[str, Any]) -> bool:
        """Let the helpers add up and update their parts of the parameters; return False if they cannot."""
        owners = [_owner(g) is _owner(gradients) for g in self.program.parameters.gradients]
        for part in self.program.parts:
            part.progress[0] = _IDLE
        if not self.helpers or not any(owners) or not all(helper.usable for helper in self.helpers):
            return False
        self.options[...] = [adam[name] for name in _OPTIONS]
        self._send(_PARTS + owners.index(True))
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
            program.parts[number].run(program.parameters.gradients[command - _PARTS], options)
