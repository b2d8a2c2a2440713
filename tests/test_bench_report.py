"""The benchmarks: how they compare, and what they print and write. Nothing here depends on how fast anything is."""

import json
import math
import os
import time
from itertools import pairwise

import numpy as np
import pytest

from tinygrad_cnn import nn
from tinygrad_cnn.bench import WORK, Result, compare, main
from tinygrad_cnn.bench.apart import apart
from tinygrad_cnn.bench.peers import Pair, lenet_pair, torch_or_none
from tinygrad_cnn.bench.run import _line
from tinygrad_cnn.bench.work import Settings, epoch, forward, images, lenet_step


def test_contestants_take_turns():
    order = []
    times = compare({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 0.0, turns=4, warm_up=3)
    measured = order[8:]  # after three calls to warm up and one to see how long a call takes, of each
    changes = sum(x != y for x, y in pairwise(measured))
    assert changes == 7
    for name in "ab":
        assert 4 <= len(times[name]) <= measured.count(name)
    assert min(*times["a"], *times["b"]) >= 0


def test_a_slow_contestant_makes_one_call_a_turn_and_all_of_them_count():
    order = []
    times = compare({"slow": lambda: (order.append(1), time.sleep(0.1))}, 0.0, turns=3, warm_up=1)
    assert len(times["slow"]) == len(order) - 2 == 3


def test_the_clock_may_be_that_of_the_processor():
    times = compare({"sleep": lambda: time.sleep(0.02)}, 0.0, turns=3, clock=time.process_time)
    assert all(value < 0.02 for value in times["sleep"])


def test_contestants_in_processes_of_their_own_take_turns_too():
    with apart(lenet_step, ["captured", "eager"], 2) as contestants:
        processes = [contestant.process for contestant in contestants.values()]
        assert len({process.pid for process in processes}) == 2
        times = compare(contestants, 0.0, turns=2, warm_up=3)
    assert all(process.poll() is not None for process in processes)
    assert times.keys() == {"captured", "eager"}
    assert all(len(found) >= 2 and min(found) > 0 for found in times.values())


def test_a_contestant_whose_process_ends_is_named(capfd):
    message = r"lenet_step\('nonsense', 2\).*ended with status 1"
    with apart(lenet_step, ["nonsense"], 2) as contestants, pytest.raises(RuntimeError, match=message):
        compare(contestants, 0.0)
    assert "KeyError: 'nonsense'" in capfd.readouterr().err


def environment_of(kind):
    """Make a call that fails if the C library is not as it should be for such a contestant."""
    kept = "GLIBC_TUNABLES" not in os.environ
    assert kept == (kind != "torch")
    return lambda: None


def test_the_c_library_is_left_as_it_is_for_others(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    with apart(environment_of, ["eager", "torch"]) as contestants:
        assert compare(contestants, 0.0, turns=1).keys() == {"eager", "torch"}


@pytest.mark.parametrize(
    ("make", "kind", "size"), [(epoch, "captured", 256), (epoch, "loading", 256), (forward, "eager", 3)]
)
def test_what_is_timed_apart_runs(make, kind, size):
    make(kind, size)()


@pytest.mark.skipif(torch_or_none() is None, reason="PyTorch is not installed")
@pytest.mark.parametrize(("make", "size"), [(lenet_step, 2), (epoch, 256), (forward, 3)])
def test_what_is_timed_of_pytorch_runs(make, size):
    make("torch", size)()


@pytest.mark.parametrize(
    ("result", "ratio", "met"),
    [
        (Result("x", ours=2.0, peer=6.0, target=3.0), 3.0, True),
        (Result("x", ours=2.0, peer=5.0, target=3.0), 2.5, False),
        (Result("x", ours=300.0, peer=100.0, more_is_better=True, target=2.0), 3.0, True),
        (Result("x", ours=3.0, limit=2.0), None, False),
        (Result("x", ours=1.0, limit=2.0, peer=4.0), 4.0, True),
        (Result("x", ours=1.0, target=2.0), None, None),
    ],
)
def test_ratios_say_how_many_times_as_good_we_are(result, ratio, met):
    assert result.ratio == ratio
    assert result.met is met


@pytest.mark.parametrize(
    ("value", "text"), [(808.2, "808"), (1040.4, "1,040"), (999.7, "1,000"), (0.01234, "0.0123"), (33602.0, "33,602")]
)
def test_numbers_are_written_without_powers_of_ten(value, text):
    line = _line(Result("x", ours=808.0, peer=value), lambda name: name)
    assert line.split()[1:3] == ["808", text]


def test_both_sides_of_the_benchmark_compute_the_same_losses():
    worst = lenet_pair().disagreement([images(16, seed) for seed in range(20)])
    assert worst < 1e-4


def test_the_pair_compares_what_it_trains():
    pair = Pair(lambda: nn.Linear(3, 2), None)
    steps = pair.steps(np.ones((4, 3), "float32"), np.zeros(4, int))
    before = [pair.model.weight.array.copy(), pair.replayed.weight.array.copy()]
    np.testing.assert_array_equal(*before)
    steps["eager"]()
    steps["captured"]()
    np.testing.assert_array_equal(pair.model.weight.array, pair.replayed.weight.array)
    assert (pair.model.weight.array != before[0]).any()


def test_the_command_prints_a_line_per_result_and_writes_json(tmp_path, capsys):
    path = tmp_path / "report.json"
    assert main(["deep", "agree", "--quick", "--seconds", "0.01", "--json", str(path)]) == 0
    text = capsys.readouterr().out
    report = json.loads(path.read_text())
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    assert {"processor", "cpus", "system", "load"} <= report["machine"].keys()
    assert "numpy" in report["versions"]
    assert len(report["results"]) == 3
    for result in report["results"]:
        assert result["work"] in text
        assert math.isfinite(result["ours"])


def test_one_thread_is_restored_afterwards(capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch = torch_or_none()
    before = torch.get_num_threads() if torch else None
    assert main(["deep", "--quick", "--seconds", "0.01", "--one-thread"]) == 0
    assert (torch.get_num_threads() if torch else None) == before


def test_an_unknown_group_is_refused_with_those_there_are(capsys):
    with pytest.raises(SystemExit):
        main(["nonsense"])
    message = capsys.readouterr().err
    assert "nonsense" in message
    assert all(name in message for name in WORK)


def test_quick_measures_for_a_second_at_most():
    assert Settings(5.0, quick=True).seconds == 1.0
    assert Settings(0.2, quick=True).seconds == 0.2
