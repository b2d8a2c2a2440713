"""What happened in each epoch, as rows that become JSON lines, CSV or columns for a plot."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from ..files import write_text

__all__ = ["History"]


class History(list[dict[str, Any]]):
    """One dict per epoch: epoch, step, lr, train_loss, train_accuracy, val_loss, val_accuracy, seconds, ...

    >>> history = History([{"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": 0.25, "val_loss": 0.3}])
    >>> history.column("val_loss"), history.best("train_loss")["epoch"]
    ([None, 0.3], 2)

    Attributes:
        stopped: why training ended: "epochs", "early stopping", "interrupted", or None while it runs.
        best_epoch: the epoch whose weights the model holds now, if they were restored.
    """

    def __init__(self, rows: Any = ()) -> None:
        super().__init__(dict(row) for row in rows)
        self.stopped: str | None = None
        self.best_epoch: int | None = None

    def column(self, name: str) -> list[Any]:
        """Return one value of every epoch, None where it was not measured."""
        return [row.get(name) for row in self]

    def best(self, name: str) -> dict[str, Any]:
        """Return the epoch with the lowest loss, or the highest accuracy.

        Raises:
            ValueError: no epoch has this value.
        """
        rows = [row for row in self if row.get(name) is not None]
        if not rows:
            raise ValueError(f"no epoch has a value {name!r}")
        return (max if name.endswith("accuracy") else min)(rows, key=lambda row: row[name])

    def to_jsonl(self) -> str:
        """Return one JSON object per line and epoch."""
        return "".join(json.dumps(row) + "\n" for row in self)

    def to_csv(self) -> str:
        """Return a table with a head line; a value that was not measured is an empty field."""
        names = list(dict.fromkeys(name for row in self for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self)
        return text.getvalue()

    def save(self, path: str | Path) -> None:
        """Write to `.jsonl` or `.csv`, by suffix.

        Raises:
            ValueError: the suffix is another.
        """
        forms = {".jsonl": self.to_jsonl, ".csv": self.to_csv}
        suffix = Path(path).suffix
        if suffix not in forms:
            raise ValueError(f"a history is written as .jsonl or .csv, not as {suffix!r}")
        write_text(path, forms[suffix]())
