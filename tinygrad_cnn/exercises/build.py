"""From one exercise file: the student's script and notebook, the solution, and the proof that the exercise is sound."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .checks import Loaded, load
from .files import write_atomic
from .format import Cell, Exercise, ExerciseError
from .runner import kit_version, run
from .space import LocalSpace, StudentError, run_source

__all__ = ["Verdict", "build", "notebook", "otter_tests", "solution_text", "student_text", "verify"]

MIN_HINTS = 3
MIN_BUGS = 3


def _head(exercise: Exercise) -> str:
    return (
        f'# /// exercise\n# id = "{exercise.id}"\n# title = {json.dumps(exercise.title)}\n'
        f"# topics = {json.dumps(list(exercise.topics))}\n# kit = {json.dumps(kit_version())}\n# ///\n"
    )


def _final(exercise: Exercise) -> str:
    return (
        'if __name__ == "__main__":  # run this file or this cell to check your work\n'
        "    from tinygrad_cnn.exercises import ex\n\n"
        f'    ex.show("{exercise.key}", globals())\n'
    )


def _percent(cells: list[Cell]) -> str:
    parts = []
    for cell in cells:
        if cell.kind == "markdown":
            body = "\n".join(f"# {line}" if line else "#" for line in cell.text.splitlines())
            parts.append(f"# %% [markdown]\n{body}\n")
        else:
            parts.append(f"# %%\n{cell.text}\n")
    return "\n".join(parts)


def _titled(exercise: Exercise, part: str) -> list[Cell]:
    cells = exercise.cells_for(part)
    title = f"# {exercise.key}: {exercise.title}"
    if cells and cells[0].kind == "markdown":
        return [Cell("markdown", f"{title}\n\n{cells[0].text}", 0), *cells[1:]]
    return [Cell("markdown", title, 0), *cells]


def student_text(exercise: Exercise) -> str:
    """Return the file a student gets."""
    return _head(exercise) + _percent(_titled(exercise, "starter")) + "\n# %%\n" + _final(exercise)


def solution_text(exercise: Exercise, code: str | None = None) -> str:
    """Return the student's file with the solution in it, or with `code` in place of all code cells."""
    cells = _titled(exercise, "solution")
    if code is not None:
        cells = [*[c for c in cells if c.kind == "markdown"], Cell("code", code.rstrip(), 0)]
    return _head(exercise) + _percent(cells) + "\n# %%\n" + _final(exercise)


def notebook(exercise: Exercise, part: str = "starter", nbgrader: bool = False) -> str:
    """Return a Jupyter notebook (format 4.5) made of the same cells."""
    cells: list[dict[str, Any]] = []

    def add(kind: str, text: str, grading: dict[str, Any] | None = None) -> None:
        cell: dict[str, Any] = {
            "cell_type": kind,
            "id": f"{exercise.key}-{len(cells)}",
            "metadata": {"nbgrader": grading} if grading else {},
            "source": text.splitlines(keepends=True),
        }
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        cells.append(cell)

    raw = {c.line: c.text for c in exercise.cells}
    for cell in _titled(exercise, part):
        graded = nbgrader and cell.kind == "code" and "# <solution>" in raw.get(cell.line, "")
        text = cell.text
        if graded:
            text = (
                raw[cell.line]
                .replace("# <solution>", "### BEGIN SOLUTION")
                .replace("# </solution>", "### END SOLUTION")
            )
        add(cell.kind, text, _nbgrader(f"{exercise.id}-{len(cells)}", solution=True) if graded else None)
    check = f'from tinygrad_cnn.exercises import ex\n\nex.check("{exercise.key}", globals())'
    if nbgrader:
        check = check.replace("ex.check(", "assert ex.check(")
    add("code", check, _nbgrader(exercise.id, points=exercise.points) if nbgrader else None)
    meta = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "tinygrad_ex": {"id": exercise.id, "kit": kit_version()},
    }
    return json.dumps({"cells": cells, "metadata": meta, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"


def otter_tests(loaded: Loaded) -> str:
    """Return a test file for otter-grader, in its exception format: a test case per check."""
    exercise = loaded.exercise
    total = sum(c.weight for c in loaded.checks)
    points = [round(exercise.points * c.weight / total, 6) for c in loaded.checks]
    head = (
        "OK_FORMAT = False\n\nfrom otter.test_files import test_case\n\nfrom tinygrad_cnn.exercises import ex\n\n"
        f"name = {json.dumps(exercise.id)}\npoints = {points}  # of each test case\n"
    )
    cases = [
        f"\n\n@test_case(name={json.dumps(check.title)})\n"
        f"def test_{number}(env):\n    ex.require({json.dumps(exercise.id)}, env, {number})\n"
        for number, check in enumerate(loaded.checks, 1)
    ]
    return head + "".join(cases)


def _nbgrader(name: str, *, solution: bool = False, points: float = 0) -> dict[str, Any]:
    meta: dict[str, Any] = {"schema_version": 3, "grade_id": name, "solution": solution, "locked": not solution,
                            "grade": not solution, "task": False}  # fmt: skip
    return meta if solution else meta | {"points": points}


@dataclass
class Verdict:
    """Whether an exercise may be handed out, and if not, why."""

    exercise: str
    problems: list[str] = field(default_factory=list)
    bugs: int = 0
    named: int = 0
    hints: int = 0
    checks: int = 0
    notes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not self.problems


def verify(exercise: Exercise, seeds: tuple[int, ...] = (1,), derivatives: bool = True) -> Verdict:
    """Check an exercise itself: the starter fails, the solution passes, each mistake fails and is named.

    The solution's gradients are also compared with numerical derivatives of the forward function.
    """
    verdict = Verdict(exercise.id)
    try:
        loaded = load(exercise, hidden=True)
    except (ExerciseError, StudentError) as error:
        verdict.problems.append(str(error))
        return verdict
    verdict.hints, verdict.bugs, verdict.checks = len(loaded.hints), len(loaded.bugs), len(loaded.checks)
    if len(loaded.hints) < MIN_HINTS:
        verdict.problems.append(f"{len(loaded.hints)} hints, at least {MIN_HINTS} are needed")
    if len(loaded.bugs) < MIN_BUGS:
        verdict.problems.append(f"{len(loaded.bugs)} mistakes, at least {MIN_BUGS} are needed")
    for bug in loaded.bugs:
        if not bug.fix:
            verdict.problems.append(f"mistake {bug.name!r} has no fix=")
    for seed in seeds:
        _triad(loaded, seed, verdict)
    if derivatives and not verdict.problems:
        from .gradients import solution_problems

        verdict.problems += solution_problems(loaded, seeds[0])
    return verdict


def _triad(loaded: Loaded, seed: int, verdict: Verdict) -> None:
    exercise = loaded.exercise
    try:
        names = run_source(exercise.code("starter"), exercise.filename)
        starter = run(loaded, LocalSpace(names, exercise.filename), seed=seed, hidden=True, diagnose=False)
        if starter.status == "pass":
            verdict.problems.append(f"seed {seed}: the starter passes")
        elif starter.status != "fail":
            complaint = next(c.message for c in starter.checks if c.status != "pass")
            verdict.problems.append(f"seed {seed}: the starter does not fail but {starter.status}s: {complaint}")
    except (ExerciseError, StudentError) as error:
        verdict.problems.append(f"the starter cannot be run: {error}")
    try:
        solution = run(loaded, loaded.solution, seed=seed, hidden=True, full=True)
    except ExerciseError as error:
        verdict.problems.append(f"seed {seed}: {error}")
        return
    for check in solution.checks:
        if check.status != "pass":
            verdict.problems.append(f"seed {seed}: the solution fails {check.title!r}: {check.message}")
    verdict.named = 0
    for bug in loaded.bugs:
        try:
            result = run(loaded, loaded.mutant(bug), seed=seed, stop=True)
        except (ExerciseError, StudentError) as error:
            verdict.problems.append(f"mistake {bug.name!r}: {error}")
            continue
        if result.status == "pass":
            verdict.problems.append(f"seed {seed}: mistake {bug.name!r} passes")
        elif bug.id not in [c.id for c in result.causes]:
            seen = ", ".join(c.id for c in result.causes) or "nothing"
            verdict.problems.append(f"seed {seed}: mistake {bug.name!r} fails but {seen} is named")
        elif result.causes[0].id != bug.id:
            verdict.problems.append(f"seed {seed}: mistake {bug.name!r} is taken for {result.causes[0].id}")
        else:
            verdict.named += 1


def build(exercise: Exercise, out: Path, nbgrader: bool = False, otter: bool = False) -> list[Path]:
    """Verify an exercise and write what belongs to student and teacher, or raise `ExerciseError` and write nothing."""
    verdict = verify(exercise)
    if not verdict:
        raise ExerciseError(f"{exercise.id} is not built:\n" + "\n".join(f"  - {p}" for p in verdict.problems))
    written = {
        out / "student" / exercise.filename: student_text(exercise),
        out / "student" / f"{exercise.id}.ipynb": notebook(exercise),
        out / "solution" / exercise.filename: solution_text(exercise),
    }
    source = exercise.path.read_text(encoding="utf-8") if exercise.path is not None else ""
    written[out / "kit" / exercise.filename] = re.sub(r"(?ms)^# <hidden.*?^# </hidden>\n?", "", source)
    if exercise.hidden:
        written[out / "teacher" / f"{exercise.id}.hidden"] = exercise.hidden
    if nbgrader:
        written[out / "nbgrader" / f"{exercise.id}.ipynb"] = notebook(exercise, "solution", nbgrader=True)
    if otter:
        written[out / "otter" / exercise.filename] = otter_tests(load(exercise))
    for path, text in written.items():
        write_atomic(path, text)
    return list(written)
