"""Would the checks of the op table notice a wrong rule? Each mutant below is one wrong rule, as people write them."""

import numpy as np
import pytest
from op_checks import check_first_derivatives, check_forward, check_second_derivatives

from tinygrad_cnn import ops
from tinygrad_cnn.errors import ShapeError
from tinygrad_cnn.graph import Traced
from tinygrad_cnn.op import TABLE
from tinygrad_cnn.ops import activations, elementwise, pooling, reductions


def raw(x):
    """Cut a value off from the graph: right in value, wrong in its derivative."""
    return x.array if isinstance(x, Traced) else x


# op, input, wrong rule, the mistake in words
WRONG_RULES = [
    ("sub", "b", lambda g, y, a, b: g, "a sign is lost"),
    ("mul", "a", lambda g, y, a, b: g * a, "the factors are exchanged"),
    ("div", "b", lambda g, y, a, b: -g / b, "a factor is missing"),
    ("div", "b", lambda g, y, a, b: g * y / b, "the sign of the divisor's gradient"),
    ("power", "a", lambda g, y, a, b: g * b * ops.power(a, b), "the exponent is not lowered"),
    ("power", "b", lambda g, y, a, b: g * y, "the logarithm is missing"),
    ("exp", "x", lambda g, y, x: g * x, "the input in place of the result"),
    ("log1p", "x", lambda g, y, x: g / x, "log in place of log1p"),
    ("sqrt", "x", lambda g, y, x: g / y, "the factor 1/2 is missing"),
    ("tanh", "x", lambda g, y, x: g * (1 - x * x), "the input in place of the result"),
    ("sigmoid", "x", lambda g, y, x: g * y * (y - 1), "the sign"),
    ("relu", "x", lambda g, y, x, *, at_zero: g * (raw(x) > -0.5), "the threshold"),
    (
        "leaky_relu",
        "x",
        lambda g, y, x, *, negative_slope, at_zero: activations.relu_gradient(g, x, at_zero=at_zero),
        "no slope below 0",
    ),
    ("elu", "x", lambda g, y, x, *, alpha: g * ops.where(ops.greater(x, 0), 1, y), "alpha is not added"),
    ("softplus", "x", lambda g, y, x: g * ops.tanh(x), "another S curve"),
    (
        "maximum",
        "a",
        lambda g, y, a, b, *, ties: g * elementwise.tie_share(b, a, equal_share=0.5),
        "the loser gets the gradient",
    ),
    ("clip", "x", lambda g, y, x, *, low, high: g, "the limits are forgotten"),
    ("where", "b", lambda g, y, condition, a, b: ops.where(condition, g, 0), "the branches are exchanged"),
    ("sum", "x", lambda g, y, x, *, axis, keepdims: ops.broadcast_to(ops.sum(g), shape=x.shape), "all sums are mixed"),
    (
        "mean",
        "x",
        lambda g, y, x, *, axis, keepdims: (
            ops.broadcast_to(reductions.spread(g, x, axis, keepdims) / x.shape[0], shape=x.shape) if x.shape else g
        ),
        "divided by the size of the first axis",
    ),
    (
        "var",
        "x",
        lambda g, y, x, *, axis, keepdims, correction: (
            reductions.spread(g, x, axis, keepdims)
            * (x - ops.mean(x, axis=axis, keepdims=True))
            * (2 / reductions.count_along(x, axis))
        ),
        "the correction is forgotten",
    ),
    (
        "amax",
        "x",
        lambda g, y, x, *, axis, keepdims, ties: (
            reductions.spread(g, x, axis, keepdims)
            * reductions.extreme_share(
                x, ops.amin(x, axis=axis, keepdims=keepdims), axis=axis, keepdims=keepdims, ties=ties
            )
        ),
        "the minimum gets the gradient",
    ),
    ("prod", "x", lambda g, y, x, *, axis, keepdims: reductions.spread(g * y, x, axis, keepdims) * x, "no division"),
    ("cumsum", "x", lambda g, y, x, *, axis: ops.cumsum(g, axis=axis), "summed from the wrong end"),
    ("softmax", "x", lambda g, y, x, *, axis: g * y * (1 - y), "only the diagonal of the Jacobian"),
    ("log_softmax", "x", lambda g, y, x, *, axis: g - ops.exp(y) * g, "the sum over the classes is missing"),
    (
        "logsumexp",
        "x",
        lambda g, y, x, *, axis, keepdims: reductions.spread(g, x, axis, keepdims) * 1.0 + 0 * x,
        "ones",
    ),
    (
        "transpose",
        "x",
        lambda g, y, x, *, axes: ops.transpose(g, axes=axes),
        "the permutation in place of its inverse",
    ),
    (
        "getitem",
        "x",
        lambda g, y, x, *, index: _overwrite(g, x, index),
        "places named twice are counted once",
    ),
    ("pad", "x", lambda g, y, x, *, widths, value: ops.getitem(g, index=_corner(x)), "the frame is not cut off"),
    (
        "concatenate",
        "xs",
        lambda k, g, y, *xs, axis: ops.getitem(g, index=_first(xs[k], axis)),
        "always the first part",
    ),
    ("matmul", "b", lambda g, y, a, b: TABLE_RULES["matmul", "b"](g, y, a * 2, b), "twice too large"),
    ("linear", "bias", lambda g, y, x, weight, bias=None: ops.mean(g, axis=tuple(range(len(g.shape) - 1))), "a mean"),
    (
        "conv2d",
        "x",
        lambda g, y, x, weight, bias=None, **geometry: ops.conv2d_input_gradient(
            g, ops.flip(weight, (2, 3)), size=x.shape[2:], **geometry
        ),
        "the kernel is flipped",
    ),
    (
        "conv2d",
        "weight",
        lambda g, y, x, weight, bias=None, **geometry: ops.flip(
            ops.conv2d_weight_gradient(x, g, kernel=weight.shape[2:], **geometry), (2, 3)
        ),
        "the gradient of the kernel is flipped",
    ),
    ("conv2d", "bias", lambda g, y, x, weight, bias=None, **geometry: ops.sum(g, axis=(2, 3))[0], "one image alone"),
    (
        "max_pool2d",
        "x",
        lambda g, y, x, *, ties, **geometry: pooling.max_pool2d_input_gradient(g, -x, -y, ties=ties, **geometry) * 0.5,
        "half of the gradient",
    ),
    (
        "avg_pool2d",
        "x",
        lambda g, y, x, **options: pooling.avg_pool2d_input_gradient(
            g, size=x.shape[2:], **{**options, "count_include_pad": True}
        ),
        "the padding is always counted",
    ),
    ("dropout", "x", lambda g, y, x, mask, *, scale: ops.dropout(g, mask, scale=1.0), "the scale is forgotten"),
    # Right in value, wrong as soon as they are differentiated: only second derivatives can tell.
    ("exp", "x", lambda g, y, x: g * raw(y), "the result is taken for a constant"),
    ("tanh", "x", lambda g, y, x: g * (1 - raw(y) * raw(y)), "the result is taken for a constant"),
    ("mul", "a", lambda g, y, a, b: g * raw(b), "the other factor is taken for a constant"),
    ("softmax", "x", lambda g, y, x, *, axis: raw(y) * (g - ops.sum(g * raw(y), axis=axis, keepdims=True)), "constant"),
    (
        "conv2d",
        "x",
        lambda g, y, x, weight, bias=None, **geometry: ops.conv2d_input_gradient(
            g, raw(weight), size=x.shape[2:], **geometry
        ),
        "the kernel is taken for a constant",
    ),
    ("relu", "x", lambda g, y, x, *, at_zero: raw(g) * (raw(x) > 0), "the incoming gradient is taken for a constant"),
]
TABLE_RULES = {(name, key): rule for name, op in TABLE.items() for key, rule in op.vjps.items()}


def _overwrite(g, x, index):
    gx = np.zeros(x.shape)
    gx[index] = raw(g)
    return gx


def _corner(x):
    return tuple(slice(0, n) for n in x.shape)


def _first(x, axis):
    return (slice(None),) * (axis % len(x.shape)) + (slice(0, x.shape[axis]),)


@pytest.fixture
def mutated():
    """Put a wrong rule into the table, and the right one back."""
    changed = []

    def mutate(name, key, rule):
        changed.append((TABLE[name], key, TABLE[name].vjps[key], TABLE[name].texts[key]))
        TABLE[name].vjp(key)(rule)
        return TABLE[name]

    yield mutate
    for op, key, rule, text in changed:
        op.vjp(key, text)(rule)


def check_derivatives(op):
    check_first_derivatives(op)
    check_second_derivatives(op)


def test_the_list_of_mutants_is_long_and_covers_the_families():
    assert len(WRONG_RULES) >= 20
    assert len({TABLE[name].family for name, *_ in WRONG_RULES}) >= 8


@pytest.mark.parametrize(
    ("name", "key", "rule"), [m[:3] for m in WRONG_RULES], ids=[f"{m[0]}.{m[1]}: {m[3]}" for m in WRONG_RULES]
)
def test_a_wrong_rule_is_caught(mutated, name, key, rule):
    op = mutated(name, key, rule)
    with pytest.raises((AssertionError, ShapeError)):  # a wrong shape is caught by the walk itself
        check_derivatives(op)


@pytest.mark.parametrize("name", sorted({m[0] for m in WRONG_RULES}))
def test_the_right_rule_is_back_afterwards(name):
    check_first_derivatives(TABLE[name])
    for key, rule in TABLE[name].vjps.items():
        assert rule is TABLE_RULES[name, key]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("conv2d", lambda xp, x, weight, bias=None, **o: RIGHT["conv2d"](xp, x, weight[:, :, ::-1], bias, **o)),
        ("max_pool2d", lambda xp, x, **o: xp.maximum(RIGHT["max_pool2d"](xp, x, **o), 0)),  # padded with 0
        ("var", lambda xp, x, *, axis, keepdims, correction: x.var(axis=axis, keepdims=keepdims)),
        ("softmax", lambda xp, x, *, axis: xp.exp(x) / xp.exp(x).sum()),
        ("linear", lambda xp, x, weight, bias=None: xp.matmul(x, weight.T)),
        ("argmax", lambda xp, x, *, axis, keepdims: x.argmin(axis=axis, keepdims=keepdims)),
    ],
)
def test_a_wrong_forward_function_is_caught(monkeypatch, name, wrong):
    monkeypatch.setattr(TABLE[name], "forward", wrong)
    with pytest.raises((AssertionError, ValueError)):
        check_forward(TABLE[name])


RIGHT = {name: op.forward for name, op in TABLE.items()}
