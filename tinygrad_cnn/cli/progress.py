"""How a running training looks: a bar and a row per epoch in a terminal, plain rows everywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..train import History, Progress

__all__ = ["TrainingDisplay", "duration"]

# Name, width and style of the columns of the table of epochs.
_COLUMNS = [("epoch", 7), ("loss", 9), ("accuracy", 11), ("val loss", 11), ("val accuracy", 14), ("images/s", 11)]
_TIME = 12
_REFRESH = 0.1  # seconds between two looks of the bar


class TrainingDisplay:
    """Shows the training that `fit(on_step=..., on_epoch=...)` tells of. Used with `with`.

    Args:
        console: where to.
        monitor: the column of the history whose best row is marked.
        done: rows of epochs of an earlier process.
    """

    def __init__(self, console: Console, monitor: str | None = None, done: Sequence[dict[str, Any]] = ()) -> None:
        self.console = console
        self.monitor = monitor
        self.done = done
        self._live: Live | None = None
        self._shown = 0.0

    def __enter__(self) -> TrainingDisplay:
        self.console.print(
            Text("".join(f"{name:>{width}}" for name, width in [*_COLUMNS, ("time", _TIME)]), style="bold")
        )
        for row in self.done:
            self.console.print(epoch_row(row), style="dim")
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(console=self.console, refresh_per_second=10, transient=True, auto_refresh=False)
            self._live.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*exc)
            self._live = None

    def on_step(self, progress: Progress) -> None:
        """Redraw the bar, if the last time is long enough ago."""
        if self._live is None:
            return
        now = perf_counter()
        if now - self._shown >= _REFRESH:
            self._shown = now
            self._live.update(self._bar(progress), refresh=True)

    def on_epoch(self, row: dict[str, Any], history: History) -> None:
        """Print the row of a finished epoch."""
        text = epoch_row(row)
        if self.monitor and history.best(self.monitor) is row and len(history) > 1:
            text.append("  best", style="green")
        (self._live.console if self._live else self.console).print(text)

    def _bar(self, p: Progress) -> Table:
        speed = p.fresh / p.seconds if p.seconds else 0.0
        per_epoch = p.samples / p.step * p.steps if p.step else 0
        left = ((p.epochs - p.epoch) * per_epoch + per_epoch - p.samples) / speed if speed else None
        before = f"epoch {p.epoch}/{p.epochs}"
        after = [f"{p.step:>{len(str(p.steps))}}/{p.steps}", f"loss {p.loss:.4f}"]
        if p.accuracy is not None:
            after.append(f"{100 * p.accuracy:.2f} %")
        after.append(f"{speed:,.0f} images/s".replace(",", " "))
        if left is not None:
            after.append(f"{duration(left)} left")
        while len(after) > 2 and _width(before, after) > self.console.width:
            del after[-2 if len(after) > 3 else -1]  # the speed goes first
        # What is left of the line goes to the bar.
        room = min(30, self.console.width - _width(before, after) - 3)
        bar = [ProgressBar(total=p.steps or 1, completed=p.step, width=room)] if room >= 4 else []
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_row(before, *bar, *after)
        return grid


def _width(before: str, after: list[str]) -> int:
    return len(before) + sum(len(text) + 2 for text in after)


def epoch_row(row: dict[str, Any]) -> Text:
    """Return one epoch of a history as a row under the heads of the columns."""
    values = [
        str(row["epoch"]),
        f"{row['train_loss']:.4f}",
        _percent(row.get("train_accuracy")),
        f"{row['val_loss']:.4f}" if "val_loss" in row else "-",
        _percent(row.get("val_accuracy")),
        f"{row['samples_per_second'] or 0:,.0f}".replace(",", " "),
    ]
    cells = [f"{value:>{width}}" for value, (_, width) in zip(values, _COLUMNS, strict=True)]
    return Text("".join(cells) + f"{duration(row['seconds']):>{_TIME}}")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def duration(seconds: float) -> str:
    """Return a time as people say it: 8.3 s, 4 min 05 s, 2 h 10 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
