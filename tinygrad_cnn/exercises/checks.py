"""What an exercise file says in its `<checks>` block: checks, mistakes and hints.

    from tinygrad_cnn.exercises import Vjp, bug, edit, hint

    def cases(rng):                                   # random inputs, all sizes different
        yield dict(x=rng.normal(size=(3, 5)), w=rng.normal(size=(5, 4)))
        yield dict(x=rng.normal(size=(1, 2)), w=rng.normal(size=(2, 6)))

    Vjp("linear_dw", of="linear", wrt="w", cases=cases)
    edit("dW transposed", "x.T @ dout", "(x.T @ dout).T", fix="dW has the shape of W.")
    @bug("upstream gradient ignored", fix="Multiply by dout.")
    def _(ref, dout, x, w): return ref(np.ones_like(dout), x, w)
    hint("Which entries of y depend on W[i, j]?")

The solution is the reference. A mistake is a *wrong reference*: the solution with one change. What a student's
function returns is compared with every wrong reference on several random cases; equality names the mistake. When the
exercise is built, the solution itself is checked against numerical derivatives.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .format import Exercise, ExerciseError
from .space import LocalSpace, Space, StudentError, fresh, run_source

__all__ = [
    "Answer",
    "Bug",
    "Case",
    "Check",
    "Kinked",
    "Loaded",
    "Property",
    "Same",
    "Vjp",
    "bug",
    "edit",
    "hint",
    "load",
]

Cases = Callable[[np.random.Generator], Iterable[dict[str, Any]]]

_open: list[Loaded] = []  # the exercise whose checks block is being run


def _current() -> Loaded:
    if not _open:
        raise ExerciseError("checks, mistakes and hints belong into the <checks> block of an exercise file")
    return _open[-1]


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


@dataclass
class Case:
    """One set of arguments: `values` by name, in the order in which the student's function takes them."""

    values: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)

    def args(self) -> list[Any]:
        return [fresh(v) for v in self.values.values()]

    def describe(self) -> str:
        """Return the case in one line: `x(3,2,7,6) w(5,2,3,2) stride 1`."""
        words = []
        for name, value in self.values.items():
            if isinstance(value, np.ndarray):
                words.append(f"{name}({','.join(map(str, value.shape))})")
            elif isinstance(value, (bool, int, float, str, type(None))):
                words.append(f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}")
            elif callable(value):
                words.append(f"{name} {getattr(value, '__name__', 'function')}")
            elif isinstance(value, (list, tuple)) and len(value) < 5 and all(isinstance(v, int) for v in value):
                words.append(f"{name} {tuple(value)}")
            else:
                words.append(f"{name} [{len(value)}]" if hasattr(value, "__len__") else name)
        return " ".join(words)


class Check:
    """One thing that is checked. `weight` is its share of the exercise's points."""

    kind = "check"
    compares = True  # whether `observe` returns something that can be compared with the solution's

    def __init__(self, function: str, title: str, weight: float) -> None:
        self.function = function
        self.title = title
        self.weight = weight
        self.rtol = 1e-9
        _current().register(self)

    def cases(self, rng: np.random.Generator, home: LocalSpace) -> Iterator[Case]:
        """Yield the cases; `home` is the solution."""
        yield Case({})

    def observe(self, space: Space, case: Case) -> Any:
        """Return what the code in `space` makes of the case."""
        raise NotImplementedError

    def matches(self, seen: Any, wrong: Any, right: Any) -> bool:
        """Whether what was seen is what the wrong reference makes (and the case tells it from the right one)."""
        return same(seen, wrong, min(1e-9, self.rtol))


class Same(Check):
    """`function` returns what the solution's returns.

    Args:
        cases: `cases(rng)` yields dicts of arguments by name.
        drive: `drive(function, **arguments)` returns what is compared, for things that take several calls.
        rtol: relative tolerance against the largest expected value.
    """

    kind = "values"

    def __init__(
        self,
        function: str,
        cases: Cases,
        *,
        title: str = "",
        drive: Callable[..., Any] | None = None,
        rtol: float = 1e-9,
        weight: float = 1.0,
        contract: bool = True,
    ) -> None:
        super().__init__(function, title or f"{function}(): values", weight)
        self.make = cases
        self.drive = drive
        self.rtol = rtol
        self.contract = contract and drive is None

    def cases(self, rng: np.random.Generator, home: LocalSpace) -> Iterator[Case]:
        order = parameters(home, self.function) if self.drive is None else None
        for values in self.make(rng):
            yield Case(arranged(values, order, self.function))

    def observe(self, space: Space, case: Case) -> Any:
        if self.drive is not None:
            return self.drive(space.function(self.function), **fresh(case.values))
        return space.function(self.function)(*case.args())


class Vjp(Check):
    """`function(dout, *inputs)` returns the gradient of `sum(dout * of(*inputs))` with respect to `wrt`.

    Args:
        of: the forward function: a name in the solution's file, a callable, or the name of an op of tinygrad_cnn.
        wrt: the input, or a tuple of inputs for a function that returns a tuple.
        cases: `cases(rng)` yields dicts of the inputs by name; `dout` is drawn at random, never ones.
        out: whether the function also takes the forward's result, as second argument.
    """

    kind = "gradient"

    def __init__(
        self,
        function: str,
        of: str | Callable[..., Any],
        wrt: str | tuple[str, ...],
        cases: Cases,
        *,
        out: bool = False,
        title: str = "",
        weight: float = 1.0,
    ) -> None:
        names = (wrt,) if isinstance(wrt, str) else wrt
        super().__init__(function, title or f"{function}(): gradient of {', '.join(names)}", weight)
        self.of = of
        self.wrt = names
        self.single = isinstance(wrt, str)
        self.make = cases
        self.out = out
        self.contract = True

    def forward(self, home: LocalSpace) -> Callable[..., Any]:
        """Return the forward function that the gradient belongs to."""
        if callable(self.of):
            return self.of
        if home.has(self.of):
            return home.function(self.of)
        from ..op import TABLE

        if self.of in TABLE:
            return TABLE[self.of]
        raise ExerciseError(f"Vjp: {self.of!r} is neither in the exercise's file nor an op")

    def cases(self, rng: np.random.Generator, home: LocalSpace) -> Iterator[Case]:
        forward = self.forward(home)
        order = parameters(home, self.function)[1 + self.out :]
        for values in self.make(rng):
            values = arranged(values, order, self.function)
            y = np.asarray(forward(*fresh(list(values.values()))))
            dout = rng.normal(size=y.shape)
            yield Case({"dout": dout, **({"out": y} if self.out else {}), **values}, extra={"inputs": values})

    def observe(self, space: Space, case: Case) -> Any:
        return space.function(self.function)(*case.args())


class Kinked(Vjp):
    """A gradient at points where the function has kinks: every legal subgradient passes, and its convention is named.

    Args:
        convention: None, or the one that is demanded ("left", "right", "average", "first", "last", "split"), or a
            function of the case's inputs that returns it.
    """

    kind = "subgradient"

    def __init__(
        self,
        function: str,
        of: str | Callable[..., Any],
        wrt: str | tuple[str, ...],
        cases: Cases,
        *,
        convention: str | Callable[..., str] | None = None,
        title: str = "",
        weight: float = 1.0,
    ) -> None:
        super().__init__(function, of, wrt, cases, title=title or f"{function}(): at the kinks", weight=weight)
        self.convention = convention


class Property(Check):
    """`test(space, rng)` returns None if all is well, or a sentence that says what is not.

    `cause` names the mistake that breaks the property (the name of a `bug` or `edit`, or a new one).
    """

    kind = "property"
    compares = False

    def __init__(
        self,
        title: str,
        test: Callable[..., str | None],
        *,
        function: str = "",
        cause: str = "",
        fix: str = "",
        weight: float = 1.0,
    ) -> None:
        super().__init__(function, title, weight)
        self.test = test
        self.cause = cause
        self.fix = fix

    def observe(self, space: Space, case: Case) -> Any:
        return self.test(space, np.random.default_rng(case.extra["seed"]))

    def cases(self, rng: np.random.Generator, home: LocalSpace) -> Iterator[Case]:
        yield Case({}, extra={"seed": int(rng.integers(2**31))})


class Answer(Check):
    """The file assigns the dict `name`, and its entries equal the solution's.

    Args:
        about: key -> a sentence for whoever got that entry wrong (not the answer).
        atol: tolerance for numbers.
        accept: key -> further answers that count as right.
    """

    kind = "answer"

    def __init__(
        self,
        name: str,
        *,
        about: dict[Any, str] | None = None,
        atol: float = 1e-6,
        accept: dict[Any, Iterable[Any]] | None = None,
        title: str = "",
        weight: float = 1.0,
    ) -> None:
        super().__init__(name, title or f"{name}: your answers", weight)
        self.about = about or {}
        self.atol = atol
        self.accept = {key: [_normal(v) for v in values] for key, values in (accept or {}).items()}

    def observe(self, space: Space, case: Case) -> Any:
        value = space.value(self.function)
        if not isinstance(value, dict):
            raise StudentError("value", f"{self.function} is a {type(value).__name__}, and has to be a dict")
        return {key: _normal(v) for key, v in value.items()}

    def wrong_keys(self, seen: dict[Any, Any], right: dict[Any, Any]) -> list[Any]:
        return [
            key
            for key in right
            if not any(self.equal(seen.get(key), value) for value in (right[key], *self.accept.get(key, ())))
        ]

    def equal(self, a: Any, b: Any) -> bool:
        if isinstance(b, bool) or isinstance(a, bool):
            return a is b
        if isinstance(b, (int, float)):
            return isinstance(a, (int, float)) and abs(a - b) <= self.atol * max(1.0, abs(b))
        if isinstance(b, (list, tuple)):
            return isinstance(a, (list, tuple)) and len(a) == len(b) and all(map(self.equal, a, b))
        return bool(a == b)

    def matches(self, seen: Any, wrong: Any, right: Any) -> bool:
        # Several answers can be wrong for several reasons, so only the entries that this mistake touches count.
        touched = self.wrong_keys(wrong, right)
        return bool(touched) and all(self.equal(seen.get(key), wrong[key]) for key in touched)


def _normal(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, str):
        return " ".join(value.lower().split())
    if isinstance(value, (set, frozenset)):
        return sorted(map(_normal, value))
    if isinstance(value, (list, tuple)):
        return [_normal(v) for v in value]
    return value


@dataclass
class Bug:
    """A mistake the checker names: the solution with one change."""

    name: str
    fix: str = ""
    hint: str = ""
    topic: str = ""
    on: str = ""
    rule: Callable[..., Any] | None = None
    edits: tuple[tuple[str, str], ...] = ()

    @property
    def id(self) -> str:
        return slug(self.name)

    def source(self, solution: str) -> str | None:
        """Return the solution's text with the mistake in it, or None if the mistake is not given as text."""
        if not self.edits:
            return None
        for old, new in self.edits:
            if solution.count(old) != 1:
                raise ExerciseError(f"edit {self.name!r}: {old!r} occurs {solution.count(old)} times in the solution")
            solution = solution.replace(old, new)
        return solution


def bug(
    name: str, *, on: str = "", fix: str = "", hint: str = "", topic: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register `wrong(ref, *arguments)` as a mistake in the function `on` (by default that of the first check)."""

    def register(rule: Callable[..., Any]) -> Callable[..., Any]:
        _current().bugs.append(Bug(name, fix, hint, topic, on, rule))
        return rule

    return register


def edit(name: str, *edits: str, fix: str = "", hint: str = "", topic: str = "") -> None:
    """Register a mistake as a change of the solution's text: `edit(name, old, new)`, or more such pairs."""
    if len(edits) < 2 or len(edits) % 2:
        raise ExerciseError(f"edit {name!r} needs the old and the new text")
    _current().bugs.append(Bug(name, fix, hint, topic, edits=tuple(zip(edits[::2], edits[1::2], strict=True))))


def hint(text: str) -> None:
    """Register the next hint: first an idea, then a formula, then pseudo-code."""
    _current().hints.append(text)


@dataclass
class Loaded:
    """An exercise whose solution and checks have been run."""

    exercise: Exercise
    solution: LocalSpace
    checks: list[Check] = field(default_factory=list)
    hidden: list[Check] = field(default_factory=list)
    bugs: list[Bug] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    in_hidden: bool = False
    _mutants: dict[str, LocalSpace] = field(default_factory=dict)

    def register(self, check: Check) -> None:
        (self.hidden if self.in_hidden else self.checks).append(check)

    def mutant(self, bug: Bug) -> LocalSpace:
        """Return the solution with this mistake in it."""
        if bug.id not in self._mutants:
            code = self.exercise.code("solution")
            edited = bug.source(code)
            names = run_source(edited if edited is not None else code, f"<{self.exercise.id} with a mistake>")
            if bug.rule is not None:
                on = bug.on or self.checks[0].function
                if on not in names:
                    raise ExerciseError(f"{self.exercise.id}: bug {bug.name!r} changes {on}, which is not there")
                names[on] = _wrong(bug.rule, names[on])
            self._mutants[bug.id] = LocalSpace(names)
        return self._mutants[bug.id]


def _wrong(rule: Callable[..., Any], ref: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(*args: Any, **kwargs: Any) -> Any:
        return rule(ref, *args, **kwargs)

    return wrong


def load(exercise: Exercise, *, hidden: bool = False) -> Loaded:
    """Run the solution and the checks block of an exercise (the teacher's code, never the student's)."""
    names = run_source(exercise.code("solution"), f"<solution of {exercise.id}>")
    loaded = Loaded(exercise, LocalSpace(names))
    where = str(exercise.path or exercise.id)
    blocks = [(exercise.checks, exercise.checks_line)]
    if hidden:
        blocks.append((exercise.hidden, exercise.hidden_line))
    inside = dict(names)
    _open.append(loaded)
    try:
        for number, (text, line) in enumerate(blocks):
            loaded.in_hidden = number == 1
            exec(compile("\n" * (line - 1) + text, where, "exec"), inside)
    except ExerciseError:
        raise
    except Exception as error:
        raise ExerciseError(f"{where}: its checks cannot be run: {type(error).__name__}: {error}") from error
    finally:
        _open.pop()
    if not loaded.checks:
        raise ExerciseError(f"{where}: no checks")
    seen: set[str] = set()
    for one in loaded.bugs:
        if one.id in seen:
            raise ExerciseError(f"{where}: two mistakes are called {one.name!r}")
        seen.add(one.id)
    return loaded


def parameters(home: LocalSpace, function: str) -> list[str]:
    """Return the parameter names of a function of the solution."""
    return list(inspect.signature(home.value(function)).parameters)


def arranged(values: dict[str, Any], order: list[str] | None, function: str) -> dict[str, Any]:
    """Bring a case's arguments into the order of the function's parameters."""
    if order is None:
        return dict(values)
    unknown = values.keys() - set(order)
    if unknown:
        raise ExerciseError(f"a case gives {', '.join(sorted(unknown))}, which {function}({', '.join(order)}) lacks")
    return {name: values[name] for name in order if name in values}


def same(a: Any, b: Any, rtol: float) -> bool:
    """Whether two trees of arrays are equal up to `rtol` of the largest entry of each array; NaN equals NaN."""
    if isinstance(a, StudentError) or isinstance(b, StudentError):
        return isinstance(a, StudentError) and isinstance(b, StudentError) and (a.kind, a.text) == (b.kind, b.text)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k], rtol) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and not (_numbers(a) and _numbers(b)):
        return len(a) == len(b) and all(same(x, y, rtol) for x, y in zip(a, b, strict=True))
    try:
        left, right = np.asarray(a), np.asarray(b)
    except ValueError:
        return False
    if left.shape != right.shape or "O" in (left.dtype.kind, right.dtype.kind):
        return bool(left.shape == right.shape and a == b) if left.dtype == right.dtype else False
    if left.dtype.kind not in "fiubc" or right.dtype.kind not in "fiubc":
        return bool(np.array_equal(left, right))
    left, right = (x.astype(np.int64) if x.dtype.kind == "b" else x for x in (left, right))
    finite = np.abs(right[np.isfinite(right)])
    scale = float(finite.max()) if finite.size else 0.0
    with np.errstate(invalid="ignore"):
        return bool(
            np.all((np.abs(left - right) <= rtol * scale) | (left == right) | (np.isnan(left) & np.isnan(right)))
        )


def _numbers(value: Any) -> bool:
    return bool(value) and all(isinstance(v, (int, float)) for v in value)
