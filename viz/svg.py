"""SVG: our own writer on our own layout, and the frame (title, legend, notes, themes) around any drawing."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import unescape
from itertools import pairwise

from .colors import THEMES, Legend, Paint
from .diagram import Box, Cluster, Diagram
from .layout import Frame, Layout, Point, layout

__all__ = ["Placed", "box_size", "escape", "framed", "place", "to_svg", "wrap_dot"]

# Those after Arial have nearly its widths, which is what boxes are measured with.
FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans Condensed', sans-serif"
TITLE_SIZE = 13.0
LINE_SIZE = 11.0
_LINE_HEIGHT = 14.0
_CAR_GAP = 14.0
AVOID_UP_TO = 100  # clusters; looking for lines behind the headings takes clusters × links steps
LABELS_UP_TO = 80  # links; more labels would cover each other

# Widths of Helvetica's characters 32 to 126, in thousandths of the font size (Adobe font metrics).
_WIDTHS = (
    "278 278 355 556 556 889 667 191 333 333 389 584 278 333 278 278 556 556 556 556 556 556 556 556 556 556 278 278 "
    "584 584 584 556 1015 667 667 722 722 667 611 778 722 278 500 667 556 833 722 778 667 778 722 667 611 722 667 944 "
    "667 667 611 278 278 278 469 556 333 556 556 500 556 556 278 556 556 222 222 500 222 833 556 556 556 556 333 500 "
    "278 556 500 722 500 500 500 334 260 334 584"
)
_WIDTH = dict(zip(map(chr, range(32, 127)), map(int, _WIDTHS.split()), strict=True))


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Return about how wide a line of text is, in pixels."""
    total = 0
    for c in text:
        total += _WIDTH.get(c) or (1000 if unicodedata.east_asian_width(c) in "WF" else 600)
    return total * size / 1000 * (1.14 if bold else 1.0)


def box_size(box: Box) -> tuple[float, float]:
    """Return the width and height that a box's text needs."""
    widths = [text_width(box.title, TITLE_SIZE, bold=True), *(text_width(line, LINE_SIZE) for line in box.lines)]
    return max(44.0, max(widths) + 18.0), 24.0 + _LINE_HEIGHT * len(box.lines)


_BAD = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escape(text: str) -> str:
    """Make text harmless in XML: as content and inside double quotes."""
    text = _BAD.sub("�", text)
    return (
        text.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace('"', "&quot;")
        .replace("'", "&#39;")
    )


# ------------------------------------------------------------------------------------------------ themes and frame


def _style(theme: str) -> str:
    """Return the style sheet. Its rules are about elements inside one theme's class: the page around is left alone."""
    base = (
        f".tgv{{max-width:100%;height:auto;font-family:{FONT}}}"
        ".tgv text{font-size:11px}.tgv .t{font-size:13px;font-weight:bold}.tgv .h{font-size:15px;font-weight:bold}"
        ".tgv .m{text-anchor:middle}.tgv .f path,.tgv .b path,.tgv .s path{fill:none;stroke-width:1.4}"
        ".tgv .node text:first-of-type,.tgv .cluster text{font-weight:bold}.tgv .b path{stroke-dasharray:6 4}"
        ".tgv .s path{stroke-dasharray:1.5 3}.tgv .c>rect{stroke-width:1}.tgv .n>rect{stroke-width:1.2}"
        ".tgv .parameter>rect{stroke-width:2}.tgv .saved>rect{stroke-dasharray:1.5 3}"
        ".tgv .module>rect{stroke-width:2.4}.tgv .l{font-size:10px;stroke-width:3px;paint-order:stroke}"
        ".tgv .node path,.tgv .node polygon{stroke-width:1.2}.tgv .cluster path{stroke-width:1}"
    )
    if theme == "auto":
        rules = base + _colors("light") + "@media (prefers-color-scheme:dark){" + _colors("dark") + "}"
    else:
        rules = base + _colors(theme)
    return rules.replace(".tgv", f".tgv-{theme}")


def _colors(theme: str) -> str:
    c = THEMES[theme]
    return (
        f".tgv .paper{{fill:{c['paper']}}}.tgv text{{fill:{c['ink']}}}.tgv .soft{{fill:{c['soft']}}}"
        f".tgv .f path{{stroke:{c['line']}}}.tgv .f polygon{{fill:{c['line']};stroke:none}}"
        f".tgv .b path{{stroke:{c['back']}}}.tgv .b polygon{{fill:{c['back']};stroke:none}}"
        f".tgv .b text{{fill:{c['back']}}}"
        f".tgv .s path{{stroke:{c['saved']}}}.tgv .s polygon{{fill:none;stroke:none}}"
        f".tgv .c>rect,.tgv .cluster path,.tgv .cluster polygon{{fill:{c['cluster']};stroke:{c['border']}}}"
        f".tgv .n>rect{{stroke:{c['line']}}}.tgv .plain>rect{{fill:{c['box']}}}"
        f".tgv .saved>rect{{stroke:{c['saved']}}}.tgv .saved text{{fill:{c['saved']}}}"
        ".tgv .graph>polygon{fill:none;stroke:none}"
        f".tgv .node path,.tgv .node polygon{{stroke:{c['line']}}}"
        f".tgv .node.plain path,.tgv .node.plain polygon{{fill:{c['box']}}}"
        f".tgv .node.saved path,.tgv .node.saved polygon{{stroke:{c['saved']}}}"
        f".tgv .l{{stroke:{c['paper']}}}.tgv .kb,.tgv .kb text{{fill:#000000}}.tgv .kw,.tgv .kw text{{fill:#FFFFFF}}"
        f".tgv .swatch{{stroke:{c['line']};stroke-width:1}}.tgv .swatch.none{{fill:{c['box']}}}"
    )


_HATCH = (
    '<pattern id="tgv-hatch" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="8" height="8" fill="#FFFFFF"/><rect width="4" height="8" fill="#F0A070"/></pattern>'
)


def _n(x: float) -> str:
    text = f"{x:.1f}"
    return text[:-2] if text.endswith(".0") else text


def _wrapped(text: str, width: float, size: float) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _legend_rows(legend: Legend, width: float) -> tuple[list[str], float, float]:
    """Return the legend as SVG, its height and its width: entries side by side, wrapped at `width`."""
    parts = [f'<text class="t" x="0" y="12" style="font-size:11px">{escape(legend.title)}</text>']
    x, y, widest = 0.0, 22.0, text_width(legend.title, 11, bold=True)
    for paint, text in legend.rows:
        need = 20.0 + text_width(text, LINE_SIZE) + 16.0
        if x and x + need > width:
            x, y = 0.0, y + 19.0
        fill = "" if paint is None else f' fill="{"url(#tgv-hatch)" if paint.hatched else paint.fill}"'
        name = "swatch none" if paint is None else "swatch"
        parts.append(f'<rect class="{name}" x="{_n(x)}" y="{_n(y)}" width="14" height="12"{fill}/>')
        parts.append(f'<text x="{_n(x + 20)}" y="{_n(y + 10)}">{escape(text)}</text>')
        x += need
        widest = max(widest, x - 16.0)
    return parts, y + 20.0, widest


def framed(diagram: Diagram, body: str, width: float, height: float, theme: str) -> str:
    """Put title, legend and notes above a drawing, in an SVG that scales with the page it stands on."""
    margin = 14.0
    room = max(width, 420.0)
    heading = diagram.heading
    title_lines = _wrapped(heading, room, 15) or ["graph"]
    parts: list[str] = []
    y = 0.0
    widest = width
    for line in title_lines:
        y += 18.0
        parts.append(f'<text class="h" x="0" y="{_n(y - 3)}">{escape(line)}</text>')
        widest = max(widest, text_width(line, 15, bold=True))
    for note in diagram.notes:
        for line in _wrapped(note, room, LINE_SIZE):
            y += 15.0
            parts.append(f'<text class="soft" x="0" y="{_n(y - 2)}">{escape(line)}</text>')
            widest = max(widest, text_width(line, LINE_SIZE))
    if diagram.legend is not None:
        rows, tall, wide = _legend_rows(diagram.legend, room)
        parts.append(f'<g transform="translate(0 {_n(y + 6)})">{"".join(rows)}</g>')
        y += tall + 6.0
        widest = max(widest, wide)
    y += 14.0
    total_w, total_h = widest + 2 * margin, y + height + 2 * margin
    title = escape(f"{heading}: the recorded graph")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tgv-{theme}" role="img" '
        f'viewBox="0 0 {_n(total_w)} {_n(total_h)}" aria-label="{title}" '
        f'style="max-width:min(100%,{_n(total_w)}px)" preserveAspectRatio="xMidYMin meet">'
        f"<title>{title}</title><desc>{escape(diagram.description)}</desc><style>{_style(theme)}</style>"
        f'<defs>{_HATCH}</defs><rect class="paper" width="100%" height="100%"/>'
        f'<g transform="translate({_n(margin)} {_n(margin)})">{"".join(parts)}'
        f'<g transform="translate({_n((widest - width) / 2)} {_n(y)})">{body}</g></g></svg>\n'
    )


# ------------------------------------------------------------------------------------------------ our own drawing


@dataclass(slots=True)
class Placed:
    """A diagram with places: the layout, and the corners of every link, in the order of `diagram.links`."""

    layout: Layout
    paths: list[list[Point]]


def place(diagram: Diagram) -> Placed:
    """Lay a diagram out. Forward links carry the layout; gradients run back beside them."""
    # A saved box is a side car of its op: they are placed as one, and drawn beside each other.
    car = {link.head: link.tail for link in diagram.links if link.kind == "saved"}
    size = {box.id: box_size(box) for box in diagram.boxes}
    boxes = [box for box in diagram.boxes if box.kind != "saved"]
    number = {box.id: i for i, box in enumerate(boxes)}
    sizes, anchors = [], []
    for box in boxes:
        w, h = size[box.id]
        w2, h2 = size[car[box.id]] if box.id in car else (-_CAR_GAP, 0.0)
        sizes.append((w + _CAR_GAP + w2, max(h, h2)))
        anchors.append(-(_CAR_GAP + w2) / 2)
    carrying = [link for link in diagram.links if link.kind in ("forward", "order")]
    pairs = {(link.tail, link.head) for link in carrying}
    beside = {id(link) for link in diagram.links if link.kind == "backward" and (link.head, link.tail) in pairs}
    carrying += [link for link in diagram.links if link.kind == "backward" and id(link) not in beside]
    laid = layout(
        sizes,
        [box.cluster for box in boxes],
        {cluster.id: cluster.parent for cluster in diagram.clusters},
        [(number[link.tail], number[link.head]) for link in carrying],
        light=[box.kind in ("parameter", "constant", "buffer") for box in boxes],
        anchors=anchors,
        labels={cluster.id: label_width(cluster) for cluster in diagram.clusters},
    )
    frames: dict[str, Frame] = {}
    for box, f in zip(boxes, laid.boxes, strict=True):
        w, h = size[box.id]
        frames[box.id] = Frame(f.x, f.y + (f.h - h) / 2, w, h)
        if box.id in car:
            w2, h2 = size[car[box.id]]
            frames[car[box.id]] = Frame(f.x + w + _CAR_GAP, f.y + (f.h - h2) / 2, w2, h2)
    laid.boxes = [frames[box.id] for box in diagram.boxes]
    path_of = {(link.tail, link.head): laid.paths[i] for i, link in enumerate(carrying)}
    # Where a side car is taller than its op, the op stands lower than the layout knows.
    for (tail, head), path in path_of.items():
        path[0] = (path[0][0], frames[tail].y + frames[tail].h)
        path[-1] = (path[-1][0], frames[head].y)
    paths = []
    for link in diagram.links:
        if link.kind == "saved":
            f = frames[link.head]
            paths.append([(f.x + f.w, f.y + f.h / 2), (f.x + f.w + _CAR_GAP, f.y + f.h / 2)])
        elif id(link) in beside:
            paths.append([(x + 8.0, y) for x, y in reversed(path_of[link.head, link.tail])])
        else:
            paths.append(path_of[link.tail, link.head])
    return Placed(laid, paths)


def label_width(cluster: Cluster) -> float:
    """Return how wide a cluster's heading is."""
    return text_width(cluster.label, LINE_SIZE, bold=True) + 4.0


def heading_x(cluster: Cluster, f: Frame, paths: Sequence[Sequence[Point]]) -> float:
    """Return where a cluster's heading starts: at the left, unless a line comes in there and the right is free."""
    width = label_width(cluster)
    crossing = [x for path in paths for x, y in path if abs(y - f.y) < 0.5 and f.x <= x <= f.x + f.w]
    left, right = f.x + 10.0, f.x + f.w - 8.0 - width
    if any(left - 4 < x < left + width for x in crossing) and not any(right - 4 < x < right + width for x in crossing):
        return max(right, left)
    return left


def label_at(points: Sequence[Point]) -> Point:
    """Return where a gradient's label starts: beside the first stretch of its line, where lines have parted."""
    (xa, ya), (xb, yb) = points[:2]
    return (xa + xb) / 2 + 5.0, (ya + yb) / 2 + 4.0


def to_svg(diagram: Diagram, *, theme: str = "auto") -> str:
    """Draw with the built-in layout."""
    placed = place(diagram)
    crossing = placed.paths if len(diagram.clusters) <= AVOID_UP_TO else []
    parts: list[str] = []
    for cluster in diagram.clusters:
        f = placed.layout.clusters[cluster.id]
        x = heading_x(cluster, f, crossing)
        parts.append(
            f'<g class="c"><rect x="{_n(f.x)}" y="{_n(f.y)}" width="{_n(f.w)}" height="{_n(f.h)}" rx="6"/>'
            f'<text class="t" style="font-size:11px" x="{_n(x)}" y="{_n(f.y + 16)}">{escape(cluster.label)}'
            "</text></g>"
        )
    labels: list[str] = []
    for link, points in zip(diagram.links, placed.paths, strict=True):
        if link.kind == "order":
            continue
        name = {"forward": "f", "backward": "b", "saved": "s"}[link.kind]
        tip = f"<title>{escape(link.tooltip)}</title>" if link.tooltip else ""
        head = "" if link.kind == "saved" else _arrow(points)
        parts.append(f'<g class="{name}">{tip}<path d="{_curve(points)}"/>{head}</g>')
        if link.label and len(diagram.links) <= LABELS_UP_TO:
            x, y = label_at(points)
            labels.append(f'<g class="{name}"><text class="l" x="{_n(x)}" y="{_n(y)}">{escape(link.label)}</text></g>')
    for box, f in zip(diagram.boxes, placed.layout.boxes, strict=True):
        parts.append(_box(box, f.x, f.y, f.w, f.h))
    return framed(diagram, "".join(parts + labels), placed.layout.width, placed.layout.height, theme)


def _ink(paint: Paint | None) -> str:
    return "" if paint is None else " kw" if paint.ink == "#FFFFFF" else " kb"


def _box(box: Box, x: float, y: float, w: float, h: float) -> str:
    radius = {"op": 4, "module": 4, "saved": 2}.get(box.kind, min(h / 2, 14))
    fill = ""
    name = f"n {box.kind}"
    if box.paint is None:
        name += " plain"
    else:
        fill = f' fill="{"url(#tgv-hatch)" if box.paint.hatched else box.paint.fill}"'
    ink = _ink(box.paint)
    middle = _n(x + w / 2)
    text = [f'<text class="t m{ink}" x="{middle}" y="{_n(y + 17)}">{escape(box.title)}</text>']
    for i, line in enumerate(box.lines):
        text.append(f'<text class="m{ink}" x="{middle}" y="{_n(y + 31 + _LINE_HEIGHT * i)}">{escape(line)}</text>')
    tip = f"<title>{escape(box.tooltip)}</title>" if box.tooltip else ""
    return (
        f'<g class="{name}">{tip}<rect x="{_n(x)}" y="{_n(y)}" width="{_n(w)}" height="{_n(h)}" rx="{radius}"{fill}/>'
        f"{''.join(text)}</g>"
    )


def _curve(points: Sequence[Point]) -> str:
    """Return a path that leaves and reaches every corner vertically."""
    d = [f"M{_n(points[0][0])} {_n(points[0][1])}"]
    for (xa, ya), (xb, yb) in pairwise(points):
        if abs(xa - xb) < 0.5:
            if yb != ya:
                d.append(f"V{_n(yb)}" if abs(xa - xb) < 0.05 else f"L{_n(xb)} {_n(yb)}")
        else:
            middle = (ya + yb) / 2
            d.append(f"C{_n(xa)} {_n(middle)} {_n(xb)} {_n(middle)} {_n(xb)} {_n(yb)}")
    return "".join(d)


def _arrow(points: Sequence[Point]) -> str:
    """Return the arrowhead at the last point, which lines reach vertically."""
    x, y = points[-1]
    back = -7.0 if y >= points[-2][1] else 7.0
    return f'<polygon points="{_n(x)},{_n(y)} {_n(x - 3.5)},{_n(y + back)} {_n(x + 3.5)},{_n(y + back)}"/>'


# ------------------------------------------------------------------------------------------------ dressing dot's SVG


_VIEWBOX = re.compile(r'viewBox="([-\d.]+) ([-\d.]+) ([\d.]+) ([\d.]+)"')
_BODY = re.compile(r"<svg[^>]*>(.*)</svg>", re.DOTALL)
_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)


def wrap_dot(diagram: Diagram, svg: str, tooltip: Callable[[str], str], theme: str) -> str:
    """Put a drawing made by `dot` into our frame: our tooltips, our themes, no fixed size, no comments."""
    view = _VIEWBOX.search(svg)
    inner = _BODY.search(svg)
    if view is None or inner is None:
        raise ValueError("dot gave no SVG")
    body = re.sub(r"<!--.*?-->", "", inner.group(1), flags=re.DOTALL)
    body = _TITLE.sub(lambda m: f"<title>{escape(tooltip(unescape(m.group(1))))}</title>", body)
    body = re.sub(r'</?a\b[^>]*>|\s(?:id|xlink:\w+|target)="[^"]*"', "", body)
    body = re.sub(r"\n+", "\n", body)
    return framed(diagram, body.strip(), float(view.group(3)), float(view.group(4)), theme)
