"""Every op of a recorded graph checked where it stands, and the errors painted on its picture."""

import numpy as np
import pytest

import tinygrad_cnn
from tinygrad_cnn import Tensor, nn, ops, viz
from tinygrad_cnn.errors import GraphError
from tinygrad_cnn.gradcheck import check_graph
from tinygrad_cnn.nn import functional as F  # noqa: N812

IMAGES = np.random.default_rng(0).normal(size=(2, 1, 9, 8))


def loss(batch=IMAGES):
    tinygrad_cnn.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3))
    return F.cross_entropy(model(Tensor(batch)), np.arange(len(batch)) % 3)


def test_a_graph_of_right_rules_passes_and_names_its_largest_error():
    found = check_graph(loss())
    assert found
    assert found.first_wrong is None
    assert [n.kind for n in found.nodes][:3] == ["conv2d", "relu", "max_pool2d"]
    assert "all rules right" in str(found)


@pytest.mark.parametrize("count", [2, 40])
def test_the_first_wrong_op_on_the_way_back_is_named_whatever_the_size(monkeypatch, count):
    rules = ops.max_pool2d.rules
    monkeypatch.setattr(ops.max_pool2d, "rules", (lambda g, y, x, **o: rules[0](g, y, x, **o) * 0.9,))
    found = check_graph(loss(np.random.default_rng(1).normal(size=(count, 1, 9, 8))))
    assert not found
    assert found.first_wrong.kind == "max_pool2d"
    assert sum(not n.ok for n in found.nodes) == 1
    assert "0.9" in found.first_wrong.report.cause.text or "9/10" in found.first_wrong.report.cause.text


def test_the_errors_are_painted_on_the_picture_of_the_graph(monkeypatch):
    rules = ops.relu.rules
    monkeypatch.setattr(ops.relu, "rules", (lambda g, y, x, **o: rules[0](g, y, x, **o) * 0.5,))
    value = loss()
    found = check_graph(value)
    picture = viz.GraphIR.of(value)
    errors = found.mark(picture)
    assert max(errors, key=errors.get).endswith("relu:1")
    assert "error 0.5" in viz.draw(picture, color_by="gradient-check error", engine="builtin").svg


def test_a_recording_can_be_painted_after_the_graph_was_freed():
    with viz.record() as recording:
        value = loss()
    found = check_graph(value)
    value.backward()
    errors = found.mark(recording.graph)
    assert len(errors) == len(found.nodes)


def test_a_freed_graph_and_another_picture_are_refused():
    value = loss()
    found = check_graph(value)
    other = Tensor(np.ones(3), requires_grad=True).exp().sum()
    with pytest.raises(GraphError, match="another graph"):
        found.mark(viz.GraphIR.of(other))
    value.backward()
    with pytest.raises(GraphError, match="freed"):
        check_graph(value)
