"""Pooling: maxima and averages of windows. Each op stands beside its adjoint.

Max pooling is a triangle like convolution: its gradient sends g to the places of the maxima, and the gradient of
that takes u from these places. Which places they are is constant under differentiation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..backend import kernels
from ..errors import OptionError, ShapeError
from ..op import op
from .convolution import Pads, pads, steps
from .rules import no_flops, pair, size_of

__all__ = ["avg_pool2d", "avg_pool2d_input_gradient", "max_pool2d", "max_pool2d_input_gradient", "max_pool2d_select"]

Shape = tuple[int, ...]
Two = tuple[int, int]


def pool_output_size(n: int, kernel: int, stride: int, before: int, after: int, dilation: int, ceil_mode: bool) -> int:
    """Return the number of windows: the formula of a convolution, rounded up in ceil mode.

    In ceil mode a last window that would start outside of the image and its left padding is dropped, as in PyTorch.
    """
    span = n + before + after - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return span // stride + 1
    count = -(-span // stride) + 1
    return count - 1 if (count - 1) * stride >= n + before else count


def _pool_shape(name: str, x: Shape, kernel: Two, stride: Two, padding: Pads, dilation: Two, ceil_mode: bool) -> Shape:
    if len(x) != 4:
        raise ShapeError(f"{name}: x must have 4 axes (n, c, h, w), got shape {x}")
    for side, k, d in zip(padding, kernel, dilation, strict=True):
        if max(side) > d * (k - 1) // 2 + (d * (k - 1)) % 2:
            raise OptionError(
                f"{name}: padding {padding} is more than half of the {kernel} kernel, so that some windows would hold "
                "nothing but padding"
            )
    sizes = tuple(
        pool_output_size(n, k, s, *p, d, ceil_mode)
        for n, k, s, p, d in zip(x[2:], kernel, stride, padding, dilation, strict=True)
    )
    if min(sizes) < 1:
        raise ShapeError(
            f"{name}: a {kernel[0]}x{kernel[1]} window does not fit into a {x[2]}x{x[3]} image with padding {padding}"
        )
    return (*x[:2], *sizes)


def _ties(value: Any) -> str:
    if value not in ("first", "split"):
        raise OptionError(f"ties must be 'first' or 'split', got {value!r}")
    return str(value)


_CONVERT = {"kernel": steps("kernel_size"), "stride": steps("stride"), "padding": pads, "ceil_mode": bool}
_MAX = {**_CONVERT, "dilation": steps("dilation"), "ties": _ties}


def _max_shape(
    x: Shape, *others: Shape, kernel: Two, stride: Two, padding: Pads, dilation: Two, ceil_mode: bool, ties: str
) -> Shape:
    return _pool_shape("max_pool2d", x, kernel, stride, padding, dilation, ceil_mode)


@op(
    shape=_max_shape,
    flops=lambda y, x, *, kernel, **_: size_of(y) * size_of(kernel),
    family="pooling",
    convert=_MAX,
    source="Ranzato et al., CVPR 2007; Scherer, Müller & Behnke, ICANN 2010",
)
def max_pool2d(
    xp: Any,
    x: Any,
    *,
    kernel: Any,
    stride: Any,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    ties: str = "first",
) -> Any:
    """y[n, c, i, j] = max over p, q of x[n, c, i sh + p dh - top, j sw + q dw - left].

    Outside of the image counts as -inf, so a negative image does not pool to 0. Where a window has several maxima,
    `ties` says who gets the gradient: "first" in row-major order (PyTorch's rule), or "split" into equal shares.
    NaN counts as the maximum.

    Raises:
        ShapeError: the window does not fit into the image.
        OptionError: the padding exceeds half of the window, or an option is out of its range.
    """
    shape = _max_shape(
        x.shape, kernel=kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode, ties=ties
    )
    return kernels(x).max_pool2d(x, kernel=kernel, stride=stride, padding=padding, dilation=dilation, output=shape[2:])


@max_pool2d.vjp("x", "g at the places of the maxima, ties by `ties`")
def _(g: Any, y: Any, x: Any, **options: Any) -> Any:
    return max_pool2d_input_gradient(g, x, y, **options)


@max_pool2d.switch
def _(xp: Any, y: Any, x: Any, *, ceil_mode: bool, ties: str, **geometry: Any) -> Any:
    numbers = xp.arange(x.shape[2] * x.shape[3], dtype=float).reshape(1, 1, *x.shape[2:])
    return kernels(x).max_pool2d_select(xp.broadcast_to(numbers, x.shape), x, y, ties="first", **geometry)


def _max_samples(rng: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    plain = {"kernel": 2, "stride": 2}
    yield rng.normal(size=(2, 2, 4, 6)), plain
    yield rng.normal(size=(2, 1, 7, 6)), {"kernel": (3, 2), "stride": (2, 1), "padding": 1}
    yield rng.normal(size=(1, 2, 6, 7)), {"kernel": (2, 3), "stride": 2, "ceil_mode": True, "dilation": (2, 1)}
    yield rng.normal(size=(1, 2, 5, 5)), {"kernel": 3, "stride": 2, "padding": ((1, 0), (0, 1)), "ties": "split"}
    yield rng.normal(size=(1, 1, 4, 4)), {**plain, "ties": "split"}
    yield rng.normal(size=(1, 2, 5, 3)), {**plain, "ceil_mode": True}
    yield rng.normal(size=(0, 2, 4, 4)), plain
    yield rng.normal(size=(2, 1, 1, 1)), {"kernel": 1, "stride": 1}


@max_pool2d.sample
def _(rng: Any) -> Iterator[Any]:
    for x, options in _max_samples(rng):
        yield (x,), options


@max_pool2d.error_sample
def _(rng: Any) -> Iterator[Any]:
    x = rng.normal(size=(1, 1, 4, 4))
    yield (x,), {"kernel": 5, "stride": 1}, ShapeError, "does not fit"
    yield (x[0],), {"kernel": 2, "stride": 1}, ShapeError, "4 axes"
    yield (x,), {"kernel": 2, "stride": 1, "padding": 2}, OptionError, "half of the"
    yield (x,), {"kernel": 2, "stride": 1, "ties": "all"}, OptionError, "ties must be"


def _same_as_second(g: Shape, x: Shape, y: Shape, **_: Any) -> Shape:
    if tuple(g) != tuple(y):
        raise ShapeError(f"max_pool2d_input_gradient: g has shape {g}, but y has {y}")
    return x


@op(
    shape=_same_as_second, flops=lambda y, g, *_, **__: size_of(g), family="pooling", constants=("x", "y"), convert=_MAX
)
def max_pool2d_input_gradient(
    xp: Any,
    g: Any,
    x: Any,
    y: Any,
    *,
    kernel: Any,
    stride: Any,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    ties: str = "first",
) -> Any:
    """Add every g[n, c, i, j] to the place in x where its window has its maximum y: linear in g."""
    return kernels(x).max_pool2d_input_gradient(
        g, x, y, kernel=kernel, stride=stride, padding=padding, dilation=dilation, ties=ties
    )


@max_pool2d_input_gradient.vjp("g", "u at the places of the maxima")
def _(u: Any, _y: Any, g: Any, x: Any, y: Any, **options: Any) -> Any:
    return max_pool2d_select(u, x, y, **options)


@op(shape=lambda u, x, y, **_: tuple(y), flops=no_flops, family="pooling", constants=("x", "y"), convert=_MAX)
def max_pool2d_select(
    xp: Any,
    u: Any,
    x: Any,
    y: Any,
    *,
    kernel: Any,
    stride: Any,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    ties: str = "first",
) -> Any:
    """Take from u, for every window of x, what stands where the window has its maximum y (the mean over ties)."""
    return kernels(x).max_pool2d_select(
        u, x, y, kernel=kernel, stride=stride, padding=padding, dilation=dilation, ties=ties
    )


@max_pool2d_select.vjp("u", "g at the places of the maxima")
def _(g: Any, _y: Any, u: Any, x: Any, y: Any, **options: Any) -> Any:
    return max_pool2d_input_gradient(g, x, y, **options)


@max_pool2d_input_gradient.sample
def _(rng: Any) -> Iterator[Any]:
    for x, options in _max_samples(rng):
        y = max_pool2d(x, **options)
        yield (rng.normal(size=y.shape), x, y), options


@max_pool2d_select.sample
def _(rng: Any) -> Iterator[Any]:
    for x, options in _max_samples(rng):
        yield (rng.normal(size=x.shape), x, max_pool2d(x, **options)), options


# Average pooling: the adjoint spreads each g evenly over its window


def _avg_shape(
    x: Shape,
    *,
    kernel: Two,
    stride: Two,
    padding: Pads,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Shape:
    return _pool_shape("avg_pool2d", x, kernel, stride, padding, (1, 1), ceil_mode)


def _divisor(value: Any) -> int | None:
    if value is None:
        return None
    if not hasattr(value, "__index__") or int(value) == 0:
        raise OptionError(f"divisor_override must be a whole number other than 0, or None, got {value!r}")
    return int(value)


_AVG = {**_CONVERT, "count_include_pad": bool, "divisor_override": _divisor}


@op(
    shape=_avg_shape,
    flops=lambda y, x, *, kernel, **_: size_of(y) * (size_of(kernel) + 1),
    family="pooling",
    convert=_AVG,
    source="LeCun et al., Proc. IEEE 86(11), 1998",
)
def avg_pool2d(
    xp: Any,
    x: Any,
    *,
    kernel: Any,
    stride: Any,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """y[n, c, i, j] = (Σ over the window of x) / d.

    d is the number of elements in the window: with `count_include_pad` those in the padding too (but never those
    beyond it, which ceil mode can reach), otherwise those of the image alone; or `divisor_override`.

    Raises:
        ShapeError: the window does not fit into the image.
        OptionError: the padding exceeds half of the window, or an option is out of its range.
    """
    shape = _avg_shape(
        x.shape,
        kernel=kernel,
        stride=stride,
        padding=padding,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )
    return kernels(x).avg_pool2d(
        x,
        kernel=kernel,
        stride=stride,
        padding=padding,
        output=shape[2:],
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )


@avg_pool2d.vjp("x", "g / d spread over its window")
def _(g: Any, y: Any, x: Any, **options: Any) -> Any:
    return avg_pool2d_input_gradient(g, size=x.shape[2:], **options)


def _avg_gradient_shape(g: Shape, *, size: Shape, **_: Any) -> Shape:
    return (*g[:2], *size)


@op(
    shape=_avg_gradient_shape,
    flops=lambda y, g, *, kernel, **_: size_of(g) * (size_of(kernel) + 1),
    family="pooling",
    convert={**_AVG, "size": pair},
)
def avg_pool2d_input_gradient(
    xp: Any,
    g: Any,
    *,
    size: Any,
    kernel: Any,
    stride: Any,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Spread every g[n, c, i, j] / d evenly over its window of an image of `size` (h, w)."""
    return kernels(g).avg_pool2d_input_gradient(
        g,
        size=size,
        kernel=kernel,
        stride=stride,
        padding=padding,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )


@avg_pool2d_input_gradient.vjp("g", "average pooling of u")
def _(u: Any, y: Any, g: Any, *, size: Any, **options: Any) -> Any:
    return avg_pool2d(u, **options)


def _avg_samples(rng: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    yield rng.normal(size=(2, 2, 4, 6)), {"kernel": 2, "stride": 2}
    yield rng.normal(size=(1, 2, 7, 6)), {"kernel": (3, 2), "stride": (2, 1), "padding": 1, "count_include_pad": False}
    yield rng.normal(size=(1, 1, 6, 7)), {"kernel": (2, 3), "stride": 2, "padding": (1, 1), "ceil_mode": True}
    yield rng.normal(size=(1, 2, 5, 5)), {"kernel": 3, "stride": 2, "divisor_override": 5}
    yield rng.normal(size=(0, 2, 4, 4)), {"kernel": 2, "stride": 2}
    yield rng.normal(size=(2, 1, 1, 1)), {"kernel": 1, "stride": 1}


@avg_pool2d.sample
def _(rng: Any) -> Iterator[Any]:
    for x, options in _avg_samples(rng):
        yield (x,), options


@avg_pool2d.error_sample
def _(rng: Any) -> Iterator[Any]:
    x = rng.normal(size=(1, 1, 4, 4))
    yield (x,), {"kernel": 5, "stride": 1}, ShapeError, "does not fit"
    yield (x,), {"kernel": 2, "stride": 1, "padding": 2}, OptionError, "half of the"
    yield (x,), {"kernel": 2, "stride": 1, "divisor_override": 0}, OptionError, "divisor_override"


@avg_pool2d_input_gradient.sample
def _(rng: Any) -> Iterator[Any]:
    for x, options in _avg_samples(rng):
        yield (rng.normal(size=avg_pool2d(x, **options).shape),), {"size": x.shape[2:], **options}
