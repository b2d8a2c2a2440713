"""Writing the files of the kit, into folders that may not be there yet."""

from __future__ import annotations

from pathlib import Path

from ..files import write_text

__all__ = ["write_atomic"]


def write_atomic(path: Path, text: str) -> None:
    """Write `text` to `path` in one step, and make its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
