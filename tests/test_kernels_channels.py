"""Kernels that go through arrays block by block: batch normalisation and ReLU, in any memory order, in any pieces."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_cnn import Tensor, grad, ops
from tinygrad_cnn.backend import channels, threads
from tinygrad_cnn.backend import numpy_kernels as kernels
from tinygrad_cnn.nn import functional
from tinygrad_cnn.op import TABLE

quick = settings(max_examples=60, deadline=None)

LAYOUTS = {
    "rows": lambda a: a,
    "columns": np.asfortranarray,
    "rows outermost": lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 0, -1)), -1, 0),
    "channels last": lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1),
    "every second": lambda a: np.repeat(np.repeat(a, 2, axis=0), 2, axis=-1)[::2, ..., ::2],
    "backwards": lambda a: a[:, ::-1].copy()[:, ::-1],
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
}
layouts = st.sampled_from(sorted(LAYOUTS))


@st.composite
def batches(draw):
    """Return x, g, weight, bias; some channels are constant."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 7)), *draw(st.lists(st.integers(1, 4), max_size=2)))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    x = rng.normal(size=shape) + rng.integers(0, 5)
    if draw(st.booleans()):
        x[:, 0] = 3.0
    weight, bias = (rng.normal(size=shape[1]) if draw(st.booleans()) else None for _ in range(2))
    return LAYOUTS[draw(layouts)](x), LAYOUTS[draw(layouts)](rng.normal(size=shape)), weight, bias


@pytest.fixture(params=[1, 3])
def in_pieces(request, monkeypatch):
    monkeypatch.setattr(channels, "_BLOCK", 7)
    monkeypatch.setattr(channels, "_RUN", 3)
    monkeypatch.setattr(channels, "_LINE", 5)
    monkeypatch.setattr(channels, "_MEDIUM", 8)
    monkeypatch.setattr(channels, "_SHORTEST", 1)
    monkeypatch.setattr(threads, "_WORTH", 0)
    monkeypatch.setattr(threads, "cpus", lambda: request.param)


def slow_batch_norm(x, g, weight, bias, eps):
    """Return y, gx, gw, gb, mean and variance, one channel after the other."""
    y, gx = np.zeros(x.shape), np.zeros(x.shape)
    gw, gb, means, variances = (np.zeros(x.shape[1]) for _ in range(4))
    for c in range(x.shape[1]):
        mean, variance = x[:, c].mean(), x[:, c].var()
        standard = (x[:, c] - mean) / np.sqrt(variance + eps)
        w = 1 if weight is None else weight[c]
        y[:, c] = standard * w + (0 if bias is None else bias[c])
        means[c], variances[c], gw[c], gb[c] = mean, variance, (g[:, c] * standard).sum(), g[:, c].sum()
        inner = g[:, c] - g[:, c].mean() - standard * (g[:, c] * standard).mean()
        gx[:, c] = w * inner / np.sqrt(variance + eps)
    return y, gx, gw, gb, means, variances


@quick
@given(case=batches())
@pytest.mark.usefixtures("in_pieces")
def test_batch_normalisation_agrees_with_its_formula(case):
    x, g, weight, bias = case
    y, gx, gw, gb, mean, variance = slow_batch_norm(x, g, weight, bias, 1e-2)
    for a, b in zip(kernels.batch_norm(x, weight, bias, eps=1e-2), (y, mean, variance), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11)
    found = kernels.batch_norm_gradients(g, x, weight, eps=1e-2)
    for a, b in zip(found, (gx, gw, gb), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


@quick
@given(case=batches(), data=st.data())
@pytest.mark.usefixtures("in_pieces")
def test_relu_takes_over_what_belongs_to_positive_inputs_and_nothing_else(case, data):
    x, g, *_ = case
    x, g = x.copy(order="K") - 2, g.copy(order="K")
    special = data.draw(st.sampled_from([0.0, -0.0, np.nan, np.inf, -np.inf]))
    for array in (x, g):
        array.flat[data.draw(st.integers(0, x.size - 1))] = special
    y, gx = kernels.relu(x), kernels.relu_gradient(g, x)
    for place in np.ndindex(*x.shape):
        value = x[place]
        np.testing.assert_equal(y[place], value if value > 0 or np.isnan(value) else 0.0)
        np.testing.assert_equal(gx[place], g[place] if value > 0 else 0.0)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 3), (0, 3, 2, 2), ()])
def test_relu_keeps_types_and_shapes(dtype, shape):
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    for result in (ops.relu(x), ops.relu_gradient(x, x, at_zero=0.0)):
        assert result.dtype == dtype
        assert result.shape == shape


def test_large_means_do_not_swallow_the_variance():
    x = (np.random.default_rng(0).normal(size=(8, 4, 32, 32)) + 1000).astype("float32")
    y, *_ = kernels.batch_norm(x, None, None, eps=0.0)
    np.testing.assert_allclose(y.std(axis=(0, 2, 3)), 1, rtol=1e-4)
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 0, atol=1e-3)


def test_other_types_and_short_channels_are_left_to_plain_expressions():
    assert kernels.batch_norm(np.ones((4, 3, 8, 8), "float16"), None, None, eps=1e-5) is None
    assert kernels.batch_norm(np.ones((4, 3, 8, 8), "float32"), np.ones(3), None, eps=1e-5) is None
    assert kernels.batch_norm(np.ones((4, 3)), None, None, eps=1e-5) is None
    assert kernels.batch_norm(np.ones((0, 3, 8, 8)), None, None, eps=1e-5) is None
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    assert ops.batch_norm(x, np.ones(3), None, eps=1e-5).dtype == np.float64  # as in an expression


@pytest.mark.parametrize("shape", [(8, 3, 6, 6), (8, 3)])
def test_running_averages_are_those_of_the_batch(shape):
    x = np.random.default_rng(0).normal(2, 3, shape).astype("float32")
    mean, var = Tensor(np.zeros(3, "float32")), Tensor(np.ones(3, "float32"))
    y = functional.batch_norm(x, mean, var, training=True, momentum=0.25)
    axes = (0, *range(2, len(shape)))
    n = x.size // 3
    np.testing.assert_allclose(mean.numpy(), 0.25 * x.mean(axis=axes), rtol=1e-5)
    np.testing.assert_allclose(var.numpy(), 0.75 + 0.25 * x.var(axis=axes) * n / (n - 1), rtol=1e-5)
    np.testing.assert_allclose(y.numpy().mean(axis=axes), 0, atol=1e-5)


TOGETHER = sorted(name for name, op in TABLE.items() if op.together is not None)


@pytest.mark.parametrize("name", TOGETHER)
def test_gradients_computed_together_are_those_of_the_rules(name, monkeypatch):
    op, compared = TABLE[name], 0
    monkeypatch.setattr(channels, "_SHORTEST", 1)
    for arrays, options in op.samples(np.random.default_rng(0)):
        options = op.complete(options)
        y = op(*arrays, **options)
        g = np.random.default_rng(1).normal(size=y.shape)
        found = op.together(g, y, *arrays, **options)
        if found is None:
            continue
        for i in range(len(arrays)):
            np.testing.assert_allclose(found[i], op.rules[i](g, y, *arrays, **options), atol=1e-10)
            compared += 1
    assert compared >= 6


def test_a_rule_registered_later_takes_the_place_of_what_is_computed_together():
    op = TABLE["batch_norm"]
    rule, text, together = op.vjps["bias"], op.texts["bias"], op.together
    x = Tensor(np.random.default_rng(0).normal(size=(2, 3, 4, 4)), requires_grad=True)
    weight, bias = Tensor(np.ones(3), requires_grad=True), Tensor(np.zeros(3), requires_grad=True)
    try:
        op.vjp("bias", text)(lambda g, y, *inputs, **options: 0 * ops.sum(g, axis=(0, 2, 3)))
        (found,) = grad(ops.batch_norm(x, weight, bias, eps=1e-5).sum(), bias)
        assert not found.numpy().any()
    finally:
        op.vjp("bias", text)(rule)
        op.all_vjps(together)
    (found,) = grad(ops.batch_norm(x, weight, bias, eps=1e-5).sum(), bias)
    assert (found.numpy() == 32).all()


def test_only_the_gradients_that_are_wanted_arrive():
    x = Tensor(np.random.default_rng(0).normal(size=(2, 3, 4, 4)), requires_grad=True)
    weight = Tensor(np.ones(3), requires_grad=True)
    (ops.batch_norm(x.detach(), weight, None, eps=1e-5) ** 2).sum().backward()
    assert x.grad is None
    assert weight.grad is not None
