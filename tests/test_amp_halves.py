"""float16 and bfloat16: every op computes in float32 and rounds once, forward and backward, and types are kept."""

import math
import subprocess
import sys

import numpy as np
import pytest
import standin
from op_checks import differentiable, is_float_array

import tinygrad_cnn as tg
from tinygrad_cnn import Tensor, nn, ops, optim, train
from tinygrad_cnn.backend import finfo, to_host
from tinygrad_cnn.backend.dtypes import as_dtype
from tinygrad_cnn.errors import DTypeError, MissingExtraError
from tinygrad_cnn.nn import functional as F  # noqa: N812
from tinygrad_cnn.op import TABLE

standin.install()

HALVES = ["float16", "bfloat16"]
# A few forward functions round more often on a device: a product, then the sum with the bias.
PRODUCTS = {name for name, op in TABLE.items() if op.halves == "product"}


@pytest.fixture(params=HALVES)
def half(request):
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes")
    return as_dtype(request.param)


def halved(arrays, half):
    return tuple(x.astype(half) if is_float_array(x) else x for x in arrays)


def in_double(arrays, half):
    return tuple(x.astype(np.float64) if hasattr(x, "dtype") and x.dtype == half else x for x in arrays)


def cases():
    for name, op in TABLE.items():
        if name in ("to_device", "astype"):
            continue  # their options are a device and the type itself
        for i, (arrays, options) in enumerate(op.samples(np.random.default_rng(0))):
            yield pytest.param(op, arrays, options, id=f"{name}-{i}")


def assert_rounded_once(actual, exact, half):
    """Every element is one of the two numbers of its type beside the exact one, or a float32 error beyond."""
    assert actual.dtype == half
    eps, tiny = float(finfo(half).eps), float(finfo(half).smallest_subnormal)
    allowed = eps / 2 * np.abs(exact) * (1 + 1e-3) + tiny / 2 + 1e-6 * (1 + np.abs(exact).max(initial=0))
    assert (np.abs(actual.astype(np.float64) - exact) <= allowed).all()


@pytest.mark.parametrize(("op", "arrays", "options"), list(cases()))
def test_every_op_rounds_its_result_once(op, arrays, options, half):
    arrays = halved(arrays, half)
    exact = op(*in_double(arrays, half), **options)
    actual = op(*arrays, **options)
    if exact.dtype.kind != "f":
        np.testing.assert_array_equal(actual, exact)
        assert actual.dtype == exact.dtype
    elif any(is_float_array(x) or getattr(x, "dtype", None) == half for x in arrays):
        assert_rounded_once(actual, exact, half)


@pytest.mark.parametrize(("op", "arrays", "options"), list(cases()))
def test_a_device_rounds_at_most_twice(op, arrays, options, half):
    arrays = halved(arrays, half)
    exact = op(*in_double(arrays, half), **options)
    brought = [standin.asarray(x) if isinstance(x, np.ndarray) else x for x in arrays]
    options = {k: standin.asarray(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    if "index" in options:
        options = {"index": over(options["index"]), **{k: v for k, v in options.items() if k != "index"}}
    actual = op(*brought, **options)
    assert isinstance(actual, standin.Array)
    if exact.dtype.kind == "f" and any(getattr(x, "dtype", None) == half for x in arrays):
        if op.name in PRODUCTS:  # the product is rounded before the bias, which may be of the other sign, is added
            scale = 1 + np.abs(exact).max(initial=0)
            np.testing.assert_allclose(to_host(actual).astype(float), exact, rtol=0, atol=4 * finfo(half).eps * scale)
        else:
            assert_rounded_once(to_host(actual), exact, half)


@pytest.mark.parametrize("name", sorted(PRODUCTS))
def test_a_device_multiplies_no_stacks_of_16_bits(name, half, monkeypatch):
    # CuPy takes bfloat16 for an integer type there.
    seen = []

    def matmul(self, a, b):
        seen.append((max(a.ndim, b.ndim), a.dtype, b.dtype))
        return standin.Array(np.matmul(a._held, b._held))

    monkeypatch.setattr(standin.Module, "matmul", matmul, raising=False)
    op = TABLE[name]
    for arrays, options in op.samples(np.random.default_rng(0)):
        op(*[standin.asarray(x) if isinstance(x, np.ndarray) else x for x in halved(arrays, half)], **options)
    assert (2, half, half) in seen
    assert all(dtypes == [np.float32, np.float32] for ndim, *dtypes in seen if ndim > 2)


def over(value):
    if isinstance(value, np.ndarray):
        return standin.asarray(value)
    return type(value)(over(v) for v in value) if isinstance(value, (tuple, list)) else value


@pytest.mark.parametrize(("op", "arrays", "options"), list(cases()))
def test_gradients_are_near_those_of_float64_and_the_same_when_recorded(op, arrays, options, half):
    arrays = halved(arrays, half)
    wanted = differentiable(op, in_double(arrays, half))
    if not wanted:
        return

    def gradients(values, dtype, create_graph):
        inputs = [Tensor.made(np.array(x)).requires_grad_() if i in wanted else x for i, x in enumerate(values)]
        y = op(*inputs, **options)
        if not y.requires_grad:
            return []
        seed = np.linspace(-1, 1, math.prod(y.shape)).reshape(y.shape).astype(half).astype(dtype)
        variables = [inputs[i] for i in wanted]
        return tg.grad(y, variables, [seed], create_graph=create_graph, allow_unused=True)

    exact = gradients(in_double(arrays, half), np.float64, False)
    plain, recorded = (gradients(arrays, half, create_graph) for create_graph in (False, True))
    eps = float(finfo(half).eps)
    for e, p, r in zip(exact, plain, recorded, strict=True):
        if e is None:
            assert p is None
            continue
        assert p.dtype == half
        assert r.dtype == half
        np.testing.assert_array_equal(p.array, r.array)
        # A rule is up to a dozen ops, and each rounds; what cancels keeps the error of its largest term.
        scale = 1 + np.abs(e.array).max(initial=0)
        np.testing.assert_allclose(p.array.astype(float), e.array, rtol=0, atol=12 * eps * scale)


def test_products_add_up_in_float32(half):
    # In float16 a sum of ones stays at 2048, in bfloat16 at 256: the next whole number is not representable.
    ones = np.ones((1, 4096), half)
    for array in (ones, standin.asarray(ones)):
        x = Tensor.made(array)
        assert float(x @ x.T) == 4096
        assert float(ops.linear(x, x)) == 4096
        assert float(ops.einsum("ij,kj->ik", x, x)) == 4096
        assert float(x.sum()) == 4096
        assert float(x.mean()) == 1
        image = x.reshape(1, 1, 64, 64)
        assert float(ops.conv2d(image, image)) == 4096
        g = Tensor.made(array.reshape(1, 1, 64, 64))
        assert (
            float(ops.conv2d_weight_gradient(image, g, kernel=(1, 1), stride=1, padding=0, dilation=1, groups=1))
            == 4096
        )


def test_the_input_gradient_of_a_convolution_adds_up_in_float32(half):
    # 49² terms of 1 meet in the middle; one after the other they would stay at 2048 or 256.
    g, w = np.ones((1, 1, 52, 52), half), np.ones((1, 1, 49, 49), half)
    geometry = {"size": (100, 100), "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    for bring in (lambda a: a, standin.asarray):
        gx = ops.conv2d_input_gradient(bring(g), bring(w), **geometry)
        assert float(to_host(gx)[0, 0, 50, 50]) == float(half.type(49 * 49))


def test_a_python_number_is_not_rounded_before_it_is_used(half):
    x = Tensor([2.0**-10], dtype=half, requires_grad=True)
    for y in (x * 2.0**20, x / 2.0**-20, 2.0**20 * x):
        assert y.dtype == half
        assert y.item() == 1024  # float16 ends at 65504, and 2^20 is beyond
    assert (x * 1e-8 * 1e8).dtype == half
    (x * 2.0**20).backward(Tensor([2.0**-10]))
    assert x.grad.item() == 1024


def test_two_types_of_16_bits_meet_in_float32():
    pytest.importorskip("ml_dtypes")
    a, b = Tensor([1.5], dtype="float16", requires_grad=True), Tensor([2.0], dtype="bfloat16", requires_grad=True)
    for y in (a * b, ops.matmul(a, b), ops.maximum(a, b), ops.concatenate(a, b), ops.where(True, a, b)):
        assert y.dtype == np.float32
    (a * b).backward()
    assert (a.grad.dtype.name, b.grad.dtype.name) == ("float16", "bfloat16")
    assert (a.grad.item(), b.grad.item()) == (2.0, 1.5)


def test_16_bits_and_wider_floats_meet_in_the_wider_type(half):
    x = Tensor([1.5], dtype=half, requires_grad=True)
    for wide in ("float32", "float64"):
        y = x * Tensor([1 / 3], dtype=wide)
        assert y.dtype.name == wide
        y.backward()
        assert x.grad.dtype == half
    assert (x * Tensor([100_000])).dtype == half
    assert (x + np.float64(0.1)).dtype == half


def test_an_overflow_gives_infinity_without_a_warning():
    x = Tensor([60000.0], dtype="float16", requires_grad=True)
    y = x * x
    assert y.item() == math.inf
    y.backward(Tensor([2.0]))
    assert x.grad.item() == math.inf
    assert Tensor([1e6]).half().item() == math.inf


def test_conversions_have_names(half):
    x = Tensor([1.0, 2.5])
    moved = getattr(x, "half" if half == np.float16 else "bfloat16")()
    assert moved.dtype == half
    assert moved.tolist() == [1.0, 2.5]
    assert moved.float().dtype == np.float32
    for made in (
        tg.zeros(2, dtype=half.name),
        tg.randn(2, dtype=half),
        tg.arange(3, dtype=half),
        tg.eye(2, dtype=half),
    ):
        assert made.dtype == half
    assert x.to(half.name).dtype == half
    assert getattr(tg, half.name) == half
    assert half.name in repr(moved)


def test_a_network_of_16_bits_runs_and_trains(half):
    tg.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )
    model.half() if half == np.float16 else model.bfloat16()
    assert {t.dtype for _, t in model.named_parameters()} == {half}
    x, labels = tg.randn(8, 1, 8, 8).to(half), tg.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    adam = optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        adam.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert {p.dtype for p in model.parameters()} == {half}
    assert {p.grad.dtype for p in model.parameters()} == {half}


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax"])
def test_an_update_of_16_bits_is_computed_in_float32_and_rounded_once(kind, half):
    start, slope = np.linspace(0.5, 2, 6).astype(half), np.geomspace(1e-5, 1, 6).astype(half)
    results = []
    for dtype in (half, np.float32):
        p = Tensor(start.astype(dtype), requires_grad=True)
        chosen = getattr(optim, kind)([p], lr=0.05)
        p.grad = Tensor(slope.astype(dtype))
        chosen.step()
        results.append(p.array)
    assert_rounded_once(results[0], results[1].astype(float), half)
    assert not np.array_equal(results[1], start.astype(np.float32))


def test_an_epsilon_below_float16_still_keeps_adam_finite():
    p = Tensor([1.0, 1.0], dtype="float16", requires_grad=True)
    adam = optim.Adam([p], lr=0.1)
    for _ in range(3):
        p.grad = Tensor([0.0, 1e-7], dtype="float16")
        adam.step()
    assert np.isfinite(p.array).all()
    assert p.array[0] == 1


def test_batch_norm_of_16_bits_keeps_statistics_in_float32(half):
    norm = nn.BatchNorm1d(3)
    x = Tensor(np.random.default_rng(0).normal(300, 100, size=(64, 3)).astype(half), requires_grad=True)
    y = norm(x)
    assert y.dtype == half
    twin = nn.BatchNorm1d(3)
    expected = twin(Tensor(x.array.astype(np.float32)))
    assert_rounded_once(y.array, expected.array.astype(float), half)
    np.testing.assert_array_equal(norm.running_var.array, twin.running_var.array)  # 100² fits, its sum would not
    assert norm.running_var.dtype == np.float32
    y.sum().backward()
    assert (x.grad.dtype, norm.weight.grad.dtype) == (half, np.float32)
    norm.eval()
    assert norm(x).dtype == half


def test_16_bits_survive_a_checkpoint(half, tmp_path):
    state = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).astype(half), "b": Tensor(1.5, dtype=half)}
    train.save_checkpoint(tmp_path / "c.safetensors", state)
    loaded = train.load_checkpoint(tmp_path / "c.safetensors")
    for name, value in state.items():
        array = getattr(value, "array", value)
        assert loaded[name].dtype == half
        assert loaded[name].shape == array.shape
        np.testing.assert_array_equal(loaded[name], array)
    model = nn.Linear(3, 2).to(dtype=half)
    train.save_state_dict_file(tmp_path / "m.safetensors", model.state_dict())
    arrays, _ = train.load_state_dict_file(tmp_path / "m.safetensors")
    fresh = nn.Linear(3, 2).to(dtype=half)
    fresh.load_state_dict(arrays)
    assert fresh.weight.dtype == half
    np.testing.assert_array_equal(fresh.weight.array, model.weight.array)


def test_a_new_process_reads_bfloat16_or_names_the_remedy(tmp_path):
    pytest.importorskip("ml_dtypes")
    train.save_state_dict_file(tmp_path / "m.safetensors", {"w": tg.ones(2, dtype="bfloat16")})
    train.save_checkpoint(tmp_path / "c.safetensors", {"w": tg.ones(2, dtype="bfloat16")})
    code = (
        "import sys; from tinygrad_cnn import train; assert 'ml_dtypes' not in sys.modules;"
        "{}print(train.load_state_dict_file('m.safetensors')[0]['w'].dtype, "
        "train.load_checkpoint('c.safetensors')['w'].dtype)"
    )

    def run(before):
        return subprocess.run(
            [sys.executable, "-c", code.format(before)], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert run("").stdout.split() == ["bfloat16", "bfloat16"]
    missing = run("sys.modules['ml_dtypes'] = None;")
    assert "MissingExtraError: bfloat16 needs the package ml_dtypes" in missing.stderr


def test_an_anomaly_is_found_in_16_bits(half):
    from tinygrad_cnn.errors import AnomalyError

    x = Tensor([0.0, -1.0], dtype=half, requires_grad=True)
    with tg.detect_anomaly(), pytest.raises(AnomalyError, match="log"):
        x.log()


def test_without_ml_dtypes_bfloat16_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    for ask in (
        lambda: Tensor([1.0], dtype="bfloat16"),
        lambda: Tensor([1.0]).bfloat16(),
        lambda: nn.Linear(2, 2).bfloat16(),
        lambda: tg.bfloat16,
    ):
        with pytest.raises(MissingExtraError, match=r"pip install 'tinygrad-cnn\[amp\]'"):
            ask()


def test_importing_the_package_does_not_import_ml_dtypes():
    code = "import sys, tinygrad_cnn as t; t.ones(2).half() * 2.0; print('ml_dtypes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_other_types_of_ml_dtypes_are_refused():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with pytest.raises(DTypeError, match="float8_e4m3fn"):
        Tensor(np.ones(2, ml_dtypes.float8_e4m3fn))
    with pytest.raises(DTypeError, match="cannot hold"):
        tg.zeros(2, dtype=ml_dtypes.float8_e5m2)


def test_the_gradient_checker_judges_16_bits_by_their_own_precision(half):
    from tinygrad_cnn import gradcheck

    rng = np.random.default_rng(0)
    x, w = (Tensor(rng.normal(size=s).astype(half), requires_grad=True) for s in ((3, 4), (4, 2)))
    report = gradcheck.gradcheck(lambda x, w: (x @ w).tanh().sum(), (x, w), seed=0)
    assert report
    assert f"{half.name} differs from float64" in str(report)

    def halved(x, w):  # right in value, but half of the gradient of x is lost
        return ((x * 0.5 + x.detach() * 0.5) @ w).tanh().sum()

    assert not gradcheck.gradcheck(halved, (x, w), seed=0)
