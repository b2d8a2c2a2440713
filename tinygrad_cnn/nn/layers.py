"""Layers, with PyTorch's names, arguments and default initialisation."""

from __future__ import annotations

import math
from typing import Any

from ..backend import current_device, default_float, float32, float64, generator
from ..backend.device import Device
from ..backend.dtypes import as_dtype
from ..errors import OptionError, ShapeError
from ..ops.convolution import pads
from ..ops.rules import pair
from ..tensor import Tensor, ones, zeros
from . import functional as F  # noqa: N812 - the field's name for it
from .module import Module, Parameter

__all__ = [
    "ELU",
    "GELU",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout2d",
    "Flatten",
    "GaussianPool2d",
    "HuberLoss",
    "Identity",
    "L1Loss",
    "LPPool2d",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "LogSoftmax",
    "MSELoss",
    "MaxPool2d",
    "NLLLoss",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "Softmax",
    "Softplus",
    "Tanh",
    "ThresholdUnit",
]


def uniform(shape: tuple[int, ...], bound: float, device: Any, dtype: Any) -> Parameter:
    """Return a parameter drawn uniformly from [-bound, bound]."""
    place = current_device() if device is None else Device(str(device))
    kind = as_dtype(dtype or default_float)
    with place.context():
        draw = generator(place).random(size=shape, dtype=float64 if kind.itemsize == 8 else float32)
        parameter: Parameter = Parameter.made(place.asarray(((draw * 2 - 1) * bound).astype(kind)))
    parameter.requires_grad = True
    return parameter


def positive(layer: str, **sizes: int) -> None:
    """Raise an error for a size that is not a whole number from 1 on."""
    for name, value in sizes.items():
        if not hasattr(value, "__index__") or isinstance(value, bool) or value < 1:
            raise OptionError(f"{layer}: {name} must be a whole number from 1 on, got {value!r}")


class Identity(Module):
    """y = x."""

    def forward(self, x: Any) -> Any:
        """Return x."""
        return x


class Linear(Module):
    """y = x Wᵀ + b: a fully connected layer. weight (out_features, in_features), bias (out_features,).

    Both start uniform in ±1/√in_features, PyTorch's default; `nn.init` has the others.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        positive("Linear", in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = int(in_features), int(out_features)
        bound = 1 / math.sqrt(in_features)
        self.weight = uniform((self.out_features, self.in_features), bound, device, dtype)
        self.bias = uniform((self.out_features,), bound, device, dtype) if bias else None

    def forward(self, x: Any) -> Any:
        """Return x Wᵀ + b for x (..., in_features)."""
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Conv2d(Module):
    """Convolution of images (n, in_channels, h, w): weight (out_channels, in_channels / groups, kh, kw), bias.

    Both start uniform in ±1/√(in_channels / groups · kh · kw), PyTorch's default. `padding` may be a number, a pair,
    ((top, bottom), (left, right)), "valid", "same" or "full"; see `nn.functional.conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        positive("Conv2d", in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise OptionError(
                f"Conv2d: {groups} groups do not divide {in_channels} in_channels and {out_channels} out_channels"
            )
        self.in_channels, self.out_channels, self.groups = int(in_channels), int(out_channels), int(groups)
        self.kernel_size, self.stride, self.dilation = pair(kernel_size), pair(stride), pair(dilation)
        if min(*self.kernel_size, *self.stride, *self.dilation) < 1:
            raise OptionError("Conv2d: kernel_size, stride and dilation must be at least 1")
        if isinstance(padding, str) and padding not in ("valid", "same", "full"):
            raise OptionError(f"Conv2d: padding must be a number, a pair, 'valid', 'same' or 'full', got {padding!r}")
        self.padding = padding if isinstance(padding, str) else pads(padding)
        self._start(bias, device, dtype)

    def _weight_shape(self) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def _start(self, bias: bool, device: Any, dtype: Any) -> None:
        shape = self._weight_shape()
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        self.weight = uniform(shape, bound, device, dtype)
        self.bias = uniform((self.out_channels,), bound, device, dtype) if bias else None

    def forward(self, x: Any) -> Any:
        """Return the feature maps (n, out_channels, oh, ow)."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        if self.stride != (1, 1):
            parts.append(f"stride={self.stride}")
        if self.padding != ((0, 0), (0, 0)):
            parts.append(f"padding={_short(self.padding)}")
        if self.dilation != (1, 1):
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join(parts)


def _short(padding: Any) -> Any:
    if isinstance(padding, str) or any(a != b for a, b in padding):
        return repr(padding)
    return (padding[0][0], padding[1][0])


class ConvTranspose2d(Conv2d):
    """Transposed convolution: weight (in_channels, out_channels / groups, kh, kw); see `F.conv_transpose2d`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        self.output_padding = pair(output_padding)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, device, dtype)

    def _weight_shape(self) -> tuple[int, ...]:
        return (self.in_channels, self.out_channels // self.groups, *self.kernel_size)

    def forward(self, x: Any) -> Any:
        """Return the images (n, out_channels, oh, ow)."""
        return F.conv_transpose2d(
            x, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


class _Pool(Module):
    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False) -> None:
        self.kernel_size = pair(kernel_size)
        self.stride = self.kernel_size if stride is None else pair(stride)
        self.padding = pads(padding)
        self.ceil_mode = bool(ceil_mode)

    def extra_repr(self) -> str:
        extra = "" if self.padding == ((0, 0), (0, 0)) else f", padding={_short(self.padding)}"
        return f"kernel_size={self.kernel_size}, stride={self.stride}{extra}" + (
            ", ceil_mode=True" if self.ceil_mode else ""
        )


class MaxPool2d(_Pool):
    """The maximum of every window; see `nn.functional.max_pool2d`."""

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        ties: str = "first",
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.dilation, self.ties = pair(dilation), ties

    def forward(self, x: Any) -> Any:
        """Return the pooled maps."""
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.ties)


class AvgPool2d(_Pool):
    """The mean of every window; see `nn.functional.avg_pool2d`."""

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad, self.divisor_override = bool(count_include_pad), divisor_override

    def forward(self, x: Any) -> Any:
        """Return the pooled maps."""
        return F.avg_pool2d(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class GaussianPool2d(_Pool):
    """The mean of every window weighted by the distance from its centre; see `nn.functional.gaussian_pool2d`."""

    def __init__(self, kernel_size: Any, sigma: float | None = None, stride: Any = None, padding: Any = 0) -> None:
        super().__init__(kernel_size, stride, padding)
        self.sigma = sigma

    def forward(self, x: Any) -> Any:
        """Return the pooled maps."""
        return F.gaussian_pool2d(x, self.kernel_size, self.sigma, self.stride, self.padding)


class LPPool2d(_Pool):
    """(Σ |x|^p)^(1/p) of every window; see `nn.functional.lp_pool2d`."""

    def __init__(self, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> None:
        super().__init__(kernel_size, stride, 0, ceil_mode)
        self.norm_type = float(norm_type)

    def forward(self, x: Any) -> Any:
        """Return the pooled maps."""
        return F.lp_pool2d(x, self.norm_type, self.kernel_size, self.stride, self.ceil_mode)


class AdaptiveAvgPool2d(Module):
    """Means over windows that give a fixed output size; see `nn.functional.adaptive_avg_pool2d`."""

    def __init__(self, output_size: Any) -> None:
        self.output_size = output_size

    def forward(self, x: Any) -> Any:
        """Return the pooled maps."""
        return F.adaptive_avg_pool2d(x, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveMaxPool2d(AdaptiveAvgPool2d):
    """Maxima over windows that give a fixed output size; see `nn.functional.adaptive_max_pool2d`."""

    def forward(self, x: Any) -> Any:
        """Return the pooled maps."""
        return F.adaptive_max_pool2d(x, self.output_size)


class Flatten(Module):
    """Join the axes from start_dim to end_dim into one; by default all but the batch."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Any) -> Any:
        """Return x flattened."""
        return F.flatten(x, self.start_dim, self.end_dim)


class ReLU(Module):
    """max(x, 0), with the derivative at exactly 0 chosen by `at_zero`: "left" (0), "right" (1), "average" or a number.

    `inplace` is accepted for PyTorch's sake and changes nothing.
    """

    def __init__(self, at_zero: Any = "left", inplace: bool = False) -> None:
        from ..ops.activations import share_at_zero

        self.at_zero = F.not_inplace(at_zero)
        share_at_zero(self.at_zero)

    def forward(self, x: Any) -> Any:
        """Return max(x, 0)."""
        return F.relu(x, self.at_zero)

    def extra_repr(self) -> str:
        return "" if self.at_zero == "left" else f"at_zero={self.at_zero!r}"


class LeakyReLU(Module):
    """x where it is positive, else negative_slope x."""

    def __init__(self, negative_slope: float = 0.01, at_zero: Any = "left", inplace: bool = False) -> None:
        self.negative_slope, self.at_zero = negative_slope, F.not_inplace(at_zero)

    def forward(self, x: Any) -> Any:
        """Return the unit's output."""
        return F.leaky_relu(x, self.negative_slope, self.at_zero)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class ELU(Module):
    """x where it is positive, else alpha (e^x - 1)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self.alpha = alpha

    def forward(self, x: Any) -> Any:
        """Return the unit's output."""
        return F.elu(x, self.alpha)


class GELU(Module):
    """x Φ(x)."""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def forward(self, x: Any) -> Any:
        """Return the unit's output."""
        return F.gelu(x, self.approximate)


class SiLU(Module):
    """x sigmoid(x)."""

    def __init__(self, inplace: bool = False) -> None:
        """Take `inplace` for PyTorch's sake; it changes nothing."""

    def forward(self, x: Any) -> Any:
        """Return the unit's output."""
        return F.silu(x)


class Sigmoid(Module):
    """1 / (1 + e^-x)."""

    def forward(self, x: Any) -> Any:
        """Return the unit's output."""
        return F.sigmoid(x)


class Tanh(Module):
    """tanh x."""

    def forward(self, x: Any) -> Any:
        """Return the unit's output."""
        return F.tanh(x)


class Softplus(Module):
    """ln(1 + e^x)."""

    def forward(self, x: Any) -> Any:
        """Return the unit's output."""
        return F.softplus(x)


class ThresholdUnit(Module):
    """1 where x is positive, else 0; not trainable by gradients."""

    def forward(self, x: Any) -> Any:
        """Return the unit's output."""
        return F.threshold_unit(x)


class Softmax(Module):
    """e^x / Σ e^x along dim."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, x: Any) -> Any:
        """Return the probabilities."""
        return F.softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """ln softmax along dim."""

    def forward(self, x: Any) -> Any:
        """Return the log-probabilities."""
        return F.log_softmax(x, self.dim)


class Dropout(Module):
    """In training, set each element to 0 with probability p and divide the others by 1 - p; see `F.dropout`."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        F._share(type(self).__name__, p)
        self.p = p

    def forward(self, x: Any) -> Any:
        """Return x, in training with elements dropped."""
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout2d(Dropout):
    """Dropout of whole maps."""

    def forward(self, x: Any) -> Any:
        """Return x, in training with maps dropped."""
        return F.dropout2d(x, self.p, self.training)


class BatchNorm2d(Module):
    """Normalise every channel by mean and variance of the batch; see `nn.functional.batch_norm`."""

    _axes: tuple[int, ...] = (4,)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        positive(type(self).__name__, num_features=num_features)
        self.num_features, self.eps, self.momentum = int(num_features), eps, momentum
        self.weight = Parameter(ones(num_features, dtype=dtype, device=device)) if affine else None
        self.bias = Parameter(zeros(num_features, dtype=dtype, device=device)) if affine else None
        self.running_mean = zeros(num_features, dtype=dtype, device=device) if track_running_stats else None
        self.running_var = ones(num_features, dtype=dtype, device=device) if track_running_stats else None
        self.num_batches_tracked = Tensor(0, device=device) if track_running_stats else None

    def forward(self, x: Any) -> Any:
        """Return x normalised."""
        if len(x.shape) not in self._axes or x.shape[1] != self.num_features:
            raise ShapeError(
                f"{type(self).__name__}({self.num_features}): input must have {' or '.join(map(str, self._axes))} axes "
                f"and {self.num_features} channels, got shape {tuple(x.shape)}"
            )
        momentum = self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            if momentum is None:  # the plain average of all batches
                momentum = 1 / self.num_batches_tracked.item()
        training = self.training or self.running_mean is None
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training, momentum or 0.0, self.eps
        )

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class BatchNorm1d(BatchNorm2d):
    """`BatchNorm2d` for inputs (n, c) or (n, c, l)."""

    _axes = (2, 3)


class LayerNorm(Module):
    """Normalise every example over its last axes; see `nn.functional.layer_norm`."""

    def __init__(
        self,
        normalized_shape: Any,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        from ..ops.shapes import as_shape

        self.normalized_shape, self.eps = as_shape(normalized_shape), eps
        shape = self.normalized_shape
        self.weight = Parameter(ones(shape, dtype=dtype, device=device)) if elementwise_affine else None
        self.bias = Parameter(zeros(shape, dtype=dtype, device=device)) if elementwise_affine and bias else None

    def forward(self, x: Any) -> Any:
        """Return x normalised."""
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


class LocalResponseNorm(Module):
    """Divide by the activity of neighbouring channels; see `nn.functional.local_response_norm`."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        positive("LocalResponseNorm", size=size)
        self.size, self.alpha, self.beta, self.k = int(size), alpha, beta, k

    def forward(self, x: Any) -> Any:
        """Return x normalised."""
        return F.local_response_norm(x, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


# Losses as modules


class CrossEntropyLoss(Module):
    """Cross-entropy from logits; see `nn.functional.cross_entropy`."""

    def __init__(
        self, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0
    ) -> None:
        self.weight = weight
        self.options: dict[str, Any] = {
            "ignore_index": ignore_index,
            "reduction": reduction,
            "label_smoothing": label_smoothing,
        }

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return F.cross_entropy(input, target, self.weight, **self.options)


class NLLLoss(Module):
    """Negative log-likelihood; see `nn.functional.nll_loss`."""

    def __init__(self, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean") -> None:
        self.weight = weight
        self.ignore_index, self.reduction = ignore_index, reduction

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return F.nll_loss(input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class BCEWithLogitsLoss(Module):
    """Binary cross-entropy from logits; see `nn.functional.binary_cross_entropy_with_logits`."""

    def __init__(self, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None) -> None:
        self.weight, self.reduction, self.pos_weight = weight, reduction, pos_weight

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return F.binary_cross_entropy_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )


class MSELoss(Module):
    """Mean squared error."""

    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return F.mse_loss(input, target, reduction=self.reduction)


class L1Loss(MSELoss):
    """Mean absolute error."""

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return F.l1_loss(input, target, reduction=self.reduction)


class HuberLoss(Module):
    """Squared for small errors, linear for large ones; see `nn.functional.huber_loss`."""

    def __init__(self, *, reduction: str = "mean", delta: float = 1.0) -> None:
        self.reduction, self.delta = reduction, delta

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return F.huber_loss(input, target, reduction=self.reduction, delta=self.delta)


class SmoothL1Loss(Module):
    """The Huber loss divided by beta."""

    def __init__(self, *, reduction: str = "mean", beta: float = 1.0) -> None:
        self.reduction, self.beta = reduction, beta

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return F.smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta)
