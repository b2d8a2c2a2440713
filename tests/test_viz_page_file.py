"""The file of the interactive page: what is in it, that it is the same every time, and that names stay inert."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import tinygrad_cnn as tg
from tinygrad_cnn import viz
from tinygrad_cnn.errors import GraphError, OptionError
from tinygrad_cnn.gradcheck import check_graph
from tinygrad_cnn.op import TABLE

HOSTILE = "</script><img src=x onerror=alert(1)><!--"


def diamond():
    x = tg.tensor(2.0, requires_grad=True)
    y = tg.tensor(3.0, requires_grad=True)
    x.name, y.name = "x", "y"
    return x * y + x, x, y


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def column(table, key):
    packed = table["columns"][key]
    if isinstance(packed, list):
        return packed
    return [packed["c"]] * table["n"] if "c" in packed else [packed["d"][k] for k in packed["i"]]


def test_a_loss_becomes_one_file_that_is_also_returned(tmp_path):
    loss, *_ = diamond()
    page = viz.html(loss, tmp_path / "backprop.html")
    assert (tmp_path / "backprop.html").read_text() == page
    assert sorted(p.name for p in tmp_path.iterdir()) == ["backprop.html"]


def test_making_a_page_leaves_gradients_and_graph_as_they_were(tmp_path):
    loss, x, y = diamond()
    x.grad = tg.tensor(7.0)
    viz.html(loss)
    assert float(x.grad.array) == 7
    assert y.grad is None
    loss.backward()
    assert (float(x.grad.array), float(y.grad.array)) == (11, 2)


def test_the_policy_allows_this_script_and_this_style_and_nothing_else():
    page = viz.html(diamond()[0])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    script = re.search(r"<script>(.*?)</script>\s*</body>", page, re.DOTALL)[1]

    def sha(text):
        return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts == {
        "default-src": "'none'",
        "script-src": f"'{sha(script)}'",
        "style-src": f"'{sha(style)}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_the_page_names_no_address_of_the_network():
    page = viz.html(diamond()[0])
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}


def test_nothing_in_a_recording_can_end_the_block_of_json():
    x = tg.tensor(2.0, requires_grad=True)
    x.name = HOSTILE
    page = viz.html(x * x, title=HOSTILE)
    assert page.count("</script>") == 2
    assert "<img" not in page
    data = data_of(page)
    assert data["title"] == HOSTILE
    assert HOSTILE in column(data["nodes"], "key")


def test_two_processes_with_different_hash_seeds_write_the_same_bytes(tmp_path):
    program = (
        "import sys, numpy as np, tinygrad_cnn as tg\n"
        "from tinygrad_cnn import models, nn, viz\n"
        "tg.manual_seed(1)\n"
        "x = tg.tensor(np.random.default_rng(0).random((1, 1, 28, 28), dtype=np.float32))\n"
        "viz.html(nn.functional.cross_entropy(models.LeNet5()(x), np.array([3])), sys.argv[1])\n"
    )
    pages = []
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.html"
        subprocess.run(
            [sys.executable, "-c", program, str(path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            timeout=60,
        )
        pages.append(path.read_bytes())
    assert pages[0] == pages[1]


def test_bytes_alive_fall_back_to_the_gradients_of_the_leaves():
    loss, *_ = diamond()
    after = column(data_of(viz.html(loss))["backward"], "after")
    # add is freed first (its result and that of mul stay: mul holds its own), then mul; ∂L/∂x and ∂L/∂y remain.
    assert after == [12, 8]


def test_a_freed_graph_says_so_and_has_no_backward_steps():
    loss, *_ = diamond()
    loss.backward()
    data = data_of(viz.html(loss))
    assert data["backward"]["n"] == 0
    assert "Freed by backward()" in data["notes"][0]


def test_numbers_that_json_cannot_say_are_words():
    x = tg.tensor([0.0, 1.0], requires_grad=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        page = viz.html((x / 0.0).sum())
    data = data_of(page)
    values = [row[8] for row in column(data["nodes"], "data") if row is not None and len(row) > 8]
    assert ["NaN", "Infinity"] in values


def test_images_are_left_out_on_request():
    tg.manual_seed(0)
    x = tg.randn(1, 3, 8, 8, requires_grad=True)
    loss = x.relu().sum()
    assert '"maps"' in (full := viz.html(loss)) or '"axis":"channel"' in full
    assert '"axis":"channel"' not in viz.html(loss, images=False)


def test_what_is_no_graph_is_refused_in_the_callers_words():
    with pytest.raises(GraphError, match="a page is made of a tensor, a recording or a GraphIR; got list"):
        viz.html([1, 2])


def test_errors_of_unknown_nodes_are_refused():
    with pytest.raises(GraphError, match="no node or leaf 'conv9'"):
        viz.html(diamond()[0], errors={"conv9": 0.1})


def test_errors_may_be_given_as_the_gradient_checker_returns_them(monkeypatch):
    x = tg.tensor([0.5, 1.5], requires_grad=True)
    loss = (x.tanh() * x).sum()
    rule = TABLE["tanh"].rules[0]
    monkeypatch.setattr(TABLE["tanh"], "rules", (lambda g, y, x: rule(g, y, x) * 1.1,))
    for subject in (loss, _recorded(loss)):
        nodes = data_of(viz.html(subject, errors=check_graph(loss)))["nodes"]
        errors = dict(zip(column(nodes, "op"), column(nodes, "error"), strict=True))
        assert errors["tanh"] == pytest.approx(0.1 / 1.1, rel=1e-3)
        assert errors["mul"] < 1e-9
        assert errors["sum"] < 1e-9


def _recorded(loss):
    with viz.record() as rec:
        loss.backward(retain_graph=True)
    return rec


def test_a_tape_needs_as_many_labels_as_recordings():
    with viz.record() as rec:
        diamond()[0].backward()
    with pytest.raises(OptionError, match="1 recordings on the tape need as many labels, got 2"):
        viz.html(rec, tape=[rec], labels=["a", "b"])


def test_a_depth_starts_from_one():
    with pytest.raises(OptionError, match="depth must be at least 1, got 0"):
        viz.html(diamond()[0], depth=0)
