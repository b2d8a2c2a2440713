"""Gradient checking that names the mistake.

    report = gradcheck(f, args)           an op, a function of tensors, a module, a network
    report = gradgradcheck(f, args)       its second derivatives
    report = check_pair(forward, backward, args)      two plain NumPy functions
    found = check_graph(loss)             every op of a recorded graph, for painting on its picture

A report is true if everything is right; printed, it says in at most twenty lines what is wrong, where, and why.

The package is callable: `tinygrad_cnn.gradcheck(f, args)` is `tinygrad_cnn.gradcheck.gradcheck(f, args)`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from .check import check_pair
from .mistakes import Mistake, mistake
from .recorded import GraphCheck, check_graph
from .report import Cause, Finding, GradientError, Kinks, Part, Report, Worst
from .tensors import gradcheck, gradgradcheck

__all__ = [
    "Cause",
    "Finding",
    "GradientError",
    "GraphCheck",
    "Kinks",
    "Mistake",
    "Part",
    "Report",
    "Worst",
    "check_graph",
    "check_pair",
    "gradcheck",
    "gradgradcheck",
    "mistake",
]


class _CallableModule(ModuleType):
    """A package that is also its main function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Report:
        return gradcheck(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
