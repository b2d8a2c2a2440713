"""Convolution. Its two gradients are convolutions too, so the three ops below are closed under differentiation:
the gradient of any of them is written with the others.

Shapes: x (n, c, h, w), weight (o, c/groups, kh, kw), y and g (n, o, oh, ow).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..backend import kernels
from ..backend.geometry import positions
from ..errors import OptionError, ShapeError
from ..op import op
from .reductions import sum as sum_of
from .rules import pair, size_of

__all__ = [
    "conv2d",
    "conv2d_input_gradient",
    "conv2d_weight_gradient",
    "conv_output_size",
    "pads",
    "resolve_padding",
]

Shape = tuple[int, ...]
Pads = tuple[tuple[int, int], tuple[int, int]]


def pads(value: Any) -> Pads:
    """Bring a padding into the form ((top, bottom), (left, right)): from a number, a pair, or that form itself."""
    if (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and isinstance(value[0], (tuple, list))
        and isinstance(value[1], (tuple, list))
    ):
        result = pair(tuple(value[0])), pair(tuple(value[1]))
    else:
        vertical, horizontal = pair(value)
        result = (vertical, vertical), (horizontal, horizontal)
    (top, bottom), (left, right) = result
    if top < 0 or bottom < 0 or left < 0 or right < 0:
        raise OptionError(f"padding must not be negative, got {value!r}")
    return result


def steps(name: str) -> Any:
    """Return a converter of an option that must be a positive number or a pair of them."""

    def convert(value: Any) -> tuple[int, int]:
        result = pair(value)
        if result[0] < 1 or result[1] < 1:
            raise OptionError(f"{name} must be at least 1, got {value!r}")
        return result

    return convert


def group_count(value: Any) -> int:
    """Check the number of groups."""
    if not hasattr(value, "__index__") or isinstance(value, bool) or int(value) < 1:
        raise OptionError(f"groups must be a whole number from 1 on, got {value!r}")
    return int(value)


def resolve_padding(padding: Any, size: Any, kernel: Any, stride: Any, dilation: Any) -> Pads:
    """Turn a padding with a name into numbers.

    "valid": no padding, the kernel stays inside the image.
    "same": as much as keeps the size, oh = ceil(h / stride); an odd rest goes to the bottom and the right.
    "full": d (k - 1) on every side, so that every pixel is seen by every element of the kernel.

    Raises:
        OptionError: another name.
    """
    if not isinstance(padding, str):
        return pads(padding)
    (sh, sw), (dh, dw), (kh, kw) = pair(stride), pair(dilation), pair(kernel)
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "full":
        return (dh * (kh - 1),) * 2, (dw * (kw - 1),) * 2
    if padding == "same":
        totals = [
            max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            for n, k, s, d in zip(pair(tuple(size)), (kh, kw), (sh, sw), (dh, dw), strict=True)
        ]
        return (totals[0] // 2, totals[0] - totals[0] // 2), (totals[1] // 2, totals[1] - totals[1] // 2)
    raise OptionError(f"padding must be a number, a pair, 'valid', 'same' or 'full', got {padding!r}")


def conv_output_size(n: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> int:
    """Return floor((n + before + after - dilation (kernel - 1) - 1) / stride) + 1, the number of kernel positions."""
    return positions(n, (before, after), kernel, stride, dilation)


def _conv2d_shape(
    x: Shape,
    weight: Shape,
    bias: Shape | None = None,
    *,
    stride: tuple[int, int],
    padding: Pads,
    dilation: tuple[int, int],
    groups: int,
) -> Shape:
    if len(x) != 4 or len(weight) != 4:
        raise ShapeError(
            f"conv2d: x {x} and weight {weight} must both have 4 axes: x (n, c, h, w), weight (o, c, kh, kw)"
        )
    (n, c, h, w), (o, wc, kh, kw) = x, weight
    if c % groups or o % groups:
        raise ShapeError(
            f"conv2d: {groups} groups do not divide the {c} channels of x {x} and the {o} of weight {weight}"
        )
    if wc * groups != c:
        raise ShapeError(
            f"conv2d: x {x} has {c} channels, but weight {weight} expects {wc * groups}"
            + (f" ({groups} groups of {wc})" if groups > 1 else "")
        )
    if bias is not None and tuple(bias) != (o,):
        raise ShapeError(f"conv2d: bias {bias} must have shape {(o,)}, one number per filter of weight {weight}")
    if kh < 1 or kw < 1:
        raise ShapeError(f"conv2d: weight {weight} has an empty kernel")
    oh = conv_output_size(h, kh, stride[0], *padding[0], dilation[0])
    ow = conv_output_size(w, kw, stride[1], *padding[1], dilation[1])
    if oh < 1 or ow < 1:
        raise ShapeError(
            f"conv2d: a {kh}x{kw} kernel with dilation {dilation} does not fit into a {h}x{w} image "
            f"with padding {padding}"
        )
    return n, o, oh, ow


def _conv2d_flops(y: Shape, x: Shape, weight: Shape, bias: Shape | None = None, **_: Any) -> int:
    return 2 * size_of(y) * size_of(weight[1:]) + (0 if bias is None else size_of(y))


_CONVERT = {"stride": steps("stride"), "padding": pads, "dilation": steps("dilation"), "groups": group_count}


@op(
    shape=_conv2d_shape,
    flops=_conv2d_flops,
    family="convolution",
    convert=_CONVERT,
    source="LeCun, Bottou, Bengio & Haffner, Proc. IEEE 86(11), 1998",
)
def conv2d(
    xp: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Slide `weight` over `x` and take the inner product at every position.

    y[n, o, i, j] = bias[o] + Σ_{c, p, q} x[n, c, i sh + p dh - top, j sw + q dw - left] weight[o, c, p, q]

    The kernel is not flipped, so in signal-processing terms this is a correlation, as in every deep learning library.

    Args:
        x: images, shape (n, c, h, w).
        weight: kernels, shape (o, c / groups, kh, kw).
        bias: one number per filter, shape (o,), or None.
        stride: step between positions, one number or (sh, sw).
        padding: zeros around the image, a number, (vertical, horizontal) or ((top, bottom), (left, right)).
        dilation: step between the elements of the kernel, one number or (dh, dw).
        groups: channels and filters are cut into this many parts that do not see each other.

    Returns:
        shape (n, o, oh, ow), where oh = floor((h + top + bottom - dh (kh - 1) - 1) / sh) + 1, and likewise ow.

    Raises:
        ShapeError: the channels differ, or the kernel does not fit into the image.
        OptionError: an option is out of its range.
    """
    _conv2d_shape(
        x.shape,
        weight.shape,
        None if bias is None else bias.shape,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    return kernels(x).conv2d(x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)


@conv2d.vjp("x", "full correlation of g with the weight turned by 180°")
def _(g: Any, y: Any, x: Any, weight: Any, bias: Any = None, **geometry: Any) -> Any:
    return conv2d_input_gradient(g, weight, size=x.shape[2:], **geometry)


@conv2d.vjp("weight", "correlation of x with g")
def _(g: Any, y: Any, x: Any, weight: Any, bias: Any = None, **geometry: Any) -> Any:
    return conv2d_weight_gradient(x, g, kernel=weight.shape[2:], **geometry)


@conv2d.vjp("bias", "Σ g over images and positions")
def _(g: Any, y: Any, x: Any, weight: Any, bias: Any = None, **geometry: Any) -> Any:
    return sum_of(g, axis=(0, 2, 3))


_GEOMETRIES: tuple[dict[str, Any], ...] = (
    {"stride": 1, "padding": 0, "dilation": 1, "groups": 1},
    {"stride": (2, 1), "padding": (1, 0), "dilation": 1, "groups": 1},
    {"stride": (2, 3), "padding": ((1, 0), (2, 1)), "dilation": (1, 2), "groups": 1},
    {"stride": 1, "padding": 1, "dilation": 1, "groups": 2},
)


def _conv_samples(rng: Any) -> Iterator[tuple[Any, Any, Any, dict[str, Any]]]:
    """Yield x, weight, y-shaped g and the geometry; stride (2, 3) leaves rows and columns over."""
    for geometry in _GEOMETRIES:
        groups = geometry["groups"]
        x, weight = rng.normal(size=(2, 2 * groups, 6, 7)), rng.normal(size=(2 * groups, 2, 3, 2))
        normal = conv2d.complete(geometry)
        yield x, weight, rng.normal(size=_conv2d_shape(x.shape, weight.shape, **normal)), geometry
    for x_shape, w_shape in (((0, 2, 4, 4), (3, 2, 3, 3)), ((2, 1, 1, 1), (1, 1, 1, 1))):
        x, weight = rng.normal(size=x_shape), rng.normal(size=w_shape)
        normal = conv2d.complete(_GEOMETRIES[0])
        yield x, weight, rng.normal(size=_conv2d_shape(x.shape, weight.shape, **normal)), _GEOMETRIES[0]


@conv2d.sample
def _(rng: Any) -> Iterator[Any]:
    for x, weight, _, geometry in _conv_samples(rng):
        yield (x, weight, rng.normal(size=weight.shape[0])), geometry
    yield (rng.normal(size=(1, 2, 4, 3)), rng.normal(size=(3, 2, 2, 2))), {}


@conv2d.error_sample
def _(rng: Any) -> Iterator[Any]:
    x, weight = rng.normal(size=(2, 3, 6, 5)), rng.normal(size=(4, 2, 3, 2))
    yield (x, weight), {}, ShapeError, "3 channels"
    yield (x[0], weight), {}, ShapeError, "4 axes"
    yield (x, rng.normal(size=(4, 3, 7, 2))), {}, ShapeError, "does not fit"
    yield (x, rng.normal(size=(4, 3, 3, 2)), rng.normal(size=(3,))), {}, ShapeError, "bias"
    yield (x, weight), {"groups": 2}, ShapeError, "do not divide"
    yield (x, weight), {"stride": 0}, OptionError, "at least 1"
    yield (x, weight), {"padding": -1}, OptionError, "negative"


def _input_gradient_shape(g: Shape, weight: Shape, *, size: Shape, groups: int, **geometry: Any) -> Shape:
    if len(g) != 4 or len(weight) != 4:
        raise ShapeError(f"conv2d_input_gradient: g {g} and weight {weight} must both have 4 axes")
    x = (g[0], weight[1] * groups, *size)
    expected = _conv2d_shape(x, weight, groups=groups, **geometry)
    if tuple(g) != expected:
        raise ShapeError(f"conv2d_input_gradient: g has shape {g}, but x {x} and weight {weight} give {expected}")
    return x


@op(
    shape=_input_gradient_shape,
    flops=lambda y, g, weight, **_: 2 * size_of(g) * size_of(weight[1:]),
    family="convolution",
    convert={**_CONVERT, "size": pair},
)
def conv2d_input_gradient(
    xp: Any,
    g: Any,
    weight: Any,
    *,
    size: tuple[int, int],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Spread every g[n, o, i, j], times the kernel, over the patch of x it was computed from: d<g, conv2d(x)>/dx.

    This is the forward function of a transposed convolution. `size` is (h, w) of x.
    """
    _input_gradient_shape(
        g.shape, weight.shape, size=size, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    return kernels(g).conv2d_input_gradient(
        g, weight, size=size, stride=stride, padding=padding, dilation=dilation, groups=groups
    )


@conv2d_input_gradient.vjp("g", "conv2d of u")
def _(u: Any, y: Any, g: Any, weight: Any, *, size: Any, **geometry: Any) -> Any:
    return conv2d(u, weight, **geometry)


@conv2d_input_gradient.vjp("weight", "correlation of u with g")
def _(u: Any, y: Any, g: Any, weight: Any, *, size: Any, **geometry: Any) -> Any:
    return conv2d_weight_gradient(u, g, kernel=weight.shape[2:], **geometry)


@conv2d_input_gradient.sample
def _(rng: Any) -> Iterator[Any]:
    for x, weight, g, geometry in _conv_samples(rng):
        yield (g, weight), {"size": x.shape[2:], **geometry}


@conv2d_input_gradient.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 4, 3, 3)), rng.normal(size=(4, 2, 3, 3))), {"size": (9, 9)}, ShapeError, "g has shape"


def _weight_gradient_shape(x: Shape, g: Shape, *, kernel: Shape, groups: int, **geometry: Any) -> Shape:
    if len(x) != 4 or len(g) != 4:
        raise ShapeError(f"conv2d_weight_gradient: x {x} and g {g} must both have 4 axes")
    weight = (g[1], x[1] // groups, *kernel)
    expected = _conv2d_shape(x, weight, groups=groups, **geometry)
    if tuple(g) != expected:
        raise ShapeError(f"conv2d_weight_gradient: g has shape {g}, but x {x} and a kernel {kernel} give {expected}")
    return weight


@op(
    shape=_weight_gradient_shape,
    flops=lambda y, x, g, **_: 2 * size_of(g) * size_of(y[1:]),
    family="convolution",
    convert={**_CONVERT, "kernel": pair},
)
def conv2d_weight_gradient(
    xp: Any,
    x: Any,
    g: Any,
    *,
    kernel: tuple[int, int],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Correlate every patch of x with the g computed from it: d<g, conv2d(x)>/dweight. `kernel` is (kh, kw)."""
    _weight_gradient_shape(
        x.shape, g.shape, kernel=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    return kernels(x).conv2d_weight_gradient(
        x, g, kernel=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups
    )


@conv2d_weight_gradient.vjp("x", "input gradient of g with u as the weight")
def _(u: Any, y: Any, x: Any, g: Any, *, kernel: Any, **geometry: Any) -> Any:
    return conv2d_input_gradient(g, u, size=x.shape[2:], **geometry)


@conv2d_weight_gradient.vjp("g", "conv2d of x with u as the weight")
def _(u: Any, y: Any, x: Any, g: Any, *, kernel: Any, **geometry: Any) -> Any:
    return conv2d(x, u, **geometry)


@conv2d_weight_gradient.sample
def _(rng: Any) -> Iterator[Any]:
    for x, weight, g, geometry in _conv_samples(rng):
        yield (x, g), {"kernel": weight.shape[2:], **geometry}


@conv2d_weight_gradient.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3, 6, 6)), rng.normal(size=(2, 4, 3, 3))), {"kernel": (3, 3)}, ShapeError, "g has shape"
