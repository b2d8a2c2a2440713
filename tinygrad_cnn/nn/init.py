"""Starting values of weights. Each function fills a tensor in place and returns it; names follow PyTorch.

All numbers come from the generator that `manual_seed()` seeds. Fans count the connections of one unit: a weight
(out, in) has fan_in = in and fan_out = out, a weight (out, in, kh, kw) of a convolution in · kh · kw and out · kh · kw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..backend import device_of, generator, is_float, namespace, to_host
from ..errors import DTypeError, OptionError, ShapeError
from ..tensor import Tensor
from .module import Module

__all__ = [
    "apply_",
    "calculate_fans",
    "calculate_gain",
    "constant_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "lecture_uniform_",
    "lecun_normal_",
    "lecun_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]


def _draw(tensor: Tensor, kind: str, shape: tuple[int, ...] | None = None) -> Any:
    """Return random numbers of a tensor's shape (or another) and device: "random" in [0, 1), or "standard_normal"."""
    if not isinstance(tensor, Tensor):
        raise OptionError(f"nn.init fills tensors, got {type(tensor).__name__}")
    if not is_float(tensor.dtype):
        raise DTypeError(f"nn.init draws floats, the tensor holds {tensor.dtype}")
    dtype = "float64" if tensor.dtype.itemsize == 8 else "float32"
    return getattr(generator(device_of(tensor.array)), kind)(size=tensor.shape if shape is None else shape, dtype=dtype)


def _fill(tensor: Tensor, values: Any) -> Tensor:
    tensor.array[...] = values
    tensor.edited()
    return tensor


def _at_least_0(function: str, name: str, value: float) -> None:
    if not value >= 0:
        raise OptionError(f"{function}: {name} must be at least 0, got {value}")


def calculate_fans(tensor: Tensor) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a weight.

    Raises:
        ShapeError: the tensor has fewer than two axes, so it is no weight that connects units.
    """
    if tensor.ndim < 2:
        raise ShapeError(f"fans are defined for weights with at least 2 axes, got shape {tensor.shape}")
    window = math.prod(tensor.shape[2:])
    return tensor.shape[1] * window, tensor.shape[0] * window


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return the factor on the standard deviation that keeps the variance through a nonlinearity.

    1 for linear, convolution and sigmoid, 5/3 for tanh, √2 for relu, √(2 / (1 + slope²)) for leaky_relu with its slope
    as `param` (0.01), 3/4 for selu. These are PyTorch's values; those of sigmoid and tanh are rules of thumb.

    Raises:
        OptionError: another name.
    """
    if nonlinearity in ("linear", "conv2d", "conv_transpose2d", "sigmoid"):
        return 1.0
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    gains = {"tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}
    if nonlinearity not in gains:
        raise OptionError(
            f"calculate_gain: {nonlinearity!r} is not known; choose 'linear', 'conv2d', 'conv_transpose2d', 'sigmoid', "
            "'tanh', 'relu', 'leaky_relu' or 'selu'"
        )
    return gains[nonlinearity]


# Plain distributions


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with one number."""
    return _fill(tensor, val)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0."""
    return _fill(tensor, 0)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1."""
    return _fill(tensor, 1)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Fill with numbers drawn uniformly from [a, b).

    Raises:
        OptionError: a > b.
    """
    if not a <= b:
        raise OptionError(f"uniform_: a must not exceed b, got a={a} and b={b}")
    values = _draw(tensor, "random")
    values *= b - a  # in place: a network of 100 million weights would otherwise need three times their memory
    values += a
    return _fill(tensor, values)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with numbers drawn from the normal distribution.

    Raises:
        OptionError: std < 0.
    """
    _at_least_0("normal_", "std", std)
    values = _draw(tensor, "standard_normal")
    values *= std
    values += mean
    return _fill(tensor, values)


def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Tensor:
    """Fill with numbers drawn from the normal distribution, drawn again where they fall outside of [a, b].

    The bounds are values, not multiples of std, as in PyTorch.

    Raises:
        OptionError: std < 0, or an interval that holds less than 1 % of the distribution.
    """
    _at_least_0("trunc_normal_", "std", std)
    below = [0.5 * (1 + math.erf((bound - mean) / (std or 1e-300) / math.sqrt(2))) for bound in (a, b)]
    if below[1] - below[0] < 0.01:
        raise OptionError(f"trunc_normal_: [{a}, {b}] holds almost nothing of a normal distribution ({mean}, {std})")
    values = mean + std * _draw(tensor, "standard_normal")
    xp = namespace(values)
    while True:
        outside = (values < a) | (values > b)
        missing = int(outside.sum())
        if not missing:
            return _fill(tensor, xp.clip(values, a, b))
        values[outside] = mean + std * _draw(tensor, "standard_normal", (missing,))


# Scaled by fans


def lecture_uniform_(weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Fill a weight uniformly from [-1/d, 1/d], where d is the number of inputs of a unit, and a bias with 0.

    This is the narrowest of the rules here: the variance of a unit is 1/(3d) of that of its inputs, so activations
    shrink from layer to layer, while `lecun_uniform_` with √(3/d) keeps them.
    """
    fan_in, _ = calculate_fans(weight)
    if bias is not None:
        zeros_(bias)
    return uniform_(weight, -1 / fan_in, 1 / fan_in)


def lecun_uniform_(tensor: Tensor) -> Tensor:
    """Fill uniformly from ±√(3 / fan_in), so that the variance is 1 / fan_in.

    Source: LeCun, Bottou, Orr & Müller, Efficient backprop, 1998, section 4.6.
    """
    bound = math.sqrt(3 / calculate_fans(tensor)[0])
    return uniform_(tensor, -bound, bound)


def lecun_normal_(tensor: Tensor) -> Tensor:
    """Fill from the normal distribution with variance 1 / fan_in. Source: as `lecun_uniform_`."""
    return normal_(tensor, 0.0, math.sqrt(1 / calculate_fans(tensor)[0]))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Fill uniformly from ±gain √(6 / (fan_in + fan_out)), so that variances last forward and backward on average.

    Source: Glorot & Bengio, AISTATS 2010.
    """
    bound = gain * math.sqrt(6 / sum(calculate_fans(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Fill from the normal distribution with std gain √(2 / (fan_in + fan_out)). Source: as `xavier_uniform_`."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(calculate_fans(tensor))))


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise OptionError(f"kaiming: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    fan = calculate_fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Fill uniformly from ±gain √(3 / fan), so that variances last through rectifiers.

    Args:
        tensor: the weight.
        a: the negative slope of the leaky_relu behind it; 0 is a relu.
        mode: "fan_in" keeps variances forward, "fan_out" backward.
        nonlinearity: gives the gain; see `calculate_gain`.

    Source: He, Zhang, Ren & Sun, ICCV 2015.
    """
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Fill from the normal distribution with std gain / √fan. Arguments and source: as `kaiming_uniform_`."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))


def orthogonal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Fill with gain times a random matrix whose rows (or columns, if there are more rows) are orthonormal.

    Axes behind the first count as one. The signs are those that make the distribution uniform (Mezzadri, 2007).

    Source: Saxe, McClelland & Ganguli, ICLR 2014.

    Raises:
        ShapeError: fewer than two axes.
    """
    if tensor.ndim < 2:
        raise ShapeError(f"orthogonal_ needs at least 2 axes, got shape {tensor.shape}")
    rows = tensor.shape[0]
    columns = math.prod(tensor.shape[1:])
    if not rows * columns:
        return tensor
    normal = to_host(_draw(tensor, "standard_normal", (max(rows, columns), min(rows, columns))))
    xp = namespace(normal)  # on the host: once per weight, and not every array library has the decomposition
    q, r = xp.linalg.qr(normal)
    q = q * xp.sign(xp.diagonal(r))
    values = gain * (q if rows >= columns else q.T).reshape(tensor.shape)
    return _fill(tensor, device_of(tensor.array).asarray(values))


def apply_(module: Module, rule: Callable[..., Any], **options: Any) -> Module:
    """Fill every weight with two or more axes in a module by `rule(weight, **options)`, and the bias beside it with 0.

    >>> from tinygrad_cnn import nn
    >>> net = nn.init.apply_(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), nn.init.kaiming_normal_)
    >>> net[0].bias.tolist()
    [0.0, 0.0, 0.0]
    """
    for part in module.modules():
        weight = vars(part).get("weight")
        if isinstance(weight, Tensor) and weight.ndim >= 2:
            rule(weight, **options)
            bias = vars(part).get("bias")
            if isinstance(bias, Tensor):
                zeros_(bias)
    return module
