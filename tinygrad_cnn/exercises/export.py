"""`ex export`: reports on a folder in the formats other programs read, and notebooks."""

from __future__ import annotations

import json
from pathlib import Path

from .build import notebook
from .files import write_atomic
from .format import Exercise
from .report import csv_table, gradescope, html, junit
from .result import Result
from .workbook import check_path, student_file

__all__ = ["export", "page"]


def export(folder: Path, exercises: list[Exercise], form: str, out: Path | None, anonymous: bool = False) -> int:
    """Check the exercises of a folder and write or print the results; return the exit code."""
    if form == "ipynb":
        target = out or folder
        for exercise in exercises:
            path = target / f"{exercise.id}.ipynb"
            if path.exists():
                print(f"{path} is left as it was")
                continue
            write_atomic(path, notebook(exercise))
            print(path)
        return 0
    results: list[Result] = []
    codes = []
    for exercise in exercises:
        path = student_file(folder, exercise)
        results.append(check_path(exercise, path))
        codes.append(path.read_text(encoding="utf-8", errors="replace"))
    if anonymous:
        wrong = [
            {"exercise": r.exercise, "status": r.status, "causes": [c.id for c in r.causes], "code": code}
            for r, code in zip(results, codes, strict=True)
            if not r and r.layer != "load"
        ]
        text = json.dumps({"schema": "tinygrad-ex/wrong@1", "wrong": wrong}, indent=1) + "\n"
    elif form == "json":
        text = json.dumps([r.to_json() for r in results], indent=1) + "\n"
    elif form == "junit":
        text = junit(results)
    elif form == "gradescope":
        text = json.dumps(gradescope(results), indent=1) + "\n"
    elif form == "csv":
        text = csv_table({"exercise": r.exercise, "status": r.status, "score": r.score, "max": r.max,
                          "mistakes": " ".join(c.id for c in r.causes)} for r in results)  # fmt: skip
    else:
        text = page(results)
    if out is None:
        print(text, end="")
    else:
        write_atomic(out, text)
        print(out)
    return 0


def page(results: list[Result]) -> str:
    """Return the results as one HTML page."""
    body = "\n".join(f"<section>{html(r)}</section>" for r in results)
    return (
        "<!doctype html>\n<html lang='en'><meta charset='utf-8'><title>Exercises</title>"
        "<style>body{font:16px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}section{margin:1.5em 0}"
        "td{padding:2px 12px 2px 0}</style>\n"
        f"<h1>Exercises: {sum(map(bool, results))} of {len(results)} passed</h1>\n{body}\n</html>\n"
    )
