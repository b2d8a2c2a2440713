"""Ops that move elements and compute nothing. Each stands beside its adjoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from ..backend import Device, device_of, to_host
from ..backend.basics import scatter_add as add_at
from ..backend.device import namespaces
from ..errors import OptionError, ShapeError
from ..graph import Traced
from ..op import op
from .rules import axes_of, broadcast_shape, no_flops, one_axis, per_input_element, raw, size_of

__all__ = [
    "broadcast_to",
    "concatenate",
    "expand_dims",
    "flatten",
    "flip",
    "getitem",
    "moveaxis",
    "pad",
    "reshape",
    "scatter",
    "split",
    "squeeze",
    "stack",
    "sum_to",
    "swapaxes",
    "to_device",
    "transpose",
]

Shape = tuple[int, ...]


def as_shape(value: Any) -> Shape:
    """Bring a number or a sequence of numbers into a shape."""
    if value.__class__ is tuple:
        for n in value:
            if n.__class__ is not int:
                break
        else:
            return tuple(value)
    if hasattr(value, "__index__"):
        return (int(value),)
    try:
        return tuple(int(n.__index__()) for n in value)
    except (TypeError, AttributeError):
        raise OptionError(f"a shape is a whole number or a sequence of them, got {value!r}") from None


# reshape is its own adjoint


def _reshape_shape(x: Shape, *, shape: Shape) -> Shape:
    known = math.prod(n for n in shape if n != -1)
    wild = shape.count(-1)
    if wild > 1 or any(n < -1 for n in shape):
        raise ShapeError(f"reshape: {shape} is no shape; at most one size may be -1, to be worked out")
    if wild:
        if known == 0 or size_of(x) % known:
            raise ShapeError(f"reshape: {size_of(x)} elements of shape {x} do not divide into {shape}")
        return tuple(size_of(x) // known if n == -1 else n for n in shape)
    if known != size_of(x):
        raise ShapeError(f"reshape: shape {x} has {size_of(x)} elements, but {shape} has {known}")
    return shape


@op(shape=_reshape_shape, flops=no_flops, family="shape", convert={"shape": as_shape})
def reshape(xp: Any, x: Any, *, shape: Shape) -> Any:
    """Return the same elements, in the same (row-major) order, in another shape; one size may be -1."""
    return x.reshape(shape)


@reshape.vjp("x", "g in the shape of x")
def _(g: Any, y: Any, x: Any, *, shape: Shape) -> Any:
    return reshape(g, shape=x.shape)


@reshape.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)),), {"shape": (2, -1)}
    yield (rng.normal(size=(1,)),), {"shape": ()}
    yield (rng.normal(size=(0, 3)),), {"shape": (3, 0)}


@reshape.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)),), {"shape": (5, 2)}, ShapeError, "12 elements"
    yield (rng.normal(size=(3, 4)),), {"shape": (-1, -1)}, ShapeError, "at most one"


def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Return x with the axes from `start_dim` to `end_dim` (included) joined into one."""
    shape = tuple(x.shape)
    if not shape:
        return reshape(x, shape=(1,))
    (start,), (end,) = axes_of("flatten", start_dim, len(shape)), axes_of("flatten", end_dim, len(shape))
    if start > end:
        raise ShapeError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    return reshape(x, shape=(*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))


def squeeze(x: Any, axis: Any = None) -> Any:
    """Return x without its axes of size 1: all of them, or those named.

    Raises:
        ShapeError: a named axis has another size than 1.
    """
    shape = tuple(x.shape)
    if axis is None:
        return reshape(x, shape=tuple(n for n in shape if n != 1))
    axes = axes_of("squeeze", axis, len(shape))
    for a in axes:
        if shape[a] != 1:
            raise ShapeError(f"squeeze: axis {a} of shape {shape} has size {shape[a]}, not 1")
    return reshape(x, shape=tuple(n for i, n in enumerate(shape) if i not in axes))


def expand_dims(x: Any, axis: Any) -> Any:
    """Return x with new axes of size 1 at the positions `axis` of the result."""
    shape = tuple(x.shape)
    count = len(axis) if isinstance(axis, (tuple, list)) else 1
    axes = axes_of("expand_dims", axis, len(shape) + count)
    sizes = iter(shape)
    return reshape(x, shape=tuple(1 if i in axes else next(sizes) for i in range(len(shape) + count)))


# transpose: the adjoint is the inverse permutation


def _transpose_shape(x: Shape, *, axes: Shape | None = None) -> Shape:
    if axes is None:
        return tuple(reversed(x))
    if sorted(a % len(x) if x else a for a in axes) != list(range(len(x))) or any(
        not -len(x) <= a < len(x) for a in axes
    ):
        swap = f"; to swap two axes, use swapaxes({axes[0]}, {axes[1]})" if len(axes) == 2 < len(x) else ""
        raise ShapeError(f"transpose: axes {axes} must name each of the {len(x)} axes of shape {x} once{swap}")
    return tuple(x[a] for a in axes)


@op(
    shape=_transpose_shape,
    flops=no_flops,
    family="shape",
    convert={"axes": lambda axes: None if axes is None else as_shape(axes)},
)
def transpose(xp: Any, x: Any, *, axes: Shape | None = None) -> Any:
    """Return x with its axes in the order `axes` (default: reversed)."""
    return x.transpose(axes)


@transpose.vjp("x", "g with the axes back in order")
def _(g: Any, y: Any, x: Any, *, axes: Shape | None) -> Any:
    if axes is None:
        return transpose(g)
    inverse = [0] * len(axes)
    for position, a in enumerate(axes):
        inverse[a] = position
    return transpose(g, axes=tuple(inverse))


@transpose.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3, 4)),), {}
    yield (rng.normal(size=(2, 3, 4)),), {"axes": (1, -1, 0)}
    yield (rng.normal(size=()),), {}
    yield (rng.normal(size=(0, 3)),), {}


@transpose.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3)),), {"axes": (0, 0)}, ShapeError, "must name each"
    yield (rng.normal(size=(2, 3)),), {"axes": (0, 1, 2)}, ShapeError, "must name each"


def swapaxes(x: Any, axis1: int, axis2: int) -> Any:
    """Return x with two axes exchanged."""
    ndim = len(x.shape)
    (a,), (b,) = axes_of("swapaxes", axis1, ndim), axes_of("swapaxes", axis2, ndim)
    order = list(range(ndim))
    order[a], order[b] = b, a
    return transpose(x, axes=tuple(order))


def moveaxis(x: Any, source: Any, destination: Any) -> Any:
    """Return x with the axes `source` moved to the positions `destination`; the others keep their order."""
    ndim = len(x.shape)
    sources, targets = axes_of("moveaxis", source, ndim), axes_of("moveaxis", destination, ndim)
    if len(sources) != len(targets):
        raise ShapeError(f"moveaxis: source {source!r} and destination {destination!r} differ in number")
    order = [a for a in range(ndim) if a not in sources]
    for target, a in sorted(zip(targets, sources, strict=True)):
        order.insert(target, a)
    return transpose(x, axes=tuple(order))


# broadcast_to and sum_to are each other's adjoint


def _broadcast_to_shape(x: Shape, *, shape: Shape) -> Shape:
    if broadcast_shape("broadcast_to", (x, shape), ("x", "target")) != tuple(shape):
        raise ShapeError(f"broadcast_to: shape {x} cannot be stretched to {shape}")
    return shape


@op(shape=_broadcast_to_shape, flops=no_flops, family="shape", convert={"shape": as_shape})
def broadcast_to(xp: Any, x: Any, *, shape: Shape) -> Any:
    """Return x stretched to `shape`: axes of size 1 and missing axes on the left are repeated."""
    return xp.broadcast_to(x, shape)


@broadcast_to.vjp("x", "g summed over the stretched axes")
def _(g: Any, y: Any, x: Any, *, shape: Shape) -> Any:
    return sum_to(g, shape=x.shape)


@broadcast_to.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 1)),), {"shape": (2, 3, 4)}
    yield (rng.normal(size=()),), {"shape": (2, 3)}
    yield (rng.normal(size=(1, 3)),), {"shape": (0, 3)}


@broadcast_to.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3,)),), {"shape": (3, 2)}, ShapeError, "do not broadcast"
    yield (rng.normal(size=(3, 2)),), {"shape": (1, 2)}, ShapeError, "cannot be stretched"


def _sum_to_shape(x: Shape, *, shape: Shape) -> Shape:
    if broadcast_shape("sum_to", (x, shape), ("x", "target")) != tuple(x):
        raise ShapeError(f"sum_to: shape {x} is not a stretched {shape}")
    return shape


@op(shape=_sum_to_shape, flops=per_input_element(1), family="shape", convert={"shape": as_shape})
def sum_to(xp: Any, x: Any, *, shape: Shape) -> Any:
    """Return x summed over the axes along which `shape` would have to be stretched to the shape of x."""
    extra = x.ndim - len(shape)
    axes = tuple(i for i, n in enumerate(x.shape) if i < extra or (n != 1 and shape[i - extra] == 1))
    y = x.sum(axis=axes, keepdims=True) if axes else x
    return y.reshape(shape)


@sum_to.vjp("x", "g stretched")
def _(g: Any, y: Any, x: Any, *, shape: Shape) -> Any:
    return broadcast_to(g, shape=x.shape)


@sum_to.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3, 4)),), {"shape": (3, 1)}
    yield (rng.normal(size=(2, 3)),), {"shape": ()}
    yield (rng.normal(size=(0, 3)),), {"shape": (1, 3)}
    yield (rng.normal(size=(2, 3)),), {"shape": (2, 3)}


@sum_to.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3)),), {"shape": (3, 3)}, ShapeError, "do not broadcast"


# getitem and scatter are each other's adjoint


def plain_index(index: Any) -> Any:
    """Bring an index into a form of slices, numbers, None, Ellipsis and arrays of its own.

    Arrays are copied: the backward pass reads them again, and their owner may have changed them by then.
    """
    if isinstance(index, tuple):
        return tuple(plain_index(i) for i in index)
    if isinstance(index, Traced):
        index = index.array
    if isinstance(index, list):
        return Device("cpu").xp.array(index)
    return index.copy() if getattr(index, "ndim", 0) else index


def placed(xp: Any, index: Any) -> Any:
    """Return an index whose arrays are where the indexed array is."""
    if isinstance(index, tuple):
        return tuple(placed(xp, i) for i in index)
    if namespaces.get(index.__class__, xp) is xp:
        return index
    return xp.asarray(to_host(index))


def is_basic(index: Any) -> bool:
    """Return whether an index names every element at most once: slices, numbers, None and Ellipsis only."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        i is None or i is Ellipsis or isinstance(i, slice) or hasattr(i, "__index__") for i in parts
    ) and not any(isinstance(i, bool) or hasattr(i, "dtype") for i in parts)


def _getitem_shape(x: Shape, *, index: Any) -> Shape:
    xp = Device("cpu").xp
    try:
        return tuple(xp.broadcast_to(xp.zeros(()), x)[placed(xp, index)].shape)
    except IndexError as error:
        raise ShapeError(f"getitem: index {index!r} does not fit shape {x}: {error}") from error


def _scatter_shape(g: Shape, *, shape: Shape, index: Any) -> Shape:
    expected = _getitem_shape(shape, index=index)
    if broadcast_shape("scatter", (g, expected), ("g", "indexed place")) != expected:
        raise ShapeError(f"scatter: g has shape {g}, but index {index!r} into {shape} has shape {expected}")
    return shape


@op(shape=_getitem_shape, flops=no_flops, family="shape", convert={"index": plain_index})
def getitem(xp: Any, x: Any, *, index: Any) -> Any:
    """Return x[index], with NumPy's basic and advanced indexing; a float array is never an index."""
    return x[placed(xp, index)]


@getitem.vjp("x", "zeros with g added at index")
def _(g: Any, y: Any, x: Any, *, index: Any) -> Any:
    return scatter(g, shape=x.shape, index=index)


@op(shape=_scatter_shape, flops=lambda y, g, **_: size_of(g), family="shape", convert={"index": plain_index})
def scatter(xp: Any, g: Any, *, shape: Shape, index: Any) -> Any:
    """Return zeros of `shape` with g added at `index`, as often as `index` names a place."""
    y = xp.zeros(shape, dtype=g.dtype)
    if is_basic(index):
        y[index] = g
    else:
        add_at(xp, y, placed(xp, index), g)
    return y


@scatter.vjp("g", "u[index]")
def _(u: Any, y: Any, g: Any, *, shape: Shape, index: Any) -> Any:
    return getitem(u, index=index)


def _indices(rng: Any) -> Iterator[tuple[Shape, Any]]:
    integers = rng.integers(0, 3, size=(2, 2))
    yield (4, 3), (slice(1, None, 2), 0)
    yield (3, 4), (Ellipsis, None, slice(None, None, -1))
    yield (3, 4), integers
    yield (3, 4), (integers, slice(1, 3))
    yield (3, 4), rng.normal(size=(3, 4)) > 0
    yield (0, 4), (slice(None), 1)


@getitem.sample
def _(rng: Any) -> Iterator[Any]:
    for shape, index in _indices(rng):
        yield (rng.normal(size=shape),), {"index": index}


@getitem.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)),), {"index": (0, 7)}, ShapeError, "does not fit"
    yield (rng.normal(size=(3, 4)),), {"index": (0, 0, 0)}, ShapeError, "does not fit"


@scatter.sample
def _(rng: Any) -> Iterator[Any]:
    for shape, index in _indices(rng):
        yield (rng.normal(size=rng.normal(size=shape)[index].shape),), {"shape": shape, "index": index}


def flip(x: Any, axis: Any = None) -> Any:
    """Return x with the order of its elements reversed along `axis` (default: all axes)."""
    axes = axes_of("flip", axis, len(x.shape))
    return getitem(x, index=tuple(slice(None, None, -1) if i in axes else slice(None) for i in range(len(x.shape))))


# pad: the adjoint cuts the frame off


def _widths(value: Any) -> tuple[tuple[int, int], ...]:
    try:
        result = tuple((int(before), int(after)) for before, after in value)
    except (TypeError, ValueError):
        raise OptionError(f"pad: widths must be one (before, after) pair per axis, got {value!r}") from None
    if any(w < 0 for both in result for w in both):
        raise OptionError(f"pad: widths must not be negative, got {result}; to cut, use an index")
    return result


def _pad_shape(x: Shape, *, widths: Any, value: float = 0.0) -> Shape:
    if len(widths) != len(x):
        raise ShapeError(f"pad: shape {x} has {len(x)} axes, but widths has {len(widths)} pairs")
    return tuple(n + before + after for n, (before, after) in zip(x, widths, strict=True))


@op(shape=_pad_shape, flops=no_flops, family="shape", convert={"widths": _widths})
def pad(xp: Any, x: Any, *, widths: tuple[tuple[int, int], ...], value: float = 0.0) -> Any:
    """Return x framed with `value`: `widths` holds (before, after) for every axis."""
    if len(widths) != x.ndim:
        _pad_shape(x.shape, widths=widths)
    return xp.pad(x, widths, constant_values=value)


@pad.vjp("x", "g without its frame")
def _(g: Any, y: Any, x: Any, *, widths: tuple[tuple[int, int], ...], value: float) -> Any:
    return getitem(g, index=tuple(slice(before, before + n) for n, (before, _) in zip(x.shape, widths, strict=True)))


@pad.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3)),), {"widths": ((1, 0), (0, 2)), "value": 3.0}
    yield (rng.normal(size=(0,)),), {"widths": ((1, 1),)}
    yield (rng.normal(size=(2, 3)),), {"widths": ((0, 0), (0, 0))}


@pad.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3)),), {"widths": ((1, 1),)}, ShapeError, "2 axes"
    yield (rng.normal(size=(2,)),), {"widths": ((-1, 1),)}, OptionError, "must not be negative"


# concatenate and stack: the adjoint of each is a slice


def _concatenate_shape(*xs: Shape, axis: int = 0) -> Shape:
    if not xs:
        raise ShapeError("concatenate: give at least one array")
    first = xs[0]
    if not first:
        raise ShapeError("concatenate: arrays without axes cannot be joined; use stack")
    (a,) = axes_of("concatenate", axis, len(first))
    for i, s in enumerate(xs):
        if len(s) != len(first) or any(m != n for j, (m, n) in enumerate(zip(s, first, strict=True)) if j != a):
            raise ShapeError(
                f"concatenate: array number {i} has shape {s}, number 0 has {first}; all sizes but that of axis {a} "
                "must be equal"
            )
    return (*first[:a], sum(s[a] for s in xs), *first[a + 1 :])


@op(shape=_concatenate_shape, flops=no_flops, family="shape", convert={"axis": one_axis})
def concatenate(xp: Any, *xs: Any, axis: int = 0) -> Any:
    """Return the arrays joined along an existing axis."""
    return xp.concatenate(xs, axis=axis)


@concatenate.vjp("xs", "the slice of g that came from this input")
def _(position: int, g: Any, y: Any, *xs: Any, axis: int) -> Any:
    a = axis % len(g.shape)
    start = sum(x.shape[a] for x in xs[:position])
    return getitem(g, index=(slice(None),) * a + (slice(start, start + xs[position].shape[a]),))


@concatenate.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3)), rng.normal(size=(2, 1)), rng.normal(size=(2, 0))), {"axis": -1}
    yield (rng.normal(size=(2, 3)),), {}


@concatenate.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3)), rng.normal(size=(3, 3))), {"axis": 1}, ShapeError, "must be equal"
    yield (rng.normal(size=(2,)), rng.normal(size=(2,))), {"axis": 1}, ShapeError, "no axis 1"
    yield (rng.normal(size=()),), {}, ShapeError, "use stack"


def _stack_shape(*xs: Shape, axis: int = 0) -> Shape:
    if not xs:
        raise ShapeError("stack: give at least one array")
    for i, s in enumerate(xs):
        if s != xs[0]:
            raise ShapeError(f"stack: array number {i} has shape {s}, number 0 has {xs[0]}; all shapes must be equal")
    (a,) = axes_of("stack", axis, len(xs[0]) + 1)
    return (*xs[0][:a], len(xs), *xs[0][a:])


@op(shape=_stack_shape, flops=no_flops, family="shape", convert={"axis": one_axis})
def stack(xp: Any, *xs: Any, axis: int = 0) -> Any:
    """Return the arrays joined along a new axis."""
    return xp.stack(xs, axis=axis)


@stack.vjp("xs", "the slice of g that came from this input")
def _(position: int, g: Any, y: Any, *xs: Any, axis: int) -> Any:
    return getitem(g, index=(slice(None),) * (axis % len(g.shape)) + (position,))


@stack.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3)), rng.normal(size=(2, 3))), {"axis": 1}
    yield (rng.normal(size=()), rng.normal(size=())), {}
    yield (rng.normal(size=(0,)),), {"axis": -1}


@stack.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3)), rng.normal(size=(2, 2))), {}, ShapeError, "all shapes must be equal"


def split(x: Any, sections: int | Sequence[int], axis: int = 0) -> list[Any]:
    """Return x cut along `axis`: into `sections` equal parts, or before each of the positions in `sections`.

    Raises:
        ShapeError: the axis does not divide into that many equal parts.
    """
    (a,) = axes_of("split", axis, len(x.shape))
    n = x.shape[a]
    if isinstance(sections, int):
        if sections < 1 or n % sections:
            raise ShapeError(f"split: axis {a} of shape {tuple(x.shape)} does not divide into {sections} equal parts")
        step = n // sections
        cuts = [step * i for i in range(sections + 1)]
    else:
        cuts = [0, *[int(c) for c in sections], n]
    before = (slice(None),) * a
    return [getitem(x, index=(*before, slice(lo, hi))) for lo, hi in pairwise(cuts)]


# Moving to another device: the adjoint moves back


@op(shape=lambda x, **_: tuple(x), flops=no_flops, family="device")
def to_device(xp: Any, x: Any, *, device: Device) -> Any:
    """Return x on another device. The gradient comes back to where x is."""
    return device.asarray(device_of(x).to_host(x) if device.kind == "cpu" else x)


@to_device.vjp("x", "g on the device of x")
def _(g: Any, y: Any, x: Any, *, device: Device) -> Any:
    return to_device(g, device=device_of(raw(x)))


@to_device.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3)),), {"device": Device("cpu")}
