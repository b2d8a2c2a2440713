"""The one-file format: what the parser takes, what it refuses, and that it never runs anything."""

import pytest

from tinygrad_cnn.exercises.build import notebook, solution_text, student_text
from tinygrad_cnn.exercises.format import ExerciseError, parse

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
