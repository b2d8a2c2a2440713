"""The result of checking one exercise: one object feeds terminal, notebook, JSON, JUnit, Gradescope and CSV."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

__all__ = ["SCHEMA", "CaseResult", "Cause", "CheckResult", "Result", "Worst"]

SCHEMA = "tinygrad-ex/result@1"
LAYERS = ("load", "contract", "value", "property")


@dataclass
class Worst:
    """The entry that is furthest off."""

    index: tuple[int, ...]
    got: float
    expected: float
    fd_error: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"index": list(self.index), "got": number(self.got), "expected": number(self.expected),
                "fd_error": number(self.fd_error)}  # fmt: skip


@dataclass
class Cause:
    """A named mistake. `confidence` is 1.0 for equality on two or more random cases that tell it apart."""

    id: str
    confidence: float
    text: str
    fix: str = ""
    hint: str = ""
    cases: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "confidence": self.confidence, "text": self.text}


@dataclass
class CaseResult:
    """One case of one check."""

    name: str
    status: str = "pass"
    arg: str = ""
    shape: tuple[int, ...] = ()
    max_rel_err: float | None = None
    worst: Worst | None = None
    kinks: dict[str, Any] = field(default_factory=dict)
    cause: list[Cause] = field(default_factory=list)
    axes: dict[str, list[float]] = field(default_factory=dict)
    where: str = ""
    share: float | None = None
    heat: Any = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "arg": self.arg,
            "shape": list(self.shape),
            "status": self.status,
            "max_rel_err": number(self.max_rel_err),
            "worst": self.worst.to_json() if self.worst else None,
            "kinks": self.kinks,
            "cause": [c.to_json() for c in self.cause],
            "axes": {k: [number(v) for v in values] for k, values in self.axes.items()},
        }


@dataclass
class CheckResult:
    """One check: `contract` and `value` are its layers; it stops at the first case that fails."""

    title: str
    kind: str
    status: str = "pass"
    layer: str = ""
    message: str = ""
    hidden: bool = False
    weight: float = 1.0
    number: int = 0
    of: int = 0
    cases: list[CaseResult] = field(default_factory=list)
    cleared: list[str] = field(default_factory=list)
    nearest: str = ""
    unwritten: bool = False
    notes: list[str] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)

    @property
    def failed_case(self) -> CaseResult | None:
        return next((c for c in self.cases if c.status != "pass"), None)


@dataclass
class Result:
    """The result of one exercise. `layer` is the first that failed, or the empty string."""

    exercise: str
    title: str = ""
    status: str = "pass"
    score: float = 0.0
    max: float = 1.0
    hidden_max: float = 0.0
    seed: int = 0
    checks: list[CheckResult] = field(default_factory=list)
    error: str = ""
    kind: str = ""
    hints_used: int = 0
    kit_version: str = ""
    seconds: float = 0.0
    explain: str = "cause"
    printed: str = ""
    layer: str = ""

    def __bool__(self) -> bool:
        return self.status == "pass"

    @property
    def causes(self) -> list[Cause]:
        """All named mistakes, each once."""
        found: dict[str, Cause] = {}
        for check in self.checks:
            for cause in check.causes:
                found.setdefault(cause.id, cause)
        return list(found.values())

    def to_json(self) -> dict[str, Any]:
        """Return the result under the schema `tinygrad-ex/result@1`."""
        return {
            "schema": SCHEMA,
            "exercise": self.exercise,
            "status": self.status,
            "score": number(self.score),
            "max": number(self.max),
            "layer": self.layer,
            "seed": self.seed,
            "message": self.error,
            "checks": [
                {
                    "title": c.title,
                    "kind": c.kind,
                    "status": c.status,
                    "layer": c.layer,
                    "hidden": c.hidden,
                    "message": c.message,
                    "cause": [x.to_json() for x in c.causes],
                }
                for c in self.checks
            ],
            "cases": [case.to_json() for c in self.checks for case in c.cases],
            "hints_used": self.hints_used,
            "kit_version": self.kit_version,
            "seconds": number(round(self.seconds, 4)),
        }

    def __str__(self) -> str:
        from .report import text

        return text(self)

    def __repr__(self) -> str:
        return f"<{self.exercise}: {self.status}, {self.score:g} of {self.max:g}>"

    def _repr_html_(self) -> str:
        from .report import html

        return html(self)


def number(value: float | None) -> float | str | None:
    """Return a value JSON can hold: NaN and infinities as text."""
    if value is None or math.isfinite(value):
        return None if value is None else float(value)
    return str(value)
