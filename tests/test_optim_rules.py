"""Optimizers: trajectories of PyTorch, state that can be saved, and errors."""

import doctest
import json
from pathlib import Path

import numpy as np
import pytest
from on_devices import there

from tinygrad_cnn import Tensor, nn, optim
from tinygrad_cnn.errors import CheckpointError, GraphError, OptionError, ShapeError
from tinygrad_cnn.optim import adam, adaptive, bundle, optimizer, sgd

FIXTURE = np.load(Path(__file__).parent / "fixtures" / "optim_trajectories.npz")
CASES = [key for key in FIXTURE.files if "{" in key]
KINDS = ["SGD", "Adam", "AdamW", "Adamax", "RMSprop", "Adagrad", "Adadelta"]


def made(case, params):
    kind, _, options = case.partition(" ")
    return getattr(optim, kind)(params, **json.loads(options))


def parameters(dtype="float64"):
    return [Tensor(FIXTURE[name], dtype=dtype, requires_grad=True) for name in ("w", "b")]


def descend(params, optimizer, steps):
    """Take the steps of the fixture: the gradient is curvature @ p + noise."""
    seen = []
    for t in steps:
        for name, p in zip("wb", params, strict=True):
            g = FIXTURE[f"curvature_{name}"] @ p.array + FIXTURE[f"noise_{name}"][t]
            p.grad = Tensor(g, dtype=p.dtype)
        optimizer.step()
        seen.append(np.concatenate([p.array.ravel() for p in params]))
    return np.stack(seen)


@pytest.mark.parametrize("case", CASES)
def test_fifty_steps_are_those_of_pytorch(case):
    params = parameters()
    seen = descend(params, made(case, params), range(50))
    np.testing.assert_allclose(seen[9::10], FIXTURE[case], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_a_run_saved_in_the_middle_goes_on_as_if_it_had_not_stopped(case):
    params = parameters()
    whole = descend(params, made(case, params), range(12))
    params = parameters()
    first = made(case, params)
    descend(params, first, range(6))
    saved = first.state_dict()
    arrays = {f"{i} {k}": v for i, held in saved["state"].items() for k, v in held.items() if k != "step"}
    rest = {i: {k: v for k, v in held.items() if k == "step"} for i, held in saved["state"].items()}
    through_json = json.loads(json.dumps({"state": rest, "param_groups": saved["param_groups"]}))
    for key, value in arrays.items():
        i, name = key.split()
        through_json["state"][i][name] = value
    second = getattr(optim, case.split()[0])(params, lr=123.0)
    second.load_state_dict(through_json)
    np.testing.assert_array_equal(descend(params, second, range(6, 12)), whole[6:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_parameters_and_state_keep_their_type(kind, dtype):
    params = parameters(dtype)
    chosen = getattr(optim, kind)(params, lr=0.01)
    descend(params, chosen, range(3))
    assert {p.dtype for p in params} == {np.dtype(dtype)}
    assert {a.dtype for held in chosen.state.values() for k, a in held.items() if k != "step"} <= {np.dtype(dtype)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_without_axes_and_one_without_elements_are_optimized_too(kind):
    scalar = Tensor(2.0, dtype="float64", requires_grad=True)
    vector = Tensor([2.0], dtype="float64", requires_grad=True)
    empty = Tensor(np.zeros((0, 3)), requires_grad=True)
    chosen = getattr(optim, kind)([scalar, vector, empty], lr=0.1)
    for _ in range(3):
        chosen.zero_grad()
        (scalar * scalar + (vector * vector).sum() + empty.sum()).backward()
        chosen.step()
    assert scalar.item() == pytest.approx(vector.item(), rel=1e-14)
    assert scalar.item() != 2.0
    assert empty.shape == (0, 3)


@pytest.mark.parametrize("case", CASES)
def test_parameters_updated_as_one_vector_end_where_they_do_alone(case, monkeypatch):
    params = parameters("float32")
    bundled = made(case, params)
    together = descend(params, bundled, range(12))
    assert [type(item) for item in bundled._arranged(0, params)] == [bundle.Bundle]
    monkeypatch.setattr(bundle, "SMALL", 0)
    params = parameters("float32")
    np.testing.assert_array_equal(descend(params, made(case, params), range(12)), together)


def test_a_parameter_that_misses_some_gradients_keeps_its_own_count_of_steps():
    def run(ready):
        params = [*parameters(), Tensor([1.0, 2.0], dtype="float64", requires_grad=True)]
        adam = optim.Adam(params, lr=0.1)
        for t in range(6):
            for i, p in enumerate(params):
                p.grad = Tensor(np.sin(p.array + t)) if ready(t, i) else None
            adam.step()
        return params, adam

    params, adam = run(lambda t, i: i != 1 or t % 2 == 0)
    assert [adam.state[p]["step"] for p in params] == [6, 3, 6]
    alone = Tensor(FIXTURE["b"], requires_grad=True)
    single = optim.Adam([alone], lr=0.1)
    for t in (0, 2, 4):
        alone.grad = Tensor(np.sin(alone.array + t))
        single.step()
    np.testing.assert_array_equal(params[1].array, alone.array)
    others, _ = run(lambda t, i: i != 1)
    np.testing.assert_array_equal(params[0].array, others[0].array)


def test_state_that_was_replaced_by_hand_is_used():
    params = parameters()
    adam = optim.Adam(params, lr=0.1)
    descend(params, adam, range(3))
    for p in params:
        adam.state[p]["exp_avg"] = there(np.zeros(p.shape))
    before = [p.array.copy() for p in params]
    for p in params:
        p.grad = Tensor(np.zeros(p.shape))
    adam.step()
    for p, value in zip(params, before, strict=True):
        np.testing.assert_array_equal(p.array, value)


def test_a_count_of_steps_that_was_set_by_hand_is_used(monkeypatch):
    ends = []
    for small in (bundle.SMALL, 0):
        monkeypatch.setattr(bundle, "SMALL", small)
        params = parameters()
        adam = optim.Adam(params, lr=0.1)
        for t in range(2):
            for p in params:
                p.grad = Tensor(np.ones(p.shape))
            adam.step()
            if t == 0:
                for p in params:
                    adam.state[p]["step"] = 100
        assert [adam.state[p]["step"] for p in params] == [101, 101]
        ends.append(params[1].array.copy())
    np.testing.assert_array_equal(*ends)
    # The first step has length 0.1; a second one corrected for t = 2 would have the same.
    assert (abs(FIXTURE["b"] - ends[0] - 0.2) > 0.02).all()


def test_momentum_can_be_switched_on_after_the_first_steps():
    params = parameters()
    sgd = optim.SGD(params, lr=0.1)
    descend(params, sgd, range(3))
    sgd.param_groups[0]["momentum"] = 0.9
    descend(params, sgd, range(3, 6))
    twin = parameters()
    plain = optim.SGD(twin, lr=0.1)
    descend(twin, plain, range(3))
    fresh = optim.SGD(twin, lr=0.1, momentum=0.9)
    descend(twin, fresh, range(3, 6))
    for p, q in zip(params, twin, strict=True):
        np.testing.assert_array_equal(p.array, q.array)
    assert {"step", "momentum_buffer"} == set(sgd.state_dict()["state"][0])


def test_a_rule_of_your_own_sees_each_parameter_by_itself():
    class Normalised(optim.Optimizer):
        """A step of length lr along the gradient of each parameter."""

        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def start(self, p, group):
            return {}

        def update(self, p, g, state, group):
            p -= group["lr"] * g / np.sqrt((g * g).sum())

    params = parameters()
    before = [p.array.copy() for p in params]
    rule = Normalised(params, lr=0.5)
    for p in params:
        p.grad = Tensor(np.full(p.shape, 3.0))
    rule.step()
    assert [round(float(np.linalg.norm(p.array - b)), 12) for p, b in zip(params, before, strict=True)] == [0.5, 0.5]


def test_no_parameter_moves_when_one_gradient_has_the_wrong_shape():
    w, b = parameters()
    w.grad, b.grad = Tensor(np.ones((4, 3))), Tensor(np.ones(4))
    before = w.array.copy()
    with pytest.raises(ShapeError, match=r"was p\.grad set by hand"):
        optim.SGD([w, b], lr=0.1).step()
    np.testing.assert_array_equal(w.array, before)
    b.grad = np.ones(3)
    with pytest.raises(ShapeError, match="is ndarray, expected a tensor"):
        optim.SGD([w, b], lr=0.1).step()
    np.testing.assert_array_equal(w.array, before)


def test_parameters_of_different_types_stand_in_one_group():
    params = [Tensor([1.0], dtype=kind, requires_grad=True) for kind in ("float32", "float64", "float32", "float64")]
    for p in params:
        p.grad = Tensor([1.0], dtype=p.dtype)
    optim.SGD(params, lr=0.25).step()
    assert [(p.item(), str(p.dtype)) for p in params] == [(0.75, "float32"), (0.75, "float64")] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_in_another_memory_order_gives_the_same_step(kind):
    steps = []
    for order in "CF":
        p = Tensor(FIXTURE["w"], requires_grad=True)
        p.grad = Tensor.made(np.array(FIXTURE["noise_w"][0], order=order))
        getattr(optim, kind)([p], lr=0.1).step()
        steps.append(p.array.copy())
    np.testing.assert_array_equal(*steps)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_itself_is_not_written_to(kind):
    p = Tensor(FIXTURE["w"], requires_grad=True)
    g = FIXTURE["noise_w"][0].copy()
    p.grad = Tensor.made(g)
    chosen = getattr(optim, kind)([p], lr=0.1, weight_decay=0.1, l1=0.1)
    chosen.step()
    chosen.step()
    np.testing.assert_array_equal(g, FIXTURE["noise_w"][0])


def test_the_spellings_of_the_papers_name_the_same_classes():
    assert optim.RMSProp is optim.RMSprop
    assert optim.AdaGrad is optim.Adagrad
    assert optim.AdaDelta is optim.Adadelta


def test_l1_takes_a_constant_amount_off_the_absolute_value():
    p = Tensor([2.0, -2.0, 0.0], dtype="float64", requires_grad=True)
    p.grad = Tensor([0.0, 0.0, 0.0], dtype="float64")
    optim.SGD([p], lr=0.5, l1=0.1).step()
    np.testing.assert_allclose(p.array, [1.95, -1.95, 0.0], rtol=1e-15)


def test_decoupled_decay_does_not_pass_through_the_moments():
    p = Tensor([2.0], dtype="float64", requires_grad=True)
    p.grad = Tensor([0.0], dtype="float64")
    optim.SGD([p], lr=0.5, momentum=0.9, weight_decay=0.1, decoupled_weight_decay=True).step()
    np.testing.assert_allclose(p.array, [2.0 * 0.95], rtol=1e-15)


def test_adam_does_not_change_its_steps_when_the_loss_is_scaled():
    ends = []
    for scale in (1.0, 1000.0):
        p = Tensor(FIXTURE["w"], requires_grad=True)
        adam = optim.Adam([p], lr=0.1, eps=0.0)
        for t in range(20):
            p.grad = Tensor(scale * (p.array + FIXTURE["noise_w"][t]))
            adam.step()
        ends.append(p.array.copy())
    np.testing.assert_allclose(*ends, rtol=1e-9)


def test_groups_have_options_of_their_own():
    w, b = parameters()
    chosen = optim.SGD([{"params": [w], "lr": 0.1}, {"params": b}], lr=0.01, momentum=0.5)
    before = w.array.copy(), b.array.copy()
    for p in (w, b):
        p.grad = Tensor(np.ones(p.shape))
    chosen.step()
    np.testing.assert_allclose(w.array, before[0] - 0.1, rtol=1e-12)
    np.testing.assert_allclose(b.array, before[1] - 0.01, rtol=1e-12)
    assert [group["momentum"] for group in chosen.param_groups] == [0.5, 0.5]


def test_named_parameters_can_be_given():
    w, b = parameters()
    assert optim.SGD(iter([("w", w), ("b", b)])).param_groups[0]["params"] == [w, b]


def test_a_parameter_without_gradient_stays_as_it_is():
    w, b = parameters()
    b.grad = Tensor(np.ones(3))
    before = w.array.copy()
    adam = optim.Adam([w, b], weight_decay=0.1)
    adam.step()
    np.testing.assert_array_equal(w.array, before)
    assert list(adam.state_dict()["state"]) == [1]


def test_zero_grad_forgets_gradients_or_sets_them_to_zero():
    w, b = parameters()
    shared = Tensor(np.ones(3))
    w.grad, b.grad = Tensor(np.ones((4, 3))), shared
    chosen = optim.SGD([w, b])
    chosen.zero_grad(set_to_none=False)
    assert not w.grad.array.any()
    assert not b.grad.array.any()
    assert shared.array.all()
    chosen.zero_grad()
    assert w.grad is None
    assert b.grad is None


def test_step_runs_the_closure_and_returns_its_loss():
    x = Tensor([3.0], requires_grad=True)
    chosen = optim.SGD([x], lr=0.5)

    def closure():
        chosen.zero_grad()
        loss = (x * x).sum()
        loss.backward()
        return loss

    assert chosen.step(closure).item() == 9.0
    assert x.item() == 0.0


def test_a_graph_that_read_a_parameter_refuses_to_be_walked_after_the_step():
    x = Tensor([3.0], requires_grad=True)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    optim.SGD([x], lr=0.5).step()
    with pytest.raises(GraphError):
        y.backward()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("SGD", {"lr": -1.0}, "lr must be at least 0, got -1.0"),
        ("SGD", {"lr": float("nan")}, "lr must be at least 0, got nan"),
        ("SGD", {"lr": "fast"}, "lr must be at least 0, got 'fast'"),
        ("SGD", {"momentum": -0.1}, "momentum must be at least 0"),
        ("SGD", {"nesterov": True}, "nesterov needs a momentum"),
        ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov needs a momentum"),
        ("Adam", {"betas": (0.9, 1.0)}, "betas must be two numbers"),
        ("Adam", {"betas": (0.9,)}, "betas must be two numbers"),
        ("Adam", {"eps": -1e-8}, "eps must be at least 0"),
        ("Adam", {"l1": -1}, "l1 must be at least 0"),
        ("AdamW", {"weight_decay": -1}, "weight_decay must be at least 0"),
        ("RMSprop", {"alpha": 1.5}, "alpha must be in"),
        ("Adagrad", {"lr_decay": -1}, "lr_decay must be at least 0"),
        ("Adadelta", {"rho": -0.1}, "rho must be in"),
    ],
)
def test_an_option_out_of_range_is_refused(kind, options, message):
    with pytest.raises(OptionError, match=message):
        getattr(optim, kind)(parameters(), **options)


def test_parameters_that_cannot_be_optimized_are_refused():
    w, b = parameters()
    with pytest.raises(OptionError, match=r"got a Linear; give its \.parameters\(\)"):
        optim.SGD(nn.Linear(2, 2), lr=0.1)
    with pytest.raises(OptionError, match="no parameters to optimize"):
        optim.SGD([])
    with pytest.raises(OptionError, match="holds no parameters"):
        optim.SGD([{"params": []}])
    with pytest.raises(OptionError, match="got a single tensor"):
        optim.SGD(w)
    with pytest.raises(OptionError, match="parameters are tensors, got ndarray"):
        optim.SGD([w.numpy()])
    with pytest.raises(OptionError, match="given twice"):
        optim.SGD([w, b, w])
    with pytest.raises(OptionError, match="given twice"):
        optim.SGD([{"params": [w]}, {"params": [b, w]}])
    with pytest.raises(OptionError, match="set of parameters"):
        optim.SGD([{"params": {w}}])
    with pytest.raises(OptionError, match="has no option learning_rate"):
        optim.SGD([{"params": [w], "learning_rate": 0.1}])
    with pytest.raises(OptionError, match="holds int64"):
        optim.SGD([Tensor([1, 2])])
    with pytest.raises(GraphError, match="computed by mul, so it is no leaf"):
        optim.SGD([w * 2])


def test_a_gradient_of_another_shape_is_refused():
    w = Tensor(FIXTURE["w"], requires_grad=True, name="fc.weight")
    w.grad = Tensor(np.ones(3))
    with pytest.raises(ShapeError, match=r"gradient of parameter 'fc.weight' has shape \(3,\), but .* \(4, 3\)"):
        optim.Adam([w]).step()


def broken_states():
    def change(edit):
        def edited(state):
            edit(state)
            return state

        return edited

    yield lambda s: [], "keys 'state' and 'param_groups'"
    yield lambda s: {**s, "state": []}, "'state' must be a dict"
    yield lambda s: {**s, "param_groups": s["param_groups"] * 2}, "has 2 parameter groups, this one 1"
    yield change(lambda s: s["param_groups"][0]["params"].pop()), "has 1 parameters, this one 2"
    yield change(lambda s: s["param_groups"][0].pop("betas")), "lacks betas"
    yield change(lambda s: s["param_groups"][0].update(rho=0.9)), "does not know: rho"
    yield change(lambda s: s["param_groups"][0].update(lr=-1)), "lr must be at least 0"
    yield change(lambda s: s["state"].update({7: s["state"][0]})), "state for parameter 7"
    yield change(lambda s: s["state"][0].pop("exp_avg")), "was it saved from another optimizer"
    yield change(lambda s: s["state"][0].update(step=1.5)), "expected a whole number"
    yield change(lambda s: s["state"][0].update(exp_avg=np.zeros(5))), "expected float64 of shape"
    yield change(lambda s: s["state"][0].update(exp_avg=np.array([["x"] * 3] * 4))), "expected float64 of shape"


@pytest.mark.parametrize(("broken", "message"), list(broken_states()))
def test_a_state_dict_that_does_not_fit_is_refused_and_changes_nothing(broken, message):
    params = parameters()
    adam = optim.Adam(params)
    descend(params, adam, range(2))
    before = adam.state_dict()
    with pytest.raises(CheckpointError, match=message):
        adam.load_state_dict(broken(adam.state_dict()))
    after = adam.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for i, held in before["state"].items():
        for name, value in held.items():
            np.testing.assert_array_equal(after["state"][i][name], value)


def test_an_optimizer_describes_itself():
    assert repr(optim.SGD(parameters(), lr=0.1)).startswith("SGD\n  group 0: 2 parameters, lr=0.1, momentum=0.0")


@pytest.mark.parametrize("module", [adam, adaptive, optimizer, sgd])
def test_examples_in_the_documentation_run(module):
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0
