"""What a notebook shows for a tensor or a module. Called lazily, so that computing never loads the pictures."""

from __future__ import annotations

from typing import Any

from ..graph import Traced
from .draw import Picture, draw
from .ir import GraphIR

__all__ = ["module_bundle", "tensor_bundle"]

_MOST_BOXES = 150


def tensor_bundle(x: Traced) -> dict[str, str]:
    """Return the values as text and, where they were computed and the graph still exists, the graph as SVG."""
    text = repr(x)
    bundle = {"text/plain": text}
    if x.node is not None and x.node.inputs is not None:
        picture = _readable(GraphIR.of(x, statistics=False))
        values = " ".join(text.split())
        picture.diagram.notes.insert(0, values if len(values) <= 200 else f"{values[:199]}…")
        bundle["image/svg+xml"] = picture.svg
    return bundle


def module_bundle(module: Any) -> dict[str, str]:
    """Return the module's structure as text and as SVG."""
    return {"text/plain": repr(module), "image/svg+xml": _readable(GraphIR.of_module(module)).svg}


def _readable(graph: GraphIR) -> Picture:
    """Draw as deep as at most 150 boxes allow."""
    picture = draw(graph)
    for depth in (3, 2, 1, 0):
        if len(picture.diagram.boxes) <= _MOST_BOXES:
            break
        picture = draw(graph, depth=depth)
    return picture
