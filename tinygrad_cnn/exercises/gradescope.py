"""Gradescope: one submission per container; results.json is written whatever happens."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from .checks import load
from .files import write_atomic
from .format import Exercise
from .grade import Submission, collect, grade_one, student_seed
from .report import gradescope
from .runner import kit_version

__all__ = ["autograde", "autograder_zip"]


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


SETUP = """#!/usr/bin/env bash
set -e
apt-get update
apt-get install -y python3 python3-pip python3-venv
python3 -m venv /autograder/venv
/autograder/venv/bin/pip install {package}
chmod -R go-rwx /autograder/source
"""

RUN = """#!/usr/bin/env bash
mkdir -p /autograder/results
cd /autograder
/autograder/venv/bin/python -m tinygrad_cnn.exercises grade /autograder/submission \\
    --gradescope /autograder/results/results.json --kit /autograder/source/kit
exit 0
"""


def autograder_zip(target: Path, exercises: Sequence[Exercise], wheel: Path | None = None) -> None:
    """Write Gradescope's autograder: how to install, how to run, and the exercises with their hidden parts."""
    package = f"/autograder/source/{wheel.name}" if wheel else f"tinygrad-cnn=={kit_version()}"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in (("setup.sh", SETUP.format(package=package)), ("run_autograder", RUN)):
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o755 << 16
            archive.writestr(info, text)
        for exercise in exercises:
            if exercise.path is not None:
                archive.write(exercise.path, f"kit/{exercise.filename}")
        if wheel is not None:
            archive.write(wheel, wheel.name)
