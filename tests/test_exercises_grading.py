"""Grading a folder: every hostile submission costs its own points and nothing else."""

import csv
import json
import os
import sys
import threading
import zipfile
from xml.etree import ElementTree

import pytest

from tinygrad_cnn.exercises.commands import main
from tinygrad_cnn.exercises.format import parse
from tinygrad_cnn.exercises.grade import collect, fingerprint, grade, student_seed
from tinygrad_cnn.exercises.sandbox import ChildSpace, Limits

EXERCISE = """# /// exercise
# id = "z1-double"
# title = "Double"
# topics = ["test"]
# points = 2
# limits = { wall = 2.5, cpu = 4, mem_mb = 700 }
# ///
# %%
import numpy as np


def double(x):
    # <solution>
    return 2 * x
    # </solution>
# <checks>
from tinygrad_cnn.exercises import Same, edit, hint
Same("double", lambda rng: [dict(x=rng.normal(size=(3, 4))), dict(x=rng.normal(size=5))])
edit("squared", "2 * x", "x * x", fix="Twice, not to the power of two.")
edit("minus two", "2 * x", "-2 * x", fix="The sign.")
edit("once", "2 * x", "x + 0", fix="Twice.")
hint("a")
hint("b")
hint("c")
# </checks>
# <hidden points=1>
Same("double", lambda rng: [dict(x=rng.normal(size=(2, 3, 4)))], title="three axes")
# </hidden>
"""
GOOD = "def double(x):\n    return 2 * x\n"
HOSTILE = {
    "endless loop": "while True:\n    pass\n",
    "endless loop in the call": "def double(x):\n    while True:\n        pass\n",
    "memory": "import numpy as np\ndef double(x):\n    return np.ones(2**33)\n",
    "memory in small steps": "def double(x):\n    keep = []\n    while True:\n        keep.append(bytearray(10**7))\n",
    "exit": "import sys\n",
    "exit 0": "raise SystemExit(0)\n",
    "hard exit": "import numpy as np\ndef double(x):\n    np.os = __builtins__\n    e = [c for c in "
    "object.__subclasses__() if c.__name__ == '_wrap_close'][0].__init__.__globals__['_exit']\n    e(0)\n",
    "crash": "import numpy as np\ndef double(x):\n    c = [c for c in object.__subclasses__() if "
    "c.__name__ == '_wrap_close'][0].__init__.__globals__['sys'].modules['ctypes']\n    c.string_at(0)\n",
    "deep recursion": "def double(x):\n    return double(x)\n",
    "fork": "def double(x):\n    fork = [c for c in object.__subclasses__() if c.__name__ == '_wrap_close'][0]"
    ".__init__.__globals__['fork']\n    while True:\n        fork()\n",
    "kill the grader": "def double(x):\n    g = [c for c in object.__subclasses__() if c.__name__ == '_wrap_close'][0]"
    ".__init__.__globals__\n    g['kill'](g['getppid'](), 9)\n    return 2 * x\n",
    "output": "def double(x):\n    while True:\n        print('x' * 10**6)\n",
    "huge reply": "import numpy as np\ndef double(x):\n    return np.zeros(2 * 10**7)\n",
    "pickle": "import numpy as np\nclass P:\n    def __reduce__(self):\n        return (print, ('ran',))\n"
    "def double(x):\n    return np.array([P()], dtype=object)\n",
    "an object": "def double(x):\n    return lambda: 1\n",
    "a list in itself": "def double(x):\n    a = []\n    a.append(a)\n    return a\n",
    "bad header": "def double(x):\n    w = [c for c in object.__subclasses__() if c.__name__ == '_wrap_close'][0]"
    ".__init__.__globals__['write']\n    for fd in range(3, 32):\n        try:\n            w(fd, b'\\xff' * 40)\n"
    "        except OSError:\n            pass\n    return 2 * x\n",
    "not Python": "def double(x:\n",
    "null bytes": "def double(x):\n    return '\\0'\n\0",
    "no function": "y = 3\n",
    "forbidden import": "import subprocess\ndef double(x):\n    return 2 * x\n",
    "writes files": "def double(x):\n    for i in range(1000):\n        with open(f'f{i}', 'wb') as f:\n"
    "            f.write(bytes(10**7))\n    return 2 * x\n",
    "NaN": "def double(x):\n    return x * float('nan')\n",
    "equal to everything": "class E:\n    def __eq__(self, other):\n        return True\n"
    "def double(x):\n    return E()\n",
}


@pytest.fixture
def exercise(tmp_path):
    path = tmp_path / "kit" / "z1-double.py"
    path.parent.mkdir()
    path.write_text(EXERCISE)
    return parse(EXERCISE, path)


@pytest.mark.skipif(os.name != "posix", reason="limits of processes need POSIX")
def test_a_hostile_set_is_graded_without_loss(tmp_path, exercise):
    folder = tmp_path / "in"
    for name, code in {**HOSTILE, "a good one": GOOD, "zz good again": GOOD}.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "z1-double.py").write_text(code)
    threads = threading.active_count()
    records = grade(folder, tmp_path / "out", [exercise], jobs=2, secret=b"s")
    by_name = {r["student"]: r for r in records}
    assert set(by_name) == {*HOSTILE, "a good one", "zz good again"}
    assert by_name["a good one"]["score"] == by_name["zz good again"]["score"] == 3
    may_pass = {"kill the grader", "bad header"}  # they answer rightly, or are stopped
    lost = {n for n in HOSTILE if by_name[n]["score"] > 0 and n not in may_pass}
    assert not lost
    status = {n: by_name[n]["results"][0]["status"] for n in HOSTILE}
    assert status["endless loop"] == status["endless loop in the call"] == "timeout"
    assert status["memory"] == status["output"] == status["crash"] == status["hard exit"] == "error"
    assert {p.name for p in tmp_path.iterdir()} == {"kit", "in", "out"}
    assert not list(tmp_path.rglob("f0"))
    assert threading.active_count() <= threads + 1
    rows = list(csv.DictReader((tmp_path / "out" / "summary.csv").read_text().splitlines()))
    assert len(rows) == len(records)
    page = (tmp_path / "out" / "class.html").read_text()
    assert "a good one" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_results_hold_score_mistakes_and_files_for_other_programs(tmp_path, exercise):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "ann.py").write_text(GOOD)
    (folder / "bob.py").write_text("def double(x):\n    return x * x\n")
    (folder / "eve.py").write_text("# the same as bob\ndef double(x):\n    return x*x\n")
    (folder / "notes.txt").write_text("not a submission")
    grade(folder, out, [exercise], secret=b"s")
    bob = json.loads((out / "results" / "bob.json").read_text())
    result = bob["results"][0]
    assert (bob["score"], bob["max"], result["status"]) == (0, 3, "fail")
    assert result["schema"] == "tinygrad-ex/result@1"
    assert [c["id"] for c in result["checks"][0]["cause"]] == ["squared"]
    gradescope = json.loads((out / "gradescope" / "ann.json").read_text())
    assert gradescope["score"] == 3
    assert {t["visibility"] for t in gradescope["tests"]} == {"visible", "after_published"}
    assert sum(t["max_score"] for t in gradescope["tests"]) == 3
    suite = ElementTree.parse(out / "junit" / "bob.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "2")
    page = (out / "class.html").read_text()
    assert "squared" in page
    assert "bob, eve" in page


def test_hidden_checks_show_the_kind_of_mistake_and_no_data(tmp_path, exercise):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "bob.py").write_text("def double(x):\n    return x * x\n")
    grade(folder, out, [exercise], secret=b"s")
    hidden = [
        t for t in json.loads((out / "gradescope" / "bob.json").read_text())["tests"] if t["name"].endswith("axes")
    ]
    assert hidden[0]["output"] == "squared"


def test_an_interrupted_batch_goes_on_where_it_stopped(tmp_path, exercise):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "ann.py").write_text(GOOD)
    grade(folder, out, [exercise])
    stamp = (out / "results" / "ann.json").stat().st_mtime_ns
    (folder / "bob.py").write_text(GOOD)
    records = grade(folder, out, [exercise])
    assert [r["score"] for r in records] == [3, 3]
    assert (out / "results" / "ann.json").stat().st_mtime_ns == stamp
    (folder / "ann.py").write_text("def double(x):\n    return x\n")
    assert grade(folder, out, [exercise])[0]["score"] == 0


def test_each_student_has_a_seed_of_their_own_that_only_the_secret_gives():
    seeds = {student_seed(b"one", s, "z1") for s in ("ann", "bob", "cid")}
    assert len(seeds) == 3
    assert student_seed(b"two", "ann", "z1") not in seeds
    assert student_seed(b"one", "ann", "z1") in seeds


def test_links_out_of_a_submission_are_not_followed(tmp_path, exercise):
    (tmp_path / "in" / "eve").mkdir(parents=True)
    (tmp_path / "in" / "eve" / "z1-double.py").symlink_to(exercise.path)
    assert collect(tmp_path / "in", [exercise])[0].files == {}


def test_notebooks_are_graded_by_their_code_cells(tmp_path, exercise):
    (tmp_path / "in").mkdir()
    cells = [
        {"cell_type": "markdown", "source": ["double(3"]},
        {"cell_type": "code", "source": ["%matplotlib inline\n", "def double(x):\n", "    return 2 * x\n"]},
        {"cell_type": "code", "source": "from tinygrad_cnn.exercises import ex\nex.check('z1', double)"},
    ]
    meta = {"tinygrad_ex": {"id": "z1-double"}}
    (tmp_path / "in" / "ann.ipynb").write_text(json.dumps({"cells": cells, "metadata": meta}))
    assert grade(tmp_path / "in", tmp_path / "out", [exercise])[0]["score"] == 3


def test_the_command_grades_with_a_teachers_own_kit(tmp_path, exercise, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ann.py").write_text(GOOD)
    words = ["grade", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--kit", str(tmp_path / "kit")]
    assert main(words) == 0
    assert "1 with full score" in capsys.readouterr().out


def test_gradescope_always_gets_a_file(tmp_path, exercise):
    (tmp_path / "submission").mkdir()
    target = tmp_path / "results" / "results.json"
    words = ["grade", str(tmp_path / "submission"), "--gradescope", str(target), "--kit", str(tmp_path / "kit")]
    assert main(words) == 0
    assert json.loads(target.read_text())["score"] == 0
    (tmp_path / "submission" / "z1-double.py").write_text(GOOD)
    assert main(words) == 0
    assert json.loads(target.read_text())["score"] == 3


def test_the_autograder_holds_the_exercises_and_two_scripts(tmp_path, exercise):
    out = tmp_path / "autograder.zip"
    assert main(["gradescope", "z1", "--kit", str(tmp_path / "kit"), "--out", str(out)]) == 0
    with zipfile.ZipFile(out) as archive:
        assert sorted(archive.namelist()) == ["kit/z1-double.py", "run_autograder", "setup.sh"]
        assert archive.getinfo("run_autograder").external_attr >> 16 == 0o755
        assert "--gradescope /autograder/results/results.json" in archive.read("run_autograder").decode()


def test_layout_and_comments_do_not_change_the_fingerprint(tmp_path):
    for name, code in (("a", GOOD), ("b", "# mine\n" + GOOD.replace("2 * x", "2*x")), ("c", GOOD.replace("2", "3"))):
        (tmp_path / f"{name}.py").write_text(code)
    a, b, c = (fingerprint(tmp_path / f"{n}.py") for n in "abc")
    assert a == b != c


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="namespaces are a Linux thing")
def test_a_child_says_which_limits_hold():
    with ChildSpace(GOOD, limits=Limits(isolate=True, drop_user=True)) as space:
        assert space.call("double", 2) == 4
        assert {"cpu", "memory", "file size"} <= set(space.held)


def test_arguments_that_the_submission_edits_are_edited_here_too():
    import numpy as np

    with ChildSpace("def f(x):\n    x += 1\n    return x\n") as space:
        x = np.zeros(3)
        y = space.call("f", x)
        assert x.tolist() == [1, 1, 1]
        assert np.shares_memory(x, y)


def test_functions_of_the_checks_can_be_called_from_the_child():
    with ChildSpace("def slope(f, x):\n    return (f(x + 1) - f(x))\n") as space:
        assert space.call("slope", lambda x: x * x, 3.0) == 7.0
        assert space.calls_back == 2
