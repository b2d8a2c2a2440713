"""What a loss needs beside the softmax family: the entry of the right class, and no broadcasting by accident."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ..backend import on_host
from ..errors import DataError, DTypeError, ShapeError
from ..op import op
from .rules import no_flops, per_element

__all__ = ["dropout", "pick", "place"]

Shape = tuple[int, ...]


def _pick_shape(x: Shape, labels: Shape) -> Shape:
    if len(x) < 2 or tuple(labels) != (x[0], *x[2:]):
        raise ShapeError(
            f"class labels of shape {labels} do not fit scores of shape {x}: "
            f"expected one label per row, shape {(x[0], *x[2:]) if x else 'with two axes'}"
        )
    return tuple(labels)


def _index(xp: Any, labels: Any) -> tuple[Any, ...]:
    """Return the index of the labelled entries of an array (n, k, ...)."""
    grids = xp.ogrid[tuple(slice(n) for n in labels.shape)] if labels.ndim > 1 else [xp.arange(labels.shape[0])]
    return (grids[0], labels, *grids[1:])


def check_labels(labels: Any, classes: int) -> None:
    """Raise an error for labels that are not whole numbers from 0 to classes - 1.

    The values of labels on a GPU are not looked at, since that would wait for the device; see `pick`.
    """
    if labels.dtype.kind not in "iu":
        raise DTypeError(f"class labels must be whole numbers, got {labels.dtype}; use .astype('int64')")
    if on_host(labels) and labels.size and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise DataError(
            f"class labels must lie in 0 ... {classes - 1}, got values from {int(labels.min())} to {int(labels.max())}"
        )


@op(shape=_pick_shape, flops=no_flops, family="loss", constants=("labels",))
def pick(xp: Any, x: Any, labels: Any) -> Any:
    """y[n, ...] = x[n, labels[n, ...], ...]: the entry of the labelled class of every row of x (n, k, ...).

    Raises:
        ShapeError: there is not one label per row.
        DTypeError: the labels are not whole numbers.
        DataError: a label is not a class (on a GPU its y is NaN instead).
    """
    if labels.shape != (x.shape[0], *x.shape[2:]):
        _pick_shape(x.shape, labels.shape)
    check_labels(labels, x.shape[1])
    if on_host(labels):
        return x[_index(xp, labels)]
    # Elsewhere a label out of range makes a NaN, which nobody can overlook, where an index would quietly wrap around.
    valid = (labels >= 0) & (labels < x.shape[1])
    return xp.where(valid, x[_index(xp, xp.where(valid, labels, 0))], xp.asarray(math.nan, dtype=x.dtype))


@pick.vjp("x", "g at the labelled entries, 0 elsewhere")
def _(g: Any, y: Any, x: Any, labels: Any) -> Any:
    return place(g, labels, classes=x.shape[1])


def _place_shape(g: Shape, labels: Shape, *, classes: int) -> Shape:
    if tuple(g) != tuple(labels):
        raise ShapeError(f"place: g {g} and labels {labels} must have the same shape")
    return (g[0], classes, *g[1:])


@op(shape=_place_shape, flops=no_flops, family="loss", constants=("labels",))
def place(xp: Any, g: Any, labels: Any, *, classes: int) -> Any:
    """Return zeros (n, classes, ...) with g[n, ...] at the labelled entries."""
    y = xp.zeros((g.shape[0], classes, *g.shape[1:]), dtype=g.dtype)
    y[_index(xp, labels)] = g
    return y


@place.vjp("g", "u at the labelled entries")
def _(u: Any, y: Any, g: Any, labels: Any, *, classes: int) -> Any:
    return pick(u, labels)


@pick.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)), rng.integers(0, 4, size=3)), {}
    yield (rng.normal(size=(2, 3, 4)), rng.integers(0, 3, size=(2, 4))), {}
    yield (rng.normal(size=(0, 4)), rng.integers(0, 4, size=0)), {}


@pick.error_sample
def _(rng: Any) -> Iterator[Any]:
    x = rng.normal(size=(3, 4))
    yield (x, rng.integers(0, 4, size=(3, 1))), {}, ShapeError, "one label per row"
    yield (x, rng.normal(size=3)), {}, DTypeError, "whole numbers"
    yield (x, rng.integers(4, 5, size=3)), {}, DataError, "0 ... 3"


@place.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=3), rng.integers(0, 4, size=3)), {"classes": 4}
    yield (rng.normal(size=(2, 4)), rng.integers(0, 3, size=(2, 4))), {"classes": 3}


def _dropout_shape(x: Shape, mask: Shape, **_: Any) -> Shape:
    if tuple(x) != tuple(mask):
        raise ShapeError(f"dropout: x {x} and mask {mask} must have the same shape")
    return x


@op(
    shape=_dropout_shape,
    flops=per_element(2),
    family="regularisation",
    constants=("mask",),
    source="Srivastava et al., JMLR 15, 2014",
)
def dropout(xp: Any, x: Any, mask: Any, *, scale: float) -> Any:
    """y = scale x where the mask holds, else 0. With scale 1 / P(mask) the expectation of y is x."""
    if x.shape != mask.shape:
        _dropout_shape(x.shape, mask.shape)
    return x * mask * scale


@dropout.vjp("x", "scale g where the mask holds")
def _(g: Any, y: Any, x: Any, mask: Any, *, scale: float) -> Any:
    return dropout(g, mask, scale=scale)


@dropout.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)), rng.normal(size=(3, 4)) > 0), {"scale": 2.0}
    yield (rng.normal(size=()), rng.normal(size=()) > 0), {"scale": 1.25}
    yield (rng.normal(size=(0, 2)), rng.normal(size=(0, 2)) > 0), {"scale": 2.0}


@dropout.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)), rng.normal(size=(4,)) > 0), {"scale": 2.0}, ShapeError, "same shape"
