"""Typical mistakes in the rules of known functions, so that a wrong rule can be told its mistake.

Every entry computes what a certain mistake gives, from the right rule `ref` or from scratch, in plain NumPy. The list
was collected from bug reports and course forums; each line is a mistake somebody made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .mistakes import Mistake

__all__ = ["BANK", "for_op"]

BANK: dict[str, list[Mistake]] = {}

Rule = Callable[..., Any]


def for_op(name: str) -> tuple[Mistake, ...]:
    """Return the mistakes known for the function of this name; none for an unknown one."""
    return tuple(BANK.get(name, ()))


def wrong(op: str, wrt: int, id: str, text: str, topic: str = "") -> Callable[[Rule], Rule]:
    """Enter `rule(ref, g, *args, **options)`, the wrong gradient of input number `wrt`, into the bank."""

    def enter(rule: Rule) -> Rule:
        BANK.setdefault(op, []).append(Mistake(id, text, rule, topic, wrt=wrt))
        return rule

    return enter


def _unary(op: str, entries: dict[str, tuple[str, Callable[[Any, Any], Any]]]) -> None:
    """Enter wrong local derivatives: each `d(x, y)` stands for the rule g d(x, y)."""
    for id, (text, derivative) in entries.items():

        def rule(ref: Rule, g: Any, x: Any, *rest: Any, d: Any = derivative, **options: Any) -> Any:
            return g * d(x, _FORWARD[op](x, **options))

        wrong(op, 0, id, text)(rule)


def _sigmoid(x: Any, **_: Any) -> Any:
    return 1 / (1 + np.exp(-x))


_FORWARD: dict[str, Callable[..., Any]] = {
    "relu": lambda x, **_: np.maximum(x, 0),
    "leaky_relu": lambda x, negative_slope=0.01, **_: np.where(x > 0, x, negative_slope * x),
    "sigmoid": _sigmoid,
    "tanh": lambda x, **_: np.tanh(x),
    "exp": lambda x, **_: np.exp(x),
    "log": lambda x, **_: np.log(x),
    "sqrt": lambda x, **_: np.sqrt(x),
    "absolute": lambda x, **_: np.abs(x),
    "softplus": lambda x, **_: np.log1p(np.exp(x)),
    "sin": lambda x, **_: np.sin(x),
    "cos": lambda x, **_: np.cos(x),
    "elu": lambda x, alpha=1.0, **_: np.where(x > 0, x, alpha * np.expm1(x)),
}

_unary(
    "relu",
    {
        "inverted mask": ("the mask is inverted: the gradient passes where x < 0", lambda x, y: x < 0),
        "leaky": ("this is the derivative of a leaky ReLU: it is 0 for x < 0", lambda x, y: np.where(x > 0, 1, 0.01)),
        "times output": ("the gradient is multiplied by the output instead of the mask x > 0", lambda x, y: y),
        "sign": ("the mask is sign(x): it must be 0 for x < 0, not -1", lambda x, y: np.sign(x)),
        "no mask": ("the mask x > 0 is missing", lambda x, y: np.ones_like(x)),
        "mask above 1": ("the mask is x > 1 instead of x > 0", lambda x, y: x > 1),
    },
)
_unary(
    "leaky_relu",
    {
        "plain relu": ("for x < 0 the slope is `negative_slope`, not 0", lambda x, y: x > 0),
        "no mask": ("the slope for x < 0 is missing: it is 1 everywhere", lambda x, y: np.ones_like(x)),
        "negative": ("the slope for x < 0 has the wrong sign", lambda x, y: np.where(x > 0, 1, -y / x)),
        "swapped": ("the two slopes are exchanged", lambda x, y: np.where(x < 0, 1, y[x < 0].sum() / x[x < 0].sum())),
        "squared": ("the slope is applied twice for x < 0", lambda x, y: np.where(x > 0, 1, (y / x) ** 2)),
    },
)
_unary(
    "sigmoid",
    {
        "x for y": ("σ' = y (1 - y) in terms of the output y; here x stands for y", lambda x, y: x * (1 - x)),
        "no 1-y": ("the factor (1 - y) is missing: σ' = y (1 - y)", lambda x, y: y),
        "no y": ("the factor y is missing: σ' = y (1 - y)", lambda x, y: 1 - y),
        "plus": ("σ' = y (1 - y), not y (1 + y)", lambda x, y: y * (1 + y)),
        "tanh": ("this is the derivative of tanh, 1 - y²", lambda x, y: 1 - y * y),
        "twice": ("the sigmoid is applied twice", lambda x, y: _sigmoid(y) * (1 - _sigmoid(y))),
    },
)
_unary(
    "tanh",
    {
        "x for y": ("tanh' = 1 - y² in terms of the output y; here x stands for y", lambda x, y: 1 - x * x),
        "no square": ("tanh' = 1 - y², the square is missing", lambda x, y: 1 - y),
        "plus": ("tanh' = 1 - y², not 1 + y²", lambda x, y: 1 + y * y),
        "sigmoid": ("this is the derivative of the sigmoid, y (1 - y)", lambda x, y: y * (1 - y)),
        "twice": ("tanh is applied twice", lambda x, y: 1 - np.tanh(y) ** 2),
        "square outside": ("tanh' = 1 - y², not (1 - y)²", lambda x, y: (1 - y) ** 2),
    },
)
_unary(
    "exp",
    {
        "x": ("the derivative of exp(x) is exp(x), not x", lambda x, y: x),
        "one": ("the factor exp(x) is missing", lambda x, y: np.ones_like(x)),
        "power rule": ("the power rule does not apply: (e^x)' = e^x, not x e^(x-1)", lambda x, y: x * np.exp(x - 1)),
        "twice": ("exp is applied twice", lambda x, y: np.exp(y)),
        "negative": ("the sign of the exponent is wrong", lambda x, y: 1 / y),
    },
)
_unary(
    "log",
    {
        "times x": ("the derivative of ln x is 1/x: divide, do not multiply", lambda x, y: x),
        "square": ("the derivative of ln x is 1/x, not 1/x²", lambda x, y: 1 / x**2),
        "log": ("the derivative of ln x is 1/x, not ln x", lambda x, y: y),
        "log1p": ("this is the derivative of ln(1 + x)", lambda x, y: 1 / (1 + x)),
        "one": ("the factor 1/x is missing", lambda x, y: np.ones_like(x)),
    },
)
_unary(
    "sqrt",
    {
        "no half": ("(√x)' = 1 / (2 √x): the 2 is missing", lambda x, y: 1 / y),
        "times": ("(√x)' = 1 / (2 √x): divide by the root", lambda x, y: 0.5 * y),
        "no root": ("(√x)' = 1 / (2 √x), not 1 / (2 x)", lambda x, y: 0.5 / x),
        "half": ("the root is missing in 1 / (2 √x)", lambda x, y: np.full_like(x, 0.5)),
    },
)
_unary(
    "absolute",
    {
        "one": ("the sign of x is missing", lambda x, y: np.ones_like(x)),
        "times x": ("|x|' is the sign of x, not x", lambda x, y: x),
        "relu": ("|x|' is -1 for x < 0, not 0", lambda x, y: x > 0),
    },
)
_unary(
    "softplus",
    {
        "1 - sigmoid": ("the derivative is σ(x), not 1 - σ(x)", lambda x, y: 1 - _sigmoid(x)),
        "tanh": ("the derivative is σ(x), not tanh(x)", lambda x, y: np.tanh(x)),
        "relu": ("the derivative is σ(x), not that of ReLU", lambda x, y: x > 0),
        "sigmoid of y": ("σ is taken of the output instead of x", lambda x, y: _sigmoid(y)),
        "sigmoid'": ("σ' is used where σ belongs", lambda x, y: _sigmoid(x) * (1 - _sigmoid(x))),
    },
)
_unary("sin", {"sin": ("the derivative of sin is cos", lambda x, y: y)})
_unary("cos", {"sin": ("the derivative of cos is -sin: the sign is missing", lambda x, y: np.sin(x))})
_unary(
    "elu",
    {
        "no alpha": ("for x < 0 the derivative is y + alpha; alpha is missing", lambda x, y: np.where(x > 0, 1, y)),
        "plus one": ("for x < 0 the derivative is y + alpha, not y + 1", lambda x, y: np.where(x > 0, 1, y + 1)),
        "relu": ("for x < 0 the derivative is alpha e^x, not 0", lambda x, y: x > 0),
        "exp": ("for x < 0 the derivative is alpha e^x; alpha is missing", lambda x, y: np.where(x > 0, 1, np.exp(x))),
    },
)


@wrong("relu", 0, "mask from dout", "the mask is taken from dout; it must come from the input x", "ReLU")
def _(ref: Rule, g: Any, x: Any, **_: Any) -> Any:
    return g * (g > 0)


@wrong("relu", 0, "only mask", "the mask is returned without multiplying by dout", "chain rule")
def _(ref: Rule, g: Any, x: Any, **_: Any) -> Any:
    return (x > 0) * 1.0


# --- arithmetic with broadcasting


def _fit(gx: Any, x: Any) -> Any:
    """Sum over the axes along which x was broadcast."""
    extra = gx.ndim - x.ndim
    gx = gx.sum(axis=tuple(range(extra))) if extra else gx
    axes = tuple(i for i, n in enumerate(x.shape) if n == 1 and gx.shape[i] != 1)
    return gx.sum(axis=axes, keepdims=True) if axes else gx


@wrong("sub", 1, "sign", "d(a - b)/db is -1: the minus is missing", "chain rule")
def _(ref: Rule, g: Any, a: Any, b: Any) -> Any:
    return _fit(g, b)


@wrong("mul", 0, "own factor", "the gradient of a is dout times b, not times a", "chain rule")
def _(ref: Rule, g: Any, a: Any, b: Any) -> Any:
    return _fit(g * a, a)


@wrong("mul", 0, "no factor", "the factor b is missing in the gradient of a", "chain rule")
def _(ref: Rule, g: Any, a: Any, b: Any) -> Any:
    return _fit(g + 0 * b, a)


@wrong("mul", 1, "no factor", "the factor a is missing in the gradient of b", "chain rule")
def _(ref: Rule, g: Any, a: Any, b: Any) -> Any:
    return _fit(g, b)


@wrong("div", 0, "times", "the gradient of a is dout / b, not dout · b", "chain rule")
def _(ref: Rule, g: Any, a: Any, b: Any) -> Any:
    return _fit(g * b, a)


@wrong("div", 0, "no factor", "the division by b is missing in the gradient of a", "chain rule")
def _(ref: Rule, g: Any, a: Any, b: Any) -> Any:
    return _fit(g, a)


@wrong("div", 1, "no square", "the gradient of b is -dout a / b²: the square is missing", "chain rule")
def _(ref: Rule, g: Any, a: Any, b: Any) -> Any:
    return _fit(-g * a / b, b)


@wrong("div", 1, "no minus", "the gradient of b is -dout a / b²: the minus is missing", "chain rule")
def _(ref: Rule, g: Any, a: Any, b: Any) -> Any:
    return _fit(g * a / b**2, b)


@wrong("div", 1, "no numerator", "the gradient of b is -dout a / b²: a is missing", "chain rule")
def _(ref: Rule, g: Any, a: Any, b: Any) -> Any:
    return _fit(-g / b**2 + 0 * a, b)


@wrong("power", 0, "no factor", "the factor b is missing: (a^b)' = b a^(b-1)", "chain rule")
def _(ref: Rule, g: Any, a: Any, b: Any) -> Any:
    return _fit(g * a ** (b - 1), a)


@wrong("power", 0, "same exponent", "the exponent is b - 1, not b", "chain rule")
def _(ref: Rule, g: Any, a: Any, b: Any) -> Any:
    return _fit(g * b * a**b, a)


@wrong("power", 1, "log of b", "the gradient of b is dout y ln(a), not ln(b)", "chain rule")
def _(ref: Rule, g: Any, a: Any, b: Any) -> Any:
    return _fit(g * a**b * np.log(b), b)


@wrong("power", 1, "no log", "the factor ln(a) is missing in the gradient of b", "chain rule")
def _(ref: Rule, g: Any, a: Any, b: Any) -> Any:
    return _fit(g * a**b, b)


@wrong("maximum", 0, "all", "the gradient goes to a even where b is larger", "subgradient")
def _(ref: Rule, g: Any, a: Any, b: Any, **_: Any) -> Any:
    return _fit(g + 0 * b, a)


@wrong("maximum", 0, "inverted mask", "the mask is inverted: a gets the gradient where it is smaller", "subgradient")
def _(ref: Rule, g: Any, a: Any, b: Any, **_: Any) -> Any:
    return _fit(g * (a < b), a)


@wrong("maximum", 0, "half", "each gets half of the gradient; all of it belongs to the larger one", "subgradient")
def _(ref: Rule, g: Any, a: Any, b: Any, **_: Any) -> Any:
    return _fit(0.5 * g + 0 * b, a)


@wrong("clip", 0, "no mask", "outside of [low, high] the gradient is 0", "subgradient")
def _(ref: Rule, g: Any, x: Any, **_: Any) -> Any:
    return g.copy()


@wrong("clip", 0, "inverted mask", "the mask is inverted: inside of [low, high] the gradient passes", "subgradient")
def _(ref: Rule, g: Any, x: Any, *, low: Any = None, high: Any = None) -> Any:
    return g * ((x < low) | (x > high))


@wrong("clip", 0, "one side", "only the upper bound is looked at", "subgradient")
def _(ref: Rule, g: Any, x: Any, *, low: Any = None, high: Any = None) -> Any:
    return g * (x < high)


@wrong("clip", 0, "clips the gradient", "dout is clipped instead of being masked", "subgradient")
def _(ref: Rule, g: Any, x: Any, *, low: Any = None, high: Any = None) -> Any:
    return np.clip(g, low, high)


# --- products


@wrong("matmul", 0, "elementwise", "the rows of b are summed: the matrix product dout @ b.T is needed", "affine layer")
def _(ref: Rule, g: Any, a: Any, b: Any) -> Any:
    return g.sum(-1, keepdims=True) * b.sum(1)


@wrong("matmul", 0, "b not transposed", "the gradient of a is dout @ b.T, not dout @ b", "affine layer")
def _(ref: Rule, g: Any, a: Any, b: Any) -> Any:
    return g @ b


@wrong("matmul", 1, "a not transposed", "the gradient of b is a.T @ dout, not a @ dout", "affine layer")
def _(ref: Rule, g: Any, a: Any, b: Any) -> Any:
    return a @ g


@wrong("matmul", 1, "reshaped", "a is reshaped where it should be transposed", "affine layer")
def _(ref: Rule, g: Any, a: Any, b: Any) -> Any:
    return a.reshape(a.shape[1], a.shape[0]) @ g


@wrong("matmul", 0, "b reshaped", "b is reshaped where it should be transposed", "affine layer")
def _(ref: Rule, g: Any, a: Any, b: Any) -> Any:
    return g @ b.reshape(b.shape[1], b.shape[0])


@wrong("linear", 1, "mean over batch", "dW is averaged over the batch: the loss has done that already", "affine layer")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    return g.T @ x / len(x)


@wrong("linear", 1, "transposed", "dW is transposed", "affine layer")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    return x.T @ g


@wrong("linear", 1, "output for x", "the output is used where x belongs", "affine layer")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    return (g.T @ (x @ weight.T + bias))[:, : x.shape[1]]


@wrong("linear", 2, "mean", "db is averaged over the batch; it is a sum", "affine layer")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    return g.mean(0)


@wrong("linear", 2, "first sample", "only the first sample contributes to db; sum over the batch", "affine layer")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    return g[0].copy()


@wrong("linear", 2, "last sample", "db is overwritten for every sample (= where += belongs)", "affine layer")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    return g[-1].copy()


@wrong("linear", 2, "not reduced", "db is not summed over the batch", "affine layer")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    return g.copy()


@wrong("linear", 0, "gradient for weight", "dW is used where W belongs", "affine layer")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    return g @ (g.T @ x)


@wrong(
    "linear", 0, "mean over batch", "dx is divided by the batch size: 1/N belongs into the loss only", "affine layer"
)
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    return g @ weight / len(x)


# --- reductions


def _expand(g: Any, x: Any, axis: Any, keepdims: bool = False) -> Any:
    return g if keepdims or axis is None else np.expand_dims(g, axis)


@wrong("sum", 0, "mean", "this is the rule of a mean: a sum passes dout on undivided", "reductions")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return _expand(g, x, axis, keepdims) * np.ones_like(x) * g.size / x.size


@wrong("sum", 0, "times x", "the gradient of a sum does not depend on x", "reductions")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return _expand(g, x, axis, keepdims) * x


@wrong("mean", 0, "no 1/n", "the factor 1/n of the mean is missing", "reductions")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return _expand(g, x, axis, keepdims) * np.ones_like(x)


@wrong("mean", 0, "1/total", "divided by the number of all elements instead of those averaged", "reductions")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return _expand(g, x, axis, keepdims) * np.ones_like(x) / x.size


@wrong("mean", 0, "1/n twice", "the factor 1/n is applied twice", "reductions")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return _expand(g, x, axis, keepdims) * np.ones_like(x) * (g.size / x.size) ** 2


@wrong("mean", 0, "1/outputs", "divided by the number of outputs instead of those averaged", "reductions")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return _expand(g, x, axis, keepdims) * np.ones_like(x) / g.size


def _spread(x: Any, axis: Any) -> tuple[Any, int]:
    count = x.size if axis is None else x.shape[axis]
    return x - x.mean(axis, keepdims=True), count


@wrong("var", 0, "no 2", "the factor 2 of the square is missing", "batch normalisation")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False, correction: int = 0) -> Any:
    return 0.5 * ref(g, x, axis=axis, keepdims=keepdims, correction=correction)


@wrong("var", 0, "no 1/n", "the factor 1/n is missing", "batch normalisation")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False, correction: int = 0) -> Any:
    d, _ = _spread(x, axis)
    return 2 * _expand(g, x, axis, keepdims) * d


@wrong("var", 0, "other divisor", "divided by n - 1 where it is n, or the other way round", "batch normalisation")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False, correction: int = 0) -> Any:
    return ref(g, x, axis=axis, keepdims=keepdims, correction=1 - correction)


@wrong("var", 0, "mean missing", "the mean is not subtracted", "batch normalisation")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False, correction: int = 0) -> Any:
    _, n = _spread(x, axis)
    return 2 * _expand(g, x, axis, keepdims) * x / (n - correction)


@wrong("amax", 0, "everyone", "every entry gets the gradient; only the maximum does", "subgradient")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False, **_: Any) -> Any:
    return _expand(g, x, axis, keepdims) * np.ones_like(x)


@wrong("amax", 0, "minimum", "the gradient goes to the minimum", "subgradient")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False, **_: Any) -> Any:
    return _expand(g, x, axis, keepdims) * (x == x.min(axis, keepdims=True))


@wrong("amax", 0, "times value", "the gradient is multiplied by the maximum", "subgradient")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False, **_: Any) -> Any:
    return _expand(g, x, axis, keepdims) * (x == x.max(axis, keepdims=True)) * x


@wrong("amax", 0, "softmax", "the gradient is spread like a softmax", "subgradient")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False, **_: Any) -> Any:
    return _expand(g, x, axis, keepdims) * _softmax(x, axis)


@wrong("cumsum", 0, "not reversed", "the gradient of a running sum runs from the end", "reductions")
def _(ref: Rule, g: Any, x: Any, *, axis: int) -> Any:
    return np.cumsum(g, axis)


@wrong("cumsum", 0, "identity", "every x also enters all later outputs", "reductions")
def _(ref: Rule, g: Any, x: Any, *, axis: int) -> Any:
    return g.copy()


@wrong("cumsum", 0, "one late", "the running sum leaves out the entry itself", "reductions")
def _(ref: Rule, g: Any, x: Any, *, axis: int) -> Any:
    return ref(g, x, axis=axis) - g


@wrong("prod", 0, "whole product", "the product of the *other* entries is needed: divide by x", "reductions")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return _expand(g, x, axis, keepdims) * x.prod(axis, keepdims=True) * np.ones_like(x)


@wrong("prod", 0, "sum", "this is the rule of a sum", "reductions")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return _expand(g, x, axis, keepdims) * np.ones_like(x)


# --- softmax and losses


def _softmax(x: Any, axis: Any = -1) -> Any:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@wrong("softmax", 0, "diagonal", "only the diagonal p (1 - p) of the Jacobian is used", "softmax")
def _(ref: Rule, g: Any, x: Any, *, axis: int = -1) -> Any:
    p = _softmax(x, axis)
    return g * p * (1 - p)


@wrong("softmax", 0, "no sum", "the term p Σ dout p is missing", "softmax")
def _(ref: Rule, g: Any, x: Any, *, axis: int = -1) -> Any:
    return g * _softmax(x, axis)


@wrong("softmax", 0, "sum without p", "the sum is Σ dout p; p is missing under the sum", "softmax")
def _(ref: Rule, g: Any, x: Any, *, axis: int = -1) -> Any:
    return _softmax(x, axis) * (g - g.sum(axis, keepdims=True))


@wrong("softmax", 0, "mean", "the sum over the classes is a mean", "softmax")
def _(ref: Rule, g: Any, x: Any, *, axis: int = -1) -> Any:
    p = _softmax(x, axis)
    return p * (g - (g * p).mean(axis, keepdims=True))


@wrong("softmax", 0, "sum over everything", "the sum runs over the batch too", "softmax")
def _(ref: Rule, g: Any, x: Any, *, axis: int = -1) -> Any:
    p = _softmax(x, axis)
    return p * (g - (g * p).sum())


@wrong("softmax", 0, "shortcut", "p - t is the gradient of softmax with cross-entropy, not of softmax", "softmax")
def _(ref: Rule, g: Any, x: Any, *, axis: int = -1) -> Any:
    return _softmax(x, axis) - g


@wrong("softmax", 0, "other axis", "the softmax is taken over the wrong axis", "softmax")
def _(ref: Rule, g: Any, x: Any, *, axis: int = -1) -> Any:
    return ref(g, x, axis=0 if axis in (-1, x.ndim - 1) else -1)


@wrong("softmax", 0, "p outside", "the last factor p is missing", "softmax")
def _(ref: Rule, g: Any, x: Any, *, axis: int = -1) -> Any:
    return g - (g * _softmax(x, axis)).sum(axis, keepdims=True)


@wrong("log_softmax", 0, "sum of dout is 1", "dout - p assumes that dout sums to 1: p Σ dout", "cross-entropy")
def _(ref: Rule, g: Any, x: Any, *, axis: int = -1) -> Any:
    return g - _softmax(x, axis)


@wrong("log_softmax", 0, "no sum", "the sum over the classes is missing: p Σ dout", "cross-entropy")
def _(ref: Rule, g: Any, x: Any, *, axis: int = -1) -> Any:
    return g - _softmax(x, axis) * g


@wrong("log_softmax", 0, "mean", "the sum over the classes is a mean", "cross-entropy")
def _(ref: Rule, g: Any, x: Any, *, axis: int = -1) -> Any:
    return g - _softmax(x, axis) * g.mean(axis, keepdims=True)


@wrong("log_softmax", 0, "softmax", "this is the rule of softmax, not of its logarithm", "cross-entropy")
def _(ref: Rule, g: Any, x: Any, *, axis: int = -1) -> Any:
    p = _softmax(x, axis)
    return p * (g - (g * p).sum(axis, keepdims=True))


@wrong("log_softmax", 0, "log p", "the output ln p is used where p belongs", "cross-entropy")
def _(ref: Rule, g: Any, x: Any, *, axis: int = -1) -> Any:
    return g - np.log(_softmax(x, axis)) * g.sum(axis, keepdims=True)


@wrong("log_softmax", 0, "no p", "p is missing: dout - p Σ dout", "cross-entropy")
def _(ref: Rule, g: Any, x: Any, *, axis: int = -1) -> Any:
    return g - g.sum(axis, keepdims=True)


@wrong("log_softmax", 0, "over p", "divided by p as if the softmax came from outside", "cross-entropy")
def _(ref: Rule, g: Any, x: Any, *, axis: int = -1) -> Any:
    return g / _softmax(x, axis)


@wrong("logsumexp", 0, "no softmax", "the weights softmax(x) are missing", "softmax")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return _expand(g, x, axis, keepdims) * np.ones_like(x)


@wrong("logsumexp", 0, "exp", "the weights are exp(x) without dividing by their sum", "softmax")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return _expand(g, x, axis, keepdims) * np.exp(x)


@wrong("logsumexp", 0, "other axis", "the softmax is taken over the wrong axis", "softmax")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return _expand(g, x, axis, keepdims) * _softmax(x, 0 if axis in (-1, x.ndim - 1) else -1)


@wrong("logsumexp", 0, "hard", "all of the gradient goes to the maximum", "softmax")
def _(ref: Rule, g: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return _expand(g, x, axis, keepdims) * (x == x.max(axis, keepdims=True))


def _hot(x: Any, labels: Any) -> Any:
    return np.eye(x.shape[1])[labels]


def _ce(id: str, text: str, gradient: Callable[[Any, Any, int, int], Any]) -> None:
    def rule(ref: Rule, g: Any, x: Any, labels: Any) -> Any:
        return g * gradient(_softmax(x), _hot(x, labels), *x.shape)

    wrong("cross_entropy", 0, id, text, "cross-entropy")(rule)


_ce("no 1/N", "the factor 1/N of the mean over the batch is missing", lambda p, t, n, k: p - t)
_ce("1/K", "divided by the number of classes instead of the batch size", lambda p, t, n, k: (p - t) / k)
_ce("1/NK", "divided by the classes too; the mean is over the batch only", lambda p, t, n, k: (p - t) / (n * k))
_ce("1/N twice", "the factor 1/N is applied twice", lambda p, t, n, k: (p - t) / n**2)
_ce("sign", "it is p - t, not t - p", lambda p, t, n, k: (t - p) / n)
_ce("target column", "only the column of the true class is filled in", lambda p, t, n, k: (p - t) * t / n)
_ce("no target", "the 1 of the true class is not subtracted: p - t", lambda p, t, n, k: p / n)
_ce("only target", "p is missing: p - t", lambda p, t, n, k: -t / n)
_ce("1/p", "-t/p is the gradient with respect to p, not to the logits", lambda p, t, n, k: -t / p / n)
_ce(
    "all columns",
    "p[:, t] -= 1 subtracts in every row; the index is p[arange(N), t]",
    lambda p, t, n, k: (p - t.max(0)) / n,
)
_ce("softmax derivative", "p - t is multiplied by p (1 - p) once more", lambda p, t, n, k: (p - t) * p * (1 - p) / n)
_ce("squared error", "this is the gradient of a squared error", lambda p, t, n, k: 2 * (p - t) / n)


@wrong("cross_entropy", 0, "softmax over batch", "the softmax is taken over the batch axis", "cross-entropy")
def _(ref: Rule, g: Any, x: Any, labels: Any) -> Any:
    return g * (_softmax(x, 0) - _hot(x, labels)) / len(x)


@wrong("cross_entropy", 0, "no dout", "the upstream gradient is not multiplied in", "cross-entropy")
def _(ref: Rule, g: Any, x: Any, labels: Any) -> Any:
    return (_softmax(x) - _hot(x, labels)) / len(x)


# --- normalisation, dropout


def _normalised(x: Any, eps: float) -> tuple[Any, Any, Any]:
    centred = x - x.mean(0)
    spread = np.sqrt(x.var(0) + eps)
    return centred, spread, centred / spread


def _bn(id: str, text: str, gradient: Callable[..., Any]) -> None:
    def rule(ref: Rule, g: Any, x: Any, gamma: Any, beta: Any, *, eps: float = 1e-5) -> Any:
        return gradient(g, x, gamma, *_normalised(x, eps), eps)

    wrong("batch_norm", 0, id, text, "batch normalisation")(rule)


_bn("constant mean and variance", "μ and σ² are treated as constants", lambda g, x, w, c, s, h, e: g * w / s)
_bn("constant variance", "σ² is treated as a constant", lambda g, x, w, c, s, h, e: (g - g.mean(0)) * w / s)
_bn("constant mean", "μ is treated as a constant", lambda g, x, w, c, s, h, e: (g - h * (g * h).mean(0)) * w / s)
_bn(
    "gamma forgotten",
    "the factor γ is missing in dx",
    lambda g, x, w, c, s, h, e: (g - g.mean(0) - h * (g * h).mean(0)) / s,
)
_bn(
    "n - 1",
    "the terms of μ and σ² are divided by N - 1 instead of N",
    lambda g, x, w, c, s, h, e: w / s * (g - (g.sum(0) + h * (g * h).sum(0)) / (len(x) - 1)),
)
_bn(
    "eps outside",
    "ε is added outside of the root",
    lambda g, x, w, c, s, h, e: (
        w / (x.std(0) + e) * (g - g.mean(0) - c / (x.std(0) + e) * (g * c / (x.std(0) + e)).mean(0))
    ),
)
_bn(
    "no root",
    "divided by the variance instead of its root",
    lambda g, x, w, c, s, h, e: w / s**2 * (g - g.mean(0) - h * (g * h).mean(0)),
)
_bn(
    "sign of variance",
    "the term of the variance has the wrong sign",
    lambda g, x, w, c, s, h, e: w / s * (g - g.mean(0) + h * (g * h).mean(0)),
)
_bn(
    "sum for mean",
    "the terms of μ and σ² are summed, not averaged over the batch",
    lambda g, x, w, c, s, h, e: w / s * (g - g.sum(0) - h * (g * h).sum(0)),
)


@wrong("batch_norm", 1, "x for normalised", "dγ uses x where the normalised x belongs", "batch normalisation")
def _(ref: Rule, g: Any, x: Any, gamma: Any, beta: Any, *, eps: float = 1e-5) -> Any:
    return (g * x).sum(0)


@wrong("batch_norm", 1, "centred only", "dγ uses x - μ, not divided by the standard deviation", "batch normalisation")
def _(ref: Rule, g: Any, x: Any, gamma: Any, beta: Any, *, eps: float = 1e-5) -> Any:
    return (g * (x - x.mean(0))).sum(0)


@wrong("batch_norm", 1, "output", "dγ uses the output where the normalised x belongs", "batch normalisation")
def _(ref: Rule, g: Any, x: Any, gamma: Any, beta: Any, *, eps: float = 1e-5) -> Any:
    return (g * (_normalised(x, eps)[2] * gamma + beta)).sum(0)


@wrong("batch_norm", 2, "mean", "dβ is averaged over the batch; it is a sum", "batch normalisation")
def _(ref: Rule, g: Any, x: Any, gamma: Any, beta: Any, *, eps: float = 1e-5) -> Any:
    return g.mean(0)


@wrong("batch_norm", 2, "gamma", "dβ is multiplied by γ", "batch normalisation")
def _(ref: Rule, g: Any, x: Any, gamma: Any, beta: Any, *, eps: float = 1e-5) -> Any:
    return (g * gamma).sum(0)


@wrong("dropout", 0, "no mask", "the mask is not applied in the backward pass", "dropout")
def _(ref: Rule, g: Any, x: Any, mask: Any, *, scale: float) -> Any:
    return g * scale


@wrong("dropout", 0, "no scale", "the factor 1/(1 - p) is missing", "dropout")
def _(ref: Rule, g: Any, x: Any, mask: Any, *, scale: float) -> Any:
    return g * mask


@wrong("dropout", 0, "scale twice", "the factor 1/(1 - p) is applied twice", "dropout")
def _(ref: Rule, g: Any, x: Any, mask: Any, *, scale: float) -> Any:
    return g * mask * scale**2


@wrong("dropout", 0, "1/p", "scaled by 1/p where it is 1/(1 - p)", "dropout")
def _(ref: Rule, g: Any, x: Any, mask: Any, *, scale: float) -> Any:
    return g * mask / (1 - 1 / scale)


@wrong("dropout", 0, "inverted mask", "the mask is inverted", "dropout")
def _(ref: Rule, g: Any, x: Any, mask: Any, *, scale: float) -> Any:
    return g * (1 - mask) * scale


@wrong("dropout", 0, "times output", "multiplied by the output instead of the mask", "dropout")
def _(ref: Rule, g: Any, x: Any, mask: Any, *, scale: float) -> Any:
    return g * x * mask * scale


# --- shapes


@wrong("transpose", 0, "same axes", "the axes are permuted again; the inverse permutation undoes them", "shapes")
def _(ref: Rule, g: Any, x: Any, *, axes: Any) -> Any:
    return np.transpose(g, axes)


@wrong("transpose", 0, "reshape", "reshaped where it should be transposed", "shapes")
def _(ref: Rule, g: Any, x: Any, *, axes: Any) -> Any:
    return g.reshape(x.shape)


@wrong("reshape", 0, "column order", "reshaped in column order (order='F')", "shapes")
def _(ref: Rule, g: Any, x: Any, *, shape: Any) -> Any:
    return g.reshape(x.shape, order="F")


@wrong("reshape", 0, "not reshaped", "the gradient is not brought back into the shape of x", "shapes")
def _(ref: Rule, g: Any, x: Any, *, shape: Any) -> Any:
    return g.copy()


@wrong("broadcast_to", 0, "mean", "the copies are averaged; their gradients add up", "broadcasting")
def _(ref: Rule, g: Any, x: Any, *, shape: Any) -> Any:
    return _fit(g, x) * x.size / g.size


@wrong("broadcast_to", 0, "first", "only the first copy contributes", "broadcasting")
def _(ref: Rule, g: Any, x: Any, *, shape: Any) -> Any:
    first = np.zeros_like(g)
    first[(0,) * (g.ndim - x.ndim)] = g[(0,) * (g.ndim - x.ndim)]
    return _fit(first, x)


@wrong("pad", 0, "cropped at the start", "the padding is cut off at the wrong side", "zero padding")
def _(ref: Rule, g: Any, x: Any, *, widths: Any, value: float = 0.0) -> Any:
    return g[tuple(slice(0, n) for n in x.shape)].copy()


@wrong("pad", 0, "cropped at the end", "the padding is cut off at the wrong side", "zero padding")
def _(ref: Rule, g: Any, x: Any, *, widths: Any, value: float = 0.0) -> Any:
    return g[tuple(slice(m - n, m) for n, m in zip(x.shape, g.shape, strict=True))].copy()


@wrong("pad", 0, "not cropped", "the padding is not cut off", "zero padding")
def _(ref: Rule, g: Any, x: Any, *, widths: Any, value: float = 0.0) -> Any:
    return g.copy()


@wrong("getitem", 0, "overwritten", "an entry picked twice gets both gradients: np.add.at, not =", "broadcasting")
def _(ref: Rule, g: Any, x: Any, *, index: Any) -> Any:
    gx = np.zeros_like(x)
    gx[index] = g
    return gx


@wrong("getitem", 0, "other rows", "the gradient is put at the wrong end", "shapes")
def _(ref: Rule, g: Any, x: Any, *, index: Any) -> Any:
    return ref(g, x, index=index)[::-1].copy()


@wrong("pick", 0, "sign", "the sign is wrong", "cross-entropy")
def _(ref: Rule, g: Any, x: Any, labels: Any) -> Any:
    return -ref(g, x, labels)


@wrong("pick", 0, "all rows", "dx[:, labels] fills every row; the index is [arange(N), labels]", "cross-entropy")
def _(ref: Rule, g: Any, x: Any, labels: Any) -> Any:
    gx = np.zeros_like(x)
    gx[:, labels] = g
    return gx


# --- convolution and pooling


def _geometry(x: Any, weight: Any, stride: Any, padding: Any) -> tuple[int, int, int, int]:
    sh, sw = (stride, stride) if isinstance(stride, int) else stride
    ph, pw = (padding, padding) if isinstance(padding, int) else padding
    return sh, sw, ph, pw


def _scatter(g: Any, x: Any, weight: Any, stride: Any, padding: Any, *, add: bool = True, steps: Any = None) -> Any:
    """The input gradient of a convolution by loops, padding kept."""
    sh, sw, ph, pw = _geometry(x, weight, stride, padding)
    sh, sw = steps or (sh, sw)
    n, c, h, w = x.shape
    kh, kw = weight.shape[2:]
    out = np.zeros((n, c, h + 2 * ph, w + 2 * pw))
    for i in range(g.shape[2]):
        for j in range(g.shape[3]):
            patch = np.einsum("no,ocpq->ncpq", g[:, :, i, j], weight)
            place = out[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw]
            place[:] = place + patch if add else patch
    return out


def _crop(padded: Any, x: Any, weight: Any, stride: Any, padding: Any) -> Any:
    _, _, ph, pw = _geometry(x, weight, stride, padding)
    return padded[:, :, ph : ph + x.shape[2], pw : pw + x.shape[3]].copy()


@wrong(
    "conv2d", 0, "kernel not rotated", "dX uses the kernel turned by 180 degrees against what it should", "convolution"
)
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, **o: Any) -> Any:
    return ref(g, x, weight[..., ::-1, ::-1].copy(), bias, **o)


@wrong("conv2d", 0, "kernel rows reversed", "the rows of the kernel are reversed, its columns are not", "convolution")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, **o: Any) -> Any:
    return ref(g, x, weight[..., ::-1, :].copy(), bias, **o)


@wrong("conv2d", 0, "overwritten", "overlapping windows overwrite each other: += where = stands", "convolution")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, *, stride: Any = 1, padding: Any = 0, **_: Any) -> Any:
    return _crop(_scatter(g, x, weight, stride, padding, add=False), x, weight, stride, padding)


@wrong("conv2d", 0, "no stride", "the stride is missing: the windows are placed one step apart", "stride")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, *, stride: Any = 1, padding: Any = 0, **_: Any) -> Any:
    return _crop(_scatter(g, x, weight, stride, padding, steps=(1, 1)), x, weight, stride, padding)


@wrong("conv2d", 0, "cropped at the start", "the padding is cut off at the wrong side: [:H, :W]", "zero padding")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, *, stride: Any = 1, padding: Any = 0, **_: Any) -> Any:
    return _scatter(g, x, weight, stride, padding)[:, :, : x.shape[2], : x.shape[3]].copy()


@wrong("conv2d", 0, "not cropped", "the gradient of the padded x is returned: cut off the padding", "zero padding")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, *, stride: Any = 1, padding: Any = 0, **_: Any) -> Any:
    return _scatter(g, x, weight, stride, padding)


@wrong("conv2d", 0, "one filter", "only the first filter contributes; sum over the output channels", "convolution")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, **o: Any) -> Any:
    first = np.zeros_like(g)
    first[:, 0] = g[:, 0]
    return ref(first, x, weight, bias, **o)


@wrong("conv2d", 0, "filters reversed", "the output channels are in reverse order", "convolution")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, **o: Any) -> Any:
    return ref(g, x, weight[::-1].copy(), bias, **o)


@wrong("conv2d", 0, "channel mean", "the kernel is averaged over its input channels", "convolution")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, **o: Any) -> Any:
    return ref(g, x, np.broadcast_to(weight.mean(1, keepdims=True), weight.shape).copy(), bias, **o)


@wrong("conv2d", 1, "reversed", "dW is turned by 180 degrees", "convolution")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, **o: Any) -> Any:
    return ref(g, x, weight, bias, **o)[..., ::-1, ::-1].copy()


@wrong("conv2d", 1, "averaged", "dW is averaged over batch and positions; it is a sum", "convolution")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, **o: Any) -> Any:
    return ref(g, x, weight, bias, **o) / (g.size / g.shape[1])


@wrong("conv2d", 1, "batch mean", "dW is averaged over the batch; the loss has done that already", "convolution")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, **o: Any) -> Any:
    return ref(g, x, weight, bias, **o) / len(x)


@wrong("conv2d", 1, "padding in front", "dW is computed from x without its padding in front", "zero padding")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, *, stride: Any = 1, padding: Any = 0, **o: Any) -> Any:
    _, _, ph, pw = _geometry(x, weight, stride, padding)
    shifted = np.pad(x, ((0, 0), (0, 0), (0, 2 * ph), (0, 2 * pw)))
    return ref(g, shifted, weight, bias, stride=stride, padding=0, **o)


@wrong("conv2d", 1, "last sample", "dW is overwritten for every sample (= where += belongs)", "convolution")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, **o: Any) -> Any:
    last = np.zeros_like(g)
    last[-1] = g[-1]
    return ref(last, x, weight, bias, **o)


@wrong("conv2d", 1, "one channel", "every channel of dW uses the first channel of x", "convolution")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, **o: Any) -> Any:
    return ref(g, np.broadcast_to(x[:, :1], x.shape).copy(), weight, bias, **o)


@wrong("conv2d", 1, "dout reversed", "dout is turned by 180 degrees", "convolution")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, **o: Any) -> Any:
    return ref(g[..., ::-1, ::-1].copy(), x, weight, bias, **o)


@wrong("conv2d", 2, "one pixel", "db takes one position only; sum over batch and positions", "convolution")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, **o: Any) -> Any:
    return g[:, :, 0, 0].sum(0)


@wrong("conv2d", 2, "no positions", "db is not summed over the positions, only over the batch", "convolution")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, **o: Any) -> Any:
    return g.mean((2, 3)).sum(0)


@wrong("conv2d", 2, "mean", "db is averaged over batch and positions; it is a sum", "convolution")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, **o: Any) -> Any:
    return g.mean((0, 2, 3))


@wrong("conv2d", 2, "first sample", "only the first sample contributes to db", "convolution")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, **o: Any) -> Any:
    return g[0].sum((1, 2))


@wrong("conv2d", 2, "zero", "db is zero: the bias is forgotten", "convolution")
def _(ref: Rule, g: Any, x: Any, weight: Any, bias: Any = None, **o: Any) -> Any:
    return np.zeros(g.shape[1])


def _windows(g: Any, x: Any, kernel: Any, stride: Any) -> Any:
    kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
    sh, sw = (stride, stride) if isinstance(stride, int) else stride
    for i in range(g.shape[2]):
        for j in range(g.shape[3]):
            yield i, j, (slice(None), slice(None), slice(i * sh, i * sh + kh), slice(j * sw, j * sw + kw))


def _pooled(choose: Callable[[Any], Any], add: bool = True) -> Rule:
    """The rule of a pool without padding in which `choose(window)` gives the weights of a window."""

    def rule(ref: Rule, g: Any, x: Any, *, kernel: Any, stride: Any, **_: Any) -> Any:
        gx = np.zeros_like(x)
        for i, j, place in _windows(g, x, kernel, stride):
            part = choose(x[place]) * g[:, :, i, j][:, :, None, None]
            gx[place] = gx[place] + part if add else part
        return gx

    return rule


def _top(window: Any) -> Any:
    return (window == window.max((2, 3), keepdims=True)) * 1.0


def _mean(window: Any) -> Any:
    return np.full(window.shape, 1 / (window.shape[2] * window.shape[3]))


def _corner(window: Any) -> Any:
    weights = np.zeros(window.shape)
    weights[:, :, 0, 0] = 1.0
    return weights


for _op, _id, _text, _rule in (
    ("max_pool2d", "average", "this is the rule of average pooling", _pooled(_mean)),
    ("max_pool2d", "times value", "the gradient is multiplied by the maximum", _pooled(lambda w: _top(w) * w)),
    ("max_pool2d", "minimum", "the gradient goes to the minimum", _pooled(lambda w: _top(-w))),
    ("max_pool2d", "everyone", "every entry of a window gets the whole gradient", _pooled(np.ones_like)),
    ("max_pool2d", "corner", "the gradient goes to the first entry of each window", _pooled(_corner)),
    ("max_pool2d", "overwritten", "overlapping windows overwrite each other: += is needed", _pooled(_top, add=False)),
    ("max_pool2d", "near maximum", "entries close to the maximum count as maxima (isclose)",
     _pooled(lambda w: (w > w.max((2, 3), keepdims=True) - 0.5) * 1.0)),
    ("max_pool2d", "channel maximum", "the maximum is taken over the channels too",
     _pooled(lambda w: (w == w.max((1, 2, 3), keepdims=True)) * 1.0)),
    ("avg_pool2d", "sum", "the factor 1/(kernel size) is missing", _pooled(np.ones_like)),
    ("avg_pool2d", "twice", "the factor 1/(kernel size) is applied twice", _pooled(lambda w: _mean(w) ** 2)),
    ("avg_pool2d", "maximum", "this is the rule of max pooling", _pooled(_top)),
    ("avg_pool2d", "corner", "only the first entry of each window gets its share",
     _pooled(lambda w: _corner(w) * _mean(w))),
    ("avg_pool2d", "overwritten", "overlapping windows overwrite each other: += is needed", _pooled(_mean, add=False)),
    ("avg_pool2d", "height only", "divided by the height of the kernel only", _pooled(lambda w: _mean(w) * w.shape[3])),
):  # fmt: skip
    wrong(_op, 0, _id, _text, "pooling")(_rule)
