"""The one-file format: what the parser takes, what it refuses, and that it never runs anything.

Also what is made of a file for otter-grader, and the forms in which the arguments of a gradient come.
"""

import sys
import types

import numpy as np
import pytest

from tinygrad_cnn.exercises import kit
from tinygrad_cnn.exercises.build import notebook, otter_tests, solution_text, student_text
from tinygrad_cnn.exercises.checks import load
from tinygrad_cnn.exercises.commands import main
from tinygrad_cnn.exercises.format import ExerciseError, parse
from tinygrad_cnn.exercises.report import text as report_text
from tinygrad_cnn.exercises.runner import run
from tinygrad_cnn.exercises.sandbox import ChildSpace
from tinygrad_cnn.exercises.space import LocalSpace, run_source

HEAD = '# /// exercise\n# id = "x1-thing"\n# title = "Thing"\n# topics = ["t"]\n# ///\n'
BODY = """# %% [markdown]
# Say **what** to do.
# %%
def f(x):
    # <solution>
    return 2 * x
    # <starter>
    # return x  # change me
    # </solution>
def g(x):
    # <solution>
    return 3 * x
    # </solution>
"""
CHECKS = """# <checks>
from tinygrad_cnn.exercises import Same, edit, hint
# </checks>
# <hidden points=2>
Same
# </hidden>
"""


def test_a_file_is_taken_apart_into_header_cells_checks_and_hidden_part():
    exercise = parse(HEAD + BODY + CHECKS)
    assert (exercise.id, exercise.key, exercise.group) == ("x1-thing", "x1", "X")
    assert [c.kind for c in exercise.cells] == ["markdown", "code"]
    assert "import Same" in exercise.checks
    assert exercise.hidden == "Same\n"
    assert exercise.hidden_points == 2


def test_the_starter_takes_the_place_of_the_solution():
    exercise = parse(HEAD + BODY)
    assert "return x  # change me" in exercise.code("starter")
    assert "2 * x" not in exercise.code("starter")
    assert "NotImplementedError" in exercise.code("starter")
    assert "return 2 * x" in exercise.code("solution")
    assert "<" not in exercise.code("solution")


def test_what_a_student_gets_holds_neither_solution_nor_checks():
    exercise = parse(HEAD + BODY + CHECKS)
    for text in (student_text(exercise), notebook(exercise)):
        assert "3 * x" not in text
        assert "Same" not in text
        assert "Say **what** to do." in text
    assert "3 * x" in solution_text(exercise)


def test_parsing_runs_nothing(tmp_path):
    marker = tmp_path / "ran"
    danger = f"__import__('pathlib').Path({str(marker)!r}).touch()\n"
    parse(HEAD + "# %%\n" + danger + "# <checks>\n" + danger + "# </checks>\n# <hidden>\n" + danger + "# </hidden>\n")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("print(1)\n", "no header"),
        (HEAD.replace('"x1-thing"', "x1"), "not TOML"),
        (HEAD.replace("x1-thing", "Thing 1") + BODY, "not of the form"),
        (HEAD.replace("# topics", '# colour = "red"\n# topics') + BODY, "colour"),
        (HEAD, "no cells"),
        (HEAD + "import os\n" + BODY, "before the first cell"),
        (HEAD + "# %% [markdown]\nplain text\n", "line 7"),
        (HEAD + "# %%\ndef f(:\n    pass\n", "near line 7"),
        (HEAD + BODY + "# <checks>\nx = 1\n", "nothing closes it"),
        (HEAD + BODY + "# <checks>\nx = (\n# </checks>\n", "checks: near line"),
        (HEAD + "# %%\n# <solution>\nx = 1\n", "without '# </solution>'"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(text, words):
    with pytest.raises(ExerciseError, match=words):
        parse(text)


# --------------------------------------------------------------------------------------------- otter-grader


class StandInCase:
    """Stands in for otter's decorator: it keeps the function and calls it with the names it asks for."""

    def __init__(self, name=None, points=None, hidden=False, success_message=None, failure_message=None):
        self.name = name

    def __call__(self, function):
        self.function = function
        return self


def opened(source, monkeypatch):
    """Run a test file as otter does: return its names and its test cases."""
    files = types.ModuleType("otter.test_files")
    files.test_case = StandInCase
    monkeypatch.setitem(sys.modules, "otter", types.ModuleType("otter"))
    monkeypatch.setitem(sys.modules, "otter.test_files", files)
    names = {}
    exec(compile(source, "tests/file.py", "exec"), names)
    return names, [v for v in names.values() if isinstance(v, StandInCase)]


def outcome(case, env):
    try:
        case.function(env=env)
    except AssertionError as error:
        return str(error)
    return "passed"


def test_a_built_otter_test_passes_a_right_function_and_reports_on_a_wrong_and_a_missing_one(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "g1-cube-root"]) == 0
    assert main(["build", "g1-cube-root.py", "--out", "out", "--otter"]) == 0
    assert "out/otter/g1-cube-root.py" in capsys.readouterr().out.replace("\\", "/")
    source = (tmp_path / "out" / "otter" / "g1-cube-root.py").read_text()
    monkeypatch.setenv("TINYGRAD_EX_KIT", str(tmp_path / "out" / "kit"))
    names, cases = opened(source, monkeypatch)
    assert names["OK_FORMAT"] is False
    assert names["name"] == "g1-cube-root"
    assert len(names["points"]) == len(cases)
    assert sum(names["points"]) == pytest.approx(kit.find("g1").points)

    def right(dout, x):
        return dout / (3 * np.cbrt(x) ** 2)

    def wrong(dout, x):
        return dout / np.cbrt(x) ** 2

    assert [outcome(c, {"cbrt_dx": right, "other": 1}) for c in cases] == ["passed"] * len(cases)
    assert "likely cause: factor 3 forgotten" in outcome(cases[0], {"cbrt_dx": wrong})
    assert "the file defines no function cbrt_dx" in outcome(cases[0], {})


def test_each_otter_test_case_judges_its_own_check(monkeypatch):
    loaded = load(kit.find("d3"))
    _, cases = opened(otter_tests(loaded), monkeypatch)
    assert [c.name for c in cases] == [c.title for c in loaded.checks]
    env = dict(loaded.solution.names)
    assert [outcome(c, env) for c in cases] == ["passed"] * 2
    env[loaded.checks[1].function] = lambda *args: 0 * loaded.solution.names[loaded.checks[1].function](*args)
    first, second = (outcome(c, env) for c in cases)
    assert first == "passed"
    assert loaded.checks[1].title in second
    assert loaded.checks[0].title not in second


def test_a_check_that_an_exercise_lacks_is_an_error_of_the_teacher_and_not_of_the_student():
    from tinygrad_cnn.exercises import ex

    with pytest.raises(ExerciseError, match="no check 9"):
        ex.require("d3", load(kit.find("d3")).solution.names, 9)


# --------------------------------------------------------------------------------------------- forms of arguments

GRADIENT = """# %%
import numpy as np
def double(x):
    return 2 * x
def double_dx(dout, x):
    # <solution>
    return 2 * dout
    # </solution>
# <checks>
from tinygrad_cnn.exercises import Vjp
Vjp("double_dx", of="double", wrt="x", cases=lambda rng: [dict(x=rng.normal(size=(3, 4))), dict(x=rng.normal(size=5))])
# </checks>
"""
WRITES_FOR_A_WHILE = """
def double_dx(dout, x):
    kept = dout.copy()
    dout *= 2
    out = dout.copy()
    dout[...] = kept
    return out
"""
TRUSTS_RAVEL = """
import numpy as np
def double_dx(dout, x):
    dx = np.zeros_like(x)
    dx.ravel()[:] = 2 * dout.ravel()
    return dx
"""
RAISES_ON_GAPS = """
def double_dx(dout, x):
    if not dout.flags.c_contiguous:
        raise ValueError("gaps")
    return 2 * dout
"""
RIGHT = "def double_dx(dout, x):\n    return 2 * dout\n"


@pytest.mark.parametrize("child", [False, True], ids=["here", "child"])
@pytest.mark.parametrize(
    ("code", "status", "words", "cause"),
    [
        (RIGHT, "pass", "", ""),
        (WRITES_FOR_A_WHILE, "error", "not for read-only ones: line 4, in double_dx(): ValueError", "read-only"),
        (TRUSTS_RAVEL, "fail", "not for non-contiguous ones of the same values", "non-contiguous"),
        (RAISES_ON_GAPS, "error", "ValueError: gaps", "non-contiguous"),
    ],
    ids=["right", "writes", "ravel", "raises"],
)
def test_a_gradient_that_fails_only_for_unusual_arrays_is_told_so(code, status, words, cause, child):
    loaded = load(parse(HEAD + GRADIENT))
    if child:
        with ChildSpace(code, filename="x1.py") as space:
            result = run(loaded, space)
    else:
        result = run(loaded, LocalSpace(run_source(code, "x1.py"), "x1.py"))
    assert result.status == status
    assert words in (result.checks[0].message if words else "")
    assert [c.id for c in result.causes] == ([cause] if cause else [])
    if cause:
        assert "is right for ordinary arrays" in report_text(result)
