"""Schedules: PyTorch's learning rates, saving, errors; and gradient clipping."""

import doctest
import json
import math
from pathlib import Path

import numpy as np
import pytest

from tinygrad_cnn import Tensor, optim
from tinygrad_cnn.errors import CheckpointError, OptionError
from tinygrad_cnn.optim import lr_scheduler

FIXTURE = np.load(Path(__file__).parent / "fixtures" / "optim_schedules.npz")
CASES = [key for key in FIXTURE.files if "{" in key]


def sgd(momentum=0.9):
    groups = [{"params": [Tensor([0.0], requires_grad=True)], "lr": lr} for lr in (0.1, 0.02)]
    return optim.SGD(groups, momentum=momentum)


def made(case, optimizer):
    kind, _, text = case.partition(" ")
    options = json.loads(text)
    if kind != "SequentialLR":
        return getattr(lr_scheduler, kind)(optimizer, **options)
    parts = [getattr(lr_scheduler, name)(optimizer, **own) for name, own, _ in options["parts"]]
    milestones = np.cumsum([steps for *_, steps in options["parts"]])[:-1].tolist()
    return lr_scheduler.SequentialLR(optimizer, parts, milestones)


def walk(schedule, steps):
    rows = []
    for t in steps:
        first, second = schedule.optimizer.param_groups
        rows.append([first["lr"], second["lr"], first["momentum"]])
        if t < 39:
            schedule.step(*([FIXTURE["figures"][t]] if schedule.needs_metric else []))
    return rows


@pytest.mark.parametrize("case", CASES)
def test_learning_rates_are_those_of_pytorch(case):
    np.testing.assert_allclose(walk(made(case, sgd()), range(40)), FIXTURE[case], rtol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_a_schedule_saved_in_the_middle_goes_on_as_if_it_had_not_stopped(case):
    first = sgd()
    schedule = made(case, first)
    walk(schedule, range(11))
    saved = json.loads(json.dumps([first.state_dict(), schedule.state_dict()]))
    second = sgd()
    resumed = made(case, second)
    second.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    np.testing.assert_array_equal(walk(resumed, range(11, 40)), walk(schedule, range(11, 40)))


def test_one_cycle_moves_the_first_beta_of_adam():
    adam = optim.Adam([Tensor([0.0], requires_grad=True)])
    schedule = lr_scheduler.OneCycleLR(adam, max_lr=0.1, total_steps=10)
    assert adam.param_groups[0]["betas"] == (0.95, 0.999)
    for _ in range(2):
        schedule.step()
    assert adam.param_groups[0]["betas"] == (0.85, 0.999)
    assert schedule.get_last_lr() == [0.1]


def test_a_function_of_your_own_can_be_a_schedule():
    optimizer = sgd()
    schedule = lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + t))
    schedule.step()
    assert schedule.get_last_lr() == [0.05, 0.01]
    two = lr_scheduler.LambdaLR(sgd(), [lambda t: 2.0, lambda t: 3.0])
    assert two.get_last_lr() == [0.2, 0.06]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: lr_scheduler.StepLR(o, 0), "step_size must be a whole number"),
        (lambda o: lr_scheduler.StepLR(None, 3), "takes an optimizer, got NoneType"),
        (lambda o: lr_scheduler.CosineAnnealingLR(o, 2.5), "T_max must be a whole number"),
        (lambda o: lr_scheduler.LinearLR(o, 0.0), "start_factor must be above 0"),
        (lambda o: lr_scheduler.LambdaLR(o, [abs]), "1 functions for 2 parameter groups"),
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1), "give total_steps, or epochs and steps_per_epoch"),
        (lambda o: lr_scheduler.OneCycleLR(o, [0.1], 10), "1 values of max_lr for 2"),
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1, 10, pct_start=2), "pct_start must be in"),
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1, 10, anneal_strategy="sine"), "'cos' or 'linear'"),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=1.0), "factor must be in"),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o, mode="low"), "mode must be"),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o, threshold_mode="both"), "threshold_mode must be"),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=-1), "patience and cooldown"),
        (lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.StepLR(o, 3)], [4]), "1 schedules need 0"),
        (lambda o: lr_scheduler.SequentialLR(o, [], []), "0 schedules need 0"),
        (lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.StepLR(sgd(), 3)], []), "for the optimizer given"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(OptionError, match=message):
        make(sgd())


def test_an_optimizer_without_momentum_cannot_cycle_it():
    adagrad = optim.Adagrad([Tensor([0.0], requires_grad=True)])
    with pytest.raises(OptionError, match="set cycle_momentum=False"):
        lr_scheduler.OneCycleLR(adagrad, 0.1, 10)
    assert lr_scheduler.OneCycleLR(adagrad, 0.1, 10, cycle_momentum=False).get_last_lr() == [0.1 / 25]


def test_a_step_beyond_the_cycle_is_refused():
    schedule = lr_scheduler.OneCycleLR(sgd(), 0.1, 3)
    for _ in range(3):  # one after each of three updates
        schedule.step()
    with pytest.raises(OptionError, match="step 4 is beyond the cycle of 3 steps"):
        schedule.step()


def test_the_state_of_another_schedule_is_refused():
    step, exponential = lr_scheduler.StepLR(sgd(), 3), lr_scheduler.ExponentialLR(sgd(), 0.9)
    with pytest.raises(CheckpointError, match="this is the state of a ExponentialLR"):
        step.load_state_dict(exponential.state_dict())
    with pytest.raises(CheckpointError, match="expected"):
        step.load_state_dict(lr_scheduler.ReduceLROnPlateau(sgd()).state_dict())
    with pytest.raises(CheckpointError, match="for 1 parameter groups"):
        step.load_state_dict({**step.state_dict(), "base_lrs": [0.1]})


# Clipping


def with_gradients(*gradients):
    params = []
    for g in gradients:
        p = Tensor(np.zeros(np.shape(g)), requires_grad=True)
        p.grad = Tensor(np.asarray(g, dtype="float64"))
        params.append(p)
    return params


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.5, math.inf])
def test_the_norm_of_all_gradients_together_is_clipped(norm_type):
    gradients = np.array([[3.0, -4.0], [0.5, 2.0]]), np.array(-12.0), np.zeros((0, 2))
    params = with_gradients(*gradients)
    whole = np.linalg.norm(np.concatenate([g.ravel() for g in gradients]), norm_type)
    before = optim.clip_grad_norm_(params, 2.0, norm_type)
    np.testing.assert_allclose(before.item(), whole, rtol=1e-12)
    for p, g in zip(params, gradients, strict=True):
        np.testing.assert_allclose(p.grad.array, g * 2.0 / (whole + 1e-6), rtol=1e-12)


def test_small_gradients_are_not_scaled_up():
    (p,) = with_gradients([0.3, 0.4])
    optim.clip_grad_norm_(p, 2.0)
    assert p.grad.tolist() == [0.3, 0.4]


def test_a_shared_gradient_is_not_scaled_twice():
    a, b = with_gradients([3.0], [4.0])
    b.grad = a.grad
    optim.clip_grad_norm_([a, b], 1.0)
    np.testing.assert_allclose(a.grad.array, b.grad.array)
    np.testing.assert_allclose(a.grad.array, [math.sqrt(0.5)], rtol=1e-6)


def test_values_are_clipped_and_keep_their_type():
    p = Tensor([0.0, 0.0], requires_grad=True)
    p.grad = Tensor([-3.0, 0.25])
    optim.clip_grad_value_([p], 0.5)
    assert p.grad.tolist() == [-0.5, 0.25]
    optim.clip_grad_norm_([p], 0.1)
    assert p.grad.dtype == np.float32


def test_a_norm_that_is_not_finite_is_an_error_on_request():
    params = with_gradients([np.nan, 1.0])
    assert math.isnan(optim.clip_grad_norm_(params, 1.0).item())
    with pytest.raises(Exception, match="norm of the gradients is nan"):
        optim.clip_grad_norm_(with_gradients([np.nan, 1.0]), 1.0, error_if_nonfinite=True)


def test_clipping_without_gradients_or_with_wrong_bounds():
    assert optim.clip_grad_norm_([Tensor([1.0], requires_grad=True)], 1.0).item() == 0.0
    for call in (
        lambda: optim.clip_grad_norm_([], -1.0),
        lambda: optim.clip_grad_norm_([], 1.0, 0.0),
        lambda: optim.clip_grad_value_([], -1.0),
    ):
        with pytest.raises(OptionError, match="must be"):
            call()


def test_parameters_become_one_vector_and_come_back():
    from tinygrad_cnn.nn import utils

    a, b = Tensor([[1.0, 2.0]], requires_grad=True), Tensor(3.0, requires_grad=True)
    vector = utils.parameters_to_vector([a, b])
    assert vector.tolist() == [1.0, 2.0, 3.0]
    (vector * vector).sum().backward()
    assert a.grad.tolist() == [[2.0, 4.0]]
    utils.vector_to_parameters(Tensor([4.0, 5.0, 6.0]), [a, b])
    assert (a.tolist(), b.tolist()) == ([[4.0, 5.0]], 6.0)
    with pytest.raises(ValueError, match=r"parameters need \(3,\)"):
        utils.vector_to_parameters(Tensor([4.0]), [a, b])


def test_examples_in_the_documentation_run():
    from tinygrad_cnn.nn import utils

    assert doctest.testmod(lr_scheduler, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0
    assert doctest.testmod(utils).failed == 0
