"""One exercise, one file: the format and its parser. Parsing reads text and never runs any of it.

A file is a Python script in percent format (cells start with `# %%`), so an editor, a terminal and a notebook share
one source. Around the cells stand a header and what the student does not get:

    # /// exercise
    # id = "d4-conv-dx"                 the part before the first hyphen is the short name
    # title = "Gradient of conv2d with respect to its input"
    # topics = ["convolution"]
    # requires = ["d3-conv-dw"]         optional
    # points = 3                        optional, 1
    # feedback = "fix"                  optional: the most a report may tell: symptom, location, cause or fix
    # limits = { wall = 5, mem_mb = 1024 }
    # ///
    # %% [markdown]
    # The statement, as Markdown behind `# `.
    # %%
    def f(x):
        # <solution>
        return 2 * x
        # <starter>                     optional: what the student gets in its place, commented out
        # return x
        # </solution>
    # <checks>
    ...                                 Python: checks, mistakes and hints; see `tinygrad_cnn.exercises.checks`
    # </checks>
    # <hidden points=1>
    ...                                 further checks that only the grader runs
    # </hidden>
"""

from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError

__all__ = ["EXPLAIN", "Cell", "Exercise", "ExerciseError", "parse", "read"]

EXPLAIN = ("symptom", "location", "cause", "fix")
"""How much a report may tell, from least to most."""

DEFAULT_LIMITS = {"wall": 10.0, "cpu": 10.0, "mem_mb": 1024.0}

_ID = re.compile(r"[a-z]+[0-9]+(-[a-z0-9]+)*")
_HIDDEN = re.compile(r"# <hidden(?:\s+points\s*=\s*([0-9.]+))?>")
_KNOWN = {"id", "title", "topics", "requires", "points", "feedback", "limits", "kit"}


class ExerciseError(DataError):
    """An exercise file that does not follow the format, or whose parts contradict each other."""


@dataclass(frozen=True)
class Cell:
    """A cell of an exercise: `kind` is "markdown" or "code"; `line` is where its text starts in the file."""

    kind: str
    text: str
    line: int


@dataclass(frozen=True)
class Exercise:
    """An exercise as written down. Nothing in it has been run."""

    id: str
    title: str
    topics: tuple[str, ...]
    requires: tuple[str, ...]
    points: float
    feedback: str
    limits: dict[str, float]
    cells: tuple[Cell, ...]
    checks: str = ""
    checks_line: int = 1
    hidden: str = ""
    hidden_line: int = 1
    hidden_points: float = 0.0
    path: Path | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """The short name: `d4` of `d4-conv-dx`."""
        return self.id.split("-", 1)[0]

    @property
    def group(self) -> str:
        """The letter of the group: `D` of `d4-conv-dx`."""
        return self.id[0].upper()

    @property
    def filename(self) -> str:
        return f"{self.id}.py"

    def cells_for(self, part: str) -> list[Cell]:
        """Return the cells with the solution ("solution") or with what the student starts from ("starter")."""
        return [Cell(c.kind, c.text if c.kind == "markdown" else _side(c.text, part), c.line) for c in self.cells]

    def code(self, part: str) -> str:
        """Return the code of all cells, `part` being "solution" or "starter", with nothing else around it."""
        return "\n\n".join(c.text for c in self.cells_for(part) if c.kind == "code") + "\n"


def read(path: Path | str) -> Exercise:
    """Read and parse an exercise file."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExerciseError(f"{path}: cannot be read as text: {error}") from error
    return parse(text, path)


def header(text: str, where: str = "exercise") -> tuple[dict[str, Any], int]:
    """Return the header's fields, and the number of lines up to its end."""
    lines = text.splitlines()
    try:
        start = next(i for i, line in enumerate(lines) if line.rstrip() == "# /// exercise")
        end = next(i for i in range(start + 1, len(lines)) if lines[i].rstrip() == "# ///")
    except StopIteration:
        raise ExerciseError(f"{where}: no header; it starts with '# /// exercise' and ends with '# ///'") from None
    body = "\n".join(line[2:] if line.startswith("# ") else line[1:] for line in lines[start + 1 : end])
    try:
        return tomllib.loads(body), end + 1
    except tomllib.TOMLDecodeError as error:
        raise ExerciseError(f"{where}: the header is not TOML: {error}") from error


def parse(text: str, path: Path | None = None) -> Exercise:
    """Parse the text of an exercise file, or raise `ExerciseError` naming the line."""
    where = str(path) if path else "exercise"
    meta, after = header(text, where)
    unknown = meta.keys() - _KNOWN
    if unknown:
        raise ExerciseError(f"{where}: unknown header field {', '.join(sorted(unknown))}; known are {sorted(_KNOWN)}")
    for name, kind in (("id", str), ("title", str), ("topics", list)):
        if not isinstance(meta.get(name), kind):
            raise ExerciseError(f"{where}: the header needs {name} = {'[...]' if kind is list else '...'}")
    if not _ID.fullmatch(meta["id"]):
        raise ExerciseError(f"{where}: id {meta['id']!r} is not of the form d4-conv-dx")
    feedback = meta.get("feedback", "fix")
    if feedback not in EXPLAIN:
        raise ExerciseError(f"{where}: feedback {feedback!r} is none of {', '.join(EXPLAIN)}")

    lines = text.splitlines()
    checks, checks_line, _ = _block(lines, after, re.compile("# <checks>"), "# </checks>", where)
    hidden, hidden_line, found = _block(lines, after, _HIDDEN, "# </hidden>", where)
    cells = _cells(lines, after, where)
    exercise = Exercise(
        id=meta["id"],
        title=meta["title"],
        topics=tuple(meta["topics"]),
        requires=tuple(meta.get("requires", ())),
        points=float(meta.get("points", 1)),
        feedback=feedback,
        limits={**DEFAULT_LIMITS, **{k: float(v) for k, v in meta.get("limits", {}).items()}},
        cells=tuple(cells),
        checks=checks,
        checks_line=checks_line,
        hidden=hidden,
        hidden_line=hidden_line,
        hidden_points=float(found.group(1) or 1) if found else 0.0,
        path=path,
    )
    for part in ("solution", "starter"):
        for cell in exercise.cells_for(part):
            if cell.kind == "code":
                _must_parse(cell.text, cell.line, f"{where}, {part}")
    _must_parse(checks, checks_line, f"{where}, checks")
    _must_parse(hidden, hidden_line, f"{where}, hidden")
    return exercise


def _must_parse(text: str, line: int, where: str) -> None:
    try:
        ast.parse(text)
    except SyntaxError as error:
        raise ExerciseError(f"{where}: near line {line + (error.lineno or 1) - 1}: {error.msg}") from error


def _block(
    lines: list[str], after: int, opening: re.Pattern[str], closing: str, where: str
) -> tuple[str, int, re.Match[str] | None]:
    """Take the block between `opening` and `closing` out of `lines`, leaving empty lines in its place."""
    for start in range(after, len(lines)):
        match = opening.fullmatch(lines[start].rstrip())
        if match:
            break
    else:
        return "", 1, None
    end = next((i for i in range(start + 1, len(lines)) if lines[i].rstrip() == closing), None)
    if end is None:
        raise ExerciseError(f"{where}: line {start + 1} opens {lines[start].strip('# ')} and nothing closes it")
    text = "\n".join(lines[start + 1 : end]) + "\n"
    lines[start : end + 1] = [""] * (end + 1 - start)
    return text, start + 2, match


def _cells(lines: list[str], after: int, where: str) -> list[Cell]:
    starts = [i for i in range(after, len(lines)) if lines[i].startswith("# %%")]
    stray = [i for i in range(after, starts[0] if starts else len(lines)) if lines[i].strip()]
    if stray:
        raise ExerciseError(f"{where}: line {stray[0] + 1} stands before the first cell ('# %%')")
    if not starts:
        raise ExerciseError(f"{where}: no cells; a cell starts with '# %%' or '# %% [markdown]'")
    cells = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        body = lines[start + 1 : end]
        kind = "markdown" if "[markdown]" in lines[start] else "code"
        if kind == "markdown":
            wrong = next((i for i, line in enumerate(body) if line.strip() and not line.startswith("#")), None)
            if wrong is not None:
                raise ExerciseError(f"{where}: line {start + wrong + 2} of a Markdown cell does not start with '#'")
            body = [line[2:] if line.startswith("# ") else line[1:] for line in body]
        lead = 0
        while lead < len(body) and not body[lead].strip():
            lead += 1
        text = "\n".join(body[lead:]).rstrip()
        if text:
            cells.append(Cell(kind, text, start + 2 + lead))
    return cells


def _side(code: str, part: str) -> str:
    """Resolve the `<solution>` regions of a code cell."""
    out: list[str] = []
    solution: list[str] = []
    starter: list[str] | None = None
    indent: str | None = None
    for line in code.splitlines():
        mark = line.strip()
        if mark == "# <solution>":
            if indent is not None:
                raise ExerciseError("a '# <solution>' stands inside another one")
            indent, solution, starter = line[: len(line) - len(line.lstrip())], [], None
        elif mark == "# <starter>" and indent is not None:
            starter = []
        elif mark == "# </solution>":
            if indent is None:
                raise ExerciseError("a '# </solution>' without '# <solution>'")
            if part == "solution":
                out += solution
            elif starter is None:
                out += [f'{indent}raise NotImplementedError("write your code here")']
            else:
                out += starter
            indent = None
        elif indent is None:
            out.append(line)
        elif starter is None:
            solution.append(line)
        else:
            starter.append(re.sub(r"^(\s*)# ?", r"\1", line))
    if indent is not None:
        raise ExerciseError("a '# <solution>' without '# </solution>'")
    return "\n".join(out).rstrip()
