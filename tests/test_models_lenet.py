"""LeNet-5, MLP and logistic regression: parameters, names, shapes, and PyTorch's first twenty losses."""

import copy
import doctest
from pathlib import Path

import numpy as np
import pytest

from tinygrad_cnn import Tensor, manual_seed, models, nn, optim, randn
from tinygrad_cnn.errors import OptionError, ShapeError
from tinygrad_cnn.models import dense, lenet, registry
from tinygrad_cnn.nn import functional as F  # noqa: N812

FIXTURE = np.load(Path(__file__).parent / "fixtures" / "lenet_losses.npz")


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_modern_lenet5_has_61706_parameters_under_the_usual_names():
    model = models.LeNet5()
    assert count(model) == 61706
    assert {name: t.shape for name, t in model.state_dict().items()} == {
        "conv1.weight": (6, 1, 5, 5),
        "conv1.bias": (6,),
        "conv2.weight": (16, 6, 5, 5),
        "conv2.bias": (16,),
        "fc1.weight": (120, 400),
        "fc1.bias": (120,),
        "fc2.weight": (84, 120),
        "fc2.bias": (84,),
        "fc3.weight": (10, 84),
        "fc3.bias": (10,),
    }


def test_networks_can_be_copied_and_subclassed():
    class Wide(models.LeNet5):
        def __init__(self, width, depth):
            super().__init__()
            self.fc3 = nn.Linear(84, width * depth)

    x = randn(1, 1, 28, 28)
    assert Wide(5, depth=4)(x).shape == (1, 20)
    for model in (models.LeNet5(), models.LeNet5Original()):
        twin = copy.deepcopy(model)
        assert type(twin) is type(model)
        np.testing.assert_array_equal(twin(x).array, model(x).array)
        assert all(p is not q for p, q in zip(twin.parameters(), model.parameters(), strict=True))


def test_unknown_forms_and_names_are_refused():
    with pytest.raises(OptionError, match="'modern' or 'original', got 'new'"):
        models.LeNet5("new")
    with pytest.raises(OptionError, match="no model 'lenet'; there are lenet5"):
        models.build("lenet")
    with pytest.raises(OptionError, match="use LogisticRegression"):
        models.MLP(hidden=())


def test_original_lenet5_has_the_parameters_of_the_paper_layer_by_layer():
    model = models.LeNet5(form="original")
    assert type(model) is models.LeNet5Original
    counts = {name: count(getattr(model, name)) for name in ("c1", "s2", "c3", "s4", "c5", "f6", "output")}
    assert counts == {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48120, "f6": 10164, "output": 0}
    assert count(model) == 60000


def test_the_connection_table_is_that_of_the_paper():
    table = models.lenet.CONNECTIONS
    contiguous = [{(start + i) % 6 for i in range(n)} for n in (3, 4) for start in range(6)]
    assert [len(maps) for maps in table] == [3] * 6 + [4] * 9 + [6]
    assert sorted(map(sorted, contiguous)) == sorted(map(list, table[:12]))
    assert len(set(table)) == 16
    assert [sum(c in maps for maps in table) for c in range(6)] == [10] * 6


def test_c3_sees_only_the_maps_of_its_table():
    model = models.LeNet5Original()
    x = randn(1, 6, 14, 14)
    before = model.c3(x).array
    x[0, 2] = 0.0
    changed = (model.c3(x).array != before).any(axis=(0, 2, 3))
    assert changed.tolist() == [2 in maps for maps in models.lenet.CONNECTIONS]


def test_c3_with_every_connection_is_an_ordinary_convolution():
    layer = models.lenet.TableConv2d(3, ((0, 1, 2), (0, 1, 2)), 5)
    x = randn(2, 3, 9, 9)
    expected = F.conv2d(x, layer.weight.reshape(2, 3, 5, 5), layer.bias)
    np.testing.assert_allclose(layer(x).array, expected.array, rtol=1e-6)


def test_original_units_follow_the_formulas_of_the_paper():
    model = models.LeNet5Original().double()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 6, 4, 4))
    windows = x.reshape(2, 6, 2, 2, 2, 2).sum(axis=(3, 5))
    w, b = model.s2.weight.numpy().reshape(6, 1, 1), model.s2.bias.numpy().reshape(6, 1, 1)
    np.testing.assert_allclose(model.s2(Tensor(x)).array, w * windows + b, rtol=1e-12)
    assert abs(model.tanh1(Tensor(1.0, dtype="float64")).item() - 1) < 1e-4
    code = rng.normal(size=(2, 84))
    distances = ((code[:, None] - model.output.prototypes.array) ** 2).sum(axis=2)
    np.testing.assert_allclose(model.output(Tensor(code)).array, -distances, rtol=1e-12)


def test_the_map_loss_is_formula_9_and_without_rubbish_the_cross_entropy():
    distances, right = np.array([[1.0, 30.0, 5.0], [40.0, 2.0, 8.0]]), np.array([0, 2])
    chosen = distances[[0, 1], right]
    expected = (chosen + np.log(np.exp(-7.0) + np.exp(-distances).sum(axis=1))).mean()
    np.testing.assert_allclose(models.map_loss(Tensor(-distances), Tensor(right), j=7.0).item(), expected, rtol=1e-12)
    without = F.cross_entropy(Tensor(-distances), Tensor(right)).item()
    np.testing.assert_allclose(models.map_loss(Tensor(-distances), Tensor(right), j=1e3).item(), without, rtol=1e-12)


def test_digits_of_28_by_28_are_brought_into_the_form_of_the_paper():
    model = models.LeNet5Original()
    digit = np.random.default_rng(0).random((1, 1, 28, 28), dtype=np.float32)
    framed = np.full((1, 1, 32, 32), -0.1, dtype=np.float32)
    framed[:, :, 2:30, 2:30] = digit * 1.275 - 0.1
    np.testing.assert_allclose(model(Tensor(digit)).array, model(Tensor(framed)).array, rtol=1e-4)
    with pytest.raises(ShapeError, match=r"\(n, 1, 32, 32\) or \(n, 1, 28, 28\), got \(1, 1, 30, 30\)"):
        model(randn(1, 1, 30, 30))


def test_the_bitmaps_are_seven_by_twelve_and_far_from_each_other():
    codes = np.array(models.lenet.BITMAPS)
    assert codes.shape == (10, 84)
    assert set(codes.ravel()) == {-1.0, 1.0}
    differing = (codes[:, None] != codes).sum(axis=2) + 84 * np.eye(10)
    assert differing.min() >= 6


def test_original_lenet5_with_other_classes_has_random_codes():
    model = models.LeNet5(form="original", num_classes=26)
    assert model(randn(2, 1, 32, 32)).shape == (2, 26)
    assert set(model.output.prototypes.numpy().ravel()) == {-1.0, 1.0}
    assert count(model) == 60000


def test_original_lenet5_learns_to_tell_ten_bars_apart():
    manual_seed(0)
    rng = np.random.default_rng(0)
    labels = np.arange(10)
    images = rng.random((10, 1, 28, 28), dtype=np.float32) * 0.2
    for k in labels:  # a bar of ink at a place of its own
        images[k, 0, 4 + 4 * (k // 2) : 8 + 4 * (k // 2), 3 + 11 * (k % 2) : 14 + 11 * (k % 2)] = 1.0
    x = Tensor(images)
    model = models.LeNet5Original()
    adam = optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(60):
        adam.zero_grad()
        logits = model(x)
        models.map_loss(logits, Tensor(labels)).backward()
        adam.step()
    assert (logits.array.argmax(axis=1) == labels).all()
    assert "output.prototypes" in model.state_dict()
    assert {t.dtype for t in model.state_dict().values()} == {np.dtype("float32")}


@pytest.mark.parametrize("name", ["lenet5", "lenet5-original", "mlp", "logistic"])
def test_every_parameter_of_a_digit_classifier_gets_a_gradient_of_its_shape(name):
    model = models.build(name)
    logits = model(randn(3, *registry.entry(name).input_shape))
    assert logits.shape == (3, 10)
    F.cross_entropy(logits, [1, 2, 3]).backward()
    assert all(p.grad.shape == p.shape for p in model.parameters())


def test_twenty_steps_of_lenet5_have_the_losses_and_the_weights_of_pytorch():
    rng = np.random.default_rng(1998)
    model = models.LeNet5().double()
    # The draws of make_lenet_fixture.py, in its order.
    model.load_state_dict({name: (rng.random(p.shape) - 0.5) / 4 for name, p in model.named_parameters()})
    adam = optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        images, labels = rng.random((64, 1, 28, 28)), Tensor((rng.random(64) * 10).astype(np.int64))
        adam.zero_grad()
        loss = F.cross_entropy(model(Tensor(images)), labels)
        loss.backward()
        adam.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, FIXTURE["losses"], rtol=0, atol=1e-10)
    ends = [np.abs(p.array).sum() for p in model.parameters()]
    np.testing.assert_allclose(ends, FIXTURE["absolute_sums"], rtol=1e-10)


def test_lenet5_learns_a_small_batch_by_heart():
    rng = np.random.default_rng(0)
    x, labels = Tensor(rng.random((16, 1, 28, 28), dtype=np.float32)), Tensor(rng.integers(0, 10, 16))
    manual_seed(0)
    model = models.LeNet5()
    adam = optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(80):
        adam.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        adam.step()
    assert loss.item() < 0.5
    assert loss.dtype == np.float32


def test_dropout_of_the_mlp_acts_in_training_only():
    model = models.MLP(hidden=(20,), dropout=0.5, input_dropout=0.2)
    x = randn(2, 1, 28, 28)
    assert (model(x).array != model(x).array).any()
    model.eval()
    np.testing.assert_array_equal(model(x).array, model(x).array)


@pytest.mark.parametrize("module", [dense, lenet, registry])
def test_examples_in_the_documentation_run(module):
    assert doctest.testmod(module).failed == 0
