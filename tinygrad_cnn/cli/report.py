"""What a finished run says: in the terminal, and in the files of its folder."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ..files import write_text
from ..train import Evaluation, History

__all__ = ["as_json", "confusion_text", "print_evaluation", "write_history", "write_mistakes", "write_result"]


def print_evaluation(console: Console, result: Evaluation, what: str = "test") -> None:
    """Print accuracy and confusion matrix."""
    line = Text(f"{what} accuracy ")
    line.append(f"{100 * (result.accuracy or 0):.2f} %", style="bold green")
    wrong = len(result.mistakes)
    line.append(f"  ({grouped(wrong)} of {grouped(result.count)} wrong), loss {result.loss:.4f}")
    console.print(line)
    console.print()
    console.print(confusion_text(result.confusion))


def confusion_text(matrix: Any) -> Text:
    """Return a confusion matrix as text: a row per true class, a column per answer, a dot for none."""
    k = len(matrix)
    width = max(len(str(matrix.max(initial=0))), len(str(k - 1))) + 2
    text = Text()
    text.append("confusion matrix: a row per digit, a column per answer\n", style="bold")
    text.append(" " * 5 + "".join(f"{j:>{width}}" for j in range(k)) + "   correct\n", style="dim")
    for i, row in enumerate(matrix):
        text.append(f"{i:>4} ", style="dim")
        for j, count in enumerate(row):
            style = "bold" if i == j else ("yellow" if count >= 5 else "")
            text.append(f"{int(count) if count else '·':>{width}}", style=style if count else "dim")
        total = int(row.sum())
        text.append(f"   {100 * row[i] / total:6.2f} %" if total else "        -", style="dim")
        if i < k - 1:
            text.append("\n")
    return text


def write_history(folder: Path, history: History) -> None:
    """Write history.jsonl and history.csv."""
    history.save(folder / "history.jsonl")
    history.save(folder / "history.csv")


def write_mistakes(folder: Path, result: Evaluation) -> None:
    """Write mistakes.csv: position in the test set, true class, answer, and how sure the network was."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", "digit", "answer", "confidence"])
    for i in result.mistakes:
        writer.writerow([i, result.labels[i], result.predictions[i], f"{result.confidence[i]:.4f}"])
    write_text(folder / "mistakes.csv", text.getvalue())


def write_result(folder: Path, result: Evaluation) -> None:
    """Write test.json: accuracy, loss and confusion matrix."""
    write_text(folder / "test.json", json.dumps(as_json(result)) + "\n")


def as_json(result: Evaluation) -> dict[str, Any]:
    """Return an evaluation as numbers and lists."""
    return {
        "count": result.count,
        "accuracy": result.accuracy,
        "loss": result.loss,
        "confusion": result.confusion.tolist(),
        "mistakes": result.mistakes.tolist(),
        "seconds": round(result.seconds, 3),
    }


def grouped(number: int) -> str:
    """Return a number with its thousands apart: 10 000."""
    return f"{number:,}".replace(",", " ")
