"""Units of a network layer. The detector layer of the lecture is `relu`, with the derivative at 0 as an option."""

from __future__ import annotations

import math
from collections.abc import Iterator
from numbers import Real
from typing import Any

from ..backend import kernels
from ..errors import OptionError
from ..op import op
from .elementwise import erf, exp, greater, where
from .rules import no_flops, unary

__all__ = [
    "elu",
    "gelu",
    "leaky_relu",
    "log_sigmoid",
    "relu",
    "relu_gradient",
    "sigmoid",
    "silu",
    "slope",
    "softplus",
    "tanh",
    "threshold_unit",
]

AT_ZERO = {"left": 0.0, "right": 1.0, "average": 0.5}


def share_at_zero(value: Any) -> float:
    """Bring `at_zero` into a number: 0 takes the derivative from the left, 1 from the right, 0.5 their average.

    Raises:
        OptionError: it is neither one of the three words nor a number from 0 to 1.
    """
    if value.__class__ is float and 0.0 <= value <= 1.0:
        return float(value)
    if isinstance(value, str) and value in AT_ZERO:
        return AT_ZERO[value]
    if isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) <= 1:
        return float(value)
    raise OptionError(
        f"at_zero must be 'left', 'right', 'average' or a number from 0 to 1, got {value!r}: "
        "any other slope is no subgradient"
    )


def _real(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)),), {}
    yield (rng.normal(size=()),), {}
    yield (rng.normal(size=(2, 0, 3)),), {}


def _bad_at_zero(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3,)),), {"at_zero": 2.0}, OptionError, "no subgradient"
    yield (rng.normal(size=(3,)),), {"at_zero": "middle"}, OptionError, "at_zero must be"


@unary(
    family="activation",
    source="Nair & Hinton, ICML 2010; Glorot, Bordes & Bengio, AISTATS 2011",
    convert={"at_zero": share_at_zero},
)
def relu(xp: Any, x: Any, *, at_zero: float = 0.0) -> Any:
    """y = max(x, 0), with a chosen derivative at exactly 0.

    At 0 the function has no derivative, only a subdifferential, the interval [0, 1]. `at_zero` picks from it: "left"
    (0, the default), "right" (1), "average" (0.5), or any number between. Every other framework picks silently.

    Raises:
        OptionError: `at_zero` is outside [0, 1].
    """
    fast = getattr(kernels(x), "relu", None)
    return xp.maximum(x, 0) if fast is None else fast(x)


@relu.vjp("x", "g [x > 0], at x = 0 g at_zero")
def _(g: Any, y: Any, x: Any, *, at_zero: float) -> Any:
    return relu_gradient(g, x, at_zero=at_zero)


@relu.switch
def _(xp: Any, y: Any, x: Any, *, at_zero: float) -> Any:
    return xp.sign(x)


@relu.sample
def _(rng: Any) -> Iterator[Any]:
    for at_zero in (0.0, 1.0, 0.5):
        yield (rng.normal(size=(3, 4)),), {"at_zero": at_zero}
    yield (rng.normal(size=()),), {}
    yield (rng.normal(size=(2, 0, 3)),), {}


relu.error_sample(_bad_at_zero)


@op(
    shape=lambda g, x, **_: tuple(g),
    flops=lambda y, *_, **__: math.prod(y),
    family="activation",
    constants=("x",),
)
def relu_gradient(xp: Any, g: Any, x: Any, *, at_zero: float) -> Any:
    """Return g where x > 0, `at_zero` g where x = 0, and 0 elsewhere: linear in g, piecewise constant in x."""
    # Chosen, not multiplied: 0 times an infinite gradient would be a NaN.
    fast = getattr(kernels(g), "relu_gradient", None)
    if fast is not None and not at_zero and g.shape == x.shape:
        return fast(g, x)
    choose = kernels(g).masked
    y = choose(x > 0, g)
    return y + choose(x == 0, at_zero * g) if at_zero else y


@relu_gradient.vjp("g", "u [x > 0], at x = 0 u at_zero")
def _(u: Any, y: Any, g: Any, x: Any, *, at_zero: float) -> Any:
    return relu_gradient(u, x, at_zero=at_zero)


@relu_gradient.sample
def _(rng: Any) -> Iterator[Any]:
    x = rng.normal(size=(3, 4))
    x[0] = 0
    yield (rng.normal(size=(3, 4)), x), {"at_zero": 0.5}
    yield (rng.normal(size=(3, 4)), x), {"at_zero": 0.0}
    yield (rng.normal(size=(0,)), rng.normal(size=(0,))), {"at_zero": 1.0}


@op(shape=lambda x, **_: tuple(x), flops=no_flops, family="helper", constants=("x",))
def slope(xp: Any, x: Any, *, below: float, at_zero: float) -> Any:
    """Return 1 where x > 0, `below` where x < 0 and a mixture of both at 0, in the type of x."""
    one = xp.ones_like(x)
    y = xp.where(x > 0, one, below * one)
    middle = below + at_zero * (1 - below)
    return y if middle == below else xp.where(x == 0, middle * one, y)


@slope.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.integers(-1, 2, size=(3, 4)).astype(float),), {"below": 0.1, "at_zero": 0.5}


@unary(flops=2, family="activation", source="Maas, Hannun & Ng, ICML 2013", convert={"at_zero": share_at_zero})
def leaky_relu(xp: Any, x: Any, *, negative_slope: float = 0.01, at_zero: float = 0.0) -> Any:
    """y = x for x > 0, `negative_slope` x below; the derivative at 0 is chosen by `at_zero` as in `relu`."""
    return xp.where(x > 0, x, negative_slope * x)


@leaky_relu.vjp("x", "g (1 if x > 0 else negative_slope)")
def _(g: Any, y: Any, x: Any, *, negative_slope: float, at_zero: float) -> Any:
    return g * slope(x, below=negative_slope, at_zero=at_zero)


@leaky_relu.switch
def _(xp: Any, y: Any, x: Any, **_: Any) -> Any:
    return xp.sign(x)


@leaky_relu.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)),), {"negative_slope": 0.2}
    yield (rng.normal(size=()),), {"at_zero": "average"}
    yield (rng.normal(size=(0, 3)),), {}


leaky_relu.error_sample(_bad_at_zero)


@unary(flops=12, family="activation", source="Clevert, Unterthiner & Hochreiter, ICLR 2016")
def elu(xp: Any, x: Any, *, alpha: float = 1.0) -> Any:
    """y = x for x > 0, `alpha` (e^x - 1) below; the derivative at 0 is the one from the left, alpha."""
    return xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0)))


@elu.vjp("x", "g (1 if x > 0 else alpha e^x)")
def _(g: Any, y: Any, x: Any, *, alpha: float) -> Any:
    # Positive x are set to 0 before the exponential, so that nothing overflows in the branch that is not taken.
    positive = greater(x, 0)
    return g * where(positive, 1, alpha * exp(where(positive, 0, x)))


@elu.switch
def _(xp: Any, y: Any, x: Any, *, alpha: float) -> Any:
    return xp.sign(x)


@elu.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)),), {"alpha": 0.7}
    yield (rng.normal(size=()),), {}
    yield (rng.normal(size=(0, 3)),), {}


@unary(flops=14, family="activation")
def sigmoid(xp: Any, x: Any) -> Any:
    """y = 1 / (1 + e^-x), computed without overflow for any x."""
    small = xp.exp(-xp.absolute(x))
    return xp.where(x >= 0, 1 / (1 + small), small / (1 + small))


@sigmoid.vjp("x", "g y (1 - y)")
def _(g: Any, y: Any, x: Any) -> Any:
    return g * (y * (1 - y))


sigmoid.sample(_real)


@unary(flops=14, family="activation")
def tanh(xp: Any, x: Any) -> Any:
    """y = tanh x."""
    return xp.tanh(x)


@tanh.vjp("x", "g (1 - y²)")
def _(g: Any, y: Any, x: Any) -> Any:
    return g * (1 - y * y)


tanh.sample(_real)


@unary(flops=25, family="activation", source="Dugas et al., NIPS 2000")
def softplus(xp: Any, x: Any) -> Any:
    """y = ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|), computed without overflow."""
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.absolute(x)))


@softplus.vjp("x", "g sigmoid(x)")
def _(g: Any, y: Any, x: Any) -> Any:
    return g * sigmoid(x)


softplus.sample(_real)


def log_sigmoid(x: Any) -> Any:
    """Return ln sigmoid(x) = -softplus(-x)."""
    return -softplus(-x)


def silu(x: Any) -> Any:
    """Return x sigmoid(x). Source: Elfwing, Uchibe & Doya, Neural Networks 107, 2018."""
    return x * sigmoid(x)


def gelu(x: Any, approximate: str = "none") -> Any:
    """Return x Φ(x), Φ the normal distribution function, or its tanh approximation.

    Source: Hendrycks & Gimpel, arXiv:1606.08415.

    Raises:
        OptionError: `approximate` is neither "none" nor "tanh".
    """
    if approximate == "none":
        return x * (erf(x * math.sqrt(0.5)) + 1) * 0.5
    if approximate == "tanh":
        return x * (tanh((x + 0.044715 * x * x * x) * math.sqrt(2 / math.pi)) + 1) * 0.5
    raise OptionError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")


@op(
    shape=lambda x, **_: tuple(x),
    flops=no_flops,
    family="activation",
    constants=("x",),
    source="McCulloch & Pitts 1943",
)
def threshold_unit(xp: Any, x: Any) -> Any:
    """y = 1 where x > 0, else 0. Its derivative is 0 wherever it exists, so it cannot be trained by gradients."""
    return (x > 0).astype(x.dtype)


@threshold_unit.switch
def _(xp: Any, y: Any, x: Any) -> Any:
    return xp.sign(x)


threshold_unit.sample(_real)
