"""Gradient checking that names the mistake.

The package is callable: `tinygrad_cnn.gradcheck(f, args)` is `tinygrad_cnn.gradcheck.gradcheck(f, args)`.
"""

from __future__ import annotations

from .check import check_pair
from .mistakes import Mistake, mistake
from .report import Cause, Finding, GradientError, Kinks, Part, Report, Worst

__all__ = [
    "Cause",
    "Finding",
    "GradientError",
    "Kinks",
    "Mistake",
    "Part",
    "Report",
    "Worst",
    "check_pair",
    "mistake",
]
