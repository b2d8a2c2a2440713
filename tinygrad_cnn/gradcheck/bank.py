"""Typical mistakes in the rules of known ops, for naming the cause."""

from __future__ import annotations

from .mistakes import Mistake

__all__ = ["for_op"]


def for_op(name: str) -> tuple[Mistake, ...]:
    """Mistakes known for the op of this name; none for an unknown one."""
    return ()
