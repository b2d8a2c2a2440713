"""Gradescope: one submission per container; results.json is written whatever happens."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from .checks import load
from .files import write_atomic
from .format import Exercise
from .grade import Submission, collect, grade_one, student_seed
from .report import gradescope

__all__ = ["autograde"]


def autograde(submission: Path, target: Path, exercises: Sequence[Exercise], secret: bytes = b"gradescope") -> None:
    """Grade the files in `submission` and write Gradescope's results.json to `target`."""
    started = time.perf_counter()
    write_atomic(target, _failure("the grader was interrupted"))
    try:
        found = collect(submission.parent, exercises) if submission.is_dir() else []
        mine = next((s for s in found if s.student == submission.name), Submission(submission.name))
        results = []
        for exercise in exercises:
            file = mine.files.get(exercise.id)
            if file is not None:
                seed = student_seed(secret, _student(submission), exercise.id)
                results.append(grade_one(load(exercise, hidden=True), file, seed=seed))
        if not results:
            names = ", ".join(e.filename for e in exercises[:5])
            write_atomic(target, _failure(f"no file of an exercise was found; expected {names}"))
            return
        data = gradescope(results, time.perf_counter() - started)
        write_atomic(target, json.dumps(data, indent=1) + "\n")
    except Exception as error:
        write_atomic(target, _failure(f"the grader failed: {type(error).__name__}: {error}"))
        raise


def _failure(text: str) -> str:
    return json.dumps({"score": 0.0, "output": text, "stdout_visibility": "hidden", "tests": []}, indent=1) + "\n"


def _student(submission: Path) -> str:
    """Return the submission's number from Gradescope's metadata file, or the folder's name."""
    try:
        return str(json.loads((submission.parent / "submission_metadata.json").read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return submission.name
