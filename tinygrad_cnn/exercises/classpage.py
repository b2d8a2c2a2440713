"""The class page: who passed what, and which mistakes were made how often."""

from __future__ import annotations

import html as markup
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from .format import Exercise
from .grade import histogram

__all__ = ["class_page"]

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#1c2733}
h1{font-size:1.5em}h2{font-size:1.15em;margin:1.6em 0 .4em}table{border-collapse:collapse}
td,th{padding:3px 10px 3px 0;text-align:left;vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}
.bar{background:#c8553d;height:.8em;display:inline-block;min-width:2px}.ok{background:#3d7a5a}
.wide{overflow-x:auto}.p{color:#2c6b48}.f{color:#a8402c}.e{color:#7a5a00}small{color:#5b6875}
"""
SHOWN = {"pass": ("p", "passed"), "fail": ("f", "failed"), "error": ("e", "error"), "timeout": ("e", "timeout")}


def class_page(records: Sequence[dict[str, Any]], exercises: Sequence[Exercise]) -> str:
    """Return the page as HTML that needs no network."""
    esc = markup.escape
    titles = {e.id: e.title for e in exercises}
    texts = {c["id"]: c["text"] for r in records for x in r["results"] for check in x["checks"] for c in check["cause"]}
    parts = [
        "<!doctype html>\n<html lang='en'><meta charset='utf-8'><title>Class page</title>",
        f"<style>{STYLE}</style><h1>{len(records)} submissions, {len(exercises)} exercises</h1>",
        "<h2>Exercises</h2><table><tr><th>exercise<th>passed<th></tr>",
    ]
    for name, title in titles.items():
        passed = sum(x["status"] == "pass" for r in records for x in r["results"] if x["exercise"] == name)
        width = 12 * passed / max(1, len(records))
        parts.append(
            f"<tr><td>{esc(name)} <small>{esc(title)}</small><td class='n'>{passed} of {len(records)}"
            f"<td><span class='bar ok' style='width:{width:.2f}em'></span></tr>"
        )
    parts.append("</table><h2>Mistakes</h2>")
    counts = histogram(records)
    if not counts:
        parts.append("<p>None.</p>")
    for name in titles:
        if name not in counts:
            continue
        parts.append(f"<h3>{esc(name)} <small>{esc(titles[name])}</small></h3><table>")
        top = max(counts[name].values())
        for mistake, count in counts[name].most_common():
            parts.append(
                f"<tr><td>{esc(texts.get(mistake, mistake))}<td class='n'>{count}"
                f"<td><span class='bar' style='width:{14 * count / top:.2f}em'></span></tr>"
            )
        parts.append("</table>")
    parts.append(
        "<h2>Students</h2><div class='wide'><table><tr><th>student<th>score"
        + "".join(f"<th>{esc(e.key)}" for e in exercises)
    )
    for record in sorted(records, key=lambda r: str(r["student"])):
        cells = []
        by_name = {x["exercise"]: x for x in record["results"]}
        for exercise in exercises:
            result = by_name.get(exercise.id)
            kind, word = SHOWN.get(result["status"] if result else "", ("f", "?"))
            if result and result["message"] == "not handed in":
                word = "-"
            cells.append(f"<td class='{kind}'>{word}")
        score = f"{record['score']:g} of {record['max']:g}"
        parts.append(f"<tr><td>{esc(str(record['student']))}<td class='n'>{score}{''.join(cells)}")
    parts.append("</table></div>" + _copies(records))
    return "\n".join(parts) + "\n</html>\n"


def _copies(records: Sequence[dict[str, Any]]) -> str:
    same: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in records:
        for name, value in record.get("fingerprints", {}).items():
            if value:
                same[name, value].append(str(record["student"]))
    groups = [(name, who) for (name, _), who in sorted(same.items()) if len(who) > 1]
    if not groups:
        return ""
    rows = "".join(f"<li>{markup.escape(n)}: {markup.escape(', '.join(who))}</li>" for n, who in groups)
    return (
        "<h2>Equal code</h2><p><small>Equal up to comments and layout. For information only: short exercises have "
        f"few different right answers.</small></p><ul>{rows}</ul>"
    )
