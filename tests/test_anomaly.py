"""detect_anomaly names the op and the line that first made a NaN or an infinity."""

from pathlib import Path

import numpy as np
import pytest

from tinygrad_cnn import Tensor, detect_anomaly, grad, nn, ops
from tinygrad_cnn.errors import AnomalyError
from tinygrad_cnn.graph import state

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def line_of(mark):
    """Return the number of the line that ends with a comment."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith(f"# {mark}"))


def anomaly_of(function):
    with pytest.raises(AnomalyError) as caught, detect_anomaly():
        function()
    return str(caught.value)


def test_forward_it_names_the_op_the_line_and_the_inputs():
    def loss():
        y = Tensor([1.0, 0.0, -2.0]) * 2
        return y.log() + 1  # the logarithm

    message = anomaly_of(loss)
    assert message.startswith("log: made nan and -inf in 2 of 3 elements")
    assert f"test_anomaly.py:{line_of('the logarithm')} in loss: return y.log() + 1" in message
    assert "x (3,) float32 from -4 to 2" in message


def test_backward_it_names_the_rule_and_the_line_that_ran_the_op_forward():
    def train():
        root = Tensor([4.0, 0.0], requires_grad=True).sqrt()  # the root
        (root * 3).sum().backward()

    message = anomaly_of(train)
    assert message.startswith("backward of sqrt: its rule for input 'x', g / (2 y), made inf in 1 of 2 elements")
    assert f"test_anomaly.py:{line_of('the root')} in train: root = Tensor" in message


def test_the_first_op_is_named_not_a_later_one():
    x = Tensor([1e30], requires_grad=True)
    assert anomaly_of(lambda: (x * x - x * x).exp()).startswith("mul: made inf")


def test_nan_among_the_data_is_named_as_such():
    message = anomaly_of(lambda: Tensor([1.0, np.nan]) * 2)
    assert "mul: made nan in 1 of 2 elements; its input 'a' holds NaN already" in message


def test_a_mask_of_minus_infinity_may_pass():
    scores = Tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    with detect_anomaly():
        masked = ops.where(Tensor([[True, False, True]]), scores, -np.inf)
        weights = masked.softmax(axis=1)
        weights[:, 0].sum().backward()
    assert scores.grad.tolist()[0][1] == 0


def test_an_infinity_on_the_way_of_a_rule_that_masks_it_is_no_anomaly():
    a, b = Tensor([0.0, 2.0], requires_grad=True), Tensor([0.0, 3.0], requires_grad=True)
    with detect_anomaly():
        (a**b).sum().backward()
    assert a.grad.tolist() == [0, 12]


def test_a_seed_and_a_sum_that_are_not_finite_are_named():
    x = Tensor([0.0], requires_grad=True)
    message = anomaly_of(lambda: (x * 2).backward(np.array([np.nan])))
    assert "gradient to start with holds nan" in message
    message = anomaly_of(lambda: (x * 3e38 + x * 3e38).backward())
    assert "the sum of the gradients of its input 'a' became inf" in message


def test_an_op_that_ran_outside_has_no_line_but_a_name():
    x = Tensor([0.0], requires_grad=True)
    y = x.sqrt()
    with pytest.raises(AnomalyError, match=r"backward of sqrt.*ran outside of detect_anomaly"), detect_anomaly():
        y.backward()


def test_modules_are_named_from_the_outside_in():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    net[0].weight.data[...] = 3e38

    def use():
        return net(Tensor([[3e38, 3e38]]))  # the net

    message = anomaly_of(use)
    assert "linear: made" in message
    assert "(inside Sequential > Linear)" in message
    assert f"test_anomaly.py:{line_of('the net')} in use" in message


def test_the_second_derivative_is_watched_too():
    x = Tensor([0.0], requires_grad=True, dtype="float64")

    def curvature():
        (first,) = grad(x**1.5, x, create_graph=True)
        return grad(first, x)

    assert anomaly_of(curvature).startswith("backward of")


def test_healthy_numbers_pass_and_the_block_leaves_nothing_behind():
    @detect_anomaly()
    def train():
        x = Tensor([1.0, 2.0], requires_grad=True)
        (x.exp() / 3).sum().backward()
        return x.grad

    before = state.mode.observers
    assert np.isfinite(train().array).all()
    assert state.mode.observers == before
    with pytest.raises(AnomalyError), detect_anomaly():
        Tensor([0.0]).log()
    assert state.mode.observers == before
    Tensor([0.0]).log()


def test_numpy_does_not_warn_inside():
    with np.errstate(all="raise"), pytest.raises(AnomalyError), detect_anomaly():
        Tensor([0.0]).log()
