"""Whole networks: derivatives of first and second order through every kind of layer at once."""

import gc

import numpy as np
import pytest
from op_checks import along

from tinygrad_cnn import Tensor, grad, nn, ops
from tinygrad_cnn.autodiff import hessian
from tinygrad_cnn.graph import Observer, observing
from tinygrad_cnn.nn import functional as F  # noqa: N812 - the usual name

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.normal(size=(3, 1, 8, 8)), np.array([0, 2, 1])


def network():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.BatchNorm2d(2, track_running_stats=False),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(2, 4, 3, stride=2, padding="same", groups=2),
        nn.ELU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    rng = np.random.default_rng(1)
    for p in net.parameters():
        p.data = rng.normal(size=p.shape) * 0.5
    return net.double()


def set_parameters(net, vector):
    start = 0
    for p in net.parameters():
        p.data = vector[start : start + p.size].reshape(p.shape)
        start += p.size


def flat(tensors):
    return np.concatenate([t.numpy().reshape(-1) for t in tensors])


def loss_of(net):
    return F.cross_entropy(net(Tensor(IMAGES)), Tensor(LABELS), label_smoothing=0.1)


def test_the_gradient_of_a_network_is_its_slope_along_any_direction():
    net = network()
    start = flat(net.parameters())
    gradient = flat(grad(loss_of(net), list(net.parameters())))

    def loss(vector):
        set_parameters(net, vector)
        return loss_of(net).item()

    for _ in range(5):
        direction = RNG.normal(size=start.size)
        direction /= np.linalg.norm(direction)
        assert along(loss, start, direction) == pytest.approx(gradient @ direction, abs=1e-8)


def test_hessian_times_vector_is_the_slope_of_the_gradient_and_symmetric():
    net = network()
    start = flat(net.parameters())
    u, v = (d / np.linalg.norm(d) for d in RNG.normal(size=(2, start.size)))

    def product(direction):
        set_parameters(net, start)
        parameters = list(net.parameters())
        first = grad(loss_of(net), parameters, create_graph=True)
        slope = sum(
            (g * Tensor(part)).sum()
            for g, part in zip(first, np.split(direction, np.cumsum([p.size for p in parameters])[:-1]), strict=True)
            for part in [part.reshape(g.shape)]
        )
        return flat(grad(slope, parameters))

    def slope_along_u(vector):
        set_parameters(net, vector)
        return float(flat(grad(loss_of(net), list(net.parameters()))) @ u)

    assert along(slope_along_u, start, v) == pytest.approx(product(u) @ v, abs=1e-6)
    assert product(u) @ v == pytest.approx(product(v) @ u, abs=1e-10)


def test_a_penalty_on_the_gradient_of_the_input_trains():
    net = network()
    x = Tensor(IMAGES, requires_grad=True)
    (gx,) = grad(net(x).sum(), x, create_graph=True)
    penalty = ((gx * gx).sum(axis=(1, 2, 3)).sqrt() - 1) ** 2
    penalty.sum().backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    assert np.abs(gradients["0.weight"].array).max() > 0
    assert gradients["8.bias"] is None or not gradients["8.bias"].array.any()


def test_a_step_against_the_gradient_lowers_the_loss():
    net = network()
    before = loss_of(net)
    before.backward()
    for p in net.parameters():
        p.data -= 0.01 * p.grad.data
    assert loss_of(net).item() < before.item()


def test_gradients_of_a_batch_are_the_mean_of_those_of_its_examples():
    layer = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)).double()
    images, labels = Tensor(IMAGES), Tensor(LABELS)
    whole = flat(grad(F.cross_entropy(layer(images), labels), list(layer.parameters())))
    each = [
        flat(grad(F.cross_entropy(layer(images[i : i + 1]), labels[i : i + 1]), list(layer.parameters())))
        for i in range(3)
    ]
    assert np.allclose(whole, np.mean(each, axis=0))


def test_third_derivatives_are_exact():
    x = Tensor(0.7, dtype="float64", requires_grad=True)
    values = [ops.sin(x) * x.exp()]
    for _ in range(3):
        values.append(grad(values[-1], x, create_graph=True)[0])
    s, c, e = np.sin(0.7), np.cos(0.7), np.exp(0.7)
    assert [v.item() for v in values] == pytest.approx([e * s, e * (s + c), 2 * e * c, 2 * e * (c - s)])


def test_the_cross_entropy_of_a_linear_model_is_convex():
    x = RNG.normal(size=(6, 3))
    labels = Tensor([0, 1, 1, 0, 1, 0])
    h = hessian(lambda w: F.cross_entropy(Tensor(x) @ w, labels), Tensor(RNG.normal(size=(3, 2)))).array.reshape(6, 6)
    assert np.allclose(h, h.T)
    assert np.linalg.eigvalsh(h).min() > -1e-12


def test_a_long_chain_differentiates_twice_and_is_collected():
    x = Tensor(1.0, dtype="float64", requires_grad=True)
    y = x
    for _ in range(3000):
        y = y * 1.0005 + 0.0
    (first,) = grad(y * y, x, create_graph=True)

    class Count(Observer):
        nodes = 0

        def node_started(self, node, g):
            self.nodes += 1

    count = Count()
    with observing(count):
        (second,) = grad(first, x)
    assert second.item() == pytest.approx(2 * 1.0005**6000)
    assert count.nodes < 25_000
    del y, first, second
    gc.collect()
