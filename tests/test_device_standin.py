"""The whole table of ops, layers, losses, optimizers and a training run on a second array library.

A green run here does not prove that CuPy behaves the same; it proves that nothing outside the backend names NumPy,
mixes arrays of two libraries, or waits for the device where it must not.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import standin
from on_devices import CPU_ALONE, runs_on_the_standin

import tinygrad_cnn as tg
from tinygrad_cnn import Tensor, data, models, nn, ops, optim
from tinygrad_cnn import train as train_package
from tinygrad_cnn.backend import Device, to_host
from tinygrad_cnn.cli import main
from tinygrad_cnn.errors import DeviceError, GraphError
from tinygrad_cnn.nn import functional as F  # noqa: N812

standin.install()


def host(value):
    return to_host(value.array if isinstance(value, Tensor) else value)


def same(a, b):
    np.testing.assert_allclose(host(a), host(b), rtol=1e-10, atol=1e-12)
    assert host(a).dtype == host(b).dtype
    assert host(a).shape == host(b).shape


LOSSES = {
    "cross_entropy": lambda x, t: F.cross_entropy(x, t),
    "smoothed": lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1),
    "ignoring": lambda x, t: F.cross_entropy(x, t, ignore_index=2),
    "mse": lambda x, t: F.mse_loss(x, x.detach() * 0.5),
    "huber": lambda x, t: F.huber_loss(x, x.detach() * 0.1),
    "bce": lambda x, t: F.binary_cross_entropy_with_logits(x, F.sigmoid(x.detach())),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_losses_are_the_same(loss):
    rng = np.random.default_rng(0)
    values, labels = rng.normal(size=(6, 4)), np.array([0, 1, 2, 3, 2, 1])
    results = []
    for device in ("cpu", "standin"):
        x = Tensor(values, device=device, requires_grad=True)
        value = loss(x, Tensor(labels, device=device))
        value.backward()
        results.append((value, x.grad))
    same(results[0][0], results[1][0])
    same(results[0][1], results[1][1])


def small():
    return nn.Sequential(nn.Conv2d(1, 2, 5, stride=3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 10))


def train(device, optimizer, build, steps=3):
    tg.manual_seed(0)
    model = build().double()
    model.to(device)
    rule = optimizer(list(model.parameters()))
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(steps):
        x = Tensor(rng.random((4, 1, 28, 28)), device=device)
        t = Tensor(rng.integers(0, 10, 4), device=device)
        rule.zero_grad()
        value = F.cross_entropy(model(x), t)
        value.backward()
        rule.step()
        losses.append(value.item())
    return losses, model.state_dict()


OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": lambda p: optim.Adam(p, weight_decay=1e-3),
    "AdamW": lambda p: optim.AdamW(p),
    "RMSprop": lambda p: optim.RMSprop(p, momentum=0.5),
    "Adagrad": lambda p: optim.Adagrad(p),
    "Adadelta": lambda p: optim.Adadelta(p),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_network_trains_the_same_on_both_libraries(optimizer):
    check_training(optimizer, small)


@pytest.mark.parametrize("build", [models.LeNet5, models.LeNet5Original], ids=lambda build: build.__name__)
def test_lenet_trains_the_same_on_both_libraries(build):
    check_training(OPTIMIZERS["Adam"], build)


RULES = ["lecture_uniform_", "lecun_normal_", "xavier_uniform_", "kaiming_normal_", "orthogonal_", "trunc_normal_"]


@pytest.mark.parametrize("rule", RULES)
def test_weights_are_drawn_where_they_live(rule):
    weight = tg.zeros(6, 5, 3, 3, device="standin")
    getattr(nn.init, rule)(weight)
    assert isinstance(weight.array, standin.Array)
    assert host(weight).std() > 0


def test_gradients_are_clipped_where_they_live():
    p = Tensor([3.0, 4.0], device="standin", requires_grad=True)
    p.grad = Tensor([3.0, 4.0], device="standin")
    with standin.no_waiting():
        norm = nn.utils.clip_grad_norm_([p], 1.0)
        nn.utils.clip_grad_value_([p], 0.7)
    assert norm.item() == 5.0
    np.testing.assert_allclose(host(p.grad), [0.6, 0.7], rtol=1e-5)


def test_a_network_on_another_device_is_summarised_there():
    model = models.LeNet5().to("standin")
    shape = (8, 1, 28, 28)  # the CPU lays few images out differently, and then flattens them without a copy
    assert nn.summary(model, shape).as_dicts() == nn.summary(models.LeNet5(), shape).as_dicts()


def check_training(optimizer, build):
    losses, state = train("cpu", optimizer, build)
    other_losses, other_state = train("standin", optimizer, build)
    np.testing.assert_allclose(losses, other_losses, rtol=1e-10)
    for name, value in state.items():
        assert isinstance(other_state[name].array, standin.Array)
        np.testing.assert_allclose(value.numpy(), other_state[name].numpy(), rtol=1e-8, atol=1e-10)


def test_a_training_step_never_waits_for_the_device():
    model = models.LeNet5().to("standin")
    rule = optim.Adam(model.parameters())
    x = Tensor(np.random.default_rng(0).random((4, 1, 28, 28), dtype=np.float32), device="standin")
    t = Tensor(np.array([1, 2, 3, 4]), device="standin")
    with standin.no_waiting():
        for _ in range(2):
            rule.zero_grad()
            loss = F.cross_entropy(model(x), t)
            loss.backward()
            rule.step()
    assert loss.item() > 0


def test_a_look_at_a_value_is_a_wait():
    x = Tensor([1.0], device="standin")
    with standin.no_waiting(), pytest.raises(standin.WaitError):
        x.item()


def test_tensors_on_two_devices_do_not_mix_and_the_remedy_is_named():
    with pytest.raises(DeviceError, match=r"\.to\("):
        Tensor([1.0]) + Tensor([1.0], device="standin")


def test_a_move_to_another_device_carries_gradients_back():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = x.to("standin")
    assert y.device == Device("standin")
    (y * y).sum().backward()
    assert x.grad.device == Device("cpu")
    assert x.grad.tolist() == [2.0, 4.0]
    assert y.cpu().device == Device("cpu")


def test_new_tensors_are_made_where_use_device_says():
    with tg.use_device("standin"):
        assert tg.zeros(2).device.kind == "standin"
        assert tg.randn(2).device.kind == "standin"
        assert nn.Linear(2, 3).weight.device.kind == "standin"
        assert Tensor([1.0, 2.0]).device.kind == "standin"
    assert tg.zeros(2).device.kind == "cpu"


def test_what_exists_stays_where_it_is_whatever_use_device_says():
    model, x = nn.Linear(2, 3), Tensor([1.0, 2.0])
    there = nn.Linear(2, 3, device="standin")
    with tg.use_device("standin"):
        assert {t.device.kind for t in model.state_dict().values()} == {"cpu"}
        assert Tensor(x).device.kind == Tensor([x, x]).device.kind == "cpu"
        assert model(np.ones(2, np.float32)).device.kind == "cpu"  # a plain array goes where the weights are
        assert (x * 2).device.kind == x.detach().clone().device.kind == "cpu"
        assert Tensor(np.ones(2)).device.kind == "standin"
        x.data = np.zeros(2)
        assert x.device.kind == "cpu"
    assert there(np.ones(2, np.float32)).device.kind == "standin"
    assert {t.device.kind for t in there.state_dict().values()} == {"standin"}
    loss = F.cross_entropy(there(np.ones((2, 2), np.float32)), np.array([0, 1]), np.ones(3))
    assert loss.device.kind == "standin"
    assert F.mse_loss(np.ones(3), Tensor([1.0, 2.0, 3.0], device="standin")).device.kind == "standin"
    there.weight.data = np.ones((3, 2))
    there.bias.copy_(Tensor([1.0, 2.0, 3.0]))
    assert there.weight.device.kind == there.bias.device.kind == "standin"
    rows = tg.zeros(3, 2, device="standin")
    rows[[0, 2]] = np.ones((2, 2))
    assert rows.tolist() == [[1, 1], [0, 0], [1, 1]]
    with pytest.raises(DeviceError, match="cannot write values on cpu into a tensor on standin:0"):
        rows[0] = x


def test_layers_with_state_work_on_the_device():
    tg.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same"),
        nn.BatchNorm2d(4),
        nn.Dropout(0.5),
        nn.MaxPool2d(2),
        nn.LocalResponseNorm(3),
        nn.ConvTranspose2d(4, 2, 3, stride=2),
        nn.GaussianPool2d(3),
        nn.AdaptiveAvgPool2d((2, 3)),
        nn.Flatten(),
        nn.LayerNorm(12),
        nn.GELU(),
    ).to("standin")
    y = model(Tensor(np.random.default_rng(0).random((3, 1, 8, 8)), device="standin"))
    y.sum().backward()
    assert all(isinstance(p.grad.array, standin.Array) for p in model.parameters())
    assert isinstance(model.get_submodule("1").running_mean.array, standin.Array)


def test_a_label_that_is_no_class_is_never_silent():
    x = Tensor(np.zeros((2, 3)), device="standin")
    loss = F.cross_entropy(x, Tensor(np.array([0, 3]), device="standin"))
    assert np.isnan(loss.item())
    rows = F.one_hot(Tensor(np.array([1, 2]), device="standin"), 2).numpy()
    assert rows[0].tolist() == [0, 1]
    assert np.isnan(rows[1]).all()


def test_an_edit_in_place_is_noticed_on_the_device_too():
    w = Tensor([1.0, 2.0], device="standin", requires_grad=True)
    y = (w * w).sum()
    with tg.no_grad():
        w += 1
    with pytest.raises(GraphError, match="edited in place"):
        y.backward()


def test_a_device_that_is_not_there_is_a_clear_error():
    with pytest.raises(DeviceError, match="known kinds"):
        Device("tpu")
    with pytest.raises(DeviceError, match="machine has 1"):
        Device("standin:3")
    with pytest.raises(DeviceError, match="no device name"):
        Device("cuda:x")


def test_cuda_without_cupy_or_without_a_gpu_names_the_remedy():
    try:
        import cupy
    except ImportError:
        with pytest.raises(DeviceError, match="pip install"):
            Device("cuda")
    else:
        if cupy.cuda.is_available():
            pytest.skip("this machine has a GPU")
        with pytest.raises(DeviceError, match="finds no NVIDIA GPU"):
            Device("cuda")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (None, "needs CuPy, which is not installed: pip install"),
        ("raise ImportError('libnvrtc.so.13: cannot open shared object file\\nmore')", "cannot be imported .libnvrtc"),
    ],
)
def test_a_missing_or_broken_cupy_is_a_clear_error(module, message, monkeypatch, tmp_path):
    from tinygrad_cnn.backend import device

    monkeypatch.delitem(device._by_kind, "cuda", raising=False)
    monkeypatch.delitem(sys.modules, "tinygrad_cnn.backend.cuda", raising=False)
    monkeypatch.delattr("tinygrad_cnn.backend.cuda", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] in ("cupy", "cupyx")]:
        monkeypatch.delitem(sys.modules, name)
    if module is None:
        monkeypatch.setitem(sys.modules, "cupy", None)
    else:
        (tmp_path / "cupy.py").write_text(module + "\n", encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceError, match=message):
        Device("cuda")
    with pytest.raises(DeviceError, match=message):
        tg.zeros(2).to("cuda")


def test_ops_of_plain_device_arrays_compute_without_recording():
    y = ops.exp(standin.asarray(np.zeros(3)))
    assert isinstance(y, standin.Array)


def test_an_index_list_goes_where_the_indexed_tensor_is():
    x = Tensor([1.0, 2.0, 3.0], device="standin", requires_grad=True)
    x[[0, 2, 2]].sum().backward()
    assert x.grad.tolist() == [1.0, 0.0, 2.0]
    assert x[np.array([1])].tolist() == [2.0]


# What is done at every step, and must not wait


@pytest.fixture
def generic():
    """Compute with the generic kernels, which take milliseconds where those in CUDA C, run on the CPU, take seconds."""
    standin.use_own_kernels(False)
    yield
    standin.use_own_kernels(True)


def stateful():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.MaxPool2d(4), nn.Flatten(),
        nn.LayerNorm(4 * 49), nn.GELU(), nn.Linear(4 * 49, 10),
    )  # fmt: skip


@pytest.mark.usefixtures("generic")
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_loader_model_loss_clipping_optimizer_and_schedule_never_wait(kind):
    rng = np.random.default_rng(0)
    pictures = data.ArrayDataset(rng.random((20, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, 20))
    with tg.use_device("standin"):
        tg.manual_seed(0)
        model = stateful()
        rule = OPTIMIZERS[kind](list(model.parameters()))
        schedule = optim.lr_scheduler.CosineAnnealingLR(rule, 10)
        loader = data.DataLoader(pictures, 4, shuffle=True, seed=0)
        losses = []
        for _ in range(2):
            with standin.no_waiting():
                for x, y in loader:
                    assert isinstance(x.array, standin.Array)
                    rule.zero_grad()
                    loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
                    loss.backward()
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0, float("inf"))
                    nn.utils.clip_grad_value_(model.parameters(), 0.5)
                    rule.step()
                    schedule.step()
                    losses.append(loss)
    assert all(np.isfinite(loss.item()) for loss in losses)


def test_data_that_live_on_the_device_are_gathered_there_without_waiting():
    pictures = data.TensorDataset(
        Tensor(np.arange(80, dtype=np.uint8).reshape(20, 4), device="standin"),
        Tensor(np.arange(20), device="standin"),
    )
    loader = data.DataLoader(pictures, 3, shuffle=True, seed=1, device="standin")
    with standin.no_waiting():
        batches = list(loader)
    assert sorted(n for _, y in batches for n in y.tolist()) == list(range(20))
    assert all((host(x)[:, 0] == 4 * host(y)).all() for x, y in batches)
    part = data.Subset(pictures, [3, 5])
    assert host(part.labels).tolist() == [3, 5]
    ((x, y),) = data.DataLoader([(Tensor([1.0, 2.0], device="standin"), 3)] * 2, 2, device="standin")
    assert x.tolist() == [[1, 2], [1, 2]]
    assert y.tolist() == [3, 3]


@pytest.mark.usefixtures("generic")
def test_training_for_an_epoch_waits_as_often_whatever_the_number_of_steps():
    waited = []
    for count in (16, 64):
        rng = np.random.default_rng(0)
        pictures = data.ArrayDataset(rng.random((count, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, count))
        with tg.use_device("standin"):
            model = models.LeNet5()
            before = standin.waits
            seen = []
            train_package.fit(
                model, data.DataLoader(pictures, 4), optimizer=optim.Adam(model.parameters()), epochs=2,
                checkpoint_every=None, on_step=lambda p, seen=seen: seen.append(p.step),
            )  # fmt: skip
            waited.append(standin.waits - before)
            assert seen == [*range(1, count // 4 + 1)] * 2
    assert waited[0] == waited[1]


@pytest.mark.parametrize(
    "make",
    [
        lambda d: tg.zeros(2, device=d),
        lambda d: tg.full(2, 1.5, device=d),
        lambda d: tg.arange(3, device=d),
        lambda d: tg.eye(2, device=d),
        lambda d: tg.rand(2, device=d),
        lambda d: tg.randn(2, device=d),
        lambda d: Tensor([1.0], device=d),
        lambda d: nn.Linear(2, 3, device=d).weight,
    ],
)
def test_what_is_made_on_a_device_makes_it_the_current_one(make):
    standin.entered.clear()
    assert make("standin").device.kind == "standin"
    assert 0 in standin.entered


# Pictures, commands


@pytest.mark.usefixtures("generic")
def test_a_graph_and_a_network_at_work_are_drawn_from_a_device(tmp_path):
    from tinygrad_cnn.viz import at_work

    from tinygrad_cnn import viz

    with tg.use_device("standin"):
        tg.manual_seed(0)
        model = models.LeNet5()
        x = Tensor(np.random.default_rng(0).random((1, 1, 28, 28), dtype=np.float32))
        loss = F.cross_entropy(model(x), [3])
        assert "<svg" in viz.draw(loss, "both", engine="builtin").svg
        viz.html(loss, str(tmp_path / "page.html"))
        for picture in (
            at_work.filters(model),
            at_work.feature_maps(model, x.numpy()),
            at_work.explanations(model, x.numpy()),
            at_work.shift(model, x.numpy()),
            at_work.vanishing(
                np.random.default_rng(0).random((200, 1, 8, 8), dtype=np.float32), np.arange(200) % 10, steps=3
            ),
        ):
            picture.save(tmp_path / "picture.png")
    assert (tmp_path / "page.html").stat().st_size > 10_000


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """LeNet-5 trained by the command for an epoch on some digits, on each device."""
    standin.install()
    standin.use_own_kernels(False)
    folder = tmp_path_factory.mktemp("runs")
    for device in ("cpu", "standin"):
        words = ["train", "--limit", "300", "--epochs", "2", "--no-pictures", "--out", str(folder / device)]
        assert main([*words, "--device", device]) == 0
    standin.use_own_kernels(True)
    return folder


def test_the_command_trains_the_same_network_on_a_device(runs):
    history = {
        d: [json.loads(line) for line in (runs / d / "history.jsonl").read_text().splitlines()]
        for d in ("cpu", "standin")
    }
    for here, there in zip(history["cpu"], history["standin"], strict=True):
        for name in ("train_loss", "val_loss"):
            assert there[name] == pytest.approx(here[name], abs=1e-3)
    options = [json.loads((runs / d / "options.json").read_text()) for d in ("cpu", "standin")]
    assert options[0] == options[1]


@pytest.mark.usefixtures("generic")
def test_a_run_of_a_device_is_evaluated_shown_and_resumed_wherever_one_likes(runs, tmp_path, capsys, monkeypatch):
    answers = []
    for run, device in (("standin", "standin"), ("standin", "cpu"), ("cpu", "standin")):
        assert main(["evaluate", str(runs / run), "--json", "--device", device]) == 0
        answers.append(json.loads(capsys.readouterr().out)["accuracy"])
    assert answers[0] == pytest.approx(answers[1], abs=1e-3)
    assert answers[0] == pytest.approx(answers[2], abs=0.05)
    for what in ("filters", "features", "why", "shift", "confusion", "mistakes"):
        out = tmp_path / f"{what}.png"
        assert main(["show", what, str(runs / "standin"), "--out", str(out), "--device", "standin"]) == 0
        assert out.stat().st_size > 1000
    digit = tmp_path / "digit.png"
    pytest.importorskip("PIL.Image").fromarray(data.mnist().test.images[0, 0]).save(digit)
    capsys.readouterr()
    shares = []
    for device in ("standin", "cpu"):
        assert main(["predict", str(digit), "--model", str(runs / "standin"), "--json", "--device", device]) == 0
        shares.append(json.loads(capsys.readouterr().out)["probabilities"])
    assert shares[0] == pytest.approx(shares[1], abs=1e-4)
    for run, device in (("cpu", "standin"), ("standin", "cpu")):
        assert main(["train", "--resume", str(runs / run), "--device", device, "--no-pictures"]) == 0


def test_a_device_that_is_not_there_ends_a_command_with_the_remedy(capsys):
    for command in (["train"], ["evaluate"], ["show", "filters"], ["predict", "x.png"]):
        assert main([*command, "--device", "standin:4"]) == 1
        assert "machine has 1 of kind 'standin'" in capsys.readouterr().err


# The stand-in refuses what CuPy would refuse


def inside(text):
    """Run code as the package does: a comparison by a test is let through, one by the package is not."""
    names = {"xp": standin.xp, "x": standin.asarray(np.arange(6.0).reshape(2, 3)), "np": np, "standin": standin}
    path = str(Path(tg.__file__).parent / "made_up.py")
    return eval(compile(text, path, "eval"), names)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("np.asarray(x)", TypeError),
        ("np.add(x, 1)", TypeError),
        ("np.concatenate([x, x])", TypeError),
        ("x + np.ones(3)", TypeError),
        ("xp.add(x, 1, where=x > 2)", TypeError),
        ("xp.sum(x, where=x > 2)", TypeError),
        ("xp.max(x, initial=0)", TypeError),
        ("xp.errstate(all='ignore')", AttributeError),
        ("xp.maximum.reduce(x)", NotImplementedError),
        ("xp.add.at(xp.zeros(3, dtype='int8'), xp.asarray([0]), 1)", TypeError),
        ("xp.asarray(['a'])", TypeError),
        ("xp.asarray([None])", TypeError),
        ("xp.asarray(np.array([1.0], '>f8'))", TypeError),
        ("xp.put_along_axis(x, xp.asarray([[0]]), 1.0, 1, True, 2)", TypeError),
        ("x.setflags(write=False)", AttributeError),
        ("x.__setitem__(xp.asarray([0, 0]), xp.ones((2, 3)))", ValueError),
        ("xp.random.default_rng", AttributeError),
    ],
)
def test_what_cupy_does_not_do_is_refused(text, error):
    with pytest.raises(error):
        inside(text)


def test_what_cupy_does_is_let_through():
    assert inside("xp.sum(x, axis=(0, 1), keepdims=True).shape") == (1, 1)
    assert inside("x.sum().shape") == ()
    assert isinstance(inside("x.sum()"), standin.Array)
    assert inside("xp.add(x, 1, out=x) is x")
    assert inside("x[xp.asarray([0, 0])].shape") == (2, 3)
    assert inside("xp.isnan(xp.empty(3)).all().item()")


@pytest.mark.parametrize(
    "text", ["x[x > 2]", "bool(x[0, 0])", "xp.nonzero(x)", "xp.where(x > 1)", "xp.unique(x)", "x.item"]
)
def test_what_depends_on_values_waits(text):
    with standin.no_waiting(), pytest.raises(standin.WaitError):
        inside(text)


# Which tests run here


def test_the_table_of_what_runs_on_the_cpu_alone_names_tests_that_exist():
    for name, reason in CPU_ALONE.items():
        module, _, test = name.partition("::")
        path = Path(__file__).with_name(f"{module}.py")
        assert path.is_file(), f"{name} is no module of the tests"
        assert reason
        if test:
            assert f"\ndef {test}(" in path.read_text(encoding="utf-8"), f"{name} is not there"
            assert module not in CPU_ALONE, f"all of {module} runs on the CPU alone"


def test_a_test_that_runs_on_the_standin_makes_its_tensors_there(request):
    assert tg.zeros(1).device.kind == "cpu"  # this module names its devices itself
    assert not runs_on_the_standin("test_device_standin", "any")
    assert runs_on_the_standin("test_ops_torch", "any")
    assert not runs_on_the_standin("test_tensor_methods", "test_dlpack_shares_memory_with_numpy")
