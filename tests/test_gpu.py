"""What a GPU computes against the CPU. Each test runs on the stand-in, and on a GPU where there is one (`-m gpu`).

`python -m tinygrad_cnn.bench.on_gpu` runs those of a GPU together with the benchmark.
"""

import numpy as np
import pytest
import standin

import tinygrad_cnn as tg
from tinygrad_cnn import Tensor, data, models, nn, optim, train
from tinygrad_cnn.backend import Device, generator_states, numpy_kernels, restore_generators, same_state, to_host
from tinygrad_cnn.backend.device_kernels import DeviceKernels
from tinygrad_cnn.errors import DeviceError
from tinygrad_cnn.nn import functional as F  # noqa: N812
from tinygrad_cnn.op import TABLE

standin.install()
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


def there_is(name):
    """Return the device of this name, or skip the test with the reason why it is not there."""
    try:
        return Device(name)
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["standin", CUDA])
def device(request):
    """A device; the stand-in computes with the generic kernels, which take milliseconds where those in CUDA C, run on
    the CPU, take seconds."""
    standin.use_own_kernels(False)
    yield there_is(request.param)
    standin.use_own_kernels(True)


@pytest.fixture(params=["standin", CUDA])
def device_with_own_kernels(request):
    return there_is(request.param)


@pytest.fixture
def gpu():
    """A GPU, for what no stand-in has."""
    return there_is("cuda")


def over(device, value):
    """Bring the arrays in a value to a device."""
    if isinstance(value, np.ndarray):
        return device.asarray(value)
    if isinstance(value, (tuple, list)):
        return type(value)(over(device, v) for v in value)
    return value


def host(value):
    return to_host(value.array if isinstance(value, Tensor) else value)


def assert_same(there, here, what="", tolerance=None):
    """Compare what the device gave with what the CPU gave: 1e-10 of the largest value in float64, 1e-5 in float32."""
    there, here = host(there), host(here)
    assert (there.shape, there.dtype) == (here.shape, here.dtype), what
    if not here.size:
        return
    if tolerance is None:
        tolerance = {8: 1e-10, 4: 1e-5, 2: 4e-3}[here.itemsize] if here.dtype.kind == "f" else 0
    known = np.isfinite(here.astype(float))
    np.testing.assert_array_equal(there[~known], here[~known], err_msg=what)
    scale = max(1.0, float(np.abs(here[known].astype(float)).max(initial=0)))
    off = np.abs(there[known].astype(float) - here[known]).max(initial=0)
    assert off <= tolerance * scale, f"{what}: off by {off} of {scale}"


def cases():
    for name, op in TABLE.items():
        if name == "to_device":
            continue  # its option is a device
        for i, (arrays, options) in enumerate(op.samples(np.random.default_rng(0))):
            yield pytest.param(op, arrays, options, id=f"{name}-{i}")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("op", "arrays", "options"), list(cases()))
def test_every_op_and_its_first_and_second_derivatives_are_those_of_the_cpu(
    op, arrays, options, dtype, device_with_own_kernels
):
    device = device_with_own_kernels

    def cast(value):
        floats = isinstance(value, np.ndarray) and value.dtype.kind == "f"
        return value.astype(dtype) if floats else np.dtype(dtype) if isinstance(value, np.dtype) else value

    results = []
    for place in (Device("cpu"), device):
        inputs = [Tensor.made(over(place, cast(a))) if isinstance(a, np.ndarray) else a for a in arrays]
        for i, x in enumerate(inputs):
            if isinstance(x, Tensor) and x.dtype.kind == "f" and op.rule(i) is not None:
                x.requires_grad = True
        y = op(*inputs, **{k: over(place, v if k != "dtype" else cast(np.dtype(v))) for k, v in options.items()})
        found = [y]
        wanted = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
        if y.requires_grad:
            seed = over(place, np.random.default_rng(1).normal(size=y.shape).astype(y.dtype))
            first = tg.grad(y, wanted, [seed], create_graph=True, allow_unused=True)
            found += [g for g in first if g is not None]
            again = [g for g in first if g is not None and g.requires_grad]
            if again:
                second = tg.grad(again, wanted, [g.detach() for g in again], allow_unused=True)
                found += [g for g in second if g is not None]
        results.append(found)
    assert len(results[0]) == len(results[1])
    for here, there in zip(*results, strict=True):
        assert there.device == device
        assert_same(there, here, op.name, tolerance=1e-4 if dtype == "float32" and op.name in AMPLIFYING else None)


# Ops whose second derivatives divide by small numbers, so that the last digits of float32 are seen larger.
AMPLIFYING = {"standardise", "div", "power", "var", "prod", "reciprocal"}

OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": lambda p: optim.Adam(p, weight_decay=1e-3),
    "amsgrad": lambda p: optim.Adam(p, amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p),
    "Adamax": lambda p: optim.Adamax(p),
    "RMSprop": lambda p: optim.RMSprop(p, momentum=0.5, centered=True),
    "Adagrad": lambda p: optim.Adagrad(p),
    "Adadelta": lambda p: optim.Adadelta(p),
}


def small():
    return nn.Sequential(
        nn.Conv2d(1, 2, 5, stride=3, bias=False),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def trained(device, build, optimizer, steps, dtype, batch=4):
    """Train a network from the same start on the same batches; return its losses and what it holds."""
    tg.manual_seed(0)
    model = build().to(dtype).to(device)
    rule = optimizer(list(model.parameters()))
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(steps):
        x = Tensor(rng.random((batch, 1, 28, 28)).astype(dtype), device=device)
        t = Tensor(rng.integers(0, 10, batch), device=device)
        rule.zero_grad()
        value = F.cross_entropy(model(x), t)
        value.backward()
        rule.step()
        losses.append(value.item())
    return losses, {name: to_host(value.array) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_network_trains_the_same_with_every_optimizer(name, device):
    here, there = (trained(place, small, OPTIMIZERS[name], 3, "float64") for place in (Device("cpu"), device))
    np.testing.assert_allclose(there[0], here[0], rtol=1e-9)
    for key, value in here[1].items():
        np.testing.assert_allclose(there[1][key], value, rtol=1e-7, atol=1e-9, err_msg=key)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
def test_twenty_steps_of_lenet5_have_the_losses_of_the_cpu(dtype, tolerance, device):
    here, there = (trained(place, models.LeNet5, optim.Adam, 20, dtype)[0] for place in (Device("cpu"), device))
    np.testing.assert_allclose(there, here, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["lenet5", "lenet5-original", "mlp", "logistic"])
def test_a_network_of_the_registry_gives_the_same_answers(name, device):
    tg.manual_seed(0)
    model = models.build(name).eval()
    size = models.registry.entry(name).input_shape
    x = np.random.default_rng(0).random((3, *size), dtype=np.float32)
    here = model(Tensor(x))
    there = model.to(device)(Tensor(x, device=device))
    assert_same(there, here, name, tolerance=1e-4)


# Captured steps


def both_ways(device, batches, between=None):
    """Train LeNet-5 eager and captured on the same batches; return the losses of both and the captured step."""
    losses = []
    for captured in (False, True):
        tg.manual_seed(1)
        model = models.LeNet5().to(device)
        adam = optim.Adam(model.parameters())
        criterion = nn.CrossEntropyLoss()
        step = tg.compile(model, criterion, adam) if captured else None
        found = []
        for x, y in batches:
            x, y = Tensor(x, device=device), Tensor(y, device=device)
            if step is not None:
                loss = step(x, y)
            else:
                adam.zero_grad()
                loss = criterion(model(x), y)
                loss.backward()
                adam.step()
            if between is not None:
                between(model)
            found.append(loss.item())
        losses.append((found, {n: to_host(t.array) for n, t in model.state_dict().items()}))
    return losses, step


def batches_of(count, size=4):
    rng = np.random.default_rng(0)
    return [(rng.random((size, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, size)) for _ in range(count)]


def assert_equal_training(losses):
    (eager, weights), (captured, others) = losses
    np.testing.assert_allclose(captured, eager, rtol=0, atol=1e-4)
    for name, value in weights.items():
        np.testing.assert_allclose(others[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_captured_step_trains_as_an_eager_one(device):
    losses, _ = both_ways(device, batches_of(6))
    assert_equal_training(losses)


def test_eager_work_between_replays_corrupts_nothing(device):
    kept = []

    def between(model):
        # Allocations, frees and results that live on, on the memory a replay must not use.
        x = Tensor(np.random.default_rng(len(kept)).random((3, 1, 28, 28), dtype=np.float32), device=device)
        with tg.no_grad():
            kept.append((x, model(x).exp().sum().item()))
            for size in (10, 1000, 100_000):
                (Tensor(np.ones(size, np.float32), device=device) * 3).sum()

    losses, _ = both_ways(device, batches_of(6), between)
    assert_equal_training(losses)
    for value in kept:
        assert np.isfinite(value[1])


@pytest.mark.gpu
def test_a_step_of_lenet5_is_captured_on_a_gpu(gpu):
    _, step = both_ways(gpu, batches_of(5, 64))
    assert step.reason is None
    assert step.replays > 0


# Kernels and engines

GEOMETRIES = [
    {"stride": (1, 1), "padding": ((2, 2), (2, 2)), "dilation": (1, 1), "groups": 1},
    {"stride": (2, 1), "padding": ((1, 0), (0, 2)), "dilation": (1, 2), "groups": 1},
    {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 2},
]


@pytest.mark.parametrize("channels", [(2, 4), (64, 32)], ids=["few channels", "many channels"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("number", range(len(GEOMETRIES)))
def test_convolutions_and_both_gradients_are_those_of_the_cpu_whatever_the_engine(
    number, dtype, channels, device_with_own_kernels
):
    device = device_with_own_kernels
    geometry = GEOMETRIES[number]
    rng = np.random.default_rng(0)
    c, o = channels
    x = rng.normal(size=(3, c, 9, 8)).astype(dtype)
    weight = rng.normal(size=(o, c // geometry["groups"], 3, 3)).astype(dtype)
    bias = rng.normal(size=o).astype(dtype)
    y = numpy_kernels.conv2d(x, weight, bias, **geometry)
    g = rng.normal(size=y.shape).astype(dtype)
    tables = [device.kernels]
    if channels == (64, 32):
        tables.append(DeviceKernels(device.xp, None))  # columns and a matrix product
    for table in tables:
        dx, dw, db, dg = (device.asarray(a) for a in (x, weight, bias, g))
        tolerance = 1e-10 if dtype == "float64" else 2e-5
        assert_same(table.conv2d(dx, dw, db, **geometry), y, "forward", tolerance)
        assert_same(
            table.conv2d_input_gradient(dg, dw, size=(9, 8), **geometry),
            numpy_kernels.conv2d_input_gradient(g, weight, size=(9, 8), **geometry),
            "input gradient",
            tolerance,
        )
        assert_same(
            table.conv2d_weight_gradient(dx, dg, kernel=(3, 3), **geometry),
            numpy_kernels.conv2d_weight_gradient(x, g, kernel=(3, 3), **geometry),
            "weight gradient",
            tolerance,
        )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("number", range(len(GEOMETRIES)))
def test_cudnn_gives_what_the_matrix_product_gives(number, dtype, gpu):
    cudnn = gpu.kernels.cudnn
    if cudnn.reason is not None:
        pytest.skip(cudnn.reason)
    geometry = GEOMETRIES[number]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 64, 14, 14)).astype(dtype)
    weight = (rng.normal(size=(32, 64 // geometry["groups"], 3, 3)) / 24).astype(dtype)
    dx, dw = gpu.asarray(x), gpu.asarray(weight)
    wide = DeviceKernels(gpu.xp, None)
    y = wide.conv2d(dx.astype("float64"), dw.astype("float64"), **geometry)
    g = gpu.asarray(rng.normal(size=y.shape).astype(dtype))
    tolerance = 2e-5 if dtype == "float32" else 5e-3  # TF32 would be off by 1e-3
    pairs = {
        "forward": (cudnn.conv2d(dx, dw, **geometry), y),
        "input gradient": (
            cudnn.conv2d_input_gradient(g, dw, size=(14, 14), **geometry),
            wide.conv2d_input_gradient(g.astype("float64"), dw.astype("float64"), size=(14, 14), **geometry),
        ),
        "weight gradient": (
            cudnn.conv2d_weight_gradient(dx, g, kernel=(3, 3), **geometry),
            wide.conv2d_weight_gradient(dx.astype("float64"), g.astype("float64"), kernel=(3, 3), **geometry),
        ),
    }
    assert not cudnn.refused
    for what, (found, expected) in pairs.items():
        assert_same(found, expected.astype(dtype), what, tolerance)


@pytest.mark.gpu
def test_kernels_give_what_pytorch_gives_on_the_same_gpu(gpu):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no GPU")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rng = np.random.default_rng(0)
    x = rng.random((32, 1, 28, 28), dtype=np.float32)
    labels = rng.integers(0, 10, 32)
    tg.manual_seed(0)
    model = models.LeNet5()
    t = torch.nn
    peer = t.Sequential(
        t.Conv2d(1, 6, 5, padding=2), t.ReLU(), t.MaxPool2d(2), t.Conv2d(6, 16, 5), t.ReLU(), t.MaxPool2d(2),
        t.Flatten(), t.Linear(400, 120), t.ReLU(), t.Linear(120, 84), t.ReLU(), t.Linear(84, 10),
    ).cuda()  # fmt: skip
    with torch.no_grad():
        for p, q in zip(model.parameters(), peer.parameters(), strict=True):
            q.copy_(torch.from_numpy(p.array))
    model.to(gpu)
    loss = F.cross_entropy(model(Tensor(x, device=gpu)), Tensor(labels, device=gpu))
    loss.backward()
    other = t.functional.cross_entropy(peer(torch.from_numpy(x).cuda()), torch.from_numpy(labels).cuda())
    other.backward()
    assert abs(loss.item() - other.item()) < 1e-5
    for p, q in zip(model.parameters(), peer.parameters(), strict=True):
        assert_same(p.grad, q.grad.cpu().numpy(), str(p.shape), 1e-5)


@pytest.mark.gpu
def test_work_on_a_stream_of_ones_own_is_complete_and_in_order(gpu):
    import cupy

    here = trained(Device("cpu"), models.LeNet5, optim.Adam, 3, "float64")[0]
    with cupy.cuda.Stream(non_blocking=True) as stream:
        there = trained(gpu, models.LeNet5, optim.Adam, 3, "float64")[0]
        stream.synchronize()
    np.testing.assert_allclose(there, here, rtol=1e-9)


@pytest.mark.gpu
def test_a_training_step_never_waits_for_the_gpu(gpu):
    import cupy

    model = models.LeNet5().to(gpu)
    adam = optim.Adam(model.parameters())
    x = Tensor(np.zeros((64, 1, 28, 28), np.float32), device=gpu)
    y = Tensor(np.zeros(64, np.int64), device=gpu)
    spin = cupy.RawKernel(
        'extern "C" __global__ void spin(long long n) { long long s = clock64(); while (clock64() - s < n); }', "spin"
    )
    for _ in range(2):  # the first compiles kernels
        gpu.synchronize()
        spin((1,), (1,), (np.int64(400_000_000),))  # some tenths of a second of work in front of the step
        busy = cupy.cuda.Event()
        busy.record()
        adam.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        adam.step()
        queued_before_the_end = not busy.done
    assert queued_before_the_end
    assert loss.item() > 0


# Moving, saving, drawing


def test_tensors_modules_and_optimizers_move_and_come_back(device):
    x = Tensor([[1.0, 2.0]], requires_grad=True)
    y = x.to(device)
    assert y.device == device
    (y * y).sum().backward()
    assert x.grad.tolist() == [[2.0, 4.0]]
    assert y.cpu().device == Device("cpu")
    assert Tensor([1.0], device=str(device)).device == device
    assert Tensor(y, device="cpu").device == Device("cpu")
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).to(device)
    assert {t.device for _, t in model.named_tensors()} == {device}
    adam = optim.Adam(model.parameters())
    model(Tensor(np.eye(2, dtype=np.float32), device=device)).sum().backward()
    adam.step()
    saved, weights = adam.state_dict(), model.state_dict()
    assert all(isinstance(v, np.ndarray) for held in saved["state"].values() for k, v in held.items() if k != "step")
    home = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    home.load_state_dict(weights)
    other = optim.Adam(home.parameters())
    other.load_state_dict(saved)
    for p, q in zip(home.parameters(), model.parameters(), strict=True):
        assert p.device == Device("cpu")
        assert_same(q, p)
    adam.load_state_dict(other.state_dict())
    assert all(type(s["exp_avg"]) is type(p.array) for p, s in adam.state.items())


def blobs():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    return data.ArrayDataset((np.eye(4)[labels] + 0.2 * rng.normal(size=(60, 4))).astype(np.float32), labels)


def run_of(device, file, stop=None, epochs=2, resume=False):
    """Train a network with dropout on a device; return its weights."""
    tg.manual_seed(0)
    with tg.use_device("cpu"):
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    with tg.use_device(device):
        model.to(device)
        steps = iter(range(1, 100))
        train.fit(
            model,
            data.DataLoader(blobs(), 16, shuffle=True, seed=0),
            optimizer=optim.Adam(model.parameters(), lr=0.02),
            epochs=epochs,
            checkpoint=file,
            resume=resume,
            should_stop=None if stop is None else lambda: next(steps) >= stop,
        )
    return {name: to_host(t.array) for name, t in model.state_dict().items()}


def test_a_run_broken_off_on_a_device_resumes_there_to_the_same_weights(device, tmp_path):
    straight = run_of(device, tmp_path / "a.safetensors")
    run_of(device, tmp_path / "b.safetensors", stop=3)
    tg.manual_seed(99)
    resumed = run_of(device, tmp_path / "b.safetensors", resume=True)
    for name, value in straight.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)


@pytest.mark.parametrize("back", [False, True], ids=["from the CPU", "to the CPU"])
def test_a_run_of_one_device_resumes_on_another(back, device, tmp_path):
    places = [device, Device("cpu")] if back else [Device("cpu"), device]
    run_of(places[0], tmp_path / "c.safetensors", stop=5)
    state = train.load_checkpoint(tmp_path / "c.safetensors")
    assert 0 < state["progress"]["steps_done"] < 8  # of the eight of two epochs
    weights = run_of(places[1], tmp_path / "c.safetensors", resume=True, epochs=20)
    with tg.use_device(places[1]):
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
        model.load_state_dict(weights)
        assert train.evaluate(model, data.DataLoader(blobs(), 60)).accuracy > 0.9


def test_the_seed_decides_what_a_device_draws_and_its_state_can_be_put_back(device):
    with tg.use_device(device):
        tg.manual_seed(3)
        first = to_host(tg.randn(5, 7).array)
        state = generator_states()
        second = to_host(tg.rand(1000).array)
        assert not same_state(generator_states(), state)
        restore_generators(state)
        np.testing.assert_array_equal(to_host(tg.rand(1000).array), second)
        tg.manual_seed(3)
        np.testing.assert_array_equal(to_host(tg.randn(5, 7).array), first)
    assert 0 <= second.min() < 0.05 < 0.95 < second.max() < 1
    assert str(device) in state


def test_batches_of_data_on_a_device_are_gathered_there(device):
    images = np.arange(40, dtype=np.uint8).reshape(10, 4)
    dataset = data.TensorDataset(Tensor(images, device=device), Tensor(np.arange(10), device=device))
    seen = []
    for x, y in data.DataLoader(dataset, 3, shuffle=True, seed=0, device=device):
        assert x.device == y.device == device
        np.testing.assert_array_equal(host(x), images[host(y)])
        seen += host(y).tolist()
    assert sorted(seen) == list(range(10))
