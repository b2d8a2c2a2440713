"""The check itself: contract, derivative, kinks, place, cause."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..backend import finfo
from ..backend.threads import single_threaded_blas
from ..errors import OptionError, TinygradError
from . import contract, kinks
from .derivative import FIRST_STEP, Jacobian, complex_step, examine, jacobian, slopes
from .diagnose import diagnose, nearest, unused
from .localise import marginals, pattern, typical
from .mistakes import Mistake
from .problem import Array, Problem, axis_names, jitter
from .report import Cause, Finding, Kinks, Part, Report, Worst, entries_text
from .trial import WHOLE, Trial

__all__ = ["Settings", "check_pair", "run"]

EVERY = 2_000  # up to so many entries all are compared
SAMPLE = 300  # above, so many, spread over the inputs
DIRECTIONS = 3
TRIALS = 3
Mode = Literal["auto", "screen", "full", "rows"]
KinkMode = Literal["name", "accept", "strict"]


@dataclass(frozen=True)
class Settings:
    """How a check is done; the arguments of `check_pair` and `gradcheck` in one place."""

    mode: Mode = "auto"
    kinks: KinkMode = "name"
    convention: str | None = None
    step: float | str = "auto"
    seed: int = 0
    alias: Literal["note", "fail"] = "note"
    mistakes: tuple[Mistake, ...] = ()
    axes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    explain: bool = True
    sample: int = SAMPLE

    def __post_init__(self) -> None:
        for name, allowed in (("mode", Mode), ("kinks", KinkMode)):
            value = getattr(self, name)
            if value not in allowed.__args__:  # type: ignore[attr-defined]
                raise OptionError(f"{name}={value!r}: choose one of {', '.join(map(repr, allowed.__args__))}")  # type: ignore[attr-defined]
        if isinstance(self.step, str) and self.step not in ("auto", "complex"):
            raise OptionError(f"step={self.step!r}: give 'auto', 'complex' or a number")
        if not isinstance(self.step, str) and not self.step > 0:
            raise OptionError(f"step={self.step!r}: a step must be positive")


def check_pair(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    args: Any,
    *,
    options: dict[str, Any] | None = None,
    wrt: Any = None,
    reference: Callable[..., Any] | None = None,
    mistakes: Sequence[Mistake] = (),
    names: Sequence[str] | None = None,
    axes: dict[str, tuple[str, ...]] | None = None,
    cases: int = 1,
    mode: Mode = "auto",
    kinks: KinkMode = "name",
    convention: str | None = None,
    step: float | str = "auto",
    seed: int | None = None,
    alias: Literal["note", "fail"] = "note",
    name: str = "",
    explain: bool = True,
) -> Report:
    """Compare a backward rule in plain NumPy with the derivative of the forward function it belongs to.

    Args:
        forward: `forward(*args, **options)` returns an array or a tuple of arrays.
        backward: `backward(dout, *args, **options)` returns the gradient of every checked input, in their order
            (one may be bare; a dict by name is allowed). dout has the form of the output.
        args: the point, or `args(rng)` that draws one: a tuple of args, or (args, options).
        options: keyword arguments of both functions.
        wrt: names or positions of the checked inputs. Default: every array of floating point numbers.
        reference: a rule known to be right, with the signature of `backward`. It makes naming the cause faster and is
            itself compared with differences first; without it differences serve.
        mistakes: typical mistakes of this rule, tried before the general ones.
        names: names of the args in messages. Default: the parameter names of `forward`.
        axes: input name -> names of its axes in messages.
        cases: how many points are checked: the given one and random ones of the same kind.
        mode: "auto" compares every entry up to 2 000 and a stratified sample above, "full" every entry, "screen"
            three random directions per input, "rows" every entry of the Jacobian.
        kinks: "name" accepts what is legal at a kink and names the convention, "accept" accepts without naming,
            "strict" demands `convention`.
        convention: "left", "right", "average", "first", "last" or "split", for kinks="strict".
        step: first step of the differences, "auto", or "complex" for a second opinion by the complex step.
        seed: of all random numbers. Default: fresh entropy; the report tells it.
        alias: whether a gradient that shares memory with an input or with dout fails or is only noted.
        name: what the report calls the rule.
        explain: whether to look for the cause of an error.

    Returns:
        A `Report`, true if everything is right.

    Example:
        >>> x = np.array([0.3, -1.2])
        >>> report = check_pair(np.tanh, lambda dout, x: dout * (1 - x**2), (x,), names=["x"], seed=1)
        >>> bool(report), report.cause.id
        (False, 'output missing for x')
    """
    seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed)
    settings = Settings(mode, kinks, convention, step, seed, alias, tuple(mistakes), dict(axes or {}), explain)

    def problem_at(number: int) -> Problem:
        return _draw(number, forward, backward, args, options, wrt, reference, names, name, seed)

    return run(problem_at, settings, cases)


def _draw(
    number: int,
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    args: Any,
    options: dict[str, Any] | None,
    wrt: Any,
    reference: Callable[..., Any] | None,
    names: Sequence[str] | None,
    name: str,
    seed: int,
) -> Problem:
    rng = np.random.default_rng([seed, number])
    given, chosen = args, dict(options or {})
    if callable(args):
        given = args(rng)
        if (
            isinstance(given, tuple)
            and len(given) == 2
            and isinstance(given[0], (tuple, list))
            and isinstance(given[1], dict)
        ):
            given, chosen = given[0], {**chosen, **given[1]}
    if not isinstance(given, (tuple, list)):
        given = (given,)
    problem = Problem(forward, backward, given, chosen, wrt=wrt, names=names, reference=reference, name=name)
    if number and not callable(args):
        return problem.at(elsewhere(problem.z, rng))
    return problem


def elsewhere(z: Array, rng: np.random.Generator) -> Array:
    """Another point of the same kind: signs are kept, so that logarithms and roots stay defined."""
    spread = float(np.max(np.abs(z), initial=0.0)) or 1.0
    moved = z * rng.uniform(0.6, 1.4, z.shape)
    return np.where(z == 0, 0.1 * spread * rng.normal(size=z.shape), moved)


def run(problem_at: Callable[[int], Problem], settings: Settings, cases: int = 1) -> Report:
    """Check the problems number 0 to cases - 1; draw further ones to find the cause of an error."""
    with single_threaded_blas():  # thousands of small products, which threads only slow down
        return _run(problem_at, settings, cases)


def _run(problem_at: Callable[[int], Problem], settings: Settings, cases: int) -> Report:
    started = time.perf_counter()
    report = Report("", seed=settings.seed)
    for number in range(max(1, cases)):
        problem = problem_at(number)
        report.name = problem.name
        try:
            case = _Case(problem, settings, number)
        except TinygradError:
            raise
        except Exception as error:
            text = f"the forward function raised {type(error).__name__}: {error}"
            report.findings.append(Finding("forward", text))
            break
        case.check(report)
        if not report.ok:
            if settings.explain:
                _explain(report, case, problem_at, settings)
            report.evaluations += problem.calls
            break
        report.evaluations += problem.calls
    report.seconds = time.perf_counter() - started
    return report


class _Case:
    """One point under examination."""

    def __init__(self, problem: Problem, settings: Settings, number: int) -> None:
        self.problem, self.settings, self.number = problem, settings, number
        self.rng = np.random.default_rng([settings.seed, 7919, number])
        self.f0 = problem.f(problem.z)
        self.g = self.rng.normal(size=self.f0.size)
        self.at_kinks = False
        self.smooth_ok = True
        self.observed: contract.Observation | None = None

    def check(self, report: Report) -> None:
        """Add the verdict on this point to the report."""
        p = self.problem
        if not np.all(np.isfinite(self.f0)):
            report.findings.append(Finding("forward", "the forward function returns NaN or infinity at this point"))
            return
        if self.f0.tobytes() != p.f(p.z).tobytes():
            text = "the forward function gives two different outputs for the same input; fix its random numbers"
            report.findings.append(Finding("forward", text))
            return
        seen = self.observed = contract.examine(p, self.g, alias=self.settings.alias)
        parts = []
        for k in range(len(p.wrt)):
            part = Part(p.label(k), p.shapes[k], case=self.number, findings=seen.parts[k])
            if any(f.fails for f in part.findings) or not seen.usable[k]:
                part.status = "fail"
            parts.append(part)
        report.findings += [f for f in seen.general if f not in report.findings]
        report.parts += parts
        usable = [k for k in range(len(p.wrt)) if seen.usable[k]]
        if seen.raw is None or not all(seen.usable):
            return
        if self.settings.mode == "screen":
            self._screen(parts)
            return
        self._compare(parts, usable)

    # --- random directions

    def _screen(self, parts: list[Part]) -> None:
        self._directions(self.problem, parts)
        if any(part.kinks is not None for part in parts) and all(part.ok for part in parts):
            # At kinks only bounds can be checked, so look once more close by, where there are none.
            beside = self.problem.at(jitter(self.problem.z, self.rng))
            if np.all(np.isfinite(beside.f(beside.z))):
                self._directions(beside, parts)
                self.problem.calls += beside.calls

    def _directions(self, p: Problem, parts: list[Part]) -> None:
        s = p.gradient(self.g)
        for k, part in enumerate(parts):
            for _ in range(DIRECTIONS):
                v = np.zeros_like(p.z)
                v[p.part(k)] = self.rng.normal(size=v[p.part(k)].size)
                v /= float(np.linalg.norm(v)) or 1.0
                low, high, errors, kinky = slopes(p.f, p.z, v)
                # An output at a kink may contribute anything between its two slopes.
                ends = np.stack([self.g * low, self.g * high])
                least, most = float(ends.min(axis=0).sum()), float(ends.max(axis=0).sum())
                e, mine = float(np.abs(self.g) @ errors), float(s @ v)
                d = min(max(mine, least), most)
                part.checked += 1
                part.directions = True
                size = max(abs(d), float(np.linalg.norm(s[p.part(k)])) / np.sqrt(max(1, v[p.part(k)].size)))
                part.max_rel_err = max(part.max_rel_err, abs(mine - d) / (size or 1.0))
                if kinky.any():
                    part.kinks = Kinks(int(kinky.sum()), None, True, "(outputs; only their sum was looked at)")
                if not abs(mine - d) <= 8 * e + 1e-9 * size + 1e-12:
                    part.wrong += 1
                    part.status = "fail"
                    part.where = "along a random direction"
                    part.worst = part.worst or [Worst((), mine, d, e)]
                    part.ratios.append(mine / d if d else np.inf)

    # --- entries

    def _entries(self) -> Array:
        """Every entry, or a sample from every input with its first and last entries and the corners of its axes."""
        p = self.problem
        total = p.z.size
        if total <= EVERY or self.settings.mode in ("full", "rows"):
            return np.arange(total)
        chosen: list[Array] = []
        sizes = [int(np.prod(shape, dtype=int)) for shape in p.shapes]
        share = max(8, self.settings.sample // len(sizes))
        for _ in sizes:  # what small inputs leave over is spread over the others
            rest = self.settings.sample - sum(min(n, share) for n in sizes)
            if rest <= 0 or all(n <= share for n in sizes):
                break
            share += max(1, rest // sum(n > share for n in sizes))
        for k, (shape, size) in enumerate(zip(p.shapes, sizes, strict=True)):
            if size <= share:
                picked = np.arange(size)
            else:
                ends = [(0, n - 1) for n in shape[-3:]]
                corners = np.array(np.meshgrid(*ends)).reshape(len(ends), -1)
                lead = [np.zeros(corners.shape[1], int)] * (len(shape) - len(ends))
                corner = np.unique(np.ravel_multi_index((*lead, *corners), shape))
                others = np.setdiff1d(self.rng.choice(size, min(size, share + 8), False), corner)
                picked = np.sort(np.concatenate([corner, others[: max(0, share - len(corner))]]))
            chosen.append(picked + p.bounds[k])
        return np.concatenate(chosen)

    def _compare(self, parts: list[Part], usable: list[int]) -> None:
        p = self.problem
        entries = self._entries()
        s = p.gradient(self.g)
        whole = self.f0.size * len(entries) <= WHOLE
        first = self.settings.step if not isinstance(self.settings.step, str) else FIRST_STEP
        if whole:
            function, f0, weights = p.f, self.f0, self.g
        else:
            function, f0, weights = self._projected, np.array([self.g @ self.f0]), np.ones(1)
        jac = jacobian(function, p.z, entries, f0, fingerprint=p.watch, first=first)
        rough = np.asarray(jac.kinks.any(axis=0))
        d, e = weights @ jac.values, np.abs(weights) @ jac.errors
        mine = s[entries]
        tolerance = self._tolerance(entries, d, e)
        wrong = self._confirm(jac, function, f0, weights, mine, d, tolerance, ~rough)
        lost = ~np.isfinite(d)
        if lost.any():
            self._lost(parts, entries, lost)
            wrong, d, tolerance = wrong & ~lost, np.where(lost, mine, d), np.where(lost, np.inf, tolerance)
        rough = np.asarray(jac.kinks.any(axis=0))
        verdict = None
        if rough.any():
            self.at_kinks = True
            verdict = self._kinks(jac, mine, wrong, tolerance, whole)
        if self.settings.mode == "rows" and whole:
            self._rows(jac, wrong, d)
        if self.settings.step == "complex":
            self._complex(entries, d, parts)
        excused = self._composite(jac, weights, mine, d, tolerance, wrong, verdict)
        self._fill(parts, usable, entries, mine, d, tolerance, wrong, rough, verdict, jac, excused)
        if (rough.any() or excused.any()) and all(part.ok for part in parts):
            self._recheck(parts)
        self._precision(parts, jac, weights)
        if all(part.ok for part in parts):
            self._suspicion(parts, s)

    def _lost(self, parts: list[Part], entries: Array, lost: Array) -> None:
        """Entries at which every probe leaves the domain of the function are not judged, and that is said."""
        p = self.problem
        for k, part in enumerate(parts):
            inside = (entries >= p.bounds[k]) & (entries < p.bounds[k + 1])
            count = int((lost & inside).sum())
            if not count:
                continue
            part.checked -= count
            every = count == int(inside.sum())
            text = f"{entries_text(count)} of {part.name} cannot be judged: the function is not finite beside them"
            part.findings.append(Finding("domain", text, fails=every))
            if every:
                part.status = "fail"

    def _projected(self, z: Array) -> Array:
        return np.array([self.g @ self.problem.f(z)])

    def _tolerance(self, entries: Array, d: Array, e: Array) -> Array:
        p = self.problem
        tolerance = 8 * e + 1e-9 * np.abs(d)
        for k in range(len(p.wrt)):
            inside = (entries >= p.bounds[k]) & (entries < p.bounds[k + 1])
            tolerance[inside] += 1e-12 * float(np.max(np.abs(d[inside & np.isfinite(d)]), initial=0.0))
        return np.asarray(tolerance)

    def _confirm(
        self,
        jac: Jacobian,
        function: Callable[[Array], Array],
        f0: Array,
        weights: Array,
        mine: Array,
        d: Array,
        tolerance: Array,
        smooth: Array,
    ) -> Array:
        """Which smooth entries are wrong, after the doubtful derivatives were computed again with more steps."""
        sure = 0
        while True:
            doubtful = np.flatnonzero(smooth & (np.abs(mine - d) > tolerance) & ~jac.sure)
            if not len(doubtful) or sure >= 3:
                break
            order = np.argsort(np.abs(mine - d)[doubtful] / tolerance[doubtful])[::-1]
            for j in doubtful[order[:16]]:
                examine(jac, function, self.problem.z, f0, int(j))
                if jac.kinks[:, j].any():
                    smooth[j] = False
                    continue
                d[j] = weights @ jac.values[:, j]
                error = np.abs(weights) @ jac.errors[:, j]
                tolerance[j] = self._tolerance(jac.entries[j : j + 1], d[j : j + 1], error.reshape(1))[0]
                sure += bool(abs(mine[j] - d[j]) > tolerance[j])
        return np.asarray(smooth & ~(np.abs(mine - d) <= tolerance))

    def _kinks(self, jac: Jacobian, mine: Array, wrong: Array, tolerance: Array, whole: bool) -> kinks.Verdict | None:
        if not whole:
            return None
        return kinks.judge(self.problem, jac, self.f0, self.g, mine, self.rng)

    def _composite(
        self,
        jac: Jacobian,
        weights: Array,
        mine: Array,
        d: Array,
        tolerance: Array,
        wrong: Array,
        verdict: kinks.Verdict | None,
    ) -> Array:
        """Which entries the engine differentiates as it should although their value is not the derivative.

        relu(x) - relu(-x) has the derivative 1 at 0, and automatic differentiation with relu'(0) = 0 gives 0: it takes
        the slopes of two different pieces. So where an inner op lies on a kink, the derivative only has to lie between
        the values that the conventions give.
        """
        p = self.problem
        excused = np.zeros(len(mine), bool)
        illegal = np.array([verdict is not None and int(i) in verdict.illegal for i in jac.entries], bool)
        doubtful = np.flatnonzero(wrong | illegal)
        if p.conventions is None or p.watch is None or not len(doubtful):
            return excused
        here = p.watch(p.z)
        touched = []
        for j in doubtful[:EVERY]:
            i = int(jac.entries[j])
            steps = []
            for sign in (1.0, -1.0):
                probe = p.z.copy()
                probe[i] += sign * 1e-7 * max(1.0, abs(float(p.z[i])))
                steps.append(p.watch(probe))
            if any(s != here for s in steps):
                touched.append(int(j))
        if not touched or (p.locally_legal is not None and not p.locally_legal()):
            return excused
        values = np.stack([v[jac.entries] for v in p.conventions(self.g, p.z).values()])
        low, high = values.min(axis=0), values.max(axis=0)
        right, left = weights @ jac.right, weights @ jac.left
        for j in touched:
            slack = float(tolerance[j]) + 1e-7 * max(abs(float(low[j])), abs(float(high[j])))
            bottom, top = min(right[j], left[j]), max(right[j], left[j])
            inside = low[j] - slack <= mine[j] <= high[j] + slack
            excused[j] = inside and low[j] - slack <= top and bottom <= high[j] + slack
        return excused

    def _precision(self, parts: list[Part], jac: Jacobian, weights: Array) -> None:
        """Judge the gradients in the tensors' own type and on their own device."""
        p = self.problem
        if p.original is None:
            return
        exact = p.arrays(p.gradient(self.g))
        condition = np.zeros_like(p.z)
        condition[jac.entries] = np.abs(weights) @ np.abs(jac.values)
        for k, low in enumerate(p.original(self.g)):
            if low is None:
                continue
            part, high = parts[k], exact[k]
            kind = str(p.dtypes[k])
            top = float(np.max(np.abs(high), initial=0.0))
            unit = float(finfo(p.dtypes[k]).eps)
            if not np.isfinite(low).all():
                part.status = "fail"
                part.findings.append(Finding("precision", f"in {kind} the gradient is not finite, in float64 it is"))
                continue
            off = float(np.max(np.abs(low - high), initial=0.0))
            bound = 64 * unit * max(float(np.max(np.nan_to_num(condition[p.part(k)]), initial=0.0)), top)
            if off > bound and not p.same_pieces:
                text = f"in {kind} rounding decides ties and signs otherwise than in float64, so the gradients differ"
                part.findings.append(Finding("precision", text, fails=False))
            elif off > bound + 0.02 * top:
                part.status = "fail"
                text = f"in {kind} the gradient is another one than in float64: they differ by {off:.1e} of {top:.1e}"
                part.findings.append(Finding("precision", text))
            else:
                part.rounding = off / (top or 1.0)
                verdict = "rounding only" if off <= bound else "precision is lost"
                part.precision = f"{kind} differs from float64 by {off:.1e} of {top:.1e} (bound {bound:.1e}): {verdict}"

    def _suspicion(self, parts: list[Part], s: Array) -> None:
        """Remark where a right result is only as exact as finite differences are. A suspicion, no verdict."""
        p = self.problem
        if p.reference is None:
            return
        try:
            due = p.flat(p.results(p.reference(p.cotangent(self.g), *p.all_args(p.z), **p.options)))
        except Exception:
            return
        for k, part in enumerate(parts):
            mine, right = s[p.part(k)], due[p.part(k)]
            top = float(np.max(np.abs(right), initial=0.0))
            off = float(np.max(np.abs(mine - right), initial=0.0)) / (top or 1.0)
            if 1e-12 < off < 1e-8:
                text = f"d{part.name} is right to {off:.0e} only; is it computed by finite differences?"
                part.findings.append(Finding("differences", text, fails=False))

    def _rows(self, jac: Jacobian, wrong: Array, d: Array) -> None:
        """Compare row by row: an error that another row cancels shows here."""
        p = self.problem
        for row in range(self.f0.size):
            e = np.zeros(self.f0.size)
            e[row] = 1.0
            s = p.gradient(e)[jac.entries]
            right = jac.values[row]
            top = float(np.max(np.abs(right), initial=0.0))
            off = np.abs(s - right) > 8 * jac.errors[row] + 1e-7 * np.abs(right) + 1e-9 * top + 1e-12
            wrong |= off & ~jac.kinks.any(axis=0)

    def _complex(self, entries: Array, d: Array, parts: list[Part]) -> None:
        """Compare a few derivatives with the complex step and remark where it differs: it is the less trustworthy."""
        p = self.problem
        for j in self.rng.choice(len(entries), min(5, len(entries)), replace=False):
            column = complex_step(p.f, p.z, int(entries[j]))
            k, _ = p.where(int(entries[j]))
            if column is None:
                text = "the forward function does not compute with complex numbers, so the complex step was not used"
            elif abs(float(self.g @ column) - d[j]) > 1e-6 * max(1.0, abs(d[j])):
                text = "the complex step disagrees with real differences: |x| or var in the function make it invalid"
            else:
                continue
            parts[k].findings.append(Finding("step", text, fails=False))
            return

    def _fill(
        self,
        parts: list[Part],
        usable: list[int],
        entries: Array,
        mine: Array,
        d: Array,
        tolerance: Array,
        wrong: Array,
        rough: Array,
        verdict: kinks.Verdict | None,
        jac: Jacobian,
        excused: Array | None = None,
    ) -> None:
        """Write the findings into the parts."""
        p = self.problem
        d, tolerance = d.copy(), tolerance.copy()
        if excused is not None and excused.any():
            wrong = wrong & ~excused
        rough = np.asarray(jac.kinks.any(axis=0))
        if verdict is not None:
            for j in np.flatnonzero(rough):
                i = int(entries[j])
                if excused is not None and excused[j]:
                    d[j] = mine[j]
                elif i in verdict.illegal:
                    wrong[j] = True
                    off, legal, error = verdict.illegal[i]
                    d[j], tolerance[j] = mine[j] + self._weight(jac, int(j)) * (legal - off), error
                else:
                    d[j] = mine[j]
                    rest = verdict.rest.get(i)
                    if rest is not None:
                        stated, due, error = rest
                        if abs(stated - due) > error:
                            wrong[j], d[j], tolerance[j] = True, mine[j] + due - stated, error
        for k in usable:
            inside = np.flatnonzero((entries >= p.bounds[k]) & (entries < p.bounds[k + 1]))
            if not len(inside):
                continue
            if excused is not None and excused[inside].any():
                d = np.where(excused, mine, d)
                self._note_composite(parts[k], int(excused[inside].sum()))
                if verdict is not None:
                    for j in inside[excused[inside]]:
                        verdict.illegal.pop(int(entries[j]), None)
            self._fill_part(parts[k], k, inside, entries, mine, d, tolerance, wrong, rough, verdict)

    @staticmethod
    def _note_composite(part: Part, count: int) -> None:
        text = (
            f"{entries_text(count)} of {part.name} on kinks inside of the function: legal for automatic "
            "differentiation, though not the derivative; no mistake"
        )
        part.findings.append(Finding("composite kink", text, fails=False))

    def _weight(self, jac: Jacobian, j: int) -> float:
        rows = np.flatnonzero(jac.kinks[:, j])
        return float(self.g[rows[0]]) if len(rows) and jac.values.shape[0] == self.g.size else 1.0

    def _fill_part(
        self,
        part: Part,
        k: int,
        inside: Array,
        entries: Array,
        mine: Array,
        d: Array,
        tolerance: Array,
        wrong: Array,
        rough: Array,
        verdict: kinks.Verdict | None,
    ) -> None:
        p, shape = self.problem, part.shape
        part.checked += len(inside)
        part.wrong += int(wrong[inside].sum())
        top = float(np.max(np.abs(d[inside]), initial=0.0)) or 1.0
        off = np.abs(mine - d)[inside]
        size = np.maximum(np.maximum(np.abs(mine), np.abs(d))[inside], 1e-3 * top)
        part.max_rel_err = max(part.max_rel_err, float(np.max(off / size, initial=0.0)))
        smooth_count = int((~rough[inside]).sum())
        if rough[inside].any():
            part.kinks = self._part_kinks(verdict, [int(entries[j]) for j in inside if rough[j]], part.kinks)
            if not part.kinks.legal:
                part.status = "fail"
        bad = inside[wrong[inside]]
        if len(bad):
            part.status = "fail"
            self.smooth_ok = self.smooth_ok and not np.any(wrong[inside] & ~rough[inside])
            for j in bad[np.argsort(np.abs(mine - d)[bad])[::-1][:5]]:
                index = p.where(int(entries[j]))[1]
                part.worst.append(Worst(index, float(mine[j]), float(d[j]), float(tolerance[j])))
            mask, looked = np.zeros(shape, bool).reshape(-1), np.zeros(shape, bool).reshape(-1)
            looked[entries[inside] - p.bounds[k]] = True
            mask[entries[bad] - p.bounds[k]] = True
            names = self.settings.axes.get(part.name)
            names = names if names is not None and len(names) == len(shape) else axis_names(shape, part.name)
            part.where = pattern(mask.reshape(shape), looked.reshape(shape), names)
            if smooth_count and np.all(rough[bad]):
                part.where = "only at kinks (zeros and ties)"
            part.axes = marginals(mask.reshape(shape), looked.reshape(shape), names)
            picture = np.full(shape, -np.nan).reshape(-1)
            picture[entries[inside] - p.bounds[k]] = np.where(wrong[inside], np.abs(mine - d)[inside], 0.0)
            part.error_map = picture.reshape(shape)

    def _part_kinks(self, verdict: kinks.Verdict | None, found: list[int], before: Kinks | None) -> Kinks:
        if verdict is None:
            return Kinks(len(found), None, True, "(too many outputs: only checked beside the kinks)")
        legal = not any(i in verdict.illegal for i in found)
        convention = verdict.convention(set(found)) if self.settings.kinks != "accept" else None
        note = (
            f"({verdict.rows} of {verdict.total} outputs with kinks examined)" if verdict.rows < verdict.total else ""
        )
        if self.settings.kinks == "strict" and legal and self.settings.convention is not None:
            named = set.intersection(*[verdict.names[i] for i in found if i in verdict.names] or [set()])
            if self.settings.convention not in named and verdict.names:
                legal, note = False, f"(the {self.settings.convention} convention is wanted here)"
        shares = any(i in verdict.shares for i in found)
        return Kinks(len(found), convention, legal, note, shares)

    def _recheck(self, parts: list[Part]) -> None:
        """Compare once more close by, where nothing is at a kink: a legal value may hide a wrong constant."""
        p = self.problem
        z = jitter(p.z, self.rng)
        try:
            near = p.at(z)
            f0 = near.f(near.z)
        except Exception:
            return
        if not np.all(np.isfinite(f0)) or f0.size * z.size > WHOLE:
            return
        p.calls += near.calls
        beside = _Case(near, self.settings, self.number)
        others = [Part(part.name, part.shape, case=self.number) for part in parts]
        entries = beside._entries()
        jac = jacobian(near.f, near.z, entries, f0, fingerprint=near.watch)
        d, e = beside.g @ jac.values, np.abs(beside.g) @ jac.errors
        mine = near.gradient(beside.g)[entries]
        tolerance = beside._tolerance(entries, d, e)
        rough = np.asarray(jac.kinks.any(axis=0))
        wrong = beside._confirm(jac, near.f, f0, beside.g, mine, d, tolerance, ~rough)
        beside._fill(others, list(range(len(others))), entries, mine, d, tolerance, wrong, rough, None, jac)
        p.calls += near.calls
        for part, other in zip(parts, others, strict=True):
            if other.wrong:
                part.status, part.wrong, part.checked = "fail", other.wrong, other.checked
                part.worst, part.where, part.axes = other.worst, f"{other.where} (beside the kinks)", other.axes
                part.error_map = other.error_map


# --- causes


def _explain(report: Report, case: _Case, problem_at: Callable[[int], Problem], settings: Settings) -> None:
    """Look for the cause of every wrong gradient."""
    seen = case.observed
    if seen is None or (seen.raw is None and not any(f.check == "raised" for f in seen.general)):
        return
    trials = list(_trials(case, problem_at, settings))
    for k, part in enumerate(report.parts[-len(case.problem.wrt) :]):
        if part.ok:
            continue
        if part.kinks is not None and not part.kinks.legal:
            part.causes += _kink_causes(part)
        if "accumulates" in seen.flags:
            text = "the result grows with every call: gradients of earlier calls are not cleared."
            part.causes.append(Cause("accumulates", text, "property", 1.0, 2))
        elif "repeatable" in seen.flags:
            text = "the rule draws new random numbers, or keeps a state, between calls."
            part.causes.append(Cause("not repeatable", text, "property", 1.0, 2))
        named = diagnose(trials, k, settings.mistakes) if len(trials) >= 2 else _along_directions(part)
        part.causes = named + part.causes
        if not part.causes and 0 < part.max_rel_err < 1e-5:
            text = f"it is right to {part.max_rel_err:.0e}: computed by finite differences, or in lower precision?"
            part.causes.append(Cause("nearly right", text, "pattern", 0.5))
        if not part.causes:
            hint = typical(part.where)
            if hint is not None:
                part.causes.append(Cause(hint[0], hint[1], "pattern", 0.4))
            for name in unused(trials[0], k) if trials else []:
                text = f"the result does not change with {name}, but the gradient does"
                part.causes.append(Cause(f"unused {name}", text, "pattern", 0.6))
        if not any(c.kind != "pattern" for c in part.causes) and trials:
            part.nearest = nearest(trials[0], k)
        part.ruled_out = _ruled_out(trials, k, part)


def _along_directions(part: Part) -> list[Cause]:
    """What the ratios along random directions tell where there are too many entries for more."""
    ratios = part.ratios
    if len(ratios) < DIRECTIONS or not np.allclose(ratios, ratios[0], rtol=1e-8, atol=1e-12):
        return []
    if abs(ratios[0]) < 1e-12:
        return [Cause("zero", f"the gradient of {part.name} is zero: a path is missing.", "generic", 1.0, len(ratios))]
    if abs(ratios[0] + 1) < 1e-8:
        return [Cause("factor sign", "the sign is wrong.", "generic", 1.0, len(ratios))]
    return [Cause(f"factor {ratios[0]:.7g}", f"the right gradient times {ratios[0]:.7g}.", "generic", 1.0, len(ratios))]


def _trials(case: _Case, problem_at: Callable[[int], Problem], settings: Settings) -> Iterator[Trial]:
    """Independent cases in which a mistake must show again; where it does not, the given point with new dout."""
    made = 0
    for number in range(1000, 1000 + TRIALS):
        rng = np.random.default_rng([settings.seed, 104729, number])
        for drawn in (problem_at, lambda n: case.problem):
            try:
                problem = drawn(number)
                if case.at_kinks and drawn is problem_at:
                    problem = problem.at(jitter(problem.z, rng))
                trial = Trial(problem, rng)
            except Exception:
                continue
            if _shows(trial, case):
                made += 1
                yield trial
                break


def _shows(trial: Trial, case: _Case) -> bool:
    if trial.raised:
        return True
    for stated, right in zip(trial.stated, trial.right, strict=True):
        if stated is None or stated.shape != right.shape:
            return True
        if not np.isfinite(right).all():
            return False
        if not np.allclose(stated, right, rtol=1e-9, atol=1e-9 * float(np.max(np.abs(right), initial=0.0))):
            return True
    return False


def _kink_causes(part: Part) -> list[Cause]:
    kinks = part.kinks
    if kinks is None:
        return []
    if "convention is wanted" in kinks.note:
        text = f"the value at the kinks is legal but follows the {kinks.convention} convention."
        return [Cause(f"convention {kinks.convention}", text, "kink", 1.0, 2)]
    if kinks.shares:
        text = "tied entries together get more (or less) than the whole gradient: their shares must add up to 1."
        return [Cause("tie shares", text, "kink", 1.0, 2)]
    text = "the value at a kink lies outside of the one-sided derivatives, so it is no subgradient."
    return [Cause("kink outside", text, "kink", 1.0, 2)]


def _ruled_out(trials: list[Trial], k: int, part: Part) -> list[str]:
    """Frequent mistakes that this is not."""
    ids = {c.id for c in part.causes}
    if not trials or trials[0].stated[k] is None or part.findings:
        return []
    words = []
    if "upstream ignored" not in ids and not any(f.check == "linear" for f in part.findings):
        words.append("dout is used")
    if not any(i.startswith("factor") for i in ids):
        words.append("no constant factor")
    return words
