"""The contract of a backward rule, checked before any number is compared."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import is_float, is_number
from .problem import Array, Problem, RuleError
from .report import Finding

__all__ = ["Observation", "examine"]


class Observation:
    """What one look at the contract saw.

    Attributes:
        raw: what the rule returned, per checked input, or None where it raised.
        general: findings that concern no single input.
        parts: findings per checked input.
        usable: per checked input, whether the result can be compared with a derivative.
        flags: names of general properties that do not hold: "zero", "linear", "repeatable".
    """

    def __init__(self, count: int) -> None:
        self.raw: list[Any] | None = None
        self.general: list[Finding] = []
        self.parts: list[list[Finding]] = [[] for _ in range(count)]
        self.usable = [False] * count
        self.flags: set[str] = set()

    @property
    def broken(self) -> bool:
        """Whether any clause was broken."""
        return any(f.fails for f in self.general) or any(f.fails for p in self.parts for f in p)


def examine(problem: Problem, g: Array, *, alias: str = "note") -> Observation:
    """Call the rule a few times and look at everything but the values."""
    seen = Observation(len(problem.wrt))
    args = problem.all_args(problem.z, cast=True)
    dout = problem.cotangent(g)
    kept = [a.copy() if isinstance(a, np.ndarray) else None for a in args]
    try:
        raw = problem.results(problem.backward(dout, *args, **problem.options))
    except RuleError as error:
        seen.general.append(Finding(error.check, str(error)))
        return seen
    except Exception as error:
        seen.general.append(Finding("raised", f"the rule raised {type(error).__name__}: {error}"))
        return seen
    seen.raw = raw
    for name, before, after in zip(problem.names, kept, args, strict=True):
        if before is not None and not _same(before, after):
            seen.general.append(Finding("inputs", f"the rule wrote into its input {name}; work on a copy"))
    given = problem.cotangent(g)
    pairs = zip(given, dout, strict=True) if problem.several else [(given, dout)]
    if not all(_same(a, b) for a, b in pairs):
        seen.general.append(Finding("inputs", "the rule wrote into the upstream gradient dout; work on a copy"))
    for k, result in enumerate(raw):
        seen.usable[k] = _result(seen, problem, k, result)
        if isinstance(result, np.ndarray):
            _alias(seen, problem, k, result, args, dout, alias)
    if all(seen.usable):
        _behaviour(seen, problem, g)
    return seen


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def _result(seen: Observation, problem: Problem, k: int, result: Any) -> bool:
    """Whether result number k is an array of the right shape and kind."""
    label, shape = problem.label(k), problem.shapes[k]
    found = seen.parts[k]
    if result is None:
        found.append(Finding("missing", f"the gradient of {label} is None; expected an array of shape {shape}"))
        return False
    try:
        array = np.asarray(result)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if not is_number(array.dtype):
        found.append(Finding("dtype", f"the gradient of {label} is {_kind(result)}; expected an array of {shape}"))
        return False
    if array.shape != shape:
        found.append(Finding("shape", f"the gradient of {label} has shape {array.shape}, but {label} has {shape}"))
        return False
    if not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        kind = "" if problem.dtypes[k] == np.float64 else f"in {problem.dtypes[k]}, "
        found.append(
            Finding("finite", f"{kind}{bad} of {array.size} entries are NaN or infinite, the first at {where}")
        )
        return False
    if not is_float(array.dtype):
        found.append(
            Finding("dtype", f"the gradient of {label} has type {array.dtype}, which cannot hold fractions", True)
        )
    elif array.dtype.itemsize < problem.dtypes[k].itemsize:
        text = f"the gradient of {label} has type {array.dtype}, but {label} has {problem.dtypes[k]}"
        found.append(Finding("dtype", text))
    return True


def _kind(result: Any) -> str:
    return f"a {type(result).__name__}" if not isinstance(result, np.ndarray) else f"an array of {result.dtype}"


def _alias(
    seen: Observation, problem: Problem, k: int, result: Array, args: tuple[Any, ...], dout: Any, alias: str
) -> None:
    label = problem.label(k)
    others = [(n, a) for n, a in zip(problem.names, args, strict=True) if isinstance(a, np.ndarray)]
    others += [("dout", d) for d in (dout if problem.several else [dout])]
    for name, other in others:
        if result.size and np.shares_memory(result, other):
            text = f"the gradient of {label} shares memory with {name}; a later += would change both, return a copy"
            seen.parts[k].append(Finding("alias", text, fails=alias == "fail"))
            return


def _behaviour(seen: Observation, problem: Problem, g: Array) -> None:
    """Repeatable, zero for zero, linear in the upstream gradient."""
    try:
        first, again = problem.gradient(g), problem.gradient(g)
        if again.tobytes() != first.tobytes():
            _unrepeatable(seen, first, again, problem.gradient(g))
            return
        zero, double = problem.gradient(np.zeros_like(g)), problem.gradient(2 * g)
    except Exception as error:
        seen.general.append(Finding("raised", f"the rule raised {type(error).__name__} on a second call: {error}"))
        return
    if zero.shape == first.shape and np.any(zero != 0):
        seen.flags.add("zero")
        text = "with an upstream gradient of zeros the result is not zero: not all of it is multiplied by dout"
        seen.general.append(Finding("linear", text))
    elif double.shape == first.shape:
        top = float(np.max(np.abs(double), initial=0.0))
        if not np.allclose(double, 2 * first, rtol=1e-9, atol=1e-12 * top):
            seen.flags.add("linear")
            seen.general.append(Finding("linear", "twice the upstream gradient does not give twice the gradient"))


def _unrepeatable(seen: Observation, first: Array, second: Array, third: Array) -> None:
    seen.flags.add("repeatable")
    text = "two calls with the same arguments give different gradients"
    same_shape = first.shape == second.shape == third.shape
    if same_shape and np.any(second != first) and np.allclose(third - second, second - first, rtol=1e-9):
        seen.flags.add("accumulates")
        text += ": it grows by the same amount every time, so something is accumulated between calls"
    seen.general.append(Finding("repeatable", text))
