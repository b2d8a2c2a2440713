"""Suspected mistakes: functions that predict the wrong gradient a certain mistake would give.

Three kinds: transforms of the right gradient that know nothing of the function ("generic"), the right rule with one
ingredient exchanged ("reference"), and mistakes somebody described for one function (`Mistake`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations, permutations
from typing import Any

import numpy as np

from .problem import Array, axis_names
from .trial import Trial

__all__ = ["Mistake", "Suspect", "decode", "generic", "misshapen", "mistake", "repairs", "substitutions"]


@dataclass(frozen=True)
class Mistake:
    """A typical mistake in one rule.

    Attributes:
        id: short name, used in reports and statistics.
        text: one or two sentences that say what was probably done wrong.
        rule: `rule(ref, dout, *args, **options)` returns what this mistake gives, in the form the rule under test
            returns its gradients; `ref(dout, *args, **options)` is the right rule.
        topic: where to read about it.
        hint: a first hint that belongs to this mistake.
        kind: "reference", or "kink" where the mistake only shows at ties and zeros.
        wrt: the position of the one argument whose gradient is wrong. `rule` and `ref` then return that gradient
            alone. None: both return what the rule under test returns.
    """

    id: str
    text: str
    rule: Callable[..., Any]
    topic: str = ""
    hint: str = ""
    kind: str = "reference"
    wrt: int | None = None


def mistake(text: str, *, id: str = "", topic: str = "", hint: str = "") -> Callable[[Callable[..., Any]], Mistake]:
    """Turn a function `(ref, dout, *args, **options) -> wrong gradient` into a `Mistake`."""

    def make(rule: Callable[..., Any]) -> Mistake:
        name = id or "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split()[:6])
        return Mistake(name, text, rule, topic, hint)

    return make


@dataclass(frozen=True)
class Suspect:
    """One prediction in one trial. The same id in another trial predicts by the same recipe.

    `peek(entries)`, where given, predicts only these entries, at a fraction of the cost.
    """

    id: str
    text: str
    kind: str
    predict: Callable[[], Any]
    peek: Callable[[Array], Array] | None = None


def decode(value: float, trial: Trial, k: int) -> Iterator[tuple[str, str]]:
    """Say what a constant factor may be: (recipe, text) pairs, the simplest first."""
    simple = {
        -1.0: "-1",
        2.0: "2",
        0.5: "1/2",
        -2.0: "-2",
        4.0: "4",
        0.25: "1/4",
        3.0: "3",
        1 / 3: "1/3",
        2 / 3: "2/3",
        1.5: "3/2",
    }
    sign = "-" if value < 0 else ""
    if _close(value, -1.0):
        yield "sign", "the sign is wrong"
        return
    direct, derived = _sizes(trial, k)
    yield from _factored(value, sign, direct)
    for number, recipe in simple.items():
        if _close(value, number):
            yield recipe, f"the right gradient times {recipe}"
    yield from _factored(value, sign, derived)
    for option, number in trial.problem.options.items():
        if isinstance(number, (int, float)) and not isinstance(number, bool) and number not in (0, 1):
            terms = {
                f"{option}": number,
                f"1/{option}": 1 / number,
                f"(1-{option})": 1 - number,
                f"1/(1-{option})": 1 / (1 - number),
                f"{option}²": number**2,
                f"1/{option}²": 1 / number**2,
                f"{option}/(1-{option})": number / (1 - number),
                f"(1-{option})/{option}": (1 - number) / number,
                f"(1-{option})²": (1 - number) ** 2,
            }
            for recipe, n in terms.items():
                if _close(value, n):
                    yield recipe, f"multiplied by {recipe} = {n:g} once too often"
    yield f"{value:.7g}", f"the right gradient times {value:.7g}"


def _factored(value: float, sign: str, sizes: list[tuple[float, str]]) -> Iterator[tuple[str, str]]:
    for number, recipe in sizes:
        if number in (0, 1):
            continue
        if _close(abs(value), number):
            yield f"{sign}{recipe}", f"too large by the factor {sign}{number:g} = {sign}{recipe}"
        elif _close(abs(value), 1 / number):
            yield f"{sign}1/{recipe}", f"multiplied by {sign}1/{number:g}, where {number:g} = {recipe}"


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-9 * max(abs(a), abs(b))


def _sizes(trial: Trial, k: int) -> tuple[list[tuple[float, str]], list[tuple[float, str]]]:
    """Sizes a wrong factor may come from, with all their names: lengths of axes, and what is made of them.

    Where two recipes give the same number, other cases with other sizes tell them apart.
    """
    p = trial.problem
    single: list[tuple[float, str]] = []
    whole: list[tuple[float, str]] = []
    several: list[tuple[float, str]] = []
    derived: list[tuple[float, str]] = []
    named: list[tuple[str, tuple[int, ...]]] = [("output", s) for s in p.output_shapes]
    named += [(name, np.shape(a)) for name, a in zip(p.names, p.args, strict=True) if isinstance(a, np.ndarray)]
    for name, shape in named:
        for count in range(1, len(shape) + 1):
            for axes in combinations(range(len(shape)), count):
                number = float(np.prod([shape[a] for a in axes]))
                if count == 1:
                    recipe = f"{name}.shape[{axes[0]}]"
                    single.append((number, recipe))
                elif count == len(shape):
                    recipe = f"{name}.size"
                    whole.append((number, recipe))
                else:
                    several.append((number, f"the product of {name}.shape{list(axes)}"))
                    continue
                if number > 1:
                    derived.append((number - 1, f"({recipe} - 1)"))
                    derived.append((number / (number - 1), f"{recipe}/({recipe} - 1)"))
                    derived.append((number**2, f"{recipe}²"))
                    derived.append((float(np.sqrt(number)), f"sqrt({recipe})"))
    sizes = [*p.output_shapes, *p.shapes]
    for inner in (p.shapes[k],):
        for outer in sizes:
            a, b = float(np.prod(inner, dtype=int)), float(np.prod(outer, dtype=int))
            if a != b and b:
                derived.append((a / b, f"{p.label(k)}.size / {'output' if outer in p.output_shapes else 'other'}.size"))
    return single, [*whole, *several, *derived]


def _axis_sets(ndim: int) -> Iterator[tuple[int, ...]]:
    for count in range(1, min(ndim, 4) + 1):
        yield from combinations(range(ndim), count)


def _named(axes: tuple[int, ...], shape: tuple[int, ...]) -> str:
    names = axis_names(shape)
    return ", ".join(f"{names[a]}s" for a in axes)


def generic(trial: Trial, k: int) -> Iterator[Suspect]:
    """Transforms of the right gradient and of its upstream gradient, which need no knowledge of the function."""
    p, v, s = trial.problem, trial.right[k], trial.stated[k]
    name = p.label(k)
    if s is None or s.shape != v.shape:
        return

    def made(id: str, text: str, predict: Callable[[], Any]) -> Suspect:
        return Suspect(id, text, "generic", predict)

    yield made("zero", f"the gradient of {name} is zero everywhere: a path is missing", lambda: np.zeros_like(v))
    yield from _factors(trial, k, made)
    yield from _upstream(trial, k, made)
    yield from _rearranged(trial, k, made)
    yield from _numbers(trial, k, made)
    yield from _mixed(trial, k, made)
    yield from _structure(trial, k, made)


Maker = Callable[[str, str, Callable[[], Any]], Suspect]


def _factors(trial: Trial, k: int, made: Maker) -> Iterator[Suspect]:
    v, s = trial.right[k], trial.stated[k]
    assert s is not None
    square = float((v * v).sum())
    if not square:
        return
    factor = float((s * v).sum()) / square
    if factor and not _close(factor, 1.0):
        for recipe, text in decode(factor, trial, k):
            yield made(f"factor {recipe}", text, lambda: factor * v)
        norm = float(np.sqrt(square))
        yield made("normalised", "the gradient is divided by its own length", lambda: v / norm)
        top = float(np.max(np.abs(v)))
        yield made("normalised max", "the gradient is divided by its largest entry", lambda: v / top)


def _upstream(trial: Trial, k: int, made: Maker) -> Iterator[Suspect]:
    g, p = trial.g, trial.problem
    changes: list[tuple[str, str, Any]] = [
        ("upstream ignored", "the upstream gradient dout is not used: result as if it were all ones", np.ones_like(g)),
        ("upstream squared", "the upstream gradient dout is multiplied in twice", g * g),
        ("upstream abs", "the absolute value of dout is used", np.abs(g)),
        ("upstream sign", "only the sign of dout is used", np.sign(g)),
        ("upstream positive", "negative entries of dout are set to zero (mask taken from dout?)", np.maximum(g, 0)),
        ("upstream mask", "dout is replaced by where it is positive", (g > 0) * 1.0),
        ("upstream sum", "dout is summed to one number before it is used", np.full_like(g, g.sum())),
        ("upstream mean", "dout is averaged to one number before it is used", np.full_like(g, g.mean())),
        ("upstream plus 1", "1 is added to dout", g + 1),
        ("output for upstream", "the output is used in place of dout", trial.y),
        ("upstream times output", "dout is multiplied by the output once too often", g * trial.y),
    ]
    if not p.several and p.output_shapes[0]:
        d = g.reshape(p.output_shapes[0])
        shape = d.shape
        names = axis_names(shape)
        for axis in range(d.ndim):
            if shape[axis] < 2:
                continue
            for label, index in (("first", 0), ("last", shape[axis] - 1)):
                mask = np.zeros(shape)
                mask[(slice(None),) * axis + (index,)] = 1.0
                changes.append(
                    (f"{label} {axis}", f"only the {label} {names[axis]} of dout contributes; sum over all", d * mask)
                )
                changes.append(
                    (f"not {label} {axis}", f"the {label} {names[axis]} of dout is left out", d * (1 - mask))
                )
            total = np.broadcast_to(d.sum(axis, keepdims=True), shape)
            changes.append((f"upstream sum {axis}", f"dout is summed over its {names[axis]}s before it is used", total))
            mean = total / shape[axis]
            changes.append((f"upstream mean {axis}", f"dout is averaged over its {names[axis]}s first", mean))
        if d.ndim == 4:
            pixel = np.zeros(shape)
            pixel[:, :, 0, 0] = 1.0
            changes.append(("one pixel", "only one pixel of dout contributes; sum over all positions", d * pixel))
        for axes in _axis_sets(d.ndim):
            if len(axes) <= 2:
                text = f"dout is reversed along its {_named(axes, shape)}"
                changes.append((f"upstream flip {axes}", text, np.flip(d, axes)))
        if d.ndim >= 2 and shape[-1] == shape[-2]:
            changes.append(("upstream transposed", "dout is transposed", np.swapaxes(d, -1, -2)))
        if d.ndim >= 2:
            mixed = d.reshape(-1, order="F").reshape(shape)
            changes.append(("upstream order", "dout is reshaped in column order (order='F')", mixed))
    for id, text, changed in changes:
        yield made(id, text, partial(trial.vjp, np.asarray(changed).reshape(-1), k))


def _rearranged(trial: Trial, k: int, made: Maker) -> Iterator[Suspect]:
    v, p = trial.right[k], trial.problem
    name, shape = p.label(k), v.shape
    for axes in _axis_sets(v.ndim):
        text = f"d{name} is reversed along its {_named(axes, shape)}"
        if v.ndim >= 3 and axes == (v.ndim - 2, v.ndim - 1):
            text = f"d{name} is turned by 180 degrees (its last two axes are reversed)"
        yield made(f"flip {axes}", text, partial(np.flip, v, axes))
    for order in permutations(range(v.ndim)):
        if order != tuple(range(v.ndim)) and tuple(shape[a] for a in order) == shape and v.ndim <= 5:
            text = f"d{name} is transposed: its axes are in the order {order}"
            yield made(f"axes {order}", text, partial(np.transpose, v, order))
    for axis in range(v.ndim):
        if shape[axis] < 2:
            continue
        an = axis_names(shape)[axis]
        for shift in (1, -1):
            text = f"d{name} is shifted by {shift} along its {an}s"
            yield made(f"roll {axis} {shift}", text, partial(np.roll, v, shift, axis))
            yield made(f"shift {axis} {shift}", text, partial(_shifted, v, shift, axis))
        total = np.broadcast_to(v.sum(axis, keepdims=True), shape)
        yield made(f"sum {axis}", f"d{name} is summed over its {an}s and spread out again", partial(np.asarray, total))
        mean = total / shape[axis]
        yield made(
            f"mean {axis}", f"d{name} is averaged over its {an}s and spread out again", partial(np.asarray, mean)
        )
        for label, index in (("first", 0), ("last", shape[axis] - 1)):
            text = f"the {label} {an} of d{name} is left at zero: a loop or slice is one too short"
            yield made(f"missing {label} {axis}", text, partial(_without, v, axis, index))
            text = f"only the {label} {an} of d{name} is filled in"
            yield made(f"only {label} {axis}", text, partial(_without, v, axis, index, only=True))
    if v.ndim >= 2:
        text = f"d{name} is reshaped in column order (order='F')"
        yield made("order", text, lambda: v.reshape(-1, order="F").reshape(shape))
        text = f"d{name} is reshaped where it should be transposed"
        yield made("reshape", text, lambda: v.T.reshape(shape))


def _shifted(v: Array, shift: int, axis: int) -> Array:
    out = np.roll(v, shift, axis)
    index = 0 if shift > 0 else -1
    out[(slice(None),) * axis + (index,)] = 0.0
    return out


def _without(v: Array, axis: int, index: int, only: bool = False) -> Array:
    out = v.copy()
    out[(slice(None),) * axis + (index,)] = 0.0
    return v - out if only else out


def _both(stated: Array, guess: Array) -> tuple[Array, Array]:
    return stated, guess


def _numbers(trial: Trial, k: int, made: Maker) -> Iterator[Suspect]:
    v, s = trial.right[k], trial.stated[k]
    assert s is not None
    if v.size and np.array_equal(s, s.astype(np.float32)) and not np.array_equal(v, v.astype(np.float32)):
        top = float(np.max(np.abs(v)))
        if float(np.max(np.abs(s - v))) <= 1e-5 * top:
            yield made("float32", "somewhere it is computed in float32: keep the type of the input", lambda: s)
    yield made("truncated", "the result is truncated to whole numbers: an integer array?", lambda: np.trunc(v))
    yield made("rounded", "the result is rounded to whole numbers", lambda: np.rint(v))
    yield made("clipped", "the gradient is clipped to [-1, 1]", lambda: np.clip(v, -1, 1))
    yield made("positive", "negative gradients are set to zero", lambda: np.maximum(v, 0))
    yield made("abs", "the absolute value of the gradient is returned", lambda: np.abs(v))
    yield made("squared", "the gradient is squared", lambda: v * v)


def _mixed(trial: Trial, k: int, made: Maker) -> Iterator[Suspect]:
    """The gradient of another input, or the right one with something added or multiplied."""
    p, v, s = trial.problem, trial.right[k], trial.stated[k]
    assert s is not None
    name = p.label(k)
    for j, other in enumerate(trial.right):
        if j == k:
            continue
        text = f"this is the gradient of {p.label(j)}: two results are exchanged or one name was used twice"
        if other.shape == v.shape:
            yield made(f"gradient of {p.label(j)}", text, partial(np.asarray, other))
        elif other.ndim == v.ndim == 2 and other.T.shape == v.shape:
            yield made(f"gradient of {p.label(j)} transposed", text, partial(np.transpose, other))
    things = [
        (n, np.asarray(a, dtype=float))
        for n, a in zip(p.names, trial.args(), strict=True)
        if isinstance(a, np.ndarray) and a.dtype.kind in "fiub"
    ]
    if not p.several:
        things += [("dout", np.asarray(trial.dout)), ("the output", trial.y.reshape(p.output_shapes[0]))]
    for n, a in things:
        if a.shape != v.shape or not a.size:
            continue
        yield made(f"is {n}", f"d{name} is just {n}", partial(np.asarray, a))
        yield made(f"times {n}", f"multiplied by {n} once too often", partial(np.multiply, v, a))
        with np.errstate(all="ignore"):
            over = v / a
        yield made(
            f"over {n}",
            f"divided by {n} once too often (or once too little multiplied by it)",
            partial(np.asarray, over),
        )
        yield made(f"plus {n}", f"{n} is added to the gradient", partial(np.add, v, a))
        yield made(f"minus {n}", f"{n} is subtracted from the gradient", partial(np.subtract, v, a))
        norm = float((a * a).sum())
        extra = float(((s - v) * a).sum()) / norm if norm else 0.0
        if extra and abs(abs(extra) - 1) > 1e-9:
            text = f"{extra:.4g} times {n} is added to the gradient (weight decay?)"
            yield made(f"decay {n} {extra:.6g}", text, partial(np.add, v, extra * a))
    shift = float((s - v).mean()) if v.size else 0.0
    if shift and v.size > 1:
        yield made(f"offset {shift:.6g}", f"the constant {shift:.6g} is added to every entry", lambda: v + shift)


def _structure(trial: Trial, k: int, made: Maker) -> Iterator[Suspect]:
    """What of the Jacobian was used."""
    block, p = trial.block(k), trial.problem
    v = trial.right[k]
    if block is None or block.shape[0] != block.shape[1] or block.shape[0] != v.size or not v.size:
        return
    diagonal = np.diag(block).copy()
    shape = v.shape
    g = trial.g
    text = "only the diagonal of the Jacobian is used: each output also depends on the other inputs"
    yield made("diagonal", text, lambda: (g * diagonal).reshape(shape))
    yield made("off-diagonal", "the diagonal of the Jacobian is missing", lambda: v - (g * diagonal).reshape(shape))
    text = "the Jacobian is multiplied from the wrong side: J dout where it should be Jᵀ dout"
    yield made("jvp", text, lambda: (block @ g).reshape(shape))
    sums = block.sum(axis=0)
    text = "dout is multiplied in entry by entry after the sum over the outputs was taken"
    yield made("column sums", text, lambda: (g * sums).reshape(shape))
    if p.output_shapes[0] == shape:
        for axis in range(len(shape)):
            if shape[axis] > 1 and len(shape) > 1:
                yield made(
                    f"no coupling {axis}",
                    f"entries with different {axis_names(shape)[axis]}s influence each other; that part is missing",
                    partial(_uncoupled, block, g, shape, axis),
                )


def _uncoupled(block: Array, g: Array, shape: tuple[int, ...], axis: int) -> Array:
    place = np.indices(shape)[axis].reshape(-1)
    return np.asarray((g @ (block * (place[:, None] == place[None, :]))).reshape(shape))


def substitutions(trial: Trial, k: int) -> Iterator[Suspect]:
    """The right rule with one argument or option exchanged for something that is at hand by mistake."""
    p = trial.problem
    args = trial.args()
    y = None if p.several else trial.y.reshape(p.output_shapes[0])
    dout = trial.dout

    def made(id: str, text: str, changed: tuple[Any, ...], options: dict[str, Any] | None = None) -> Suspect:
        chosen = p.options if options is None else options
        return Suspect(
            id,
            text,
            "reference",
            lambda: trial.at(dout, changed, chosen)[k],
            None if trial.exact else lambda entries: trial.peek(changed, chosen, k, entries),
        )

    def swapped(j: int, new: Any) -> tuple[Any, ...]:
        return (*args[:j], new, *args[j + 1 :])

    for j, (n, a) in enumerate(zip(p.names, args, strict=True)):
        if not isinstance(a, np.ndarray) or a.dtype.kind != "f":
            continue
        if y is not None and y.shape == a.shape:
            yield made(f"output for {n}", f"the output is used where {n} belongs", swapped(j, y.copy()))
        if not p.several and np.shape(dout) == a.shape:
            yield made(f"upstream for {n}", f"dout is used where {n} belongs", swapped(j, np.array(dout)))
        yield made(f"ones for {n}", f"{n} is missing: result as if it were all ones", swapped(j, np.ones_like(a)))
        yield made(f"minus {n}", f"the sign of {n} is wrong inside", swapped(j, -a))
        yield made(f"abs {n}", f"the absolute value of {n} is used", swapped(j, np.abs(a)))
        yield made(f"square {n}", f"{n} is squared", swapped(j, a * a))
        yield made(f"exp {n}", f"exp({n}) is used in place of {n}", swapped(j, np.exp(np.minimum(a, 50.0))))
        if a.ndim >= 2:
            turned = a[..., ::-1, ::-1]
            text = f"{n} is used reversed along its last two axes, or as it is where it should be reversed"
            yield made(f"turned {n}", text, swapped(j, turned.copy()))
            if a.shape[-1] == a.shape[-2]:
                text = f"{n} is transposed, or not transposed where it should be"
                yield made(f"transposed {n}", text, swapped(j, np.swapaxes(a, -1, -2).copy()))
        for i in range(j + 1, len(args)):
            b = args[i]
            if isinstance(b, np.ndarray) and b.shape == a.shape:
                both = swapped(j, b)
                both = (*both[:i], a, *both[i + 1 :])
                yield made(f"exchanged {n} {p.names[i]}", f"{n} and {p.names[i]} are exchanged", both)
                text = f"{p.names[i]} is used where {n} belongs"
                yield made(f"{p.names[i]} for {n}", text, swapped(j, b))
                text = f"{n} is used where {p.names[i]} belongs"
                yield made(f"{n} for {p.names[i]}", text, swapped(i, a))
        if j in p.wrt and p.wrt.index(j) != k:
            gradient = trial.right[p.wrt.index(j)]
            yield made(f"gradient for {n}", f"d{n} is used where {n} belongs", swapped(j, gradient))
    for option, value in p.options.items():
        for other in _alternatives(value):
            text = f"as if {option} were {other} where it is {value}"
            yield made(f"option {option}={other}", text, args, {**p.options, option: other})


def repairs(trial: Trial, k: int) -> Iterator[Suspect]:
    """Ingredients with which the rule under test becomes right: it was written for those."""
    p, v, s = trial.problem, trial.right[k], trial.stated[k]
    if s is None or s.shape != v.shape:
        return
    args = trial.args()
    y = None if p.several else trial.y.reshape(p.output_shapes[0])

    def made(id: str, text: str, changed: tuple[Any, ...], options: dict[str, Any] | None = None) -> Suspect:
        chosen = p.options if options is None else options

        def repaired() -> tuple[Any, Array]:
            result = p.results(p.backward(p.cotangent(trial.g), *changed, **chosen))[k]
            return np.asarray(result, dtype=float), v

        return Suspect(id, text, "reference", repaired)

    for j, (n, a) in enumerate(zip(p.names, args, strict=True)):
        if not isinstance(a, np.ndarray) or a.dtype.kind != "f":
            continue
        rest = args[j + 1 :]
        if y is not None and y.shape == a.shape:
            text = (
                f"the formula is one in terms of the output, but it is given {n}: it is right with the output for {n}"
            )
            yield made(f"output missing for {n}", text, (*args[:j], y.copy(), *rest))
        if a.ndim >= 2:
            text = f"it is right with {n} reversed along its last two axes (turned by 180 degrees)"
            yield made(f"turn {n}", text, (*args[:j], a[..., ::-1, ::-1].copy(), *rest))
            if a.shape[-1] == a.shape[-2]:
                text = f"it is right with {n} transposed"
                yield made(f"transpose {n}", text, (*args[:j], np.swapaxes(a, -1, -2).copy(), *rest))
        yield made(f"negate {n}", f"it is right with -{n} in place of {n}", (*args[:j], -a, *rest))
        for i in range(j + 1, len(args)):
            b = args[i]
            if isinstance(b, np.ndarray) and b.shape == a.shape:
                both = [*args[:j], b, *rest]
                both[i] = a
                yield made(
                    f"exchange {n} {p.names[i]}", f"it is right with {n} and {p.names[i]} exchanged", tuple(both)
                )
    for option, value in p.options.items():
        for other in _alternatives(value):
            text = f"it is right with {option}={other} in place of {value}"
            yield made(f"with {option}={other}", text, args, {**p.options, option: other})


def _alternatives(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [v for v in (-1, 0, 1, 2, 3) if v != value]
    if isinstance(value, float):
        return [v for v in (0.0, 1.0, 1.0 - value) if v != value]
    if isinstance(value, tuple) and value and all(isinstance(v, int) for v in value):
        found: list[Any] = [v for v in ((1,) * len(value), (0,) * len(value), value[::-1]) if v != value]
        return found
    return []


def misshapen(trial: Trial, k: int) -> Iterator[Suspect]:
    """Explanations for a result of the wrong shape: it is turned into the right one and compared there."""
    p, v, s = trial.problem, trial.right[k], trial.stated[k]
    name = p.label(k)
    if s is None or s.shape == v.shape:
        return

    def made(id: str, text: str, repaired: Array) -> Suspect:
        # What is compared is the repaired result; the prediction is the right gradient.
        return Suspect(id, text, "contract", lambda: (repaired, v))

    if s.ndim >= v.ndim and s.size > v.size:
        extra = s.ndim - v.ndim
        axes = tuple(range(extra)) + tuple(
            i + extra for i, n in enumerate(v.shape) if n == 1 and s.shape[i + extra] != 1
        )
        if axes:
            text = f"{name} was broadcast in the forward pass; sum its gradient over axes {axes} to undo that"
            yield made("not reduced", text, s.sum(axis=axes).reshape(-1)[: v.size].reshape(v.shape))
    if s.ndim == v.ndim and all(a >= b for a, b in zip(s.shape, v.shape, strict=True)):
        rest = [a - b for a, b in zip(s.shape, v.shape, strict=True)]
        if all(r % 2 == 0 for r in rest):
            inner = tuple(slice(r // 2, r // 2 + n) for r, n in zip(rest, v.shape, strict=True))
            text = f"the gradient of the padded {name} is returned; cut the padding off again"
            yield made("not cropped", text, s[inner])
        start = tuple(slice(0, n) for n in v.shape)
        yield made("leftover", f"d{name} has too many entries at the end of an axis", s[start])
    if s.ndim == v.ndim and s.size == v.size:
        for order in permutations(range(v.ndim)):
            if tuple(s.shape[a] for a in order) == v.shape and order != tuple(range(v.ndim)):
                back = tuple(int(i) for i in np.argsort(order))
                text = f"d{name} is transposed" if v.ndim == 2 else f"the axes of d{name} are in the order {back}"
                yield made(f"axes {order}", text, np.transpose(s, order))
    if s.size == v.size:
        yield made("reshape", f"the values are right, but d{name} needs the shape {v.shape}", s.reshape(v.shape))
    if s.size < v.size:
        for axes in _axis_sets(v.ndim):
            for keep in (False, True):
                total = v.sum(axis=axes, keepdims=keep)
                if total.shape == s.shape:
                    text = f"d{name} is summed over its {_named(axes, v.shape)}, which it should not be"
                    yield Suspect(f"oversummed {axes}", text, "contract", partial(_both, s, total))
                    mean = total / np.prod([v.shape[a] for a in axes])
                    text = f"d{name} is averaged over its {_named(axes, v.shape)}, which it should not be"
                    yield Suspect(f"overaveraged {axes}", text, "contract", partial(_both, s, mean))
