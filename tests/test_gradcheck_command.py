"""`tinygrad-cnn gradcheck FILE.py[:function]`."""

import json

import pytest

from tinygrad_cnn.cli import main
from tinygrad_cnn.op import TABLE

MINE = """
import numpy as np

def scale(x, w, power=1):
    return x * w.sum() ** power

def scale_backward(dout, x, w, power=1):
    return dout * w.sum(), np.full_like(w, (dout * x).sum())

def scale_args(rng):
    return rng.normal(size=(3, 4)), rng.normal(size=2)

def relu(x):
    return np.maximum(x, 0)

def relu_backward(dout, x):
    return dout * (dout > 0)
"""

OP = """
from tinygrad_cnn.op import op

@op(shape=lambda x: x, flops=lambda y, x: 1, family="mine")
def cube_of_mine(xp, x):
    return x**3

@cube_of_mine.vjp("x", "g 3 x²")
def _(g, y, x):
    return g * (x * x) * FACTOR

@cube_of_mine.sample
def _(rng):
    yield (rng.normal(size=(3, 4)),), {}
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine_for_test.py"
    path.write_text(MINE)
    return path


def run(*words):
    return main(["gradcheck", *map(str, words)])


def test_a_right_rule_gives_0_and_a_wrong_one_1_with_its_cause(mine, capsys):
    assert run(f"{mine}:scale") == 0
    assert "ok" in capsys.readouterr().out
    assert run(f"{mine}:relu", "--shape", "x=3,4") == 1
    out = capsys.readouterr().out
    assert "the mask is taken from dout" in out
    assert "repeat: tinygrad-cnn gradcheck" in out


def test_options_reach_the_function_and_show_a_rule_that_ignores_them(mine, capsys):
    assert run(f"{mine}:scale", "--option", "power=2") == 1
    capsys.readouterr()


def test_all_rules_of_a_file_are_checked_where_none_is_named(mine, capsys):
    assert run(mine, "--shape", "x=3,4", "--shape", "w=2") == 1
    capsys.readouterr()


def test_reports_come_as_json_and_as_a_page(mine, capsys, tmp_path):
    page = tmp_path / "page.html"
    assert run(f"{mine}:relu", "--shape", "x=3,4", "--json", "--html", page) == 1
    (report,) = json.loads(capsys.readouterr().out)
    assert report["cases"][0]["cause"][0]["id"] == "mask from dout"
    assert "<svg" in page.read_text()


@pytest.mark.parametrize(("factor", "code"), [(3, 0), (2, 1)])
def test_an_op_is_tried_on_its_samples(tmp_path, capsys, factor, code):
    path = tmp_path / "own_op.py"
    path.write_text(OP.replace("FACTOR", str(factor)))
    try:
        assert run(path) == code
    finally:
        TABLE.pop("cube_of_mine")
    out = capsys.readouterr().out
    assert ("second derivatives   ok" in out) == (code == 0)
    assert ("2/3" in out) == (code == 1)


def test_the_line_that_repeats_a_check_names_its_options(mine, capsys):
    run(f"{mine}:scale", "--shape", "x=3,4", "--shape", "w=2", "--option", "power=2", "--wrt", "x")
    out = capsys.readouterr().out.rstrip()
    assert out.endswith(f"gradcheck {mine}:scale --seed 0 --shape x=3,4 --shape w=2 --option power=2 --wrt x")


@pytest.mark.parametrize(("weight", "named"), [("w", False), ("w.T", True)])
def test_known_mistakes_are_tried_only_where_the_function_is_the_op_of_its_name(tmp_path, capsys, weight, named):
    path = tmp_path / "my_linear.py"
    turned = "w" if weight == "w.T" else "w.T"  # what dx needs
    shape = "4, 3" if weight == "w.T" else "3, 4"
    path.write_text(
        f"""
def linear(x, w, b):
    return x @ {weight} + b

def linear_backward(dout, x, w, b):
    return dout @ {turned} / len(x), (x.T @ dout){"" if turned == "w.T" else ".T"}, dout.sum(0)

def linear_args(rng):
    return rng.normal(size=(5, 3)), rng.normal(size=({shape})), rng.normal(size=4)
"""
    )
    assert run(path) == 1
    assert ("1/N belongs into the loss only" in capsys.readouterr().out) == named


def test_a_rule_that_raises_is_not_explained_by_a_mistake_that_raises_too(tmp_path, capsys):
    path = tmp_path / "my_other_linear.py"
    path.write_text(
        """
def linear(x, w, b):
    return x @ w + b

def linear_backward(dout, x, w, b):
    return dout @ w, x.T @ dout, dout.sum(0)

def linear_args(rng):
    return rng.normal(size=(5, 3)), rng.normal(size=(3, 4)), rng.normal(size=4)
"""
    )
    assert run(path) == 1
    out = capsys.readouterr().out
    assert "the rule raised ValueError" in out
    assert "likely cause: unknown" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{mine}:nothing"], "nothing called 'nothing'"),
        (["{mine}:relu"], "give --shape x=3,4"),
        (["{mine}:relu", "--shape", "x=a,b"], "no shape"),
        (["{mine}:relu", "--shape", "34"], "write name=value"),
        (["missing.py"], "no file"),
        (["{mine}:scale", "--shape", "x=3,4"], "scale: --shape says nothing about w; give one --shape for each input"),
    ],
)
def test_mistaken_calls_say_what_to_do(mine, capsys, words, message):
    assert run(*(w.format(mine=mine) for w in words)) == 1
    assert message in capsys.readouterr().err


def test_a_file_that_is_no_python_is_an_error_with_its_line(tmp_path, capsys):
    path = tmp_path / "broken.py"
    path.write_text("x = 1\ndef f(:\n")
    assert run(path) == 1
    assert "line 2" in capsys.readouterr().err
