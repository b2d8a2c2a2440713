"""The kernels of the recorded step on a GPU, compiled for the CPU, against obvious twins in NumPy."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from cuda_on_cpu import COMPILER, BarrierError, CpuModule
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn.backend import cuda_kernels, numpy_kernels
from tinygrad_cnn.backend.device_program import _ConvolutionPlan
from tinygrad_cnn.backend.fused import Convolution

pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is not installed")

FOLDER = Path(cuda_kernels.__file__).parent
REALS = {"float": np.float32, "double": np.float64}
STORED = {0: None, 1: np.dtype(np.float16), 2: np.dtype(ml_dtypes.bfloat16)}
DEAD = 255


def text(name):
    parts = ("program_types.cu", "philox.cu", name)
    return "".join((FOLDER / part).read_text(encoding="utf-8") for part in parts)


def step_module(real="float", storage=0, seed=0, code=None):
    return CpuModule(code or text("program.cu"), (f"-DREAL={real}", f"-DSTORAGE={storage}"), seed=seed)


def launch(module, name, blocks, threads, *arguments):
    module.get_function(name)((blocks,), (threads,), [np.int32(a) if isinstance(a, int) else a for a in arguments])


def stored(values, real, storage):
    """Return values as the kernels store them, and as the numbers they then are."""
    if not storage:
        kept = np.ascontiguousarray(values, REALS[real])
        return kept, kept
    kept = np.ascontiguousarray(values.astype(STORED[storage]))
    return kept.view(np.uint16), kept.astype(np.float32)


def read(array, real, storage):
    return array if not storage else array.view(STORED[storage]).astype(np.float32)


def close(found, expected, real, storage=0):
    tolerance = {0: {"float": 2e-5, "double": 1e-11}[real], 1: 2e-3, 2: 2e-2}[storage]
    scale = float(np.abs(expected).max()) if expected.size else 1.0
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * max(scale, 1e-30))


KINDS = st.sampled_from([("double", 0), ("float", 0), ("float", 1), ("float", 2)])


# Storage --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [1, 2])
def test_numbers_are_rounded_to_storage_as_numpy_rounds_them(storage):
    every = np.arange(1 << 16, dtype=np.uint16).view(STORED[storage]).astype(np.float32)
    exact = every[np.isfinite(every)]
    ordered = np.unique(exact).astype(np.float64)
    halfway = ((ordered[1:] + ordered[:-1]) / 2).astype(np.float32)
    rng = np.random.default_rng(0)
    drawn = np.exp(rng.uniform(-40, 40, 5000)).astype(np.float32) * rng.choice([-1, 1], 5000).astype(np.float32)
    values = np.concatenate([every, halfway, drawn, (exact * np.float32(1.0009765625))]).astype(np.float32)
    copy = np.zeros(values.shape, np.uint16)
    launch(step_module("float", storage), "to_storage", 4, 256, values, copy, np.int64(values.size))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(STORED[storage])
    np.testing.assert_array_equal(read(copy, "float", storage), expected.astype(np.float32))


# Convolutions ---------------------------------------------------------------------------------------------------------


def layer(
    channels, size, kernel, stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), pool=(1, 1), relu=True, bias=True
):
    return Convolution(0, 1 if bias else None, channels, size, kernel, stride, padding, dilation, relu, pool)


CONVOLUTIONS = {
    "LeNet-5, first": layer((1, 6), (28, 28), (5, 5), padding=((2, 2), (2, 2)), pool=(2, 2)),
    "LeNet-5, second": layer((6, 16), (14, 14), (5, 5), pool=(2, 2)),
    "no pool, no relu, no bias": layer((3, 4), (7, 9), (3, 3), padding=((1, 1), (1, 1)), relu=False, bias=False),
    "strides": layer((2, 5), (13, 11), (3, 2), stride=(2, 3), padding=((1, 0), (2, 1))),
    "strides and pool": layer((2, 3), (14, 13), (3, 3), stride=(2, 1), pool=(2, 2)),
    "dilation": layer((2, 3), (12, 11), (3, 2), dilation=(2, 3), pool=(2, 1)),
    "rows left over": layer((1, 2), (10, 8), (2, 2), pool=(2, 2), relu=False),
    "odd sizes": layer((5, 7), (5, 7), (3, 3), padding=((1, 1), (1, 1)), pool=(1, 2)),
    "one by one": layer((4, 3), (6, 5), (1, 1), pool=(2, 2)),
    "large kernel": layer((2, 3), (17, 15), (7, 7), padding=((3, 3), (3, 3)), pool=(2, 2)),
    "many maps": layer((12, 40), (8, 8), (3, 3), padding=((1, 1), (1, 1)), pool=(2, 2)),
}


def twin(x, weight, bias, g, it):
    """Convolution, bias, ReLU, pool and all gradients by the kernels of eager ops, in float64."""
    geometry = {"stride": it.stride, "padding": it.padding, "dilation": it.dilation, "groups": 1}
    window = {"kernel": it.pool, "stride": it.pool, "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}
    z = numpy_kernels.conv2d(x, weight, bias, **geometry)
    h = np.maximum(z, 0) if it.relu else z
    y = numpy_kernels.max_pool2d(h, output=it.pooled, **window)
    gh = numpy_kernels.max_pool2d_input_gradient(g, h, y, ties="first", **window)
    gz = np.where(z > 0, gh, 0) if it.relu else gh
    gx = numpy_kernels.conv2d_input_gradient(gz, weight, size=it.size, **geometry)
    gw = numpy_kernels.conv2d_weight_gradient(x, gz, kernel=it.kernel, **geometry)
    return y, gx, gw, gz.sum(axis=(0, 2, 3))


def run_convolution(it, n, real, storage, rng, seed=0, code=None, values=None, **constants):
    """Run the three kernels, and return the results with those of the twin on the same numbers."""
    (c, o), kind = it.channels, REALS[real]
    shapes = (n, c, *it.size), (o, c, *it.kernel), (o,), (n, o, *it.pooled)
    drawn = values or [rng.normal(size=s) for s in shapes]
    kept = [stored(v, real, storage) for v in drawn]
    (x, x_), (weight, weight_), (bias, bias_), (g, g_) = kept
    plan = _ConvolutionPlan(it, n, kind, first=False)
    constants = plan.constants | constants
    options = (f"-DREAL={real}", f"-DSTORAGE={storage}", *(f"-D{k}={v}" for k, v in constants.items()))
    module = CpuModule(code or text("program_convolution.cu"), options, seed=seed)
    y, gx = np.full(g.shape, 7, g.dtype), np.full(x.shape, 7, x.dtype)
    switches = np.full(g.shape, 77, np.uint8)
    stride = weight.size + o
    partials = np.full((plan.sum_blocks, stride), np.nan, kind)
    launch(module, "convolution_forward", n * plan.out.blocks, plan.out.threads, x, weight, bias, y, switches)
    launch(
        module, "convolution_weight_gradient", plan.sum_blocks * plan.sum_parts, 256, x, g, switches, partials, n
    )  # fmt: skip
    launch(module, "convolution_input_gradient", n * plan.into.blocks, plan.into.threads, g, switches, weight, gx)
    sums = partials.sum(axis=0)
    found = (
        read(y, real, storage),
        read(gx, real, storage),
        sums[: weight.size].reshape(weight.shape),
        sums[weight.size :],
    )
    wide = [v.astype(np.float64) for v in (x_, weight_, bias_, g_)]
    wide[2] = wide[2] if it.bias is not None else None
    return found, twin(*wide, it), it


@pytest.mark.parametrize("name", CONVOLUTIONS)
@settings(max_examples=3)
@given(n=st.integers(1, 3), kind=KINDS, seed=st.integers(0, 99))
def test_convolutions_and_their_gradients_equal_those_of_eager_ops(name, n, kind, seed):
    real, storage = kind
    found, expected, it = run_convolution(CONVOLUTIONS[name], n, real, storage, np.random.default_rng(seed))
    for a, b in zip(found[: 4 if it.bias is not None else 3], expected, strict=False):
        close(a, b, real, storage)


@pytest.mark.parametrize("chunk", [1, 4, 5, 7])
def test_the_maps_of_a_gradient_may_come_in_chunks(chunk):
    it = CONVOLUTIONS["odd sizes"]
    found, expected, _ = run_convolution(it, 2, "double", 0, np.random.default_rng(0), CHUNK=chunk)
    close(found[1], expected[1], "double")


@pytest.mark.parametrize("n", [1, 16, 64, 256, 4096])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_batch_gets_a_cut_that_covers_the_layer_and_fits(name, n):
    it = CONVOLUTIONS[name]
    for kind in (np.float32, np.float64):
        plan = _ConvolutionPlan(it, n, kind, first=False)
        size = np.dtype(kind).itemsize
        k = plan.constants
        (c, o), (h, w), (ph, _) = it.channels, it.size, it.pooled
        parts, bands = -(-o // k["OUT_MAPS"]), -(-ph // k["OUT_ROWS"])
        assert plan.out.blocks == parts * bands
        assert plan.into.blocks == -(-c // k["IN_MAPS"]) * -(-h // k["IN_ROWS"])
        assert k["IN_ROWS"] % 2 == 0
        assert plan.out.threads <= 256
        groups = -(-k["IN_MAPS"] // k["IN_EACH"])
        assert k["ITEMS"] * plan.into.threads >= k["IN_ROWS"] // 2 * ((w + 1) // 2) * groups
        assert k["ITEMS"] * k["IN_EACH"] <= 8
        chunks = k["CHUNK"] * ((k["IN_ROWS"] + (it.kernel[0] - 1) * it.dilation[0]) * w) * size
        assert chunks <= 48 << 10


def test_of_equal_values_in_a_window_the_first_gets_the_gradient():
    it = layer((1, 1), (4, 4), (1, 1), pool=(2, 2))
    x = np.array([[[[1, 1, 2, 3], [1, 1, 3, 3], [-1, 0, -2, -2], [0, -5, -2, -2]]]], float)
    g = np.array([[[[1.0, 2.0], [4.0, 8.0]]]])
    values = [x, np.ones((1, 1, 1, 1)), np.zeros(1), g]
    found, expected, _ = run_convolution(it, 1, "double", 0, None, values=values)
    assert found[1].tolist() == [[[[1, 0, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]]
    np.testing.assert_array_equal(found[1], expected[1])


def test_a_nan_is_larger_than_everything_and_passes_no_gradient_on():
    it = layer((1, 1), (2, 2), (1, 1), pool=(2, 2))
    values = [np.array([[[[5.0, np.nan], [np.inf, 1.0]]]]), np.ones((1, 1, 1, 1)), np.zeros(1), np.ones((1, 1, 1, 1))]
    with np.errstate(invalid="ignore"):
        found, _, _ = run_convolution(it, 1, "double", 0, None, values=values)
    assert np.isnan(found[0]).all()
    assert not found[1].any()


# Linear layers --------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    n=st.integers(1, 40), into=st.integers(1, 300), out=st.integers(1, 40), kind=KINDS, relu=st.booleans(),
    bias=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_linear_layers_and_their_gradients_equal_matrix_products(n, into, out, kind, relu, bias, seed):
    real, storage = kind
    rng, module = np.random.default_rng(seed), step_module(*kind)
    (x, x_), (w, w_), (b, b_), (g, g_) = (
        stored(rng.normal(size=s), real, storage) for s in ((n, into), (out, into), (out,), (n, out))
    )
    y, gx = np.full((n, out), 7, x.dtype), np.full((n, into), 7, x.dtype)
    z = np.full((n, out), np.nan, REALS[real])
    gw, gb = np.full((out, into), np.nan, REALS[real]), np.full(out, np.nan, REALS[real])
    down, across = -(-n // 16), -(-out // 16)
    launch(module, "linear_forward", down * across, 256, x, w, b, y, int(bias), int(relu), n, into, out)
    launch(module, "linear_logits", down * across, 256, x, w, b, z, int(bias), int(relu), n, into, out)
    launch(
        module, "linear_weight_gradient", across * -(-(into + bias) // 16), 256, g, x, gw, gb, int(bias), n, into, out
    )  # fmt: skip
    launch(module, "linear_input_gradient", down * -(-into // 16), 256, g, w, x, gx, int(relu), n, into, out)
    x_, w_, b_, g_ = (v.astype(np.float64) for v in (x_, w_, b_, g_))
    expected = x_ @ w_.T + (b_ if bias else 0)
    expected = np.maximum(expected, 0) if relu else expected
    close(read(y, real, storage), expected, real, storage)
    close(z, expected, real)
    close(gw, g_.T @ x_, real)
    close(read(gx, real, storage), np.where((x_ > 0) | (not relu), g_ @ w_, 0), real, storage)
    if bias:
        close(gb, g_.sum(axis=0), real)
    else:
        assert np.isnan(gb).all()


@settings(max_examples=10)
@given(n=st.integers(1, 150), out=st.integers(1, 70), kind=KINDS, relu=st.booleans(), seed=st.integers(0, 99))
def test_what_comes_before_and_after_a_library_product(n, out, kind, relu, seed):
    real, storage = kind
    rng, module = np.random.default_rng(seed), step_module(*kind)
    (y, y_), (b, b_), (g, g_) = (stored(rng.normal(size=s), real, storage) for s in ((n, out), (out,), (n, out)))
    before, z, parts = y_.astype(np.float64), y_.astype(REALS[real]), -(-n // 64)
    y, g = y.copy(), g.copy()
    launch(module, "add_bias", 2, 256, y, b, 1, int(relu), n, out)
    launch(module, "add_bias_to_logits", 2, 256, z, b, 1, int(relu), n, out)
    expected = before + b_
    expected = np.maximum(expected, 0) if relu else expected
    close(read(y, real, storage), expected, real, storage)
    close(z, expected, real)
    launch(module, "relu_gradient", 2, 256, g, y, np.int64(n * out))
    masked = np.where(read(y, real, storage) > 0, g_, 0).astype(np.float64)
    np.testing.assert_array_equal(read(g, real, storage), masked)
    partials = np.full((parts, out), np.nan, REALS[real])
    launch(module, "column_sums", -(-out // 32) * parts, 256, g, partials, n, out, 64)
    close(partials.sum(axis=0), masked.sum(axis=0), real)


# Loss, sums, update ---------------------------------------------------------------------------------------------------


def fresh(**values):
    counts = ("steps", "rate", "root", "scale", "growth", "overflowed", "cursor", "skipped", "scaling", "interval")
    places = ("lr", "beta1", "beta2", "eps", "decay", "decoupled", *counts)
    state = np.zeros(19)
    state[9] = 1
    for name, value in values.items():
        state[places.index(name)] = value
    return state


@settings(max_examples=25)
@given(
    n=st.integers(1, 60), k=st.integers(1, 80), kind=KINDS, size=st.sampled_from([1.0, 300.0]),
    scale=st.sampled_from([1.0, 64.0]), ignored=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_the_loss_and_its_gradient_equal_the_formula(n, k, kind, size, scale, ignored, seed):
    real, storage = kind
    rng = np.random.default_rng(seed)
    z = (rng.normal(size=(n, k)) * size).astype(REALS[real])
    labels = rng.integers(0, k, n)
    if ignored:
        labels[rng.integers(0, n)] = -100
    state, g = fresh(scale=scale, overflowed=1), np.full((n, k), 7, np.uint16 if storage else REALS[real])
    blocks = min(3, -(-n // 8))
    losses = np.full(blocks, np.nan, REALS[real])
    launch(step_module(*kind), "softmax_loss", blocks, 256, z, labels, state, g, losses, n, k, np.int64(-100))
    counts = labels != -100
    if not counts.any():
        return
    wide = z.astype(np.float64)
    shifted = wide - wide.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    expected = -log_p[np.arange(n), np.where(counts, labels, 0)][counts].mean()
    np.testing.assert_allclose(losses.sum(), expected, rtol=1e-4 if real == "float" else 1e-10, atol=1e-5)
    one_hot = np.arange(k) == labels[:, None]
    close(read(g, real, storage), (np.exp(log_p) - one_hot) * counts[:, None] * scale / counts.sum(), real, storage)
    assert state[11] == 0


def test_a_label_that_is_no_class_makes_the_loss_nan():
    for label in (-1, 4, 1 << 40):
        z, state = np.zeros((3, 4), np.float32), fresh()
        g, losses = np.zeros((3, 4), np.float32), np.zeros(1, np.float32)
        launch(
            step_module(), "softmax_loss", 1, 256, z, np.array([0, label, 1]), state, g, losses, 3, 4, np.int64(-100)
        )
        assert np.isnan(losses[0])


@settings(max_examples=15)
@given(parts=st.integers(1, 40), size=st.integers(1, 100), scale=st.sampled_from([1.0, 8.0]), seed=st.integers(0, 99))
def test_sums_are_finished_in_the_gradient_and_divided_by_the_scale(parts, size, scale, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(parts, size))
    partials = np.concatenate([[0.25, 0.5], values.ravel()])
    gradient = np.concatenate([np.full(size, np.nan), rng.normal(size=50)])
    before = gradient.copy()
    pieces = [[-1, 1, 0, 2, 1]]
    pieces += [[e, min(32, size - e), 2 + e, parts, size] for e in range(0, size, 32)]
    pieces += [[size, 50, 0, 0, 0]]
    state, loss, losses = fresh(scale=scale, cursor=2, lr=0.1, beta1=0.9, beta2=0.99, steps=4), np.zeros(1), np.zeros(4)
    launch(
        step_module("double"), "finish", len(pieces), 256, np.array(pieces, np.int64), partials, gradient, loss, losses,
        state,
    )  # fmt: skip
    np.testing.assert_allclose(gradient[:size], values.sum(axis=0) / scale, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gradient[size:], before[size:] / scale)
    assert losses.tolist() == [0, 0, 0.75, 0]
    assert loss[0] == 0.75
    assert state[12] == 3
    np.testing.assert_allclose(state[[7, 8]], [0.1 / (1 - 0.9**5), np.sqrt(1 - 0.99**5)])
    assert state[11] == 0


@pytest.mark.parametrize("place", ["sum", "complete"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_gradient_that_is_not_finite_is_noted(place, value):
    partials, gradient = np.ones(10, np.float32), np.ones(8, np.float32)
    (partials if place == "sum" else gradient)[6] = value
    pieces = np.array([[-1, 1, 0, 1, 1], [0, 4, 2, 2, 4], [4, 4, 0, 0, 0]], np.int64)
    state = fresh()
    launch(step_module(), "finish", 3, 256, pieces, partials, gradient, np.zeros(1, "f4"), np.zeros(1, "f4"), state)
    assert state[11] == 1


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("real", REALS)
def test_the_update_equals_that_of_numpy_over_ten_steps(real, decoupled):
    kind, module = REALS[real], step_module(real)
    rng = np.random.default_rng(0)
    start, options = rng.normal(size=1000).astype(kind), {"lr": 1e-2, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    p, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    q, mq, vq = start.astype(np.float64), np.zeros(1000), np.zeros(1000)
    state = fresh()
    launch(module, "set_options", 1, 1, state, *map(np.float64, (1e-2, 0.9, 0.999, 1e-8, 0.1, float(decoupled))))
    pieces = np.array([[-1, 1, 0, 1, 1]], np.int64)
    for step in range(1, 11):
        g = rng.normal(size=1000).astype(kind)
        launch(
            module, "finish", 1, 256, pieces, np.zeros(1, kind), g, np.zeros(1, kind), np.zeros(20, kind), state
        )  # fmt: skip
        launch(module, "adam", 4, 256, p, g, m, v, state, np.int64(1000))
        numpy_kernels.adam_step(
            q, g.astype(np.float64), mq, vq, step=step, weight_decay=0.1, decoupled=decoupled, **options
        )
        assert state[6] == step
    np.testing.assert_allclose(p, q, rtol=1e-5 if real == "float" else 1e-12, atol=1e-6 if real == "float" else 0)
    np.testing.assert_allclose(v, vq, rtol=2e-6 if real == "float" else 1e-12)


def test_an_overflow_takes_no_step_and_halves_the_scale_which_grows_again():
    module = step_module()
    p, g, m, v = (np.ones(5, np.float32) for _ in range(4))
    state = fresh(scaling=1, scale=8, overflowed=1, interval=2, steps=3, growth=1)
    launch(module, "adam", 1, 256, p, np.full(5, np.inf, np.float32), m, v, state, np.int64(5))
    assert (p == 1).all()
    assert (m == 1).all()
    assert [state[i] for i in (6, 9, 10, 13)] == [3, 4, 0, 1]
    state[[0, 1, 2, 3, 7, 8, 11]] = 0.1, 0.9, 0.99, 1e-8, 0.1, 1, 0
    for scale in (4, 8, 8, 16):
        launch(module, "adam", 1, 256, p, g, m, v, state, np.int64(5))
        assert state[9] == scale
    assert state[6] == 7
    assert (p != 1).all()


# Batches --------------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    n=st.integers(1, 9), shape=st.sampled_from([(28, 28), (3, 5), (1, 1), (2, 2)]), kind=KINDS,
    zero=st.sampled_from([0.0, 33.3]), seed=st.integers(0, 99),
)  # fmt: skip
def test_batches_are_gathered_and_normalised_to_the_last_bit(n, shape, kind, zero, seed):
    real, storage = kind
    rng, size, real_type = np.random.default_rng(seed), int(np.prod(shape)), REALS[real]
    images, labels = rng.integers(0, 256, (7, *shape), np.uint8), rng.integers(0, 10, 7)
    order = rng.integers(0, 7, 3 * n)
    order[n] = bad = rng.choice([-1, 7, 1 << 40])
    for cursor in range(3):
        x = np.zeros((n, size), np.uint16 if storage else real_type)
        targets = np.zeros(n, np.int64)
        launch(
            step_module(*kind), "gather_batch", 3, 256, images, labels, order, fresh(cursor=cursor), x, targets, n,
            size, np.int64(7), real_type(zero), real_type(71.5),
        )  # fmt: skip
        rows = order[cursor * n : cursor * n + n]
        found = read(x, real, storage)
        for i, row in enumerate(rows):
            if row == bad:
                assert not found[i].any()
                assert targets[i] == -(2**63)
                continue
            expected = (images[row].ravel().astype(real_type) - real_type(zero)) / real_type(71.5)
            expected = read(stored(expected, real, storage)[0], real, storage)
            np.testing.assert_array_equal(found[i], expected)
            assert targets[i] == labels[row]


def test_batches_and_numbers_are_brought_in_and_counted_from_the_start():
    rng, module = np.random.default_rng(0), step_module("float", 1)
    x, labels, state = rng.normal(size=700).astype(np.float32), rng.integers(0, 9, 5), fresh(cursor=5)
    copy, targets, order = np.zeros(700, np.uint16), np.zeros(5, np.int64), np.zeros(9, np.int64)
    launch(module, "load_batch", 2, 256, x, labels, copy, targets, state, np.int64(700), 5)
    np.testing.assert_array_equal(copy.view(np.float16), x.astype(np.float16))
    np.testing.assert_array_equal(targets, labels)
    assert state[12] == 0
    state[12] = 5
    launch(module, "load_order", 1, 256, labels, order, state, np.int64(5))
    assert order.tolist() == [*labels.tolist(), 0, 0, 0, 0]
    assert state[12] == 0
    launch(module, "set_value", 1, 1, state, 6, np.float64(41))
    assert state[6] == 41


# Random numbers -------------------------------------------------------------------------------------------------------

# The known answers that the authors of Philox publish with it: counter, key, result.
ANSWERS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def philox_twin(counter, key):
    """Philox 4x32-10 with Python's whole numbers."""
    (a, b, c, d), (k, m), word = counter, key, 0xFFFFFFFF
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ k, q & word, (p >> 32) ^ d ^ m, p & word
        k, m = (k + 0x9E3779B9) & word, (m + 0xBB67AE85) & word
    return [a, b, c, d]


def kept(n, p, which, key, call):
    """Which of n elements stay, with `which` as the second word of the counter."""
    key = [key & 0xFFFFFFFF, key >> 32]
    words = [philox_twin([t, which, call & 0xFFFFFFFF, call >> 32], key) for t in range(-(-n // 4))]
    return (np.array(words).ravel()[:n] >> 8) / 2.0**24 >= p


@pytest.mark.parametrize(("counter", "key", "answer"), ANSWERS)
def test_philox_gives_the_published_answers(counter, key, answer):
    assert philox_twin(counter, key) == answer
    code = (FOLDER / "philox.cu").read_text(encoding="utf-8") + (
        'extern "C" __global__ void words(const unsigned* in, unsigned* out) {'
        " Words w = philox(in[0], in[1], in[2], in[3], in[4], in[5]);"
        " for (int i = 0; i < 4; i++) out[i] = w.at[i]; }"
    )
    out = np.zeros(4, np.uint32)
    launch(CpuModule(code), "words", 1, 1, np.array([*counter, *key], np.uint32), out)
    assert out.tolist() == answer


@settings(max_examples=20)
@given(
    n=st.integers(1, 3000), p=st.floats(0, 1), key=st.integers(0, 2**64 - 1), call=st.integers(0, 2**40), kind=KINDS
)  # fmt: skip
def test_dropout_keeps_what_the_twin_keeps(n, p, key, call, kind):
    eager = CpuModule(
        "".join((FOLDER / part).read_text(encoding="utf-8") for part in ("philox.cu", "kernels.cu")), ("-DREAL=float",)
    )
    mask = np.zeros(n, bool)
    launch(
        eager, "keep_mask", 2, 256, mask, np.int64(n), np.float64(p), np.uint64(key).astype(np.int64), np.int64(call)
    )  # fmt: skip
    np.testing.assert_array_equal(mask, kept(n, p, 0, key, call))
    # In a recorded step the second word of the counter tells layers apart.
    real, storage = kind
    values, as_read = stored(np.random.default_rng(n).normal(size=n), real, storage)
    values, state = values.copy(), np.concatenate([fresh()[:16], [key & 0xFFFFFFFF, key >> 32, call]])
    launch(
        step_module(*kind), "dropout", 2, 256, values, state, np.int64(n), np.float64(p), REALS[real](2), 3
    )  # fmt: skip
    np.testing.assert_array_equal(read(values, real, storage), np.where(kept(n, p, 4, key, call), as_read * 2, 0))


def test_elements_are_dropped_as_often_as_asked_and_independently_of_their_neighbours():
    tg.manual_seed(3)
    table = cuda_kernels.CudaKernels(np, None, CpuModule)
    first, second = table.keep_mask((200_000,), 0.3), table.keep_mask((200_000,), 0.3)
    deviation = (0.3 * 0.7 / 200_000) ** 0.5
    for mask in (first, second):
        assert abs(mask.mean() - 0.7) < 4 * deviation
    joint = 4 * (0.49 * 0.51 / 200_000) ** 0.5
    for other in (second, np.roll(first, 1), np.roll(first, 4)):
        assert abs((first & other).mean() - 0.49) < joint
    tg.manual_seed(3)
    np.testing.assert_array_equal(table.keep_mask((200_000,), 0.3), first)
    assert table.keep_mask((3, 4), 0.0).all()
    assert not table.keep_mask((3, 4), 1.0).any()


# Barriers -------------------------------------------------------------------------------------------------------------


def everything(code, seed):
    """Run the kernels that share memory on inputs large enough that every loop turns, and return all results."""
    rng = np.random.default_rng(0)
    module = step_module("double", 0, seed, code=code)
    n, into, out = 20, 150, 20
    x, w, b, g = (rng.normal(size=s) for s in ((n, into), (out, into), (out,), (n, out)))
    y, gw, gb, gx = (np.zeros(s) for s in ((n, out), (out, into), (out,), (n, into)))
    launch(module, "linear_forward", 4, 256, x, w, b, y, 1, 0, n, into, out)
    launch(module, "linear_weight_gradient", 20, 256, g, x, gw, gb, 1, n, into, out)
    launch(module, "linear_input_gradient", 20, 256, g, w, x, gx, 0, n, into, out)
    z, labels = rng.normal(size=(300, 40)), rng.integers(0, 40, 300)
    gz, losses, partials = np.zeros((300, 40)), np.zeros(2), np.zeros((2, 40))
    launch(module, "softmax_loss", 2, 256, z, labels, fresh(), gz, losses, 300, 40, np.int64(-100))
    launch(module, "column_sums", 4, 256, gz, partials, 300, 40, 150)
    pieces, gradient = np.array([[0, 32, 0, 30, 40]], np.int64), np.zeros(32)
    launch(module, "finish", 1, 256, pieces, z, gradient, np.zeros(1), np.zeros(1), fresh())
    return y, gw, gb, gx, gz, losses, partials, gradient


def all_of_a_convolution(code, seed):
    # Three chunks of maps, and several images per block: no more than two are allowed to add up.
    it = layer((2, 6), (12, 12), (3, 3), pool=(2, 2))
    return run_convolution(it, 4, "double", 0, np.random.default_rng(0), seed, code, CHUNK=2)[0]


def without_barrier(name, which):
    parts = text(name).split("__syncthreads();")
    return "__syncthreads();".join(parts[: which + 1]) + ";" + "__syncthreads();".join(parts[which + 1 :])


BARRIERS = [
    pytest.param(name, which, run, id=f"{name}-{which}")
    for name, run in (("program.cu", everything), ("program_convolution.cu", all_of_a_convolution))
    for which in range(text(name).count("__syncthreads();"))
]


@pytest.mark.parametrize(("name", "which", "run"), BARRIERS)
def test_every_missing_barrier_is_found(name, which, run, monkeypatch):
    monkeypatch.setattr("tinygrad_cnn.backend.device_program._MOST_PARTIALS", 2)
    right = run(text(name), 0)
    for seed in range(3):
        try:
            wrong = run(without_barrier(name, which), seed)
        except BarrierError:
            return
        if any(not np.array_equal(a, b) for a, b in zip(wrong, right, strict=True)):
            return
    pytest.fail("nothing changed")
