"""Sums, extremes and the softmax family: ops that combine the elements along axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from ..backend import is_float
from ..errors import OptionError, ShapeError
from ..op import op
from .elementwise import equal, exp, sqrt, where
from .rules import (
    axes_of,
    no_flops,
    normal_axes,
    one_axis,
    per_element,
    per_input_element,
    raw,
    reduced_shape,
    xp_of,
)
from .shapes import broadcast_to, flip, reshape, transpose

__all__ = [
    "amax",
    "amin",
    "argmax",
    "argmin",
    "cumsum",
    "log_softmax",
    "logsumexp",
    "mean",
    "prod",
    "softmax",
    "std",
    "sum",
    "var",
]

Shape = tuple[int, ...]


def spread(g: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    """Give the reduced axes back to g as axes of size 1, so that it broadcasts against x."""
    if keepdims or not x.shape:
        return g
    return reshape(g, shape=reduced_shape("spread", tuple(x.shape), axis, True))


def count_along(x: Any, axis: Any) -> int:
    """Return how many elements of x one result of a reduction combines."""
    return math.prod(x.shape[a] for a in axes_of("count", axis, len(x.shape)))


def _shape_of(name: str) -> Any:
    def shape(x: Shape, *, axis: Any = None, keepdims: bool = False, **_: Any) -> Shape:
        return reduced_shape(name, x, axis, keepdims)

    return shape


def _reductions(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)),), {}
    yield (rng.normal(size=(2, 3, 4)),), {"axis": (0, -1)}
    yield (rng.normal(size=(2, 3)),), {"axis": 1, "keepdims": True}
    yield (rng.normal(size=()),), {}
    yield (rng.normal(size=(3, 1)),), {"axis": 1}


def _no_axis(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3)),), {"axis": 2}, ShapeError, "no axis 2"
    yield (rng.normal(size=(2, 3)),), {"axis": (0, 0)}, ShapeError, "twice"


_OPTIONS: dict[str, Callable[[Any], Any]] = {"axis": normal_axes, "keepdims": bool}


@op(shape=_shape_of("sum"), flops=per_input_element(1), family="reduction", convert=_OPTIONS)
def sum(xp: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    """y = Σ x over `axis` (default: all); float types keep their type."""
    return x.sum(axis=axis, keepdims=keepdims)


@sum.vjp("x", "g stretched to the shape of x")
def _(g: Any, y: Any, x: Any, *, axis: Any, keepdims: bool) -> Any:
    return broadcast_to(spread(g, x, axis, keepdims), shape=x.shape)


@sum.sample
def _(rng: Any) -> Iterator[Any]:
    yield from _reductions(rng)
    yield (rng.normal(size=(0, 3)),), {"axis": 0}


sum.error_sample(_no_axis)


@op(shape=_shape_of("mean"), flops=per_input_element(1), family="reduction", convert=_OPTIONS)
def mean(xp: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    """y = (1/n) Σ x over `axis` (default: all), n the number of elements averaged.

    Raises:
        ShapeError: there is nothing to average.
    """
    if x.size == 0 and count_along(x, axis) == 0:
        raise ShapeError(f"mean: shape {x.shape} has no elements along axis {axis}; the mean of nothing is not defined")
    return x.mean(axis=axis, keepdims=keepdims)


@mean.vjp("x", "g / n stretched to the shape of x")
def _(g: Any, y: Any, x: Any, *, axis: Any, keepdims: bool) -> Any:
    return broadcast_to(spread(g, x, axis, keepdims) / count_along(x, axis), shape=x.shape)


mean.sample(_reductions)


@mean.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield from _no_axis(rng)
    yield (rng.normal(size=(0, 3)),), {}, ShapeError, "mean of nothing"


@op(shape=_shape_of("var"), flops=per_input_element(4), family="reduction", convert=_OPTIONS)
def var(xp: Any, x: Any, *, axis: Any = None, keepdims: bool = False, correction: int = 0) -> Any:
    """y = Σ (x - mean)² / (n - correction) over `axis` (default: all).

    `correction` 0, the default, is NumPy's choice (the variance of these numbers); 1 is PyTorch's (an unbiased
    estimate from a sample).

    Raises:
        ShapeError: n - correction is not positive.
    """
    n = count_along(x, axis)
    if n - correction <= 0:
        raise ShapeError(f"var: {n} elements along axis {axis} are too few for correction {correction}")
    return x.var(axis=axis, keepdims=keepdims, ddof=correction)


@var.vjp("x", "g 2 (x - mean) / (n - correction)")
def _(g: Any, y: Any, x: Any, *, axis: Any, keepdims: bool, correction: int) -> Any:
    centred = x - mean(x, axis=axis, keepdims=True)
    return spread(g, x, axis, keepdims) * centred * (2 / (count_along(x, axis) - correction))


@var.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)),), {}
    yield (rng.normal(size=(2, 3, 4)),), {"axis": (0, -1), "correction": 1}
    yield (rng.normal(size=(2, 3)),), {"axis": 1, "keepdims": True}
    yield (rng.normal(size=(3, 1)),), {"axis": 1}


@var.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield from _no_axis(rng)
    yield (rng.normal(size=(3, 1)),), {"axis": 1, "correction": 1}, ShapeError, "too few"


def std(x: Any, axis: Any = None, keepdims: bool = False, correction: int = 0) -> Any:
    """Return the square root of `var`. Its derivative does not exist where the variance is 0."""
    return sqrt(var(x, axis=axis, keepdims=keepdims, correction=correction))


# Extremes


def _ties(value: Any) -> str:
    if value not in ("first", "split"):
        raise OptionError(f"ties must be 'first' or 'split', got {value!r}")
    return str(value)


_EXTREME: dict[str, Callable[[Any], Any]] = {**_OPTIONS, "ties": _ties}


@op(
    shape=lambda x, y, **_: tuple(x),
    flops=no_flops,
    family="helper",
    constants=("x", "y"),
)
def extreme_share(xp: Any, x: Any, y: Any, *, axis: Any, keepdims: bool, ties: str) -> Any:
    """Return who gets the gradient of an extreme y of x: 1 at the first place of y along `axis`, or equal shares."""
    axes = axes_of("extreme_share", axis, x.ndim)
    # Axes that are kept come first and reduced ones last, flattened into one, so that "first" means row-major order.
    kept = tuple(a for a in range(x.ndim) if a not in axes)
    moved = x.transpose(kept + axes)
    flat = moved.reshape(*moved.shape[: len(kept)], math.prod(moved.shape[len(kept) :]))
    top = y.reshape(*flat.shape[:-1], 1)
    hit = xp.where(xp.isnan(top), xp.isnan(flat), flat == top) if is_float(x.dtype) else flat == top
    if ties == "first":
        hit = xp.arange(flat.shape[-1]) == hit.argmax(axis=-1)[..., None]
    share = hit.astype(x.dtype)
    if ties == "split":
        share /= share.sum(axis=-1, keepdims=True)
    inverse = [0] * x.ndim
    for position, a in enumerate(kept + axes):
        inverse[a] = position
    return share.reshape(moved.shape).transpose(inverse)


@extreme_share.sample
def _(rng: Any) -> Iterator[Any]:
    x = rng.integers(0, 3, size=(3, 4)).astype(float)
    yield (x, x.max(axis=0)), {"axis": 0, "keepdims": False, "ties": "split"}
    yield (x, x.max()), {"axis": None, "keepdims": False, "ties": "first"}


def _check_extreme(name: str, x: Any, axis: Any) -> None:
    if x.size == 0 and count_along(x, axis) == 0:
        raise ShapeError(f"{name}: shape {x.shape} has no elements along axis {axis}; there is no extreme of nothing")


@op(shape=_shape_of("amax"), flops=per_input_element(1), family="reduction", convert=_EXTREME)
def amax(xp: Any, x: Any, *, axis: Any = None, keepdims: bool = False, ties: str = "first") -> Any:
    """y = max x over `axis` (default: all).

    Where several elements are the maximum, `ties` says who gets the gradient: "first" in row-major order, or
    "split" into equal shares. Both are subgradients; giving each the whole gradient would not be one.

    Raises:
        ShapeError: there are no elements to compare.
    """
    _check_extreme("amax", x, axis)
    return x.max(axis=axis, keepdims=keepdims)


@op(shape=_shape_of("amin"), flops=per_input_element(1), family="reduction", convert=_EXTREME)
def amin(xp: Any, x: Any, *, axis: Any = None, keepdims: bool = False, ties: str = "first") -> Any:
    """y = min x over `axis` (default: all); `ties` as in `amax`.

    Raises:
        ShapeError: there are no elements to compare.
    """
    _check_extreme("amin", x, axis)
    return x.min(axis=axis, keepdims=keepdims)


for _extreme in (amax, amin):

    @_extreme.vjp("x", "g at the places of y, ties by `ties`")
    def _(g: Any, y: Any, x: Any, *, axis: Any, keepdims: bool, ties: str) -> Any:
        return spread(g, x, axis, keepdims) * extreme_share(x, y, axis=axis, keepdims=keepdims, ties=ties)

    @_extreme.switch
    def _(xp: Any, y: Any, x: Any, *, axis: Any, keepdims: bool, ties: str) -> Any:
        top = y if keepdims else y.reshape(reduced_shape("switch", x.shape, axis, True))
        return (x == top).astype("int8")

    @_extreme.sample
    def _(rng: Any) -> Iterator[Any]:
        for arrays, options in _reductions(rng):
            yield arrays, options
            yield arrays, {**options, "ties": "split"}
        yield (rng.normal(size=(0, 3)),), {"axis": 1}

    @_extreme.error_sample
    def _(rng: Any) -> Iterator[Any]:
        yield from _no_axis(rng)
        yield (rng.normal(size=(0, 3)),), {}, ShapeError, "extreme of nothing"
        yield (rng.normal(size=(3,)),), {"ties": "all"}, OptionError, "ties must be"


def _position_shape(x: Shape, *, axis: int | None = None, keepdims: bool = False) -> Shape:
    return reduced_shape("argmax", x, axis, keepdims)


_ONE: dict[str, Callable[[Any], Any]] = {
    "axis": lambda axis: None if axis is None else one_axis(axis),
    "keepdims": bool,
}


@op(shape=_position_shape, flops=per_input_element(1), family="reduction", constants=("x",), convert=_ONE)
def argmax(xp: Any, x: Any, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """Return the position of the first maximum along `axis` (default: in the flattened array), as integers."""
    _check_extreme("argmax", x, axis)
    return x.argmax(axis=axis, keepdims=keepdims)


@op(shape=_position_shape, flops=per_input_element(1), family="reduction", constants=("x",), convert=_ONE)
def argmin(xp: Any, x: Any, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """Return the position of the first minimum along `axis` (default: in the flattened array), as integers."""
    _check_extreme("argmin", x, axis)
    return x.argmin(axis=axis, keepdims=keepdims)


for _position in (argmax, argmin):

    @_position.sample
    def _(rng: Any) -> Iterator[Any]:
        yield (rng.normal(size=(3, 4)),), {}
        yield (rng.normal(size=(3, 4)),), {"axis": -1, "keepdims": True}

    @_position.error_sample
    def _(rng: Any) -> Iterator[Any]:
        yield (rng.normal(size=(3, 0)),), {"axis": 1}, ShapeError, "extreme of nothing"


# Products and running sums


@op(shape=_shape_of("prod"), flops=per_input_element(1), family="reduction", convert=_OPTIONS)
def prod(xp: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    """y = Π x over `axis` (default: all)."""
    return x.prod(axis=axis, keepdims=keepdims)


@prod.vjp("x", "g times the product of the other elements")
def _(g: Any, y: Any, x: Any, *, axis: Any, keepdims: bool) -> Any:
    g, y = spread(g, x, axis, keepdims), spread(y, x, axis, keepdims)
    if bool((raw(x) != 0).all()):
        return g * y / x
    # With a zero among the factors y / x says nothing: multiply the others, for each element in turn. The reduced
    # axes become one last axis of length n, repeated n times with 1 in place of the element itself.
    axes = axes_of("prod", axis, len(x.shape))
    kept = tuple(a for a in range(len(x.shape)) if a not in axes)
    moved = transpose(x, axes=kept + axes)
    n = math.prod(x.shape[a] for a in axes)
    lead = tuple(moved.shape[: len(kept)])
    rows = reshape(moved, shape=(*lead, 1, n))
    xp = xp_of(raw(x))
    others = prod(where(xp.eye(n, dtype=bool), 1, rows), axis=-1)
    inverse = [0] * len(x.shape)
    for position, a in enumerate(kept + axes):
        inverse[a] = position
    return g * transpose(reshape(others, shape=moved.shape), axes=tuple(inverse))


@prod.sample
def _(rng: Any) -> Iterator[Any]:
    yield from _reductions(rng)
    zeros = rng.normal(size=(3, 4))
    zeros[0, 1] = zeros[1, 2] = zeros[1, 0] = 0
    yield (zeros,), {"axis": 1}
    yield (zeros,), {"axis": 0, "keepdims": True}
    yield (rng.normal(size=(0, 3)),), {"axis": 0}


prod.error_sample(_no_axis)


def _same_shape(x: Shape, *, axis: int, **_: Any) -> Shape:
    axes_of("this op", axis, len(x))
    return x


@op(shape=_same_shape, flops=per_element(1), family="reduction", convert={"axis": one_axis})
def cumsum(xp: Any, x: Any, *, axis: int) -> Any:
    """y[i] = x[0] + ... + x[i] along `axis`."""
    return x.cumsum(axis=axis)


@cumsum.vjp("x", "g summed from the end")
def _(g: Any, y: Any, x: Any, *, axis: int) -> Any:
    return flip(cumsum(flip(g, axis), axis=axis), axis)


@cumsum.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)),), {"axis": 1}
    yield (rng.normal(size=(3, 0)),), {"axis": 0}
    yield (rng.normal(size=(5,)),), {"axis": -1}


@cumsum.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3,)),), {"axis": 1}, ShapeError, "no axis 1"


# The softmax family: shifted by the maximum, so that no exponential overflows


def _top(xp: Any, x: Any, axis: Any) -> Any:
    if x.size == 0:
        return 0
    top = x.max(axis=axis, keepdims=True)
    return xp.where(xp.isfinite(top), top, xp.zeros_like(top))


@op(shape=_shape_of("logsumexp"), flops=per_input_element(12), family="softmax", convert=_OPTIONS)
def logsumexp(xp: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    """y = ln Σ e^x over `axis` (default: all), computed as m + ln Σ e^(x-m) with m = max x.

    Raises:
        ShapeError: there are no elements to sum.
    """
    _check_extreme("logsumexp", x, axis)
    top = _top(xp, x, axis)
    total = xp.exp(x - top).sum(axis=axis, keepdims=True)
    y = xp.log(xp.where(total > 0, total, 1)) + top
    y = xp.where(total > 0, y, -math.inf).astype(x.dtype)  # the logarithm of a sum of zeros is -inf, without a warning
    return y if keepdims else y.reshape(reduced_shape("logsumexp", x.shape, axis, False))


@logsumexp.vjp("x", "g e^(x-y)")
def _(g: Any, y: Any, x: Any, *, axis: Any, keepdims: bool) -> Any:
    y = spread(y, x, axis, keepdims)
    # A sum over -inf alone has no direction in which it grows: its gradient is 0.
    return spread(g, x, axis, keepdims) * exp(x - where(equal(y, -math.inf), 0, y))


logsumexp.sample(_reductions)


@logsumexp.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield from _no_axis(rng)
    yield (rng.normal(size=(0,)),), {}, ShapeError, "extreme of nothing"


def _softmax_samples(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)),), {"axis": 1}
    yield (rng.normal(size=(2, 3, 2)),), {"axis": -2}
    yield (rng.normal(size=(0, 3)),), {"axis": 1}
    yield (rng.normal(size=(3, 1)),), {"axis": 1}


@op(shape=_same_shape, flops=per_element(14), family="softmax", convert={"axis": one_axis}, source="Bridle 1990")
def softmax(xp: Any, x: Any, *, axis: int) -> Any:
    """y = e^x / Σ e^x along `axis`."""
    e = xp.exp(x - _top(xp, x, axis))
    return e / e.sum(axis=axis, keepdims=True)


@softmax.vjp("x", "y (g - Σ g y)")
def _(g: Any, y: Any, x: Any, *, axis: int) -> Any:
    return y * (g - sum(g * y, axis=axis, keepdims=True))


@op(shape=_same_shape, flops=per_element(14), family="softmax", convert={"axis": one_axis})
def log_softmax(xp: Any, x: Any, *, axis: int) -> Any:
    """y = x - ln Σ e^x along `axis`: the logarithm of softmax without its underflow."""
    shifted = x - _top(xp, x, axis)
    return shifted - xp.log(xp.exp(shifted).sum(axis=axis, keepdims=True))


@log_softmax.vjp("x", "g - e^y Σ g")
def _(g: Any, y: Any, x: Any, *, axis: int) -> Any:
    return g - exp(y) * sum(g, axis=axis, keepdims=True)


for _family in (softmax, log_softmax):
    _family.sample(_softmax_samples)

    @_family.error_sample
    def _(rng: Any) -> Iterator[Any]:
        yield (rng.normal(size=(3,)),), {"axis": 1}, ShapeError, "no axis 1"
