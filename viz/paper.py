"""PDF and PNG of the built-in layout through Matplotlib, for machines without Graphviz."""

from __future__ import annotations

from io import BytesIO
from itertools import pairwise

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path

from .colors import THEMES, Paint
from .diagram import Diagram
from .layout import Frame, Point
from .svg import AVOID_UP_TO, LABELS_UP_TO, heading_x, label_at, place

__all__ = ["to_paper"]

_SIDE_LIMIT = 30_000  # pixels; raster libraries stop at 32 767


def to_paper(diagram: Diagram, form: str, *, theme: str = "auto") -> bytes:
    """Return the diagram as "pdf" or "png". Large graphs are scaled down to what a PNG can hold."""
    c = THEMES["dark" if theme == "dark" else "light"]
    placed = place(diagram)
    rows = [diagram.heading, *diagram.notes]
    keys = [] if diagram.legend is None else list(diagram.legend.rows)
    top = 22.0 * len(rows) + (20.0 * (len(keys) + 1) if keys else 0.0) + 10.0
    width = max(placed.layout.width, 300.0, *(7.5 * len(row) for row in rows)) + 40.0
    height = placed.layout.height + top + 40.0
    dpi = min(144.0, 72.0 * _SIDE_LIMIT / max(width, height))
    figure = Figure(figsize=(width / 72, height / 72), dpi=dpi, facecolor=c["paper"])
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")

    def write(
        x: float, y: float, text: str, size: float, color: str, *, bold: bool = False, left: bool = False
    ) -> None:
        axes.text(
            x,
            y,
            text,
            size=size,
            color=color,
            weight="bold" if bold else "normal",
            ha="left" if left else "center",
            va="center",
            parse_math=False,
            family="DejaVu Sans",
        )

    def rectangle(
        f: Frame, face: str, edge: str, *, hatch: str | None = None, style: str = "-", line: float = 1.0
    ) -> None:
        axes.add_patch(
            FancyBboxPatch(
                (f.x, f.y),
                f.w,
                f.h,
                boxstyle="round,pad=0,rounding_size=4",
                facecolor=face,
                edgecolor=edge,
                linewidth=line,
                linestyle=style,
                hatch=hatch,
            )
        )

    y = 20.0
    for i, row in enumerate(rows):
        write(20, y, row, 15 if i == 0 else 10, c["ink"] if i == 0 else c["soft"], bold=i == 0, left=True)
        y += 22
    if diagram.legend is not None:
        write(20, y, diagram.legend.title, 10, c["ink"], bold=True, left=True)
        for paint, text in diagram.legend.rows:
            y += 20
            face, edge, hatch = _fill(paint, c)
            rectangle(Frame(20, y - 6, 14, 12), face, edge, hatch=hatch)
            write(42, y, text, 10, c["ink"], left=True)
    dx, dy = (width - placed.layout.width) / 2, top + 20.0

    def moved(f: Frame) -> Frame:
        return Frame(f.x + dx, f.y + dy, f.w, f.h)

    crossing = placed.paths if len(diagram.clusters) <= AVOID_UP_TO else []
    for cluster in diagram.clusters:
        f = moved(placed.layout.clusters[cluster.id])
        rectangle(f, c["cluster"], c["border"])
        x = heading_x(cluster, placed.layout.clusters[cluster.id], crossing) + dx
        write(x, f.y + 13, cluster.label, 10, c["ink"], bold=True, left=True)
    colors = {"forward": c["line"], "backward": c["back"], "saved": c["saved"]}
    styles = {"forward": "-", "backward": "--", "saved": ":"}
    for link, points in zip(diagram.links, placed.paths, strict=True):
        if link.kind == "order":
            continue
        shifted = [(x + dx, y + dy) for x, y in points]
        color = colors[link.kind]
        axes.add_patch(
            PathPatch(_path(shifted), fill=False, edgecolor=color, linestyle=styles[link.kind], linewidth=1.2)
        )
        if link.kind != "saved":
            x, y = shifted[-1]
            back = -7.0 if y >= shifted[-2][1] else 7.0
            axes.add_patch(Polygon([(x, y), (x - 3.5, y + back), (x + 3.5, y + back)], facecolor=color))
        if link.label and len(diagram.links) <= LABELS_UP_TO:
            x, y = label_at(shifted)
            write(x, y - 4, link.label, 9, color, left=True)
    for box, frame in zip(diagram.boxes, placed.layout.boxes, strict=True):
        f = moved(frame)
        face, _, hatch = _fill(box.paint, c)
        edge = c["saved"] if box.kind == "saved" else c["line"]
        line = 2.0 if box.kind in ("module", "parameter") else 1.0
        rectangle(f, face, edge, hatch=hatch, style=":" if box.kind == "saved" else "-", line=line)
        ink = c["ink"] if box.paint is None else box.paint.ink
        write(f.x + f.w / 2, f.y + 13, box.title, 11.5, ink, bold=True)
        for i, text in enumerate(box.lines):
            write(f.x + f.w / 2, f.y + 28 + 14 * i, text, 9.5, ink)
    buffer = BytesIO()
    # Without a date, the same graph gives the same file.
    figure.savefig(buffer, format=form, dpi=dpi, metadata={"CreationDate": None} if form == "pdf" else {})
    return buffer.getvalue()


def _fill(paint: Paint | None, c: dict[str, str]) -> tuple[str, str, str | None]:
    if paint is None:
        return c["box"], c["line"], None
    return ("#FFFFFF", "#D55E00", "///") if paint.hatched else (paint.fill, c["line"], None)


def _path(points: list[Point]) -> Path:
    corners = [points[0]]
    codes = [int(Path.MOVETO)]
    for (xa, ya), (xb, yb) in pairwise(points):
        middle = (ya + yb) / 2
        corners += [(xa, middle), (xb, middle), (xb, yb)]
        codes += [int(Path.CURVE4)] * 3
    return Path(corners, codes)
