"""Where two results differ: structure, shape, type, values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Difference", "differ"]


@dataclass
class Difference:
    """The first difference between a result and the expected one."""

    layer: str
    text: str
    path: str = ""
    got: Any = None
    expected: Any = None
    mask: Any = None
    index: tuple[int, ...] = ()
    error: float = float("nan")
    sizes: Any = None  # errors as shares of the largest one, 0 where nothing is wrong


def differ(got: Any, expected: Any, rtol: float, path: str = "result") -> Difference | None:
    """Return the first difference, or None. Numbers are compared up to `rtol` of the largest expected entry."""
    if isinstance(expected, dict):
        if not isinstance(got, dict):
            return Difference("contract", f"{path} is {kind_of(got)}, expected a dict", path)
        for key in expected:
            if key not in got:
                return Difference("contract", f"{path} has no entry {key!r}", path)
        for key in expected:
            found = differ(got[key], expected[key], rtol, f"{path}[{key!r}]")
            if found:
                return found
        extra = [k for k in got if k not in expected]
        return Difference("contract", f"{path} has the extra entry {extra[0]!r}", path) if extra else None
    if isinstance(expected, (list, tuple)) and not all(isinstance(v, (int, float)) for v in expected):
        if not isinstance(got, (list, tuple)):
            return Difference("contract", f"{path} is {kind_of(got)}, expected {kind_of(expected)}", path)
        if len(got) != len(expected):
            return Difference("contract", f"{path} has {len(got)} parts, expected {len(expected)}", path)
        for i, (a, b) in enumerate(zip(got, expected, strict=True)):
            found = differ(a, b, rtol, f"{path}[{i}]")
            if found:
                return found
        return None
    if got is None and expected is not None:
        return Difference("contract", f"{path} is None; is a `return` missing?", path)
    if expected is None or isinstance(expected, (str, bool)):
        if (type(got) is type(expected) and got == expected) or (isinstance(got, np.bool_) and bool(got) is expected):
            return None
        return Difference("value", f"{path} is {short(got)}, should be {short(expected)}", path, got, expected)
    return _arrays(got, expected, rtol, path)


def _arrays(got: Any, expected: Any, rtol: float, path: str) -> Difference | None:
    want = np.asarray(expected)
    try:
        have = np.asarray(got)
    except ValueError:
        return Difference("contract", f"{path} is {kind_of(got)}, expected {kind_of(expected)}", path)
    if have.dtype.kind not in "fiubc":
        return Difference("contract", f"{path} is {kind_of(got)}, expected {kind_of(expected)}", path)
    if have.shape != want.shape:
        return Difference("contract", f"{path} has shape {shown(have.shape)}, expected {shown(want.shape)}", path)
    if isinstance(expected, np.ndarray) and want.dtype.kind == "f" and have.dtype != want.dtype:
        return Difference("contract", f"{path} has dtype {have.dtype}, expected {want.dtype}", path)
    if want.dtype.kind == "b":
        want = want.astype(np.int64)
    have, want = have.astype(want.dtype if want.dtype.kind == "c" else np.float64), want.astype(
        want.dtype if want.dtype.kind == "c" else np.float64
    )  # fmt: skip
    finite = np.abs(want[np.isfinite(want)])
    scale = float(finite.max()) if finite.size else 0.0
    with np.errstate(invalid="ignore"):
        error = np.abs(have - want)
        fine = (error <= rtol * max(scale, 1e-300)) | (have == want) | (np.isnan(have) & np.isnan(want))
    if fine.all():
        return None
    mask = ~fine
    if not np.isfinite(have[np.isfinite(want)]).all():
        bad = mask & ~np.isfinite(have) & np.isfinite(want)
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        layer = "contract"
        text = f"{path} is not finite: {bad.sum()} of {have.size} entries are NaN or infinite"
        return Difference(layer, text, path, have[index], want[index], mask, index)
    error = np.where(mask & np.isfinite(error), error, np.where(mask, np.inf, -1.0))
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(error)), error.shape))
    relative = float(error[index] / scale) if scale else float("inf")
    share = 100 * float(mask.mean())
    lead = f"{share:.0f} % of entries wrong; worst " if have.size > 1 else ""
    where = f"{path}[{','.join(map(str, index))}]" if index else path
    text = f"{lead}{where}: yours {value(have[index])}, should be {value(want[index])}"
    found = Difference("value", text, path, have[index], want[index], mask, index, relative)
    top = float(np.max(error[np.isfinite(error)], initial=0.0)) or 1.0
    found.sizes = np.where(mask, np.clip(error / top, 0.02, 1.0), 0.0)
    return found


def value(x: Any) -> str:
    return f"{x:.6g}"


def shown(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def kind_of(x: Any) -> str:
    """Name the type in the words of a student."""
    if isinstance(x, np.ndarray):
        return f"an array of shape {shown(x.shape)}" + ("" if x.dtype.kind in "fiub" else f" and dtype {x.dtype}")
    if x is None:
        return "None"
    if isinstance(x, (tuple, list)):
        return f"a {type(x).__name__} of {len(x)}"
    return "a text" if isinstance(x, str) else f"a {type(x).__name__}"


def short(x: Any) -> str:
    return f"{x:.6g}" if isinstance(x, float) else repr(x)[:60]
