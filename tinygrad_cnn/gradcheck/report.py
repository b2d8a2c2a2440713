"""What a check found, for people (twenty lines), for notebooks (heat maps) and for programs (JSON)."""

from __future__ import annotations

import html
import json
import textwrap
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import TinygradError
from .heatmap import ascii_strip, axes_svg, heat_svg
from .problem import Array

__all__ = ["Cause", "Finding", "GradientError", "Kinks", "Part", "Report", "Worst"]

WIDTH = 80
LINES = 20


class GradientError(TinygradError, AssertionError):
    """A gradient is wrong; the message is the report."""


@dataclass(frozen=True)
class Finding:
    """One clause of the contract that was broken, or a remark that is no failure."""

    check: str
    text: str
    fails: bool = True


@dataclass(frozen=True)
class Worst:
    """One entry of a gradient, what the rule says and what it should be, give or take `error`."""

    index: tuple[int, ...]
    yours: float
    expected: float
    error: float


@dataclass(frozen=True)
class Cause:
    """A probable cause.

    Attributes:
        id: short name; a caller's mistake keeps the name it was given.
        text: the cause in one or two sentences.
        kind: "contract", "generic", "reference", "property", "kink" or "pattern"; a pattern is a hint, no claim.
        confidence: 1.0 where the wrong gradient was reproduced exactly in `cases` independent cases.
        cases: in how many cases it was seen.
        topic: where to read about it.
    """

    id: str
    text: str
    kind: str
    confidence: float = 1.0
    cases: int = 0
    topic: str = ""


@dataclass(frozen=True)
class Kinks:
    """Entries at which the function has no derivative, and what the rule made of them.

    Attributes:
        count: number of entries that lie on a kink.
        convention: "left", "right", "average", "first", "last", "split", a number, "mixed", or None if not judged.
        legal: whether the values lie between the one-sided derivatives, alone and jointly.
        note: what was not examined, or "".
        shares: whether values are legal one by one but do not add up.
    """

    count: int
    convention: str | None
    legal: bool
    note: str = ""
    shares: bool = False


@dataclass
class Part:
    """The verdict on the gradient of one input in one case."""

    name: str
    shape: tuple[int, ...]
    status: str = "pass"
    checked: int = 0
    wrong: int = 0
    max_rel_err: float = 0.0
    worst: list[Worst] = field(default_factory=list)
    where: str = ""
    axes: dict[str, list[float]] = field(default_factory=dict)
    causes: list[Cause] = field(default_factory=list)
    nearest: str = ""
    ruled_out: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    kinks: Kinks | None = None
    precision: str = ""
    case: int = 0
    error_map: Array | None = None
    ratios: list[float] = field(default_factory=list)
    rounding: float | None = None
    directions: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with this gradient."""
        return self.status == "pass"

    def as_dict(self) -> dict[str, Any]:
        """This part as plain data."""
        worst = self.worst[0] if self.worst else None
        return {
            "case": self.case,
            "arg": self.name,
            "shape": list(self.shape),
            "status": self.status,
            "checked": self.checked,
            "wrong": self.wrong,
            "max_rel_err": _number(self.max_rel_err),
            "worst": None
            if worst is None
            else {
                "index": list(worst.index),
                "got": _number(worst.yours),
                "expected": _number(worst.expected),
                "fd_error": _number(worst.error),
            },
            "where": self.where,
            "axes": {k: [round(float(v), 6) for v in values] for k, values in self.axes.items()},
            "cause": [
                {"id": c.id, "text": c.text, "kind": c.kind, "confidence": round(c.confidence, 3), "cases": c.cases}
                for c in self.causes
            ],
            "nearest": self.nearest,
            "findings": [{"check": f.check, "text": f.text, "fails": f.fails} for f in self.findings],
            "kinks": None
            if self.kinks is None
            else {
                "n": self.kinks.count,
                "convention": self.kinks.convention,
                "legal": self.kinks.legal,
                "note": self.kinks.note,
            },
            "precision": self.precision,
        }


def _number(value: float) -> float | str:
    return float(value) if np.isfinite(value) else str(value)


@dataclass
class Report:
    """The verdict of a gradient check. True if everything is right.

    Attributes:
        name: what was checked.
        parts: one verdict per checked input and case.
        findings: breaches of the contract that concern no single input.
        seed: repeats the check with the same random numbers.
        replay: how to repeat it, as text.
        seconds: how long it took.
        evaluations: calls of the forward function.
    """

    name: str
    parts: list[Part] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    seed: int = 0
    replay: str = ""
    seconds: float = 0.0
    evaluations: int = 0
    remarks: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every gradient is right and the contract was kept."""
        return all(p.ok for p in self.parts) and not any(f.fails for f in self.findings)

    def __bool__(self) -> bool:
        return self.ok

    @property
    def failures(self) -> list[Part]:
        """The parts that are wrong, the first failing case first."""
        return [p for p in self.parts if not p.ok]

    @property
    def causes(self) -> list[Cause]:
        """The probable causes of the first failing part, the most certain first; empty means unknown."""
        return next((p.causes for p in self.failures if p.causes), [])

    @property
    def cause(self) -> Cause | None:
        """The most probable cause that was actually verified, or None for "unknown"."""
        return next((c for p in self.failures for c in p.causes if c.kind != "pattern"), None)

    @property
    def convention(self) -> str | None:
        """The convention used at kinks, where there was one and the same everywhere."""
        found = {p.kinks.convention for p in self.parts if p.kinks is not None and p.kinks.convention is not None}
        if not found:
            return None
        return found.pop() if len(found) == 1 else "mixed"

    def raise_(self) -> Report:
        """Raise `GradientError` with the report as its message if something is wrong; return self otherwise."""
        if not self.ok:
            raise GradientError("\n" + str(self))
        return self

    # --- text

    def __str__(self) -> str:
        return self.text()

    def text(self, explain: str = "cause") -> str:
        """The report in at most 20 lines of 80 columns.

        Args:
            explain: how much is said: "symptom" (only that it fails), "location" (also where) or "cause".
        """
        lines = [self._head()]
        broken = [f for f in self.findings if f.fails]
        remarks = [f for f in self.findings if not f.fails]
        if self.ok:
            lines += self._passed()
        else:
            part = self.failures[0] if self.failures else None
            findings = broken + ([f for f in part.findings if f.fails] if part else [])
            lines.append(_dots("shape, dtype, finite, inputs untouched, repeatable", "FAIL" if findings else "ok"))
            for f in findings[:3]:
                lines += _wrap(f"{f.check}: {f.text}", "    ", limit=3)
            if part is not None:
                lines += self._failed(part, explain)
        for f in remarks[:1]:
            lines += _wrap(f"note: {f.text}", limit=2)
        for text in self.remarks[:2]:
            lines += _wrap(text, limit=2)
        last = [f"  {self.replay or f'repeat with seed={self.seed}'}"]  # never broken: it is there to be copied
        return "\n".join(lines[: LINES - len(last)] + last)

    def _head(self) -> str:
        shapes: dict[str, str] = {}
        for p in self.parts:
            shapes.setdefault(p.name, f"{p.name}{_shape(p.shape)}")
        shown = list(shapes.values())
        text = f"{self.name}   {'ok' if self.ok else 'WRONG'}   {' '.join(shown)}"
        if len(text) > WIDTH - 12:
            text = f"{self.name}   {'ok' if self.ok else 'WRONG'}   {len(shown)} gradients"
        return f"{text}   seed {self.seed}"[:WIDTH]

    def _passed(self) -> list[str]:
        checked = sum(p.checked for p in self.parts)
        worst = max((p.max_rel_err for p in self.parts), default=0.0)
        what = "directions" if any(p.directions for p in self.parts) else "entries"
        lines = [_dots(f"{checked} {what} compared", f"largest relative difference {worst:.1e}")]
        rounded = [p.rounding for p in self.parts if p.rounding is not None]
        together = len(rounded) > 2 and all("rounding only" in p.precision for p in self.parts if p.precision)
        if together:
            text = f"in their own type, {len(rounded)} gradients differ by at most {max(rounded):.1e}: rounding only"
            lines += _wrap(text, limit=2)
        for p in self.parts:
            if p.kinks is not None and p.kinks.count:
                name = f"convention: {p.kinks.convention}" if p.kinks.convention else "not examined"
                lines += _wrap(
                    f"{p.name}: {entries_text(p.kinks.count)} at a kink, {name} {p.kinks.note}".rstrip(), limit=2
                )
            if p.precision and not together:
                lines += _wrap(f"{p.name}: {p.precision}", limit=2)
            lines += [line for f in p.findings for line in _wrap(f"note: {f.text}", limit=2)]
        return list(dict.fromkeys(lines))[:12]

    def _failed(self, part: Part, explain: str) -> list[str]:
        lines = [_dots(f"gradient of {part.name}", "FAIL" if not part.ok else "ok")]
        if part.checked and part.wrong:
            what = "random directions" if part.directions else "entries"
            lines += _wrap(f"{_share(part.wrong, part.checked)} of {part.checked} {what} wrong{self._case(part)}")
        if explain == "symptom":
            return lines
        for w in part.worst[:1]:
            index = ",".join(map(str, w.index))
            place = f"worst d{part.name}[{index}]" if not part.directions else "along a random direction"
            lines += _wrap(f"{place}: yours {w.yours:.6g}, should be {w.expected:.6g} (± {w.error:.0e})")
        if part.where and not part.directions:
            lines += _wrap(f"where:  {part.where}", hang="          ", limit=3)
        strip = max((ascii_strip(name, v) for name, v in part.axes.items() if _tells(v)), key=len, default="")
        if strip:
            lines.append("  " + strip[: WIDTH - 2])
        if part.kinks is not None and part.kinks.count:
            judged = "legal" if part.kinks.legal else "not legal"
            note = f" {part.kinks.note}" if part.kinks.note else ""
            lines += _wrap(f"kinks:  {entries_text(part.kinks.count)}, values {judged}{note}", limit=2)
        if explain == "location":
            return lines
        named = [c for c in part.causes if c.kind != "pattern"]
        hints = [c for c in part.causes if c.kind == "pattern"]
        if named:
            seen = f" ({named[0].cases} random cases)" if named[0].cases > 1 else ""
            lines += _wrap(f"likely cause: {named[0].text}{seen}", hang="                ", limit=4)
            for c in named[1:2]:
                lines += _wrap(f"or:           {c.text}", hang="                ", limit=2)
        else:
            near = f" ({part.nearest})" if part.nearest else ""
            lines += _wrap(f"likely cause: unknown{near}", hang="                ", limit=3)
            if hints:
                lines += _wrap(f"hint:         {hints[0].text}", hang="                ", limit=2)
        if part.ruled_out:
            lines += _wrap(f"not the cause: {', '.join(part.ruled_out)}", hang="                ", limit=2)
        others = sorted({p.name for p in self.failures if p.name != part.name})
        if others:
            lines += _wrap(f"wrong too: {', '.join(others)}", limit=1)
        return lines

    def _case(self, part: Part) -> str:
        count = len({p.case for p in self.parts})
        return f" (case {part.case + 1} of {count})" if count > 1 else ""

    # --- data and pictures

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            "schema": "tinygrad-gradcheck/report@1",
            "name": self.name,
            "status": "pass" if self.ok else "fail",
            "seed": self.seed,
            "seconds": round(self.seconds, 6),
            "evaluations": self.evaluations,
            "findings": [{"check": f.check, "text": f.text, "fails": f.fails} for f in self.findings],
            "remarks": list(self.remarks),
            "cases": [p.as_dict() for p in self.parts],
        }

    def to_json(self, indent: int | None = None) -> str:
        """The report as JSON."""
        return json.dumps(self.as_dict(), indent=indent)

    def _repr_html_(self) -> str:
        pieces = [f"<pre>{html.escape(str(self))}</pre>"]
        for part in (self.failures or self.parts)[:4]:
            if part.error_map is not None:
                pieces.append(heat_svg(part.error_map, f"error of d{part.name}", part.name))
            if part.wrong and part.axes:
                pieces.append(axes_svg(part.axes, f"share of wrong entries in d{part.name}, by axis"))
        return "<br>".join(pieces)

    def heatmaps(self) -> dict[str, str]:
        """One SVG picture of the error per failing gradient, by input name."""
        return {
            p.name: heat_svg(p.error_map, f"error of d{p.name}", p.name)
            for p in self.failures
            if p.error_map is not None
        }


def entries_text(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


def _tells(values: list[float]) -> bool:
    return len(values) > 1 and max(values) - min(values) > 0.3


def _shape(shape: tuple[int, ...]) -> str:
    return "(" + ",".join(map(str, shape)) + ")"


def _share(wrong: int, checked: int) -> str:
    percent = 100 * wrong / checked
    return f"{wrong}" if checked < 20 else f"{percent:.0f} %" if percent >= 1 else f"{percent:.2g} %"


def _dots(left: str, right: str) -> str:
    room = WIDTH - 4 - len(left) - len(right)
    return f"  {left} {'.' * max(room, 2)} {right}"[:WIDTH]


def _wrap(text: str, indent: str = "  ", hang: str | None = None, limit: int = 2) -> list[str]:
    lines = textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent if hang is None else hang)
    if len(lines) > limit:
        lines = lines[:limit]
        lines[-1] = lines[-1][: WIDTH - 2] + " …"
    return lines
