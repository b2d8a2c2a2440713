"""Kinks: what a rule may return where the function has no derivative.

At a kink every value between the one-sided derivatives is legal, but not entry by entry: of several tied maxima each
may have a share between 0 and 1, and the shares must add up to 1. So each output with a kink is looked at alone, its
row S of the Jacobian is read off the rule, and along directions v on the kinky entries

    -f'(z; -v) <= <S, v> <= f'(z; v)

has to hold. These are the bounds of the subdifferential where f is convex (relu, abs, max) and, with the bounds
exchanged, where it is concave. Where they are violated, gradients at smooth points near by widen them to those of the
generalised gradient, which covers differences of convex functions.

Source: Clarke, Optimization and Nonsmooth Analysis, Wiley 1983, chapter 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .derivative import Jacobian, along, one_sided
from .problem import Array, Problem, jitter

__all__ = ["Verdict", "judge"]

MOST_ROWS = 200
DIRECTIONS = 12
NEIGHBOURS = 24
EVALUATIONS = 3_000


@dataclass
class Verdict:
    """What the rule does at the kinks.

    Attributes:
        illegal: entries of z with an illegal value -> (what the rule says, the nearest legal value, error).
        names: entry of z -> names of the conventions seen there.
        shares: entries whose values are legal one by one but not together.
        rows: how many outputs were examined, of `total`.
        rest: entry of z -> (what the rule says, what is right, tolerance) for the outputs without a kink in it.
    """

    illegal: dict[int, tuple[float, float, float]] = field(default_factory=dict)
    names: dict[int, set[str]] = field(default_factory=dict)
    shares: set[int] = field(default_factory=set)
    rows: int = 0
    total: int = 0
    rest: dict[int, tuple[float, float, float]] = field(default_factory=dict)

    def convention(self, entries: set[int]) -> str | None:
        """The one name that explains all of these entries, or "mixed"."""
        sets = [self.names[i] for i in entries if i in self.names]
        if not sets:
            return None
        common = set.intersection(*sets)
        for name in ("left", "right", "average", "first", "last", "split"):
            if name in common:
                return name
        return min(common) if common else "mixed"


def judge(
    problem: Problem, jac: Jacobian, f0: Array, g: Array, mine: Array, rng: np.random.Generator, most: int = MOST_ROWS
) -> Verdict:
    """Examine the rule at every output that has a kink in one of the examined entries.

    g is the upstream gradient of the comparison and `mine` what the rule said for it at the entries of `jac`.
    """
    verdict = Verdict()
    rows = np.flatnonzero(jac.kinks.any(axis=1))
    verdict.total = len(rows)
    if len(rows) > most:
        rows = np.sort(rng.choice(rows, most, replace=False))
    verdict.rows = len(rows)
    rates = _Rates(problem, jac, f0, rng)
    left = mine.copy()
    for row in rows:
        columns = np.flatnonzero(jac.kinks[row])
        e = np.zeros(f0.size)
        e[row] = 1.0
        s = problem.gradient(e)[jac.entries[columns]]
        left[columns] -= g[row] * s
        _row(verdict, rates, int(row), columns, s)
    if verdict.rows == verdict.total:
        # What remains of the gradient after the rows with a kink must come from the smooth rows.
        for j in np.flatnonzero(jac.kinks.any(axis=0)):
            smooth = ~jac.kinks[:, j]
            due = float(g[smooth] @ jac.values[smooth, j])
            top = float(np.abs(g) @ np.maximum(np.abs(jac.right[:, j]), np.abs(jac.left[:, j])))
            error = 8 * float(np.abs(g[smooth]) @ jac.errors[smooth, j]) + 1e-9 * top
            verdict.rest[int(jac.entries[j])] = (float(left[j]), due, error)
    return verdict


class _Rates:
    """Directional derivatives of all outputs, remembered, since rows share directions."""

    def __init__(self, problem: Problem, jac: Jacobian, f0: Array, rng: np.random.Generator) -> None:
        self.problem, self.jac, self.f0, self.rng = problem, jac, f0, rng
        self.known: dict[tuple[bytes, bytes], tuple[Array, Array]] = {}
        self.near: list[Array] | None = None

    def along(self, columns: Array, weights: Array) -> tuple[Array, Array]:
        """f'(z; v) of every output for v with these weights on these columns."""
        key = (columns.tobytes(), weights.tobytes())
        if key not in self.known:
            v = np.zeros_like(self.problem.z)
            v[self.jac.entries[columns]] = weights
            self.known[key] = one_sided(self.problem.f, self.problem.z, v, self.f0)
        return self.known[key]

    def neighbours(self) -> list[Array]:
        """Jacobians at smooth points close by, for all columns with a kink."""
        if self.near is None:
            z, self.near = self.problem.z, []
            kinky = np.flatnonzero(self.jac.kinks.any(axis=0))
            # An engine's rule has its ops checked one by one as well, so fewer neighbours will do there.
            budget = EVALUATIONS if self.problem.conventions is None else EVALUATIONS // 4
            for _ in range(int(np.clip(budget // (11 * max(1, len(kinky))), 2, NEIGHBOURS))):
                u = jitter(z, self.rng, 1e-4)
                u = np.where(np.isin(np.arange(z.size), self.jac.entries[kinky]), u, z)
                f0 = self.problem.f(u)
                values = np.zeros_like(self.jac.values)
                for j in kinky:
                    v = np.zeros_like(z)
                    v[self.jac.entries[j]] = 1.0
                    values[:, j] = along(self.problem.f, u, v, f0, 1e-6, 1e-7)[0]
                self.near.append(values)
        return self.near


def _row(verdict: Verdict, rates: _Rates, row: int, columns: Array, s: Array) -> None:
    jac = rates.jac
    right, left = jac.right[row, columns], jac.left[row, columns]
    low, high = np.minimum(left, right), np.maximum(left, right)
    scale = float(np.max(np.abs([low, high]), initial=0.0)) or 1.0
    error = 8 * jac.errors[row, columns] + 1e-8 * scale
    entries = jac.entries[columns]
    for i, value, a, b, e in zip(entries, s, low, high, error, strict=True):
        if not a - e <= value <= b + e:
            verdict.illegal[int(i)] = (float(value), float(np.clip(value, a, b)), float(e))
    if any(int(i) in verdict.illegal for i in entries):
        return
    count = len(columns)
    if count > 1 and not _jointly(rates, row, columns, s, scale):
        for i, value in zip(entries, s, strict=True):
            verdict.illegal[int(i)] = (float(value), float(value) / count, float(error.max()))
            verdict.shares.add(int(i))
        return
    coupled = count > 1 and _coupled(rates, row, columns, right, scale)
    names = _tie_names(s, low, high, error) if coupled else None
    for k, i in enumerate(entries):
        one = names if names is not None else _side_names(s[k], left[k], right[k], error[k])
        verdict.names[int(i)] = verdict.names[int(i)] & one if int(i) in verdict.names else one


def _jointly(rates: _Rates, row: int, columns: Array, s: Array, scale: float) -> bool:
    """Whether the values are legal together: along all-ones and along random directions."""
    rng = np.random.default_rng([len(columns), int(columns[0])])
    directions = [np.ones(len(columns)), *rng.normal(size=(DIRECTIONS, len(columns)))]
    for v in directions:
        forward, e1 = rates.along(columns, v)
        backward, e2 = rates.along(columns, -v)
        low, high = sorted((float(forward[row]), -float(backward[row])))
        slack = 8 * float(e1[row] + e2[row]) + 1e-8 * scale * float(np.abs(v).sum())
        if not np.isfinite(slack):
            continue
        value = float(s @ v)
        if low - slack <= value <= high + slack:
            continue
        seen = [float(near[row, columns] @ v) for near in rates.neighbours()]
        slack += 1e-5 * scale * float(np.abs(v).sum())
        if not min(low, *seen) - slack <= value <= max(high, *seen) + slack:
            return False
    return True


def _coupled(rates: _Rates, row: int, columns: Array, right: Array, scale: float) -> bool:
    """Whether the kinks belong together (a tie) rather than happening to lie in one output."""
    together, _ = rates.along(columns, np.ones(len(columns)))
    return abs(float(together[row]) - float(right.sum())) > 1e-4 * scale


def _side_names(s: float, left: float, right: float, error: float) -> set[str]:
    gap = right - left
    share = (s - left) / gap
    slack = abs(error / gap) + 1e-9
    names = {n for n, t in (("left", 0.0), ("right", 1.0), ("average", 0.5)) if abs(share - t) <= slack}
    return names or {f"{share:.3g}"}


def _tie_names(s: Array, low: Array, high: Array, error: Array) -> set[str]:
    """first, last or split, by where the whole of the gradient went. Shares run from 0 to 1 at a tie."""
    gap = high - low
    # At a tie of maxima the share of an entry runs from low (0) to high (1); at a tie of minima the sign is turned.
    share = np.where(np.abs(high) >= np.abs(low), (s - low) / gap, (high - s) / gap)
    slack = float(np.max(error / gap)) + 1e-9
    count = len(s)
    names = set()
    for name, wanted in (
        ("first", np.eye(count)[0]),
        ("last", np.eye(count)[-1]),
        ("split", np.full(count, 1 / count)),
    ):
        if np.all(np.abs(share - wanted) <= slack):
            names.add(name)
    if not names:
        names.add("one" if np.all((np.abs(share) <= slack) | (np.abs(share - 1) <= slack)) else "other")
    return names
