"""Normalisation: bring values to mean 0 and variance 1, and scale them per channel.

Each is one op, and not the ten it could be written with: a network of a hundred layers stays readable as a picture, and
the gradient of x needs two passes over it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

from ..backend import kernels
from ..errors import OptionError, ShapeError
from ..op import op
from .reductions import mean
from .reductions import sum as sum_of
from .rules import axes_of, normal_axes, per_input_element, reduced_shape

__all__ = ["batch_norm", "batch_norm_and_moments", "inverse_deviation", "scale_shift", "standardise"]

Shape = tuple[int, ...]


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not hasattr(value, "__float__") or not float(value) >= 0:
        raise OptionError(f"eps must be a number from 0 on, got {value!r}")
    return float(value)


_CONVERT = {"axis": normal_axes, "eps": _positive}


def _check(name: str, x: Shape, axis: Any) -> None:
    if math.prod(x[a] for a in axes_of(name, axis, len(x))) == 0 and math.prod(x) == 0:
        raise ShapeError(f"{name}: shape {x} has no elements along axis {axis}; nothing has no variance")


def _deviation_shape(x: Shape, *, axis: Any, eps: float) -> Shape:
    return reduced_shape("inverse_deviation", x, axis, True)


@op(shape=_deviation_shape, flops=per_input_element(4), family="normalisation", convert=_CONVERT)
def inverse_deviation(xp: Any, x: Any, *, axis: Any, eps: float) -> Any:
    """y = 1 / √(σ² + eps), with σ² = mean (x - mean x)² over `axis`; the axes stay, with size 1.

    Raises:
        ShapeError: there is nothing to average.
    """
    _check("inverse_deviation", x.shape, axis)
    return 1 / xp.sqrt(x.var(axis=axis, keepdims=True) + eps)


@inverse_deviation.vjp("x", "-g y³ (x - mean x) / n")
def _(g: Any, y: Any, x: Any, *, axis: Any, eps: float) -> Any:
    n = math.prod(x.shape[a] for a in axes_of("inverse_deviation", axis, len(x.shape)))
    return (g * (y * y * y) * (-1 / n)) * (x - mean(x, axis=axis, keepdims=True))


@op(
    shape=lambda x, **_: tuple(x),
    flops=per_input_element(8),
    family="normalisation",
    convert=_CONVERT,
    source="Ioffe & Szegedy, ICML 2015",
)
def standardise(xp: Any, x: Any, *, axis: Any, eps: float) -> Any:
    """y = (x - μ) / √(σ² + eps), with mean μ and variance σ² (divided by n) over `axis`.

    Raises:
        ShapeError: there is nothing to average.
    """
    _check("standardise", x.shape, axis)
    y = x - x.mean(axis=axis, keepdims=True)
    y /= xp.sqrt((y * y).mean(axis=axis, keepdims=True) + eps)
    return y


@standardise.vjp("x", "(g - mean g - y mean(g y)) / √(σ² + eps)")
def _(g: Any, y: Any, x: Any, *, axis: Any, eps: float) -> Any:
    inner = g - mean(g, axis=axis, keepdims=True) - y * mean(g * y, axis=axis, keepdims=True)
    return inner * inverse_deviation(x, axis=axis, eps=eps)


def _samples(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(4, 3, 2, 2)),), {"axis": (0, 2, 3), "eps": 1e-5}
    yield (rng.normal(size=(3, 5)),), {"axis": -1, "eps": 1e-3}
    yield (rng.normal(size=(3, 0)),), {"axis": 0, "eps": 1e-3}


def _errors(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)),), {"axis": 2, "eps": 1e-5}, ShapeError, "no axis 2"
    yield (rng.normal(size=(0, 4)),), {"axis": 0, "eps": 1e-5}, ShapeError, "no elements"
    yield (rng.normal(size=(3, 4)),), {"axis": 0, "eps": -1.0}, OptionError, "eps must be"


for _op in (inverse_deviation, standardise):
    _op.sample(_samples)
    _op.error_sample(_errors)


def _scale_shape(x: Shape, weight: Shape, bias: Shape | None = None) -> Shape:
    if len(x) < 2 or tuple(weight) != (x[1],) or (bias is not None and tuple(bias) != (x[1],)):
        raise ShapeError(
            f"scale_shift: x {x} with {x[1] if len(x) > 1 else 'no'} channels needs weight and bias of shape "
            f"{(x[1],) if len(x) > 1 else '(c,)'}, got {weight} and {bias}"
        )
    return x


@op(shape=_scale_shape, flops=per_input_element(2), family="normalisation")
def scale_shift(xp: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    """y[n, c, ...] = weight[c] x[n, c, ...] + bias[c].

    Raises:
        ShapeError: there is not one weight and one bias per channel.
    """
    if weight.shape != x.shape[1:2] or (bias is not None and bias.shape != weight.shape):
        _scale_shape(x.shape, weight.shape, None if bias is None else bias.shape)
    spread = (1, -1) + (1,) * (x.ndim - 2)
    y = x * weight.reshape(spread)
    if bias is not None:
        y = xp.add(y, bias.reshape(spread), out=y if y.dtype == bias.dtype else None)
    return y


@scale_shift.vjp("x", "g weight")
def _(g: Any, y: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    return scale_shift(g, weight)


@scale_shift.vjp("weight", "Σ g x over all but the channels")
def _(g: Any, y: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    return sum_of(g * x, axis=(0, *range(2, len(x.shape))))


@scale_shift.vjp("bias", "Σ g over all but the channels")
def _(g: Any, y: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    return sum_of(g, axis=(0, *range(2, len(x.shape))))


@scale_shift.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3, 2, 2)), rng.normal(size=3), rng.normal(size=3)), {}
    yield (rng.normal(size=(2, 3)), rng.normal(size=3)), {}
    yield (rng.normal(size=(0, 3, 2)), rng.normal(size=3), rng.normal(size=3)), {}
    yield (rng.normal(size=(2, 1)), rng.normal(size=1), rng.normal(size=1)), {}


@scale_shift.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3)), rng.normal(size=2)), {}, ShapeError, "3 channels"
    yield (rng.normal(size=(2, 3)), rng.normal(size=3), rng.normal(size=2)), {}, ShapeError, "3 channels"


def _batch_shape(x: Shape, weight: Shape | None = None, bias: Shape | None = None, *, eps: float) -> Shape:
    if len(x) < 2 or any(s is not None and tuple(s) != (x[1],) for s in (weight, bias)):
        raise ShapeError(
            f"batch_norm: x {x} with {x[1] if len(x) > 1 else 'no'} channels needs weight and bias of shape "
            f"{(x[1],) if len(x) > 1 else '(c,)'}, got {weight} and {bias}"
        )
    _check("batch_norm", x, (0, *range(2, len(x))))
    return x


@op(
    shape=_batch_shape,
    flops=per_input_element(10),
    family="normalisation",
    convert={"eps": _positive},
    source="Ioffe & Szegedy, ICML 2015",
)
def batch_norm(xp: Any, x: Any, weight: Any = None, bias: Any = None, *, eps: float) -> Any:
    """y[n, c, ...] = weight[c] (x - μ[c]) / √(σ²[c] + eps) + bias[c], with mean and variance over all but the channels.

    It is `scale_shift` of `standardise` in one, which passes over memory less often.

    Raises:
        ShapeError: there is nothing to average, or there is not one weight and one bias per channel.
    """
    _batch_shape(x.shape, None if weight is None else weight.shape, None if bias is None else bias.shape, eps=eps)
    fast = getattr(kernels(x), "batch_norm", None)
    found = None if fast is None else fast(x, weight, bias, eps=eps)
    if found is not None:
        y, average, variance = found
    else:
        spread = (1, -1) + (1,) * (x.ndim - 2)
        axes = (0, *range(2, x.ndim))
        average = x.mean(axis=axes)
        y = x - average.reshape(spread)
        variance = (y * y).mean(axis=axes)
        y /= xp.sqrt(variance.reshape(spread) + eps)
        if weight is not None:
            y = y * weight.reshape(spread)
        if bias is not None:
            y = y + bias.reshape(spread)
    if _asked.moments is _WANTED:
        _asked.moments = average, variance
    return y


class _Asked(threading.local):
    """Whether somebody wants the moments that `batch_norm` computes on its way, and then these moments."""

    moments: tuple[Any, Any] | None = None


_WANTED: tuple[Any, Any] = (None, None)
_asked = _Asked()


def batch_norm_and_moments(x: Any, weight: Any, bias: Any, eps: float) -> tuple[Any, Any, Any]:
    """Return `batch_norm` and the arrays of mean and variance (divided by n) of each channel, without another pass."""
    _asked.moments = _WANTED
    try:
        y = batch_norm(x, weight, bias, eps=eps)
        average, variance = _asked.moments
    finally:
        _asked.moments = None
    return y, average, variance


def _standard(x: Any, eps: float) -> Any:
    return standardise(x, axis=(0, *range(2, len(x.shape))), eps=eps)


@batch_norm.vjp("x", "weight (g - mean g - x̂ mean(g x̂)) / √(σ² + eps)")
def _(g: Any, y: Any, x: Any, weight: Any = None, bias: Any = None, *, eps: float) -> Any:
    axes, standard = (0, *range(2, len(x.shape))), _standard(x, eps)
    if weight is not None:
        g = scale_shift(g, weight)
    inner = g - mean(g, axis=axes, keepdims=True) - standard * mean(g * standard, axis=axes, keepdims=True)
    return inner * inverse_deviation(x, axis=axes, eps=eps)


@batch_norm.vjp("weight", "Σ g x̂ over all but the channels")
def _(g: Any, y: Any, x: Any, weight: Any = None, bias: Any = None, *, eps: float) -> Any:
    return sum_of(g * _standard(x, eps), axis=(0, *range(2, len(x.shape))))


@batch_norm.vjp("bias", "Σ g over all but the channels")
def _(g: Any, y: Any, x: Any, weight: Any = None, bias: Any = None, *, eps: float) -> Any:
    return sum_of(g, axis=(0, *range(2, len(x.shape))))


@batch_norm.all_vjps
def _(g: Any, y: Any, x: Any, weight: Any = None, bias: Any = None, *, eps: float) -> Any:
    fast = getattr(kernels(x), "batch_norm_gradients", None)
    return None if fast is None else fast(g, x, weight, eps=eps)


@batch_norm.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(4, 3, 2, 2)), rng.normal(size=3), rng.normal(size=3)), {"eps": 1e-5}
    yield (rng.normal(size=(2, 2, 4, 4)), rng.normal(size=2), rng.normal(size=2)), {"eps": 1e-3}
    yield (rng.normal(size=(5, 3)), rng.normal(size=3)), {"eps": 1e-3}
    yield (rng.normal(size=(3, 2, 4)),), {"eps": 1e-2}
    yield (rng.normal(size=(3, 0)), rng.normal(size=0), rng.normal(size=0)), {"eps": 1e-3}


@batch_norm.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3)), rng.normal(size=2)), {"eps": 1e-5}, ShapeError, "3 channels"
    yield (rng.normal(size=3),), {"eps": 1e-5}, ShapeError, "no channels"
    yield (rng.normal(size=(0, 4)),), {"eps": 1e-5}, ShapeError, "no elements"
    yield (rng.normal(size=(3, 4)),), {"eps": -1.0}, OptionError, "eps must be"
