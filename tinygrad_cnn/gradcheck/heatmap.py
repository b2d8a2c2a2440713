"""Heat maps of errors: one line of characters for a terminal, SVG for a page."""

from __future__ import annotations

import html

import numpy as np

from .problem import Array, axis_names

__all__ = ["ascii_strip", "axes_svg", "heat_svg"]

SHADES = " .:-=+*#%@"
CELL = 14
MOST_CELLS = 4096


def ascii_strip(name: str, shares: list[float]) -> str:
    """The share of wrong entries along one axis, a character per index.

    >>> ascii_strip("row", [0.0, 0.5, 1.0])
    'row   [ +@]  wrong share per index 0..2'
    """
    marks = "".join(SHADES[min(len(SHADES) - 1, int(s * len(SHADES)))] for s in shares[:40])
    return f"{name:<5} [{marks}]  wrong share per index 0..{len(shares) - 1}"


def axes_svg(axes: dict[str, list[float]], title: str) -> str:
    """Draw the share of wrong entries along every axis: one row of cells per axis, dark where all are wrong."""
    rows = []
    widest = max((min(len(v), 64) for v in axes.values()), default=1)
    for line, (name, shares) in enumerate(axes.items()):
        y = 22 + line * (CELL + 6)
        rows.append(f'<text x="7" y="{y + 11}" font-size="11" fill="currentColor">{html.escape(name)}</text>')
        for i, share in enumerate(shares[:64]):
            fill = _colour(10 ** (6 * (share - 1)), 1.0)[0] if share > 0 else "none"
            rows.append(
                f'<rect x="{70 + i * CELL}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" fill="{fill}" '
                f'stroke="#8885"><title>{html.escape(name)} {i}: {100 * share:.0f} % wrong</title></rect>'
            )
    label = html.escape(title)
    width, height = max(80 + widest * CELL, 8 * len(label)), 28 + len(axes) * (CELL + 6)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'style="max-width:100%;width:{width}px" font-family="sans-serif"><title>{label}</title>'
        f'<text x="7" y="15" font-size="12" fill="currentColor">{label}</text>{"".join(rows)}</svg>'
    )


def heat_svg(errors: Array, title: str, name: str = "") -> str:
    """Draw the size of the errors of an array as an SVG picture on a logarithmic scale.

    The last two axes are a tile, the axes before them lay tiles side by side (axis 1) and below each other (axis 0).
    Exact entries are blank, wrong ones go from yellow to dark red, and NaN is crossed. Entries not looked at are NaN
    with a negative sign bit in `errors` and drawn as a dot.
    """
    errors = np.asarray(errors, dtype=float)
    shape = errors.shape
    tiles = errors.reshape((1,) * (4 - errors.ndim) + shape) if errors.ndim <= 4 else errors.reshape(-1, *shape[-3:])
    if tiles.size > MOST_CELLS:
        keep = max(1, MOST_CELLS // max(1, tiles.shape[2] * tiles.shape[3]))
        tiles = tiles[: max(1, keep // tiles.shape[1]), : max(1, min(keep, tiles.shape[1]))]
        tiles = tiles[:, :, :64, :64]
    a, b, rows, columns = tiles.shape
    finite = tiles[np.isfinite(tiles) & (tiles > 0)]
    top = float(finite.max()) if finite.size else 1.0
    gap = CELL // 2
    width, height = b * (columns * CELL + gap) + gap, a * (rows * CELL + gap) + gap + 22
    cells = []
    for i, j, r, c in np.ndindex(a, b, rows, columns):
        e = float(tiles[i, j, r, c])
        x, y = gap + j * (columns * CELL + gap) + c * CELL, 22 + i * (rows * CELL + gap) + r * CELL
        index = ",".join(map(str, np.unravel_index(int(np.ravel_multi_index((i, j, r, c), tiles.shape)), tiles.shape)))
        index = ",".join(index.split(",")[4 - min(4, len(shape)) :]) if shape else ""
        fill, mark = _colour(e, top)
        cells.append(
            f'<rect x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" fill="{fill}" stroke="#8885">'
            f"<title>[{index}] error {e:.3g}</title></rect>"
        )
        if mark:
            cells.append(f'<text x="{x + 3}" y="{y + 11}" font-size="11" fill="#000">{mark}</text>')
    names = " × ".join(f"{n} {s}" for n, s in zip(axis_names(shape, name), shape, strict=True))
    label = html.escape(f"{title} ({names or 'scalar'}); darkest {top:.2g}")
    wide = max(width, 8 * len(label))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {height}" role="img" '
        f'style="max-width:100%;width:{wide}px" font-family="sans-serif"><title>{label}</title>'
        f'<text x="{gap}" y="15" font-size="12" fill="currentColor">{label}</text>{"".join(cells)}</svg>'
    )


def _colour(e: float, top: float) -> tuple[str, str]:
    if np.isnan(e):
        return ("none", "·") if np.signbit(e) else ("#ffffff", "×")
    if e <= 0:
        return "none", ""
    if np.isinf(e):
        return "#000000", "∞"
    t = float(np.clip(1 + np.log10(e / top) / 6, 0.08, 1.0))  # six decades
    stops = [(255, 245, 200), (253, 174, 97), (215, 48, 39), (103, 0, 13)]
    k = min(int(t * 3), 2)
    u = t * 3 - k
    r, g, b = (round(p + (q - p) * u) for p, q in zip(stops[k], stops[k + 1], strict=True))
    return f"#{r:02x}{g:02x}{b:02x}", ""
