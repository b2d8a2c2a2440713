"""Exercises: write a gradient, and learn what is wrong with it.

Students: `tinygrad-cnn ex init`, or `ex.check("b4", my_function)` in a notebook. Teachers: `docs/teacher.md`.
"""

from .api import ex
from .checks import Answer, Kinked, Property, Same, Vjp, bug, edit, hint
from .format import Exercise, ExerciseError, parse, read
from .result import Result

__all__ = [
    "Answer",
    "Exercise",
    "ExerciseError",
    "Kinked",
    "Property",
    "Result",
    "Same",
    "Vjp",
    "bug",
    "edit",
    "ex",
    "hint",
    "parse",
    "read",
]
