"""What a notebook and the command line show of a network's graph."""

import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from tinygrad_cnn.viz.ir import GraphIR

from tinygrad_cnn import models, nn, no_grad, ones, randn, viz
from tinygrad_cnn.cli import main

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return [e.text for e in ET.fromstring(svg).iter(SVG + "text")]


def test_a_tensor_shows_its_values_and_its_graph():
    y = models.LeNet5()(randn(1, 1, 28, 28))
    bundle = y._repr_mimebundle_()
    assert bundle["text/plain"] == repr(y)
    shown = texts(bundle["image/svg+xml"])
    assert {"conv2d", "max_pool2d", "linear"} <= set(shown)
    assert any(t and t.startswith("Tensor([[") for t in shown)


def test_a_tensor_without_a_graph_shows_text_alone():
    assert set(ones(3)._repr_mimebundle_()) == {"text/plain"}
    y = (ones(3, requires_grad=True) * 2).sum()
    y.backward()
    assert set(y._repr_mimebundle_()) == {"text/plain"}


def test_a_module_shows_its_structure_without_running():
    model = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(3456, 10)))
    bundle = model._repr_mimebundle_()
    assert bundle["text/plain"] == repr(model)
    shown = texts(bundle["image/svg+xml"])
    assert {"0: Conv2d", "1: ReLU", "1: Linear", "34 570 parameters"} <= set(shown)
    links = viz.draw(model).diagram.links
    assert [(a.tail, a.head, a.kind) for a in links] == [
        ("Sequential.0", "Sequential.1", "forward"),
        ("Sequential.1", "Sequential.2.0", "forward"),
        ("Sequential.2.0", "Sequential.2.1", "forward"),
    ]


def test_the_structure_of_another_module_claims_no_arrows():
    assert {link.kind for link in viz.draw(models.LeNet5()).diagram.links} == {"order"}
    svg = viz.draw(models.LeNet5(), engine="builtin").svg
    assert "<path" not in svg


def test_a_notebook_formatter_finds_the_hooks():
    formatters = pytest.importorskip("IPython.core.formatters")
    formatter = formatters.DisplayFormatter()
    data, _ = formatter.format(models.LeNet5())
    assert data["image/svg+xml"].startswith("<svg")
    assert "LeNet5" in data["text/plain"]


def test_computing_does_not_load_the_pictures():
    program = (
        "import sys, tinygrad_cnn as t; from tinygrad_cnn import nn; nn.Linear(2, 2)(t.ones(1, 2)).sum().backward(); "
        "sys.exit('tinygrad_cnn.viz' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_module_of_one_op_is_drawn_as_that_op_with_its_name():
    diagram = viz.draw(models.LeNet5()(randn(1, 1, 28, 28))).diagram
    relu = next(box for box in diagram.boxes if box.title == "relu")
    assert relu.lines[0] == "relu1"
    assert relu.cluster == "LeNet5"
    assert "conv1: Conv2d" in [c.label for c in diagram.clusters]


def test_running_means_are_buffers_of_their_module():
    model = nn.Sequential(nn.BatchNorm2d(3))
    model.eval()
    with viz.record() as rec:
        model(randn(2, 3, 4, 4))
    buffers = {v.id: v.role for v in rec.graph.values if v.name}
    assert buffers["Sequential.0.running_mean"] == "buffer"
    assert buffers["Sequential.0.weight"] == "parameter"


def test_networks_without_gradients_are_recorded_with_their_modules():
    with viz.record() as rec, no_grad():
        models.LeNet5()(randn(1, 1, 28, 28))
    assert rec.graph.nodes[0].id == "LeNet5.conv1/conv2d:1"
    assert not any(x.live for node in rec.graph.nodes for x in node.inputs)
    assert viz.draw(rec, "backward").svg


def test_every_gradient_in_a_recording_is_the_gradient_of_its_tensor():
    model = models.LeNet5()
    x = randn(2, 1, 28, 28)
    with viz.record() as rec:
        nn.functional.cross_entropy(model(x), np.array([1, 2])).backward()
    for name, p in model.named_parameters():
        recorded = rec.graph.value(f"LeNet5.{name}").grad
        assert recorded.norm == pytest.approx(float(np.linalg.norm(p.grad.numpy())), rel=1e-4)
        if recorded.values is not None:
            assert np.array_equal(np.array(recorded.values, np.float32), p.grad.numpy().ravel())


@pytest.mark.parametrize("suffix", ["svg", "dot", "txt", "json", "html", "png"])
def test_the_command_draws_a_network(suffix, tmp_path, capsys):
    out = tmp_path / f"net.{suffix}"
    assert main(["draw", "lenet5", "--out", str(out), "--batch-size", "2"]) == 0
    assert out.stat().st_size > 1000
    assert "LeNet5, 16 ops" in capsys.readouterr().out


def test_the_command_draws_a_saved_graph_again(tmp_path):
    main(["draw", "mlp", "--out", str(tmp_path / "net.json"), "--batch-size", "2"])
    assert main(["draw", str(tmp_path / "net.json"), "--out", str(tmp_path / "net.svg"), "--mode", "backward"]) == 0
    graph = GraphIR.from_json((tmp_path / "net.json").read_text())
    assert viz.draw(graph, "backward").svg == (tmp_path / "net.svg").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["draw", "nothing", "--out", "a.svg"], "no network and no file 'nothing'"),
        (["draw", "--out", "a.gif"], "cannot save as '.gif'"),
        (["draw", "--out", "missing/a.svg"], "no folder missing"),
        (["draw", "--out", "a.svg", "--collapse", "nobody"], "no module is called 'nobody'"),
        (["draw", "--out", "a.svg", "--color-by", "mood"], "color_by must be one of"),
        (["draw", "--out", "a.svg", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["draw", "missing.json", "--out", "a.svg"], "missing.json: No such file"),
    ],
)
def test_the_command_explains_what_is_wrong(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_bookkeeping_that_does_not_lead_to_the_result_is_left_out():
    model = nn.Sequential(nn.BatchNorm2d(3))
    with viz.record() as rec:
        model(randn(2, 3, 4, 4)).sum().backward()
    counted = [n for n in rec.graph.nodes if n.inputs[0].value == "Sequential.0.num_batches_tracked"]
    assert len(counted) == 1
    drawn = viz.draw(rec).diagram
    assert counted[0].id not in [box.id for box in drawn.boxes]
    assert "1 ops that do not lead" in drawn.description


def test_a_mask_that_a_module_makes_is_its_constant_and_the_images_are_an_input():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    with viz.record() as rec:
        for _ in range(2):
            model(randn(2, 4)).sum().backward()
    roles = [v.role for v in rec.graph.values if v.role in ("input", "constant")]
    assert sorted(roles) == ["constant", "constant", "input", "input"]
    mask = next(v for v in rec.graph.values if v.role == "constant")
    assert next(b for b in viz.draw(rec).diagram.boxes if b.id == mask.id).cluster is not None
