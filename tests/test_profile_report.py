"""What a profile counts, shows and writes."""

import json

import numpy as np
import pytest

from tinygrad_cnn import Tensor, nn, ops
from tinygrad_cnn.errors import OptionError, ShapeError
from tinygrad_cnn.profiler import profile


def trained(steps=2):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))
    x, labels = Tensor(np.ones((5, 1, 8, 8), "float32")), Tensor([0, 1, 2, 0, 1])
    with profile() as measured:
        for _ in range(steps):
            nn.functional.cross_entropy(model(x), labels).backward()
    return measured


def test_calls_and_operations_are_counted():
    rows = {row.name: row for row in trained(2).rows()}
    assert rows["conv2d"].calls == 2
    assert rows["max_pool2d"].calls == 2
    forward = 2 * 5 * 4 * 36 * 9 + 5 * 4 * 36  # products and sums of 9, and a bias
    weight = 2 * 5 * 4 * 36 * 9
    bias = 5 * 4 * 36
    assert forward + weight <= rows["conv2d"].flops / 2 <= forward + weight + bias


def test_times_add_up_to_at_most_the_time_of_the_block():
    measured = trained()
    rows = measured.rows()
    assert all(row.forward > 0 for row in rows)
    assert all(row.backward > 0 for row in rows if row.name in ("conv2d", "linear", "relu", "max_pool2d"))
    assert sum(row.total for row in rows) + measured.engine == pytest.approx(measured.elapsed)
    assert measured.elapsed > 0


def test_bytes_are_those_of_inputs_and_outputs():
    a, b = Tensor(np.ones(100, "float32")), Tensor(np.ones(100, "float32"))
    with profile() as measured:
        ops.add(a, b)
    assert measured.rows()[0].bytes == 1200


def test_modules_are_rows_too():
    rows = {row.name: row for row in trained(1).rows(by="module")}
    assert rows["Sequential / Conv2d"].calls == 1
    assert rows["Sequential / Conv2d"].backward > 0
    assert "outside of modules" in rows


def test_rows_are_sorted_as_asked():
    measured = trained()
    totals = [row.total for row in measured.rows()]
    assert totals == sorted(totals, reverse=True)
    names = [row.name for row in measured.rows(sort="name")]
    assert names == sorted(names)


@pytest.mark.parametrize("options", [{"by": "colour"}, {"sort": "weight"}])
def test_an_unknown_order_is_refused(options):
    with pytest.raises(OptionError, match="must be"):
        trained(1).rows(**options)


def test_the_table_names_every_op_with_its_share():
    text = str(trained())
    for word in ("conv2d", "linear", "log_softmax", "forward ms", "backward ms", "share", "GFLOP/s", "%"):
        assert word in text


def test_the_trace_is_json_with_nested_events(tmp_path):
    measured = trained(1)
    path = tmp_path / "trace.json"
    measured.save(path)
    events = json.loads(path.read_text())["traceEvents"]
    assert [p.name for p in tmp_path.iterdir()] == ["trace.json"]
    assert {event["cat"] for event in events} == {"forward", "backward", "module"}
    assert all(event["ph"] == "X" and event["dur"] >= 0 and event["ts"] >= 0 for event in events)
    (outer,) = [event for event in events if event["name"] == "Sequential"]
    (inner,) = [event for event in events if event["name"] == "conv2d" and event["cat"] == "forward"]
    assert outer["ts"] <= inner["ts"]
    assert inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"]


def test_an_op_that_fails_does_not_confuse_the_times_of_the_next():
    a = Tensor(np.ones((2, 3), "float32"))
    with profile() as measured:
        with pytest.raises(ShapeError):
            ops.matmul(a, a)
        ops.add(a, a)
        ops.mul(a, a)
    assert [row.calls for row in measured.rows()] == [1, 1]
    assert sum(row.total for row in measured.rows()) <= measured.elapsed


def test_outside_of_the_block_nothing_is_measured():
    measured = trained(1)
    before = measured.rows()[0].calls
    trained(1)
    ops.add(Tensor(1.0), Tensor(2.0))
    assert measured.rows()[0].calls == before
