"""Functions on which the checker proves itself: what they compute, and random inputs whose sizes all differ.

Sizes differ so that a factor or an axis that is mixed up shows, and is recognised for what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops

__all__ = ["SUBJECTS", "Subject"]

Draw = Callable[[np.random.Generator], tuple[tuple[Any, ...], dict[str, Any]]]


@dataclass(frozen=True)
class Subject:
    """A function of tensors, a way to draw its arguments, and the positions of those to be differentiated."""

    name: str
    function: Callable[..., Any]
    draw: Draw
    wrt: tuple[int, ...]


SUBJECTS: dict[str, Subject] = {}


def subject(name: str, function: Callable[..., Any], *wrt: int) -> Callable[[Draw], Draw]:
    """Enter a function with the decorated way to draw its arguments."""

    def enter(draw: Draw) -> Draw:
        SUBJECTS[name] = Subject(name, function, draw, wrt or (0,))
        return draw

    return enter


def _sizes(rng: np.random.Generator, count: int, low: int = 2, high: int = 8) -> list[int]:
    return [int(n) for n in rng.permutation(np.arange(low, high))[:count]]


def _real(rng: np.random.Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (1.5 * rng.normal(size=_sizes(rng, 2)),), {}


def _positive(rng: np.random.Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (rng.uniform(0.3, 3.0, size=_sizes(rng, 2)),), {}


for _name in ("relu", "sigmoid", "tanh", "exp", "absolute", "softplus", "sin", "cos"):
    subject(_name, getattr(ops, _name))(_real)
for _name in ("log", "sqrt"):
    subject(_name, getattr(ops, _name))(_positive)


@subject("leaky_relu", ops.leaky_relu)
def _(rng: np.random.Generator) -> Any:
    return (rng.normal(size=_sizes(rng, 2)),), {"negative_slope": float(rng.uniform(0.1, 0.4))}


@subject("elu", ops.elu)
def _(rng: np.random.Generator) -> Any:
    return (rng.normal(size=_sizes(rng, 2)),), {"alpha": float(rng.uniform(0.3, 0.8))}


@subject("clip", ops.clip)
def _(rng: np.random.Generator) -> Any:
    return (rng.normal(size=_sizes(rng, 2)),), {"low": -0.4, "high": 0.7}


def _two(rng: np.random.Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    a, b, c = _sizes(rng, 3)
    return (rng.normal(size=(a, b, c)), rng.normal(size=(b, 1))), {}


for _name in ("add", "sub", "mul", "maximum"):
    subject(_name, getattr(ops, _name), 0, 1)(_two)


@subject("div", ops.div, 0, 1)
def _(rng: np.random.Generator) -> Any:
    a, b, c = _sizes(rng, 3)
    return (rng.normal(size=(a, b, c)), rng.uniform(0.5, 2.0, size=(b, 1))), {}


@subject("power", ops.power, 0, 1)
def _(rng: np.random.Generator) -> Any:
    a, b = _sizes(rng, 2)
    return (rng.uniform(0.5, 2.0, size=(a, b)), rng.uniform(1.3, 3.0, size=(b,))), {}


@subject("matmul", ops.matmul, 0, 1)
def _(rng: np.random.Generator) -> Any:
    a, b, c = _sizes(rng, 3)
    return (rng.normal(size=(a, b)), rng.normal(size=(b, c))), {}


@subject("linear", ops.linear, 0, 1, 2)
def _(rng: np.random.Generator) -> Any:
    n, i, o = _sizes(rng, 3, 2, 6)
    o += 4  # more outputs than inputs
    return (rng.normal(size=(n, i)), rng.normal(size=(o, i)), rng.normal(size=o)), {}


def _axis(rng: np.random.Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    shape = _sizes(rng, 3)
    return (rng.normal(size=shape),), {"axis": int(rng.integers(3)), "keepdims": bool(rng.integers(2))}


for _name in ("sum", "mean", "amax", "prod", "logsumexp"):
    subject(_name, getattr(ops, _name))(_axis)


@subject("var", ops.var)
def _(rng: np.random.Generator) -> Any:
    args, options = _axis(rng)
    return args, {**options, "correction": int(rng.integers(2))}


def _rows(rng: np.random.Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (rng.normal(size=_sizes(rng, 2)),), {"axis": -1}


for _name in ("softmax", "log_softmax", "cumsum"):
    subject(_name, getattr(ops, _name))(_rows)


def cross_entropy(x: Any, labels: Any) -> Any:
    """The mean over the batch of -ln softmax(x) at the labels."""
    return -ops.mean(ops.pick(ops.log_softmax(x, axis=-1), labels))


def batch_norm(x: Any, gamma: Any, beta: Any, *, eps: float = 1e-5) -> Any:
    """Normalise over the batch axis, scale and shift."""
    centred = x - ops.mean(x, axis=0, keepdims=True)
    return centred / ops.sqrt(ops.var(x, axis=0, keepdims=True) + eps) * gamma + beta


@subject("cross_entropy", cross_entropy)
def _(rng: np.random.Generator) -> Any:
    n, k = _sizes(rng, 2, 3, 9)
    return (rng.normal(size=(n, k)), rng.integers(0, k, size=n)), {}


@subject("batch_norm", batch_norm, 0, 1, 2)
def _(rng: np.random.Generator) -> Any:
    n, c = _sizes(rng, 2, 3, 9)
    return (rng.normal(1.0, 2.0, size=(n, c)), rng.uniform(0.5, 2.0, size=c), rng.normal(size=c)), {"eps": 0.01}


@subject("dropout", ops.dropout)
def _(rng: np.random.Generator) -> Any:
    x = rng.normal(size=_sizes(rng, 2, 3, 9))
    keep = float(rng.choice([0.8, 0.6, 0.7]))
    return (x, (rng.random(x.shape) < keep).astype(float)), {"scale": 1 / keep}


@subject("pick", ops.pick)
def _(rng: np.random.Generator) -> Any:
    n, k = _sizes(rng, 2, 3, 9)
    return (rng.normal(size=(n, k)), rng.integers(0, k, size=n)), {}


@subject("transpose", ops.transpose)
def _(rng: np.random.Generator) -> Any:
    return (rng.normal(size=_sizes(rng, 3)),), {"axes": (1, 2, 0)}


@subject("reshape", ops.reshape)
def _(rng: np.random.Generator) -> Any:
    a, b, c = _sizes(rng, 3)
    return (rng.normal(size=(a, b, c)),), {"shape": (b, a * c)}


@subject("broadcast_to", ops.broadcast_to)
def _(rng: np.random.Generator) -> Any:
    a, b, c = _sizes(rng, 3)
    return (rng.normal(size=(b, 1)),), {"shape": (a, b, c)}


@subject("pad", ops.pad)
def _(rng: np.random.Generator) -> Any:
    return (rng.normal(size=_sizes(rng, 2, 3)),), {"widths": ((1, 2), (2, 1))}


@subject("getitem", ops.getitem)
def _(rng: np.random.Generator) -> Any:
    n, c = _sizes(rng, 2, 4, 9)
    index = rng.integers(0, n, size=n + 1)
    index[1] = index[0]
    return (rng.normal(size=(n, c)),), {"index": index}


@subject("conv2d", ops.conv2d, 0, 1, 2)
def _(rng: np.random.Generator) -> Any:
    # Batch 3, channels 2, filters 4 or 5, a kernel 3 x 2, and a stride that leaves a remainder in the rows.
    o = int(rng.integers(4, 6))
    x = rng.normal(size=(3, 2, 8, int(rng.choice([6, 7]))))
    return (x, rng.normal(size=(o, 2, 3, 2)), rng.normal(size=o)), {"stride": (2, 1), "padding": (1, 1)}


def _pool(rng: np.random.Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    x = rng.normal(size=(2, 3, int(rng.choice([7, 8])), 5))
    return (x,), {"kernel": (3, 2), "stride": (2, 1)}


for _name in ("max_pool2d", "avg_pool2d"):
    subject(_name, getattr(ops, _name))(_pool)


def general_mistakes() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Mistakes that can be made in any rule: `rule(ref, g, *args, **options)` with ref returning one gradient."""
    yield "upstream ignored", lambda ref, g, *a, **o: ref(np.ones_like(g), *a, **o)
    yield "zero", lambda ref, g, *a, **o: 0 * ref(g, *a, **o)
    yield "sign", lambda ref, g, *a, **o: -ref(g, *a, **o)
    yield "half", lambda ref, g, *a, **o: 0.5 * ref(g, *a, **o)
    yield "float32", lambda ref, g, *a, **o: ref(g, *a, **o).astype(np.float32).astype(float)
    yield "truncated", lambda ref, g, *a, **o: np.trunc(3 * ref(g, *a, **o)) / 3
    yield "first sample", _first_sample
    yield "one entry", _one_entry
    yield "last entry halved", _last_halved
    yield "slightly scaled", lambda ref, g, *a, **o: ref(g, *a, **o) * (1 + 1e-6)
    yield "squared dout", lambda ref, g, *a, **o: ref(g * np.abs(g), *a, **o)


def _first_sample(ref: Callable[..., Any], g: Any, *args: Any, **options: Any) -> Any:
    if g.ndim == 0 or len(g) == 1:
        return 0.9 * ref(g, *args, **options)
    first = np.zeros_like(g)
    first[0] = g[0]
    return ref(first, *args, **options)


def _one_entry(ref: Callable[..., Any], g: Any, *args: Any, **options: Any) -> Any:
    gx = np.array(ref(g, *args, **options))
    gx.flat[gx.size // 2] += 1e-3 * (1 + np.abs(gx).max())
    return gx


def _last_halved(ref: Callable[..., Any], g: Any, *args: Any, **options: Any) -> Any:
    gx = np.array(ref(g, *args, **options))
    reached = np.flatnonzero(gx)
    if len(reached):
        gx.flat[reached[-1]] *= 0.5
    return gx
