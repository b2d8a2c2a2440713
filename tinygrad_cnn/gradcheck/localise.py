"""Where a gradient is wrong: the share of wrong entries per index of each axis, and that in words."""

from __future__ import annotations

import numpy as np

from .problem import Array, axis_names

__all__ = ["marginals", "pattern", "typical"]


def marginals(wrong: Array, looked: Array, names: tuple[str, ...] | None = None) -> dict[str, list[float]]:
    """The share of wrong entries per index, for every axis longer than 1."""
    names = names or axis_names(wrong.shape)
    shares = {}
    for axis, name in enumerate(names):
        if wrong.shape[axis] < 2:
            continue
        others = tuple(a for a in range(wrong.ndim) if a != axis)
        count = looked.sum(axis=others)
        shares[name] = [float(v) for v in wrong.sum(axis=others) / np.maximum(count, 1)]
    return shares


def pattern(wrong: Array, looked: Array, names: tuple[str, ...] | None = None) -> str:
    """Which entries are wrong, in words."""
    names = names or axis_names(wrong.shape)
    if not wrong.any():
        return ""
    if wrong[looked].all():
        return "everywhere"
    words = []
    flat = False
    for axis, name in enumerate(names):
        if wrong.shape[axis] < 2:
            continue
        text = _axis(wrong, looked, axis, name)
        if text:
            words.append(text)
            flat |= axis >= wrong.ndim - 2
    border = "" if flat else _border(wrong, looked)
    if border:
        words.insert(0, border)
    if words:
        return "; ".join(words)
    share = wrong.sum() / looked.sum()
    return f"scattered over all axes ({100 * share:.0f} % of the entries)"


def _axis(wrong: Array, looked: Array, axis: int, name: str) -> str:
    n = wrong.shape[axis]
    others = tuple(a for a in range(wrong.ndim) if a != axis)
    has = np.asarray(wrong.any(axis=others))
    seen = np.asarray(looked.any(axis=others))
    bad = np.flatnonzero(has)
    if has[seen].all():
        full = np.array([wrong.take(i, axis)[looked.take(i, axis)].all() for i in range(n)])
        if full.any() and not full.all() and full.sum() <= 2:
            return f"{_ordinal(np.flatnonzero(full), n)} {name} wholly wrong"
        return ""
    good = np.flatnonzero(~has & seen)
    if len(bad) <= max(1, n // 2):
        step = _step(bad)
        if step:
            return f"only every {step}th {name} from {bad[0]}"
        return f"only {_ordinal(bad, n)} {name}"
    return f"all but {_ordinal(good, n)} {name}"


def _ordinal(indices: Array, n: int) -> str:
    if len(indices) == 1:
        i = int(indices[0])
        return "the first" if i == 0 else "the last" if i == n - 1 else f"number {i} of the"
    if len(indices) > 1 and int(indices[-1]) == n - 1 and np.all(np.diff(indices) == 1):
        return f"the last {len(indices)}"
    if int(indices[0]) == 0 and np.all(np.diff(indices) == 1):
        return f"the first {len(indices)}"
    shown = ", ".join(map(str, indices[:6])) + ("…" if len(indices) > 6 else "")
    return f"number {shown} of the"


def _step(indices: Array) -> int:
    if len(indices) < 3:
        return 0
    steps = np.diff(indices)
    return int(steps[0]) if steps[0] > 1 and np.all(steps == steps[0]) else 0


def _frame(shape: tuple[int, ...], width: int) -> Array:
    inside = np.zeros(shape, bool)
    core = (slice(None),) * (len(shape) - 2) + (slice(width, -width), slice(width, -width))
    inside[core] = True
    return ~inside


def _border(wrong: Array, looked: Array) -> str:
    if wrong.ndim < 3 or min(wrong.shape[-2:]) < 3:
        return ""
    for width in range(1, (min(wrong.shape[-2:]) - 1) // 2 + 1):
        frame = _frame(wrong.shape, width)
        name = "the border" if width == 1 else f"a border of {width}"
        if wrong[~frame].any():
            if not wrong[frame].any():
                return f"only the interior, {name} is right"
            continue
        lead = tuple(range(wrong.ndim - 2))
        rows, columns = np.asarray(wrong.any(axis=(*lead, -1))), np.asarray(wrong.any(axis=(*lead, -2)))
        ends = [rows[:width].any(), rows[-width:].any(), columns[:width].any(), columns[-width:].any()]
        if sum(ends) >= 3:
            return f"only {name}"
        return ""
    return ""


def typical(where: str) -> tuple[str, str] | None:
    """What such a pattern is typical of: an id and a hint. A hint only, never an accusation."""
    if where.startswith("only the border") or where.startswith("only a border"):
        return "border", "errors on the border only are typical of padding: its amount, its side or its cropping"
    if where.startswith("only the interior"):
        return (
            "interior",
            "errors inside only are typical of overlapping windows: accumulate with +=, or a turned kernel",
        )
    if "only the last" in where and ("row" in where or "column" in where):
        return "remainder", "errors in the last rows or columns are typical of a stride that leaves a remainder"
    if "first sample" in where or "last sample" in where:
        return "batch", "one sample differs from the others: is the batch axis summed or looped over completely?"
    if "only every" in where:
        return "stride", "errors at regular distances are typical of a stride that is missing or applied twice"
    return None
