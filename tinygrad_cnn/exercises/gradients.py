"""Gradient exercises, as problems for the gradient checker: its contract, its kinks, its names for mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..gradcheck import Report, check_pair
from ..gradcheck.contract import examine
from ..gradcheck.diagnose import diagnose, nearest
from ..gradcheck.localise import marginals, pattern
from ..gradcheck.problem import Problem
from ..gradcheck.trial import Trial
from .checks import Case, Kinked, Loaded, Vjp
from .result import Cause
from .space import LocalSpace, Space

__all__ = ["Explained", "broken_contract", "explain", "judge_kinks", "solution_problems", "where_wrong"]

GENERIC_CASES = 3


def _rule(check: Vjp, space: Space, forward: Callable[..., Any]) -> Callable[..., Any]:
    function = space.function(check.function)
    if not check.out:
        return function

    def rule(dout: Any, *args: Any) -> Any:
        return function(dout, np.asarray(forward(*args)), *args)

    return rule


def _problem(check: Vjp, home: LocalSpace, space: Space, case: Case) -> Problem:
    forward = check.forward(home)
    inputs = case.extra["inputs"]
    args = [v.copy() if isinstance(v, np.ndarray) else v for v in inputs.values()]
    wrt = list(check.wrt)
    reference = _rule(check, home, forward)
    backward = _rule(check, space, forward)
    names = list(inputs)
    return Problem(forward, backward, args, wrt=wrt, names=names, reference=reference, name=check.function)


def broken_contract(check: Vjp, home: LocalSpace, space: Space, case: Case) -> tuple[str, list[str]]:
    """Return the first clause of a gradient's contract that is broken, or "", and remarks."""
    problem = _problem(check, home, space, case)
    problem.f(problem.z)  # learns the form of the output
    seen = examine(problem, problem.flat([case.values["dout"]]))
    findings = [*seen.general, *(f for part in seen.parts for f in part)]
    return next((f.text for f in findings if f.fails), ""), [f.text for f in findings if not f.fails]


def judge_kinks(check: Kinked, home: LocalSpace, space: Space, case: Case, seed: int) -> Report:
    """Check a gradient at a point with kinks: what is legal passes, and the convention gets its name."""
    forward = check.forward(home)
    inputs = case.extra["inputs"]
    convention = check.convention(**inputs) if callable(check.convention) else check.convention
    return check_pair(
        forward,
        _rule(check, space, forward),
        tuple(inputs.values()),
        wrt=list(check.wrt),
        names=list(inputs),
        kinks="strict" if convention else "name",
        convention=convention,
        seed=seed,
        name=check.function,
    )


@dataclass
class Explained:
    """Why a gradient is wrong, as far as generic rules can tell."""

    causes: list[Cause] = field(default_factory=list)
    nearest: str = ""
    cleared: list[str] = field(default_factory=list)


def explain(check: Vjp, home: LocalSpace, space: Space, cases: Sequence[Case]) -> Explained:
    """Look for a cause that needs no knowledge of the exercise."""
    trials: list[Trial] = []
    for number, case in enumerate(cases):
        if len(trials) == GENERIC_CASES:
            break
        try:
            trials.append(Trial(_problem(check, home, space, case), np.random.default_rng(number)))
        except Exception:
            continue  # a case in which the rule raises tells nothing here
    explained = Explained()
    for k in range(len(check.wrt)):
        if len(trials) < 2:
            break
        found = diagnose(trials, k, ())
        explained.causes += [Cause(c.id, c.confidence, c.text, cases=c.cases) for c in found[:2]]
        if not found and not explained.nearest:
            explained.nearest = nearest(trials[0], k)
    if explained.causes:
        return Explained(list({c.id: c for c in explained.causes}.values()))
    return explained


def where_wrong(mask: Any) -> tuple[str, dict[str, list[float]]]:
    """Return in words where the wrong entries are, and their share per index of each axis."""
    wrong = np.asarray(mask, dtype=bool)
    if wrong.ndim == 0 or wrong.size < 3:
        return "", {}
    looked = np.ones_like(wrong)
    return pattern(wrong, looked), marginals(wrong, looked)


def solution_problems(loaded: Loaded, seed: int) -> list[str]:
    """Return what is wrong with the gradients of an exercise's solution, found with numerical derivatives."""
    problems = []
    for number, check in enumerate([*loaded.checks, *loaded.hidden]):
        if not isinstance(check, Vjp):
            continue
        forward = check.forward(loaded.solution)
        for i, case in enumerate(check.cases(np.random.default_rng([seed, number]), loaded.solution)):
            inputs = case.extra["inputs"]
            report = check_pair(
                forward,
                _rule(check, loaded.solution, forward),
                tuple(inputs.values()),
                wrt=list(check.wrt),
                names=list(inputs),
                seed=seed,
                explain=False,
            )
            if not report:
                problems.append(f"the solution's {check.title!r}, case {i + 1}, differs from differences:\n{report}")
    return problems
