"""Arithmetic, comparison and smooth functions, one element at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ..backend import as_dtype, default_float, is_float, is_half, overflowing
from ..backend.basics import erf as erf_of
from ..errors import OptionError, ShapeError
from ..op import op
from .rules import binary, broadcast_shape, no_flops, per_element, unary

__all__ = [
    "absolute",
    "add",
    "astype",
    "clip",
    "cos",
    "div",
    "equal",
    "erf",
    "exp",
    "expm1",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "log",
    "log1p",
    "maximum",
    "minimum",
    "mul",
    "neg",
    "not_equal",
    "power",
    "sign",
    "sin",
    "sqrt",
    "sub",
    "where",
]


def _broadcasting(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)), rng.normal(size=(3, 4))), {}
    yield (rng.normal(size=(2, 1, 4)), rng.normal(size=(3, 1))), {}
    yield (rng.normal(size=()), rng.normal(size=(2, 3))), {}
    yield (rng.normal(size=(0, 3)), rng.normal(size=(1, 3))), {}


def _misfit(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3)), rng.normal(size=(2, 4))), {}, ShapeError, "do not broadcast"


def _real(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)),), {}
    yield (rng.normal(size=()),), {}
    yield (rng.normal(size=(2, 0, 3)),), {}


def _positive(rng: Any) -> Iterator[Any]:
    yield (rng.uniform(0.3, 3.0, size=(3, 4)),), {}
    yield (rng.uniform(0.3, 3.0, size=()),), {}
    yield (rng.uniform(0.3, 3.0, size=(0,)),), {}


# Arithmetic


@binary()
def add(xp: Any, a: Any, b: Any) -> Any:
    """y = a + b, broadcast."""
    return xp.add(a, b)


@add.vjp("a", "g")
def _(g: Any, y: Any, a: Any, b: Any) -> Any:
    return g


@add.vjp("b", "g")
def _(g: Any, y: Any, a: Any, b: Any) -> Any:
    return g


add.sample(_broadcasting)
add.error_sample(_misfit)


@binary()
def sub(xp: Any, a: Any, b: Any) -> Any:
    """y = a - b, broadcast."""
    return xp.subtract(a, b)


@sub.vjp("a", "g")
def _(g: Any, y: Any, a: Any, b: Any) -> Any:
    return g


@sub.vjp("b", "-g")
def _(g: Any, y: Any, a: Any, b: Any) -> Any:
    return -g


sub.sample(_broadcasting)
sub.error_sample(_misfit)


@binary()
def mul(xp: Any, a: Any, b: Any) -> Any:
    """y = a b, broadcast."""
    return xp.multiply(a, b)


@mul.vjp("a", "g b")
def _(g: Any, y: Any, a: Any, b: Any) -> Any:
    return g * b


@mul.vjp("b", "g a")
def _(g: Any, y: Any, a: Any, b: Any) -> Any:
    return g * a


mul.sample(_broadcasting)
mul.error_sample(_misfit)


@binary()
def div(xp: Any, a: Any, b: Any) -> Any:
    """y = a / b, broadcast. Whole numbers divide into floats: tensors into float32, NumPy arrays into float64."""
    return xp.true_divide(a, b)


@div.vjp("a", "g / b")
def _(g: Any, y: Any, a: Any, b: Any) -> Any:
    return g / b


@div.vjp("b", "-g y / b")
def _(g: Any, y: Any, a: Any, b: Any) -> Any:
    return -g * y / b


@div.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)), rng.uniform(0.5, 2.0, size=(3, 4))), {}
    yield (rng.normal(size=(2, 1, 4)), rng.uniform(-2.0, -0.5, size=(3, 1))), {}
    yield (rng.normal(size=(0, 3)), rng.uniform(0.5, 2.0, size=(1, 3))), {}


div.error_sample(_misfit)


@unary()
def neg(xp: Any, x: Any) -> Any:
    """y = -x."""
    return xp.negative(x)


@neg.vjp("x", "-g")
def _(g: Any, y: Any, x: Any) -> Any:
    return -g


neg.sample(_real)


@binary(flops=10)
def power(xp: Any, a: Any, b: Any) -> Any:
    """y = a^b, broadcast. At a = 0 the derivative by b is 0, the limit from the right for b > 0."""
    return xp.power(a, b)


@power.vjp("a", "g b a^(b-1)")
def _(g: Any, y: Any, a: Any, b: Any) -> Any:
    if isinstance(b, (int, float)):
        if b == 0:
            return g * 0
        if b == 1:
            return g
        return g * (b * (a if b == 2 else power(a, b - 1)))
    # Where b is 0 the derivative is 0 even at a = 0, where a^(b-1) has a pole.
    pole = equal(a, 0) * equal(b, 0)
    return g * b * power(where(pole, 1, a), b - 1)


@power.vjp("b", "g y log a")
def _(g: Any, y: Any, a: Any, b: Any) -> Any:
    if isinstance(a, (int, float)):
        return g * y * (math.log(a) if a > 0 else 0.0 if a == 0 else math.nan)
    return g * y * log(where(equal(a, 0), 1, a))


@power.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.uniform(0.5, 2.0, size=(3, 4)), rng.normal(size=(3, 4))), {}
    yield (rng.normal(size=(3, 4)), 3), {}
    yield (rng.uniform(0.5, 2.0, size=(2, 1, 4)), rng.normal(size=(3, 1))), {}
    yield (rng.normal(size=(0, 3)), 2), {}
    yield (rng.normal(size=(2, 3)), 1), {}
    yield (rng.normal(size=(2, 3)), 0), {}
    yield (2.5, rng.normal(size=(2, 3))), {}
    yield (rng.uniform(0.5, 2.0, size=(2, 4)), rng.permutation(4).astype(float)), {}


power.error_sample(_misfit)


# Choices: their rules at kinks and ties are part of the contract.


def _at_ties(value: Any) -> str:
    if value not in ("first", "split"):
        raise OptionError(f"ties must be 'first' or 'split', got {value!r}")
    return str(value)


@op(
    shape=lambda a, b, **_: broadcast_shape("tie_share", (a, b), ("a", "b")),
    flops=no_flops,
    family="helper",
    constants=("a", "b"),
    broadcasts=True,
)
def tie_share(xp: Any, a: Any, b: Any, *, equal_share: float) -> Any:
    """Return 1 where a > b, 0 where a < b, and `equal_share` where they are equal, in the float type of the inputs."""
    dtype = xp.result_type(*[v for v in (a, b) if getattr(v, "dtype", xp.dtype(bool)).kind == "f"] or (a, b))
    share = xp.greater(a, b).astype(dtype)
    if equal_share:
        share = xp.where(xp.equal(a, b), xp.asarray(equal_share, dtype=dtype), share)
    return share


@tie_share.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)), rng.normal(size=(4,))), {"equal_share": 0.5}
    yield (rng.integers(0, 2, size=(3, 4)).astype(float), 1.0), {"equal_share": 1.0}


@binary(convert={"ties": _at_ties})
def maximum(xp: Any, a: Any, b: Any, *, ties: str = "first") -> Any:
    """y = max(a, b). Where a = b, `ties` says who gets the gradient: "first" (all to a) or "split" (half each)."""
    return xp.maximum(a, b)


@maximum.vjp("a", "g [a > b], at a = b by ties")
def _(g: Any, y: Any, a: Any, b: Any, *, ties: str) -> Any:
    return g * tie_share(a, b, equal_share=1.0 if ties == "first" else 0.5)


@maximum.vjp("b", "g [b > a], at a = b by ties")
def _(g: Any, y: Any, a: Any, b: Any, *, ties: str) -> Any:
    return g * tie_share(b, a, equal_share=0.0 if ties == "first" else 0.5)


@maximum.switch
def _(xp: Any, y: Any, a: Any, b: Any, *, ties: str) -> Any:
    return xp.sign(xp.subtract(a, b))


maximum.sample(_broadcasting)
maximum.error_sample(_misfit)


@binary(convert={"ties": _at_ties})
def minimum(xp: Any, a: Any, b: Any, *, ties: str = "first") -> Any:
    """y = min(a, b). Where a = b, `ties` says who gets the gradient: "first" (all to a) or "split" (half each)."""
    return xp.minimum(a, b)


@minimum.vjp("a", "g [a < b], at a = b by ties")
def _(g: Any, y: Any, a: Any, b: Any, *, ties: str) -> Any:
    return g * tie_share(b, a, equal_share=1.0 if ties == "first" else 0.5)


@minimum.vjp("b", "g [b < a], at a = b by ties")
def _(g: Any, y: Any, a: Any, b: Any, *, ties: str) -> Any:
    return g * tie_share(a, b, equal_share=0.0 if ties == "first" else 0.5)


@minimum.switch
def _(xp: Any, y: Any, a: Any, b: Any, *, ties: str) -> Any:
    return xp.sign(xp.subtract(a, b))


minimum.sample(_broadcasting)
minimum.error_sample(_misfit)


@unary()
def absolute(xp: Any, x: Any) -> Any:
    """y = |x|. The derivative at 0 is 0, the average of its one-sided values."""
    return xp.absolute(x)


@absolute.vjp("x", "g sign(x)")
def _(g: Any, y: Any, x: Any) -> Any:
    return g * sign(x)


@absolute.switch
def _(xp: Any, y: Any, x: Any) -> Any:
    return xp.sign(x)


absolute.sample(_real)


@op(shape=lambda x, **_: tuple(x), flops=no_flops, family="elementwise", constants=("x",))
def sign(xp: Any, x: Any) -> Any:
    """y = -1, 0 or 1. Constant between its jumps, so no gradient flows through it."""
    return xp.sign(x)


@sign.switch
def _(xp: Any, y: Any, x: Any) -> Any:
    return y


sign.sample(_real)


@op(shape=lambda x, **_: tuple(x), flops=per_element(2), family="elementwise")
def clip(xp: Any, x: Any, *, low: float | None = None, high: float | None = None) -> Any:
    """y = min(max(x, low), high). The derivative is 1 from `low` to `high`, both ends included, and 0 outside.

    Raises:
        OptionError: low is greater than high.
    """
    if low is not None and high is not None and low > high:
        raise OptionError(f"clip: low {low} is greater than high {high}")
    return x.copy() if low is None and high is None else xp.clip(x, low, high)


@op(shape=lambda x, **_: tuple(x), flops=no_flops, family="helper", constants=("x",))
def inside(xp: Any, x: Any, *, low: float | None, high: float | None) -> Any:
    """Return 1 where low <= x <= high, else 0, in the type of x."""
    y = xp.ones_like(x, dtype=bool)
    if low is not None:
        y &= x >= low
    if high is not None:
        y &= x <= high
    return y.astype(x.dtype)


@inside.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)),), {"low": -0.5, "high": 0.5}


@clip.vjp("x", "g [low <= x <= high]")
def _(g: Any, y: Any, x: Any, *, low: float | None, high: float | None) -> Any:
    return g * inside(x, low=low, high=high)


@clip.switch
def _(xp: Any, y: Any, x: Any, *, low: float | None, high: float | None) -> Any:
    below = xp.zeros(x.shape) if low is None else xp.sign(x - low)
    return below + (0 if high is None else 3 * xp.sign(x - high))


@clip.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)),), {"low": -0.5, "high": 0.7}
    yield (rng.normal(size=(3,)),), {"low": 0.0}
    yield (rng.normal(size=(0, 2)),), {"high": 0.0}
    yield (rng.normal(size=()),), {}


@clip.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3,)),), {"low": 1.0, "high": 0.0}, OptionError, "greater than high"


def _where_shape(condition: Any, a: Any, b: Any) -> tuple[int, ...]:
    return broadcast_shape("where", (condition, a, b), ("condition", "a", "b"))


@op(shape=_where_shape, flops=no_flops, family="elementwise", constants=("condition",), broadcasts=True)
def where(xp: Any, condition: Any, a: Any, b: Any) -> Any:
    """y = a where the condition holds, else b, all three broadcast. Two Python floats give float32."""
    y = xp.where(condition, a, b)
    return y if hasattr(a, "dtype") or hasattr(b, "dtype") or y.dtype.kind != "f" else y.astype(default_float)


@where.vjp("a", "g where the condition holds, else 0")
def _(g: Any, y: Any, condition: Any, a: Any, b: Any) -> Any:
    return where(condition, g, 0)


@where.vjp("b", "0 where the condition holds, else g")
def _(g: Any, y: Any, condition: Any, a: Any, b: Any) -> Any:
    return where(condition, 0, g)


@where.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)) > 0, rng.normal(size=(3, 4)), rng.normal(size=(3, 4))), {}
    yield (rng.normal(size=(2, 1, 4)) > 0, rng.normal(size=(3, 1)), rng.normal(size=(4,))), {}
    yield (rng.normal(size=(0, 3)) > 0, rng.normal(size=(3,)), rng.normal(size=())), {}


@where.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2,)) > 0, rng.normal(size=(3,)), rng.normal(size=(2,))), {}, ShapeError, "do not broadcast"


def _comparison(name: str) -> Any:
    symbol = {"greater": ">", "greater_equal": ">=", "less": "<", "less_equal": "<=", "equal": "==", "not_equal": "!="}

    def forward(xp: Any, a: Any, b: Any) -> Any:
        return getattr(xp, name)(a, b)

    forward.__name__ = forward.__qualname__ = name
    forward.__doc__ = f"Return whether a {symbol[name]} b, broadcast, as booleans; no gradient flows through it."
    made = binary(flops=1, family="comparison", constants=("a", "b"))(forward)
    made.sample(_broadcasting)
    made.error_sample(_misfit)
    return made


greater = _comparison("greater")
greater_equal = _comparison("greater_equal")
less = _comparison("less")
less_equal = _comparison("less_equal")
equal = _comparison("equal")
not_equal = _comparison("not_equal")


# Smooth functions


@unary(flops=10)
def exp(xp: Any, x: Any) -> Any:
    """y = e^x."""
    return xp.exp(x)


@exp.vjp("x", "g y")
def _(g: Any, y: Any, x: Any) -> Any:
    return g * y


exp.sample(_real)


@unary(flops=10)
def expm1(xp: Any, x: Any) -> Any:
    """y = e^x - 1, exact for small x too."""
    return xp.expm1(x)


@expm1.vjp("x", "g (y + 1)")
def _(g: Any, y: Any, x: Any) -> Any:
    return g * (y + 1)


expm1.sample(_real)


@unary(flops=10)
def log(xp: Any, x: Any) -> Any:
    """y = ln x."""
    return xp.log(x)


@log.vjp("x", "g / x")
def _(g: Any, y: Any, x: Any) -> Any:
    return g / x


log.sample(_positive)


@unary(flops=10)
def log1p(xp: Any, x: Any) -> Any:
    """y = ln(1 + x), exact for small x too."""
    return xp.log1p(x)


@log1p.vjp("x", "g / (1 + x)")
def _(g: Any, y: Any, x: Any) -> Any:
    return g / (x + 1)


log1p.sample(_positive)


@unary(flops=4)
def sqrt(xp: Any, x: Any) -> Any:
    """y = √x."""
    return xp.sqrt(x)


@sqrt.vjp("x", "g / (2 y)")
def _(g: Any, y: Any, x: Any) -> Any:
    return g / (y * 2)


sqrt.sample(_positive)


@unary(flops=10)
def sin(xp: Any, x: Any) -> Any:
    """y = sin x, x in radians."""
    return xp.sin(x)


@sin.vjp("x", "g cos x")
def _(g: Any, y: Any, x: Any) -> Any:
    return g * cos(x)


sin.sample(_real)


@unary(flops=10)
def cos(xp: Any, x: Any) -> Any:
    """y = cos x, x in radians."""
    return xp.cos(x)


@cos.vjp("x", "-g sin x")
def _(g: Any, y: Any, x: Any) -> Any:
    return -g * sin(x)


cos.sample(_real)


@unary(flops=20)
def erf(xp: Any, x: Any) -> Any:
    """y = 2/√π ∫₀ˣ e^(-t²) dt, the error function."""
    return erf_of(xp, x)


@erf.vjp("x", "g 2/√π e^(-x²)")
def _(g: Any, y: Any, x: Any) -> Any:
    return g * (exp(-(x * x)) * (2 / math.sqrt(math.pi)))


erf.sample(_real)


@op(shape=lambda x, **_: tuple(x), flops=no_flops, family="elementwise")
def astype(xp: Any, x: Any, *, dtype: Any) -> Any:
    """y = x in another element type. Gradients come back in the type of x."""
    dtype = as_dtype(dtype)
    if not is_half(dtype):
        return x.astype(dtype)
    with overflowing():
        return x.astype(dtype)


@astype.vjp("x", "g in the type of x")
def _(g: Any, y: Any, x: Any, *, dtype: Any) -> Any:
    return astype(g, dtype=x.dtype) if is_float(x.dtype) else None


@astype.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)),), {"dtype": "float64"}
    yield (rng.normal(size=()),), {"dtype": "float64"}
