"""Pictures of a run: its curves, and the digits it got wrong. They need matplotlib, the extra `plot`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MissingExtraError
from ..train import Evaluation, History, replace_file

__all__ = ["draw_curves", "draw_mistakes"]

_TRAIN, _VALIDATION = "#8a94a6", "#1f6feb"


def draw_curves(history: History, paths: list[Path]) -> None:
    """Draw loss and error over the epochs, training against validation, with the best epoch marked."""
    figure = _figure(8.0, 3.4)
    epochs = history.column("epoch")
    for place, (name, of) in enumerate((("loss", "loss"), ("error in %", "accuracy"))):
        axes = figure.add_subplot(1, 2, place + 1)
        for column, label, colour in (("train", "training", _TRAIN), ("val", "validation", _VALIDATION)):
            values = history.column(f"{column}_{of}")
            if all(v is None for v in values):
                continue
            if of == "accuracy":
                values = [None if v is None else 100 * (1 - v) for v in values]
            axes.plot(epochs, values, label=label, color=colour, marker="o", markersize=3, linewidth=1.5)
        if history.best_epoch is not None:
            axes.axvline(history.best_epoch, color="#999999", linewidth=0.8, linestyle=":")
            axes.annotate(
                f" best: {history.best_epoch} ",
                (history.best_epoch, 0.97),
                xycoords=("data", "axes fraction"),
                fontsize=8,
                color="#555555",
                va="top",
                ha="right" if history.best_epoch > len(history) / 2 else "left",
            )
        axes.set_xlabel("epoch")
        axes.set_title(name, fontsize=10, loc="left")
        _scale(axes)
        axes.locator_params(axis="x", integer=True)
        axes.grid(True, alpha=0.25, linewidth=0.5)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="best")
    _save(figure, paths)


def draw_mistakes(images: Any, result: Evaluation, paths: list[Path], most: int = 100) -> None:
    """Draw the misclassified images, the surest mistakes first, each with its class and the network's answer.

    Args:
        images: those of the data set that was evaluated, bytes or numbers (n, 1, h, w).
        result: its evaluation.
        paths: where to, one picture each.
        most: draw no more than this.
    """
    wrong = result.mistakes
    wrong = wrong[np.argsort(-result.confidence[wrong], kind="stable")][:most]
    columns = min(10, max(1, len(wrong)))
    rows = math.ceil(len(wrong) / columns) or 1
    figure = _figure(max(4.5, 0.85 * columns), 0.5 + 1.0 * rows)
    shown = f"{len(wrong)} of {len(result.mistakes)} mistakes, the surest first" if len(wrong) else "no mistakes"
    figure.suptitle(f"{shown}: digit → answer", fontsize=10)
    for place, i in enumerate(wrong):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(images[i, 0], cmap="gray_r", interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(f"{result.labels[i]} → {result.predictions[i]}", fontsize=9, color="#b3261e", pad=2)
        axes.text(0.5, -0.04, f"#{i}", transform=axes.transAxes, fontsize=6, color="#777777", ha="center", va="top")
    _save(figure, paths)


def _scale(axes: Any) -> None:
    """Let values that fall over more than one order of magnitude be read at both ends."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    values = [v for line in axes.lines[:2] for v in line.get_ydata() if v is not None]
    if min(values) <= 0 or max(values) < 10 * min(values):
        axes.set_ylim(bottom=0)
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "curves and pictures need matplotlib and pillow: pip install 'tinygrad-cnn[plot]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, paths: list[Path]) -> None:
    import matplotlib

    for path in paths:
        form = path.suffix[1:]
        # Without a date and with fixed ids, so that one run always gives the same file.
        metadata = {"Date": None} if form == "svg" else {}
        with matplotlib.rc_context({"svg.hashsalt": "tinygrad_cnn", "svg.fonttype": "path"}):

            def write(beside: Path, form: str = form, metadata: dict[str, Any] = metadata) -> None:
                figure.savefig(beside, format=form, dpi=150, metadata=metadata)

            replace_file(path, write)
