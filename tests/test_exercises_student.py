"""What a student meets: files, checks, hints, the state, watch, notebooks."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from tinygrad_cnn.exercises import ex, kit
from tinygrad_cnn.exercises.build import notebook, solution_text, student_text
from tinygrad_cnn.exercises.checks import load
from tinygrad_cnn.exercises.commands import main
from tinygrad_cnn.exercises.report import text
from tinygrad_cnn.exercises.runner import run
from tinygrad_cnn.exercises.state import STATE_FILE, State
from tinygrad_cnn.exercises.watch import Watcher
from tinygrad_cnn.exercises.workbook import check_path, init

EVERY = kit.catalogue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A student's folder, with the student inside."""
    init(tmp_path, EVERY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def solve(folder, name):
    exercise = kit.find(name)
    (folder / exercise.filename).write_text(solution_text(exercise))


def misled(exercise):
    """The solution of an exercise with its first mistake that is given as text."""
    loaded = load(exercise)
    bug = next((b for b in loaded.bugs if b.edits), None)
    return (bug, solution_text(exercise, bug.source(exercise.code("solution")))) if bug else (None, "")


@pytest.mark.parametrize("exercise", EVERY, ids=lambda e: e.key)
def test_a_mistake_in_a_students_file_is_named_by_the_command(exercise, tmp_path, monkeypatch, capsys):
    bug, code = misled(exercise)
    if bug is None:
        pytest.skip("the mistakes of this exercise are functions, which the tests of the sheets cover")
    (tmp_path / exercise.filename).write_text(code)
    monkeypatch.chdir(tmp_path)
    assert main(["check", exercise.filename]) in (1, 3)  # 3 where the mistake raises an exception
    out = capsys.readouterr().out
    assert bug.name in " ".join(out.split())
    assert len(out.splitlines()) <= 20
    assert max(map(len, out.splitlines())) <= 80


def test_the_first_minutes_of_a_new_student(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["check"]) == 2
    assert "ex init" in capsys.readouterr().err
    assert main(["init"]) == 0
    assert "a1-differences.py" in capsys.readouterr().out
    assert main(["check"]) == 1
    assert "to do" in capsys.readouterr().out
    solve(tmp_path / "tinygrad-exercises", "a1")
    assert main(["check"]) == 0
    out = capsys.readouterr().out
    assert "public checks passed (3 of 3)" in out
    assert "next: a2-richardson" in out
    assert main([]) == 0
    assert "1 of 43 done. Now: a2-richardson" in capsys.readouterr().out


def test_no_exercise_is_reported_with_colour_codes_or_beyond_ascii_without_a_terminal(folder, capsys):
    solve(folder, "b4")
    assert main(["check", "b4", "b6", "a1"]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.isascii()


def test_the_seed_repeats_a_report(folder, capsys):
    code = student_text(kit.find("b4")).replace('raise NotImplementedError("write your code here")', "return g * 2")
    (folder / "b4-unbroadcast.py").write_text(code)
    reports = []
    for seed in ("5", "5", "6"):
        main(["check", "b4", "--seed", seed])
        reports.append(capsys.readouterr().out)
    assert reports[0] == reports[1] != reports[2]


# os._exit, out of reach of the list of allowed imports
END = "[c for c in object.__subclasses__() if c.__name__ == '_wrap_close'][0].__init__.__globals__['_exit']"


@pytest.mark.parametrize(
    ("code", "status", "exit_code"),
    [
        ("return g.sum(axis=0)", "fail", 1),
        ("return undefined", "error", 3),
        (f"{END}(3)", "error", 3),
        ("while True: pass", "timeout", 3),
    ],
)
def test_exit_codes_tell_wrong_code_from_broken_code(folder, capsys, monkeypatch, code, status, exit_code):
    monkeypatch.setitem(kit.find("b4").limits, "wall", 2.0)
    source = student_text(kit.find("b4")).replace('raise NotImplementedError("write your code here")', code)
    (folder / "b4-unbroadcast.py").write_text(source)
    assert main(["check", "b4", "--json"]) == exit_code
    result = json.loads(capsys.readouterr().out)
    assert result["status"] == status
    assert set(result) >= {"exercise", "status", "score", "max", "layer", "seed", "cases", "hints_used", "kit_version"}


def test_an_error_is_shown_with_its_line_in_the_students_file(folder, capsys):
    source = student_text(kit.find("b4")).replace(
        'raise NotImplementedError("write your code here")', "return g.sum(axis=9)"
    )
    (folder / "b4-unbroadcast.py").write_text(source)
    line = source.splitlines().index("    return g.sum(axis=9)") + 1
    main(["check", "b4"])
    assert f"line {line}, in unbroadcast()" in capsys.readouterr().out


def test_what_the_student_prints_is_shown(folder, capsys):
    source = student_text(kit.find("b4")).replace(
        'raise NotImplementedError("write your code here")', "print('shape', shape)"
    )
    (folder / "b4-unbroadcast.py").write_text(source)
    main(["check", "b4"])
    assert "your prints: shape" in capsys.readouterr().out


def test_hints_open_one_by_one_the_third_after_a_try_and_all_after_passing(folder, capsys):
    for _ in range(3):
        assert main(["hint", "b4", "--next"]) == 0
    out = capsys.readouterr().out
    assert "hint 2 of 3" in out
    assert "hint 3 of 3" not in out
    assert "after a try" in out
    main(["check", "b4"])
    main(["hint", "b4", "--next"])
    assert "hint 3 of 3" in capsys.readouterr().out
    solve(folder, "c1")
    main(["check", "c1"])
    capsys.readouterr()
    main(["hint", "c1"])
    assert "hint 3 of 3" in capsys.readouterr().out


def test_a_named_mistake_brings_its_own_hint(folder, capsys):
    bug = next(b for b in load(kit.find("d4")).bugs if b.hint)
    exercise = kit.find("d4")
    (folder / exercise.filename).write_text(solution_text(exercise, bug.source(exercise.code("solution"))))
    main(["check", "d4"])
    capsys.readouterr()
    main(["hint", "d4"])
    assert "about your mistake" in capsys.readouterr().out


def test_the_solution_opens_after_passing_or_after_five_different_tries(folder, capsys):
    assert main(["solution", "b4", "--yes"]) == 1
    path = folder / "b4-unbroadcast.py"
    for number in range(5):
        path.write_text(student_text(kit.find("b4")) + f"\n# try {number}\n")
        main(["check", "b4"])
        main(["check", "b4"])  # the same text again is no further try
    assert State.load(folder).entry("b4-unbroadcast").attempts == 5
    capsys.readouterr()
    assert main(["solution", "b4"]) == 2  # nobody is there to confirm
    assert main(["solution", "b4", "--yes"]) == 0
    assert "stretched" in capsys.readouterr().out
    assert State.load(folder).entry("b4-unbroadcast").solution_shown
    solve(folder, "b6")
    main(["check", "b6"])
    assert main(["solution", "b6"]) == 0


def test_reset_keeps_what_was_written(folder):
    (folder / "b4-unbroadcast.py").write_text("mine")
    assert main(["reset", "b4", "--yes"]) == 0
    assert (folder / "b4-unbroadcast.py.bak").read_text() == "mine"
    assert (folder / "b4-unbroadcast.py").read_text() == student_text(kit.find("b4"))


def test_diff_shows_the_start_before_passing_and_the_solution_after(folder, capsys):
    path = folder / "b4-unbroadcast.py"
    path.write_text(path.read_text().replace('raise NotImplementedError("write your code here")', "return 7"))
    main(["diff", "b4"])
    out = capsys.readouterr().out
    assert "+    return 7" in out
    assert "stretched =" not in out
    solve(folder, "b4")
    main(["check", "b4"])
    capsys.readouterr()
    main(["diff", "b4"])
    assert "no difference from the solution" in capsys.readouterr().out


def test_init_never_overwrites_a_file(folder):
    (folder / "b4-unbroadcast.py").write_text("mine")
    written, kept = init(folder, EVERY)
    assert not written
    assert len(kept) == len(EVERY)
    assert (folder / "b4-unbroadcast.py").read_text() == "mine"


def test_a_renamed_file_is_found_by_the_id_in_its_header(folder):
    (folder / "b4-unbroadcast.py").rename(folder / "my own.py")
    solve(folder, "b4")
    (folder / "b4-unbroadcast.py").replace(folder / "my own.py")
    assert main(["check", "b4"]) == 0


def test_a_damaged_state_is_set_aside_and_not_lost(folder, capsys):
    (folder / STATE_FILE).write_text("{ half")
    solve(folder, "a1")
    assert main(["check", "a1"]) == 0
    assert (folder / (STATE_FILE + ".damaged")).read_text() == "{ half"
    assert State.load(folder).passed("a1-differences")


def test_explain_goes_no_further_than_the_exercise_allows():
    from dataclasses import replace

    exercise = replace(kit.find("b4"), feedback="location")
    loaded = load(exercise)
    result = run(loaded, loaded.mutant(loaded.bugs[1]), explain="fix")
    assert result.explain == "location"
    assert loaded.bugs[1].name not in text(result)
    fuller = run(load(kit.find("b4")), loaded.mutant(loaded.bugs[1]), explain="fix")
    assert loaded.bugs[1].fix.split()[0] in text(fuller)


def test_a_mistake_that_is_not_in_the_list_is_called_unknown():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(3, 4))

    def softmax_vjp(dout, x):
        return dout * np.resize(noise, x.shape) + 0.1 * x**3 * dout.sum()

    result = ex.check("c4", softmax_vjp)
    assert not result
    assert not result.causes
    assert "unknown" in text(result)


# ------------------------------------------------------------------------------------------------- other ways in


def test_check_takes_functions_dicts_and_a_single_function_under_another_name():
    def add_up(g, shape):
        added = g.sum(axis=tuple(range(g.ndim - len(shape))))
        return added.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)

    assert ex.check("b4", add_up)
    assert ex.check("b4", {"unbroadcast": add_up})
    bad = ex.check("b4", lambda g, shape: g)
    assert not bad
    assert "not summed at all" in str(bad)


def test_a_notebook_shows_a_table_and_a_heat_map():
    loaded = load(kit.find("d4"))
    html = run(loaded, loaded.mutant(loaded.bugs[0]))._repr_html_()
    assert "<svg" in html
    assert "FAIL" in html
    assert loaded.bugs[0].name in html
    assert "<script" not in html


def test_running_the_file_itself_checks_and_counts_it(folder):
    solve(folder, "b4")
    done = subprocess.run(
        [sys.executable, "b4-unbroadcast.py"], cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )
    assert "public checks passed" in done.stdout
    assert State.load(folder).passed("b4-unbroadcast")


@pytest.mark.parametrize("name", ["b4", "c1"])
def test_notebooks_of_the_same_file_run_from_top_to_bottom(name, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    book = nbformat.reads(notebook(kit.find(name), "solution"), as_version=4)
    nbformat.validate(book)
    nbclient.NotebookClient(book, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = book.cells[-1].outputs[0]["data"]
    assert "text/html" in shown
    assert "pass" in shown["text/plain"]


def test_every_student_notebook_is_valid_and_holds_no_solution():
    nbformat = pytest.importorskip("nbformat")
    for exercise in EVERY:
        nbformat.validate(nbformat.reads(notebook(exercise), as_version=4))
        assert "<solution>" not in notebook(exercise)
        marked = notebook(exercise, "solution", nbgrader=True)
        nbformat.validate(nbformat.reads(marked, as_version=4))
        assert marked.count("BEGIN SOLUTION") == marked.count("END SOLUTION") >= 1


@pytest.mark.parametrize("form", ["json", "junit", "gradescope", "csv", "html"])
def test_exports_in_the_formats_of_other_programs(folder, form, capsys):
    solve(folder, "a1")
    out = folder / "out" / f"report.{form}"
    assert main(["export", "a1", "b4", "--format", form, "--out", str(out)]) == 0
    words = out.read_text()
    assert "a1-differences" in words
    if form in ("json", "gradescope"):
        json.loads(words)


def test_the_anonymous_export_holds_wrong_code_and_no_name(folder, capsys):
    code = student_text(kit.find("b4")).replace('raise NotImplementedError("write your code here")', "return g * 2")
    (folder / "b4-unbroadcast.py").write_text(code)
    main(["export", "a1", "b4", "--anonymous"])
    data = json.loads(capsys.readouterr().out)
    assert [w["exercise"] for w in data["wrong"]] == ["b4-unbroadcast"]
    assert str(folder) not in json.dumps(data)


# ------------------------------------------------------------------------------------------------- watch


def test_watch_checks_after_each_change_of_content_and_only_then(folder):
    said = []
    watcher = Watcher(folder, kit.find("b4"), False, said.append)
    assert watcher.look()
    assert not watcher.look()
    path = folder / "b4-unbroadcast.py"
    os.utime(path, (time.time() + 5, time.time() + 5))  # touched, not changed
    assert not watcher.look()
    solve(folder, "b4")
    os.utime(path, (time.time() + 9, time.time() + 9))
    assert watcher.look()
    assert watcher.passed
    assert "public checks passed" in said[-2]


def test_the_keys_of_watch(folder):
    said = []
    watcher = Watcher(folder, kit.find("b4"), False, said.append)
    watcher.look()
    assert watcher.press("h")
    assert "hint 1 of 3" in said[-1]
    watcher.press("e")
    assert said[-1] == "  explaining: fix"
    watcher.press("l")
    assert "f3" in said[-1]
    (folder / "b4-unbroadcast.py").write_text("mine")
    watcher.press("x")
    watcher.press("q")  # no answer is no
    assert (folder / "b4-unbroadcast.py").read_text() == "mine"
    watcher.press("x")
    watcher.press("y")
    assert (folder / "b4-unbroadcast.py.bak").read_text() == "mine"
    watcher.press("n")
    assert watcher.exercise.key == "b5"
    assert not watcher.press("q")


def test_watch_survives_a_file_that_is_away_for_a_moment(folder):
    watcher = Watcher(folder, kit.find("b4"), False, lambda words: None)
    (folder / "b4-unbroadcast.py").unlink()
    assert not watcher.look()
    solve(folder, "b4")
    assert watcher.look()


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_watch_in_a_terminal_ends_on_q_and_gives_the_terminal_back(folder):
    import pty
    import termios

    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        [sys.executable, "-m", "tinygrad_cnn.exercises", "watch", "b4"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=folder,
    )
    seen = b""
    while b"keys:" not in seen:
        seen += os.read(master, 4096)
    os.write(master, b"q")
    assert process.wait(timeout=30) == 1
    assert termios.tcgetattr(slave) == before
    os.close(slave)
    os.close(master)


# ------------------------------------------------------------------------------------------------- teachers


def test_a_new_exercise_can_be_built_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "g1-cube-root"]) == 0
    assert main(["new", "g1-cube-root"]) == 2
    assert main(["build", "g1-cube-root.py", "--out", "out", "--nbgrader"]) == 0
    made = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    assert made == [
        "kit/g1-cube-root.py",
        "nbgrader/g1-cube-root.ipynb",
        "solution/g1-cube-root.py",
        "student/g1-cube-root.ipynb",
        "student/g1-cube-root.py",
        "teacher/g1-cube-root.hidden",
    ]
    assert "<hidden" not in (tmp_path / "out" / "kit" / "g1-cube-root.py").read_text()
    (tmp_path / "out" / "kit").rename(tmp_path / "out" / "student" / "kit")
    monkeypatch.chdir(tmp_path / "out" / "student")
    assert main(["check", "g1-cube-root.py"]) == 1
    assert "to do" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "."]) == 0
    assert "3 of 3 mistakes named" in capsys.readouterr().out


SOLUTION = "return dout / (3 * np.cbrt(x) ** 2)"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (f"# <solution>\n    {SOLUTION}\n    # </solution>", SOLUTION, "the starter passes"),
        ("return np.cbrt(x)", "return 2 * np.cbrt(x)", "differs from differences"),
        ('"** 2", "** 1"', '"** 2", "**2"', "passes"),
        ('hint("Write the cube root as a power.")', "", "2 hints"),
        ('"** 2", "** 1"', '"** 3", "** 1"', "occurs 0 times"),
        ("yield dict(x=rng", "yield dict(z=rng", "lacks"),
        ("yield dict(x=rng", "yield dict(x=1 / 0 * rng", "cannot be made"),
    ],
)
def test_an_unsound_exercise_is_not_built(tmp_path, monkeypatch, capsys, old, new, complaint):
    monkeypatch.chdir(tmp_path)
    main(["new", "g1-cube-root"])
    path = tmp_path / "g1-cube-root.py"
    source = path.read_text()
    assert old in source
    path.write_text(source.replace(old, new))
    assert main(["build", "g1-cube-root.py", "--out", "out"]) == 1
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_mistakes_that_cannot_be_told_apart_are_not_built(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["new", "g1-cube-root"])
    path = tmp_path / "g1-cube-root.py"
    twin = 'edit("twin", "** 2", "** 1.0", fix="x")\nhint("Write'
    path.write_text(path.read_text().replace('hint("Write', twin, 1))
    assert main(["build", "g1-cube-root.py"]) == 1
    assert "is taken for power-1-for-2" in capsys.readouterr().err


def test_check_file_reports_a_file_that_is_no_text(folder):
    path = folder / "b4-unbroadcast.py"
    path.write_bytes(b"\xff\xfe\x00")
    result = check_path(kit.find("b4"), path)
    assert result.status == "error"
    assert "UTF-8" in result.error


def test_every_command_the_pages_mention_exists():
    import argparse
    import re
    from pathlib import Path

    from tinygrad_cnn.exercises import commands

    parser = argparse.ArgumentParser()
    commands.command(parser)
    known = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    for page in ("student.md", "teacher.md"):
        text = (Path(commands.__file__).parent / "docs" / page).read_text(encoding="utf-8")
        lines = re.findall(r"(?:tinygrad-cnn |`)ex ([a-z]+)([^\n`|]*)", text)
        assert len(lines) > 3
        for name, rest in lines:
            assert name in known, f"{page}: ex {name}"
            for option in re.findall(r"--[a-z]+", re.split("#|  ", rest)[0]):
                assert option in known[name]._option_string_actions, f"{page}: ex {name} {option}"


def _pool_by(choice):
    """A max pool rule for 2-D ties that shares the gradient of a window by `choice(mask)`."""

    def max_pool_vjp(dout, x, k):
        dx = np.zeros(x.shape)
        for index in np.ndindex(*dout.shape):
            n, c, i, j = index
            window = x[n, c, i * k : i * k + k, j * k : j * k + k].reshape(-1)
            share = choice(window == window.max()).reshape(k, k)
            dx[n, c, i * k : i * k + k, j * k : j * k + k] = share * dout[index]
        return dx

    return max_pool_vjp


def _at(position):
    def choice(mask):
        share = np.zeros(mask.size)
        share[np.flatnonzero(mask)[position]] = 1.0
        return share

    return choice


LEGAL = {"first": _at(0), "last": _at(-1), "split": lambda mask: mask / mask.sum()}
ILLEGAL = {
    "all": lambda mask: mask * 1.0,
    "twice": lambda mask: 2.0 * mask / mask.sum(),
    "none at ties": lambda mask: mask * (mask.sum() == 1.0),
    "first minus last": lambda mask: 2 * _at(0)(mask) - _at(-1)(mask),
}


@pytest.mark.parametrize("name", LEGAL)
def test_every_legal_choice_at_a_tie_passes_and_gets_its_name(name):
    for seed in range(3):
        result = ex.check("d10", _pool_by(LEGAL[name]), seed=seed)
        assert result
        assert any(f"convention at kinks: {name}" in note for c in result.checks for note in c.notes)


@pytest.mark.parametrize("name", ILLEGAL)
def test_no_illegal_choice_at_a_tie_passes(name):
    for seed in range(3):
        result = ex.check("d10", _pool_by(ILLEGAL[name]), seed=seed)
        assert not result
        assert [c.status for c in result.checks][:2] == ["pass", "pass"] or name in ("twice",)


def test_a_relu_with_another_legal_convention_is_told_which_one_it_has():
    result = ex.check("c1", lambda dout, x, at_zero: dout * (x >= 0))
    assert not result
    assert "yours is right" in str(result)


def test_a_folder_called_kit_with_other_things_in_it_disturbs_nobody(folder, capsys):
    (folder / "kit").mkdir()
    (folder / "kit" / "robot2.py").write_text("print('nothing to do with it')\n")
    assert main(["list"]) == 0
    assert "robot2" not in capsys.readouterr().out


def test_the_result_schema(folder, capsys):
    exercise = kit.find("d4")
    bug = load(exercise).bugs[0]
    (folder / exercise.filename).write_text(solution_text(exercise, bug.source(exercise.code("solution"))))
    main(["check", "d4", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {
        "schema", "exercise", "status", "score", "max", "layer", "seed", "message", "checks", "cases", "hints_used",
        "kit_version", "seconds",
    }  # fmt: skip
    assert (result["schema"], result["status"], result["layer"]) == ("tinygrad-ex/result@1", "fail", "value")
    case = result["cases"][0]
    assert set(case) == {"name", "arg", "shape", "status", "max_rel_err", "worst", "kinks", "cause", "axes"}
    assert set(case["worst"]) == {"index", "got", "expected", "fd_error"}
    assert case["cause"] == [{"id": bug.id, "confidence": 1.0, "text": bug.name}]
    assert case["shape"] == [3, 2, 7, 6]
    assert set(case["axes"]) == {"sample", "channel", "row", "column"}


def test_a_terminal_without_unicode_gets_a_readable_report(folder):
    code = student_text(kit.find("c4")).replace(
        'raise NotImplementedError("write your code here")',
        "p = softmax(x); print('\u00e4'); return p * (dout - dout.sum(axis=1, keepdims=True))",
    )
    (folder / "c4-softmax-vjp.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tinygrad_cnn.exercises", "check", "c4"],
        cwd=folder, env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert b"probabilities missing inside the sum" in done.stdout


def test_hints_the_list_and_digits_in_a_notebook(capsys):
    from tinygrad_cnn.exercises.api import Exercises

    here = Exercises()
    here.hint("b4")
    here.hint("b4")
    here.list()
    out = capsys.readouterr().out
    assert "hint 2 of 3" in out
    assert "d10" in out
    images, labels = here.digits()
    assert images.shape == (600, 1, 14, 14)
    assert 0 <= images.min() < images.max() <= 1
    assert set(labels) == set(range(10))


def test_nothing_is_imported_by_a_student_that_the_grader_refuses_silently(folder, capsys):
    path = folder / "b4-unbroadcast.py"
    path.write_text(path.read_text().replace("import numpy as np", "import numpy as np\nimport socket"))
    assert main(["check", "b4"]) == 3
    assert "socket is not among them" in " ".join(capsys.readouterr().out.split())
