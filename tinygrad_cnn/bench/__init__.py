"""Benchmarks, run by hand: `python -m tinygrad_cnn.bench`. Peers that are installed are measured in the same run."""

from .measure import Result, compare, machine, versions
from .run import main, run
from .work import WORK

__all__ = ["WORK", "Result", "compare", "machine", "main", "run", "versions"]
