"""What a student has done, in `.tinygrad-ex.json` beside the exercises.

Text, mergeable, and never trusted by the grader: it steers hints and the progress bar, nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .files import write_atomic
from .result import Result

__all__ = ["STATE_FILE", "Entry", "State"]

STATE_FILE = ".tinygrad-ex.json"


@dataclass
class Entry:
    """One exercise: when it passed (or None), attempts with different texts, hints and explanations used."""

    at: str | None = None
    attempts: int = 0
    hints: int = 0
    seed: int = 0
    kit: str = ""
    explain: str = ""
    solution_shown: bool = False
    causes: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # hashes of the last attempts, so that saving twice counts once


@dataclass
class State:
    """The state of a folder of exercises."""

    folder: Path
    current: str = ""
    done: dict[str, Entry] = field(default_factory=dict)
    damaged: str = ""

    @classmethod
    def load(cls, folder: Path) -> State:
        """Read the state; a damaged file is reported in `damaged` and set aside at the next save, never lost."""
        path = folder / STATE_FILE
        if not path.exists():
            return cls(folder)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            known = Entry.__dataclass_fields__.keys()
            done = {
                str(key): Entry(**{k: v for k, v in entry.items() if k in known})
                for key, entry in data.get("done", {}).items()
            }
            return cls(folder, str(data.get("current", "")), done)
        except (OSError, ValueError, AttributeError, TypeError) as error:
            return cls(folder, damaged=f"{STATE_FILE} cannot be read ({error}); starting afresh")

    def save(self) -> None:
        path = self.folder / STATE_FILE
        if self.damaged and path.exists():
            path.replace(path.with_name(STATE_FILE + ".damaged"))
            self.damaged = ""
        write_atomic(path, json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n")

    def to_json(self) -> dict[str, Any]:
        return {"version": 1, "current": self.current, "done": {k: vars(e) for k, e in self.done.items()}}

    def entry(self, exercise: str) -> Entry:
        return self.done.setdefault(exercise, Entry())

    def passed(self, exercise: str) -> bool:
        return exercise in self.done and self.done[exercise].at is not None

    def note(self, result: Result, text_hash: str) -> None:
        """Record an attempt."""
        entry = self.entry(result.exercise)
        if text_hash not in entry.texts:
            entry.attempts += 1
            entry.texts = [*entry.texts, text_hash][-20:]
        entry.seed, entry.kit, entry.explain = result.seed, result.kit_version, result.explain
        entry.causes = [c.id for c in result.causes]
        if result.status == "pass" and entry.at is None:
            entry.at = datetime.now(UTC).isoformat(timespec="seconds")
