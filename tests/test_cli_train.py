"""`tinygrad-cnn train`: every option does what its help says, and the run folder tells the truth."""

import csv
import json
import math
import os
import re
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from tinygrad_cnn import data, train
from tinygrad_cnn.cli import main, networks

FILES = {
    "checkpoint.safetensors", "model.safetensors", "history.jsonl", "history.csv", "mistakes.csv", "summary.txt",
    "test.json", "options.json", "curves.png", "curves.svg", "confusion.png", "mistakes.png",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A part of MNIST, small enough to train on in a moment, as a folder of IDX files."""
    path = tmp_path_factory.mktemp("digits")
    for part, prefix, count in zip(data.mnist(), ("train", "t10k"), (300, 100), strict=True):
        images, labels = part.images[:count, 0], part.labels[:count].astype(np.uint8)
        header = struct.pack(">4I", 0x803, *images.shape)
        (path / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (path / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + labels.tobytes())
    return path


@pytest.fixture
def trained(folder, tmp_path):
    """Train with options and return the run folder, which must be complete."""

    def run(*options, out="run", model="logistic"):
        words = ["train", "--data", str(folder), "--out", str(tmp_path / out), "--model", model, "--no-pictures"]
        assert main([*words, "--epochs", "1", *options]) == 0
        return tmp_path / out

    return run


def rows(run):
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def weights(run):
    return (run / "model.safetensors").read_bytes()


def options(run):
    return json.loads((run / "options.json").read_text())


def test_a_run_writes_all_its_files_and_prints_what_they_say(folder, tmp_path, capsys):
    run = tmp_path / "a" / "run"
    assert main(["train", "--data", str(folder), "--epochs", "2", "--out", str(run)]) == 0
    printed = capsys.readouterr().out
    assert {p.name for p in run.iterdir()} == FILES
    assert "lenet5, 61 706 parameters" in printed
    assert "270 images to train on, 30 to validate" in printed
    assert "2 epochs done" in printed
    assert "\x1b" not in printed  # no terminal, no colours

    history = rows(run)
    assert [row["epoch"] for row in history] == [1, 2]
    table = list(csv.DictReader((run / "history.csv").read_text().splitlines()))
    assert [{k: str(v) for k, v in row.items()} for row in history] == table
    for row in history:
        assert re.search(rf"{row['epoch']} +{row['train_loss']:.4f} .*{row['val_loss']:.4f} ", printed)

    trained = networks.load(run)
    _, test = data.mnist(folder)
    result = train.evaluate(trained.model, data.DataLoader(test, 100))
    assert f"test accuracy {100 * result.accuracy:.2f} %  ({len(result.mistakes)} of 100 wrong)" in printed
    table = list(csv.DictReader((run / "mistakes.csv").read_text().splitlines()))
    assert [int(row["index"]) for row in table] == result.mistakes.tolist()
    assert all(int(row["digit"]) == test.labels[int(row["index"])] != int(row["answer"]) for row in table)
    matrix = np.array([[int(n.replace("·", "0")) for n in re.findall(r"\d+(?![.\d ]*%)|·", line)[1:11]]
                       for line in printed.splitlines() if re.match(r" +\d .*(%|-)$", line)][-10:])  # fmt: skip
    assert matrix.tolist() == result.confusion.tolist()
    assert json.loads((run / "test.json").read_text())["confusion"] == result.confusion.tolist()
    assert "61,706" in (run / "summary.txt").read_text().replace(" ", ",").replace("\u202f", ",")
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (run / "curves.svg").read_bytes()[:1000]
    assert str(folder) in options(run)["data"]


def test_a_run_is_evaluated_on_the_data_it_was_trained_on(trained, folder, capsys):
    run = trained()
    capsys.readouterr()
    for file in (run, run / "model.safetensors"):
        assert main(["evaluate", str(file), "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["count"], result["data"]) == (100, str(folder))
    assert main(["evaluate", str(run), "--json", "--data", str(folder), "--split", "train"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 300
    (run / "options.json").unlink()
    assert main(["evaluate", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 10000


def test_the_file_of_weights_is_plain_safetensors(trained):
    from safetensors.numpy import load_file

    run = trained(model="lenet5")
    assert load_file(run / "model.safetensors")["conv1.weight"].shape == (6, 1, 5, 5)
    ours = networks.load(run / "model.safetensors").model.state_dict()
    best = networks.load(run / "checkpoint.safetensors").model.state_dict()
    assert all(np.array_equal(ours[name].numpy(), best[name].numpy()) for name in ours)


@pytest.mark.parametrize("model", list(networks.NETWORKS))
def test_every_model_can_be_trained_and_loaded_again(trained, model, capsys):
    run = trained("--limit", "100", model=model)
    assert model in capsys.readouterr().out
    assert networks.load(run).name == model


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop", "adagrad", "adadelta"])
def test_every_optimizer_learns_with_its_own_rate(trained, optimizer):
    run = trained("--optimizer", optimizer, "--epochs", "4", "--schedule", "constant")
    history = rows(run)
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert options(run)["optimizer"] == optimizer
    from tinygrad_cnn.cli.training import OPTIMIZERS

    assert history[0]["lr"] == OPTIMIZERS[optimizer]


def test_epochs_batch_size_and_limit_decide_the_steps(trained):
    run = trained("--epochs", "3", "--batch-size", "25", "--limit", "100")
    assert [row["step"] for row in rows(run)] == [4, 8, 12]  # 90 images to fit, 10 to validate


def test_the_learning_rate_follows_the_schedule(trained):
    constant = rows(trained("--lr", "0.003", "--schedule", "constant", "--epochs", "2", out="a"))
    assert [row["lr"] for row in constant] == [0.003, 0.003]
    cosine = rows(trained("--lr", "0.004", "--schedule", "cosine", "--epochs", "2", out="b"))
    assert [row["lr"] for row in cosine] == [0.002 * (1 + math.cos(math.pi * t / 10)) for t in (4, 9)]
    assert rows(trained("--recipe", "best", "--optimizer", "adagrad", out="d"))[0]["lr"] < 0.02
    onecycle = rows(trained("--lr", "0.004", "--schedule", "onecycle", "--epochs", "10", out="c"))
    rates = [row["lr"] for row in onecycle]
    assert max(rates) == pytest.approx(0.004, rel=0.05)
    assert rates.index(max(rates)) == 2
    assert rates[-1] < rates[-2] < 0.001


def test_the_seed_decides_everything(trained):
    first, same, other = (trained("--seed", seed, out=out) for seed, out in (("1", "a"), ("1", "b"), ("2", "c")))
    assert weights(first) == weights(same) != weights(other)


@pytest.mark.parametrize(
    "option", [["--weight-decay", "0.1"], ["--augment", "1"], ["--normalise", "lecun"], ["--batch-size", "32"]]
)
def test_an_option_of_training_changes_the_weights(trained, option):
    assert weights(trained(out="a")) != weights(trained(*option, out="b"))


def test_validation_0_uses_all_images_and_stops_at_no_epoch(trained, capsys):
    run = trained("--validation", "0")
    assert "val_loss" not in rows(run)[0]
    assert "300 images to train on, 0 to validate" in capsys.readouterr().out


def test_patience_ends_the_run_and_the_best_weights_are_kept(trained, capsys):
    run = trained("--patience", "1", "--epochs", "30", "--lr", "0.5", "--schedule", "constant")
    accuracies = [row["val_accuracy"] for row in rows(run)]
    assert len(accuracies) < 30
    assert accuracies[-1] <= max(accuracies[:-1])
    printed = capsys.readouterr().out
    assert f"stopped early after epoch {len(accuracies)}" in printed
    assert f"weights of the best one, {accuracies.index(max(accuracies)) + 1}, restored" in printed


def test_the_best_recipe_sets_options_and_given_ones_prevail(trained):
    from tinygrad_cnn.cli.training import RECIPES

    stored = options(trained("--recipe", "best"))
    assert {name: stored[name] for name in RECIPES["best"]} == {**RECIPES["best"], "epochs": 1}
    assert stored["augment"] > 0


def test_without_out_a_new_folder_below_runs_is_made(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--data", str(folder), "--model", "logistic", "--epochs", "1", "--no-pictures"]
    assert main(words) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"logistic-\d{8}-\d{6}", run.name)
    assert f"runs/{run.name}" in capsys.readouterr().out
    assert networks.latest_run() == (tmp_path / "runs" / run.name).relative_to(tmp_path)


def test_pictures_are_left_out_without_matplotlib_and_the_remedy_is_named(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = tmp_path / "run"
    assert main(["train", "--data", str(folder), "--model", "logistic", "--epochs", "1", "--out", str(run)]) == 0
    assert "pip install 'tinygrad-cnn[plot]'" in capsys.readouterr().out
    assert not (run / "curves.png").exists()


WRONG = [
    (["--epochs", "0"], 2, "argument --epochs: '0' is not a whole number from 1 on"),
    (["--batch-size", "x"], 2, "argument --batch-size: 'x' is not a whole number from 1 on"),
    (["--lr", "-1"], 2, "is not a number above 0"),
    (["--lr", "nan"], 2, "is not a number above 0"),
    (["--weight-decay", "inf"], 2, "is not a number from 0 on"),
    (["--seed", "-3"], 2, "is not a whole number from 0 on"),
    (["--model", "resnet"], 2, "invalid choice: 'resnet'"),
    (["--optimizer", "newton"], 2, "invalid choice: 'newton'"),
    (["--epoch", "3"], 2, "unrecognized arguments: --epoch"),
    (["--data", "/nowhere/at/all"], 1, "error: there is no folder /nowhere/at/all"),
    (["--device", "tpu"], 1, "error: there is no device kind 'tpu'"),
    (["--resume", "/nowhere/at/all"], 1, "error: /nowhere/at/all is no run folder"),
]


@pytest.mark.parametrize(("words", "code", "message"), WRONG)
def test_a_wrong_option_is_explained_in_a_line_without_traceback(words, code, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words]) == code
    stderr = capsys.readouterr().err
    assert message in stderr
    assert "Traceback" not in stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_in_it_is_not_written_to(folder, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("precious")
    assert main(["train", "--data", str(folder), "--out", str(tmp_path)]) == 1
    assert "exists already; give another --out, or --resume" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_validation_must_leave_something_to_train_on(folder, tmp_path, capsys):
    words = ["train", "--data", str(folder), "--validation", "300", "--out", str(tmp_path / "r")]
    assert main(words) == 1
    assert "--validation 300 leaves nothing to train on: there are 300 images" in capsys.readouterr().err


def test_a_resumed_run_keeps_its_options(trained, capsys):
    run = trained("--schedule", "constant", "--seed", "3")
    straight = trained("--schedule", "constant", "--seed", "3", "--epochs", "3", out="straight")
    assert main(["train", "--resume", str(run), "--epochs", "3", "--no-pictures"]) == 0
    assert weights(run) == weights(straight)
    assert [row["epoch"] for row in rows(run)] == [1, 2, 3]
    # The rows of the epochs done before are shown again.
    shown = re.findall(r"^ +(\d) +\d\.\d{4} ", capsys.readouterr().out, re.MULTILINE)
    assert shown == ["1", "1", "2", "3", "1", "2", "3"]
    capsys.readouterr()
    assert main(["train", "--resume", str(run), "--seed", "4"]) == 1
    assert "has seed 3, not 4; a run is resumed with its own options" in capsys.readouterr().err
    assert main(["train", "--resume", str(run), "--out", "other"]) == 1
    assert "leave out --out" in capsys.readouterr().err
    for damage in ('{"import": "os"}', '{"epochs": "many"}', '{"optimizer": "os.system"}', "[1]", "{", '{"data": 3}'):
        (run / "options.json").write_text(damage)
        assert main(["train", "--resume", str(run)]) == 1
        assert "options.json is damaged" in capsys.readouterr().err


def start(*words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tinygrad_cnn", "train", *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(path, process):
    end = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_after_the_step_and_the_run_resumes_to_the_same_weights(folder, tmp_path, number):
    words = ["--data", str(folder), "--model", "mlp", "--epochs", "15", "--batch-size", "8", "--no-pictures",
             "--patience", "15"]  # fmt: skip
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    process = start(*words, "--out", str(broken), "--checkpoint-every", "0")
    wait_for(broken / "checkpoint.safetensors", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopping after this step; once more to stop at once" in out
    assert f"Go on with: tinygrad-cnn train --resume {broken}" in out
    assert err == ""
    assert networks.load(broken).name == "mlp"  # usable as it is
    assert len(rows(broken)) < 15

    # With as many threads: sums of another order are rounded otherwise.
    for more in (["--resume", str(broken), "--no-pictures"], [*words, "--out", str(straight)]):
        process = start(*more)
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0
    assert weights(broken) == weights(straight)


def test_a_diverging_run_ends_with_advice(trained, folder, tmp_path, capsys):
    words = ["train", "--data", str(folder), "--model", "mlp", "--optimizer", "sgd", "--lr", "1e30"]
    assert main([*words, "--out", str(tmp_path / "d"), "--no-pictures"]) == 1
    assert "use a smaller learning rate" in capsys.readouterr().err


def test_in_a_terminal_a_bar_shows_loss_accuracy_speed_and_time_left_on_one_line():
    import io

    from rich.console import Console

    from tinygrad_cnn.cli.progress import TrainingDisplay, duration

    for width in (60, 80, 120):
        screen = {"force_terminal": True, "_environ": {"TERM": "xterm"}, "width": width, "soft_wrap": True}
        console = Console(file=io.StringIO(), markup=False, highlight=False, **screen)
        with TrainingDisplay(console, "val_accuracy") as display:
            progress = train.Progress(2, 12, 123, 860, 123 * 64, 0.12345, 0.98765, 2.0, 123 * 64)
            display.on_step(progress)
            row = {"epoch": 1, "train_loss": 0.5, "seconds": 83.0, "samples_per_second": 12345.6, "val_accuracy": 0.9}
            display.on_epoch(row, train.History([row]))
        lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue()).replace("\r", "\n").split("\n")
        (bar,) = {line.rstrip() for line in lines if line.startswith("epoch 2/12")}
        assert len(bar) <= width
        speed = "" if width == 60 else "  3 936 images/s"  # what has no room is left out
        assert bar.endswith(f"123/860  loss 0.1235  98.77 %{speed}  2 min 32 s left")
        assert ("━" in bar) == (width == 120)
        assert any(re.search(r"1 +0\.5000 +- +- +90\.00 % +12 346 +1 min 23 s", line) for line in lines)
    assert [duration(s) for s in (0.04, 9.94, 12.3, 59.96, 3599, 7800)] == [
        "0.0 s", "9.9 s", "12 s", "1 min 00 s", "59 min 59 s", "2 h 10 min",
    ]  # fmt: skip


def test_distorted_images_are_filled_with_the_background_of_the_normalisation(folder, tmp_path, monkeypatch):
    fills = []
    real = data.transforms.digits
    monkeypatch.setattr(data.transforms, "digits", lambda s, fill: (fills.append(fill), real(s, fill=fill))[1])
    for name in ("unit", "lecun", "centred"):
        words = ["train", "--data", str(folder), "--model", "logistic", "--epochs", "1", "--augment", "1"]
        assert main([*words, "--no-pictures", "--normalise", name, "--out", str(tmp_path / name)]) == 0
    assert fills == pytest.approx([0, -0.1, -1])


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_mixed_precision_is_said_in_the_report_and_kept_in_the_run_folder(trained, capsys, precision):
    if precision == "bfloat16":
        pytest.importorskip("ml_dtypes")
    run = trained("--precision", precision)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"mixed precision ({precision}{', scaled loss' if precision == 'float16' else ''})" in printed
    assert options(run)["precision"] == precision
    assert ("loss_scale" in rows(run)[0]) == (precision == "float16")
    arrays, _ = train.load_state_dict_file(run / "model.safetensors")
    assert {array.dtype.name for array in arrays.values()} == {"float32"}
    assert main(["train", "--resume", str(run), "--no-pictures"]) == 0
    assert main(["train", "--resume", str(run), "--precision", "float32"]) != 0
    assert "precision" in capsys.readouterr().err


def test_a_run_folder_from_before_there_was_a_choice_of_precision_resumes(trained):
    run = trained()
    stored = options(run)
    assert stored.pop("precision") == "float32"
    (run / "options.json").write_text(json.dumps(stored))
    assert main(["train", "--resume", str(run), "--no-pictures"]) == 0


def test_bfloat16_without_its_package_ends_before_anything_is_written(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    out = tmp_path / "run"
    assert main(["train", "--data", str(folder), "--out", str(out), "--precision", "bfloat16"]) != 0
    assert "pip install" in capsys.readouterr().err
    assert not out.exists()


def test_the_command_offers_the_precisions_of_fit():
    from tinygrad_cnn.cli.training import PRECISIONS
    from tinygrad_cnn.train import mixed

    assert PRECISIONS == mixed.PRECISIONS
