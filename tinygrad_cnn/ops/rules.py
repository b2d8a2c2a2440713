"""What the op families share: shape rules, flop rules, and the decorators that fill in what elementwise ops repeat."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..backend import namespace
from ..errors import OptionError, ShapeError
from ..graph import Traced
from ..op import Op, op

__all__ = [
    "axes_of",
    "binary",
    "broadcast_shape",
    "no_flops",
    "normal_axes",
    "one_axis",
    "pair",
    "per_element",
    "per_input_element",
    "raw",
    "reduced_shape",
    "size_of",
    "unary",
    "xp_of",
]

Shape = tuple[int, ...]


def raw(x: Any) -> Any:
    """Return the array of a tensor, or the array itself."""
    return x.array if isinstance(x, Traced) else x


def xp_of(*values: Any) -> Any:
    """Return the array module of tensors or arrays, for the rare rule that has to make an array of its own."""
    return namespace(*[raw(v) for v in values])


def size_of(shape: Sequence[int]) -> int:
    """Return the number of elements of an array of this shape."""
    return math.prod(shape)


def pair(value: Any) -> tuple[int, int]:
    """Bring a number or a pair into the form (vertical, horizontal)."""
    # Options are brought into their normal form at every call, so the usual forms come first.
    if value.__class__ is int:
        return value, value
    if value.__class__ is tuple and len(value) == 2 and value[0].__class__ is int and value[1].__class__ is int:
        return value[0], value[1]
    if hasattr(value, "__index__") and not isinstance(value, bool):
        return int(value), int(value)
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(hasattr(v, "__index__") for v in value):
        return int(value[0]), int(value[1])
    raise OptionError(f"expected a whole number or a pair of them, got {value!r}")


def normal_axes(axis: Any) -> Any:
    """Bring an `axis` option into a form that can be compared and hashed: None, a number or a tuple of numbers."""
    if axis is None or isinstance(axis, int):
        return axis
    if isinstance(axis, (tuple, list)):
        return tuple(int(a) for a in axis)
    if hasattr(axis, "__index__"):
        return int(axis)
    raise OptionError(f"axis must be a whole number, a tuple of them or None, got {axis!r}")


def one_axis(axis: Any) -> int:
    """Bring an `axis` option that names one axis into a Python number."""
    if hasattr(axis, "__index__") and not isinstance(axis, bool):
        return int(axis)
    raise OptionError(f"axis must be one whole number, got {axis!r}")


def per_element(count: int) -> Callable[..., int]:
    """Return a flop rule: `count` operations for every element of the output."""

    def flops(y: Shape, *shapes: Any, **options: Any) -> int:
        return count * size_of(y)

    return flops


def per_input_element(count: int) -> Callable[..., int]:
    """Return a flop rule: `count` operations for every element of the first input."""

    def flops(y: Shape, x: Shape, *shapes: Any, **options: Any) -> int:
        return count * size_of(x)

    return flops


def no_flops(y: Shape, *shapes: Any, **options: Any) -> int:
    """Only moves data."""
    return 0


def broadcast_shape(name: str, shapes: Sequence[Shape], names: Sequence[str]) -> Shape:
    """Return the shape that `shapes` broadcast to (NumPy's rule: align right, 1 stretches).

    Raises:
        ShapeError: they do not.
    """
    ndim = max((len(s) for s in shapes), default=0)
    padded = [(1,) * (ndim - len(s)) + tuple(s) for s in shapes]
    result = []
    for sizes in zip(*padded, strict=True):
        wide = {n for n in sizes if n != 1}
        if len(wide) > 1:
            given = ", ".join(f"{n} {tuple(s)}" for n, s in zip(names, shapes, strict=False))
            raise ShapeError(
                f"{name}: {given} do not broadcast: aligned at the right, each pair of sizes must be equal or 1"
            )
        result.append(wide.pop() if wide else 1)
    return tuple(result)


def axes_of(name: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """Bring an `axis` argument (None, number, several) into a tuple of non-negative axes.

    Raises:
        ShapeError: there is no such axis, or one is named twice.
    """
    axis = normal_axes(axis)
    if axis is None:
        return tuple(range(ndim))
    result = []
    for a in axis if isinstance(axis, tuple) else (axis,):
        if not -ndim <= a < ndim:
            raise ShapeError(f"{name}: there is no axis {a} in an array with {ndim} axes")
        result.append(a % ndim)
    if len(set(result)) != len(result):
        raise ShapeError(f"{name}: axis {axis!r} names an axis twice")
    return tuple(result)


def reduced_shape(name: str, shape: Shape, axis: Any, keepdims: bool) -> Shape:
    """Return the shape after reducing over `axis`."""
    axes = axes_of(name, axis, len(shape))
    if keepdims:
        return tuple(1 if i in axes else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def unary(
    *,
    flops: int = 1,
    family: str = "elementwise",
    source: str = "",
    convert: dict[str, Callable[[Any], Any]] | None = None,
) -> Callable[[Callable[..., Any]], Op]:
    """Declare an op that maps each element of x by itself."""
    return op(shape=lambda x, **_: tuple(x), flops=per_element(flops), family=family, source=source, convert=convert)


def binary(
    *,
    flops: int = 1,
    family: str = "elementwise",
    source: str = "",
    constants: tuple[str, ...] = (),
    convert: dict[str, Callable[[Any], Any]] | None = None,
) -> Callable[[Callable[..., Any]], Op]:
    """Declare an op on pairs of elements, with broadcasting."""

    def declare(forward: Callable[..., Any]) -> Op:
        name = forward.__name__

        def shape(a: Shape, b: Shape, **_: Any) -> Shape:
            return broadcast_shape(name, (a, b), ("a", "b"))

        return op(
            shape=shape,
            flops=per_element(flops),
            family=family,
            source=source,
            constants=constants,
            convert=convert,
            broadcasts=True,
        )(forward)

    return declare
