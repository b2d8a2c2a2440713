"""Checks of what the engine differentiates: ops, functions of tensors, modules and whole networks.

Everything is compared in float64 on the CPU, whatever type and device the tensors have: in float32 about 70 % of the
entries of a network are off by more than 1e-4 at every step size. What the original type and device give is judged
separately, as precision.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import backend, graph
from ..autodiff import gradients
from ..backend import Device
from ..errors import GraphError, OptionError
from ..graph import Observer, Traced, nodes_from, observing
from ..tensor import Tensor
from .check import EVERY, KinkMode, Mode, Settings, check_pair, run
from .derivative import LAST_STEP
from .mistakes import Mistake
from .problem import Array, Problem
from .report import Report

__all__ = ["gradcheck", "gradgradcheck"]

REMEMBERED = 4
# The conventions under which a composite kink is looked at: the derivative of relu at 0, and who gets a tie.
CONVENTIONS: dict[str, dict[str, Any]] = {
    "left": {"at_zero": 0.0, "ties": "first"},
    "average": {"at_zero": 0.5, "ties": "split"},
    "right": {"at_zero": 1.0, "ties": "first"},
}


class _Pieces(Observer):
    """Notes on which smooth piece every op of a run was."""

    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=16)
        self.any = False

    def op_finished(self, op: Any, inputs: tuple[Any, ...], options: dict[str, Any], output: Any, result: Any) -> None:
        if op.switches is None:
            return
        self.any = True
        arrays = [x.array if isinstance(x, Traced) else x for x in inputs]
        xp = backend.namespace(output)
        found = np.asarray(backend.to_host(op.switches(xp, output, *arrays, **options)))
        if np.array_equal(found, found.astype(np.int8)):
            found = found.astype(np.int8)
        self.hash.update(np.ascontiguousarray(found).tobytes())


class _Function:
    """A function of tensors as a function of arrays, with its gradient by the engine.

    The tensors a function holds (parameters and buffers of modules) are lent other arrays while it is checked and get
    their own back afterwards.
    """

    def __init__(self, f: Callable[..., Any], args: Sequence[Any], options: dict[str, Any], held: dict[str, Tensor]):
        self.f, self.options, self.held = f, options, held
        self.count = len(args)
        self.args = tuple(args)
        self.places = [a.device if isinstance(a, Tensor) else None for a in (*args, *held.values())]
        beyond = next((place for place in self.places if place is not None and place.kind != "cpu"), None)
        for i, a in enumerate(args):
            if isinstance(a, np.ndarray):  # a plain array goes where the tensors are
                self.places[i] = beyond
        self.buffers: list[tuple[Tensor, Device]] = []  # of the module, and where they were
        backend.generator()  # so that its state is known before the function draws from it
        self.state = backend.generator_states()
        self.used_random = False

    def call(self, arrays: Sequence[Any], record: Sequence[int]) -> tuple[list[Tensor], Any]:
        """Run the function on these arrays and return the recorded tensors and the result."""
        tensors: list[Any] = []
        wanted = []
        for i, a in enumerate(arrays):
            if i >= self.count:
                t: Any = list(self.held.values())[i - self.count]
                t.array = a
                t.edited()
                t.requires_grad = i in record
            elif isinstance(a, np.ndarray) or a.__class__ in backend.device.namespaces:
                t = Tensor.made(a)
                t.requires_grad = i in record
                t.name = self.args[i].name if isinstance(self.args[i], Tensor) else None
            else:
                t = a
            tensors.append(t)
            if i in record:
                wanted.append(t)
        before = self._rewind()
        try:
            y = self.f(*tensors[: self.count], **self.options)
        finally:
            self._resume(before)
        return wanted, y

    def _rewind(self) -> Any:
        """Start every run from the same random numbers, so that dropout is a function."""
        before = backend.generator_states()
        backend.restore_generators(self.state)
        return before

    def _resume(self, before: Any) -> None:
        self.used_random |= not backend.same_state(backend.generator_states(), self.state)
        backend.restore_generators(before)

    def outputs(self, y: Any) -> list[Tensor]:
        """The tensors of a result, which may be one or a tuple."""
        found = list(y) if isinstance(y, (tuple, list)) else [y]
        for t in found:
            if not isinstance(t, Traced):
                raise OptionError(f"the checked function must return a tensor or a tuple of tensors, got {_kind(t)}")
        return found


def _kind(value: Any) -> str:
    return type(value).__name__


class TensorProblem(Problem):
    """A function of tensors, at a point."""

    def __init__(self, function: _Function, args: Sequence[Any], wrt: Sequence[int], names: Sequence[str], name: str):
        self.function = function
        self.runs: dict[bytes, tuple[Array, bytes]] = {}
        super().__init__(self._forward, self._backward, args, wrt=list(wrt), names=names, name=name)
        self.watch = self._watch
        self.legal: bool | None = None
        self.same_pieces = True

    def at(self, z: Array) -> Problem:
        """The same problem at another point."""
        made = TensorProblem(self.function, self.all_args(z, cast=True), self.wrt, self.names, self.name)
        return made

    def _forward(self, *arrays: Any) -> Any:
        with graph.no_grad():
            _, y = self.function.call(arrays, ())
        found = [np.array(backend.to_host(t.array)) for t in self.function.outputs(y)]
        return tuple(found) if isinstance(y, (tuple, list)) else found[0]

    def f(self, z: Array) -> Array:
        """The output at z; the switches of this run are remembered with it."""
        return self._run(z)[0]

    def _watch(self, z: Array) -> bytes:
        return self._run(z)[1]

    def _run(self, z: Array) -> tuple[Array, bytes]:
        key = z.tobytes() if z.size < 4096 else hashlib.blake2b(z.tobytes(), digest_size=16).digest()
        if key not in self.runs:
            pieces = _Pieces()
            with observing(pieces):
                y = super().f(z)
            while len(self.runs) >= REMEMBERED:
                self.runs.pop(next(iter(self.runs)))
            self.runs[key] = (y, pieces.hash.digest() if pieces.any else b"")
        return self.runs[key]

    def _recorded(self, arrays: Sequence[Any]) -> tuple[list[Tensor], list[Tensor]]:
        with graph.enable_grad():
            wanted, y = self.function.call(arrays, self.wrt)
        return wanted, self.function.outputs(y)

    def _backward(self, dout: Any, *arrays: Any) -> Any:
        wanted, outputs = self._recorded(arrays)
        return [np.array(backend.to_host(g.array)) for g in _pull(outputs, wanted, dout, False)]

    def conventions(self, g: Array, z: Array) -> dict[str, Array]:
        """What the engine gives for upstream gradient g under each convention at kinks."""
        found = {}
        for name, wanted in CONVENTIONS.items():
            inputs, outputs = self._recorded(self.all_args(z))
            for node in nodes_from(outputs):
                for option, value in wanted.items():
                    if option in node.options:
                        node.options = {**node.options, option: value}
            dout = self.cotangent(g)
            found[name] = self.flat([x.array for x in _pull(outputs, inputs, dout, False)])
        return found

    def locally_legal(self) -> bool:
        """Whether every op that has kinks treats them legally where it stands."""
        if self.legal is None:
            _, outputs = self._recorded(self.all_args(self.z))
            self.legal = all(_node_is_legal(node) for node in nodes_from(outputs) if node.op.switches is not None)
        return self.legal

    def original(self, g: Array) -> list[Array | None]:
        """The gradients in the tensors' own type on their own device; None where that is float64 on the CPU, and for a
        function that draws random numbers, which are others on another device."""
        if self.function.used_random and any(p is not None and p.kind != "cpu" for p in self.function.places):
            self.same_pieces = True
            return [None] * len(self.wrt)
        arrays = list(self.all_args(self.z, cast=True))
        for i, place in enumerate(self.function.places):
            if place is not None and place.kind != "cpu":
                arrays[i] = place.asarray(arrays[i])
        here, pieces = self._watch(self.z), _Pieces()
        for b, there in self.function.buffers:
            b.array = there.asarray(b.array)
        with observing(pieces):
            inputs, outputs = self._recorded(arrays)
        _to_cpu(self.function.buffers)
        self.same_pieces = (pieces.hash.digest() if pieces.any else b"") == here
        dout = self.cotangent(g)
        parts = list(dout) if self.several else [dout]
        seeds = [
            backend.namespace(y.array).asarray(d, dtype=y.array.dtype) for d, y in zip(parts, outputs, strict=True)
        ]
        found = _pull(outputs, inputs, tuple(seeds) if self.several else seeds[0], False)
        plain = [
            dtype == np.float64 and (place is None or place.kind == "cpu")
            for place, dtype in zip([self.function.places[i] for i in self.wrt], self.dtypes, strict=True)
        ]
        return [
            None if known else np.asarray(backend.to_host(x.array), dtype=np.float64)
            for known, x in zip(plain, found, strict=True)
        ]


def _node_is_legal(node: Any) -> bool:
    """Whether the rules of one recorded op, looked at alone, are right and legal at its kinks."""
    args = [np.asarray(backend.to_host(x.array)) if isinstance(x, Traced) else x for x in node.inputs]
    wrt = [i for i, x in enumerate(node.inputs) if isinstance(x, Traced) and node.op.rule(i) is not None]
    size = sum(args[i].size for i in wrt)
    if not size:
        return True

    def problem_at(number: int) -> Problem:
        function = _Function(node.op, args, node.options, {})
        alone = TensorProblem(function, args, wrt, _argument_names(node.op, len(args)), node.op.name)
        alone.conventions = None  # type: ignore[assignment]  # an op alone has no excuse
        alone.original = None  # type: ignore[assignment]
        return alone

    mode: Mode = "auto" if size <= EVERY else "screen"
    return bool(run(problem_at, Settings(mode, "accept", explain=False)))


def _pull(outputs: list[Tensor], inputs: list[Tensor], dout: Any, create_graph: bool) -> list[Tensor]:
    """Gradients of the outputs weighted by dout, zeros where there is no path."""
    seeds = list(dout) if isinstance(dout, tuple) else [dout]
    pairs = [(y, d) for y, d in zip(outputs, seeds, strict=True) if y.requires_grad]
    found: list[Any] = [None] * len(inputs)
    if pairs:
        found = gradients(
            [y for y, _ in pairs], inputs, [d for _, d in pairs], create_graph=create_graph, allow_unused=True
        )
    return [
        Tensor.made(backend.namespace(x.array).zeros_like(x.array)) if g is None else g
        for g, x in zip(found, inputs, strict=True)
    ]


@contextmanager
def _lent(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Give all of these tensors their arrays back at the end."""
    kept = [(t, t.array, t.requires_grad, t.grad) for t in tensors]
    try:
        yield
    finally:
        for t, array, requires_grad, gradient in kept:
            t.array, t.requires_grad, t.grad = array, requires_grad, gradient
            t.edited()


def _modules(f: Any) -> Any:
    """The module behind a callable: itself, or the object a method is bound to."""
    for candidate in (f, getattr(f, "__self__", None)):
        if hasattr(candidate, "named_parameters") and hasattr(candidate, "named_buffers"):
            return candidate
    return None


def _argument_names(f: Any, count: int) -> list[str]:
    inner = f.forward if _modules(f) is f else f
    try:
        parameters = [
            p.name for p in inspect.signature(inner).parameters.values() if p.kind in (0, 1) and p.name != "self"
        ]
    except (TypeError, ValueError):
        parameters = []
    return [parameters[i] if i < len(parameters) else f"input {i}" for i in range(count)]


def gradcheck(
    f: Callable[..., Any],
    args: Any,
    *,
    vjp: Callable[..., Any] | None = None,
    wrt: Any = None,
    parameters: Any = None,
    options: dict[str, Any] | None = None,
    mode: Mode = "auto",
    kinks: KinkMode = "name",
    convention: str | None = None,
    step: float | str = "auto",
    cases: int = 1,
    seed: int | None = None,
    mistakes: Sequence[Mistake] | None = None,
    reference: Callable[..., Any] | None = None,
    explain: bool = True,
    sample: int = 300,
) -> Report:
    """Check gradients against numerical derivatives and say what is wrong: is d(f · g)/dx right for a random g?

    Args:
        f: an op, a function of tensors, a module or a bound method of one; with `vjp`, a function of NumPy arrays.
        args: its arguments: tensors, arrays (taken as float64), numbers. One bare argument is fine.
        vjp: the rule to check, `vjp(dout, *args)`. Default: what `backward()` computes.
        wrt: names or positions of the checked inputs. Default: the tensors that require a gradient; if none does, all
            of floating point numbers.
        parameters: further tensors f depends on, as a dict, a list or a module. Default: those of f if it is a module.
        options: keyword arguments of f.
        mode: "auto" compares every entry up to 2 000 and `sample` entries above, spread over all parameters; "full"
            every entry, "screen" three random directions per input, "rows" every entry of the Jacobian.
        kinks: "name" accepts legal values at kinks and names the convention, "accept" accepts them, "strict" demands
            `convention`.
        convention: for kinks="strict": "left", "right", "average", "first", "last" or "split".
        step: "auto", a first step, or "complex" for a second opinion (functions of arrays only).
        cases: at how many points: the given one and others like it.
        seed: of all random numbers; the report tells it.
        mistakes: typical mistakes to try first. Default: those known for the op.
        reference: a rule known to be right, to find a cause faster.
        explain: whether to look for the cause of an error.
        sample: how many entries are compared where there are more than 2 000.

    Returns:
        A `Report`, true if everything is right.

    >>> x = Tensor([[0.5, -1.0, 2.0]], requires_grad=True)
    >>> bool(gradcheck(lambda x: (x * x).sum(), (x,)))
    True
    """
    if not isinstance(args, (tuple, list)) and not callable(args):
        args = (args,)
    known = _known_mistakes(f, mistakes)
    if vjp is not None:
        return check_pair(
            f,
            vjp,
            args if callable(args) else tuple(np.asarray(a.array) if isinstance(a, Traced) else a for a in args),
            options=options,
            wrt=wrt,
            reference=reference,
            mistakes=known,
            cases=cases,
            mode=mode,
            kinks=kinks,
            convention=convention,
            step=step,
            seed=seed,
            explain=explain,
        )
    if callable(args):
        args = args(np.random.default_rng(seed))
    if step == "complex":
        raise OptionError("step='complex' needs a function of NumPy arrays: give a rule with vjp=")
    seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed)
    settings = Settings(mode, kinks, convention, step, seed, mistakes=known, explain=explain, sample=sample)
    module = _modules(f)
    held = _held(parameters if parameters is not None else module)
    buffers = [t for _, t in module.named_buffers()] if module is not None else []
    function = _Function(f, args, dict(options or {}), held)
    names = _argument_names(f, len(args)) + list(held)
    values = [_value(a) for a in (*args, *held.values())]
    positions = _checked(wrt, args, held, values, names)
    title = getattr(f, "__name__", "") or type(f).__name__
    title = "function" if title == "<lambda>" else title
    function.buffers = [(b, b.device) for b in buffers]
    with _lent([*held.values(), *buffers]):
        _to_cpu(function.buffers)

        def problem_at(number: int) -> Problem:
            problem: Problem = TensorProblem(function, values, positions, names, title)
            if number:
                from .check import elsewhere

                problem = problem.at(elsewhere(problem.z, np.random.default_rng([seed, number])))
            return problem

        report = run(problem_at, settings, cases)
    if function.used_random:
        report.remarks.append("note: the function draws random numbers; they were held fixed during the check")
        if any(place is not None and place.kind != "cpu" for place in function.places):
            report.remarks.append(
                "note: it was checked on the CPU alone, because every device draws numbers of its own"
            )
    report.replay = f"repeat with seed={seed}"
    return report


def _to_cpu(buffers: list[tuple[Tensor, Device]]) -> None:
    for b, _ in buffers:
        b.array = np.array(backend.to_host(b.array))


def _known_mistakes(f: Any, mistakes: Sequence[Mistake] | None) -> tuple[Mistake, ...]:
    if mistakes is not None:
        return tuple(mistakes)
    from .bank import for_op

    return for_op(getattr(f, "name", "") if hasattr(f, "vjps") else "")


def _value(a: Any) -> Any:
    if isinstance(a, Traced):
        return np.array(backend.to_host(a.array))
    if isinstance(a, np.ndarray):
        return a.astype(np.float64) if backend.is_float(a.dtype) else a
    return a


def _held(parameters: Any) -> dict[str, Tensor]:
    if parameters is None:
        return {}
    if hasattr(parameters, "named_parameters"):
        return {name: p for name, p in parameters.named_parameters() if p.requires_grad}
    if isinstance(parameters, dict):
        return dict(parameters)
    return {p.name or f"parameter {i}": p for i, p in enumerate(parameters)}


def _checked(wrt: Any, args: Sequence[Any], held: dict[str, Tensor], values: list[Any], names: list[str]) -> list[int]:
    """Positions of the inputs whose gradients are compared."""
    floats = [i for i, v in enumerate(values) if isinstance(v, np.ndarray) and backend.is_float(v.dtype)]
    if wrt is not None:
        chosen = []
        for which in [wrt] if isinstance(wrt, (str, int)) else wrt:
            if isinstance(which, str) and which not in names:
                raise OptionError(f"wrt={which!r}: the inputs are {', '.join(names)}")
            position = names.index(which) if isinstance(which, str) else which
            if position not in floats:
                raise OptionError(f"wrt={which!r} is no tensor of floating point numbers, so it has no gradient")
            chosen.append(position)
        return chosen
    asked = [i for i in floats if i < len(args) and isinstance(args[i], Traced) and args[i].requires_grad]
    own = asked or [i for i in floats if i < len(args) and not (held and isinstance(args[i], Traced))]
    found = own + [i for i in floats if i >= len(args)]
    if not found:
        raise GraphError("there is nothing to check: no argument is a tensor or an array of floating point numbers")
    return found


def gradgradcheck(
    f: Callable[..., Any],
    args: Any,
    *,
    wrt: Any = None,
    parameters: Any = None,
    options: dict[str, Any] | None = None,
    mode: Mode = "auto",
    seed: int | None = None,
    explain: bool = True,
    sample: int = 300,
) -> Report:
    """Check second derivatives: the gradients of f are themselves checked as a function of the inputs and of dout.

    At a kink the first derivative jumps, so inputs that lie on one are moved a little first.

    Args: as those of `gradcheck`.

    >>> bool(gradgradcheck(lambda x: (x**3).sum(), (np.array([1.0, -2.0]),)))
    True
    """
    if not isinstance(args, (tuple, list)):
        args = (args,)
    seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed)
    rng = np.random.default_rng([seed, 2])
    module = _modules(f)
    held = _held(parameters if parameters is not None else module)
    names = _argument_names(f, len(args)) + list(held)
    values = [_value(a) for a in (*args, *held.values())]
    positions = _checked(wrt, args, held, values, names)
    first = _Function(f, args, dict(options or {}), held)
    buffers = [t for _, t in module.named_buffers()] if module is not None else []
    with _lent([*held.values(), *buffers]):
        for b in buffers:
            b.array = np.array(backend.to_host(b.array))
        problem = TensorProblem(first, values, positions, names, "function")
        z = _off_kinks(problem, rng)
        values = list(problem.all_args(z))
        shapes = problem.output_shapes
    several = problem.several
    outer = [Tensor.made(rng.normal(size=shape)) for shape in shapes]

    def derivative(*inputs: Any) -> tuple[Any, ...]:
        douts, own = inputs[: len(outer)], inputs[len(outer) :]
        with graph.enable_grad():
            result = f(*own, **(options or {}))
            ys = list(result) if several else [result]
            sources = [own[i] if i < len(args) else list(held.values())[i - len(args)] for i in positions]
            live = [x for x in sources if x.requires_grad]
            found = iter(_pull(ys, live, tuple(douts), True))
            return tuple(next(found) if x.requires_grad else x * 0.0 for x in sources)

    second = _Function(derivative, (*outer, *values[: len(args)]), {}, held)
    shift = len(outer)
    everything = [*range(shift), *(i + shift for i in positions)]
    titles = [f"dout{i or ''}" for i in range(shift)] + names
    points = [*(o.array for o in outer), *values]
    settings = Settings(mode, seed=seed, explain=explain, sample=sample)
    with _lent([*held.values(), *buffers]):
        for b in buffers:
            b.array = np.array(backend.to_host(b.array))

        def problem_at(number: int) -> Problem:
            made: Problem = _Second(second, points, everything, titles, "second derivative")
            if number:
                from .check import elsewhere

                made = made.at(elsewhere(made.z, np.random.default_rng([seed, number])))
            return made

        report = run(problem_at, settings)
    report.replay = f"repeat with seed={seed}"
    return report


class _Second(TensorProblem):
    """The gradient of a function as the function to be checked: its forward pass has to record."""

    def at(self, z: Array) -> Problem:
        """The same problem at another point."""
        return _Second(self.function, self.all_args(z, cast=True), self.wrt, self.names, self.name)

    def _forward(self, *arrays: Any) -> Any:
        _, y = self.function.call(arrays, self.wrt)
        return tuple(np.array(backend.to_host(t.array)) for t in self.function.outputs(y))

    def original(self, g: Array) -> list[Array | None]:
        """Second derivatives are judged in float64 only."""
        return [None] * len(self.wrt)


def _off_kinks(problem: TensorProblem, rng: np.random.Generator) -> Array:
    """A point at or near the given one where small steps change no switch."""
    z = problem.z
    for attempt in range(8):
        piece = problem._watch(z)
        steps = [z + s * LAST_STEP * np.maximum(1.0, np.abs(z)) * rng.normal(size=z.shape) for s in (1, 1, 1)]
        if all(problem._watch(u) == piece for u in steps):
            break
        z = problem.z + 1e-3 * 2.0**attempt * np.maximum(1.0, np.abs(problem.z)) * rng.normal(size=z.shape)
    return z
