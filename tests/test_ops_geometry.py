"""Convolution and pooling in every geometry: sizes, strides, paddings, dilations and groups drawn at random."""

import threading

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from op_checks import layouts
from op_twins import TWINS

from tinygrad_cnn import Tensor, ops
from tinygrad_cnn.errors import OptionError, ShapeError
from tinygrad_cnn.op import TABLE

SMALL = st.integers(1, 3)
PAIR = st.tuples(SMALL, SMALL)
SIDE = st.tuples(st.integers(0, 2), st.integers(0, 2))


@st.composite
def convolutions(draw):
    groups = draw(st.integers(1, 2))
    kernel, stride, dilation = draw(PAIR), draw(PAIR), draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = draw(st.tuples(SIDE, SIDE))
    size = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    for n, k, (before, after), d in zip(size, kernel, padding, dilation, strict=True):
        assume(n + before + after >= d * (k - 1) + 1)
    n, c, o = draw(st.integers(0, 3)), groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return (n, c, *size), (o, c // groups, *kernel), options, draw(st.integers(0, 3)), draw(st.integers(0, 2**31))


@settings(max_examples=120, deadline=None)
@given(convolutions())
def test_convolution_and_its_gradients_equal_loops_in_every_geometry(drawn):
    x_shape, w_shape, options, layout, seed = drawn
    rng = np.random.default_rng(seed)
    x, w, b = rng.normal(size=x_shape), rng.normal(size=w_shape), rng.normal(size=w_shape[0])
    y = TWINS["conv2d"](x, w, b, **options)
    x, w = list(layouts(x))[layout], list(layouts(w))[layout]
    assert np.allclose(ops.conv2d(x, w, b, **options), y)
    g = list(layouts(rng.normal(size=y.shape)))[layout]
    expected = TWINS["conv2d_input_gradient"](g, w, size=x.shape[2:], **options)
    assert np.allclose(ops.conv2d_input_gradient(g, w, size=x.shape[2:], **options), expected)
    expected = TWINS["conv2d_weight_gradient"](x, g, kernel=w.shape[2:], **options)
    assert np.allclose(ops.conv2d_weight_gradient(x, g, kernel=w.shape[2:], **options), expected)


@st.composite
def pools(draw):
    kernel, stride = draw(PAIR), draw(PAIR)
    padding = tuple((draw(st.integers(0, k // 2)), draw(st.integers(0, k // 2))) for k in kernel)
    size = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    options = {"kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": draw(st.booleans())}
    shape = (draw(st.integers(0, 2)), draw(st.integers(1, 2)), *size)
    return shape, options, draw(st.integers(0, 3)), draw(st.integers(0, 2**31))


def fits(op, shape, options):
    """Tell whether the op accepts the geometry; what it refuses, it has to refuse by itself, too."""
    try:
        op.shape(shape, **options)
    except (ShapeError, OptionError) as error:
        with pytest.raises(type(error)):
            op(np.zeros(shape), **options)
        return False
    return True


@settings(max_examples=120, deadline=None)
@given(pools(), st.sampled_from(["first", "split"]), st.tuples(st.integers(1, 2), st.integers(1, 2)), st.booleans())
def test_max_pooling_and_its_gradients_equal_loops_in_every_geometry(drawn, ties, dilation, tied):
    shape, options, layout, seed = drawn
    options = TABLE["max_pool2d"].complete({**options, "ties": ties, "dilation": dilation})
    assume(fits(TABLE["max_pool2d"], shape, options))
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 2, size=shape).astype(float) if tied else rng.normal(size=shape)
    y = TWINS["max_pool2d"](x, **options)
    x = list(layouts(x))[layout]
    assert np.array_equal(ops.max_pool2d(x, **options), y)
    g, u = rng.normal(size=y.shape), rng.normal(size=shape)
    for name, values in (("max_pool2d_input_gradient", (g, x, y)), ("max_pool2d_select", (u, x, y))):
        assert np.allclose(TABLE[name](*values, **options), TWINS[name](*values, **options)), name


@settings(max_examples=120, deadline=None)
@given(pools(), st.booleans(), st.sampled_from([None, None, 3]))
def test_average_pooling_and_its_gradient_equal_loops_in_every_geometry(drawn, counted, divisor):
    shape, options, layout, seed = drawn
    options = TABLE["avg_pool2d"].complete({**options, "count_include_pad": counted, "divisor_override": divisor})
    assume(fits(TABLE["avg_pool2d"], shape, options))
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    y = TWINS["avg_pool2d"](x, **options)
    x = list(layouts(x))[layout]
    assert np.allclose(ops.avg_pool2d(x, **options), y)
    g = rng.normal(size=y.shape)
    expected = TWINS["avg_pool2d_input_gradient"](g, size=shape[2:], **options)
    assert np.allclose(ops.avg_pool2d_input_gradient(g, size=shape[2:], **options), expected)


# The kernels of LeNet-5: the shapes that fast paths are written for


LENET = [
    ((5, 1, 28, 28), (6, 1, 5, 5), {"padding": 2}),
    ((5, 6, 14, 14), (16, 6, 5, 5), {}),
    ((64, 1, 28, 28), (6, 1, 5, 5), {"padding": 2}),
    ((3, 3, 9, 9), (4, 3, 3, 3), {"padding": 1}),
    ((2, 4, 6, 6), (8, 4, 1, 1), {}),
]


def pytorch_free_convolution(x, w, options):
    """Convolve by one shifted product per element of the kernel."""
    p = options.get("padding", 0)
    x = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
    oh, ow = x.shape[2] - w.shape[2] + 1, x.shape[3] - w.shape[3] + 1
    return sum(
        np.einsum("nchw,oc->nohw", x[:, :, i : i + oh, j : j + ow], w[:, :, i, j])
        for i in range(w.shape[2])
        for j in range(w.shape[3])
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("x_shape", "w_shape", "options"), LENET, ids=str)
def test_the_layers_of_lenet_in_both_float_types(x_shape, w_shape, options, dtype):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=x_shape), rng.normal(size=w_shape)
    y = pytorch_free_convolution(x, w, options)
    g = rng.normal(size=y.shape)
    tolerance = {"rtol": 1e-3, "atol": 2e-3} if dtype == "float32" else {"rtol": 1e-9, "atol": 1e-9}
    values = [Tensor(v, dtype=dtype, requires_grad=True) for v in (x, w)]
    found = ops.conv2d(*values, **options)
    assert found.dtype == np.dtype(dtype)
    assert np.allclose(found.array, y, **tolerance)
    found.backward(g)
    # <g, conv(x, w)> is linear in x and in w, so the gradient along a direction is a difference, exactly.
    for value, i in zip(values, (0, 1), strict=True):
        direction = rng.normal(size=value.shape)
        moved = [x, w]
        moved[i] = moved[i] + direction
        change = ((pytorch_free_convolution(*moved, options) - y) * g).sum()
        assert np.isclose((value.grad.array.astype(float) * direction).sum(), change, rtol=1e-3, atol=0.5)


# Buffers that kernels use again must never show


@pytest.mark.parametrize("name", [name for name, op in TABLE.items() if op.family in ("convolution", "pooling")])
def test_a_result_does_not_change_when_the_op_runs_again(name):
    op = TABLE[name]
    for arrays, options in op.samples(np.random.default_rng(0)):
        first = op(*arrays, **options)
        kept = first.copy()
        others = [x * 2 + 1 if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x for x in arrays]
        second = op(*others, **options)
        assert not np.shares_memory(first, second)
        assert np.array_equal(first, kept)


def test_threads_convolve_side_by_side():
    rng = np.random.default_rng(0)
    work = [(rng.normal(size=(8, 3, 12, 12)), rng.normal(size=(4, 3, 5, 5))) for _ in range(4)]
    expected = [ops.conv2d(x, w, padding=2) for x, w in work]
    wrong = []

    def convolve(k):
        for _ in range(30):
            x, w = work[k]
            values = Tensor(x, requires_grad=True), Tensor(w, requires_grad=True)
            y = ops.max_pool2d(ops.conv2d(*values, padding=2), kernel=2, stride=2)
            y.sum().backward()
            if not np.array_equal(ops.conv2d(x, w, padding=2), expected[k]):
                wrong.append(k)

    threads = [threading.Thread(target=convolve, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_an_infinite_gradient_does_not_pass_a_closed_relu():
    x = Tensor([-1.0, 0.0, 2.0], requires_grad=True)
    x.relu().backward(np.array([np.inf, np.inf, np.inf], np.float32))
    assert x.grad.tolist() == [0.0, 0.0, np.inf]
