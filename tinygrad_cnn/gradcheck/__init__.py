"""Gradient checking that names the mistake.

    report = gradcheck(f, args)           an op, a function of tensors, a module, a network
    report = gradgradcheck(f, args)       its second derivatives
    report = check_pair(forward, backward, args)      two plain NumPy functions
    found = check_graph(loss)             every op of a recorded graph, for painting on its picture

A report is true if everything is right; printed, it says in at most twenty lines what is wrong, where, and why.

How it judges:

- Everything is compared in float64 with a random upstream gradient. Tolerances come from the error estimate of each
  derivative, so there is nothing to tune. float32, float16, bfloat16 and GPU tensors are judged a second time as they
  are; what rounding makes of them is called precision.
- At a kink every subgradient passes and its convention is named: left, right or average for a slope, first, last or
  split for a tie. Tied entries are judged together. The same rule is then checked close by, where nothing is at a kink.
- Where kinks inside of a function meet, automatic differentiation can give a value that is no derivative. That is said,
  and it is no failure if every op is legal for itself. A rule of plain functions has no such excuse.
- A cause is named only if it reproduces the wrong gradient in two or more random cases. Otherwise it is "unknown".

What it cannot see: entries that were not sampled (above 2 000), functions that change on scales below 1e-7, an error
that is smaller than the error of the derivative, and whether the forward function computes what was meant.

`python -m tinygrad_cnn.gradcheck.selftest` measures how well all this holds.

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
