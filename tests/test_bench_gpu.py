"""The benchmark of a GPU in a dry run on the stand-in: the same program, with figures that mean nothing."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import standin

from tinygrad_cnn.backend import Device
from tinygrad_cnn.bench import gpu, main, on_gpu
from tinygrad_cnn.bench.measure import Result
from tinygrad_cnn.bench.work import images
from tinygrad_cnn.errors import DeviceError

TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture(autouse=True)
def _generic_kernels():
    standin.install()
    standin.use_own_kernels(False)
    yield
    standin.use_own_kernels(True)


@pytest.fixture
def settings():
    return gpu.GpuSettings("standin", 0.0, quick=True)


def test_all_contestants_start_alike_and_train_to_the_same_losses(settings):
    contest = gpu.Contest(settings, gpu.LeNet5, gpu.lenet)
    worst, reference = contest.disagreement([images(16, seed) for seed in range(5)])
    assert set(contest.steps) == {"eager", "captured", *(["torch"] if TORCH else [])}
    assert reference == ("torch" if TORCH else "eager")
    assert worst < 1e-4
    x, y = images(16)
    given = contest.batch(x, y)
    assert given["eager"][0].device == Device("standin")
    losses = [contest.steps["eager"](*given["eager"]).item() for _ in range(5)]
    assert losses[-1] < losses[0]


def test_a_contestant_that_computes_something_else_is_noticed(settings):
    contest = gpu.Contest(settings, gpu.LeNet5, gpu.lenet)
    right = contest.steps["eager"]
    contest.steps["eager"] = lambda x, y: right(x, y) * 1.01
    assert contest.disagreement([images(8)])[0] > 1e-3
    contest.steps["eager"] = lambda x, y: right(x, y) * float("nan")
    assert contest.disagreement([images(8)])[0] == np.inf


def test_contestants_take_turns_between_waits_for_the_whole_device(settings, monkeypatch):
    order = []
    monkeypatch.setattr(settings, "synchronize", lambda: order.append("wait"))
    times = settings.times({"a": lambda: order.append("a"), "b": lambda: order.append("b")})
    assert set(times) == {"a", "b"}
    measured = "".join({"wait": "|"}.get(o, o) for o in order)
    assert measured.endswith("|")
    tail = [part for part in measured.split("|") if part][-2:]
    assert set(tail[0]) == {"a"}
    assert set(tail[1]) == {"b"}


def test_what_does_not_run_here_is_left_out_and_said(settings):
    contest = gpu.Contest(settings, gpu.LeNet5, gpu.lenet)
    left_out = {"torch.compile", "torch, CUDA graph"} if TORCH else {"torch"}
    assert set(contest.left_out) == left_out
    assert all(name in contest.note() for name in left_out)


def test_the_command_measures_on_the_device_and_writes_what_it_measured_on(tmp_path, capsys):
    file = tmp_path / "gpu.json"
    assert main(["agree", "epoch", "--device", "standin", "--quick", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["machine"]["device"] == "standin:0"
    assert report["machine"]["tf32"] is False
    assert [r["work"][:8] for r in report["results"]] == ["LeNet-5,", "epoch of"]
    assert "the figures mean nothing" in " ".join(capsys.readouterr().out.split())


def test_tf32_is_refused_and_so_are_groups_and_devices_that_are_not_there(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        main(["conv", "--device", "standin"])
    assert "there is no group 'conv' on standin" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--device", "standin:7"])
    assert "there is no device 'standin:7'" in capsys.readouterr().err
    monkeypatch.setenv("CUPY_TF32", "1")
    with pytest.raises(DeviceError, match="exact float32"):
        gpu.GpuSettings("standin")


def test_one_command_runs_the_tests_measures_and_prints_the_table(tmp_path, capsys, monkeypatch):
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_it.py").write_text(
        "import pytest\n@pytest.mark.gpu\ndef test_a(): pass\ndef test_b(): assert False\n", encoding="utf-8"
    )
    (tests / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n", encoding="utf-8")
    # One line of each kind; all groups are run by the command itself.
    small = {"agree": gpu.WORK["agree"], "lenet": gpu.WORK["lenet"], "broken": lambda settings: iter([1 / 0])}
    monkeypatch.setattr(gpu, "WORK", small)
    file = tmp_path / "out.json"
    assert on_gpu.main(["--device", "standin", "--quick", "--out", str(file), "--tests", str(tests)]) == 1
    report = json.loads(file.read_text())
    assert "1 passed" in report["tests"]["summary"]
    assert report["tests"]["passed"]
    assert report["failed"] == {"broken": "ZeroDivisionError: division by zero"}
    assert report["date"].startswith("20")
    printed = capsys.readouterr().out
    assert "| work | here | PyTorch | ratio | |" in printed
    assert "| LeNet-5 step, batch 64, captured |" in printed
    (tests / "test_it.py").write_text(
        "import pytest\n@pytest.mark.gpu\ndef test_a(): assert 1 == 2\n", encoding="utf-8"
    )
    found = on_gpu.run_tests(tests)
    assert (found["passed"], found["failed"][0][:6]) == (False, "FAILED")
    assert "1 failed" in found["summary"]


def test_a_resnet50_step_is_the_same_in_both(settings):
    results = list(gpu.resnet_step(settings))
    assert [r.unit for r in results] == ["", "ms"]
    assert results[0].met


def test_without_a_gpu_the_command_says_so_and_does_nothing(tmp_path):
    try:
        Device("cuda")
    except DeviceError:
        pass
    else:
        pytest.skip("this machine has a GPU")
    command = [sys.executable, "-W", "ignore", "-m", "tinygrad_cnn.bench.on_gpu", "--out", str(tmp_path / "no.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("on_gpu: device 'cuda'")
    assert not (tmp_path / "no.json").exists()


def test_the_table_names_card_date_and_versions():
    result = Result("LeNet-5 step, batch 64, captured", 0.05, peer=0.15, peer_name="torch, CUDA graph", note="9%")
    report = {
        "date": "2030-01-02T03:04:05+00:00",
        "gpu": {"card": "NVIDIA H200", "driver": 13000, "torch": "2.13.0", "cudnn": "none"},
        "tests": {"summary": "900 passed in 100 s"},
        "results": [result.as_dict()],
    }
    text = on_gpu.table(report)
    assert "2030-01-02: NVIDIA H200, driver 13000, torch 2.13.0, cudnn none; float32, TF32 off in all." in text
    assert "| 0.05 ms | 0.15 ms (torch, CUDA graph) | 3.00x | 9% |" in text
