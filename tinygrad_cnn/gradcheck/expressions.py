"""Say what a wrong rule computes: a search through short formulas in dout, the arguments and the output.

This knows nothing of the function. It does not name a mistake, but "this is dout · x (1 - x)" is often all one needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, product
from typing import Any

import numpy as np

from .mistakes import Suspect, decode
from .problem import Array
from .trial import Trial

__all__ = ["expressions"]

FORMS: dict[str, Callable[[Any], Any]] = {
    "{}": lambda a: a,
    "{}²": lambda a: a * a,
    "1/{}": lambda a: 1 / a,
    "1/{}²": lambda a: 1 / (a * a),
    "(1 - {})": lambda a: 1 - a,
    "(1 + {})": lambda a: 1 + a,
    "1/(1 + {})": lambda a: 1 / (1 + a),
    "{0} (1 - {0})": lambda a: a * (1 - a),
    "{0} (1 + {0})": lambda a: a * (1 + a),
    "(1 - {}²)": lambda a: 1 - a * a,
    "(1 + {}²)": lambda a: 1 + a * a,
    "(1 - {})²": lambda a: (1 - a) ** 2,
    "√{}": np.sqrt,
    "1/√{}": lambda a: 1 / np.sqrt(a),
    "exp({})": np.exp,
    "exp(-{})": lambda a: np.exp(-a),
    "ln {}": np.log,
    "sin {}": np.sin,
    "cos {}": np.cos,
    "tanh {}": np.tanh,
    "(1 - tanh² {})": lambda a: 1 - np.tanh(a) ** 2,
    "σ({})": lambda a: 1 / (1 + np.exp(-a)),
    "(1 - σ({}))": lambda a: 1 / (1 + np.exp(a)),
    "σ'({})": lambda a: 1 / (2 + np.exp(a) + np.exp(-a)),
    "[{} > 0]": lambda a: (a > 0) * 1.0,
    "[{} < 0]": lambda a: (a < 0) * 1.0,
    "[{} > 1]": lambda a: (a > 1) * 1.0,
    "sign({})": np.sign,
    "|{}|": np.abs,
}
PAIRS: dict[str, Callable[[Any, Any], Any]] = {
    "{} {}": lambda a, b: a * b,
    "{} / {}": lambda a, b: a / b,
    "{} / {}²": lambda a, b: a / (b * b),
    "{} ^ {}": lambda a, b: a**b,
    "{0} ^ ({1} - 1)": lambda a, b: a ** (b - 1),
    "{1} {0} ^ {1}": lambda a, b: b * a**b,
    "{} ln {}": lambda a, b: a * np.log(b),
    "[{} > {}]": lambda a, b: (a > b) * 1.0,
    "[{} < {}]": lambda a, b: (a < b) * 1.0,
}
ROWS: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "{p} (dout - Σ dout)": lambda g, p, total, mean: p * (g - total(g)),
    "{p} (dout - mean of dout)": lambda g, p, total, mean: p * (g - mean(g)),
    "{p} (dout - Σ dout {p})": lambda g, p, total, mean: p * (g - total(g * p)),
    "{p} (dout - mean of dout {p})": lambda g, p, total, mean: p * (g - mean(g * p)),
    "dout - {p}": lambda g, p, total, mean: g - p,
    "dout - {p} Σ dout": lambda g, p, total, mean: g - p * total(g),
    "dout - {p} · mean of dout": lambda g, p, total, mean: g - p * mean(g),
    "dout - Σ dout {p}": lambda g, p, total, mean: g - total(g * p),
    "dout - mean of dout {p}": lambda g, p, total, mean: g - mean(g * p),
    "dout - Σ dout": lambda g, p, total, mean: g - total(g),
    "dout - mean of dout": lambda g, p, total, mean: g - mean(g),
    "dout (1 - {p})": lambda g, p, total, mean: g * (1 - p),
    "{p} Σ dout": lambda g, p, total, mean: p * total(g),
    "{p} Σ dout {p}": lambda g, p, total, mean: p * total(g * p),
}


def expressions(trial: Trial, k: int) -> Iterator[Suspect]:
    """Formulas that give, up to a constant factor, what the rule returned in this trial."""
    stated, right = trial.stated[k], trial.right[k]
    p = trial.problem
    if stated is None or stated.shape != right.shape or not stated.any() or p.several:
        return
    g = trial.g.reshape(p.output_shapes[0])
    things = {
        name: np.asarray(a, dtype=float)
        for name, a in zip(p.names, trial.args(), strict=True)
        if isinstance(a, np.ndarray) and a.dtype.kind == "f" and a.ndim
    }
    things["y"] = trial.y.reshape(p.output_shapes[0])
    with np.errstate(all="ignore"):
        for text, value in _candidates(g, things, stated):
            fitted = _fit(value, stated.shape)
            if fitted is None:
                continue
            square = float((fitted * fitted).sum())
            if not np.isfinite(square) or not square:
                continue
            factor = float((fitted * stated).sum()) / square
            top = float(np.max(np.abs(stated)))
            if not np.max(np.abs(factor * fitted - stated)) <= 1e-9 * top:
                continue
            yield from _named(trial, k, text, factor, factor * fitted)


def _named(trial: Trial, k: int, text: str, factor: float, value: Array) -> Iterator[Suspect]:
    name = trial.problem.label(k)
    if abs(factor - 1) < 1e-9:
        yield Suspect(f"computes {text}", f"this d{name} is {text}", "generic", lambda: value)
        return
    for recipe, _ in decode(factor, trial, k):
        factor_text = "-" if recipe == "sign" else f"{recipe} · "
        whole = f"{factor_text}{text}"
        yield Suspect(f"computes {whole}", f"this d{name} is {whole}", "generic", lambda: value)


def _fit(value: Any, shape: tuple[int, ...]) -> Array | None:
    """Sum a value over axes, or repeat it, until it has this shape, if that can be."""
    fitted: Array = np.asarray(value, dtype=float)
    extra = fitted.ndim - len(shape)
    if extra > 0:
        fitted = np.asarray(fitted.sum(axis=tuple(range(extra))))
    if extra >= 0:
        axes = tuple(i for i, (a, b) in enumerate(zip(fitted.shape, shape, strict=True)) if b == 1 and a != 1)
        fitted = np.asarray(fitted.sum(axis=axes, keepdims=True)) if axes else fitted
    return np.broadcast_to(fitted, shape) if _fits(fitted.shape, shape) else None


def _fits(inner: tuple[int, ...], outer: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(inner, outer) == outer
    except ValueError:
        return False


def _candidates(g: Array, things: dict[str, Array], stated: Array) -> Iterator[tuple[str, Any]]:
    for text, d in _spread(g, stated):
        yield text, d
        for name, a in things.items():
            if not _together(d, a):
                continue
            for form, function in FORMS.items():
                yield f"{text} · {form.format(name)}", d * function(a)
        for (n, a), (m, b) in product(things.items(), repeat=2):
            if n != m and _together(d, a, b):
                for form, pair in PAIRS.items():
                    yield f"{text} · {form.format(n, m)}", d * pair(a, b)
    yield from _rows(g, things)
    yield from _products(g, things, stated)
    yield from _sums(g, stated)


def _together(*arrays: Array) -> bool:
    try:
        np.broadcast_shapes(*(a.shape for a in arrays))
    except ValueError:
        return False
    return True


def _spread(g: Array, stated: Array) -> Iterator[tuple[str, Array]]:
    """dout itself, and with the axes given back that a reduction took away."""
    yield "dout", g
    missing = stated.ndim - g.ndim
    if 0 < missing <= 3 and g.ndim:
        for axes in combinations(range(stated.ndim), missing):
            full = np.expand_dims(g, axes)
            if _fits(full.shape, stated.shape):
                yield "dout", full


def _rows(g: Array, things: dict[str, Array]) -> Iterator[tuple[str, Any]]:
    for name, a in list(things.items()):
        if a.shape != g.shape or not g.ndim:
            continue
        for axis in range(g.ndim):
            shifted = np.exp(a - a.max(axis, keepdims=True))
            readings = {
                name: a,
                f"exp({name})": np.exp(a),
                f"softmax({name})": shifted / shifted.sum(axis, keepdims=True),
            }

            def total(v: Any, axis: int = axis) -> Any:
                return v.sum(axis, keepdims=True)

            def mean(v: Any, axis: int = axis) -> Any:
                return v.mean(axis, keepdims=True)

            for reading, value in readings.items():
                for form, function in ROWS.items():
                    where = f" (sums over axis {axis - g.ndim})" if "Σ" in form or "mean" in form else ""
                    yield form.format(p=reading) + where, function(g, value, total, mean)
            yield f"dout · softmax({name}) over axis {axis - g.ndim}", g * readings[f"softmax({name})"]
        everything = a * (g - (g * a).sum())
        yield f"{name} (dout - Σ dout {name}) (sums over everything)", everything


def _products(g: Array, things: dict[str, Array], stated: Array) -> Iterator[tuple[str, Any]]:
    """Matrix products of two of the arrays, transposed or not."""
    matrices = {n: a for n, a in {"dout": g, **things}.items() if a.ndim == 2}
    for (n, a), (m, b) in product(matrices.items(), repeat=2):
        for left, right in product((False, True), repeat=2):
            x, y = a.T if left else a, b.T if right else b
            if x.shape[1] == y.shape[0] and (x.shape[0], y.shape[1]) == stated.shape:
                yield f"{n}{'.T' if left else ''} @ {m}{'.T' if right else ''}", x @ y
        if a.size == b.size and a.shape != b.shape:
            turned = b.reshape(b.shape[::-1])
            if a.shape[1] == turned.shape[0] and (a.shape[0], turned.shape[1]) == stated.shape:
                yield f"{n} @ {m}.reshape{turned.shape}", a @ turned


def _sums(g: Array, stated: Array) -> Iterator[tuple[str, Any]]:
    """dout summed over some axes, or one slice of it."""
    for count in range(1, g.ndim + 1):
        for axes in combinations(range(g.ndim), count):
            total = g.sum(axis=axes)
            if total.shape == stated.shape:
                yield f"dout summed over axes {axes}", total
            for index, word in ((0, "first"), (-1, "last")):
                place: list[Any] = [slice(None)] * g.ndim
                for axis in axes:
                    place[axis] = index
                rest = g[tuple(place)]
                if rest.shape == stated.shape:
                    yield f"the {word} slice of dout along axes {axes}", rest
                for extra in range(rest.ndim):
                    if rest.sum(extra).shape == stated.shape:
                        yield f"the {word} slice of dout along axes {axes}, summed", rest.sum(extra)
