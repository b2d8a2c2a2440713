"""LeNet-5, MLP and logistic regression: parameters, names, shapes, and PyTorch's first twenty losses."""

import doctest
from pathlib import Path

import numpy as np
import pytest

from tinygrad_cnn import Tensor, manual_seed, models, optim, randn
from tinygrad_cnn.errors import OptionError
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


def test_unknown_forms_and_names_are_refused():
    with pytest.raises(OptionError, match="'modern' or 'original', got 'new'"):
        models.LeNet5("new")
    with pytest.raises(OptionError, match="no model 'lenet'; there are lenet5"):
        models.build("lenet")
    with pytest.raises(OptionError, match="use LogisticRegression"):
        models.MLP(hidden=())


@pytest.mark.parametrize("name", ["lenet5", "mlp", "logistic"])
def test_every_parameter_of_a_digit_classifier_gets_a_gradient_of_its_shape(name):
    model = models.build(name)
    logits = model(randn(3, *registry.entry(name).input_shape))
    assert logits.shape == (3, 10)
    F.cross_entropy(logits, np.array([1, 2, 3])).backward()
    assert all(p.grad.shape == p.shape for p in model.parameters())


def test_twenty_steps_of_lenet5_have_the_losses_and_the_weights_of_pytorch():
    rng = np.random.default_rng(1998)
    model = models.LeNet5().double()
    # The draws of make_lenet_fixture.py, in its order.
    model.load_state_dict({name: (rng.random(p.shape) - 0.5) / 4 for name, p in model.named_parameters()})
    adam = optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        images, labels = rng.random((64, 1, 28, 28)), (rng.random(64) * 10).astype(np.int64)
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
    x, labels = Tensor(rng.random((16, 1, 28, 28), dtype=np.float32)), rng.integers(0, 10, 16)
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
