"""A captured step agrees with the uncaptured one when models, losses, optimizers and memory change around it."""

import copy

import numpy as np
import pytest

from tinygrad_cnn import Tensor, nn, no_grad, optim
from tinygrad_cnn.captured import compile

X = Tensor(np.random.default_rng(5).random((6, 3), "float32"))
LABELS = np.array([0, 1, 2, 1, 0, 1])


def small():
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3))


def adam(model):
    return optim.Adam(model.parameters(), lr=0.05)


def eager(model, loss, optimizer, x=X, labels=LABELS):
    optimizer.zero_grad()
    value = loss(model(x), labels)
    value.backward()
    optimizer.step()
    return value


def twin(model):
    return copy.deepcopy(model)


def same(model, other):
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(p.array, q.array, rtol=1e-4, atol=1e-6)


def test_a_class_that_the_loss_ignores_is_ignored_in_every_batch():
    model = small()
    other = twin(model)
    loss = nn.CrossEntropyLoss(ignore_index=2)
    step, theirs = compile(model, loss, adam(model)), adam(other)
    for labels in (np.zeros(6, int), np.ones(6, int), LABELS):  # the class is in the last batch alone
        np.testing.assert_allclose(step(X, labels).item(), eager(other, loss, theirs, X, labels).item(), rtol=1e-5)
    same(model, other)
    assert "ignores" in step.reason


def test_losses_of_unknown_code_run_as_always():
    model = small()
    step = compile(model, lambda z, t: nn.functional.cross_entropy(z, t, ignore_index=2), adam(model))
    step(X, np.zeros(6, int))
    assert "neither" in step.reason


@pytest.mark.parametrize("optimizer", [optim.Adam, optim.SGD], ids=["Adam", "SGD"])
def test_memory_handed_out_before_stays_that_of_the_parameter(optimizer):
    model = small()
    other = twin(model)
    weight, theirs = model[0].weight.numpy(), other[0].weight.numpy()
    step, plain = (
        compile(model, nn.CrossEntropyLoss(), optimizer(model.parameters(), lr=0.05)),
        optimizer(other.parameters(), lr=0.05),
    )
    for _ in range(3):
        step(X, LABELS)
        eager(other, step.loss, plain)
        np.testing.assert_allclose(weight, theirs, rtol=1e-4, atol=1e-6)
        weight *= 0.5
        theirs *= 0.5
    same(model, other)
    assert step.replays == 2


def test_another_parameter_in_the_same_list_of_a_group_is_noticed():
    model = small()
    step = compile(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1))
    for _ in range(2):
        step(X, LABELS)
    step.optimizer.param_groups[0]["params"][0] = nn.Parameter(np.zeros((5, 3), "float32"))
    before = model[0].weight.array.copy()
    step(X, LABELS)
    np.testing.assert_array_equal(model[0].weight.array, before)


@pytest.mark.parametrize("part", ["model", "loss"])
def test_a_model_or_loss_exchanged_on_the_step_is_used(part):
    model, fresh = small(), small()
    both = optim.SGD([*model.parameters(), *fresh.parameters()], lr=0.1)
    step = compile(model, nn.CrossEntropyLoss(), both)
    for _ in range(2):
        step(X, LABELS)
    setattr(step, part, fresh if part == "model" else nn.CrossEntropyLoss(label_smoothing=0.5))
    with no_grad():
        expected = step.loss(step.model(X), LABELS).item()
    assert step(X, LABELS).item() == pytest.approx(expected)
    assert step(X, LABELS).item() < expected


def test_a_step_method_put_on_the_optimizer_is_called():
    model = small()
    step = compile(model, nn.CrossEntropyLoss(), adam(model))
    calls = []
    plain = step.optimizer.step
    step.optimizer.step = lambda: (calls.append(1), plain())
    for _ in range(3):
        step(X, LABELS)
    assert len(calls) == 3


class CallsForward(nn.Module):
    def __init__(self):
        self.layers = [[nn.Linear(3, 5)], nn.Linear(5, 3)]

    def forward(self, x):
        return self.layers[1].forward(self.layers[0][0].forward(x).relu())


def test_layers_that_are_called_by_their_forward_method_are_watched_too():
    model = CallsForward()
    step = compile(model, nn.CrossEntropyLoss(), adam(model))
    for _ in range(2):
        step(X, LABELS)
    assert step.replays == 1
    model.layers[0][0].weight = nn.Parameter(np.zeros((5, 3), "float32"))
    model.layers[0][0].bias = None
    with no_grad():
        expected = step.loss(model(X), LABELS).item()
    assert step(X, LABELS).item() == pytest.approx(expected)


class Counting(nn.Module):
    def __init__(self):
        self.layer, self.calls = nn.Linear(3, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x) if self.calls < 3 else self.layer(x) * 2.0


class Averaging(nn.Module):
    def __init__(self):
        self.layer, self.largest = nn.Linear(3, 3), Tensor(0.0)

    def forward(self, x):
        self.largest.fill_(float(x.array.max()))
        return self.layer(x)


class EditingTheBatch(nn.Module):
    def __init__(self):
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        x[:, 0] = 0.0
        return self.layer(x)


@pytest.mark.parametrize(
    ("make", "reason"),
    [(Counting, "changes what it holds"), (Averaging, "changes what it holds"), (EditingTheBatch, "edits x")],
    ids=["counts its calls", "keeps a value", "edits the batch"],
)
def test_a_forward_method_with_effects_of_its_own_runs_at_every_step(make, reason):
    rng = np.random.default_rng(6)
    model = make()
    other = twin(model)
    step, theirs = compile(model, nn.CrossEntropyLoss(), adam(model)), adam(other)
    for _ in range(4):
        x = rng.random((6, 3), "float32")
        assert step(Tensor(x), LABELS).item() == pytest.approx(eager(other, step.loss, theirs, Tensor(x)).item())
        if step.reason is not None:
            assert reason in step.reason
    assert step.replays == 0
    same(model, other)


def test_a_copy_of_a_step_records_anew():
    model = small()
    step = compile(model, nn.CrossEntropyLoss(), adam(model))
    step(X, LABELS)
    for _ in range(2):
        other = copy.deepcopy(step)
        for _ in range(3):
            assert step(X, LABELS).item() == pytest.approx(other(X, LABELS).item(), rel=1e-4)
        same(step.model, other.model)


def test_a_view_of_a_parameter_goes_on_showing_its_values():
    model = small()
    with no_grad():
        view = model[0].weight.reshape(-1)
    step = compile(model, nn.CrossEntropyLoss(), adam(model))
    for _ in range(3):
        step(X, LABELS)
        np.testing.assert_array_equal(view.array, model[0].weight.array.reshape(-1))
    assert step.replays == 2


@pytest.mark.parametrize("at_once", [False, True])
def test_parameters_nobody_else_holds_are_not_copied_at_every_step(at_once):
    model = small()
    step = compile(model, nn.CrossEntropyLoss(), adam(model), at_once=at_once)
    kept = [step(X, LABELS) for _ in range(3)]
    assert len(kept) == 3
    assert not step._chain.lent
    assert all(p.array is view for p, view in zip(step._chain.tensors, step._chain.store.views, strict=True))


@pytest.mark.parametrize("optimizer", [optim.Adam, optim.SGD], ids=["Adam", "SGD"])
def test_parameters_that_are_one_array_are_not_torn_apart(optimizer):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight.array = model[0].weight.array
    step = compile(model, nn.CrossEntropyLoss(), optimizer(model.parameters(), lr=0.1))
    for _ in range(3):
        step(X, LABELS)
    assert model[1].weight.array is model[0].weight.array
    assert "share" in step.reason


def test_labels_in_a_list_mean_the_same():
    model = small()
    other = twin(model)
    step, theirs = compile(model, nn.CrossEntropyLoss(), adam(model)), adam(other)
    for labels in (LABELS.tolist(), LABELS, LABELS.tolist(), LABELS):
        step(X, labels)
        eager(other, step.loss, theirs, X, labels)
    same(model, other)
    assert step.replays == 1


body, head = nn.Linear(3, 5), nn.Linear(5, 3)


def of_globals(x):
    return head(body(x))


class Holder:
    def __init__(self):
        self.head = nn.Linear(5, 3)

    def logits(self, x):
        return self.head(body(x))

    __call__ = logits


def test_a_layer_exchanged_in_a_plain_function_or_object_is_used(monkeypatch):
    held, by_method = Holder(), Holder()
    local = nn.Linear(5, 3)

    def of_closure(x):
        return local(body(x))

    fresh = nn.Linear(5, 3)
    for model, old in ((of_globals, head), (of_closure, local), (held, held.head), (by_method.logits, by_method.head)):
        parameters = [*body.parameters(), *old.parameters(), *fresh.parameters()]
        step = compile(model, nn.CrossEntropyLoss(), optim.SGD(parameters, lr=0.1))
        for _ in range(2):
            step(X, LABELS)
        assert step.replays == 1
        if model is of_globals:
            monkeypatch.setitem(of_globals.__globals__, "head", fresh)
        elif model is of_closure:
            local = fresh
        else:
            (held if model is held else by_method).head = fresh
        with no_grad():
            expected = step.loss(model(X), LABELS).item()
        assert step(X, LABELS).item() == pytest.approx(expected)
