"""Run an exercise's checks on a student's code: contract, then value, then cause."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from . import gradients
from .checks import Answer, Bug, Case, Check, Kinked, Loaded, Property, Same, Vjp, same, slug
from .child import spread
from .compare import Difference, differ
from .format import EXPLAIN, Exercise, ExerciseError
from .result import CaseResult, Cause, CheckResult, Result, Worst
from .space import Space, StudentError

__all__ = ["default_seed", "kit_version", "run"]

CRASHES = {"syntax": "error", "raised": "error", "exit": "error", "crash": "error", "memory": "error",
           "output": "error", "timeout": "timeout"}  # fmt: skip
DIAGNOSIS_ROUNDS = 3


@dataclass(frozen=True)
class Form:
    """Another form in which a gradient's arguments may come, and what a function that minds it does wrong."""

    words: str
    make: Callable[[Any], Any]
    cause: str
    fix: str


def _locked(array: Any) -> Any:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


FORMS = (
    Form(
        "non-contiguous ones of the same values (as x.T and x[::2] are)",
        spread,
        "the code relies on how its arguments lie in memory: ravel() and reshape() of a non-contiguous array are "
        "copies, and zeros_like(x) takes over the memory order of x",
        "Make new arrays with np.zeros(x.shape), and write with indices, not through ravel() or reshape().",
    ),
    Form(
        "read-only ones",
        _locked,
        "the code writes into an argument, if only for a while",
        "Work on a copy: x = x.copy().",
    ),
)


def kit_version() -> str:
    try:
        return version("tinygrad-cnn")
    except PackageNotFoundError:
        return "unknown"


def default_seed(exercise: Exercise) -> int:
    """Return the seed used where none is given: the same for everybody, so that classmates see the same numbers."""
    return zlib.crc32(exercise.id.encode()) % 10000


def run(
    loaded: Loaded,
    space: Space,
    *,
    seed: int | None = None,
    full: bool = False,
    hidden: bool = False,
    explain: str | None = None,
    diagnose: bool = True,
    stop: bool = False,
) -> Result:
    """Check the code in `space` against an exercise.

    Args:
        seed: chooses the random cases; the same seed gives the same report.
        full: more cases (five seeds).
        hidden: also run the hidden checks.
        explain: how much the report tells; the exercise's `feedback` caps it.
        diagnose: whether to look for the cause of a failure.
        stop: leave out the checks behind the first one that fails.
    """
    exercise = loaded.exercise
    seed = default_seed(exercise) if seed is None else seed
    level = explain or "cause"
    if level not in EXPLAIN:
        raise ExerciseError(f"explain={level!r} is none of {', '.join(EXPLAIN)}")
    level = EXPLAIN[min(EXPLAIN.index(level), EXPLAIN.index(exercise.feedback))]
    started = time.perf_counter()
    result = Result(exercise.id, exercise.title, seed=seed, kit_version=kit_version(), explain=level)
    result.hidden_max = exercise.hidden_points if hidden and loaded.hidden else 0.0
    result.max = exercise.points + result.hidden_max
    groups = [(loaded.checks, exercise.points, False)]
    if hidden and loaded.hidden:
        groups.append((loaded.hidden, exercise.hidden_points, True))
    try:
        for checks, points, is_hidden in groups:
            fine: set[str] = set()  # titles of the checks that were passed
            total = sum(c.weight for c in checks)
            for number, check in enumerate(checks):
                outcome = _check(loaded, check, space, seed + (7919 if is_hidden else 0), number, full, diagnose, fine)
                fine |= {check.title} if outcome.status == "pass" else set()
                outcome.hidden = is_hidden
                result.checks.append(outcome)
                if stop and outcome.status != "pass":
                    break
                if outcome.status == "pass":
                    result.score += points * check.weight / total
    except _OverError as over:
        result.status, result.error, result.kind = over.status, over.text, over.error.kind
        result.layer = "load"
        if over.outcome is not None:
            result.checks.append(over.outcome)
    if result.status == "pass":
        statuses = {c.status for c in result.checks}
        for status in ("timeout", "error", "fail"):
            if status in statuses:
                result.status = status
                break
    failed = next((c for c in result.checks if c.status != "pass"), None)
    if failed is not None and not result.layer:
        result.layer = failed.layer
    result.seconds = time.perf_counter() - started
    return result


class _OverError(Exception):
    """The student's process is gone, or the file cannot be run: no further check makes sense."""

    def __init__(self, error: StudentError, outcome: CheckResult | None = None) -> None:
        self.error = error
        self.status = CRASHES.get(error.kind, "fail")
        self.text = located(error)
        self.outcome = outcome


def located(error: StudentError) -> str:
    place = f"line {error.line}" if error.line else ""
    if error.where and error.where != "<module>":
        place += f", in {error.where}()"
    return f"{place}: {error.text}" if place else error.text


def _rng(seed: int, number: int, round_: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, number, round_])


def _check(
    loaded: Loaded,
    check: Check,
    space: Space,
    seed: int,
    number: int,
    full: bool,
    diagnose: bool,
    fine: set[str],
) -> CheckResult:
    outcome = CheckResult(check.title, check.kind, weight=check.weight)
    try:
        present = not check.function or space.has(check.function)
    except StudentError as error:
        outcome.status, outcome.layer, outcome.message = CRASHES.get(error.kind, "fail"), "load", located(error)
        raise _OverError(error, outcome) from error
    if not present:
        what = "dict" if isinstance(check, Answer) else "function"
        outcome.status, outcome.layer = "fail", "load"
        outcome.message = f"the file defines no {what} {check.function}"
        return outcome
    for round_ in range(5 if full else 1):
        cases = _cases(loaded, check, _rng(seed, number, round_))
        outcome.of = len(cases)
        for i, case in enumerate(cases):
            outcome.number = i + 1
            found = _case(loaded, check, space, case, seed)
            if isinstance(check, Vjp) and found.result.status == "pass":
                # The first case is the general one; the others are edge cases, and often small.
                for form in [FORMS[0]] * (i == 0) + [FORMS[1]] * (i == len(cases) - 1):
                    if found.result.status == "pass":
                        _in_form(check, space, case, form, found)
            outcome.cases.append(found.result)
            outcome.notes += [n for n in found.notes if n not in outcome.notes]
            if found.result.status == "pass":
                continue
            outcome.status, outcome.layer, outcome.message = found.result.status, found.layer, found.text
            outcome.unwritten = found.error is not None and found.error.kind == "unwritten"
            if not outcome.unwritten:
                if diagnose:
                    _name(loaded, check, space, seed, number, found, outcome, fine)
                found.result.cause = outcome.causes
            if found.error is not None and found.error.kind in ("exit", "crash", "memory", "output", "timeout"):
                raise _OverError(found.error, outcome)
            return outcome
    return outcome


def _cases(loaded: Loaded, check: Check, rng: np.random.Generator) -> list[Case]:
    try:
        return list(check.cases(rng, loaded.solution))
    except ExerciseError:
        raise
    except Exception as error:  # a mistake in the exercise file
        words = f"the cases of {check.title!r} cannot be made: {type(error).__name__}: {error}"
        raise ExerciseError(f"{loaded.exercise.id}: {words}") from error


class _Found:
    """What one case showed."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.result = CaseResult(case.describe())
        self.layer = ""
        self.text = ""
        self.notes: list[str] = []
        self.error: StudentError | None = None
        self.difference: Difference | None = None
        self.causes: list[Cause] = []

    def fail(self, layer: str, text: str, status: str = "fail") -> _Found:
        self.layer, self.text, self.result.status = layer, text, status
        return self


def _case(loaded: Loaded, check: Check, space: Space, case: Case, seed: int) -> _Found:
    found = _Found(case)
    try:
        if isinstance(check, Property):
            complaint = check.observe(space, case)
            return found.fail("property", complaint) if complaint else found
        right = _reference(loaded, check, case)
        args: list[Any] | None = None
        if isinstance(check, (Same, Vjp)) and check.contract:
            args = case.args()
            seen = space.function(check.function)(*args)
        else:
            seen = check.observe(space, case)
    except StudentError as error:
        found.error = error
        return found.fail(
            "load" if error.kind == "unwritten" else "contract", located(error), CRASHES.get(error.kind, "fail")
        )
    if isinstance(check, Answer):
        return _answers(check, seen, right, found)
    if args is not None:
        edited = [n for n, a, b in zip(case.values, args, case.values.values(), strict=True) if not same(a, b, 0.0)]
        if edited:
            words = f"{check.function}() changes its argument {edited[0]}; work on a copy"
            found.causes = [Cause("argument-edited", 1.0, f"{edited[0]} is edited in place", cases=1)]
            return found.fail("contract", words)
    if isinstance(check, Vjp):
        broken, remarks = gradients.broken_contract(check, loaded.solution, space, case)
        found.notes += [r for r in remarks if "shares memory" not in r]  # what a first exercise need not know
        # A missing factor dout breaks linearity, but says more as a wrong value.
        if broken and "upstream" not in broken:
            return found.fail("contract", broken)
    if isinstance(check, Kinked):
        return _kinks(loaded, check, space, case, found, seed)
    difference = _difference(check, seen, right)
    if difference is None:
        return found
    found.difference = difference
    result = found.result
    result.arg = difference.path
    if difference.mask is not None:
        result.shape = difference.mask.shape
        result.share = float(difference.mask.mean())
        result.max_rel_err = difference.error
        if not np.iscomplexobj(difference.got):
            result.worst = Worst(difference.index, float(difference.got), float(difference.expected))
        result.heat = difference.mask if difference.sizes is None else difference.sizes
        result.where, result.axes = gradients.where_wrong(difference.mask)
    return found.fail(difference.layer, difference.text)


def _in_form(check: Vjp, space: Space, case: Case, form: Form, found: _Found) -> None:
    """Call a function that was right on ordinary arrays once more, with its arguments in another form."""
    args = [form.make(a) if isinstance(a, np.ndarray) else a for a in case.args()]
    words = f"{check.function}() is right for ordinary arrays, but not for {form.words}: "
    function = space.function(check.function)
    try:
        if same(function(*args), function(*case.args()), check.rtol):
            return
        found.fail("contract", words + "the values differ")
    except StudentError as error:
        found.error = error
        found.fail("contract", words + located(error), CRASHES.get(error.kind, "fail"))
    found.causes = [Cause(slug(form.words.split(" ones")[0]), 1.0, form.cause, form.fix, cases=1)]


def _difference(check: Check, seen: Any, right: Any) -> Difference | None:
    if not isinstance(check, Vjp):
        return differ(seen, right, check.rtol)
    parts = [(seen, right)] if check.single else zip(seen, right, strict=True)
    for name, (got, expected) in zip(check.wrt, parts, strict=True):
        found = differ(got, np.asarray(expected), check.rtol, f"d{name}")
        if found:
            return found
    return None


def _answers(check: Answer, seen: dict[Any, Any], right: dict[Any, Any], found: _Found) -> _Found:
    empty = [k for k in right if seen.get(k) is None and right[k] is not None]
    if len(empty) == len(right):
        found.error = StudentError("unwritten", f"{check.function}: nothing filled in yet")
        return found.fail("load", f"fill in the dict {check.function}")
    wrong = check.wrong_keys(seen, right)
    if not wrong:
        return found
    first = next((k for k in wrong if k not in empty), wrong[0])
    text = f"{len(wrong)} of {len(right)} answers are not right; the first: {check.function}[{first!r}]"
    text += " is empty" if first in empty else f" = {seen.get(first)!r}"
    if first in check.about:
        text += f". {check.about[first]}"
    return found.fail("value", text)


def _kinks(loaded: Loaded, check: Kinked, space: Space, case: Case, found: _Found, seed: int) -> _Found:
    report = gradients.judge_kinks(check, loaded.solution, space, case, seed)
    part = next(iter(report.failures), None)
    named = [p.kinks for p in report.parts if p.kinks is not None]
    if named:
        found.result.kinks = {"n": sum(k.count for k in named), "convention": report.convention}
        if report and report.convention:
            found.notes.append(f"your convention at kinks: {report.convention}")
    if report:
        return found
    if part is None:
        return found.fail("contract", next(f.text for f in report.findings if f.fails))
    words = next((f.text for f in [*report.findings, *part.findings] if f.fails), "")
    if part.worst:
        worst = part.worst[0]
        index = ",".join(map(str, worst.index))
        words = words or f"d{part.name}[{index}]: yours {worst.yours:.6g}, should be {worst.expected:.6g}"
        found.result.worst = Worst(worst.index, worst.yours, worst.expected, worst.error)
    if part.kinks is not None and not part.kinks.legal:
        wanted = check.convention(**case.extra["inputs"]) if callable(check.convention) else check.convention
        if wanted and "convention" in part.kinks.note:
            words = f"at the kinks the {wanted} convention is wanted, and yours is {part.kinks.convention}"
        elif part.worst:
            yours, legal = part.worst[0].yours, part.worst[0].expected
            words = (
                f"not a legal subgradient: d{part.name}[{index}] is {yours:.6g}, the nearest legal value {legal:.6g}"
            )
    found.result.arg, found.result.shape, found.result.where, found.result.axes = (
        part.name,
        part.shape,
        part.where,
        part.axes,
    )
    found.result.share = part.wrong / max(1, part.checked)
    found.result.heat = _shares(part.error_map)
    found.causes = [Cause(c.id, c.confidence, c.text, cases=c.cases) for c in part.causes if c.kind != "pattern"]
    return found.fail("value", words or "the gradient is wrong")


def _shares(error_map: Any) -> Any:
    if error_map is None:
        return None
    errors = np.nan_to_num(error_map)
    return errors / (float(errors.max(initial=0.0)) or 1.0)


def _name(
    loaded: Loaded,
    check: Check,
    space: Space,
    seed: int,
    number: int,
    found: _Found,
    outcome: CheckResult,
    fine: set[str],
) -> None:
    """Name the mistake, if it is one of the exercise's or a generic one."""
    if isinstance(check, Property):
        if check.cause:
            known = next((b for b in loaded.bugs if b.name == check.cause), None)
            outcome.causes = [
                _cause(known, 1) if known else Cause(slug(check.cause), 1.0, check.cause, check.fix, cases=1)
            ]
        return
    observed = []
    for round_ in range(DIAGNOSIS_ROUNDS):
        for case in check.cases(_rng(seed, number, round_), loaded.solution):
            try:
                seen = _watched(check, space, case)
            except StudentError as error:
                seen = error
                if error.kind in ("timeout", "crash", "exit", "memory", "output"):
                    return
            observed.append((case, seen, _expected(loaded, check, case)))
    needed = 1 if isinstance(check, Answer) else 2
    matches = []
    for candidate in loaded.bugs:
        count = _equal_cases(loaded, check, candidate, observed)
        if count >= needed:
            matches.append((candidate, count))
    if matches:
        # A mistake that would have shown in a check that was passed is not the one.
        earlier = loaded.checks[:number] if check in loaded.checks else []
        passed = [(k, c) for k, c in enumerate(earlier) if c.title in fine]
        matches = [m for m in matches if not any(_shows(loaded, c, m[0], seed, k) for k, c in passed)]
    outcome.causes = [_cause(b, n) for b, n in matches]
    if not matches and found.causes:
        outcome.causes = found.causes
    elif not matches and isinstance(check, Vjp) and outcome.layer in ("contract", "value"):
        told = gradients.explain(check, loaded.solution, space, [case for case, _, _ in observed])
        outcome.causes, outcome.cleared, outcome.nearest = told.causes, told.cleared, told.nearest


def _shows(loaded: Loaded, check: Check, candidate: Bug, seed: int, number: int) -> bool:
    """Whether a mistake would have made this check fail."""
    mutant = loaded.mutant(candidate)
    for case in check.cases(_rng(seed, number), loaded.solution):
        try:
            if isinstance(check, Property):
                if check.observe(mutant, case):
                    return True
                continue
            seen, right = _watched(check, mutant, case), _expected(loaded, check, case)
        except StudentError:
            return True
        equal = not check.wrong_keys(seen, right) if isinstance(check, Answer) else same(seen, right, 10 * check.rtol)
        if not equal:
            return True
    return False


def _reference(loaded: Loaded, check: Check, case: Case) -> Any:
    try:
        return check.observe(loaded.solution, case)
    except StudentError as error:
        raise ExerciseError(f"{loaded.exercise.id}: the solution fails on {case.describe()}: {error}") from error


def _expected(loaded: Loaded, check: Check, case: Case) -> Any:
    try:
        return _watched(check, loaded.solution, case)
    except StudentError as error:
        raise ExerciseError(f"{loaded.exercise.id}: the solution fails on {case.describe()}: {error}") from error


def _watched(check: Check, space: Space, case: Case) -> Any:
    """What comes out, and what has become of the arguments."""
    if not isinstance(check, (Same, Vjp)) or not check.contract:
        return check.observe(space, case)
    args = case.args()
    return [space.function(check.function)(*args), [a for a in args if not callable(a)]]


def _cause(one: Bug, count: int) -> Cause:
    return Cause(one.id, 1.0, one.name, one.fix, one.hint, count)


def _equal_cases(loaded: Loaded, check: Check, candidate: Bug, observed: list[tuple[Case, Any, Any]]) -> int:
    """In how many cases the wrong reference differs from the right one and equals what was seen; 0 after any miss."""
    mutant = loaded.mutant(candidate)
    count = 0
    for case, seen, right in observed:
        try:
            wrong = _watched(check, mutant, case)
        except StudentError as error:
            wrong = error
        if isinstance(check, Answer):
            count += check.matches(seen, wrong, right)
            continue
        if same(wrong, right, 10 * check.rtol):
            if not same(seen, right, 100 * check.rtol):
                return 0
        elif check.matches(seen, wrong, right):
            count += 1
        else:
            return 0
    return count
