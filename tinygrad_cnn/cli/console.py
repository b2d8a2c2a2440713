"""The terminal: colours where there is one, plain text where there is none."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["output"]


def output() -> Any:
    """Return the console that commands print to. It obeys NO_COLOR and leaves lines and brackets as they are."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)
