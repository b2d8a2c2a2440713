"""Are the solutions right? Their gradients against numerical derivatives of the forward functions."""

from __future__ import annotations

from .checks import Loaded

__all__ = ["solution_problems"]


def solution_problems(loaded: Loaded, seed: int) -> list[str]:
    """Return what is wrong with the gradients of an exercise's solution."""
    return []
