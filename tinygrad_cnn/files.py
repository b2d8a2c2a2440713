"""Writing files so that no moment of a crash leaves half of one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["replace_file", "write_bytes", "write_text"]


def replace_file(path: str | Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file beside `path`, bring it to the disk, and put it in the place of `path` in one step.

    Whoever reads `path`, at any moment and after any crash, finds the old content or the new one, whole.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.writing")
    try:
        write(beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # so that the new name is on the disk too
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Replace a file by `content` in one step."""

    def write(beside: Path) -> None:
        beside.write_bytes(content)

    replace_file(path, write)


def write_text(path: str | Path, content: str) -> None:
    """Replace a file by a text in UTF-8 in one step."""
    write_bytes(path, content.encode())
