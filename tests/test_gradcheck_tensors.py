"""The checker on what the engine differentiates: ops, functions of tensors, modules and networks."""

import numpy as np
import pytest

import tinygrad_cnn
from tinygrad_cnn import Tensor, nn, ops
from tinygrad_cnn.errors import GraphError, OptionError
from tinygrad_cnn.gradcheck import gradcheck, gradgradcheck
from tinygrad_cnn.gradcheck.rules import forward_of, rule_of
from tinygrad_cnn.nn import functional as F  # noqa: N812
from tinygrad_cnn.op import op

RNG = np.random.default_rng(11)
X = RNG.normal(size=(3, 4))


def test_the_package_is_callable_and_is_its_main_function():
    assert tinygrad_cnn.gradcheck(ops.tanh, (X,))
    assert tinygrad_cnn.gradcheck.gradcheck is gradcheck


@pytest.mark.parametrize(
    ("at_zero", "name"), [("left", "left"), ("right", "right"), ("average", "average"), (0.25, "0.25")]
)
def test_the_convention_of_relu_at_zero_is_named(at_zero, name):
    x = X.copy()
    x[1, :3] = 0.0
    report = gradcheck(ops.relu, (x,), options={"at_zero": at_zero}, seed=0)
    assert report
    assert report.convention == name


@pytest.mark.parametrize("ties", ["first", "split"])
def test_the_convention_of_tied_maxima_is_named(ties):
    x = np.ones((1, 2, 4, 4))
    report = gradcheck(ops.max_pool2d, (x,), options={"kernel": 2, "stride": 2, "ties": ties}, seed=0)
    assert report
    assert report.convention == ties


@pytest.mark.parametrize("at_zero", ["left", "right", "average"])
def test_a_composite_kink_is_a_property_of_differentiation_and_no_mistake(at_zero):
    x = X.copy()
    x[1, :3] = 0.0

    def f(x):
        return ops.relu(x, at_zero=at_zero) - ops.relu(-x, at_zero=at_zero)

    report = gradcheck(f, (x,), seed=0)
    assert report
    text = str(report)
    assert ("no mistake" in text) == (at_zero != "average")


def test_a_wrong_rule_of_an_op_is_found_at_a_composite_kink_too(monkeypatch):
    x = X.copy()
    x[1, :3] = 0.0
    monkeypatch.setattr(ops.relu, "rules", (lambda g, y, x, *, at_zero: 0.7 * g * (x > 0),))
    report = gradcheck(lambda x: ops.relu(x) - ops.relu(-x), (x,), seed=0)
    assert not report


def _whole_to_every_tie(g, y, x, **options):
    spread = np.kron(y, np.ones((1, 1, 2, 2))) == x
    return np.kron(g, np.ones((1, 1, 2, 2))) * spread


@pytest.mark.parametrize("after", [lambda y: y, lambda y: ops.relu(y) - ops.relu(-y)])
def test_the_whole_gradient_to_every_tie_is_no_convention_in_the_engine_either(monkeypatch, after):
    monkeypatch.setattr(ops.max_pool2d, "rules", (_whole_to_every_tie,))
    x = np.round(np.random.default_rng(0).normal(size=(1, 2, 4, 4)))
    x[0, 0, :2, :2] = 2.0
    assert gradcheck(ops.relu, (x,), seed=0)
    report = gradcheck(lambda x: after(ops.max_pool2d(x, kernel=2, stride=2)), (x,), seed=0)
    assert not report


@pytest.fixture
def wrong_op():
    from tinygrad_cnn.op import TABLE

    @op(shape=lambda x: x, flops=lambda y, x: 1, family="test")
    def squared_for_test(xp, x):
        return x * x

    @squared_for_test.vjp("x")
    def _(g, y, x):
        return g * x

    yield squared_for_test
    del TABLE["squared_for_test"]


def test_a_wrong_op_is_found_and_its_cause_named(wrong_op):
    report = gradcheck(wrong_op, (X,), seed=0)
    assert not report
    assert report.cause.id == "factor 1/2"


def test_a_wrong_second_derivative_is_found_where_the_first_is_right():
    from tinygrad_cnn.op import TABLE

    @op(shape=lambda x: x, flops=lambda y, x: 1, family="test")
    def cube_for_test(xp, x):
        return x**3

    @cube_for_test.vjp("x")
    def _(g, y, x):
        return g * 3.0 * x.detach() ** 2 if isinstance(x, Tensor) else g * 3.0 * x**2

    try:
        assert gradcheck(cube_for_test, (X,), seed=0)
        assert not gradgradcheck(cube_for_test, (X,), seed=0)
    finally:
        del TABLE["cube_for_test"]


def test_second_derivatives_are_checked_beside_a_kink():
    x = X.copy()
    x[0] = 0.0
    assert gradgradcheck(lambda x: (ops.relu(x) * x * x).sum(), (x,), seed=0)


def test_float32_is_compared_in_float64_and_its_rounding_is_reported_as_precision():
    x = Tensor(X.astype(np.float32), requires_grad=True)
    report = gradcheck(lambda x: (x.exp() / x.exp().sum()).log().sum(), (x,), seed=0)
    assert report
    assert report.parts[0].max_rel_err < 1e-9
    assert "float32 differs from float64" in report.parts[0].precision
    assert x.dtype == np.float32


def test_a_gradient_that_overflows_in_float32_only_fails():
    x = Tensor(np.array([100.0], dtype=np.float32), requires_grad=True)
    with np.errstate(over="ignore", invalid="ignore"):
        report = gradcheck(lambda x: (x.exp() + 1).log(), (x,), seed=0)
    assert not report
    assert "in float32, 1 of 1 entries are NaN or infinite" in str(report)


def test_ties_that_rounding_decides_otherwise_in_float32_are_no_failure():
    x = Tensor(np.array([1.0, 1.0], dtype=np.float32), requires_grad=True)
    report = gradcheck(lambda x: ops.maximum(x[0], x[1] * (1 + 1e-9)), (x,), seed=0)
    assert report
    assert "rounding decides ties" in str(report)


class Small(nn.Module):
    def __init__(self):
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.drop = nn.Dropout(0.4)
        self.out = nn.Linear(2 * 4 * 3, 3)

    def forward(self, x):
        x = self.drop(F.relu(self.norm(self.conv(x))))
        return self.out(x.flatten(1))


def test_a_module_is_checked_with_its_parameters_and_left_as_it_was():
    tinygrad_cnn.manual_seed(0)
    model = Small()
    before = {name: np.array(value) for name, value in model.state_dict().items()}
    grads = [p.grad for p in model.parameters()]
    report = gradcheck(model, (RNG.normal(size=(2, 1, 6, 5)),), seed=0)
    assert report
    assert [p.name for p in report.parts] == ["x", *(name for name, _ in model.named_parameters())]
    assert "held fixed" in str(report)
    after = model.state_dict()
    assert all(np.array_equal(before[name], np.array(after[name])) for name in before)
    assert [p.grad for p in model.parameters()] == grads
    assert all(p.dtype == np.float32 for p in model.parameters())


def test_a_network_is_sampled_in_every_parameter():
    tinygrad_cnn.manual_seed(0)
    model = tinygrad_cnn.models.LeNet5()
    labels = np.array([3, 5])

    def loss(x):
        return F.cross_entropy(model(x), labels)

    report = gradcheck(loss, (Tensor(RNG.normal(size=(2, 1, 28, 28))),), parameters=model, seed=0, sample=100)
    assert report
    names = [name for name, _ in model.named_parameters()]
    assert [p.name for p in report.parts if p.name in names] == names
    assert all(p.checked >= 6 for p in report.parts)


def test_random_directions_find_a_wrong_rule_without_looking_at_every_entry(wrong_op):
    x = RNG.normal(size=(40, 60))
    assert gradcheck(ops.tanh, (x,), mode="screen", seed=0).parts[0].checked == 3
    assert not gradcheck(wrong_op, (x,), mode="screen", seed=0)


def test_rows_find_an_error_that_cancels_in_the_sum():
    def backward(d, x):
        # wrong only for upstream gradients with a single entry
        return d * 2 * x if np.count_nonzero(d) > 1 else d * x

    forward = lambda x: x * x  # noqa: E731
    assert tinygrad_cnn.gradcheck.check_pair(forward, backward, (X,), seed=0)
    assert not tinygrad_cnn.gradcheck.check_pair(forward, backward, (X,), seed=0, mode="rows")


def test_the_complex_step_is_only_a_second_opinion():
    def backward(d, x):
        return d * 2 * (x - x.mean()) / x.size

    report = tinygrad_cnn.gradcheck.check_pair(np.var, backward, (X,), names=["x"], seed=0, step="complex")
    assert report
    assert "complex step disagrees" in str(report)


def test_a_rule_given_by_hand_is_checked_instead_of_the_engine():
    assert gradcheck(np.tanh, (X,), vjp=lambda d, x: d * (1 - np.tanh(x) ** 2), seed=0)
    assert not gradcheck(np.tanh, (X,), vjp=lambda d, x: d, seed=0)


def test_the_engines_rules_can_be_used_as_references():
    x, w = RNG.normal(size=(2, 3)), RNG.normal(size=(3, 4))
    d = np.ones((2, 4))
    assert np.allclose(forward_of(ops.matmul)(x, w), x @ w)
    dx, dw = rule_of(ops.matmul)(d, x, w)
    assert np.allclose(dx, d @ w.T)
    assert np.allclose(dw, rule_of(ops.matmul, 1)(d, x, w))


def test_mistaken_calls_are_explained():
    with pytest.raises(OptionError, match="the inputs are"):
        gradcheck(ops.tanh, (X,), wrt="nothing")
    with pytest.raises(GraphError, match="nothing to check"):
        gradcheck(ops.tanh, (3,))
    with pytest.raises(OptionError, match="choose one of"):
        gradcheck(ops.tanh, (X,), mode="fast")
    with pytest.raises(OptionError, match="must return a tensor"):
        gradcheck(lambda x: 3, (X,))
