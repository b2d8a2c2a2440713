"""The whole table of ops, layers, losses, optimizers and a training run on a second array library.

A green run here does not prove that CuPy behaves the same; it proves that nothing outside the backend names NumPy,
mixes arrays of two libraries, or waits for the device where it must not.
"""

import numpy as np
import pytest
import standin

import tinygrad_cnn as tg
from tinygrad_cnn import Tensor, models, nn, ops, optim
from tinygrad_cnn.backend import Device, to_host
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
    assert nn.summary(model, (1, 1, 28, 28)).as_dicts() == nn.summary(models.LeNet5(), (1, 1, 28, 28)).as_dicts()


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


def test_ops_of_plain_device_arrays_compute_without_recording():
    y = ops.exp(standin.asarray(np.zeros(3)))
    assert isinstance(y, standin.Array)


def test_an_index_list_goes_where_the_indexed_tensor_is():
    x = Tensor([1.0, 2.0, 3.0], device="standin", requires_grad=True)
    x[[0, 2, 2]].sum().backward()
    assert x.grad.tolist() == [1.0, 0.0, 2.0]
    assert x[np.array([1])].tolist() == [2.0]
