"""A captured step does what the same lines do without it, and notices when it may not be replayed."""

import numpy as np
import pytest

from tinygrad_cnn import Tensor, nn, no_grad, optim
from tinygrad_cnn.captured import compile
from tinygrad_cnn.errors import TinygradError
from tinygrad_cnn.graph import Observer, observing


def lenet(dtype="float64"):
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    ).to(dtype=dtype)  # fmt: skip


def twins(make):
    """Two models with the same parameters."""
    first, second = make(), make()
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        q.data = p.array.copy()
    return first, second


def batch(rng, n, shape=(1, 28, 28), classes=10, dtype="float64"):
    x = rng.random((n, *shape))
    x[..., :3] = 0  # as on MNIST, where whole windows of a pool are equal
    return Tensor(x.astype(dtype)), rng.integers(0, classes, n)


def eager(model, loss, optimizer, x, labels):
    optimizer.zero_grad()
    value = loss(model(x), labels)
    value.backward()
    optimizer.step()
    return value


def compare(make, optimizer, batches, loss=None, **tolerance):
    """Train twins, one of them replayed, and compare losses, gradients and parameters at every step."""
    loss = loss or nn.CrossEntropyLoss()
    captured, plain = twins(make)
    step, theirs = compile(captured, loss, optimizer(captured.parameters())), optimizer(plain.parameters())
    for x, labels in batches:
        value, expected = step(x, labels), eager(plain, loss, theirs, x, labels)
        np.testing.assert_allclose(value.array, expected.array, **tolerance)
        for p, q in zip(captured.parameters(), plain.parameters(), strict=True):
            np.testing.assert_allclose(p.grad.array, q.grad.array, **tolerance)
            np.testing.assert_allclose(p.array, q.array, **tolerance)
    return step


OPTIMIZERS = {
    "Adam": lambda ps: optim.Adam(ps, lr=1e-3, weight_decay=0.01),
    "AdamW": lambda ps: optim.AdamW(ps, lr=1e-3),
    "amsgrad": lambda ps: optim.Adam(ps, amsgrad=True),
    "SGD": lambda ps: optim.SGD(ps, lr=0.05, momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_lenet_trains_the_same_captured_and_not(optimizer):
    rng = np.random.default_rng(1)
    batches = [batch(rng, n) for n in (12, 12, 5, 12, 5)]
    step = compare(lenet, optimizer, batches, rtol=1e-8, atol=1e-10)
    assert step.reason is None
    assert step.replays == 3  # the first of either shape is recorded


def test_float32_agrees_to_its_precision():
    rng = np.random.default_rng(2)
    batches = [batch(rng, 16, dtype="float32") for _ in range(4)]
    step = compare(lambda: lenet("float32"), OPTIMIZERS["Adam"], batches, rtol=1e-3, atol=1e-5)
    assert step.replays == 3


def head(channels, classes=4):
    return [nn.Flatten(), nn.Linear(channels, classes)]


NETWORKS = {
    "linear layers alone": ((7,), lambda: [nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 4)]),
    "flattened images": ((2, 3, 4), lambda: [nn.Flatten(), nn.Linear(24, 9), nn.ReLU(), nn.Linear(9, 4)]),
    "relu at the end": ((7,), lambda: [nn.Linear(7, 4), nn.ReLU()]),
    "no bias": ((2, 9, 8), lambda: [nn.Conv2d(2, 3, 3, bias=False), nn.ReLU(), *head(126)]),
    "padding inside": (
        (2, 8, 8),
        lambda: [nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), *head(64)],
    ),
    "strides": ((1, 13, 11), lambda: [nn.Conv2d(1, 3, 3, stride=2), nn.Conv2d(3, 4, 2, stride=(1, 2)), *head(40)]),
    "dilation": ((1, 12, 12), lambda: [nn.Conv2d(1, 3, 3, dilation=2), nn.ReLU(), nn.MaxPool2d(2), *head(48)]),
    "pool before relu": ((2, 8, 6), lambda: [nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.ReLU(), *head(18)]),
    "pool without relu": ((2, 8, 6), lambda: [nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), *head(18)]),
    "pool along one axis": (
        (1, 9, 9),
        lambda: [
            nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d((2, 1)), nn.Conv2d(2, 3, 3), nn.MaxPool2d((1, 2)), *head(18),
        ],
    ),
    "pool that leaves rows over": ((1, 10, 8), lambda: [nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d(2), *head(24)]),
    "three convolutions": (
        (1, 24, 24),
        lambda: [
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(5, 6, 2), nn.ReLU(), nn.MaxPool2d(2), *head(24),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("shape", "layers"), NETWORKS.values(), ids=NETWORKS)
def test_chains_of_all_kinds_are_replayed_exactly(shape, layers):
    rng = np.random.default_rng(3)
    batches = [batch(rng, n, shape, 4) for n in (6, 6, 6)]
    step = compare(
        lambda: nn.Sequential(*layers()).to(dtype="float64"), OPTIMIZERS["SGD"], batches, rtol=1e-9, atol=1e-11
    )
    assert step.reason is None
    assert step.replays == 2


class Residual(nn.Module):
    def __init__(self):
        self.a, self.b, self.c = nn.Linear(7, 7), nn.Linear(7, 7), nn.Linear(7, 4)

    def forward(self, x):
        h = self.a(x)
        return self.c(h + self.b(h))


class Flattening(nn.Module):
    """Reads the images as they are and flattened: the graph does not tell."""

    def __init__(self):
        self.a = nn.Conv2d(7, 4, 1)

    def forward(self, x):
        x = x.reshape(len(x), 7, 1, 1)
        self.flat = nn.functional.flatten(x, 1)
        return nn.functional.flatten(self.a(x), 1)


class Counting(nn.Module):
    def __init__(self):
        self.a = nn.Linear(7, 4)

    def forward(self, x):
        self.seen = x.mean()
        return self.a(x)


def tied():
    layer = nn.Linear(7, 7)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(7, 4))


UNKNOWN = {
    "branches": (Residual, "layer"),
    "a reshape beside": (Flattening, "depends on"),
    "ops beside": (Counting, "ops, but its loss depends"),
    "tanh": (lambda: nn.Sequential(nn.Linear(7, 4), nn.Tanh()), "tanh is no layer"),
    "dropout": (lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(7, 4)), "depends on"),
    "shared": (tied, "share"),
    "slope at 0": (lambda: nn.Sequential(nn.Linear(7, 7), nn.ReLU(at_zero=1), nn.Linear(7, 4)), "derivative at 0"),
}


@pytest.mark.parametrize(("make", "reason"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_is_no_known_chain_runs_as_always_and_says_why(make, reason):
    rng = np.random.default_rng(4)
    x, labels = batch(rng, 5, (7,), 4, "float32")
    model = make()
    step = compile(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1))
    for _ in range(2):
        step(x, labels)
        assert step.replays == 0
        assert step.reason
    assert reason in step.reason


@pytest.mark.parametrize("dtype", ["float16", "int64"])
def test_other_types_run_as_always(dtype):
    model = nn.Linear(3, 2).to(dtype="float16" if dtype == "float16" else "float32")
    step = compile(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1))
    for _ in range(2):
        step(Tensor(np.ones((4, 3), dtype)), np.zeros(4, int))
    assert dtype in step.reason
    assert step.replays == 0


def test_networks_too_large_for_fixed_buffers_run_as_always():
    model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), *head(32 * 60 * 60))
    step = compile(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1))
    step(Tensor(np.zeros((1, 1, 64, 64), "float32")), np.zeros(1, int))
    assert "memory" in step.reason


def test_other_losses_run_as_always():
    model = nn.Linear(3, 2)
    step = compile(model, nn.CrossEntropyLoss(label_smoothing=0.1), optim.SGD(model.parameters(), lr=0.1))
    step(Tensor([[1.0, 2.0, 3.0]]), np.array([1]))
    assert step.reason is not None


def small():
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3))


def prepared(optimizer=OPTIMIZERS["Adam"]):
    """A captured step that has been replayed once, with its uncaptured twin."""
    model, twin = twins(small)
    step, theirs = compile(model, nn.CrossEntropyLoss(), optimizer(model.parameters())), optimizer(twin.parameters())
    x, labels = Tensor(np.random.default_rng(5).random((4, 3), "float32")), np.array([0, 1, 2, 1])
    for _ in range(2):
        step(x, labels)
        eager(twin, step.loss, theirs, x, labels)
    assert step.replays == 1
    return step, theirs, twin, x, labels


def agree(step, theirs, twin, x, labels):
    value, expected = step(x, labels), eager(twin, step.loss, theirs, x, labels)
    np.testing.assert_allclose(value.array, expected.array, rtol=1e-5)
    for p, q in zip(step.model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(p.array, q.array, rtol=1e-4, atol=1e-6)


def test_a_learning_rate_changed_between_calls_acts_at_once():
    step, theirs, *rest = prepared()
    step.optimizer.param_groups[0]["lr"] = theirs.param_groups[0]["lr"] = 0.3
    agree(step, theirs, *rest)
    assert step.replays == 2


def test_values_assigned_to_parameters_are_used():
    step, theirs, twin, *rest = prepared()
    for model in (step.model, twin):
        model[0].weight.data = np.full((5, 3), 0.5, "float32")
        model[2].bias.array[...] = 3.0
    agree(step, theirs, twin, *rest)
    assert step.replays == 2


def test_a_loaded_optimizer_state_is_used():
    step, theirs, *rest = prepared()
    saved = theirs.state_dict()
    for held in saved["state"].values():
        held["exp_avg"][...] = 0.7
        held["step"] = 40
    step.optimizer.load_state_dict(saved)
    theirs.load_state_dict(saved)
    agree(step, theirs, *rest)


def test_a_replaced_layer_is_recorded_anew():
    step, _, _, x, labels = prepared(OPTIMIZERS["SGD"])
    new = nn.Linear(3, 5)
    step.model[0].weight = new.weight
    step.optimizer = optim.SGD(step.model.parameters(), lr=0.1)
    step(x, labels)
    assert step.replays == 1
    before = new.weight.array.copy()
    step(x, labels)
    assert step.replays == 2
    assert (new.weight.array != before).any()


def test_hooks_registered_later_are_called():
    step, _, _, x, labels = prepared()
    calls = []
    step.model[0].register_forward_hook(lambda module, inputs, output: calls.append(1))
    step(x, labels)
    step(x, labels)
    assert len(calls) == 2
    assert "hooks" in step.reason


def test_a_frozen_parameter_is_noticed():
    step, _, _, x, labels = prepared(OPTIMIZERS["SGD"])
    step.model[0].weight.requires_grad_(False)
    before = step.model[0].weight.array.copy()
    step(x, labels)
    step(x, labels)
    assert step.replays == 1
    np.testing.assert_array_equal(step.model[0].weight.array, before)


def test_labels_that_are_no_classes_raise_as_they_always_do():
    step, _, _, x, *_ = prepared()
    with pytest.raises(TinygradError, match=r"0 \.\.\. 2"):
        step(x, np.array([0, 1, 2, 3]))


def test_ignored_labels_do_not_count_in_a_replay_either():
    step, theirs, twin, x, *_ = prepared()
    agree(step, theirs, twin, x, np.array([0, -100, 2, 1]))


def test_observers_see_every_op_of_a_captured_step():
    step, _, _, x, labels = prepared()
    seen = []

    class Names(Observer):
        def op_finished(self, op, inputs, options, output, result):
            seen.append(op.name)

    with observing(Names()):
        step(x, labels)
    assert "linear" in seen
    assert "observed" in step.reason


def test_without_recording_the_step_fails_as_it_does_uncaptured():
    step, _, _, x, labels = prepared()
    with no_grad(), pytest.raises(TinygradError):
        step(x, labels)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint64"])
def test_labels_of_any_integer_type_mean_the_same(dtype):
    rng = np.random.default_rng(7)

    def batches():
        for _ in range(3):
            x, labels = batch(rng, 100, (7,), 4)
            yield x, labels.astype(dtype)

    make = lambda: nn.Sequential(nn.Linear(7, 4)).to(dtype="float64")  # noqa: E731
    assert compare(make, OPTIMIZERS["SGD"], batches(), rtol=1e-10, atol=1e-12).replays == 2


def test_results_of_one_call_stay_as_they_are_during_the_next():
    step, _, _, x, labels = prepared()
    loss, logits = step(x, labels), step.logits
    gradient = step.model[0].weight.grad
    kept = loss.array.copy(), logits.array.copy(), gradient.array.copy()
    for _ in range(3):
        step(x * 2, labels)
    for now, then in zip((loss, logits, gradient), kept, strict=True):
        np.testing.assert_array_equal(now.array, then)


def test_two_runs_are_equal_to_the_last_bit():
    def train():
        rng = np.random.default_rng(6)
        model = lenet("float32")
        for p in model.parameters():
            p.data = rng.normal(0, 0.1, p.array.shape).astype("float32")
        step = compile(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()))
        for _ in range(4):
            step(*batch(rng, 33, dtype="float32"))
        return [p.array.copy() for p in model.parameters()]

    for a, b in zip(train(), train(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_release_forgets_what_was_recorded():
    step, theirs, twin, x, labels = prepared()
    step.release()
    agree(step, theirs, twin, x, labels)
    assert step.replays == 1
    agree(step, theirs, twin, x, labels)
    assert step.replays == 2
