"""fit, evaluate and early stopping; and a run that is broken off anywhere resumes to the same weights, bit for bit."""

import math

import numpy as np
import pytest

from tinygrad_cnn import data, manual_seed, nn, optim, train
from tinygrad_cnn.backend import generator_states
from tinygrad_cnn.data.transforms import Noise
from tinygrad_cnn.errors import CheckpointError, DataError, OptionError


def blobs(n=60, seed=0, classes=3):
    """Points around `classes` corners: easy to learn, quick to train on."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    points = (np.eye(4)[labels] + 0.2 * rng.normal(size=(n, 4))).astype(np.float32)
    return data.ArrayDataset(points, labels)


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


class Setup:
    """Everything a run needs, made afresh as a new process would make it."""

    def __init__(self, kind="Adam", seed=0, every=None, patience=None, images=False):
        manual_seed(seed)
        self.model = network()
        self.optimizer = {
            "Adam": lambda p: optim.Adam(p, lr=0.02),
            "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
            "RMSprop": lambda p: optim.RMSprop(p, lr=0.01, momentum=0.5),
            "Adagrad": lambda p: optim.Adagrad(p, lr=0.1),
            "Adadelta": lambda p: optim.Adadelta(p),
        }[kind](self.model.parameters())
        self.loader = data.DataLoader(blobs(), 16, shuffle=True, seed=seed)
        self.validation = data.DataLoader(blobs(30, 1), 30)
        self.stopping = train.EarlyStopping(patience) if patience else None

    def fit(self, **options):
        return train.fit(
            self.model, self.loader, optimizer=self.optimizer, validation=self.validation, stopping=self.stopping,
            **options,
        )  # fmt: skip

    def weights(self):
        return {name: tensor.numpy().tobytes() for name, tensor in self.model.state_dict().items()}


def test_a_model_learns_and_the_history_tells_of_it():
    setup = Setup()
    history = setup.fit(epochs=12)
    assert len(history) == 12
    assert history.stopped == "epochs"
    assert history[-1]["train_loss"] < history[0]["train_loss"] / 2
    assert history[-1]["val_accuracy"] > 0.9
    assert list(history[0]) == [
        "epoch", "step", "lr", "train_loss", "train_accuracy", "seconds", "samples_per_second", "val_loss",
        "val_accuracy",
    ]  # fmt: skip
    assert history.column("step") == [4 * (i + 1) for i in range(12)]
    assert history[0]["lr"] == 0.02
    assert not setup.model.training


def test_the_history_holds_means_over_all_samples_of_the_epoch():
    setup = Setup()
    setup.model = nn.Linear(4, 3)
    setup.optimizer = optim.SGD(setup.model.parameters(), lr=0.0)
    row = setup.fit(epochs=1)[0]
    everything = train.evaluate(setup.model, data.DataLoader(blobs(), 60))
    assert row["train_loss"] == pytest.approx(everything.loss, rel=1e-5)
    assert row["train_accuracy"] == pytest.approx(everything.accuracy)


@pytest.mark.parametrize("kind", ["Adam", "SGD", "RMSprop", "Adagrad", "Adadelta"])
@pytest.mark.parametrize("stop", [1, 3, 4, 6, 9])
def test_a_run_broken_off_at_a_step_resumes_to_the_same_weights_bit_for_bit(kind, stop, tmp_path):
    straight = Setup(kind)
    expected = straight.fit(epochs=3)
    state_after = generator_states()

    file = tmp_path / "c.safetensors"
    first = Setup(kind)
    steps = iter(range(1, 100))
    history = first.fit(epochs=3, checkpoint=file, should_stop=lambda: next(steps) >= stop)
    assert history.stopped == "interrupted"

    second = Setup(kind, seed=99)  # nothing of the first may come from the seed
    history = second.fit(epochs=3, checkpoint=file, resume=True)
    assert second.weights() == straight.weights()
    assert generator_states() == state_after
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "step"):
        assert history.column(name) == expected.column(name)


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_run_of_replayed_steps_resumes_to_the_same_weights_bit_for_bit(stop, tmp_path):
    from tinygrad_cnn import compile, models

    def lenet(seed):
        setup = Setup(seed=seed)
        rng = np.random.default_rng(0)
        pictures = data.ArrayDataset(rng.random((40, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, 40))
        setup.model = models.LeNet5()
        setup.optimizer = optim.Adam(setup.model.parameters())
        setup.loader = data.DataLoader(pictures, 16, shuffle=True, seed=seed)  # the third batch is smaller
        setup.validation = None
        return setup

    straight = lenet(0)
    step = compile(straight.model, nn.functional.cross_entropy, straight.optimizer, at_once=True)
    for x, y in lenet(0).loader:
        step(x, y)
    assert step.replays == 3  # the first of each shape too
    straight = lenet(0)
    straight.fit(epochs=2)
    first = lenet(0)
    steps = iter(range(1, 100))
    first.fit(epochs=2, checkpoint=tmp_path / "c", should_stop=lambda: next(steps) >= stop)
    second = lenet(5)
    second.fit(epochs=2, checkpoint=tmp_path / "c", resume=True)
    assert second.weights() == straight.weights()


@pytest.mark.parametrize("stop", [2, 5])
@pytest.mark.parametrize("kind", ["onecycle", "step", "plateau"])
def test_a_schedule_resumes_too(kind, stop, tmp_path):
    def scheduled(seed=0):
        setup = Setup(seed=seed)
        schedule = {
            "onecycle": lambda o: optim.lr_scheduler.OneCycleLR(o, 0.05, total_steps=12),
            "step": lambda o: optim.lr_scheduler.StepLR(o, 1, gamma=0.5),
            "plateau": lambda o: optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.5),
        }[kind](setup.optimizer)
        return setup, {"schedule": schedule, "schedule_every": "step" if kind == "onecycle" else "epoch"}

    straight, options = scheduled()
    rates = straight.fit(epochs=3, **options).column("lr")
    assert len(set(rates)) > 1
    first, options = scheduled()
    steps = iter(range(1, 100))
    first.fit(epochs=3, checkpoint=tmp_path / "c", should_stop=lambda: next(steps) >= stop, **options)
    second, options = scheduled(seed=9)
    assert second.fit(epochs=3, checkpoint=tmp_path / "c", resume=True, **options).column("lr") == rates
    assert second.weights() == straight.weights()


def test_transforms_of_the_loader_resume_too(tmp_path):
    def images(seed):
        setup = Setup(seed=seed)
        rng = np.random.default_rng(0)
        pictures = data.ArrayDataset(rng.random((40, 1, 2, 2)).astype(np.float32), rng.integers(0, 3, 40))
        setup.model = nn.Sequential(nn.Flatten(), setup.model)
        setup.loader = data.DataLoader(pictures, 8, shuffle=True, seed=seed, transform=Noise(0.5))
        setup.validation = None
        return setup

    straight = images(0)
    straight.fit(epochs=2)
    first = images(0)
    steps = iter(range(1, 100))
    first.fit(epochs=2, checkpoint=tmp_path / "c", should_stop=lambda: next(steps) >= 7)
    second = images(5)
    second.fit(epochs=2, checkpoint=tmp_path / "c", resume=True)
    assert second.weights() == straight.weights()


def test_checkpoints_within_an_epoch_are_written_as_often_as_asked(tmp_path, monkeypatch):
    from tinygrad_cnn.train import fitting

    saved = []
    monkeypatch.setattr(fitting, "save_checkpoint", lambda path, state: saved.append(dict(state["progress"])))
    Setup().fit(epochs=2, checkpoint=tmp_path / "c", checkpoint_every=0)
    assert [(p["epoch"], p["step"]) for p in saved] == [(0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]
    saved.clear()
    Setup().fit(epochs=2, checkpoint=tmp_path / "c", checkpoint_every=None)
    assert [(p["epoch"], p["step"]) for p in saved] == [(1, 0), (2, 0)]


def test_a_finished_run_is_not_trained_again_and_more_epochs_go_on(tmp_path):
    Setup().fit(epochs=2, checkpoint=tmp_path / "c")
    again = Setup()
    assert len(again.fit(epochs=2, checkpoint=tmp_path / "c", resume=True)) == 2
    straight = Setup()
    straight.fit(epochs=4)
    history = again.fit(epochs=4, checkpoint=tmp_path / "c", resume=True)
    assert len(history) == 4
    assert again.weights() == straight.weights()


def test_resume_without_a_file_begins_at_the_beginning(tmp_path):
    setup = Setup()
    assert len(setup.fit(epochs=1, checkpoint=tmp_path / "new" / "c", resume=True)) == 1
    assert (tmp_path / "new" / "c").exists()


def test_early_stopping_ends_the_run_and_restores_the_best_weights(tmp_path):
    setup = Setup(patience=2)
    kept = {}

    def spoil(row, history):
        kept[row["epoch"]] = setup.weights()
        if row["epoch"] >= 3:  # from here on it gets worse
            for group in setup.optimizer.param_groups:
                group["lr"] = 5.0

    history = setup.fit(epochs=50, checkpoint=tmp_path / "c", on_epoch=spoil)
    assert history.stopped == "early stopping"
    assert len(history) == history.best_epoch + 2 < 50
    assert history.best("val_loss")["epoch"] == history.best_epoch
    assert setup.weights() == kept[history.best_epoch]

    resumed = Setup(seed=8, patience=2)
    after = resumed.fit(epochs=50, checkpoint=tmp_path / "c", resume=True)
    assert (after.stopped, len(after)) == ("early stopping", len(history))
    assert resumed.weights() == setup.weights()


class Fake:
    """A model of one number."""

    def __init__(self):
        self.value = np.zeros(1)

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"].copy()


@pytest.mark.parametrize(
    ("options", "values", "best", "ends"),
    [
        ({"patience": 2}, [3, 2, 2.5, 2.1, 9], 2, 4),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.6, 2.4, 2.2, 2.1], 3, 5),
        ({"patience": 1, "monitor": "val_accuracy"}, [0.5, 0.7, 0.6], 2, 3),
        ({"patience": 1, "mode": "max"}, [1, 2, 3, 3], 3, 4),
        ({"patience": 2}, [math.nan, 2, math.nan, math.nan], 2, 4),
        ({"patience": 3}, [3, 2, 1], 3, None),
    ],
)
def test_patience_counts_epochs_without_an_improvement(options, values, best, ends):
    stopping, model = train.EarlyStopping(**options), Fake()
    ended = None
    for epoch, value in enumerate(values, 1):
        model.value[0] = epoch
        if stopping.update({"epoch": epoch, stopping.monitor: value}, model):
            ended = epoch
            break
    assert (stopping.best_epoch, ended) == (best, ends)
    stopping.restore(model)
    assert model.value[0] == best


def test_early_stopping_can_leave_the_last_weights():
    stopping, model = train.EarlyStopping(1, restore_best=False), Fake()
    stopping.update({"epoch": 1, "val_loss": 1.0}, model)
    model.value[0] = 5
    stopping.restore(model)
    assert model.value[0] == 5


def test_wrong_options_are_refused_with_the_remedy(tmp_path):
    setup = Setup()
    with pytest.raises(OptionError, match="epochs is a whole number from 1 on, got 0"):
        setup.fit(epochs=0)
    with pytest.raises(OptionError, match="give checkpoint=FILE"):
        setup.fit(epochs=1, resume=True)
    with pytest.raises(OptionError, match="schedule_every is 'epoch' or 'step'"):
        setup.fit(epochs=1, schedule_every="batch")
    with pytest.raises(OptionError, match="give a validation loader"):
        train.fit(setup.model, setup.loader, optimizer=setup.optimizer, epochs=1, stopping=train.EarlyStopping())
    with pytest.raises(OptionError, match="watches 'val_f1', but an epoch has"):
        train.fit(setup.model, setup.loader, optimizer=setup.optimizer, epochs=1, validation=setup.validation,
                  stopping=train.EarlyStopping(monitor="val_f1"))  # fmt: skip
    for wrong in ({"patience": 0}, {"patience": True}, {"min_delta": -1.0}, {"mode": "up"}):
        with pytest.raises(OptionError):
            train.EarlyStopping(**wrong)


def test_a_checkpoint_of_another_run_is_refused_with_the_difference(tmp_path):
    file = tmp_path / "c"
    Setup().fit(epochs=1, checkpoint=file)

    def refused(setup, message):
        with pytest.raises(CheckpointError, match=message):
            setup.fit(epochs=2, checkpoint=file, resume=True)

    other = Setup()
    other.model = nn.Linear(4, 3)
    other.optimizer = optim.Adam(other.model.parameters())
    refused(other, "does not fit Linear")
    refused(Setup("SGD"), "saved from another optimizer")
    refused(Setup(patience=3), "the run was started without stopping and is resumed with")
    other = Setup()
    other.loader = data.DataLoader(blobs(), 30)
    refused(other, "a loader with 4 batches, this one has 2")
    train.save_checkpoint(file, {"model": {}})
    refused(Setup(), "does not hold a whole training state")
    file.write_bytes(b"nonsense")
    refused(Setup(), "damaged")


def test_a_loss_that_is_no_number_ends_the_run_and_spares_the_checkpoint(tmp_path):
    setup = Setup()
    setup.fit(epochs=1, checkpoint=tmp_path / "c")
    setup.optimizer.param_groups[0]["lr"] = float("nan")
    with pytest.raises(train.DivergedError, match="the loss became nan at step 2 of epoch 1; use a smaller learning"):
        setup.fit(epochs=2, checkpoint=tmp_path / "c", checkpoint_every=0)
    after = train.load_checkpoint(tmp_path / "c")
    assert after["progress"] == {**after["progress"], "epoch": 0, "step": 1}


def test_progress_tells_where_training_is():
    seen = []
    Setup().fit(epochs=2, on_step=lambda p: seen.append((p.epoch, p.step, p.steps, p.samples, p.loss > 0)))
    assert seen == [(e, s, 4, min(16 * s, 60), True) for e in (1, 2) for s in (1, 2, 3, 4)]


def test_a_loop_over_a_list_of_batches_and_another_loss_works():
    manual_seed(0)
    model = nn.Linear(4, 1)
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    from tinygrad_cnn import Tensor

    batches = [(Tensor(x), Tensor(x.sum(1, keepdims=True)))]
    history = train.fit(
        model, batches, optimizer=optim.Adam(model.parameters(), lr=0.1), epochs=60, loss=nn.functional.mse_loss
    )
    assert history[-1]["train_loss"] < 0.05
    assert "train_accuracy" not in history[-1]
    result = train.evaluate(model, batches, nn.functional.mse_loss)
    assert result.accuracy is None
    with pytest.raises(DataError, match="not scores of classes"):
        _ = result.confusion


def test_evaluate_counts_answers_and_leaves_mode_and_generator_alone():
    manual_seed(4)
    model = network()
    before = generator_states()
    result = train.evaluate(model, data.DataLoader(blobs(50, 3), 7))
    assert model.training
    assert generator_states() == before
    model.eval()
    scores = model(blobs(50, 3).images).numpy()
    labels = blobs(50, 3).labels
    assert result.predictions.tolist() == scores.argmax(1).tolist()
    assert result.accuracy == pytest.approx((scores.argmax(1) == labels).mean())
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert np.allclose(result.confidence, shares.max(1), atol=1e-6)
    assert result.loss == pytest.approx(
        float(nn.functional.cross_entropy(model(blobs(50, 3).images), labels)), rel=1e-5
    )
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (labels, scores.argmax(1)), 1)
    assert result.confusion.tolist() == expected.tolist()
    assert result.mistakes.tolist() == np.flatnonzero(labels != scores.argmax(1)).tolist()
    assert (result.count, result.confusion.sum()) == (50, 50)
    with pytest.raises(DataError, match="nothing to evaluate"):
        train.evaluate(model, [])


def test_a_history_is_written_as_json_lines_and_csv(tmp_path):
    import csv
    import json

    history = train.History([{"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": 0.25, "val_loss": 1.0}])
    history.save(tmp_path / "h.jsonl")
    history.save(tmp_path / "h.csv")
    assert [json.loads(line) for line in (tmp_path / "h.jsonl").read_text().splitlines()] == list(history)
    rows = list(csv.DictReader((tmp_path / "h.csv").read_text().splitlines()))
    assert rows[0] == {"epoch": "1", "train_loss": "0.5", "val_loss": ""}
    with pytest.raises(ValueError, match=r"not as '\.xlsx'"):
        history.save(tmp_path / "h.xlsx")
    with pytest.raises(ValueError, match="no epoch has a value 'f1'"):
        history.best("f1")


def test_a_training_loop_written_for_pytorch_runs_with_other_imports():
    from tinygrad_cnn import Tensor, no_grad, optim
    from tinygrad_cnn.data import DataLoader, TensorDataset, random_split

    manual_seed(0)
    points = blobs(200)
    train_set, test_set = random_split(TensorDataset(Tensor(points.images), Tensor(points.labels)), [150, 50])
    train_loader = DataLoader(train_set, batch_size=16, shuffle=True, drop_last=True, num_workers=2, pin_memory=True)
    test_loader = DataLoader(test_set, batch_size=50)
    model = network()
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.5)
    for _ in range(8):
        model.train()
        for x, y in train_loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
        scheduler.step()
    model.eval()
    correct = total = 0
    with no_grad():
        for x, y in test_loader:
            predicted = model(x).argmax(dim=1)
            total += y.shape[0]
            correct += (predicted == y).sum().item()
    assert total == 50
    assert correct > 45


@pytest.fixture(params=["float16", "bfloat16"])
def low(request):
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes")
    return request.param


def test_mixed_precision_learns_as_float32_does(low):
    histories = [Setup().fit(epochs=12, precision=precision) for precision in ("float32", low)]
    losses = [history[-1]["val_loss"] for history in histories]
    assert losses[1] == pytest.approx(losses[0], abs=0.1)
    assert histories[1][-1]["val_accuracy"] > 0.9
    assert ("loss_scale" in histories[1][0]) == (low == "float16")
    assert "loss_scale" not in histories[0][0]


def test_mixed_precision_keeps_weights_in_float32_and_computes_in_the_low_type(low):
    setup, seen = Setup(), []
    setup.model.register_forward_hook(lambda module, args, y: seen.append((module.training, y.dtype.name)))
    setup.fit(epochs=1, precision=low)
    assert set(seen) == {(True, low), (False, "float32")}
    assert {tensor.dtype.name for _, tensor in setup.model.named_parameters()} == {"float32"}


@pytest.mark.parametrize("stop", [1, 5, 9])
def test_mixed_precision_resumes_to_the_same_weights(low, stop, tmp_path):
    straight = Setup()
    expected = straight.fit(epochs=3, checkpoint=tmp_path / "whole", precision=low)
    steps = iter(range(1, 1000))
    first = Setup()
    first.fit(epochs=3, checkpoint=tmp_path / "c", precision=low, should_stop=lambda: next(steps) >= stop)
    second = Setup(seed=5)
    second.loader = data.DataLoader(blobs(), 16, shuffle=True, seed=0)
    history = second.fit(epochs=3, checkpoint=tmp_path / "c", precision=low, resume=True)
    assert second.weights() == straight.weights()
    ends = [train.load_checkpoint(tmp_path / name) for name in ("c", "whole")]
    assert ends[0]["scaler"] == ends[1]["scaler"]
    assert ends[0]["scaler"].get("_growth_tracker", 12) == 12
    assert [row.get("loss_scale") for row in history] == [row.get("loss_scale") for row in expected]


def test_the_loss_scale_and_its_count_of_good_steps_are_in_the_checkpoint(tmp_path):
    Setup().fit(epochs=2, checkpoint=tmp_path / "c", precision="float16")
    state = train.load_checkpoint(tmp_path / "c")
    assert state["precision"] == "float16"
    assert state["scaler"]["scale"] == 65536.0
    assert state["scaler"]["_growth_tracker"] == 8


def test_a_run_is_not_resumed_in_another_precision(tmp_path):
    Setup().fit(epochs=1, checkpoint=tmp_path / "c", precision="float16")
    with pytest.raises(CheckpointError, match="started in float16 and is resumed in float32"):
        Setup().fit(epochs=2, checkpoint=tmp_path / "c", resume=True)


def test_a_checkpoint_from_before_there_was_a_choice_of_precision_resumes(tmp_path):
    Setup().fit(epochs=1, checkpoint=tmp_path / "c")
    state = train.load_checkpoint(tmp_path / "c")
    del state["precision"], state["scaler"]
    train.save_checkpoint(tmp_path / "c", state)
    assert len(Setup().fit(epochs=2, checkpoint=tmp_path / "c", resume=True)) == 2


def test_another_precision_is_refused():
    with pytest.raises(OptionError, match="precision must be one of float32, float16, bfloat16, got 'float64'"):
        Setup().fit(epochs=1, precision="float64")
