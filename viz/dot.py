"""DOT text, and running `dot` on it where there is one."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from .colors import THEMES, Paint
from .diagram import Box, Cluster, Diagram

__all__ = ["find_dot", "run_dot", "to_dot"]

_SHAPES = {
    "op": "box",
    "module": "box",
    "parameter": "box",
    "input": "box",
    "constant": "box",
    "buffer": "box",
    "saved": "note",
}
_STYLES = {
    "op": "rounded",
    "module": "bold",
    "parameter": "rounded,bold",
    "input": "rounded",
    "constant": "rounded",
    "buffer": "rounded",
    "saved": "dotted",
}


def quote(text: str) -> str:
    """Return text as a DOT string in which nothing is an escape: no quotes, backslashes, entities or controls."""
    text = "".join(c if c.isprintable() or c == "\n" else "�" for c in text)
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;").replace("\n", "\\n")
    return f'"{text}"'


def name(id: str) -> str:
    """Return an id as a DOT name. Unlike in labels, an ampersand stands for itself here."""
    return quote(id.replace("\n", " ")).replace("&amp;", "&")


def to_dot(diagram: Diagram, *, theme: str = "auto", legend: bool = True) -> str:
    """Return the diagram in Graphviz's language. Statements stand in order of creation, so layouts are stable.

    With `legend`, title, notes, legend and tooltips are part of it. Without, it is for a drawing that gets them later.
    """
    c = THEMES["dark" if theme == "dark" else "light"]
    backward_only = diagram.mode == "backward"
    forward = {(link.tail, link.head) for link in diagram.links if link.kind == "forward"}
    lines = [
        "digraph {",
        f"  graph [rankdir=TB, nodesep=0.25, ranksep=0.35, fontname=Helvetica, fontsize=11, compound=true, "
        f'bgcolor="{c["paper"]}", fontcolor="{c["ink"]}"]',
        f'  node [fontname=Helvetica, fontsize=11, height=0.3, margin="0.17,0.06", color="{c["line"]}", '
        f'fontcolor="{c["ink"]}"]',
        f'  edge [fontname=Helvetica, fontsize=10, arrowsize=0.6, color="{c["line"]}", fontcolor="{c["soft"]}"]',
    ]
    ops = {box.id for box in diagram.boxes if box.kind in ("op", "module")}
    cars = {link.head: link.tail for link in diagram.links if link.kind == "saved"}
    if legend:
        lines += _key(diagram, c)
    children: dict[str | None, list[Cluster]] = {}
    for cluster in diagram.clusters:
        children.setdefault(cluster.parent, []).append(cluster)
    members: dict[str | None, list[Box]] = {}
    for box in diagram.boxes:
        members.setdefault(box.cluster, []).append(box)
    # (cluster, depth, opened): depth-first without recursion, as modules may be nested without limit.
    number = {cluster.id: i for i, cluster in enumerate(diagram.clusters)}
    pending: list[tuple[Cluster, int, bool]] = [(cluster, 1, False) for cluster in reversed(children.get(None, []))]
    while pending:
        cluster, level, opened = pending.pop()
        indent = "  " * level
        if opened:
            lines.append(f"{indent}}}")
            continue
        lines.append(f'{indent}subgraph "cluster_{number[cluster.id]}" {{')
        lines.append(
            f'{indent}  graph [label={quote(cluster.label)}, labeljust=l, style="rounded,filled", '
            f'fillcolor="{c["cluster"]}", color="{c["border"]}", class=cluster]'
        )
        lines += [f"{indent}  {_box(box, c, legend)}" for box in members.get(cluster.id, [])]
        lines += [f"{indent}  {_level(box, cars)}" for box in members.get(cluster.id, []) if box.id in cars]
        pending.append((cluster, level, True))
        pending += [(inner, level + 1, False) for inner in reversed(children.get(cluster.id, []))]
    lines += [f"  {_box(box, c, legend)}" for box in members.get(None, [])]
    lines += [f"  {_level(box, cars)}" for box in members.get(None, []) if box.id in cars]
    for link in diagram.links:
        attributes = []
        if link.kind == "backward":
            attributes.append("style=dashed")
            if not backward_only and (link.head, link.tail) in forward:
                attributes.append("constraint=false")
            attributes += [f'color="{c["back"]}"', f'fontcolor="{c["back"]}"', "class=b"]
        elif link.kind == "order":
            attributes.append("style=invis")
        elif link.kind == "saved":
            attributes += ["style=dotted", "arrowhead=none", f'color="{c["saved"]}"', "class=s"]
        else:
            if link.tail in ops:
                attributes.append("weight=6")  # keeps the line of ops straight, parameters beside it
            attributes.append("class=f")
        if link.label:
            attributes.append(f"label={quote(link.label)}")
        if link.tooltip and legend:
            attributes.append(f"tooltip={quote(link.tooltip)}")
        tail, head = (link.head, link.tail) if link.kind == "saved" else (link.tail, link.head)
        lines.append(f"  {name(tail)} -> {name(head)} [{', '.join(attributes)}]")
    lines.append("}")
    return "\n".join(lines) + "\n"


def _box(box: Box, c: dict[str, str], tips: bool) -> str:
    attributes = [
        f"label={quote(chr(10).join([box.title, *box.lines]))}",
        f"shape={_SHAPES.get(box.kind, 'box')}",
    ]
    style = _STYLES.get(box.kind, "solid")
    kind = f"{box.kind} plain"
    if box.paint is not None:
        kind = f"{box.kind} {'kw' if box.paint.ink == '#FFFFFF' else 'kb'}"
        fill, style = _fill(box.paint, style)
        attributes += [fill, f'fontcolor="{box.paint.ink}"']
    attributes.append(f'style="{style}"')
    if box.kind == "saved":
        attributes += [f'color="{c["saved"]}"', f'fontcolor="{c["saved"]}"']
    if box.tooltip and tips:
        attributes.append(f"tooltip={quote(box.tooltip)}")
    attributes.append(f'class="{kind}"')
    return f"{name(box.id)} [{', '.join(attributes)}]"


def _level(box: Box, cars: dict[str, str]) -> str:
    """Put what an op keeps beside the op."""
    return f"{{rank=same; {name(box.id)}; {name(cars[box.id])}}}"


def _fill(paint: Paint, style: str) -> tuple[str, str]:
    if paint.hatched:
        return 'fillcolor="#F0A070:#FFFFFF:#F0A070:#FFFFFF:#F0A070:#FFFFFF:#F0A070"', "striped"
    return f'fillcolor="{paint.fill}"', f"filled,{style}"


def _key(diagram: Diagram, c: dict[str, str]) -> list[str]:
    """Return title, notes and legend as the graph's own label, an HTML-like table of our making."""
    heading = diagram.heading
    rows = [f'<tr><td align="left" colspan="2"><font point-size="15"><b>{_html(heading)}</b></font></td></tr>']
    rows += [f'<tr><td align="left" colspan="2">{_html(note)}</td></tr>' for note in diagram.notes]
    if diagram.legend is not None:
        rows.append(f'<tr><td align="left" colspan="2"><b>{_html(diagram.legend.title)}</b></td></tr>')
        for paint, text in diagram.legend.rows:
            if paint is None:
                swatch = f'border="1" color="{c["line"]}"'
            elif paint.hatched:
                swatch = 'bgcolor="#F0A070:#FFFFFF"'
            else:
                swatch = f'bgcolor="{paint.fill}"'
            rows.append(f'<tr><td width="14" {swatch}></td><td align="left">{_html(text)}</td></tr>')
    table = f'<table border="0" cellborder="0" cellspacing="3">{"".join(rows)}</table>'
    return [f"  graph [labelloc=t, labeljust=l, label=<{table}>]"]


def _html(text: str) -> str:
    text = "".join(ch if ch.isprintable() else "�" for ch in text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;") or " "


# ------------------------------------------------------------------------------------------------ the program


def find_dot() -> str | None:
    """Return the path of a `dot` program: on PATH, else the one of the package graphviz-pure, else None."""
    found = shutil.which("dot") or shutil.which("graphviz-pure")
    if found is not None:
        return found
    for folder in (sysconfig.get_path("scripts"), str(Path(sys.executable).parent)):
        for program in ("graphviz-pure", "dot"):
            candidate = shutil.which(program, path=folder)
            if candidate is not None:
                return candidate
    return None


def run_dot(text: str, form: str, *, timeout: float) -> bytes | None:
    """Return the drawing that `dot` makes of DOT text, or None: no dot, too slow, or it failed."""
    program = find_dot()
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, f"-T{form}"], input=text.encode(), capture_output=True, timeout=timeout, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 and done.stdout else None
