"""A training step of a convolutional network on a GPU: a fixed list of kernel launches, replayed as one graph.

The same contract as `fused.Program`: built from a description of the layers, it holds every buffer of the step and
computes loss, logits and all gradients of a batch, and here the update by Adam too. How it is made fast:

- *Few launches.* At small batches a GPU waits for launches, not for arithmetic. A convolution with its bias, ReLU and
  pool is one kernel, its gradients are one each, a linear layer with bias and ReLU is one, the loss with its gradient
  is one, all sums over the batch end in one, and Adam runs over one flat array: 18 launches for LeNet-5.
- *One graph.* The list is recorded once and replayed by one call of the driver. So nothing it reads may come from the
  host: the options of the optimizer, its step count, the scale of the loss and the number of the batch stand in
  `state`, on the device, where the kernels count for themselves. Whoever changes them launches a kernel whose arguments
  travel with the launch, so that no memory of the host is read later and nobody waits.
- *Constants.* The text of a convolution is compiled for the sizes of its layer, and its blocks are cut so that a small
  batch reaches all multiprocessors too (see `_Cut`).
- *Half the bytes*, if asked for: activations, their gradients and a copy of the weights in float16 or bfloat16, with
  sums, logits, parameters, their gradients and the optimizer in float32.

Matrix products of linear layers are our own kernel while they are small, and cuBLAS's beyond `OWN_PRODUCT`.

`engine` records and replays: `cuda_graph.Engine` on a GPU. It has

    working()               a context in which kernels go to the engine's own stream, after what the caller queued
                            before, and before what the caller queues afterwards; new arrays come from its own memory
    record(calls)           a function that replays what these calls launch
    product(...)            a matrix product into a given array
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .device import counter_key, to_host
from .fused import Convolution, Linear

__all__ = ["PRECISIONS", "DeviceParameters", "DeviceProgram", "Dropout", "too_large"]

Call = Callable[[], Any]

PRECISIONS = ("float16", "bfloat16")
LARGEST_KERNEL = 400  # c · kh · kw of a convolution up to which our kernels are meant; beyond, eager ops take libraries
OWN_PRODUCT = 1 << 25  # multiplications of a linear layer up to which our kernel is taken instead of cuBLAS
_SHARED = 48 << 10  # bytes of shared memory that a block gets without asking
_PROCESSORS = 132  # of an H100 or H200; others are only less well filled
_MOST_PARTIALS = 4 * _PROCESSORS  # blocks that add up the gradient of a weight, each for its part of the batch
_ROWS = 1 << 17  # numbers of samples that one run by numbers takes at a time
_ALIGN = 32  # elements; a parameter starts at a whole line of memory
_ALONG = 1024  # elements of a gradient that a block of `finish` looks at
_HEIGHT = 64  # rows of a gradient that a block of `column_sums` adds up
_LOSSES = 128  # blocks of `softmax_loss` at most

# Places in `state`; see program.cu.
_STEPS, _SCALE, _SKIPPED, _SCALING, _INTERVAL, _KEY, _DRAWS, _STATE = 6, 9, 13, 14, 15, 16, 18, 19
START_SCALE, GROWTH_INTERVAL = 2.0**16, 2000.0


def _up(a: int, b: int) -> int:
    return -(-a // b)


def _even(n: int) -> int:
    return _up(n, 2) * 2


class DeviceParameters:
    """All parameters of a network in one flat array on a device, with the state of their optimizer.

    Attributes:
        flat: the values; parameters start at multiples of 32 elements, and what is between stays 0.
        views: its parts in the parameters' shapes; who reads or writes them reads or writes `flat`.
        moments: two more such arrays, for an optimizer.
        state: options and counters of the update, 19 doubles.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], dtype: Any, xp: Any, precision: str | None = None) -> None:
        self.xp = xp
        self.dtype = np.dtype(dtype)
        self.shapes = list(shapes)
        self.sizes = [math.prod(shape) for shape in shapes]
        self.starts = [0]
        for size in self.sizes:
            self.starts.append(self.starts[-1] + _up(size, _ALIGN) * _ALIGN)
        self.length = self.starts[-1]
        self.flat = xp.zeros((self.length,), dtype=self.dtype)
        self.views = self.split(self.flat)
        self.moments = [self.empty(), self.empty()]
        state = np.zeros(_STATE)
        state[_SCALE] = START_SCALE if precision == "float16" else 1.0
        state[_SCALING] = precision == "float16"
        state[_INTERVAL] = GROWTH_INTERVAL
        self.state = xp.asarray(state)
        self.options: tuple[float, ...] = ()  # as they stand in `state`
        self.key: Any = None  # of the random numbers, as it stands in `state`
        self.steps = 0  # that the host asked for; the device counts those that were taken

    def counters(self) -> dict[str, Any]:
        """Return the scale of the loss and the steps taken and skipped, as the device counts; this waits for it."""
        state = to_host(self.state)
        return {"scale": float(state[_SCALE]), "steps": int(state[_STEPS]), "skipped": int(state[_SKIPPED])}

    def empty(self) -> Any:
        """Return a flat array of zeros for gradients or optimizer state."""
        return self.xp.zeros((self.length,), dtype=self.dtype)

    def split(self, flat: Any) -> list[Any]:
        """Return the parts of such a flat array in the parameters' shapes."""
        return [
            flat[start : start + size].reshape(shape)
            for start, size, shape in zip(self.starts, self.sizes, self.shapes, strict=False)
        ]


@dataclass(frozen=True)
class _Cut:
    """How the results of a kernel, maps of rows, are shared among blocks and threads."""

    rows: int  # per block
    maps: int  # per block
    each: int  # maps per thread
    threads: int
    blocks: int  # per image


def _cut(n: int, maps: int, rows: int, across: int, shared: Callable[[int, int], int], step: int = 1) -> _Cut | None:
    """Return the cut with the shortest estimated time, or None if none fits into shared memory.

    Args:
        n: images.
        maps, rows: of a result; `step` rows belong together.
        across: results of a thread beside each other.
        shared: bytes of shared memory for so many rows and maps per block, maps padded to whole threads.
    """
    found: list[tuple[float, int, _Cut]] = []
    for bands in range(1, _up(rows, step) + 1):
        height = _up(_up(rows, step), bands) * step
        if bands > 1 and _up(rows, height) != bands:
            continue
        for parts in range(1, maps + 1):
            width = _up(maps, parts)
            if parts > 1 and _up(maps, width) != parts:
                continue
            for each in range(1, min(width, 4) + 1):
                groups = _up(width, each)
                size = shared(height, groups * each)
                if size > _SHARED:
                    continue
                items = height // step * across * groups
                threads = min(256, _up(items, 32) * 32)
                turns = _up(items, threads)
                if turns * each > 8:
                    continue  # the sums of a thread would not stay in registers
                busy = n * bands * parts / _PROCESSORS
                # A unit is what a warp does for one map. Alone it waits half of the time; four run at once; half a unit
                # is for reading what all maps share. And what is shared has to be brought.
                work = turns * (each + 0.5)
                time = max(2 * work * max(1.0, busy / 4), busy * threads / 128 * work) + max(1.0, busy) * size / 12000
                found.append((time, bands * parts, _Cut(height, width, each, threads, bands * parts)))
    return min(found, key=lambda f: f[:2])[2] if found else None


@dataclass(frozen=True)
class Dropout:
    """Each element of what comes before is 0 with probability `p`, the others are divided by 1 - p."""

    p: float


class _ConvolutionPlan:
    """The constants with which the text of a convolution is compiled for a layer and a batch.

    Raises:
        ValueError: a block's share does not fit into shared memory.
    """

    def __init__(self, layer: Convolution, n: int, dtype: Any, first: bool) -> None:
        size = int(np.dtype(dtype).itemsize)
        (c, o), (kh, kw), (sh, sw), (dh, dw) = layer.channels, layer.kernel, layer.stride, layer.dilation
        (ph, pw), (rows_pooled, columns_pooled) = layer.pooled, layer.pool
        (h, w), kk4 = layer.size, _up(kh * kw, 4) * 4
        reach_h, reach_w = (kh - 1) * dh, (kw - 1) * dw
        pitch = _even((pw * columns_pooled - 1) * sw + reach_w + 1)

        def seen(rows: int) -> int:
            return c * ((rows * rows_pooled - 1) * sh + reach_h + 1) * pitch

        out = _cut(n, o, ph, pw, lambda rows, maps: (seen(rows) + maps * c * kk4) * size)

        def back(rows: int, maps: int) -> int:
            """Bytes per map of the gradient."""
            return ((rows + reach_h) * (_even(w) + _even(reach_w)) + maps * kk4) * size

        into = None if first else _cut(n, c, h, _even(w) // 2, back, step=2)
        rows = ph
        while rows and self._summing(seen(rows), o, rows * pw | 1, size) > _SHARED:
            rows -= 1
        if out is None or not rows or (into is None and not first):
            raise ValueError("a convolution does not fit into the shared memory of a block")
        while n * _up(ph, rows) < _PROCESSORS and rows * pw >= 64:
            rows = _up(rows, 2)
        own_rows = kh if kh * kw <= 32 else 1
        owners = o * c * kh // own_rows
        self.sum_parts = _up(owners, min(owners, 256))
        self.sum_blocks = min(n * _up(ph, rows), max(1, _MOST_PARTIALS // self.sum_parts))
        self.out = out
        self.into = into or _Cut(_even(h), 1, 1, 32, 1)
        chunk = 1
        if into is not None:
            padded = _up(into.maps, into.each) * into.each
            chunk = max(1, min(o, _SHARED // back(into.rows, padded)))
            chunk = _up(o, _up(o, chunk))  # chunks of equal size
        elif back(self.into.rows, 1) > _SHARED:
            self.into = _Cut(2, 1, 1, 32, 1)  # the kernel is compiled, and not used
        turns = _up(self.into.rows // 2 * _even(w) // 2 * _up(self.into.maps, self.into.each), self.into.threads)
        self.constants = {
            "C": c, "O": o, "H": h, "W": w, "KH": kh, "KW": kw, "SH": sh, "SW": sw, "DH": dh, "DW": dw,
            "TOP": layer.padding[0][0], "LEFT": layer.padding[1][0], "PH": ph, "PW": pw,
            "POOLH": rows_pooled, "POOLW": columns_pooled, "RELU": int(layer.relu), "BIAS": int(layer.bias is not None),
            "OUT_ROWS": out.rows, "OUT_MAPS": out.maps, "OUT_EACH": out.each,
            "IN_ROWS": self.into.rows, "IN_MAPS": self.into.maps, "IN_EACH": self.into.each,
            "ITEMS": 1 if first else turns, "CHUNK": chunk, "SUM_ROWS": rows, "SUM_THREADS": 256,
        }  # fmt: skip

    @staticmethod
    def _summing(seen: int, o: int, pitch: int, size: int) -> int:
        """Bytes of shared memory of the kernel for the gradient of the weight."""
        return int(max(seen + o * pitch, 96 // size * 256) * size + o * pitch * 2)


def too_large(layers: Sequence[Convolution | Linear | Dropout], batch: int, dtype: Any) -> str | None:
    """Return why our kernels are not for these layers, or None."""
    for i, layer in enumerate(layers):
        if isinstance(layer, Convolution):
            products = layer.channels[0] * math.prod(layer.kernel)
            if products > LARGEST_KERNEL:
                return f"a convolution has {products} products per output, and replay on a GPU takes {LARGEST_KERNEL}"
            try:
                _ConvolutionPlan(layer, batch, dtype, i == 0)
            except ValueError as error:
                return str(error)
    return None


class DeviceProgram:
    """Forward, mean cross-entropy, all gradients and the update by Adam of a chain of layers, on a device.

    Attributes:
        classes: the number of logits per sample.
        capacity: how many batches `run_rows` takes at a time.
    """

    def __init__(
        self,
        layers: Sequence[Convolution | Linear | Dropout],
        parameters: DeviceParameters,
        batch: int,
        table: Any,
        engine: Any,
        *,
        precision: str | None = None,
        ignore: int = -100,
    ) -> None:
        self.layers, self.parameters, self.batch, self.table, self.engine = (
            list(layers),
            parameters,
            batch,
            table,
            engine,
        )
        self.precision, self.ignore = precision, ignore
        self.dtype = parameters.dtype
        self.real = self.dtype.type
        self.storage = 0 if precision is None else 1 + PRECISIONS.index(precision)
        self.stored = self.dtype if precision is None else np.dtype(np.uint16)  # as bits
        self.kind = precision or self.dtype.name
        self.capacity = max(1, _ROWS // batch)
        self.classes = next(layer.features[1] for layer in reversed(layers) if isinstance(layer, Linear))
        self._data: tuple[Any, ...] | None = None
        self._recorded: dict[tuple[bool, bool], Call | None] = {}
        with engine.working():
            self._allocate()
            self._bind()

    # What is called

    def run(self, x: Any, labels: Any, options: dict[str, Any] | None) -> tuple[Any, Any, Any]:
        """Train on a batch, and return its loss, logits and flat gradient as arrays of their own; nobody waits.

        Args:
            x: (n, ...) of the parameters' type, labels: whole numbers (n,), both on the device.
            options: of Adam, with the number of `steps` before this one; None computes gradients and updates nothing.
        """
        x = self.table.xp.ascontiguousarray(x)
        labels = self.table.xp.ascontiguousarray(labels.astype(np.int64))
        with self.engine.working():
            self._prepare(options)
            self._launch(
                "load_batch", _up(int(x.size), 256), 256, x, labels, self.input, self.targets, self.parameters.state,
                np.int64(x.size), self.batch,
            )  # fmt: skip
            self._play(False, options)
        return self._published()

    def run_rows(self, rows: Any, options: dict[str, Any] | None) -> tuple[Any, Any, Any, Any]:
        """Train on samples of the attached data by their numbers (steps, n), and return the losses of all steps.

        As many steps as `capacity` allows. Returns (losses, and of the last step loss, logits and flat gradient).
        """
        steps = len(rows)
        rows = self.table.xp.ascontiguousarray(rows.astype(np.int64))
        with self.engine.working():
            self._prepare(options)
            self._launch(
                "load_order",
                _up(int(rows.size), 256),
                256,
                rows,
                self.order,
                self.parameters.state,
                np.int64(rows.size),
            )
            for _ in range(steps):
                self._play(True, options)
        return self.losses[:steps].copy(), *self._published()

    def attach(self, images: Any, labels: Any, zero: float, scale: float) -> None:
        """Let `run_rows` take samples from images of bytes (count, ...) as (pixel − zero) / scale."""
        now, before = (images, labels, zero, scale), self._data
        if before is not None and now[0] is before[0] and now[1] is before[1] and now[2:] == before[2:]:
            return
        self._data = now
        for recorded in [k for k in self._recorded if k[0]]:
            del self._recorded[recorded]  # it reads the data that were attached before

    # Launches

    def _launch(self, name: str, blocks: int, threads: int, *arguments: Any) -> None:
        self._call(self._module, name, blocks, threads, *arguments)()

    def _call(self, module: Any, name: str, blocks: int, threads: int, *arguments: Any) -> Call:
        sized = tuple(np.int32(a) if isinstance(a, int) else a for a in arguments)
        return partial(module.get_function(name), (max(1, blocks),), (threads,), sized)

    def _prepare(self, options: dict[str, Any] | None) -> None:
        self._prepare_random_numbers()
        if options is None:
            return
        store = self.parameters
        names = ("lr", "beta1", "beta2", "eps", "weight_decay", "decoupled")
        numbers = tuple(float(options[name]) for name in names)
        if numbers != store.options:
            self._launch("set_options", 1, 1, store.state, *map(np.float64, numbers))
            store.options = numbers
        if options["steps"] != store.steps:
            self._launch("set_value", 1, 1, store.state, _STEPS, np.float64(options["steps"]))
            store.steps = options["steps"]

    def _prepare_random_numbers(self) -> None:
        store = self.parameters
        if not any(isinstance(layer, Dropout) for layer in self.layers) or store.key is counter_key():
            return
        store.key = counter_key()
        for place, value in ((_KEY, store.key.value & 0xFFFFFFFF), (_KEY + 1, store.key.value >> 32), (_DRAWS, 0)):
            self._launch("set_value", 1, 1, store.state, place, np.float64(value))

    def _play(self, by_rows: bool, options: dict[str, Any] | None) -> None:
        """Run the step: the first time call by call, which loads the kernels too, then recorded, then replayed."""
        key = by_rows, options is not None
        calls = [*([self._gather()] if by_rows else []), *self._step, *([self._adam] if options is not None else [])]
        if key not in self._recorded:
            self._recorded[key] = None
            for call in calls:
                call()
        else:
            replay = self._recorded[key]
            if replay is None:
                replay = self._recorded[key] = self.engine.record(calls)
            replay()
        if options is not None:
            self.parameters.steps += 1
            options["steps"] += 1

    def _published(self) -> tuple[Any, Any, Any]:
        """Copy what the caller gets, since the next step writes to the same memory; a kept loss keeps no gradient."""
        length, count = self.parameters.length, self.batch * self.classes
        gradient, small = self.results[:length].copy(), self.results[length:].copy()
        return small[count:].reshape(()), small[:count].reshape(self.batch, self.classes), gradient

    # Buffers

    def _allocate(self) -> None:
        xp, n, store = self.table.xp, self.batch, self.parameters
        self.results = xp.zeros((store.length + n * self.classes + 1,), dtype=self.dtype)
        self.gradient = self.results[: store.length]
        self.gradients = store.split(self.gradient)
        self.z = self.results[store.length : store.length + n * self.classes]
        self.loss = self.results[store.length + n * self.classes :]
        self.losses = xp.zeros((self.capacity,), dtype=self.dtype)
        self.order = xp.zeros((self.capacity * n,), dtype=np.int64)
        self.targets = xp.zeros((n,), dtype=np.int64)
        self.copy = store.flat if self.storage == 0 else xp.zeros((store.length,), dtype=self.stored)
        self.weights = store.split(self.copy)
        first = self.layers[0]
        self.width = 0
        if isinstance(first, Convolution):
            self.width = first.channels[0] * math.prod(first.size)
        elif isinstance(first, Linear):
            self.width = first.features[0]
        self.input = xp.zeros((n * self.width,), dtype=self.stored)

    def _empty(self, size: int) -> Any:
        return self.table.xp.zeros((size,), dtype=self.stored)

    # The list of calls

    def _bind(self) -> None:
        names = ("program_types.cu", "philox.cu", "program.cu")
        self._options = (f"-DREAL={ {4: 'float', 8: 'double'}[self.dtype.itemsize] }", f"-DSTORAGE={self.storage}")
        self._module = self.table.module(names, self._options)
        n, store = self.batch, self.parameters
        forward: list[Call] = []
        backward: list[list[Call]] = []
        self._needed = _LOSSES  # elements of all partial sums; those of the loss come first
        if self.storage:
            forward.append(
                self._call(
                    self._module,
                    "to_storage",
                    _up(store.length, 256),
                    256,
                    store.flat,
                    self.copy,
                    np.int64(store.length),
                )
            )
        plans = [
            _ConvolutionPlan(layer, n, self.dtype, i == 0) if isinstance(layer, Convolution) else None
            for i, layer in enumerate(self.layers)
        ]
        for layer, plan in zip(self.layers, plans, strict=True):
            if isinstance(layer, Convolution) and plan is not None:
                self._needed += plan.sum_blocks * (math.prod(store.shapes[layer.weight]) + layer.channels[1])
            elif isinstance(layer, Linear) and layer.bias is not None and not self._own(layer):
                self._needed += _up(n, _HEIGHT) * layer.features[1]
        self.partials = self.table.xp.zeros((self._needed,), dtype=self.dtype)
        self._taken = _LOSSES
        self._pieces: list[tuple[int, int, int, int, int]] = []
        last = len(self.layers) - 1
        h, gh, before = self.input, None, None
        for i, (layer, plan) in enumerate(zip(self.layers, plans, strict=True)):
            if isinstance(layer, Convolution) and plan is not None:
                y = self._empty(n * layer.channels[1] * math.prod(layer.pooled))
                gy = self._empty(len(y))
                calls = self._convolution(layer, plan, h, gh, y, gy)
            elif isinstance(layer, Dropout):
                size = np.int64(n * (len(h) // n))
                scale = self.real(0 if layer.p == 1 else 1 / (1 - layer.p))
                numbers = size, np.float64(layer.p), scale, i
                # In place, of the values and of their gradient; the layer before still is `before`.
                forward.append(self._call(self._module, "dropout", _up(int(size), 1024), 256, h, store.state, *numbers))
                backward.append(
                    [self._call(self._module, "dropout", _up(int(size), 1024), 256, gh, store.state, *numbers)]
                )
                continue
            elif isinstance(layer, Linear):
                y = self.z if i == last else self._empty(n * layer.features[1])
                gy = self._empty(n * layer.features[1])
                masked = isinstance(before, Linear) and before.relu
                calls = self._linear(layer, h, gh, y, gy, last=i == last, masked=masked)
            forward += calls[0]
            backward.append(calls[1])
            h, gh, before = y, gy, layer
        blocks = min(_LOSSES, _up(n, 8))
        loss = self._call(
            self._module, "softmax_loss", blocks, 256, self.z, self.targets, store.state, gh, self.partials, n,
            self.classes, np.int64(self.ignore),
        )  # fmt: skip
        table = [(-1, 1, 0, blocks, 1), *self._pieces]
        self.pieces = self.table.xp.asarray(np.array(table, np.int64))
        finish = self._call(
            self._module, "finish", len(table), 256, self.pieces, self.partials, self.gradient, self.loss, self.losses,
            store.state,
        )  # fmt: skip
        self._adam = self._call(
            self._module, "adam", _up(store.length, 256), 256, store.flat, self.gradient, *store.moments, store.state,
            np.int64(store.length),
        )  # fmt: skip
        self._step = [*forward, loss, *(call for calls in reversed(backward) for call in calls), finish]

    def _gather(self) -> Call:
        if self._data is None:
            raise AssertionError("no data are attached")
        images, labels, zero, scale = self._data
        words = self.width // 4 if self.width % 4 == 0 else self.width
        return self._call(
            self._module, "gather_batch", _up(self.batch * words, 256), 256, images, labels, self.order,
            self.parameters.state, self.input, self.targets, self.batch, self.width, np.int64(len(images)),
            self.real(zero), self.real(scale),
        )  # fmt: skip

    def _sums(self, size: int) -> tuple[Any, int]:
        """Reserve memory for partial sums, and return it with its place."""
        start = self._taken
        self._taken += size
        return self.partials[start : start + size], start

    def _add_up(self, parameter: int, start: int, parts: int, stride: int) -> None:
        """Let `finish` make the gradient of a parameter of partial sums, 32 elements per block."""
        to, size = self.parameters.starts[parameter], self.parameters.sizes[parameter]
        self._pieces += [(to + e, min(32, size - e), start + e, parts, stride) for e in range(0, size, 32)]

    def _look_at(self, parameter: int) -> None:
        """Let `finish` divide a gradient that is complete by the scale of the loss, and look for overflows."""
        if self.precision == "float16":
            to, size = self.parameters.starts[parameter], self.parameters.sizes[parameter]
            self._pieces += [(to + e, min(_ALONG, size - e), 0, 0, 0) for e in range(0, size, _ALONG)]

    def _convolution(
        self, layer: Convolution, plan: _ConvolutionPlan, x: Any, gx: Any, y: Any, gy: Any
    ) -> tuple[list[Call], list[Call]]:
        n = self.batch
        options = (*self._options, *(f"-D{name}={value}" for name, value in plan.constants.items()))
        module = self.table.module(("program_types.cu", "program_convolution.cu"), options)
        weight = self.weights[layer.weight]
        bias = weight if layer.bias is None else self.weights[layer.bias]
        switches = self.table.xp.zeros((len(y),), dtype=np.uint8)
        stride = self.parameters.sizes[layer.weight] + layer.channels[1]
        partials, start = self._sums(plan.sum_blocks * stride)
        self._add_up(layer.weight, start, plan.sum_blocks, stride)
        if layer.bias is not None:
            self._add_up(layer.bias, start + self.parameters.sizes[layer.weight], plan.sum_blocks, stride)
        out, into = plan.out, plan.into
        forward = self._call(
            module, "convolution_forward", n * out.blocks, out.threads, x, weight, bias, y, switches
        )  # fmt: skip
        backward = [
            self._call(
                module,
                "convolution_weight_gradient",
                plan.sum_blocks * plan.sum_parts,
                256,
                x,
                gy,
                switches,
                partials,
                n,
            )
        ]
        if gx is not None:
            backward.append(
                self._call(
                    module, "convolution_input_gradient", n * into.blocks, into.threads, gy, switches, weight, gx
                )
            )
        return [forward], backward

    def _own(self, layer: Linear) -> bool:
        return self.batch * math.prod(layer.features) <= OWN_PRODUCT

    def _linear(
        self, layer: Linear, x: Any, gx: Any, y: Any, gy: Any, *, last: bool, masked: bool
    ) -> tuple[list[Call], list[Call]]:
        """Return the calls of a linear layer; `masked`: a ReLU made x, and its gradient is part of gx."""
        n, (into, out) = self.batch, layer.features
        weight, gw = self.weights[layer.weight], self.gradients[layer.weight]
        has_bias = int(layer.bias is not None)
        bias = weight if layer.bias is None else self.weights[layer.bias]
        backward: list[Call] = []
        if last and layer.relu:
            size = n * out
            backward.append(
                self._call(self._module, "relu_gradient_of_logits", _up(size, 256), 256, gy, y, np.int64(size))
            )
        if self._own(layer):
            gb = gw if layer.bias is None else self.gradients[layer.bias]
            across, down = _up(out, 16), _up(n, 16)
            forward = [
                self._call(
                    self._module, "linear_logits" if last else "linear_forward", down * across, 256, x, weight, bias, y,
                    has_bias, int(layer.relu), n, into, out,
                )
            ]  # fmt: skip
            backward.append(
                self._call(
                    self._module, "linear_weight_gradient", across * _up(into + has_bias, 16), 256, gy, x, gw, gb,
                    has_bias, n, into, out,
                )
            )  # fmt: skip
            if gx is not None:
                backward.append(
                    self._call(
                        self._module, "linear_input_gradient", down * _up(into, 16), 256, gy, weight, x, gx,
                        int(masked), n, into, out,
                    )
                )  # fmt: skip
            for parameter in (layer.weight, layer.bias):
                if parameter is not None:
                    self._look_at(parameter)
            return forward, backward
        x2, y2, g2 = x.reshape(n, into), y.reshape(n, out), gy.reshape(n, out)
        product = partial(self.engine.product, kind=self.kind)
        forward = [
            partial(product, x2, weight, y2, turn_b=True, result=self.dtype.name if last else self.kind),
            self._call(
                self._module, "add_bias_to_logits" if last else "add_bias", _up(n * out, 256), 256, y, bias, has_bias,
                int(layer.relu), n, out,
            ),
        ]  # fmt: skip
        if layer.bias is not None:
            parts = _up(n, _HEIGHT)
            partials, start = self._sums(parts * out)
            self._add_up(layer.bias, start, parts, out)
            backward.append(
                self._call(self._module, "column_sums", _up(out, 32) * parts, 256, gy, partials, n, out, _HEIGHT)
            )
        backward.append(partial(product, g2, x2, gw, turn_a=True, result=self.dtype.name))
        self._look_at(layer.weight)
        if gx is not None:
            backward.append(partial(product, g2, weight, gx.reshape(n, into), result=self.kind))
            if masked:
                size = n * into
                backward.append(self._call(self._module, "relu_gradient", _up(size, 256), 256, gx, x, np.int64(size)))
        return forward, backward
