"""A training step recorded once and replayed without building a graph.

The first call of a `CapturedStep` runs as always and looks at the graph it recorded. If that graph is a chain this
module knows (convolutions, ReLU, max pooling, linear layers, softmax cross-entropy), it is lowered to one fused program
with fixed buffers, and the calls that follow run the program. Anything else runs as always, and `reason` says why.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from operator import attrgetter, is_
from sys import getrefcount
from typing import Any

from .backend import device_of, float32, float64, int64, kernels, namespace, on_host
from .backend.device_program import PRECISIONS, DeviceParameters, DeviceProgram, Dropout, too_large
from .backend.exposure import is_exposed
from .backend.fused import Convolution, Linear, Parameters, Program, largest_tile
from .errors import DataError, OptionError
from .graph import Node, Observer, Scope, Traced, casting, is_recording, next_index, nodes_from, observing, state
from .nn import CrossEntropyLoss, Module
from .nn import Dropout as DropoutLayer
from .nn.functional import cross_entropy
from .optim import Adam, AdamW, Optimizer
from .tensor import Tensor

__all__ = ["CapturedStep", "compile"]

FEWEST_SAMPLES = 8  # that a thread works on at a time; with fewer the arrays are too short to be fast
MOST_PROGRAMS = 4  # one per shape of batch; the one not used for longest goes first


class NotCapturableError(Exception):
    """Why a step cannot be replayed."""


def compile(
    model: Callable[..., Any],
    loss: Callable[..., Any],
    optimizer: Optimizer,
    at_once: bool = False,
    *,
    processes: bool = True,
    precision: str | None = None,
) -> CapturedStep:
    """Return a function `step(x, labels)` that trains `model` on one batch, replayed from the second call on.

    It does what these lines do, equal up to the rounding of sums taken in another order:

        optimizer.zero_grad()
        value = loss(model(x), labels)
        value.backward()
        optimizer.step()

    The gradients are in `p.grad` afterwards, the learning rate and all other options of the optimizer are read at each
    call, and a batch of another shape, a changed model, mode or parameter is noticed and recorded anew. What Python
    code inside `model` does besides calling ops is not repeated, so a branch on the values of x is not looked at again.
    While somebody observes the run (`profile()`, `detect_anomaly()`), it runs as always.

    On a GPU the whole step becomes one CUDA graph, and no call waits for the device; reading the loss does. So labels
    are not looked at beforehand there: one that is no class makes the loss of its batch NaN. Where the data set fits
    into the GPU's memory, `attach` it and train by the numbers of its samples, many steps per call.

    Args:
        model: computes logits (N, classes) from a batch.
        loss: `nn.CrossEntropyLoss()` or `nn.functional.cross_entropy`; other losses work, unreplayed.
        optimizer: any; Adam and AdamW are updated in one pass over all parameters.
        at_once: replay the very call that was recorded too. Then all steps of a run are replays, and a run that was
            broken off and goes on in a new process rounds like one that was not; it costs one more forward pass.
        processes: share the work with a helper process per further CPU (Linux on x86-64; threads elsewhere). They are
            forked off at the third replay, run nothing but the recorded arithmetic, and end when there is none for a
            second. With False there are threads instead. The results are the same to the last bit.
        precision: "float16" or "bfloat16" (on a GPU): what activations, their gradients and a copy of the weights are
            stored in while a step is replayed. Sums, logits, the parameters, their gradients and the optimizer stay
            float32. With "float16" the loss is scaled by a factor that starts at 65536, is halved when a gradient
            overflows (that step is not taken, see `skipped`) and doubled after 2000 steps without; it needs Adam or
            AdamW with one group, because others would have to be told to skip. Steps run as always compute in float32.

    Raises:
        OptionError: an unknown precision, or one for a model on the CPU.

    >>> from tinygrad_cnn import nn, optim, rand, tensor
    >>> from tinygrad_cnn import compile
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> step = compile(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()))
    >>> x, labels = rand(5, 4), tensor([0, 1, 2, 1, 0])
    >>> losses = [step(x, labels).item() for _ in range(3)]
    >>> losses[2] < losses[0], step.reason
    (True, None)
    """
    return CapturedStep(model, loss, optimizer, at_once, processes=processes, precision=precision)


class CapturedStep:
    """What `compile()` returns: call it with a batch and its labels.

    Attributes:
        reason: why the last call ran as always and was not recorded for replay; None if it was, or was replayed.
        replays: how many calls were replayed.
        logits: what the model said in the last call, (N, classes), without a graph.
        precision: what is stored while a step is replayed, "float16" or "bfloat16"; None for the model's own type.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        loss: Callable[..., Any],
        optimizer: Optimizer,
        at_once: bool = False,
        *,
        processes: bool = True,
        precision: str | None = None,
    ) -> None:
        if precision is not None and precision not in PRECISIONS:
            raise OptionError(f"compile: precision must be None, 'float16' or 'bfloat16', got {precision!r}")
        if precision is not None:
            _check_precision(precision, optimizer.param_groups[0]["params"][0].array)
        self.precision = precision
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.at_once = at_once
        self.processes = processes
        self.reason: str | None = None
        self.replays = 0
        self.logits: Any = None
        self._chain: _Chain | None = None
        self._programs: OrderedDict[Any, Any] = OrderedDict()
        self._refused: dict[Any, str] = {}
        self._attached: tuple[Any, Any, float, float] | None = None

    def __call__(self, x: Any, labels: Any) -> Any:
        x = x if isinstance(x, Traced) else Tensor(x)
        array, targets = x.array, labels.array if isinstance(labels, Traced) else labels
        if self.precision is not None:
            _check_precision(self.precision, array)
        self.reason = _unsuitable(x, targets) or self._unfit(array.dtype)
        if self.reason is not None:
            return self._run(x, labels)
        if self._chain is not None and not self._chain.holds(self.model, self.loss, self.optimizer):
            self.release()
        key = (array.shape, array.dtype, targets.shape, device_of(array))
        self.reason = self._refused.get(key)
        if self.reason is not None:
            return self._run(x, labels)
        if self._chain is None or key not in self._programs:
            return self._run(x, labels, key)
        program = self._program(self._chain, key)
        if (
            on_host(targets)
            and len(targets)
            and not 0 <= int(targets.min()) <= int(targets.max()) < program.logits.shape[1]
        ):
            self.reason = "some labels are not classes of the model"
            return self._run(x, labels)
        return self._replay(self._chain, program, array, targets)

    def __getstate__(self) -> dict[str, Any]:
        """Let a copy record anew: the parts of a flat array would be copied as arrays of their own."""
        return {**vars(self), "_chain": None, "_programs": OrderedDict(), "_refused": {}}

    def release(self) -> None:
        """Forget what was recorded and give the buffers back; the next call records anew."""
        self._settle()
        self._chain = None
        self._programs.clear()
        self._refused.clear()

    def _run(self, x: Any, labels: Any, key: Any = None) -> Any:
        """Run the step as always, and record it under `key` if one is given."""
        self._settle()
        self.optimizer.zero_grad()
        seen = _Recorder(x, self.model)
        if key is None:
            output = self.model(x)
            value = self.loss(output, labels)
        else:
            with observing(seen):
                output = self.model(x)
                value = self.loss(output, labels)
            self._record(key, seen, x, labels, output, value)
            if self.at_once and self._chain is not None and key in self._programs:
                del output, value  # their graph, before the program takes memory
                targets = labels.array if isinstance(labels, Traced) else labels
                return self._replay(self._chain, self._program(self._chain, key), x.array, targets)
        value.backward()
        self.optimizer.step()
        self.logits = output.detach() if isinstance(output, Tensor) else None
        return value

    def _record(self, key: Any, seen: _Recorder, x: Any, labels: Any, output: Any, value: Any) -> None:
        try:
            chain = _Chain(
                self.model, self.loss, self.optimizer, seen, x, labels, output, value, precision=self.precision
            )
        except NotCapturableError as reason:
            self.reason = self._refused[key] = str(reason)
            return
        if self._chain is None or not self._chain.equals(chain):
            self.release()
            self._chain = chain
        self._programs[key] = None
        while len(self._programs) > MOST_PROGRAMS:
            self._programs.popitem(last=False)

    def _program(self, chain: _Chain, key: Any) -> Any:
        """Return the program for a recorded shape. It is made when first needed: then the recorded graph is gone."""
        program = self._programs[key]
        if program is None:
            program = self._programs[key] = chain.program(key[0][0], self.processes)
        self._programs.move_to_end(key)
        return program

    def _replay(self, chain: _Chain, program: Any, array: Any, targets: Any) -> Any:
        if isinstance(program, DeviceProgram):
            loss = self._replay_on_device(chain, lambda options: program.run(array, targets, options))[0]
            return Tensor.made(loss)
        self.optimizer.zero_grad()
        chain.adopt()
        gradients = chain.store.empty()
        options = chain.flat_options(self.optimizer)
        if options is not None:
            options["step"] = options.pop("steps") + 1

        def note() -> None:
            for p, g in zip(chain.tensors, chain.store.split(gradients), strict=True):
                p.grad = p.result_type.made(g)
            if options is not None:
                chain.count_steps(self.optimizer, 1)

        loss = program.run(array, targets, gradients, options, note)
        if options is not None:
            chain.give_back()
        else:
            self.optimizer.step()
        self.replays += 1
        self.logits = Tensor.made(program.logits.copy())
        return Tensor.made(program.dtype.type(loss).reshape(()))

    def _replay_on_device(self, chain: Any, run: Callable[[Any], tuple[Any, ...]]) -> tuple[Any, ...]:
        """Replay one or more steps, and return what `run` does: losses first, then logits and gradient of the last."""
        self.optimizer.zero_grad()
        chain.adopt()
        options = chain.flat_options(self.optimizer)
        before = 0 if options is None else options["steps"]
        *losses, logits, gradient = run(options)
        for p, g in zip(chain.tensors, chain.store.split(gradient), strict=True):
            p.grad = p.result_type.made(g)
        if options is None:
            self.optimizer.step()
            self.replays += 1
        else:
            chain.count_steps(self.optimizer, options["steps"] - before)
            chain.give_back()
            self.replays += options["steps"] - before
        self.logits = Tensor.made(logits)
        return tuple(losses)

    def _unfit(self, dtype: Any) -> str | None:
        """Return why the precision that was asked for does not go with this call, or None."""
        if self.precision is None:
            return None
        if dtype != float32:
            return f"x holds {dtype}, and precision={self.precision!r} is for models in float32"
        flat = _flat_group(self.optimizer) if self._chain is None else self._chain.flat_group(self.optimizer)
        if self.precision == "float16" and flat is None:
            return "precision='float16' skips steps, which takes Adam or AdamW with one plain group and one step count"
        return None

    # Training on a data set by the numbers of its samples

    def attach(self, images: Any, labels: Any, *, zero: float = 0.0, scale: float = 255.0) -> CapturedStep:
        """Bring a data set of bytes to where the model is, so that `at` can train on its samples by their numbers.

        Args:
            images: bytes (count, h, w) or (count, c, h, w); the network sees (pixel − zero) / scale, as a
                `data.normalise.Affine` computes it.
            labels: whole numbers (count,).

        Raises:
            DataError: other shapes or types.

        Returns the step itself.
        """
        device = device_of(self._parameter.array)
        pictures, classes = (a.array if isinstance(a, Traced) else a for a in (images, labels))
        dtype = getattr(pictures, "dtype", None)
        shape: Any = tuple(getattr(pictures, "shape", ()))
        if dtype != "uint8" or len(shape) not in (3, 4):
            raise DataError(f"attach: images must be bytes (count, h, w) or (count, c, h, w), got {dtype} {shape}")
        if getattr(getattr(classes, "dtype", None), "kind", None) not in ("i", "u") or classes.shape != shape[:1]:
            raise DataError("attach: labels must be an integer array with one number per image")
        if not scale:
            raise OptionError("attach: scale must not be 0; the network sees (pixel - zero) / scale")
        with device.context():
            here = device.asarray(pictures).reshape(shape if len(shape) == 4 else (shape[0], 1, *shape[1:]))
            # Rows are read word by word, so on a GPU they start where memory does, not inside of somebody's array.
            here = device.xp.ascontiguousarray(here) if on_host(pictures) else here.copy()
            self._attached = here, device.asarray(classes).astype(int64), float(zero), float(scale)
        return self

    def at(self, rows: Any) -> Any:
        """Train on attached samples by their numbers, and return the loss, or the losses of many steps.

        Numbers (n,) are one batch, and its loss is returned. Numbers (steps, n) are one batch after the other, with the
        same options of the optimizer, and their losses (steps,) are returned; `logits` and the gradients are those of
        the last. On a GPU the batches are gathered there, inside of the graph, and a step costs the host one launch.
        Numbers that lie on the GPU are not looked at: one that is no sample makes its loss NaN.

        Raises:
            OptionError: nothing is attached.
            DataError: the numbers are not whole, have other axes, or one is no sample.
        """
        images, labels, zero, scale = self._data
        if device_of(images) != device_of(self._parameter.array):
            raise OptionError("at: the model has moved to another device; attach the data again")
        numbers = rows.array if isinstance(rows, Traced) else rows
        numbers = numbers if hasattr(numbers, "dtype") else namespace().asarray(numbers)
        if numbers.dtype.kind not in "iu" or numbers.ndim not in (1, 2) or not all(numbers.shape):
            raise DataError(f"at: rows must be whole numbers (n,) or (steps, n), got {numbers.dtype} {numbers.shape}")
        if on_host(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(images):
            raise DataError(
                f"at: rows must lie in 0 ... {len(images) - 1}, got values from {numbers.min()} to {numbers.max()}"
            )
        numbers = device_of(images).asarray(numbers, int64)
        table = numbers.reshape(1, -1) if numbers.ndim == 1 else numbers
        found, done = [], 0
        while done < len(table):
            program = self._program_for_rows(table.shape[1])
            if program is None:
                found.append(self._at_as_always(table[done]))
                done += 1
                continue
            chain: Any = self._chain
            # Other updates are not in the graph, so the host comes in after every step.
            part = table[done : done + (1 if chain.flat_group(self.optimizer) is None else program.capacity)]
            program.attach(images, labels, zero, scale)
            found.append(self._replay_on_device(chain, partial(program.run_rows, part))[0])
            done += len(part)
        losses = found[0] if len(found) == 1 else namespace(found[0]).concatenate(found)
        return Tensor.made(losses.reshape(()) if numbers.ndim == 1 else losses)

    @property
    def _data(self) -> tuple[Any, Any, float, float]:
        if self._attached is None:
            raise OptionError("at: there are no data; attach(images, labels) them first")
        return self._attached

    def _at_as_always(self, row: Any) -> Any:
        """Gather a batch, train on it as `__call__` does, and return its loss (1,)."""
        images, labels, zero, scale = self._data
        kind = self._parameter.array.dtype.type
        if on_host(images):
            x = (images[row].astype(kind) - kind(zero)) / kind(scale)
        else:  # an index out of range would quietly wrap around there
            xp = namespace(images)
            inside = (row >= 0) & (row < len(images))
            row = xp.where(inside, row, 0)
            x = (images[row].astype(kind) - kind(zero)) / kind(scale)
            x = xp.where(inside.reshape(-1, 1, 1, 1), x, xp.asarray(math.nan, dtype=kind))
        value = self(Tensor.made(x), labels[row])
        return value.array.reshape(1)

    def _program_for_rows(self, n: int) -> Any:
        """Return the program that can be replayed for batches of so many attached samples, or None."""
        images, dtype = self._data[0], self._parameter.array.dtype
        chain = self._chain
        if chain is None or chain.engine is None or state.mode.observers or not is_recording() or self._unfit(dtype):
            return None
        key = ((n, *images.shape[1:]), dtype, (n,), device_of(images))
        if key not in self._programs or not chain.holds(self.model, self.loss, self.optimizer):
            return None
        self.reason = None
        return self._program(chain, key)

    # What the device counts

    @property
    def _parameter(self) -> Any:
        return self.optimizer.param_groups[0]["params"][0]

    @property
    def skipped(self) -> int:
        """How many steps were not taken because a gradient overflowed, with `precision="float16"`; waits."""
        return 0 if self._chain is None or self._chain.engine is None else self._chain.store.counters()["skipped"]

    @property
    def loss_scale(self) -> float:
        """The factor of the loss, with `precision="float16"`; looking at it waits for the device."""
        return 1.0 if self._chain is None or self._chain.engine is None else self._chain.store.counters()["scale"]

    def _settle(self) -> None:
        """Let the optimizer know how many steps the device has taken, where it may have skipped some."""
        chain = self._chain
        if chain is None or self.precision != "float16":
            return
        states = [self.optimizer.state.get(p, {"step": None}) for p in chain.tensors]
        if any(held["step"] != chain.store.steps for held in states):
            return  # another update has gone on counting
        chain.store.steps = chain.store.counters()["steps"]
        for held in states:
            held["step"] = chain.store.steps


def _unsuitable(x: Any, targets: Any) -> str | None:
    """Return why this call cannot even be looked at, or None."""
    if state.mode.observers:
        return "the run is being observed"
    if not is_recording():
        return "recording is off (no_grad)"
    if casting.get() is not None:
        return "autocast chooses the types of ops, and replay computes in that of x"
    if not on_host(x.array) and getattr(kernels(x.array), "engine", None) is None:
        return f"x is on {device_of(x.array)}, whose kernels cannot be recorded"
    if x.requires_grad:
        return "x requires a gradient"
    if x.array.dtype not in (float32, float64):
        return f"x holds {x.array.dtype}; replay computes in float32 and float64"
    if len(x.array.shape) not in (2, 4) or not len(x.array):
        return f"x has shape {x.array.shape}; replay takes non-empty batches (n, features) or (n, c, h, w)"
    if getattr(getattr(targets, "dtype", None), "kind", None) not in ("i", "u") or targets.shape != x.array.shape[:1]:
        return "the labels are not an integer array with one number per sample"
    if type(targets) is not type(x.array):
        return "the labels are on another device than x"
    return None


class _Recorder(Observer):
    """Counts the ops of the forward pass and collects the modules called.

    Attributes:
        began: the index at which the forward pass began; a tensor that was edited in it has a higher one.
        modules: by id, the modules called and those below them, each with what its attributes were before.
        start: what the layers read: x, or x flattened, which needs no gradient and so is in no graph.
    """

    def __init__(self, x: Any, model: Callable[..., Any]) -> None:
        self.start = self.x = x
        self.ops = 0
        self.began = next_index()
        self.modules: dict[int, _Held] = {}
        self._watch(model)
        self._watch(getattr(model, "__self__", None))  # whose method the model is

    def op_finished(self, op: Any, inputs: tuple[Any, ...], options: dict[str, Any], output: Any, result: Any) -> None:
        images = self.x.array
        if op.name == "reshape" and inputs[0] is self.x and self.start is self.x and images.ndim == 4:
            flattened = output.shape == (len(images), images[0].size)
            self.start = result if flattened else self.start
            self.ops += not flattened
        else:
            self.ops += 1

    def scope_entered(self, scope: Scope) -> None:
        self._watch(scope.module)

    def _watch(self, found: Any) -> None:
        for module in found.modules() if isinstance(found, Module) else [found]:
            if id(module) not in self.modules:
                self.modules[id(module)] = _Held(module)


_array, _hooks, _requires_grad, _mode = map(attrgetter, ("array", "hooks", "requires_grad", "training"))


class _Chain:
    """A recorded step as layers and parameters, with what must stay as it was for a replay to be right."""

    def __init__(
        self,
        model: Callable[..., Any],
        loss: Callable[..., Any],
        optimizer: Optimizer,
        seen: _Recorder,
        x: Any,
        labels: Any,
        output: Any,
        value: Any,
        *,
        precision: str | None = None,
    ) -> None:
        self.modules = list(seen.modules.values())
        for held in self.modules:
            if "_hooks" in getattr(held.module, "__dict__", ()):
                raise NotCapturableError(f"{held.name} has hooks")
        self.tensors: list[Any] = []
        self.layers = _lower(value, output, seen, labels, self.tensors)
        for held in self.modules:
            if not held.same() or _edited(held.contents, seen.began):
                raise NotCapturableError(f"{held.name} changes what it holds when it is called")
        if _edited([x], seen.began):
            raise NotCapturableError("the model edits x in place")
        self._seen = _Seen(self.modules)
        self.ignore = _check_loss(loss)
        self.device = device_of(x.array)
        if not on_host(x.array):
            refused = too_large(self.layers, len(x.array), x.array.dtype)
            if refused is not None:
                raise NotCapturableError(refused)
        elif largest_tile(self.layers, x.array.dtype) < FEWEST_SAMPLES:
            raise NotCapturableError("the buffers of a program would take too much memory for layers of this size")
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for p in self.tensors:
            if id(p) not in known:
                raise NotCapturableError("the optimizer does not hold all parameters of the model")
            if p.array.dtype != x.array.dtype or p.hooks or not p.requires_grad:
                raise NotCapturableError("a parameter has hooks, is frozen, or has another type than x")
        self.dtype = x.array.dtype
        self.model, self.loss = model, loss
        self.groups = [(group, list(group["params"])) for group in optimizer.param_groups]
        shapes = [p.array.shape for p in self.tensors]
        self.precision = precision
        self.store: Any
        if on_host(x.array):
            self.store, self.engine = Parameters(shapes, self.dtype), None
        else:
            with self.device.context():
                self.store = DeviceParameters(shapes, self.dtype, self.device.xp, precision)
            self.engine = kernels(x.array).engine(self.device.index)
        self.moment_views = [self.store.split(m) for m in self.store.moments]
        self.lent: list[tuple[Any, Any]] = []

    def equals(self, other: _Chain) -> bool:
        """Return whether another recording found the same layers and parameters."""
        return (
            self.device == other.device
            and self.layers == other.layers
            and all(a is b for a, b in zip(self.tensors, other.tensors, strict=True))
        )  # equal layers have equally many parameters

    def holds(self, model: Callable[..., Any], loss: Callable[..., Any], optimizer: Optimizer) -> bool:
        """Return whether model, loss and optimizer are still what was recorded; values and options may have changed."""
        groups = optimizer.param_groups
        return (
            model is self.model
            and loss is self.loss
            and len(groups) == len(self.groups)
            and all(
                now is then and _same(now["params"], params)
                for now, (then, params) in zip(groups, self.groups, strict=True)
            )
            and all(map(_requires_grad, self.tensors))
            and not any(map(_hooks, self.tensors))
            and (all(map(is_, map(_array, self.tensors), self.store.views)) or self._same_kinds())
            and self._same_modules()
        )

    def _same_kinds(self) -> bool:
        """Return whether the parameters have the types and shapes that they had."""
        return all(
            type(p.array) is type(view) and p.array.dtype == self.dtype and p.array.shape == view.shape
            for p, view in zip(self.tensors, self.store.views, strict=True)
        )

    def _same_modules(self) -> bool:
        """Return whether all modules still refer to the same objects."""
        if self._seen.same():
            return True
        if not all(held.same() for held in self.modules):
            return False
        self._seen = _Seen(self.modules)  # the same objects, in other containers
        return True

    def program(self, batch: int, processes: bool) -> Any:
        """Return what replays the step for batches of this size."""
        if self.engine is None:
            return Program(self.layers, self.store, batch, forking=processes)
        return DeviceProgram(
            self.layers, self.store, batch, self.device.kernels, self.engine,
            precision=self.precision, ignore=self.ignore,
        )  # fmt: skip

    def adopt(self) -> None:
        """Let the parameters live in the flat array, taking over values that were assigned in the meantime.

        Memory that others go on reading or writing to, because it was handed out by `numpy()` or `data` or because a
        view of it was taken, stays that of its parameter; `give_back` copies the new values there.
        """
        self.lent.clear()
        for p, view in zip(self.tensors, self.store.views, strict=True):
            if p.array is not view:
                view[...] = p.array
                if is_exposed(p.array) or _references(p) > _ALONE:
                    self.lent.append((p, view))
                else:
                    p.array = view

    def give_back(self) -> None:
        """Copy values that were updated in the flat array into the memory of parameters that do not live there."""
        for p, view in self.lent:
            p.array[...] = view

    def flat_options(self, optimizer: Optimizer) -> dict[str, Any] | None:
        """Return the options of Adam and the steps taken so far, and let its state live in the flat arrays.

        None if this is not Adam with one set of options for all parameters.
        """
        group = self.flat_group(optimizer)
        if group is None:
            return None
        states = [optimizer.state.get(p) for p in self.tensors]
        for p, held, m, v in zip(self.tensors, states, *self.moment_views, strict=True):
            if held is None:
                m[...] = 0
                v[...] = 0
                optimizer.state[p] = {"step": 0, "exp_avg": m, "exp_avg_sq": v}
            elif held["exp_avg"] is not m or held["exp_avg_sq"] is not v:
                m[...], v[...] = held["exp_avg"], held["exp_avg_sq"]
                held["exp_avg"], held["exp_avg_sq"] = m, v
        return {
            "steps": optimizer.state[self.tensors[0]]["step"],
            "lr": group["lr"],
            "beta1": group["betas"][0],
            "beta2": group["betas"][1],
            "eps": group["eps"],
            "weight_decay": group["weight_decay"],
            "decoupled": group["decoupled_weight_decay"],
        }

    def flat_group(self, optimizer: Optimizer) -> Any:
        """Return the options of an Adam whose update can run over the flat arrays, else None."""
        states = [optimizer.state.get(p) for p in self.tensors]
        same = len({0 if held is None else held["step"] for held in states}) == 1
        return _flat_group(optimizer) if same else None

    def count_steps(self, optimizer: Optimizer, steps: int) -> None:
        """Note that the flat update took so many steps."""
        for p in self.tensors:
            optimizer.state[p]["step"] += steps
            p.edited()


def _flat_group(optimizer: Optimizer) -> Any:
    """Return the only group of an Adam whose update can run over one flat array, else None."""
    if type(optimizer) not in (Adam, AdamW) or len(optimizer.param_groups) != 1 or "step" in vars(optimizer):
        return None
    group = optimizer.param_groups[0]
    return None if group["amsgrad"] or group["l1"] or group["maximize"] else group


def _check_precision(precision: str, array: Any) -> None:
    if on_host(array):
        raise OptionError(
            f"precision={precision!r} is for a model and batches on a GPU, and these are on the CPU, where it would be "
            "slower than float32; use model.to('cuda') before the optimizer is made, or precision=None"
        )


def _references(p: Traced) -> int:
    """Return how many references there are to the array of a tensor; views of it have one."""
    return getrefcount(p.array)


_ALONE = _references(Traced.made([]))  # this many if only the tensor refers to it


class _Held:
    """What a module or function refers to: `contents`, see `_contents`."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.contents = _contents(module)

    @property
    def name(self) -> str:
        return type(self.module).__name__

    def same(self) -> bool:
        """Return whether the module still refers to the same objects."""
        return _same(_contents(self.module), self.contents)


class _Seen:
    """The dicts and lists of all modules, with what was in them.

    While these are the same objects, as they are at most steps, nothing needs to be opened one by one.
    """

    def __init__(self, modules: list[_Held]) -> None:
        self._plain = [held.module for held in modules if isinstance(held.module, Module)]
        self._others = [held for held in modules if not isinstance(held.module, Module)]
        self._modes = list(map(_mode, self._plain))
        self._attributes = list(map(vars, self._plain))
        self._containers: list[Collection[Any]] = []
        for attributes in self._attributes:
            self._note(attributes, 3)
        self._counts = list(map(len, self._containers))
        self._elements = list(itertools.chain.from_iterable(self._containers))

    def _note(self, container: Any, depth: int) -> None:
        values = container.values() if isinstance(container, dict) else container  # a view, or the list itself
        if not isinstance(container, tuple):
            self._containers.append(values)
        for value in values:
            if isinstance(value, (dict, list, tuple)) and depth:
                self._note(value, depth - 1)

    def same(self) -> bool:
        """Return whether there is the same in each of them; whether a module has other dicts is seen in the order."""
        return (
            all(map(is_, map(vars, self._plain), self._attributes))
            and all(map(is_, map(_mode, self._plain), self._modes))
            and list(map(len, self._containers)) == self._counts
            and all(map(is_, itertools.chain.from_iterable(self._containers), self._elements))
            and all(held.same() for held in self._others)
        )


def _contents(module: Any) -> list[Any]:
    """Return what a module's attributes refer to, lists and dicts opened, and its mode; a function's variables."""
    found: list[Any] = [getattr(module, "training", None)]
    _open(getattr(module, "__dict__", {}), found, 3)
    code = getattr(module, "__code__", None)
    if code is not None:
        found.extend(map(module.__globals__.get, code.co_names))
        for cell in module.__closure__ or ():
            with suppress(ValueError):  # nothing is in it yet
                found.append(cell.cell_contents)
    return found


def _open(values: Any, found: list[Any], depth: int) -> None:
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, (dict, list, tuple)) and depth:
            _open(value, found, depth - 1)
        else:
            found.append(value)


def _edited(values: list[Any], began: int) -> bool:
    """Return whether one of these is a tensor that was written to, or made, since this index."""
    return any(isinstance(value, Traced) and value.index > began for value in values)


def _check_loss(loss: Callable[..., Any]) -> int:
    """Return the label that the loss ignores; an error if labels could mean what the recorded batch did not show.

    A label that is ignored leaves no trace in the graph of a batch without it.
    """
    if type(loss) is CrossEntropyLoss:
        if loss.options["ignore_index"] >= 0:
            raise NotCapturableError("the loss ignores a class of the model")
        return int(loss.options["ignore_index"])
    elif loss is not cross_entropy:
        raise NotCapturableError("the loss is neither nn.CrossEntropyLoss() nor nn.functional.cross_entropy")
    return -100


def _same(now: Collection[Any], then: list[Any]) -> bool:
    return len(now) == len(then) and all(map(is_, now, then))


# From the recorded graph to layers ------------------------------------------------------------------------------------


def _lower(value: Any, output: Any, seen: _Recorder, labels: Any, tensors: list[Any]) -> list[Any]:
    """Return the layers of a recorded step, first to last, and collect their parameters in `tensors`.

    Raises:
        NotCapturableError: the graph is not a chain of layers that end in a mean cross-entropy.
    """
    if not isinstance(value, Traced) or value.node is None:
        raise NotCapturableError("the loss was not recorded")
    count = len(nodes_from([value]))
    # On a device the number of labels that count is computed too, which needs no gradient and so is in no graph.
    beside = 0 if on_host(value.array) else 1
    if seen.ops != count + beside:
        raise NotCapturableError(f"the step runs {seen.ops} ops, but its loss depends on {count} of them")
    steps = _Walk(value)
    logits = steps.cross_entropy(labels)
    if logits is not output:
        raise NotCapturableError("the loss is not the cross-entropy of what the model returned")
    layers: list[Convolution | Linear | Dropout] = []
    while steps.value is not seen.start:
        if steps.name == "dropout" and layers:
            layers.insert(0, steps.dropout())
        if steps.name == "reshape" and layers and isinstance(layers[0], (Linear, Dropout)):
            steps.flattening()
        layers.insert(0, steps.layer(tensors))
    if steps.taken != count:
        raise NotCapturableError("the graph has branches")
    if not layers or not isinstance(layers[-1], Linear):
        raise NotCapturableError("the last layer is not linear")
    if len({id(p.array) for p in tensors}) != len(tensors):
        raise NotCapturableError("layers share parameters")
    return layers


class _Walk:
    """Follows a chain of nodes from its end to its start, taking what it expects."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.taken = 0

    @property
    def name(self) -> str:
        """The op that made the current value."""
        node = self.value.node if isinstance(self.value, Traced) else None
        return "nothing recorded" if node is None else str(node.op.name)

    def take(self, name: str) -> Node:
        """Step over a node of this op, to its first input."""
        if self.name != name:
            raise NotCapturableError(f"{self.name} stands where replay knows {name}")
        node: Node = self.value.node
        if node.hooks:
            raise NotCapturableError(f"the result of {name} has hooks")
        self.value = (node.inputs or (None,))[0]
        self.taken += 1
        return node

    def cross_entropy(self, labels: Any) -> Any:
        """Take mean(−pick(log_softmax(logits), labels)) and return the logits."""
        if not on_host(self.value.array):
            return self._counted_cross_entropy()
        axis = self.take("mean").options.get("axis")
        if axis not in (None, 0, (0,)):
            raise NotCapturableError("the loss is not the mean over the batch")
        self.take("neg")
        picked = self.take("pick").inputs or ()
        if picked[1] is not labels and picked[1] is not getattr(labels, "array", None):
            raise NotCapturableError("the loss does not use the labels as they were given")
        if self.take("log_softmax").options["axis"] % 2 != 1:
            raise NotCapturableError("log_softmax is not along the classes")
        return self.value

    def _counted_cross_entropy(self) -> Any:
        """Take Σ(−pick(log_softmax(logits), labels) · counted) / Σ counted, as on a device, and return the logits.

        Labels are looked at by no one there, so those that are ignored are always taken out. What stands in the place
        of the labels was computed of them; that it was is known of the loss, see `_check_loss`.
        """
        try:
            for name in ("div", "sum", "mul", "neg", "pick"):
                node = self.take(name)
                if name == "sum" and node.options.get("axis") is not None:
                    raise NotCapturableError("the loss is not the mean over the batch")
        except NotCapturableError as error:
            raise NotCapturableError("the loss is not the plain mean of the cross-entropy over the batch") from error
        if self.take("log_softmax").options["axis"] % 2 != 1:
            raise NotCapturableError("log_softmax is not along the classes")
        return self.value

    def parameter(self, tensors: list[Any], value: Any) -> int:
        """Note a parameter and return its number."""
        if not isinstance(value, Traced) or value.node is not None or not value.requires_grad:
            raise NotCapturableError("a weight was computed or needs no gradient")
        tensors.append(value)
        return len(tensors) - 1

    def flattening(self) -> None:
        """Take the reshape of images (n, c, h, w) to (n, features)."""
        node = self.take("reshape")
        before = self.value.array.shape
        if len(before) != 4 or node.output.shape != (before[0], before[1] * before[2] * before[3]):
            raise NotCapturableError("a reshape is not that of flattening images")

    def dropout(self) -> Dropout:
        """Take a dropout by `nn.Dropout`, which draws anew at every step, as replay does."""
        node = self.take("dropout")
        module = None if node.scope is None else node.scope.module
        if on_host(self.value.array):
            raise NotCapturableError("dropout is replayed on a GPU only")
        if type(module) is not DropoutLayer or len(self.value.array.shape) != 2:
            raise NotCapturableError("a dropout is not that of nn.Dropout on (n, features)")
        return Dropout(float(module.p))

    def layer(self, tensors: list[Any]) -> Convolution | Linear:
        """Take one layer: its activation and pool, in either order, then a linear layer or a convolution."""
        relu, pool = False, (1, 1)
        while self.name in ("relu", "max_pool2d"):
            if self.name == "relu":
                if self.take("relu").options["at_zero"] != 0:
                    raise NotCapturableError("a relu has another derivative at 0 than 0")
                relu = True
            else:
                options = self.take("max_pool2d").options
                plain = {"padding": ((0, 0), (0, 0)), "dilation": (1, 1), "ceil_mode": False, "ties": "first"}
                if (
                    pool != (1, 1)
                    or any(options[name] != value for name, value in plain.items())
                    or options["stride"] != options["kernel"]
                    or not all(size in (1, 2) for size in options["kernel"])
                ):
                    raise NotCapturableError("a max pool is not a plain 2 x 2 one with stride 2")
                pool = options["kernel"]
        if self.name == "linear":
            _, weight, *bias = self.take("linear").inputs or ()
            if pool != (1, 1) or len(self.value.array.shape) != 2:
                raise NotCapturableError("a linear layer does not read (n, features)")
            return Linear(
                self.parameter(tensors, weight),
                self.parameter(tensors, bias[0]) if bias and bias[0] is not None else None,
                (weight.array.shape[1], weight.array.shape[0]),
                relu,
            )
        if self.name != "conv2d":
            raise NotCapturableError(f"{self.name} is no layer that replay knows")
        node = self.take("conv2d")
        _, weight, *bias = node.inputs or ()
        if node.options["groups"] != 1:
            raise NotCapturableError("a convolution has groups")
        out, into, kh, kw = weight.array.shape
        return Convolution(
            self.parameter(tensors, weight),
            self.parameter(tensors, bias[0]) if bias and bias[0] is not None else None,
            (into, out),
            self.value.array.shape[2:],
            (kh, kw),
            node.options["stride"],
            node.options["padding"],
            node.options["dilation"],
            relu,
            pool,
        )
