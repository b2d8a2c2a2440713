"""A student's folder: where the files are, and one checked attempt at one of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from . import kit
from .build import student_text
from .checks import Loaded, load
from .files import write_atomic
from .format import Exercise, ExerciseError, header
from .result import Result
from .runner import default_seed, kit_version, run
from .sandbox import ChildSpace, Limits
from .space import Space, StudentError, read_source
from .state import STATE_FILE, State

__all__ = ["DEFAULT_FOLDER", "attempt", "check_path", "find_folder", "init", "student_file"]

DEFAULT_FOLDER = "tinygrad-exercises"

README = """# Exercises

Open a file, read the text at its top, write the missing lines, save, and run

    tinygrad-cnn ex check        check the current exercise
    tinygrad-cnn ex watch        the same after each save
    tinygrad-cnn ex hint         if you are stuck
    tinygrad-cnn ex list         all exercises and where you stand

Everything works without a network. The files are Python scripts in cells (`# %%`): editors such as VS Code and
Spyder run them cell by cell, and `tinygrad-cnn ex export --format ipynb` makes notebooks of them.
"""


def find_folder(start: Path | None = None) -> Path | None:
    """Return the folder of exercises the user is in, above, or that `init` made right here."""
    start = (start or Path.cwd()).absolute()
    for folder in (start, *start.parents):
        if (folder / STATE_FILE).exists():
            return folder
    inside = start / DEFAULT_FOLDER
    return inside if (inside / STATE_FILE).exists() else None


def init(folder: Path, exercises: list[Exercise]) -> tuple[list[Path], list[Path]]:
    """Write the student's files; those already there are left alone. Returns written and kept ones."""
    written, kept = [], []
    for exercise in exercises:
        path = folder / exercise.filename
        if path.exists():
            kept.append(path)
        else:
            write_atomic(path, student_text(exercise))
            written.append(path)
    if not (folder / "README.md").exists():
        write_atomic(folder / "README.md", README)
    state = State.load(folder)
    if not state.current and exercises:
        state.current = exercises[0].id
    state.save()
    return written, kept


def student_file(folder: Path, exercise: Exercise) -> Path:
    """Return the student's file for an exercise: by its name, or by the id in its header if it was renamed."""
    path = folder / exercise.filename
    if path.exists():
        return path
    for other in sorted(folder.glob("*.py")):
        if exercise_id(other) == exercise.id:
            return other
    raise ExerciseError(f"{path} is not there; tinygrad-cnn ex reset {exercise.key} writes it anew")


def exercise_id(path: Path) -> str | None:
    """Return the id in a file's header, or None."""
    try:
        meta, _ = header(path.read_text(encoding="utf-8"))
    except (ExerciseError, OSError, UnicodeDecodeError):
        return None
    found = meta.get("id")
    return found if isinstance(found, str) else None


def check_path(
    exercise: Exercise,
    path: Path,
    *,
    seed: int | None = None,
    full: bool = False,
    explain: str | None = None,
    loaded: Loaded | None = None,
) -> Result:
    """Check a student's file in a child process."""
    seed = default_seed(exercise) if seed is None else seed
    space: Space | None = None
    try:
        code = read_source(path)
        limits = Limits(exercise.limits["wall"], exercise.limits["cpu"], exercise.limits["mem_mb"])
        space = child = ChildSpace(code, path.name, limits)
        result = run(loaded or load(exercise), child, seed=seed, full=full, explain=explain)
        child.drain()
        result.printed = child.printed.decode("utf-8", "replace")
    except StudentError as error:
        result = failed_to_load(exercise, seed, error)
    finally:
        if space is not None:
            space.close()
    return result


def failed_to_load(exercise: Exercise, seed: int, error: StudentError, status: str = "error") -> Result:
    result = Result(exercise.id, exercise.title, status, 0.0, exercise.points, seed=seed)
    result.error, result.kind, result.layer, result.kit_version = str(error), error.kind, "load", kit_version()
    return result


def attempt(folder: Path, exercise: Exercise, path: Path, result: Result) -> State:
    """Record a result in the folder's state."""
    state = State.load(folder)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    state.note(result, digest)
    result.hints_used = state.entry(exercise.id).hints
    state.save()
    return state


def next_open(state: State, after: str | None = None) -> Exercise | None:
    """Return the first exercise not yet passed (behind `after`, if given, then from the start)."""
    every = [e for e in kit.catalogue() if (state.folder / e.filename).exists()] or kit.catalogue()
    ids = [e.id for e in every]
    start = ids.index(after) + 1 if after in ids else 0
    for exercise in [*every[start:], *every[:start]]:
        if not state.passed(exercise.id):
            return exercise
    return None
