"""Show results: one screen of text, an HTML table for notebooks, JUnit, Gradescope, CSV."""

from __future__ import annotations

import csv
import html as markup
import io
import textwrap
from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree

import numpy as np

from .format import EXPLAIN
from .result import CheckResult, Result

__all__ = ["csv_table", "gradescope", "html", "junit", "text"]

WIDTH = 79
MAX_LINES = 20
TODO = "to do"
PLAIN = str.maketrans({"·": "*", "Σ": "sum", "²": "^2", "±": "+-", "…": "...", "×": "x", "−": "-", "–": "-"})
MARKS = {"pass": "ok", "fail": "FAIL", "error": "ERROR", "timeout": "TIMEOUT"}
COLOURS = {"ok": "32", "FAIL": "31", "ERROR": "31", "TIMEOUT": "31", "bold": "1", "dim": "2", "cause": "33"}


def paint(words: str, colour: str, on: bool) -> str:
    return f"\x1b[{COLOURS[colour]}m{words}\x1b[0m" if on else words


def tells(result: Result, level: str) -> bool:
    return EXPLAIN.index(result.explain) >= EXPLAIN.index(level)


def text(result: Result, colour: bool = False) -> str:
    """Return the result as at most 20 lines of at most 79 columns."""
    first = next((c for c in result.checks if c.status != "pass"), None)
    lines = [f"{paint(result.exercise, 'bold', colour)}   {_cut(result.title, WIDTH - len(result.exercise) - 16)}"]
    lines[0] += paint(f"   seed {result.seed}", "dim", colour)
    shown = result.checks
    if len(shown) > 9:  # passed ones first to go
        keep = [c for c in shown if c.status != "pass"][:5]
        lines.append(f"  {sum(c.status == 'pass' for c in shown)} of {len(shown)} checks are ok")
        shown = keep
    for check in shown:
        title = _cut(check.title, 64) + " "
        lines.append(f"  {title:.<68} {paint(_mark(check), MARKS[check.status], colour)}")
    if result.error and (first is None or first.message != result.error):
        lines += _wrapped(result.error, "  ")
    if first is not None:
        lines += _details(result, first, colour)
    elif result.status == "pass":
        public = [c for c in result.checks if not c.hidden]
        words = f"public checks passed ({len(public)} of {len(public)})"
        lines.append("  " + paint(words, "ok", colour) + f", {result.score:g} of {result.max:g} points")
    for note in [n for c in result.checks for n in c.notes][:2]:
        lines += _wrapped(f"note: {note}", "  ")
    key = result.exercise.split("-")[0]
    if first is not None:
        hint = f"  next: tinygrad-cnn ex hint {key}"
        lines.append(paint(f"{hint:<38} repeat: ex check {key} --seed {result.seed}", "dim", colour))
        if result.printed:
            lines += _wrapped("your prints: " + " / ".join(result.printed.strip().splitlines()[-2:])[:150], "  ")
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 2], "  ...", lines[-1]]
    return "\n".join(lines).translate(PLAIN)


def _mark(check: CheckResult) -> str:
    return TODO if check.unwritten else MARKS[check.status]


def _details(result: Result, check: CheckResult, colour: bool) -> list[str]:
    lines = []
    case = check.failed_case
    if check.unwritten:
        return _wrapped(f"not written yet: {check.message}", "  ")
    if case is not None and case.name:
        lines += _wrapped(f"case {check.number} of {check.of}: {case.name}", "  ")
    if check.kind == "gradient" and check.layer == "value":
        lines.append("  shape, type, finite, inputs untouched, repeatable: ok")
    lines += _wrapped(check.message, "  ")
    if case is not None and case.where and tells(result, "location"):
        lines += _wrapped(f"where: {case.where}", "  ", "         ")
    if check.causes and tells(result, "cause"):
        cause = check.causes[0]
        sure = f" (your result equals that mistake's in {cause.cases} random cases)" if cause.cases > 1 else ""
        label = "likely cause: "
        body = _wrapped(label + cause.text + sure, "  ", " " * (2 + len(label)))
        lines += [paint(line, "cause", colour) for line in body]
        for other in check.causes[1:3]:
            lines += _wrapped(f"or: {other.text}", " " * (2 + len(label)))
        if cause.fix and tells(result, "fix"):
            lines += _wrapped("remedy: " + cause.fix, "  ", " " * 10)
    elif (
        check.layer in ("value", "contract") and case is not None and tells(result, "cause") and case.share is not None
    ):
        lines += _wrapped(f"cause: unknown {f'({check.nearest})' if check.nearest else ''}", "  ", " " * 9)
    if check.cleared and tells(result, "cause"):
        lines += _wrapped("not the cause: " + ", ".join(check.cleared), "  ", " " * 17)
    return lines


def _wrapped(words: str, first: str, rest: str | None = None) -> list[str]:
    return textwrap.wrap(
        words, WIDTH, initial_indent=first, subsequent_indent=rest or first, break_on_hyphens=False
    ) or [first]  # fmt: skip


def _cut(words: str, width: int) -> str:
    return words if len(words) <= width else words[: width - 3] + "..."


def html(result: Result) -> str:
    """Return the result for a notebook: the checks, the cause, and where the wrong entries are."""
    esc = markup.escape
    good = result.status == "pass"
    rows = "".join(
        f"<tr><td style='text-align:left'>{esc(c.title)}</td>"
        f"<td style='color:{_hue(c.status == 'pass')};font-weight:bold'>{_mark(c)}</td></tr>"
        for c in result.checks
    )
    parts = [
        f"<div style='border-left:4px solid {_hue(good)};padding-left:10px'>",
        f"<b>{esc(result.exercise)}</b> {esc(result.title)} <small>seed {result.seed}</small>",
        f"<table>{rows}</table>",
    ]
    first = next((c for c in result.checks if c.status != "pass"), None)
    if first is not None:
        parts.append("<pre style='white-space:pre-wrap'>" + esc("\n".join(_details(result, first, False))) + "</pre>")
        case = first.failed_case
        if case is not None and case.heat is not None:
            parts.append(heat_map(case.heat, f"wrong entries of {case.arg}"))
    elif good:
        parts.append(f"<p>{result.score:g} of {result.max:g} points</p>")
    return "".join(parts) + "</div>"


def _hue(good: bool) -> str:
    return "#1a7f37" if good else "#c0392b"


def heat_map(sizes: Any, title: str) -> str:
    """Draw how wrong each entry is (0 to 1) as SVG: the last two axes as rows and columns, the others side by side."""
    grid = np.asarray(sizes, dtype=float)
    if grid.ndim == 0:
        grid = grid.reshape(1, 1)
    if grid.ndim == 1:
        grid = grid[None, :]
    tiles = grid.reshape(-1, *grid.shape[-2:])[:12, :32, :32]
    rows, columns = tiles.shape[1:]
    size = max(4, min(14, 160 // max(rows, columns)))
    across = len(tiles) if columns == 1 else max(1, 600 // ((columns + 1) * size))
    body = []
    for t, tile in enumerate(tiles):
        x0, y0 = (t % across) * (columns + 1) * size, (t // across) * (rows + 1) * size
        for i in range(rows):
            for j in range(columns):
                fill = "#d5e8d4'" if not tile[i, j] else f"#c0392b' fill-opacity='{0.3 + 0.7 * tile[i, j]:.2f}'"
                x, y = x0 + j * size, y0 + i * size
                body.append(f"<rect x='{x}' y='{y}' width='{size - 1}' height='{size - 1}' fill='{fill}/>")
    width = min(across, len(tiles)) * (columns + 1) * size
    height = -(-len(tiles) // across) * (rows + 1) * size
    label = markup.escape(title)
    return (
        f"<figure style='margin:4px 0'><svg role='img' aria-label='{label}' width='{width}' height='{height}' "
        f"xmlns='http://www.w3.org/2000/svg'><title>{label}</title>{''.join(body)}</svg>"
        f"<figcaption><small>{label}: green right, red wrong, the deeper the more</small></figcaption>"
        "</figure>"
    )


def junit(results: Iterable[Result], suite: str = "tinygrad-cnn") -> str:
    """Return results as JUnit XML, a test case per check."""
    results = list(results)
    root = ElementTree.Element("testsuites")
    for result in results:
        failures = sum(c.status == "fail" for c in result.checks)
        errors = sum(c.status in ("error", "timeout") for c in result.checks)
        node = ElementTree.SubElement(
            root,
            "testsuite",
            name=f"{suite}.{result.exercise}",
            tests=str(len(result.checks)),
            failures=str(failures),
            errors=str(errors),
            time=f"{result.seconds:.3f}",
        )
        for check in result.checks:
            case = ElementTree.SubElement(node, "testcase", classname=result.exercise, name=_printable(check.title))
            if check.status != "pass":
                kind = "failure" if check.status == "fail" else "error"
                words = _printable(check.message)
                ElementTree.SubElement(case, kind, message=words).text = _printable(
                    "\n".join([check.message, *(f"cause: {c.text}" for c in check.causes)])
                )
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _printable(words: str) -> str:
    """Drop what XML cannot hold."""
    return "".join(c for c in words if c in "\n\t" or 32 <= ord(c) < 0xD800 or 0xE000 <= ord(c) < 0xFFFE)


def gradescope(results: Iterable[Result], seconds: float | None = None) -> dict[str, Any]:
    """Return the content of Gradescope's results.json."""
    results = list(results)
    tests = []
    for number, result in enumerate(results, 1):
        total = sum(c.weight for c in result.checks if not c.hidden)
        public = max(0.0, result.max - _hidden_points(result))
        causes = [c.id for c in result.causes]
        visible = [c for c in result.checks if not c.hidden]
        for k, check in enumerate(visible, 1):
            worth = public * check.weight / total if total else 0.0
            tests.append(
                {
                    "name": f"{result.exercise}: {check.title}",
                    "score": round(worth if check.status == "pass" else 0.0, 4),
                    "max_score": round(worth, 4),
                    "status": "passed" if check.status == "pass" else "failed",
                    "output": "" if check.status == "pass" else "\n".join(_details(result, check, False)),
                    "visibility": "visible",
                    "number": f"{number}.{k}",
                    "tags": causes if check.status != "pass" else [],
                }
            )
        for check in (c for c in result.checks if c.hidden):
            weight = sum(c.weight for c in result.checks if c.hidden)
            worth = _hidden_points(result) * check.weight / weight
            tests.append(
                {
                    "name": f"{result.exercise}: {check.title}",
                    "score": round(worth if check.status == "pass" else 0.0, 4),
                    "max_score": round(worth, 4),
                    "status": "passed" if check.status == "pass" else "failed",
                    "output": "" if check.status == "pass" else _class_of(check),  # the kind of mistake, no data
                    "visibility": "after_published",
                    "number": f"{number}.h",
                    "tags": [],
                }
            )
        if not result.checks:
            tests.append(
                {
                    "name": result.exercise,
                    "score": 0.0,
                    "max_score": round(result.max, 4),
                    "status": "failed",
                    "output": result.error,
                    "visibility": "visible",
                    "number": str(number),
                    "tags": [],
                }
            )
    return {
        "score": round(sum(r.score for r in results), 4),
        "execution_time": round(sum(r.seconds for r in results) if seconds is None else seconds, 3),
        "output": f"{sum(r.status == 'pass' for r in results)} of {len(results)} exercises passed",
        "stdout_visibility": "hidden",
        "tests": tests,
        "extra_data": {"mistakes": {r.exercise: [c.id for c in r.causes] for r in results if r.causes}},
    }


def _class_of(check: CheckResult) -> str:
    return "; ".join(c.text for c in check.causes) or f"a hidden check failed ({check.layer})"


def _hidden_points(result: Result) -> float:
    return result.hidden_max


def csv_table(rows: Iterable[dict[str, Any]]) -> str:
    """Return rows as CSV. Texts that a spreadsheet would take for a formula are quoted with an apostrophe."""
    rows = list(rows)
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _harmless(v) for k, v in row.items()} for row in rows)
    return out.getvalue()


def _harmless(value: Any) -> Any:
    return "'" + value if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
