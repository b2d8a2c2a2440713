"""A captured step on a device: one graph that does what eager code on the CPU does, waits for nothing, and is careful.

A green run here is one on the stand-in: the kernels run on the CPU, and graphs as `standin_graph` keeps them.
"""

import copy

import ml_dtypes
import numpy as np
import pytest
import standin
import standin_graph
from test_compile_step import NETWORKS, UNKNOWN, lenet

import tinygrad_cnn as tg
from tinygrad_cnn import Tensor, data, nn, ops, optim, train
from tinygrad_cnn.backend import cuda_kernels, device_program, numpy_kernels, to_host
from tinygrad_cnn.captured import compile
from tinygrad_cnn.errors import DataError, OptionError
from tinygrad_cnn.graph import Observer, observing

standin.install()
pytestmark = pytest.mark.skipif(
    standin_graph.Modules is None or standin.COMPILER is None, reason="g++ is not installed"
)

LAUNCHES = [
    *["convolution_forward"] * 2, *["linear_forward"] * 2, "linear_logits", "softmax_loss",
    *["linear_weight_gradient", "linear_input_gradient"] * 3,
    "convolution_weight_gradient", "convolution_input_gradient", "convolution_weight_gradient", "finish", "adam",
]  # fmt: skip


def host(value):
    return to_host(value.array if isinstance(value, Tensor) else value)


def over(x, labels):
    return Tensor(x, device="standin"), Tensor(labels, device="standin")


def draw(rng, n, shape=(1, 28, 28), classes=10, dtype="float64"):
    x = rng.random((n, *shape))
    x[..., :3] = 0  # as on MNIST, where whole windows of a pool are equal
    return x.astype(dtype), rng.integers(0, classes, n)


def eager(model, optimizer, x, labels, loss=None):
    optimizer.zero_grad()
    value = (loss or nn.CrossEntropyLoss())(model(x), labels)
    value.backward()
    optimizer.step()
    return value


def pair(make, optimizer=optim.Adam, **options):
    """A model on the CPU with its optimizer, and its twin on the device with a captured step."""
    plain = make()
    model = copy.deepcopy(plain).to("standin")
    step = compile(model, nn.CrossEntropyLoss(), optimizer(model.parameters()), **options)
    return plain, optimizer(plain.parameters()), step


def agree(plain, step, **tolerance):
    for p, q in zip(plain.parameters(), step.model.parameters(), strict=True):
        assert isinstance(q.array, standin.Array)
        np.testing.assert_allclose(host(q), p.array, **tolerance)


def compare(make, batches, optimizer=optim.Adam, gradients=True, **tolerance):
    """Train both, and compare losses, gradients and parameters at every step; no step may wait for the device."""
    plain, theirs, step = pair(make, optimizer)
    for x, labels in batches:
        there = over(x, labels)
        with standin.no_waiting():
            value = step(*there)
        expected = eager(plain, theirs, Tensor(x), labels)
        np.testing.assert_allclose(host(value), expected.array, **tolerance)
        if gradients:
            for p, q in zip(plain.parameters(), step.model.parameters(), strict=True):
                np.testing.assert_allclose(host(q.grad), p.grad.array, **tolerance)
        agree(plain, step, **tolerance)
    return step


def adamw(parameters):
    return optim.AdamW(parameters, lr=2e-3, weight_decay=0.1)


def sgd(parameters):
    return optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True)


def decaying(parameters):
    return optim.Adam(parameters, lr=2e-3, weight_decay=0.1, betas=(0.8, 0.95))


# The same results as eager code on the CPU ----------------------------------------------------------------------------


def test_twenty_steps_of_lenet_are_those_of_the_cpu():
    rng = np.random.default_rng(1)
    step = compare(lenet, [draw(rng, 6) for _ in range(20)], rtol=1e-10, atol=1e-12)
    assert step.reason is None
    assert step.replays == 19
    assert step._chain.engine.graphs == [LAUNCHES]


def test_twenty_steps_of_lenet_in_float32_have_the_losses_of_the_cpu():
    rng = np.random.default_rng(2)
    plain, theirs, step = pair(lambda: lenet("float32"))
    for _ in range(20):
        x, labels = draw(rng, 6, dtype="float32")
        value = step(*over(x, labels))
        assert host(value).dtype == np.float32
        np.testing.assert_allclose(host(value), eager(plain, theirs, Tensor(x), labels).array, rtol=1e-5)
    assert step.replays == 19


@pytest.mark.parametrize("optimizer", [adamw, sgd, decaying])
def test_other_optimizers_give_the_same_results(optimizer):
    rng = np.random.default_rng(3)
    make = lambda: nn.Sequential(nn.Linear(7, 20), nn.ReLU(), nn.Linear(20, 4)).to(dtype="float64")  # noqa: E731
    step = compare(make, [draw(rng, n, (7,), 4) for n in (12, 12, 5, 12, 5, 12)], optimizer, rtol=1e-9, atol=1e-11)
    assert step.replays == 4  # the first of either shape is recorded


@pytest.mark.parametrize("name", NETWORKS)
def test_chains_of_all_kinds_are_replayed(name):
    shape, layers = NETWORKS[name]
    rng = np.random.default_rng(4)
    make = lambda: nn.Sequential(*layers()).to(dtype="float64")  # noqa: E731
    step = compare(make, [draw(rng, 6, shape, 4) for _ in range(4)], sgd, rtol=1e-9, atol=1e-11)
    assert step.reason is None
    assert step.replays == 3


def test_large_linear_layers_are_products_of_the_library(monkeypatch):
    monkeypatch.setattr(device_program, "OWN_PRODUCT", 0)
    rng = np.random.default_rng(5)
    make = lambda: nn.Sequential(  # noqa: E731
        nn.Linear(7, 40), nn.ReLU(), nn.Linear(40, 9, bias=False), nn.ReLU(), nn.Linear(9, 4), nn.ReLU()
    ).to(dtype="float64")
    step = compare(make, [draw(rng, 70, (7,), 4) for _ in range(4)], rtol=1e-9, atol=1e-11)
    assert step._chain.engine.graphs[0].count("product") == 8


def test_two_runs_are_equal_to_the_last_bit():
    def run():
        rng = np.random.default_rng(6)
        model = lenet("float32")
        for p in model.parameters():
            p.data = rng.normal(0, 0.1, p.array.shape).astype("float32")
        model.to("standin")
        step = compile(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()))
        for _ in range(4):
            step(*over(*draw(rng, 9, dtype="float32")))
        return [host(p) for p in model.parameters()]

    for a, b in zip(run(), run(), strict=True):
        np.testing.assert_array_equal(a, b)


# What happens around it -----------------------------------------------------------------------------------------------


def small():
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3))


X, LABELS = np.random.default_rng(5).random((6, 3), "float32"), np.array([0, 1, 2, 1, 0, 1])


def prepared(optimizer=optim.Adam, **options):
    """Both after three steps: one recorded, one call by call, one by the graph."""
    plain, theirs, step = pair(small, optimizer, **options)
    for _ in range(3):
        step(*over(X, LABELS))
        eager(plain, theirs, Tensor(X), LABELS)
    assert step.replays == 2
    return plain, theirs, step


def go_on(plain, theirs, step, x=X, labels=LABELS):
    value = step(*over(x, labels))
    np.testing.assert_allclose(host(value), eager(plain, theirs, Tensor(x), labels).array, rtol=1e-5)
    agree(plain, step, rtol=1e-4, atol=1e-6)


def test_eager_work_between_replays_corrupts_nothing_and_is_not_corrupted():
    plain, theirs, step = prepared()
    rng = np.random.default_rng(7)
    results = []
    for _ in range(3):
        x = rng.random((6, 3), "float32")
        there = over(x, LABELS)
        value = step(*there)
        there[0].array._held.fill(np.nan)  # the batch is given back, and somebody writes to that memory
        other = nn.CrossEntropyLoss()(step.model(Tensor(X, device="standin")), there[1])
        other.backward()  # into the gradients that the replay has left
        results.append((value, host(value), step.logits, host(step.logits)))
        np.testing.assert_allclose(host(value), eager(plain, theirs, Tensor(x), LABELS).array, rtol=1e-5)
        agree(plain, step, rtol=1e-4, atol=1e-6)
    for value, then, logits, logits_then in results:  # what was returned stays as it was
        np.testing.assert_array_equal(host(value), then)
        np.testing.assert_array_equal(host(logits), logits_then)


def test_gradients_of_one_call_stay_as_they_are_during_the_next():
    _, _, step = prepared()
    gradient = step.model[0].weight.grad
    then = host(gradient)
    for _ in range(2):
        step(*over(X * 2, LABELS))
    np.testing.assert_array_equal(host(gradient), then)


def test_a_learning_rate_changed_between_calls_acts_at_once():
    plain, theirs, step = prepared()
    for lr in (0.3, 0.1):
        step.optimizer.param_groups[0]["lr"] = theirs.param_groups[0]["lr"] = lr
        go_on(plain, theirs, step)
    assert step.replays == 4


def test_values_assigned_to_parameters_are_used():
    plain, theirs, step = prepared()
    plain[0].weight.data = np.full((5, 3), 0.5, "float32")
    plain[2].bias.array[...] = 3.0
    step.model[0].weight.data = standin.asarray(np.full((5, 3), 0.5, "float32"))
    step.model[2].bias.array[...] = 3.0
    go_on(plain, theirs, step)
    assert step.replays == 3


def test_a_loaded_optimizer_state_is_used():
    plain, theirs, step = prepared()
    saved = theirs.state_dict()
    for held in saved["state"].values():
        held["exp_avg"][...] = 0.7
        held["step"] = 40
    step.optimizer.load_state_dict(saved)
    theirs.load_state_dict(saved)
    go_on(plain, theirs, step)
    assert {held["step"] for held in step.optimizer.state.values()} == {41}


def test_eager_steps_between_replays_are_counted():
    plain, theirs, step = prepared()
    eager(step.model, step.optimizer, *over(X, LABELS))
    eager(plain, theirs, Tensor(X), LABELS)
    go_on(plain, theirs, step)
    assert step.replays == 3


def test_other_batch_sizes_share_parameters_and_counters():
    plain, theirs, step = prepared()
    for n in (4, 4, 6, 4, 6):
        go_on(plain, theirs, step, X[:n], LABELS[:n])
    assert step.replays == 6


def test_a_replaced_layer_is_recorded_anew():
    _, _, step = prepared(sgd)
    new = nn.Linear(3, 5).to("standin")
    step.model[0].weight = new.weight
    step.optimizer = optim.SGD(step.model.parameters(), lr=0.1)
    step(*over(X, LABELS))
    assert step.replays == 2
    before = host(new.weight)
    step(*over(X, LABELS))
    assert step.replays == 3
    assert (host(new.weight) != before).any()


def test_a_mode_and_a_frozen_parameter_are_noticed():
    _, _, step = prepared(sgd)
    step.model.eval()
    step(*over(X, LABELS))
    assert step.replays == 2
    step(*over(X, LABELS))
    assert step.replays == 3
    step.model[0].weight.requires_grad_(False)
    before = host(step.model[0].weight)
    step(*over(X, LABELS))
    assert step.replays == 3
    np.testing.assert_array_equal(host(step.model[0].weight), before)


def test_a_model_that_moves_to_the_cpu_goes_on_there():
    plain, theirs, step = prepared(lambda parameters: optim.SGD(parameters, lr=0.1))
    step.model.to("cpu")
    for _ in range(2):
        value = step(Tensor(X), LABELS)
        np.testing.assert_allclose(value.array, eager(plain, theirs, Tensor(X), LABELS).array, rtol=1e-5)
    assert step.reason is None
    assert step.replays == 3


def test_observers_see_every_op():
    _, _, step = prepared()
    seen = []

    class Names(Observer):
        def op_finished(self, op, inputs, options, output, result):
            seen.append(op.name)

    with observing(Names()):
        step(*over(X, LABELS))
    assert "linear" in seen
    assert "observed" in step.reason


def test_a_label_that_is_no_class_makes_the_loss_nan_and_nobody_waits():
    _, _, step = prepared()
    there = over(X, np.array([0, 1, 3, 1, 0, 1]))
    with standin.no_waiting():
        value = step(*there)
    assert np.isnan(value.item())
    assert step.replays == 3


def test_ignored_labels_do_not_count():
    plain, theirs, step = prepared()
    go_on(plain, theirs, step, labels=np.array([0, -100, 2, 1, -100, 0]))
    assert step.replays == 3


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_labels_of_any_integer_type_mean_the_same(dtype):
    plain, theirs, step = prepared()
    go_on(plain, theirs, step, labels=LABELS.astype(dtype))


@pytest.mark.parametrize("name", ["branches", "ops beside", "tanh", "shared", "slope at 0"])
def test_what_is_no_known_chain_runs_as_always_and_says_why(name):
    make, reason = UNKNOWN[name]
    rng = np.random.default_rng(4)
    plain, theirs, step = pair(make, sgd)
    for _ in range(2):
        x, labels = draw(rng, 5, (7,), 4, "float32")
        np.testing.assert_allclose(
            host(step(*over(x, labels))), eager(plain, theirs, Tensor(x), labels).array, rtol=1e-5
        )
    assert step.replays == 0
    assert reason in step.reason


def test_convolutions_that_libraries_are_for_run_as_always_and_say_why():
    model = nn.Sequential(nn.Conv2d(48, 4, 3), nn.Flatten(), nn.Linear(4, 3)).to("standin")
    step = compile(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()))
    step(*over(np.zeros((2, 48, 3, 3), "float32"), np.array([0, 1])))
    assert "432 products" in step.reason


def test_what_others_hold_keeps_its_memory():
    plain, theirs, step = pair(small)
    held = step.model[0].weight.array
    for _ in range(3):
        step(*over(X, LABELS))
        eager(plain, theirs, Tensor(X), LABELS)
    np.testing.assert_allclose(host(held), plain[0].weight.array, rtol=1e-4, atol=1e-6)


def test_the_very_first_call_can_be_a_replay():
    plain, theirs, step = pair(small, at_once=True)
    for _ in range(3):
        go_on(plain, theirs, step)
    assert step.replays == 3


def test_the_training_loop_replays_on_the_device():
    rng = np.random.default_rng(15)
    samples = data.ArrayDataset(rng.random((20, 7), "float32"), rng.integers(0, 3, 20))
    plain = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
    model = copy.deepcopy(plain).to("standin")
    for trained, device in ((plain, "cpu"), (model, "standin")):
        with tg.use_device(device):
            loader = data.DataLoader(samples, batch_size=8, shuffle=True, seed=0)
            train.fit(trained, loader, epochs=2, optimizer=optim.Adam(trained.parameters()))
    assert "adam" in standin_graph.launches[-40:]
    for p, q in zip(plain.parameters(), model.parameters(), strict=True):
        np.testing.assert_allclose(host(q), p.array, rtol=1e-4, atol=1e-6)


def test_release_gives_everything_back():
    plain, theirs, step = prepared()
    engine = step._chain.engine
    step.release()
    go_on(plain, theirs, step)
    go_on(plain, theirs, step)
    assert step._chain.engine is not engine
    assert step.replays == 3


# Dropout --------------------------------------------------------------------------------------------------------------


def dropping():
    return nn.Sequential(
        nn.Linear(7, 30), nn.ReLU(), nn.Dropout(0.4), nn.Linear(30, 20), nn.Dropout(0.25), nn.Linear(20, 4)
    ).to(dtype="float64")  # fmt: skip


def with_masks(model, x, labels, masks):
    """The loss and gradients of `dropping()` with masks that are given."""
    model.zero_grad()
    h = (model[0](x).relu() * Tensor(masks[0] / 0.6)) @ model[3].weight.T + model[3].bias
    value = nn.CrossEntropyLoss()(model[5](h * Tensor(masks[1] / 0.75)), labels)
    value.backward()
    return value.item(), [p.grad.array for p in model.parameters()]


def masks_of(step, n):
    """What the step under way drops: the words of Philox by the counters in the state of the program."""
    state = host(step._chain.store.state)
    found = []
    for which, size, p in ((1, 30, 0.4), (3, 20, 0.25)):
        values = np.ones(n * size)
        module = standin._kernels.module(
            ("program_types.cu", "philox.cu", "program.cu"), ("-DREAL=double", "-DSTORAGE=0")
        )
        arguments = (standin.asarray(values), standin.asarray(state), np.int64(n * size), np.float64(p), np.float64(1))
        held = arguments[0]
        module.get_function("dropout")((1,), (256,), (*arguments, np.int32(which)))
        found.append(held._held.reshape(n, size))
    return found


def test_dropout_draws_anew_at_every_step_and_the_gradient_drops_the_same():
    rng = np.random.default_rng(12)
    _, _, step = pair(dropping, sgd)
    seen = []
    for number in range(5):
        x, labels = draw(rng, 9, (7,), 4)
        plain = copy.deepcopy(step.model).to("cpu")
        masks = masks_of(step, 9) if number > 1 else None
        there = over(x, labels)
        with standin.no_waiting():
            value = step(*there)
        assert step.reason is None
        if masks is None:
            continue
        loss, gradients = with_masks(plain, Tensor(x), labels, masks)
        assert value.item() == pytest.approx(loss, rel=1e-10)
        for p, g in zip(step.model.parameters(), gradients, strict=True):
            np.testing.assert_allclose(host(p.grad), g, rtol=1e-9, atol=1e-12)
        seen.append(masks[0])
    assert step.replays == 4
    assert not np.array_equal(seen[0], seen[1])
    assert step._chain.engine.graphs[0].count("dropout") == 4


def test_one_seed_gives_one_run_with_dropout():
    def run():
        tg.manual_seed(5)
        step = compile(model := dropping().to("standin"), nn.CrossEntropyLoss(), sgd(model.parameters()))
        rng = np.random.default_rng(13)
        return [step(*over(*draw(rng, 9, (7,), 4))).item() for _ in range(5)]

    assert run() == run()


def test_dropout_out_of_training_is_nothing():
    plain, theirs, step = pair(lambda: dropping().eval(), sgd)
    rng = np.random.default_rng(14)
    for _ in range(3):
        x, labels = draw(rng, 9, (7,), 4)
        expected = eager(plain, theirs, Tensor(x), labels).item()
        assert step(*over(x, labels)).item() == pytest.approx(expected, rel=1e-10)
    step.model.train()
    step(*over(x, labels))
    assert step.replays == 2


class DropsByHand(nn.Module):
    def __init__(self):
        self.a, self.b = nn.Linear(7, 6), nn.Linear(6, 4)

    def forward(self, x):
        mask = Tensor.made(standin.asarray(np.tile(np.array([True, True, False] * 2), (len(x), 1))))
        return self.b(ops.dropout(self.a(x), mask, scale=2.0))


def test_a_mask_that_somebody_gives_is_not_drawn_anew():
    model = DropsByHand().to("standin")
    step = compile(model, nn.CrossEntropyLoss(), sgd(model.parameters()))
    for _ in range(2):
        step(*over(np.ones((5, 7), "float32"), np.zeros(5, int)))
    assert "nn.Dropout" in step.reason


# The stand-in is strict -----------------------------------------------------------------------------------------------


def recording(calls):
    engine = standin_graph.Engine(standin)
    with engine.working():
        return engine.record(calls)


def test_a_graph_may_not_allocate_or_wait():
    x = standin.asarray(np.ones(3))
    for call in (lambda: standin.xp.zeros((3,)), lambda: x + 1, lambda: x.item()):
        with pytest.raises(standin_graph.CaptureError):
            recording([call])


def test_a_graph_that_reads_memory_which_was_given_back_is_found():
    module = cuda_kernels.CudaKernels(standin.xp, None, standin._raw_module).module(
        ("program_types.cu", "philox.cu", "program.cu"), ("-DREAL=double", "-DSTORAGE=0")
    )
    engine = standin_graph.Engine(standin)
    with engine.working():
        held = [standin.xp.zeros((4,)), standin.xp.zeros((4,))]
        copy_it = module.get_function("to_storage")
        replay = engine.record([lambda: copy_it((1,), (32,), (*held, np.int64(4)))])
        replay()
        held.clear()
        with pytest.raises(standin_graph.CaptureError, match="given back"):
            replay()


# Reduced precision ----------------------------------------------------------------------------------------------------


def rounded_gradients(parameters, x, labels, kind, scale):
    """The gradients of LeNet-5 in float64, with everything rounded that is stored in `kind`."""

    def stored(values):
        return values.astype(kind).astype(np.float64)

    p = [stored(host(v)) for v in parameters]
    plain = {"stride": (1, 1), "dilation": (1, 1), "groups": 1}
    window = {"kernel": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}
    h, seen = stored(x), []
    for i, pad in ((0, 2), (2, 0)):
        z = numpy_kernels.conv2d(h, p[i], p[i + 1], padding=((pad, pad),) * 2, **plain)
        y = numpy_kernels.max_pool2d(np.maximum(z, 0), output=(z.shape[2] // 2, z.shape[3] // 2), **window)
        seen.append((h, z, y))
        h = stored(y)
    h = h.reshape(len(x), -1)
    for i in (4, 6, 8):
        seen.append((h, h @ p[i].T + p[i + 1], None))
        h = stored(np.maximum(seen[-1][1], 0))
    z = seen[-1][1]
    softmax = np.exp(z - z.max(axis=1, keepdims=True))
    softmax /= softmax.sum(axis=1, keepdims=True)
    g = stored((softmax - (np.arange(10) == labels[:, None])) * scale / len(x))
    found = [None] * 10
    for i, (h, z, _) in zip((8, 6, 4), reversed(seen[2:]), strict=True):
        g = g if i == 8 else np.where(z > 0, g, 0)
        found[i], found[i + 1] = g.T @ h, g.sum(axis=0)
        g = stored(g @ p[i])
    g = g.reshape(seen[1][2].shape)
    for i, pad in ((2, 0), (0, 2)):
        h, z, y = seen[i // 2]
        g = numpy_kernels.max_pool2d_input_gradient(g, np.maximum(z, 0), y, ties="first", **window)
        g = np.where(z > 0, g, 0)
        pads = ((pad, pad),) * 2
        found[i] = numpy_kernels.conv2d_weight_gradient(h, g, kernel=(5, 5), padding=pads, **plain)
        found[i + 1] = g.sum(axis=(0, 2, 3))
        g = stored(numpy_kernels.conv2d_input_gradient(g, p[i], size=h.shape[2:], padding=pads, **plain))
    return [f / scale for f in found]


@pytest.mark.parametrize(("precision", "kind"), [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)])
def test_lenet_trains_in_reduced_precision(precision, kind):
    rng = np.random.default_rng(8)
    plain, theirs, step = pair(lambda: lenet("float32"), precision=precision)
    for number in range(4):
        x, labels = draw(rng, 6, dtype="float32")
        there = over(x, labels)
        scale = step.loss_scale
        expected = rounded_gradients(step.model.parameters(), x, labels, kind, scale)
        with standin.no_waiting():
            value = step(*there)
        accuracy = float(ml_dtypes.finfo(kind).eps)
        np.testing.assert_allclose(host(value), eager(plain, theirs, Tensor(x), labels).array, rtol=2 * accuracy)
        for g, q in zip(expected, step.model.parameters(), strict=True):
            assert host(q).dtype == host(q.grad).dtype == np.float32
            if number:  # the first call ran as always, in float32
                assert np.linalg.norm(host(q.grad) - g) < accuracy * np.linalg.norm(g)
    assert step.replays == 3
    assert step._chain.engine.graphs == [["to_storage", *LAUNCHES]]
    assert step.skipped == 0
    assert step.loss_scale == (65536 if precision == "float16" else 1)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_library_products_read_and_write_the_storage_type(precision, monkeypatch):
    monkeypatch.setattr(device_program, "OWN_PRODUCT", 0)
    rng = np.random.default_rng(9)
    make = lambda: nn.Sequential(nn.Linear(7, 20), nn.ReLU(), nn.Linear(20, 4))  # noqa: E731
    plain, theirs, step = pair(make, precision=precision)
    for _ in range(3):
        x, labels = draw(rng, 8, (7,), 4, "float32")
        np.testing.assert_allclose(
            host(step(*over(x, labels))), eager(plain, theirs, Tensor(x), labels).array, rtol=2e-2
        )


def test_a_step_whose_gradients_overflow_is_not_taken_and_the_scale_is_halved():
    _, _, step = prepared(precision="float16")
    before = [host(p) for p in step.model.parameters()]
    huge = X * np.float32(1e6)
    with standin.no_waiting():
        step(*over(huge, LABELS))
    assert step.skipped == 1
    assert step.loss_scale == 32768
    for p, then in zip(step.model.parameters(), before, strict=True):
        np.testing.assert_array_equal(host(p), then)
    step(*over(X, LABELS))
    assert step.skipped == 1
    assert any((host(p) != then).any() for p, then in zip(step.model.parameters(), before, strict=True))


def test_steps_that_were_not_taken_do_not_count_when_eager_code_goes_on():
    _, _, step = prepared(precision="float16")
    step(*over(X * np.float32(1e6), LABELS))
    step.release()
    assert {held["step"] for held in step.optimizer.state.values()} == {3}


def test_precision_on_the_cpu_or_of_another_name_is_an_error():
    model = small()
    optimizer = optim.Adam(model.parameters())
    with pytest.raises(OptionError, match="CPU"):
        compile(model, nn.CrossEntropyLoss(), optimizer, precision="float16")
    with pytest.raises(OptionError, match="'float16' or 'bfloat16'"):
        compile(model, nn.CrossEntropyLoss(), optimizer, precision="int8")


def test_what_reduced_precision_cannot_do_runs_in_float32_and_says_why():
    _, _, step = pair(small, sgd, precision="float16")
    for _ in range(2):
        step(*over(X, LABELS))
    assert "Adam" in step.reason
    _, _, step = pair(lambda: small().to(dtype="float64"), precision="bfloat16")
    step(*over(X.astype("float64"), LABELS))
    assert "float64" in step.reason
    _, _, step = pair(small, sgd, precision="bfloat16")
    for _ in range(2):
        step(*over(X, LABELS))
    assert step.replays == 1


def test_parameters_that_took_unequally_many_steps_are_updated_one_by_one():
    for options in ({}, {"precision": "float16"}):
        plain, theirs, step = prepared(**options)
        for optimizer, model in ((theirs, plain), (step.optimizer, step.model)):
            optimizer.state[model[0].weight]["step"] = 50
        value = step(*over(X, LABELS))
        assert value.item() == pytest.approx(eager(plain, theirs, Tensor(X), LABELS).item(), rel=1e-2)
        agree(plain, step, rtol=1e-2, atol=1e-3)
        assert (step.reason is None) == (not options)


# Training by the numbers of samples -----------------------------------------------------------------------------------

IMAGES = np.random.default_rng(10).integers(0, 256, (20, 8, 8), np.uint8)
CLASSES = np.random.default_rng(11).integers(0, 4, 20)


def pictures(dtype="float64"):
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4)
    ).to(dtype=dtype)  # fmt: skip


def by_hand(plain, theirs, rows):
    """What one row of numbers stands for."""
    x = ((IMAGES[rows].astype(plain[0].weight.dtype) - 20) / 90).reshape(-1, 1, 8, 8)
    return eager(plain, theirs, Tensor(x), CLASSES[rows]).item()


@pytest.mark.parametrize("optimizer", [optim.Adam, sgd])
@pytest.mark.parametrize("device", ["cpu", "standin"])
def test_training_by_numbers_is_training_on_those_samples(device, optimizer, monkeypatch):
    monkeypatch.setattr(device_program, "_ROWS", 15)
    plain = pictures()
    model = copy.deepcopy(plain).to(device)
    step = compile(model, nn.CrossEntropyLoss(), optimizer(model.parameters()))
    theirs = optimizer(plain.parameters())
    step.attach(IMAGES, CLASSES, zero=20, scale=90)
    rng = np.random.default_rng(0)
    for shape in ((5,), (3, 5), (1, 5), (7, 5), (5,), (2, 4), (2, 5)):
        rows = rng.integers(0, 20, shape)
        losses = step.at(rows)
        assert losses.shape == shape[:-1]
        expected = [by_hand(plain, theirs, row) for row in rows.reshape(-1, shape[-1])]
        np.testing.assert_allclose(host(losses).reshape(-1), expected, rtol=1e-9)
        for p, q in zip(plain.parameters(), model.parameters(), strict=True):
            np.testing.assert_allclose(host(q), p.array, rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(host(q.grad), p.grad.array, rtol=1e-8, atol=1e-10)
    assert step.reason is None
    assert step.replays == 15  # the first of either size is recorded


def test_an_epoch_by_numbers_costs_the_host_one_launch_per_step_and_no_wait():
    step = compile(model := pictures("float32").to("standin"), nn.CrossEntropyLoss(), optim.Adam(model.parameters()))
    step.attach(IMAGES, CLASSES)
    step.at(np.arange(5))
    order = standin.asarray(np.random.default_rng(0).permutation(20).reshape(4, 5))
    with standin.no_waiting():
        step.at(order)
        standin_graph.launches.clear()
        losses = step.at(order)
    assert standin_graph.launches == ["load_order"]
    assert step._chain.engine.graphs[0][0] == "gather_batch"
    assert losses.shape == (4,)


def test_a_number_on_the_device_that_is_no_sample_makes_its_loss_nan():
    step = compile(model := pictures("float32").to("standin"), nn.CrossEntropyLoss(), sgd(model.parameters()))
    step.attach(IMAGES, CLASSES)
    bad = standin.asarray(np.array([0, 1, -1, 3, 4]))
    assert np.isnan(step.at(bad).item())  # of the first, which runs as always, too
    step = compile(model := pictures("float32").to("standin"), nn.CrossEntropyLoss(), sgd(model.parameters()))
    step.attach(IMAGES, CLASSES)
    for _ in range(2):
        step.at(np.arange(5))
    losses = step.at(standin.asarray(np.array([[0, 1, 2, 3, 4], [0, 1, 20, 3, 4], [0, 1, 2, 3, 4]])))
    assert np.isnan(host(losses)).tolist() == [False, True, False]


def test_unequal_step_counts_are_respected_by_numbers_too():
    plain, theirs, step = pair(pictures)
    step.attach(IMAGES, CLASSES, zero=20, scale=90)
    rows = np.arange(15).reshape(3, 5)
    step.at(rows)
    for row in rows:
        by_hand(plain, theirs, row)
    for optimizer, model in ((theirs, plain), (step.optimizer, step.model)):
        optimizer.state[model[0].weight]["step"] = 50
    step.at(rows)
    for row in rows:
        by_hand(plain, theirs, row)
    agree(plain, step, rtol=1e-8, atol=1e-10)


def test_other_data_can_be_attached_later():
    plain, theirs, step = pair(pictures)
    for images in (IMAGES, 255 - IMAGES):
        step.attach(images, CLASSES, scale=100)
        for _ in range(3):
            x = images[:5].reshape(5, 1, 8, 8) / 100
            expected = eager(plain, theirs, Tensor(x), CLASSES[:5]).item()
            assert step.at(np.arange(5)).item() == pytest.approx(expected, rel=1e-8)


def test_bad_data_and_numbers_are_clear_errors():
    model = pictures("float32")
    step = compile(model, nn.CrossEntropyLoss(), sgd(model.parameters()))
    with pytest.raises(OptionError, match="attach"):
        step.at([0, 1])
    with pytest.raises(DataError, match="bytes"):
        step.attach(IMAGES.astype("float32"), CLASSES)
    with pytest.raises(DataError, match="one number per image"):
        step.attach(IMAGES, CLASSES[:-1])
    with pytest.raises(OptionError, match="scale"):
        step.attach(IMAGES, CLASSES, scale=0)
    step.attach(IMAGES, CLASSES)
    for rows in ([0, 20], [-1, 0]):
        with pytest.raises(DataError, match=r"0 \.\.\. 19"):
            step.at(rows)
    with pytest.raises(DataError, match="whole numbers"):
        step.at([0.5])


# On a real GPU --------------------------------------------------------------------------------------------------------


def cuda_or_skip():
    cupy = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("there is no NVIDIA GPU")
    return cupy


def on_gpu(make, optimizer=optim.Adam, **options):
    plain = make()
    model = copy.deepcopy(plain).to("cuda")
    step = compile(model, nn.CrossEntropyLoss(), optimizer(model.parameters()), **options)
    return plain, optimizer(plain.parameters()), step


@pytest.mark.gpu
@pytest.mark.parametrize(("n", "own"), [(6, 1 << 25), (64, 1 << 25), (64, 0), (300, 1 << 25)])
def test_lenet_on_a_gpu_trains_as_on_the_cpu_while_eager_work_goes_on(n, own, monkeypatch):
    cupy = cuda_or_skip()
    monkeypatch.setattr(device_program, "OWN_PRODUCT", own)
    plain, theirs, step = on_gpu(lenet)
    rng = np.random.default_rng(1)
    results = []
    for _ in range(10):
        x, labels = draw(rng, n)
        there = Tensor(x, device="cuda"), Tensor(labels, device="cuda")
        value = step(*there)
        there[0].array.fill(cupy.nan)
        del there
        noise = [cupy.full((1 << k,), cupy.nan) for k in range(4, 20)]  # memory that was free may be used by anybody
        other = nn.CrossEntropyLoss()(step.model(Tensor(x, device="cuda")), Tensor(labels, device="cuda"))
        other.backward()
        del noise, other
        results.append((value, step.logits, eager(plain, theirs, Tensor(x), labels).item()))
    for value, logits, expected in results:
        assert value.item() == pytest.approx(expected, rel=1e-9)
        assert np.isfinite(host(logits)).all()
    for p, q in zip(plain.parameters(), step.model.parameters(), strict=True):
        np.testing.assert_allclose(host(q), p.array, rtol=1e-8, atol=1e-10)
    assert step.reason is None
    assert step.replays == 9


@pytest.mark.gpu
def test_two_runs_on_a_gpu_are_equal_to_the_last_bit_and_close_to_the_cpu():
    cuda_or_skip()
    runs = []
    for _ in range(2):
        tg.manual_seed(0)
        plain, theirs, step = on_gpu(lambda: lenet("float32"))
        rng = np.random.default_rng(2)
        for _ in range(8):
            x, labels = draw(rng, 64, dtype="float32")
            value = step(Tensor(x, device="cuda"), Tensor(labels, device="cuda"))
            assert value.item() == pytest.approx(eager(plain, theirs, Tensor(x), labels).item(), rel=1e-5)
        runs.append([host(p) for p in step.model.parameters()])
    for a, b in zip(*runs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [None, "float16", "bfloat16"])
def test_training_by_numbers_on_a_gpu_lowers_the_loss(precision):
    cuda_or_skip()
    step = compile(
        model := lenet("float32").to("cuda"), nn.CrossEntropyLoss(), optim.Adam(model.parameters()), precision=precision
    )
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 10, 640)
    images = rng.integers(0, 60, (640, 28, 28)).astype(np.uint8)
    images[np.arange(640), 2 * labels + 2, 4:24] = 255  # a bar whose height is the class
    step.attach(images, labels)
    losses = [host(step.at(rng.permutation(640).reshape(10, 64))) for _ in range(6)]
    assert np.isfinite(losses).all()
    assert losses[-1].mean() < 0.5 * losses[0].mean()
    assert step.replays == 59
    assert step.skipped <= 10
