"""What is checked: a function of arrays, and the rule that claims to be its gradient.

All checked inputs are laid out behind each other in one vector z, and the output is read as one vector f(z). So the
checks that follow know neither shapes nor argument lists, and a tie between two different inputs is one tie.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backend import is_float
from ..errors import OptionError

__all__ = ["Array", "Problem", "RuleError", "axis_names", "jitter"]

Array = NDArray[Any]


class RuleError(Exception):
    """The rule under test broke its contract so that there is no gradient to compare."""

    def __init__(self, check: str, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.check = check
        self.position = position


class Problem:
    """A forward function, a backward rule, and the point at which they are compared.

    Attributes:
        forward: `forward(*args, **options)` returns an array, or a tuple of arrays.
        backward: `backward(dout, *args, **options)` returns one gradient per checked input; a single one may be bare.
        reference: a rule of the same form that is known to be right, or None.
        args, options: the point.
        names: names of all args.
        wrt: positions of the inputs whose gradients are checked.
        z: the checked inputs as one float64 vector.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        backward: Callable[..., Any],
        args: Sequence[Any],
        options: dict[str, Any] | None = None,
        *,
        wrt: Any = None,
        names: Sequence[str] | None = None,
        reference: Callable[..., Any] | None = None,
        name: str = "",
    ) -> None:
        self.forward, self.backward, self.reference = forward, backward, reference
        self.options = dict(options or {})
        self.args = tuple(np.array(a, copy=True) if isinstance(a, np.ndarray) else a for a in args)
        self.names = tuple(names) if names is not None else _names(forward, len(self.args))
        self.name = name or getattr(backward, "__name__", "") or getattr(forward, "__name__", "") or "rule"
        self.wrt = _positions(wrt, self.args, self.names)
        for i in self.wrt:
            a = self.args[i]
            if not isinstance(a, np.ndarray):
                self.args = (*self.args[:i], np.asarray(a, dtype=float), *self.args[i + 1 :])
        self.dtypes = [self.args[i].dtype for i in self.wrt]
        self.shapes = [self.args[i].shape for i in self.wrt]
        sizes = [int(np.prod(s, dtype=int)) for s in self.shapes]
        self.bounds = [0, *np.cumsum(sizes).tolist()]
        self.z = self.flat([np.asarray(self.args[i], dtype=np.float64) for i in self.wrt])
        self.calls = 0
        self.output_shapes: list[tuple[int, ...]] = []
        self.several = False

    # --- between arrays and the vector

    @staticmethod
    def flat(arrays: Sequence[Any]) -> Array:
        """Lay arrays out behind each other."""
        parts = [np.asarray(a, dtype=np.float64).reshape(-1) for a in arrays]
        return np.concatenate(parts) if parts else np.zeros(0)

    def arrays(self, z: Array) -> list[Array]:
        """Cut the vector into arrays of the shapes of the checked inputs."""
        pairs = zip(self.bounds[:-1], self.bounds[1:], self.shapes, strict=True)
        return [z[a:b].reshape(s).copy() for a, b, s in pairs]

    def part(self, k: int) -> slice:
        """The entries of checked input number k in the vector."""
        return slice(self.bounds[k], self.bounds[k + 1])

    def where(self, i: int) -> tuple[int, tuple[int, ...]]:
        """The checked input and the index in it of entry i of the vector."""
        k = int(np.searchsorted(self.bounds, i, side="right")) - 1
        return k, tuple(int(v) for v in np.unravel_index(i - self.bounds[k], self.shapes[k]))

    def label(self, k: int) -> str:
        """The name of checked input number k."""
        return self.names[self.wrt[k]]

    def all_args(self, z: Array, cast: bool = False) -> tuple[Any, ...]:
        """All arguments with the checked inputs taken from z, every array a fresh copy."""
        args: list[Any] = [a.copy() if isinstance(a, np.ndarray) else a for a in self.args]
        for i, a, dtype in zip(self.wrt, self.arrays(z), self.dtypes, strict=True):
            args[i] = a.astype(dtype) if cast else a
        return tuple(args)

    # --- the function and the rule

    def f(self, z: Array) -> Array:
        """The output as one float64 vector."""
        self.calls += 1
        with np.errstate(all="ignore"):  # probes may leave the domain; the check looks for NaN itself
            return self._read(self.forward(*self.all_args(z), **self.options))

    def _read(self, y: Any) -> Array:
        self.several = isinstance(y, (tuple, list))
        outputs = [np.asarray(v) for v in (y if self.several else [y])]
        shapes = [v.shape for v in outputs]
        if any(v.dtype.kind not in "fiubc" for v in outputs):
            raise OptionError(f"{self.name}: the forward function must return numbers, got {type(y).__name__}")
        self.output_shapes = shapes
        if any(v.dtype.kind == "c" for v in outputs):
            return np.concatenate([v.reshape(-1) for v in outputs])
        return self.flat(outputs)

    def cotangent(self, g: Array) -> Any:
        """The vector g in the form of the output: the upstream gradient a rule expects."""
        parts, start = [], 0
        for shape in self.output_shapes:
            size = int(np.prod(shape, dtype=int))
            parts.append(g[start : start + size].reshape(shape).copy())
            start += size
        return tuple(parts) if self.several else parts[0]

    def results(self, raw: Any) -> list[Any]:
        """Sort what a rule returned by checked input."""
        n = len(self.wrt)
        if isinstance(raw, dict):
            missing = [self.label(k) for k in range(n) if self.label(k) not in raw]
            if missing:
                raise RuleError("count", f"the rule returned no gradient for {', '.join(missing)}")
            return [raw[self.label(k)] for k in range(n)]
        if not isinstance(raw, (tuple, list)):
            raw = [raw]
        if len(raw) == len(self.args) != n:
            raw = [raw[i] for i in self.wrt]
        if len(raw) != n:
            wanted = ", ".join(self.label(k) for k in range(n))
            raise RuleError("count", f"the rule returned {len(raw)} gradients; expected {n} ({wanted})")
        return list(raw)

    def rule(self, g: Array, z: Array | None = None) -> list[Any]:
        """What the rule under test returns in float64 for upstream gradient g, one entry per checked input."""
        args = self.all_args(self.z if z is None else z)
        return self.results(self.backward(self.cotangent(g), *args, **self.options))

    def gradient(self, g: Array, z: Array | None = None) -> Array:
        """What the rule returns as one vector, after its contract was found kept."""
        return self.flat(self.rule(g, z))

    # On which smooth piece of the function z lies; None where only the values can tell.
    watch: Callable[[Array], bytes | None] | None = None
    # Where there is an engine behind the rule: gradients under each convention at kinks, whether each op for itself is
    # right at its kinks, and gradients in the tensors' own type.
    conventions: Callable[[Array, Array], dict[str, Array]] | None = None
    locally_legal: Callable[[], bool] | None = None
    original: Callable[[Array], list[Array | None]] | None = None
    # Whether the run in the tensors' own type was on the same smooth piece as the one in float64.
    same_pieces: bool = True

    def at(self, z: Array) -> Problem:
        """The same problem at another point."""
        args = self.all_args(z, cast=True)
        return type(self)(
            self.forward,
            self.backward,
            args,
            self.options,
            wrt=self.wrt,
            names=self.names,
            reference=self.reference,
            name=self.name,
        )


def _names(forward: Callable[..., Any], count: int) -> tuple[str, ...]:
    try:
        parameters = [
            p.name
            for p in inspect.signature(forward).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        parameters = []
    return tuple(parameters[i] if i < len(parameters) else f"input {i}" for i in range(count))


def _positions(wrt: Any, args: tuple[Any, ...], names: tuple[str, ...]) -> tuple[int, ...]:
    if wrt is None:
        found = tuple(i for i, a in enumerate(args) if isinstance(a, np.ndarray) and is_float(a.dtype))
        found = found or tuple(i for i, a in enumerate(args) if isinstance(a, float))
        if not found:
            raise OptionError("there is nothing to check: no argument is an array of floating point numbers")
        return found
    positions = []
    for which in [wrt] if isinstance(wrt, (str, int)) else wrt:
        if isinstance(which, str):
            if which not in names:
                raise OptionError(f"wrt={which!r}: the arguments are {', '.join(names)}")
            which = names.index(which)
        if not 0 <= which < len(args):
            raise OptionError(f"wrt={which}: there are {len(args)} arguments")
        positions.append(int(which))
    return tuple(positions)


def axis_names(shape: tuple[int, ...], name: str = "") -> tuple[str, ...]:
    """What the axes of an input are called where the caller does not say."""
    if len(shape) == 4:
        kernel = name.lower().rpartition(".")[2] in ("w", "weight", "weights", "kernel", "kernels", "filters")
        return ("filter" if kernel else "sample", "channel", "row", "column")
    if len(shape) == 2:
        return ("row", "column")
    if len(shape) == 1:
        return ("entry",)
    return tuple(f"axis {a}" for a in range(len(shape)))


def jitter(z: Array, rng: np.random.Generator, size: float = 1e-2) -> Array:
    """A point near z that is in general position: no zeros, no ties."""
    step = size * np.maximum(np.abs(z), 0.1)
    return np.asarray(z + step * rng.uniform(0.2, 1.0, z.shape) * rng.choice([-1.0, 1.0], z.shape))
