"""Hints, level by level. The first one answers the mistake that was just named, if it has a hint of its own."""

from __future__ import annotations

import textwrap

from .checks import Loaded, load
from .format import Exercise
from .state import State

__all__ = ["next_hint", "shown_hints"]

FREE = 2


def _own(loaded: Loaded, state: State) -> list[str]:
    """Hints of the mistakes that the last check named."""
    causes = state.entry(loaded.exercise.id).causes
    return [b.hint for b in loaded.bugs if b.id in causes and b.hint]


def next_hint(state: State, exercise: Exercise) -> str:
    """Open one more hint, or return why not. Levels 1 and 2 are free, further ones need a failed check."""
    entry = state.entry(exercise.id)
    total = len(load(exercise).hints)
    if entry.hints >= total:
        return f"That is all. After five different attempts: tinygrad-cnn ex solution {exercise.key}"
    if entry.hints >= FREE and not entry.attempts and not state.passed(exercise.id):
        return "The next hint opens after a try: write something and run tinygrad-cnn ex check."
    entry.hints += 1
    return ""


def shown_hints(state: State, exercise: Exercise) -> list[str]:
    """Return the open hints as lines; all of them once the exercise is passed."""
    loaded = load(exercise)
    entry = state.entry(exercise.id)
    count = len(loaded.hints) if state.passed(exercise.id) else entry.hints
    lines = [f"{exercise.id}   {exercise.title}"]
    for own in _own(loaded, state)[:1]:
        lines += _block("about your mistake", own)
    for level, words in enumerate(loaded.hints[:count], 1):
        lines += _block(f"hint {level} of {len(loaded.hints)}", words)
    if count < len(loaded.hints):
        lines.append(f"  more: tinygrad-cnn ex hint {exercise.key} --next")
    return lines


def _block(label: str, words: str) -> list[str]:
    out = [f"  {label}:"]
    for paragraph in words.splitlines():
        out += textwrap.wrap(paragraph, 79, initial_indent="    ", subsequent_indent="    ") or [""]
    return out
