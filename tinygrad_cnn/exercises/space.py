"""Where a student's code runs, as the checks see it: names that can be looked up and called.

`LocalSpace` holds code that runs in this process (the solution, a mutant, a notebook); `sandbox.ChildSpace` one that
runs in a limited child process. Checks cannot tell them apart.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TinygradError

__all__ = ["LocalSpace", "Space", "StudentError", "fresh", "run_source"]


class StudentError(TinygradError):
    """The student's code did not deliver: it raised, ended, hung, or is not there.

    `kind` is one of: missing, unwritten, syntax, raised, value (something a check cannot use), exit, crash, timeout,
    memory, output.
    """

    def __init__(self, kind: str, text: str, line: int | None = None, where: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.line = line
        self.where = where

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, self.text, self.line, self.where)


class Space:
    """Names defined by the student's file."""

    def has(self, name: str) -> bool:
        raise NotImplementedError

    def value(self, name: str) -> Any:
        """Return the data called `name`."""
        raise NotImplementedError

    def call(self, name: str, *args: Any) -> Any:
        """Call the function `name`; whatever goes wrong in it arrives as `StudentError`."""
        raise NotImplementedError

    def function(self, name: str) -> Callable[..., Any]:
        """Return the function `name` as an ordinary callable."""
        if not self.has(name):
            raise StudentError("missing", f"the file defines no function {name}()")

        def call(*args: Any) -> Any:
            return self.call(name, *args)

        call.__name__ = name
        return call

    def close(self) -> None:
        """End what the space holds."""


class LocalSpace(Space):
    """Code in this process, as a dict of its names. It runs without limits."""

    def __init__(self, names: dict[str, Any], filename: str = "") -> None:
        self.names = names
        self.filename = filename

    def has(self, name: str) -> bool:
        return name in self.names

    def value(self, name: str) -> Any:
        if name not in self.names:
            raise StudentError("missing", f"the file does not define {name}")
        return self.names[name]

    def call(self, name: str, *args: Any) -> Any:
        function = self.value(name)
        if not callable(function):
            raise StudentError("missing", f"{name} is a {type(function).__name__}, and has to be a function")
        try:
            with np.errstate(all="ignore"):
                return function(*args)
        except StudentError:
            raise
        except Exception as error:
            raise explained(error, self.filename) from error


def explained(error: BaseException, filename: str) -> StudentError:
    """Say where in the student's file an exception came from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if filename and f.filename == filename]
    line, where = (frames[-1].lineno, frames[-1].name) if frames else (None, "")
    if isinstance(error, NotImplementedError):
        return StudentError("unwritten", str(error) or "not written yet", line, where)
    if isinstance(error, MemoryError):
        return StudentError("memory", "the memory limit was reached", line, where)
    if isinstance(error, SyntaxError):
        return StudentError("syntax", f"{type(error).__name__}: {error.msg}", error.lineno)
    return StudentError("raised", f"{type(error).__name__}: {error}"[:500], line, where)


def run_source(
    source: str, filename: str, names: dict[str, Any] | None = None, module: str = "exercise"
) -> dict[str, Any]:
    """Run `source` and return the names it defines."""
    names = {} if names is None else names
    names["__name__"] = module
    try:
        exec(compile(source, filename, "exec"), names)
    except Exception as error:
        raise explained(error, filename) from error
    return names


def read_source(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StudentError("syntax", f"{path.name} is not UTF-8 text: {error}") from error


def fresh(value: Any) -> Any:
    """Copy a tree of lists, tuples, dicts and arrays, so that nobody can edit what the caller keeps."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, (list, tuple)):
        return type(value)(fresh(v) for v in value)
    if isinstance(value, dict):
        return {k: fresh(v) for k, v in value.items()}
    return value
