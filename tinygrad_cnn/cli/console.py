"""The terminal: colours where there is one, plain text where there is none."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["output"]


def output() -> Any:
    """Return the console that commands print to. It obeys NO_COLOR, and does not wrap lines into a file or a pipe."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    return console
