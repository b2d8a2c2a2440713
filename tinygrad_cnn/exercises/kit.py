"""Which exercises there are: those that ship with the package, and folders of own ones."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .format import Exercise, ExerciseError, read

__all__ = ["FOLDER", "catalogue", "digits", "find", "order", "paths"]

FOLDER = Path(__file__).with_name("sheets")
GROUPS = {
    "A": "measuring a gradient",
    "B": "the autodiff engine",
    "C": "activations and losses",
    "D": "convolution and pooling",
    "E": "training",
    "F": "LeNet-5",
}


def order(path: Path) -> tuple[str, int]:
    """Sort a2 before a10."""
    match = re.match(r"([a-z]+)([0-9]+)", path.stem)
    return (match[1], int(match[2])) if match else (path.stem, 0)


def paths(folder: Path | None = None) -> list[Path]:
    """Return the exercise files of a folder, in order; without a folder those of the package and of a teacher's kit."""
    if folder is not None:
        return sorted(folder.glob("[a-z]*[0-9]*.py"), key=order)
    found = {path.stem: path for path in FOLDER.glob("[a-z]*[0-9]*.py")}
    found |= {path.stem: path for home in _own() for path in home.glob("[a-z]*[0-9]*.py") if _is_exercise(path)}
    return sorted(found.values(), key=order)


def _is_exercise(path: Path) -> bool:
    """Whether a file says that it is one: a folder called `kit` may hold anything."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return "# /// exercise" in file.read(2000)
    except OSError:
        return False


def _own() -> list[Path]:
    """Folders with a teacher's exercises: a folder `kit` where the student works, and those the environment names."""
    named = [Path(p) for p in os.environ.get("TINYGRAD_EX_KIT", "").split(os.pathsep) if p]
    beside = [Path("kit"), Path("tinygrad-exercises", "kit")]
    return [p for p in (*beside, *named) if p.is_dir()]


def digits() -> tuple[Any, Any]:
    """Return 600 of MNIST's digits at half their size: images (600, 1, 14, 14) in [0, 1], and labels."""
    with np.load(FOLDER / "digits.npz", allow_pickle=False) as file:
        return file["images"][:, None] / 255.0, file["labels"].astype(np.int64)


@cache
def _read(path: Path, stamp: int) -> Exercise:
    return read(path)


def catalogue(folder: Path | None = None) -> list[Exercise]:
    """Parse all exercises of a folder, by default those of the package and of a teacher's kit."""
    return [_read(p, p.stat().st_mtime_ns) for p in paths(folder)]


def find(name: str, folder: Path | None = None) -> Exercise:
    """Return the exercise called `name`: `d4`, `d4-conv-dx`, or a file of that name."""
    wanted = Path(name).name.removesuffix(".py").removesuffix(".ipynb").lower()
    known = paths(folder)
    for path in known:
        if wanted in (path.stem, path.stem.split("-", 1)[0]):
            return _read(path, path.stat().st_mtime_ns)
    close = [p.stem for p in known if wanted and (wanted in p.stem or p.stem.startswith(wanted[:1]))]
    hint = f"; did you mean {', '.join(close[:4])}?" if close else ""
    raise ExerciseError(f"there is no exercise {name!r}{hint} (tinygrad-cnn ex list shows all)")
