"""Colours that stay apart for colour-blind readers, and scales that turn numbers into them.

Source of the eight colours: Okabe & Ito, Color Universal Design, 2008. No picture says anything by colour alone: the
op's name or the number stands in the box too, and NaN and infinity are hatched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

__all__ = ["FAMILY_COLORS", "THEMES", "Legend", "Paint", "Scale", "number_text", "op_paint"]

ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#BBBBBB"

# What a family's name contains -> its colour; the first match wins. Black text has a contrast of 4.5 on all of them.
FAMILY_COLORS: tuple[tuple[str, str, str], ...] = (
    ("conv", SKY, "convolution"),
    ("pool", GREEN, "pooling"),
    ("activ", YELLOW, "activation"),
    ("norm", PURPLE, "normalisation"),
    ("loss", VERMILLION, "loss"),
    ("linear", ORANGE, "matrix product"),
    ("matmul", ORANGE, "matrix product"),
    ("matrix", ORANGE, "matrix product"),
)
OTHER = (GREY, "other")

# Light to dark with rising numbers; the second colour is the text's.
_RAMP = (("#EDF5FB", "#000000"), ("#B5DAF1", "#000000"), (SKY, "#000000"), (BLUE, "#FFFFFF"), ("#00395A", "#FFFFFF"))

THEMES = {
    "light": {
        "paper": "#FFFFFF",
        "ink": "#1A1A1A",
        "soft": "#595959",
        "line": "#4D4D4D",
        "cluster": "#F4F5F7",
        "border": "#A3A8B0",
        "box": "#FFFFFF",
        "back": "#B34700",
        "saved": "#5E3C99",
    },
    "dark": {
        "paper": "#16181D",
        "ink": "#ECECEC",
        "soft": "#B4B8C0",
        "line": "#B9BDC6",
        "cluster": "#20242C",
        "border": "#5C6470",
        "box": "#16181D",
        "back": "#F5A15B",
        "saved": "#BFA6F0",
    },
}


@dataclass(frozen=True)
class Paint:
    """Fill and text colour of a box, and whether it is hatched (NaN or infinity)."""

    fill: str
    ink: str = "#000000"
    hatched: bool = False


@dataclass(frozen=True)
class Legend:
    """The key of a picture: a heading and (paint, text) rows; None as paint means the plain box."""

    title: str
    rows: tuple[tuple[Paint | None, str], ...]


HATCHED = Paint(VERMILLION, "#000000", True)


def op_paint(family: str, kind: str) -> tuple[Paint, str]:
    """Return the colour of an op's family and that colour's name in the legend."""
    text = f"{family} {kind}".lower()
    for part, color, name in FAMILY_COLORS:
        if part in text:
            return Paint(color), name
    return Paint(OTHER[0]), OTHER[1]


def number_text(x: float) -> str:
    """Return a number in at most three digits: 0.0123, 1.2e-7, 4.5e6, NaN, inf."""
    if math.isnan(x):
        return "NaN"
    if math.isinf(x):
        return "inf" if x > 0 else "-inf"
    if x == 0:
        return "0"
    if 1e-3 <= abs(x) < 1e4:
        return f"{x:.3g}" if abs(x) < 1000 else f"{x:.0f}"
    mantissa, _, exponent = f"{x:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


class Scale:
    """Five colours between the smallest and the largest of the given numbers, in equal steps or equal ratios."""

    def __init__(self, numbers: Iterable[float], *, log: bool, low: float | None = None, high: float | None = None):
        good = sorted(x for x in numbers if math.isfinite(x) and (x > 0 or not log))
        self.log = log and bool(good)
        self.low = low if low is not None else good[0] if good else 0.0
        self.high = high if high is not None else good[-1] if good else 1.0
        self.empty = not good
        self.same = self.low == self.high

    def _at(self, share: float) -> float:
        if self.log:
            return float(math.exp(math.log(self.low) * (1 - share) + math.log(self.high) * share))
        return self.low * (1 - share) + self.high * share

    def paint(self, x: float) -> Paint:
        """Return the colour of a number."""
        if not math.isfinite(x):
            return HATCHED
        if self.same or x <= self.low:
            step = len(_RAMP) // 2 if self.same else 0
        elif self.log:
            step = int(len(_RAMP) * math.log(x / self.low) / math.log(self.high / self.low))
        else:
            step = int(len(_RAMP) * (x - self.low) / (self.high - self.low))
        fill, ink = _RAMP[max(0, min(step, len(_RAMP) - 1))]
        return Paint(fill, ink)

    def legend(self, title: str, text: Callable[[float], str], *, hatched: bool, missing: str | None) -> Legend:
        """Return the rows: each colour with the numbers it stands for."""
        rows: list[tuple[Paint | None, str]] = []
        if not self.empty and self.same:
            rows.append((self.paint(self.low), text(self.low)))
        elif not self.empty:
            n = len(_RAMP)
            for i, (fill, ink) in enumerate(_RAMP):
                a, b = self._at(i / n), self._at((i + 1) / n)
                rows.append((Paint(fill, ink), f"{text(a)} – {text(b)}"))
        if hatched:
            rows.append((HATCHED, "NaN or infinite"))
        if missing:
            rows.append((None, missing))
        return Legend(title + (" (log scale)" if self.log and not self.same else ""), tuple(rows))
