"""Every layer and loss as a function, with PyTorch's names and argument order. Images are (n, c, h, w)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from .. import ops
from ..backend import finfo, float32, generator, is_float, is_half, kernels, on_host
from ..backend.device import device_of
from ..errors import DataError, DTypeError, OptionError, ShapeError
from ..graph import Traced, casting
from ..ops.convolution import conv_output_size, pads, resolve_padding
from ..ops.normalisation import batch_norm_and_moments
from ..ops.rules import pair, raw, xp_of
from ..tensor import Tensor

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "avg_pool2d",
    "batch_norm",
    "bce_with_logits",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "dropout",
    "dropout2d",
    "elu",
    "flatten",
    "gaussian_pool2d",
    "gelu",
    "global_avg_pool2d",
    "global_max_pool2d",
    "hardtanh",
    "huber_loss",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "local_response_norm",
    "log_softmax",
    "logsigmoid",
    "lp_pool2d",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "pad",
    "relu",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "tanh",
    "threshold_unit",
]


Function = TypeVar("Function", bound=Callable[..., Any])


def _castable(function: Function) -> Function:
    """Let `amp.autocast` choose the type of a function that consists of several ops, as it does for one op."""

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        choose = casting.get()
        if choose is not None:
            values = choose(function.__name__, (*args, *kwargs.values()))
            args, kwargs = values[: len(args)], dict(zip(kwargs, values[len(args) :], strict=True))
        return function(*args, **kwargs)

    return cast(Function, called)


def as_tensor(x: Any, beside: Any = None) -> Any:
    """Return x as a tensor, so that `model(batch)` works on plain arrays too, on the device of the tensor `beside` it.

    An array is copied: its owner may fill it with the next batch before the backward pass reads this one.
    """
    return x if isinstance(x, Traced) else Tensor(x, device=_device_beside(x, beside))


def _device_beside(x: Any, other: Any) -> Any:
    """Return where x goes, which has no device of its own if it is no array of a GPU; None for the usual place."""
    return device_of(other.array) if isinstance(other, Traced) and (on_host(x) or not hasattr(x, "dtype")) else None


def _beside(array: Any, x: Any) -> Any:
    """Return a NumPy array that stands beside the tensor x as an array on the device of x; anything else as it is."""
    there = _device_beside(array, x) if on_host(array) else None
    return array if there is None or there.kind == "cpu" else there.asarray(array)


# Linear layers and convolution


def linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """Return x Wᵀ + b: input (..., in), weight (out, in), bias (out,), output (..., out)."""
    input = as_tensor(input, weight)
    weight, bias = _beside(weight, input), _beside(bias, input)
    return ops.linear(input, weight, *(() if bias is None else (bias,)))


def conv2d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """Return the cross-correlation of input (n, c, h, w) with weight (o, c / groups, kh, kw), plus bias (o,).

    Args:
        padding: a number, (vertical, horizontal), ((top, bottom), (left, right)), or a name: "valid" (none), "same"
            (keeps the size: oh = ceil(h / stride)) or "full" (every pixel is seen by every element of the kernel).

    See `tinygrad_cnn.ops.conv2d` for the formula, the output size and the errors.
    """
    input = as_tensor(input, weight)
    weight, bias = _beside(weight, input), _beside(bias, input)
    if len(input.shape) != 4 or len(weight.shape) != 4:
        raise ShapeError(
            f"conv2d: input {tuple(input.shape)} and weight {tuple(weight.shape)} must both have 4 axes: "
            "input (n, c, h, w), weight (o, c, kh, kw)"
        )
    if isinstance(padding, str):
        padding = resolve_padding(padding, input.shape[2:], tuple(weight.shape[2:]), stride, dilation)
    return ops.conv2d(
        input,
        weight,
        *(() if bias is None else (bias,)),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


def conv_transpose2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """Return the transposed convolution: the input gradient of the `conv2d` with the same weight and geometry.

    input (n, c, h, w), weight (c, o / groups, kh, kw), output (n, o, oh, ow) with
    oh = (h - 1) sh - top - bottom + dh (kh - 1) + output_padding + 1.

    Args:
        padding: as in `conv2d`; "same" gives oh = h sh, "full" cuts d (k - 1) from every side.
        output_padding: rows and columns added at the bottom and the right; smaller than stride or dilation.

    Raises:
        ShapeError: channels or bias do not fit, or nothing is left of the output.
        OptionError: output_padding is not smaller than both stride and dilation.
    """
    input = as_tensor(input, weight)
    weight, bias = _beside(weight, input), _beside(bias, input)
    if len(input.shape) != 4 or len(weight.shape) != 4:
        raise ShapeError(
            f"conv_transpose2d: input {tuple(input.shape)} and weight {tuple(weight.shape)} must both have 4 axes: "
            "input (n, c, h, w), weight (c, o, kh, kw)"
        )
    if input.shape[1] != weight.shape[0]:
        raise ShapeError(
            f"conv_transpose2d: input {tuple(input.shape)} has {input.shape[1]} channels, "
            f"but weight {tuple(weight.shape)} (c, o, kh, kw) expects {weight.shape[0]}"
        )
    strides, dilations, extra = pair(stride), pair(dilation), list(pair(output_padding))
    kernel, size = tuple(weight.shape[2:]), tuple(input.shape[2:])
    for e, s, d in zip(extra, strides, dilations, strict=True):
        if e < 0 or e >= max(s, d):
            raise OptionError(
                f"conv_transpose2d: output_padding {output_padding} must be smaller than stride {stride} "
                f"or dilation {dilation}"
            )
    if padding == "same":
        sides = []
        for i in (0, 1):
            cut = dilations[i] * (kernel[i] - 1) + 1 - strides[i]
            extra[i] += max(-cut, 0)
            cut = max(cut, 0)
            sides.append((cut // 2, cut - cut // 2))
        padding = tuple(sides)
    else:
        padding = resolve_padding(padding, size, kernel, stride, dilation)
    target = tuple(
        (n - 1) * s - before - after + d * (k - 1) + e + 1
        for n, s, (before, after), d, k, e in zip(size, strides, padding, dilations, kernel, extra, strict=True)
    )
    if min(target) < 1:
        raise ShapeError(f"conv_transpose2d: padding {padding} leaves an output of size {target}")
    # Where the output is long enough for one more kernel position, the input has to be longer by a row of zeros.
    positions = [
        conv_output_size(t, k, s, p[0], p[1], d)
        for t, k, s, p, d in zip(target, kernel, strides, padding, dilations, strict=True)
    ]
    if tuple(positions) != size:
        widths = ((0, 0), (0, 0), (0, positions[0] - size[0]), (0, positions[1] - size[1]))
        input = ops.pad(input, widths=widths)
    y = ops.conv2d_input_gradient(
        input, weight, size=target, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    if bias is None:
        return y
    if tuple(bias.shape) != (y.shape[1],):
        raise ShapeError(f"conv_transpose2d: bias has shape {tuple(bias.shape)}, expected {(y.shape[1],)}")
    return y + ops.reshape(bias, shape=(1, -1, 1, 1))


# Pooling


def max_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    ties: str = "first",
) -> Any:
    """Return the maximum of every window; stride defaults to kernel_size, padding counts as -inf.

    `ties` says who gets the gradient where a window has several maxima: "first" or "split".
    """
    return ops.max_pool2d(
        as_tensor(input),
        kernel=kernel_size,
        stride=kernel_size if stride is None else stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        ties=ties,
    )


def avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Return the mean of every window; stride defaults to kernel_size."""
    return ops.avg_pool2d(
        as_tensor(input),
        kernel=kernel_size,
        stride=kernel_size if stride is None else stride,
        padding=padding,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )


def gaussian_pool2d(
    input: Any, kernel_size: Any, sigma: float | None = None, stride: Any = None, padding: Any = 0
) -> Any:
    """Return the average of every window weighted by the distance r from its centre: weights ∝ e^(-r² / (2 sigma²)).

    Only pixels of the image count: at a padded border the weights of the others are scaled up to sum to 1.

    Args:
        sigma: width of the weights in pixels; default: a quarter of the larger side of the window.
    """
    x = as_tensor(input)
    if len(x.shape) != 4:
        raise ShapeError(f"gaussian_pool2d: input must have 4 axes (n, c, h, w), got shape {tuple(x.shape)}")
    kh, kw = pair(kernel_size)
    width = max(kh, kw) / 4 if sigma is None else float(sigma)
    if not width > 0:
        raise OptionError(f"gaussian_pool2d: sigma must be positive, got {sigma!r}")
    c = x.shape[1]
    weights = [
        [math.exp(-((i - (kh - 1) / 2) ** 2 + (j - (kw - 1) / 2) ** 2) / (2 * width**2)) for j in range(kw)]
        for i in range(kh)
    ]
    xp = xp_of(x)
    kernel = xp.asarray(weights, dtype=x.dtype)
    kernel = kernel / kernel.sum()
    geometry = {"stride": kernel_size if stride is None else stride, "padding": pads(padding)}
    stacked = xp.ascontiguousarray(xp.broadcast_to(kernel, (c, 1, kh, kw)))
    y = ops.conv2d(x, stacked, groups=max(c, 1), **geometry)
    if pads(padding) == ((0, 0), (0, 0)):
        return y
    return y / ops.conv2d(xp.ones((1, 1, *x.shape[2:]), dtype=x.dtype), stacked[:1], **geometry)


def lp_pool2d(input: Any, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Any:
    """Return (Σ |x|^p)^(1/p) of every window; p = 1 sums, p = 2 is the Euclidean norm, large p nears the maximum.

    Where a window is all zeros the gradient is 0.
    """
    p = float(norm_type)
    if not p > 0:
        raise OptionError(f"lp_pool2d: norm_type must be positive, got {norm_type!r}")
    total = avg_pool2d(ops.absolute(as_tensor(input)) ** p, kernel_size, stride, 0, ceil_mode, divisor_override=1)
    empty = ops.equal(total, 0)
    return ops.where(empty, 0, ops.where(empty, 1, total) ** (1 / p))


def _spans(n: int, count: int) -> list[tuple[int, int]]:
    """Return the windows of adaptive pooling: from floor(i n / count) to ceil((i + 1) n / count)."""
    return [(i * n // count, -(-(i + 1) * n // count)) for i in range(count)]


def _adaptive(name: str, x: Any, output_size: Any) -> tuple[int, int]:
    if len(x.shape) != 4:
        raise ShapeError(f"{name}: input must have 4 axes (n, c, h, w), got shape {tuple(x.shape)}")
    given = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    oh, ow = pair(tuple(n if o is None else o for o, n in zip(given, x.shape[2:], strict=True)))
    if min(oh, ow) < 1 or min(x.shape[2:]) < 1:
        raise ShapeError(f"{name}: cannot pool an image of {tuple(x.shape[2:])} to {(oh, ow)}")
    return oh, ow


def adaptive_avg_pool2d(input: Any, output_size: Any) -> Any:
    """Return means over windows chosen so that the output has `output_size` (None keeps a size).

    Window i of n pixels into m goes from floor(i n / m) to ceil((i + 1) n / m), as in PyTorch.
    """
    x = as_tensor(input)
    oh, ow = _adaptive("adaptive_avg_pool2d", x, output_size)
    h, w = x.shape[2:]
    if h % oh == 0 and w % ow == 0:
        return avg_pool2d(x, (h // oh, w // ow))
    xp = xp_of(x)
    rows, columns = xp.zeros((oh, h), dtype=x.dtype), xp.zeros((w, ow), dtype=x.dtype)
    for i, (a, b) in enumerate(_spans(h, oh)):
        rows[i, a:b] = 1 / (b - a)
    for j, (a, b) in enumerate(_spans(w, ow)):
        columns[a:b, j] = 1 / (b - a)
    return ops.matmul(ops.matmul(rows, x), columns)


def adaptive_max_pool2d(input: Any, output_size: Any, ties: str = "first") -> Any:
    """Return maxima over windows chosen as in `adaptive_avg_pool2d`."""
    x = as_tensor(input)
    oh, ow = _adaptive("adaptive_max_pool2d", x, output_size)
    h, w = x.shape[2:]
    if h % oh == 0 and w % ow == 0:
        return max_pool2d(x, (h // oh, w // ow), ties=ties)
    cells = [ops.amax(x[:, :, a:b, c:d], axis=(2, 3), ties=ties) for a, b in _spans(h, oh) for c, d in _spans(w, ow)]
    return ops.reshape(ops.stack(*cells, axis=-1), shape=(*x.shape[:2], oh, ow))


def global_avg_pool2d(input: Any) -> Any:
    """Return the mean of every map, shape (n, c, 1, 1)."""
    return adaptive_avg_pool2d(input, 1)


def global_max_pool2d(input: Any, ties: str = "first") -> Any:
    """Return the maximum of every map, shape (n, c, 1, 1)."""
    return adaptive_max_pool2d(input, 1, ties)


# Units


def not_inplace(at_zero: Any) -> Any:
    """Return `at_zero`, or its default for a True or False that was meant for PyTorch's argument `inplace`."""
    return "left" if isinstance(at_zero, bool) else at_zero


def relu(input: Any, at_zero: Any = "left", inplace: bool = False) -> Any:
    """Return max(x, 0); `at_zero` chooses the derivative at exactly 0. `inplace` is accepted and changes nothing.

    PyTorch's second argument is `inplace`, so True or False in its place is taken for that.
    """
    return ops.relu(as_tensor(input), at_zero=not_inplace(at_zero))


def leaky_relu(input: Any, negative_slope: float = 0.01, at_zero: Any = "left") -> Any:
    """Return x where it is positive, else negative_slope x."""
    return ops.leaky_relu(as_tensor(input), negative_slope=negative_slope, at_zero=not_inplace(at_zero))


def elu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    """Return x where it is positive, else alpha (e^x - 1)."""
    return ops.elu(as_tensor(input), alpha=alpha)


def gelu(input: Any, approximate: str = "none") -> Any:
    """Return x Φ(x), Φ the normal distribution function; approximate="tanh" for the usual approximation."""
    return ops.gelu(as_tensor(input), approximate)


def silu(input: Any, inplace: bool = False) -> Any:
    """Return x sigmoid(x)."""
    return ops.silu(as_tensor(input))


def sigmoid(input: Any) -> Any:
    """Return 1 / (1 + e^-x)."""
    return ops.sigmoid(as_tensor(input))


def tanh(input: Any) -> Any:
    """Return tanh x."""
    return ops.tanh(as_tensor(input))


def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    """Return x limited to [min_val, max_val]."""
    return ops.clip(as_tensor(input), low=min_val, high=max_val)


def softplus(input: Any) -> Any:
    """Return ln(1 + e^x)."""
    return ops.softplus(as_tensor(input))


def logsigmoid(input: Any) -> Any:
    """Return ln sigmoid(x)."""
    return ops.log_sigmoid(as_tensor(input))


def threshold_unit(input: Any) -> Any:
    """Return 1 where x is positive, else 0. No gradient passes through it."""
    return ops.threshold_unit(as_tensor(input))


def _last_axis(dim: Any, axis: Any) -> int:
    if dim is not None and axis is not None:
        raise TypeError("give dim or axis, not both: they mean the same")
    found = dim if axis is None else axis
    if found is None:
        raise OptionError("softmax needs the axis along which it sums to 1, for example dim=1")
    return int(found)


def softmax(input: Any, dim: int | None = None, *, axis: int | None = None) -> Any:
    """Return e^x / Σ e^x along `dim`."""
    return ops.softmax(as_tensor(input), axis=_last_axis(dim, axis))


def log_softmax(input: Any, dim: int | None = None, *, axis: int | None = None) -> Any:
    """Return ln softmax along `dim`."""
    return ops.log_softmax(as_tensor(input), axis=_last_axis(dim, axis))


def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Return the input with the axes from start_dim to end_dim joined into one."""
    return ops.flatten(as_tensor(input), start_dim, end_dim)


def pad(input: Any, pad: Any, mode: str = "constant", value: float = 0.0) -> Any:
    """Return the input framed with `value`: `pad` holds (before, after) for the last axis first, as in PyTorch."""
    x = as_tensor(input)
    if mode != "constant":
        raise OptionError(f"pad: mode must be 'constant', got {mode!r}")
    if len(pad) % 2 or len(pad) > 2 * len(x.shape):
        raise OptionError(f"pad: expected (before, after) pairs for up to {len(x.shape)} axes, got {pad!r}")
    given = [(int(pad[i]), int(pad[i + 1])) for i in range(0, len(pad), 2)]
    widths = [(0, 0)] * (len(x.shape) - len(given)) + given[::-1]
    return ops.pad(x, widths=tuple(widths), value=value)


def one_hot(labels: Any, num_classes: int = -1) -> Tensor:
    """Return float32 rows with a 1 at the place of each label; num_classes defaults to the largest label + 1."""
    array = _labels(labels, as_tensor(labels))
    if num_classes < 0 and not array.size:
        raise DataError("one_hot: give num_classes, there are no labels to count them from")
    classes = int(array.max()) + 1 if num_classes < 0 else int(num_classes)
    ops.losses.check_labels(array, classes)
    xp = xp_of(array)
    rows = (array[..., None] == xp.arange(classes)).astype("float32")
    if not on_host(array):  # nothing was asked of the labels there; those that are no classes give rows of NaN
        known = (array >= 0) & (array < classes)
        rows = xp.where(known[..., None], rows, xp.asarray(math.nan, dtype=rows.dtype))
    made: Tensor = Tensor.made(rows)
    return made


# Regularisation and normalisation


def _share(name: str, p: Any) -> float:
    if isinstance(p, bool) or not hasattr(p, "__float__") or not 0 <= float(p) <= 1:
        raise OptionError(f"{name}: p is the share of units that are dropped, from 0 to 1, got {p!r}")
    return float(p)


def dropout(input: Any, p: float = 0.5, training: bool = True) -> Any:
    """Return x with each element set to 0 with probability p and the others divided by 1 - p (inverted dropout).

    With `training` False, x itself: the division keeps the expectation, so nothing has to be scaled later.
    The lecture keeps input units with 0.8 and hidden units with 0.5: p = 0.2 and p = 0.5 here.
    Source: Srivastava et al., JMLR 15, 2014.
    """
    return _dropped(as_tensor(input), _share("dropout", p), training, None)


def dropout2d(input: Any, p: float = 0.5, training: bool = True) -> Any:
    """Return x (n, c, h, w) with whole maps set to 0 with probability p. Source: Tompson et al., CVPR 2015."""
    x = as_tensor(input)
    if len(x.shape) != 4:
        raise ShapeError(f"dropout2d: input must have 4 axes (n, c, h, w), got shape {tuple(x.shape)}")
    return _dropped(x, _share("dropout2d", p), training, (*x.shape[:2], 1, 1))


def _dropped(x: Any, p: float, training: bool, shape: Any) -> Any:
    if not training or p == 0:
        return x
    xp = xp_of(x)
    shape_drawn = x.shape if shape is None else shape
    keep_mask = getattr(kernels(x.array), "keep_mask", None)
    if keep_mask is not None:
        mask = keep_mask(shape_drawn, p)
    else:
        mask = generator(device_of(x.array)).random(size=shape_drawn, dtype=float32) >= p
    if shape is not None:
        mask = xp.ascontiguousarray(xp.broadcast_to(mask, x.shape))
    return ops.dropout(x, Tensor.made(mask), scale=0.0 if p == 1 else 1 / (1 - p))


def _per_channel(x: Any, values: Any) -> Any:
    return ops.reshape(values, shape=(1, -1) + (1,) * (len(x.shape) - 2))


def batch_norm(
    input: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Return (x - μ) / √(σ² + eps) · weight + bias, with μ and σ² per channel (axis 1).

    Training: μ and σ² (divided by n) are those of the batch, and the running averages move towards them:
    running = (1 - momentum) running + momentum batch, with the variance divided by n - 1, as in PyTorch.
    Evaluation: μ and σ² are the running averages. Source: Ioffe & Szegedy, ICML 2015.

    Raises:
        ShapeError: in training, a channel has only one value, whose variance says nothing.
    """
    x = as_tensor(input, weight)
    if len(x.shape) < 2:
        raise ShapeError(f"batch_norm: input must have shape (n, c, ...), got {tuple(x.shape)}")
    axes = (0, *range(2, len(x.shape)))
    known = [running_mean, running_var, weight, bias]
    if is_half(x.dtype) and any(v is not None and not is_half(v.dtype) for v in known):
        # As in PyTorch, an input of 16 bits may meet statistics and weights of float32: computed in float32, and
        # returned in the type of x.
        wide = batch_norm(
            ops.astype(x, dtype=float32), running_mean, running_var, weight, bias, training, momentum, eps
        )
        return ops.astype(wide, dtype=x.dtype)
    if training or running_mean is None or running_var is None:
        n = math.prod(x.shape[a] for a in axes)
        if n < 2 and training:
            raise ShapeError(f"batch_norm: training needs more than one value per channel, got input {tuple(x.shape)}")
        y, mean, var = batch_norm_and_moments(x, weight, bias, eps)
        if training and running_mean is not None and running_var is not None:
            _move(running_mean, mean, momentum)
            _move(running_var, var * (n / (n - 1)), momentum)
        return y
    else:
        # One scale and one shift per channel, from the running averages: x / √(σ² + eps) - μ / √(σ² + eps).
        scale = (running_var + eps) ** -0.5
        y = ops.scale_shift(x, scale, -running_mean * scale)
    if weight is None:
        return y if bias is None else y + _per_channel(x, bias)
    return ops.scale_shift(y, weight, *(() if bias is None else (bias,)))


def _move(running: Tensor, batch: Any, momentum: float) -> None:
    running.array = ((1 - momentum) * running.array + momentum * batch).astype(running.array.dtype, copy=False)
    running.edited()


@_castable
def layer_norm(input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Return (x - μ) / √(σ² + eps) · weight + bias, with μ and σ² over the last axes, whose sizes are normalized_shape.

    Source: Ba, Kiros & Hinton, arXiv:1607.06450.
    """
    x = as_tensor(input, weight)
    shape = ops.shapes.as_shape(normalized_shape)
    if tuple(x.shape[len(x.shape) - len(shape) :]) != shape:
        raise ShapeError(f"layer_norm: input {tuple(x.shape)} does not end with normalized_shape {shape}")
    axes = tuple(range(len(x.shape) - len(shape), len(x.shape)))
    y = ops.standardise(x, axis=axes, eps=eps)
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def local_response_norm(input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Any:
    """Return x / (k + alpha/size Σ x²)^beta, the sum over `size` neighbouring channels.

    As in PyTorch, alpha is divided by size; Krizhevsky, Sutskever & Hinton, NIPS 2012, do not divide.
    """
    x = as_tensor(input)
    if len(x.shape) != 4:
        raise ShapeError(f"local_response_norm: input must have 4 axes (n, c, h, w), got shape {tuple(x.shape)}")
    n, c, h, w = x.shape
    squares = ops.reshape(x * x, shape=(n, 1, c, h * w))
    frame = ((0, 0), (0, 0), (size // 2, (size - 1) // 2), (0, 0))
    means = avg_pool2d(ops.pad(squares, widths=frame), (size, 1), stride=1)
    return x / (ops.reshape(means, shape=(n, c, h, w)) * alpha + k) ** beta


# Losses


def _reduced(losses: Any, reduction: str, total_weight: Any = None) -> Any:
    if reduction == "none":
        return losses
    if reduction == "sum":
        return ops.sum(losses)
    if reduction == "mean":
        if math.prod(losses.shape) == 0:
            raise ShapeError("the mean loss of an empty batch is not defined; use reduction='sum'")
        return ops.mean(losses) if total_weight is None else ops.sum(losses) / total_weight
    raise OptionError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def _labels(target: Any, like: Any) -> Any:
    """Return class labels as an integer array on the device of `like`."""
    array = _beside(raw(target), like) if not isinstance(target, Traced) else target.array
    if not hasattr(array, "dtype"):
        array = xp_of(like).asarray(array)
    if array.dtype.kind not in "iu":
        raise DTypeError(f"class labels must be whole numbers, got {array.dtype}; use .astype('int64')")
    return array


def _same_shapes(name: str, x: Any, target: Any) -> None:
    if tuple(x.shape) != tuple(target.shape):
        raise ShapeError(
            f"{name}: input has shape {tuple(x.shape)} and target {tuple(target.shape)}; they must be equal, "
            "because broadcasting here is nearly always a mistake"
        )


@_castable
def nll_loss(input: Any, target: Any, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean") -> Any:
    """Return the negative log-likelihood: -weight[t] x[n, t] with t = target[n], x = log-probabilities (n, k, ...).

    reduction "mean" divides by the sum of the weights of the targets. Targets equal to ignore_index do not count.

    Raises:
        ShapeError, DTypeError, DataError: target is not one class label from 0 to k - 1 per row.
    """
    return _nll(as_tensor(input, target), target, weight, ignore_index, reduction, 0.0)


def _nll(x: Any, target: Any, weight: Any, ignore_index: int, reduction: str, smoothing: float) -> Any:
    labels, weight = _labels(target, x), _beside(weight, x)
    single = len(x.shape) == 1
    if single:
        x, labels = ops.reshape(x, shape=(1, -1)), labels.reshape(1)
    if len(x.shape) < 2:
        raise ShapeError(f"the input of a class loss must have shape (n, classes, ...), got {tuple(x.shape)}")
    k = x.shape[1]
    counted = labels != ignore_index
    # On a GPU nothing is asked of the values, because every question waits for the device.
    asked = on_host(labels)
    everything = asked and bool(counted.all())
    if not everything:
        labels = labels * counted
        if reduction == "mean" and asked and not bool(counted.any()):
            raise DataError(f"all targets are {ignore_index} (ignore_index), so there is no loss to average")
    losses = -ops.pick(x, labels)
    weights = None
    if weight is not None:
        if tuple(weight.shape) != (k,):
            raise ShapeError(f"class weights must have shape {(k,)}, got {tuple(weight.shape)}")
        weights = Tensor.made(raw(weight)[labels])
        losses = losses * weights
    if smoothing:
        scores = x if weight is None else x * ops.reshape(weight, shape=(1, -1) + (1,) * (len(x.shape) - 2))
        losses = losses * (1 - smoothing) - ops.sum(scores, axis=1) * (smoothing / k)
    if not everything:
        losses = losses * Tensor.made(counted)
    if single:
        losses = ops.reshape(losses, shape=())
    total = None
    if reduction == "mean" and (weights is not None or not everything):
        total = Tensor.made(xp_of(counted).asarray((1 if weights is None else weights.array) * counted).sum())
        total = ops.astype(total, dtype=x.dtype)
    return _reduced(losses, reduction, total)


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """Return the cross-entropy of softmax(input) against the target, from logits (n, k, ...), without overflow.

    -Σ_c q_c weight_c ln softmax(x)_c, with q = 1 for the labelled class and 0 elsewhere, or q = target where target
    holds probabilities (the shape of input); label_smoothing e replaces q by (1 - e) q + e / k. It is convex in the
    logits, and smallest where softmax(x) = P(class given x).

    Args:
        target: whole numbers (n, ...) from 0 to k - 1, or probabilities of the shape of input.
        weight: one weight per class; "mean" then divides by the sum of the weights of the targets.
        ignore_index: targets of this value do not count.

    Raises:
        ShapeError, DTypeError, DataError: target has another shape, or labels outside of 0 ... k - 1.
    """
    x = as_tensor(input, target)
    target, weight = _beside(target, x), _beside(weight, x)
    if not 0 <= label_smoothing <= 1:
        raise OptionError(f"label_smoothing must be from 0 to 1, got {label_smoothing!r}")
    array = raw(target)
    soft = getattr(array, "dtype", None) is not None and is_float(array.dtype)
    axis = 0 if len(x.shape) == 1 else 1
    if len(x.shape) < 1:
        raise ShapeError("cross_entropy: input must have shape (n, classes, ...), got a single number")
    log_p = ops.log_softmax(x, axis=axis)
    if not soft:
        return _nll(log_p, target, weight, ignore_index, reduction, label_smoothing)
    _same_shapes("cross_entropy with probabilities as target", x, target)
    k = x.shape[axis]
    q = target if not label_smoothing else target * (1 - label_smoothing) + label_smoothing / k
    if weight is not None:
        q = q * ops.reshape(weight, shape=(1, -1) + (1,) * (len(x.shape) - 2) if axis else (-1,))
    return _reduced(-ops.sum(log_p * q, axis=axis), reduction)


@_castable
def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None
) -> Any:
    """Return -t ln σ(x) - (1 - t) ln(1 - σ(x)) = softplus(x) - t x, without overflow; σ is the sigmoid.

    Args:
        target: probabilities from 0 to 1, of the shape of input.
        weight: factors of the losses.
        pos_weight: factor of the first term, the loss of positive examples.
    """
    x = as_tensor(input, target)
    target, weight, pos_weight = as_tensor(target, x), _beside(weight, x), _beside(pos_weight, x)
    _same_shapes("binary_cross_entropy_with_logits", x, target)
    if target.dtype != x.dtype:
        target = ops.astype(target, dtype=x.dtype)
    if pos_weight is None:
        losses = ops.softplus(x) - x * target
    else:
        losses = (1 - target) * x + (1 + (pos_weight - 1) * target) * ops.softplus(-x)
    return _reduced(losses if weight is None else losses * weight, reduction)


bce_with_logits = binary_cross_entropy_with_logits


@_castable
def binary_cross_entropy(input: Any, target: Any, weight: Any = None, *, reduction: str = "mean") -> Any:
    """Return -t ln p - (1 - t) ln(1 - p) for probabilities p; logarithms are limited to -100, as in PyTorch.

    Prefer `binary_cross_entropy_with_logits`, which keeps its precision where p is near 0 or 1.

    Raises:
        DataError: a probability is outside of [0, 1].
    """
    p, target = as_tensor(input, target), as_tensor(target, input)
    weight = _beside(weight, p)
    _same_shapes("binary_cross_entropy", p, target)
    if p.size and (float(raw(p).min()) < 0 or float(raw(p).max()) > 1):
        raise DataError("binary_cross_entropy: probabilities must lie in [0, 1]; for logits use the _with_logits form")
    tiny = math.exp(-100)
    # exp(-100) is 0 in float16 and next to 0 in float32: the clip keeps the logarithm finite and its gradient 0 there.
    tiny = max(tiny, float(finfo(p.dtype).tiny))
    first = ops.clip(ops.log(ops.clip(p, low=tiny)), low=-100.0)
    second = ops.clip(ops.log(ops.clip(1 - p, low=tiny)), low=-100.0)
    losses = -(target * first + (1 - target) * second)
    return _reduced(losses if weight is None else losses * weight, reduction)


@_castable
def mse_loss(input: Any, target: Any, *, reduction: str = "mean") -> Any:
    """Return (x - t)²."""
    x, target = as_tensor(input, target), as_tensor(target, input)
    _same_shapes("mse_loss", x, target)
    d = x - target
    return _reduced(d * d, reduction)


@_castable
def l1_loss(input: Any, target: Any, *, reduction: str = "mean") -> Any:
    """Return |x - t|; the derivative where they are equal is 0."""
    x, target = as_tensor(input, target), as_tensor(target, input)
    _same_shapes("l1_loss", x, target)
    return _reduced(ops.absolute(x - target), reduction)


@_castable
def huber_loss(input: Any, target: Any, *, reduction: str = "mean", delta: float = 1.0) -> Any:
    """Return d²/2 where |d| <= delta, else delta (|d| - delta/2), with d = x - t.

    Source: Huber, Annals of Mathematical Statistics 35, 1964.
    """
    x, target = as_tensor(input, target), as_tensor(target, input)
    _same_shapes("huber_loss", x, target)
    if not delta > 0:
        raise OptionError(f"huber_loss: delta must be positive, got {delta!r}")
    d = x - target
    # With c = d limited to [-delta, delta] both branches are c (d - c/2).
    c = ops.clip(d, low=-delta, high=delta)
    return _reduced(c * (d - c * 0.5), reduction)


@_castable
def smooth_l1_loss(input: Any, target: Any, *, reduction: str = "mean", beta: float = 1.0) -> Any:
    """Return the Huber loss divided by beta."""
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    return huber_loss(input, target, reduction=reduction, delta=beta) / beta
