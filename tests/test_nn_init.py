"""Starting values: each rule has the bounds, the variance and the structure its formula says."""

import doctest
import math

import numpy as np
import pytest

from tinygrad_cnn import Tensor, manual_seed, nn, tensor, zeros
from tinygrad_cnn.errors import DTypeError, OptionError, ShapeError
from tinygrad_cnn.nn import init

# A weight of a convolution: fan_in 40 * 9 = 360, fan_out 60 * 9 = 540; 21 600 numbers.
SHAPE = (60, 40, 3, 3)

UNIFORM = [
    (init.lecture_uniform_, {}, 1 / 360),
    (init.lecun_uniform_, {}, math.sqrt(3 / 360)),
    (init.xavier_uniform_, {}, math.sqrt(6 / 900)),
    (init.xavier_uniform_, {"gain": 5 / 3}, 5 / 3 * math.sqrt(6 / 900)),
    (init.kaiming_uniform_, {}, math.sqrt(6 / 360)),
    (init.kaiming_uniform_, {"mode": "fan_out", "nonlinearity": "relu"}, math.sqrt(6 / 540)),
    (init.kaiming_uniform_, {"a": math.sqrt(5)}, 1 / math.sqrt(360)),
    (init.uniform_, {"a": -2.0, "b": 2.0}, 2.0),
]
NORMAL = [
    (init.lecun_normal_, {}, math.sqrt(1 / 360)),
    (init.xavier_normal_, {"gain": 2.0}, 2 * math.sqrt(2 / 900)),
    (init.kaiming_normal_, {"nonlinearity": "relu"}, math.sqrt(2 / 360)),
    (init.kaiming_normal_, {"mode": "fan_out", "a": 0.5}, math.sqrt(2 / 1.25 / 540)),
    (init.normal_, {"std": 3.0}, 3.0),
]


@pytest.fixture(autouse=True)
def seeded():
    manual_seed(0)


@pytest.mark.parametrize(("rule", "options", "bound"), UNIFORM)
def test_uniform_rules_fill_their_interval_evenly(rule, options, bound):
    w = zeros(*SHAPE)
    assert rule(w, **options) is w
    values = w.array.ravel()
    assert values.dtype == np.float32
    assert np.abs(values).max() <= bound * (1 + 1e-6)
    counts, _ = np.histogram(values, 8, (-bound, bound))
    assert np.abs(counts / values.size * 8 - 1).max() < 0.08  # 4 standard deviations


@pytest.mark.parametrize(("rule", "options", "std"), NORMAL)
def test_normal_rules_have_their_standard_deviation(rule, options, std):
    w = rule(zeros(*SHAPE, dtype="float64"), **options)
    assert abs(w.array.std() / std - 1) < 0.02
    assert abs(w.array.mean()) < 0.03 * std
    assert abs((w.array**4).mean() / std**4 - 3) < 0.3


def test_the_lecture_rule_sets_the_bias_to_zero():
    layer = nn.Linear(25, 4)
    init.lecture_uniform_(layer.weight, layer.bias)
    assert np.abs(layer.weight.array).max() <= 1 / 25
    assert not layer.bias.array.any()


def test_truncated_normal_stays_inside_and_keeps_its_shape():
    w = init.trunc_normal_(zeros(200, 100, dtype="float64"), mean=1.0, std=2.0, a=0.0, b=3.0)
    assert w.array.min() >= 0.0
    assert w.array.max() <= 3.0
    # The variance of a normal distribution cut at half a standard deviation below and one above its mean.
    assert abs(w.array.mean() - 1.41) < 0.05
    assert abs(w.array.std() - 0.82) < 0.03


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6), (4, 3, 2, 2), (16, 3, 2, 2)])
def test_orthogonal_rows_or_columns_are_orthonormal(shape):
    w = init.orthogonal_(zeros(*shape, dtype="float64"), gain=2.0).array.reshape(shape[0], -1)
    product = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-12)


def test_constants():
    assert init.constant_(zeros(2), 3.5).tolist() == [3.5, 3.5]
    assert init.ones_(zeros(2)).tolist() == [1.0, 1.0]
    assert init.zeros_(tensor([1.0, 2.0])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "param", "gain"),
    [
        ("linear", None, 1.0),
        ("sigmoid", None, 1.0),
        ("tanh", None, 5 / 3),
        ("relu", None, math.sqrt(2)),
        ("leaky_relu", None, math.sqrt(2 / 1.0001)),
        ("leaky_relu", 0.5, math.sqrt(2 / 1.25)),
        ("selu", None, 0.75),
    ],
)
def test_gains_are_those_of_pytorch(name, param, gain):
    assert init.calculate_gain(name, param) == gain


def test_the_seed_decides():
    draws = []
    for seed in (1, 1, 2):
        manual_seed(seed)
        draws.append(init.kaiming_normal_(zeros(3, 4)).tolist())
    assert draws[0] == draws[1] != draws[2]


def test_a_graph_that_read_the_weight_notices():
    w = zeros(2, 2, requires_grad=True)
    y = (w * w).sum()
    init.xavier_normal_(w)
    with pytest.raises(RuntimeError):
        y.backward()


def test_float16_weights_are_drawn_too():
    w = init.kaiming_uniform_(zeros(4, 4, dtype="float16"))
    assert w.dtype == np.float16
    assert w.array.any()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: init.xavier_uniform_(zeros(3)), ShapeError, r"at least 2 axes, got shape \(3,\)"),
        (lambda: init.orthogonal_(zeros(3)), ShapeError, "at least 2 axes"),
        (lambda: init.normal_(tensor([1, 2])), DTypeError, "holds int64"),
        (lambda: init.normal_(np.zeros(3)), OptionError, "got ndarray"),
        (lambda: init.normal_(zeros(3), std=-1.0), OptionError, "std must be at least 0"),
        (lambda: init.uniform_(zeros(3), 1.0, 0.0), OptionError, "a must not exceed b"),
        (lambda: init.kaiming_normal_(zeros(3, 3), mode="in"), OptionError, "'fan_in' or 'fan_out'"),
        (lambda: init.calculate_gain("mish"), OptionError, "'mish' is not known"),
        (lambda: init.trunc_normal_(zeros(3), a=5.0, b=6.0), OptionError, "holds almost nothing"),
    ],
)
def test_misuse_is_an_error_in_plain_words(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_rule_can_be_applied_to_a_whole_network():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3, bias=False))
    init.apply_(net, init.constant_, val=0.5)
    assert (net[0].weight.array == 0.5).all()
    assert not net[0].bias.array.any()
    assert (net[1].weight.array == 1).all()
    assert (net[4].weight.array == 0.5).all()


def test_examples_in_the_documentation_run():
    assert doctest.testmod(init).failed == 0


def test_tensor_index_moves_on_so_that_caches_see_the_change():
    w = Tensor([[1.0, 2.0]])
    before = w.index
    init.ones_(w)
    assert w.index > before
