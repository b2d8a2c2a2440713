"""Name the mistake: find out which suspected mistake reproduces the wrong gradient in several independent cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from .expressions import expressions
from .mistakes import Mistake, Suspect, generic, misshapen, repairs, substitutions
from .problem import Array
from .report import Cause
from .trial import Trial

__all__ = ["diagnose", "equal", "nearest"]

SAME = 1e-9
PEEK = 6

Source = Callable[[Trial, int], Iterator[Suspect]]


def equal(guess: Any, stated: Array, right: Array, error: float = 0.0) -> bool:
    """Whether a prediction reproduces what the rule said, far better than the right gradient does."""
    if isinstance(guess, tuple):
        guess, stated = guess
        right = np.zeros(0)
    guess = np.asarray(guess, dtype=float)
    if guess.shape != stated.shape or not guess.size or not np.isfinite(guess).all() or not np.isfinite(stated).all():
        return False
    top = max(float(np.max(np.abs(stated))), float(np.max(np.abs(guess))))
    off = float(np.max(np.abs(guess - stated)))
    if off > SAME * top + 8 * error:
        return False
    return right.shape != stated.shape or off <= 0.01 * float(np.max(np.abs(stated - right)))


def diagnose(trials: Sequence[Trial], k: int, mistakes: Sequence[Mistake]) -> list[Cause]:
    """Return the mistakes that explain the gradient of checked input k in every trial, those of the caller first.

    At least two trials are needed: a coincidence in one case proves nothing.
    """
    if trials and all(t.raised for t in trials):
        return _raising(trials, k, mistakes)
    useful = [t for t in trials if _is_wrong(t, k)]
    if len(useful) < 2:
        return []
    described = _described(mistakes)
    for source in (described, misshapen, generic, repairs, substitutions, expressions):
        found = _search(useful, k, source)
        if found:
            return found
    return []


def _raising(trials: Sequence[Trial], k: int, mistakes: Sequence[Mistake]) -> list[Cause]:
    """Mistakes that raise the same error as the rule: a matrix that does not fit unless it is transposed."""
    found = []
    for m in mistakes:
        for trial in trials:
            try:
                _predicted(trial, k, m)
                break
            except Exception as error:
                if f"{type(error).__name__}: {error}" != trial.raised:
                    break
        else:
            found.append(Cause(m.id, m.text + ".", m.kind, 0.9, len(trials)))
    return found


def _is_wrong(trial: Trial, k: int) -> bool:
    stated, right = trial.stated[k], trial.right[k]
    if stated is None:
        return False
    if stated.shape != right.shape:
        return True
    top = float(np.max(np.abs(right), initial=0.0))
    return not np.allclose(stated, right, rtol=1e-9, atol=1e-9 * top + 1e-14)


def _described(mistakes: Sequence[Mistake]) -> Source:
    def source(trial: Trial, k: int) -> Iterator[Suspect]:
        for m in mistakes:
            yield Suspect(m.id, m.text, m.kind, partial(_predicted, trial, k, m))

    return source


def _predicted(trial: Trial, k: int, m: Mistake) -> Any:
    p = trial.problem
    dout = p.cotangent(trial.g)
    if m.wrt is None:
        return p.results(m.rule(trial.ref, dout, *trial.args(), **p.options))[k]
    if p.wrt[k] != m.wrt:
        raise ValueError("this mistake is one in another gradient")

    def ref(dout: Any, *args: Any, **options: Any) -> Any:
        return trial.at(dout, args, options)[k]

    predicted = np.asarray(m.rule(ref, dout, *trial.args(), **p.options))
    stated, right = trial.stated[k], trial.right[k]
    if predicted.shape != right.shape and stated is not None and predicted.shape == stated.shape:
        return predicted, stated  # a mistake that shows in the shape
    return predicted


def _search(trials: Sequence[Trial], k: int, source: Source) -> list[Cause]:
    """Suspects of one source that hold in all trials, simplest first."""
    survivors: dict[str, Suspect] = {}
    for number, trial in enumerate(trials):
        holding = {}
        for suspect in source(trial, k):
            if (number == 0 or suspect.id in survivors) and suspect.id not in holding and _holds(suspect, trial, k):
                holding[suspect.id] = suspect
        survivors = holding if number == 0 else {i: s for i, s in survivors.items() if i in holding}
        if not survivors:
            return []
    return [
        Cause(s.id, s.text + ("" if s.text.endswith(".") else "."), s.kind, 1.0, len(trials))
        for s in survivors.values()
    ]


def _holds(suspect: Suspect, trial: Trial, k: int) -> bool:
    stated, right = trial.stated[k], trial.right[k]
    if stated is None:
        return False
    error = 0.0 if trial.exact else 1e-11 * float(np.max(np.abs(right), initial=0.0))
    try:
        with np.errstate(all="ignore"):
            if suspect.peek is not None and stated.shape == right.shape:
                off = np.abs(stated - right).reshape(-1)
                entries = np.argsort(off)[::-1][:PEEK]
                some = suspect.peek(entries)
                if not np.allclose(
                    some, stated.reshape(-1)[entries], rtol=1e-7, atol=1e-9 * float(np.max(np.abs(stated)))
                ):
                    return False
            return equal(suspect.predict(), stated, right, error)
    except Exception:
        return False  # a prediction that cannot be computed for these shapes is none


def nearest(trial: Trial, k: int) -> str:
    """How the wrong gradient compares with the right one as a whole."""
    stated, right = trial.stated[k], trial.right[k]
    if stated is None or stated.shape != right.shape:
        return ""
    a, b = stated.reshape(-1), right.reshape(-1)
    lengths = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if not all(lengths):
        return ""
    cosine, ratio = float(a @ b) / (lengths[0] * lengths[1]), lengths[0] / lengths[1]
    return f"compared with the right one: cosine {cosine:.2f}, length times {ratio:.3g}"


def unused(trial: Trial, k: int) -> list[str]:
    """Arguments that the right gradient depends on and the rule's result does not."""
    p, stated = trial.problem, trial.stated[k]
    if stated is None or not trial.exact:
        return []
    names = []
    for j, (name, a) in enumerate(zip(p.names, trial.args(), strict=True)):
        if not isinstance(a, np.ndarray) or a.dtype.kind != "f":
            continue
        args = trial.args()
        changed = (*args[:j], a * 1.37, *args[j + 1 :])
        try:
            theirs = p.results(p.backward(p.cotangent(trial.g), *changed, **p.options))[k]
            due = trial.at(p.cotangent(trial.g), changed, p.options)[k]
        except Exception:
            continue
        if np.array_equal(theirs, stated) and not np.allclose(due, trial.right[k], rtol=1e-6):
            names.append(name)
    return names
