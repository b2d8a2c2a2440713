"""The pictures that `tinygrad-cnn train` leaves in a run folder. They need matplotlib, the extra `plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..train import Evaluation, History

__all__ = ["draw_curves", "draw_mistakes"]


def draw_curves(history: History, paths: list[Path]) -> None:
    """Draw loss and error over the epochs, training against validation, with the best epoch marked."""
    from ..viz import at_work

    _save(at_work.curves(history), paths)


def draw_mistakes(images: Any, result: Evaluation, paths: list[Path], most: int = 100) -> None:
    """Draw the misclassified images, the surest mistakes first, each with its class and the network's answer.

    Args:
        images: those of the data set that was evaluated, bytes or numbers (n, 1, h, w).
        result: its evaluation.
        paths: where to, one picture each.
        most: draw no more than this.
    """
    from ..viz import at_work

    _save(at_work.mistakes(images, result, most=most), paths)


def _save(sheet: Any, paths: list[Path]) -> None:
    for path in paths:
        sheet.save(path)
