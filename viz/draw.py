"""`viz.draw`: a picture that shows itself in notebooks and saves itself in any form."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError, OptionError
from ..files import write_bytes
from ..graph import Traced
from .diagram import Diagram, diagram
from .dot import find_dot, run_dot, to_dot
from .ir import GraphIR
from .record import Recorder
from .svg import to_svg, wrap_dot
from .text import to_text

__all__ = ["Picture", "draw"]

ENGINES = ("auto", "dot", "builtin")
THEMES = ("auto", "light", "dark")
SUFFIXES = (".svg", ".pdf", ".png", ".dot", ".json", ".html", ".txt")
_DOT_UP_TO = 150  # boxes; beyond, dot needs seconds and the built-in layout milliseconds
_PNG_UP_TO = 500


def draw(
    graph: Traced | Sequence[Traced] | Recorder | GraphIR | Any,
    mode: str = "forward",
    *,
    depth: int | None = None,
    collapse: str | Sequence[str] = (),
    color_by: str | None = "op",
    theme: str = "auto",
    fold: bool = True,
    parameters: bool | None = None,
    engine: str = "auto",
    timeout: float = 10.0,
    title: str | None = None,
) -> Picture:
    """Draw a recorded graph.

    Args:
        graph: a tensor (or several) whose graph still exists, a recording, a `GraphIR`, or a module, of which only
            the structure is known as long as it does not run.
        mode: "forward": values on solid arrows. "backward": gradients on dashed arrows, from the loss down to the
            leaves; where the backward pass itself was recorded (`create_graph=True`), the ops it consists of.
            "both": both side by side, with the arrays kept for the gradient rules on dotted lines.
        depth: modules from this level on become single boxes; 0 are the outermost.
        collapse: module paths, kinds, or patterns with `*`, that become single boxes.
        color_by: "op", "gradient" (norms), "update" (ratio of an update to its parameter), "dead" (share of
            silent ReLU units), "time", "bytes", "flops", "check" (error of the gradient check), the name of a
            mark put on the graph, or None. Each number also stands in its box.
        theme: "auto" follows the reader's light or dark setting; "light"; "dark".
        fold: draw equal blocks in a row once, with "× 8".
        parameters: draw parameters as boxes of their own; by default in graphs of up to 120 ops.
        engine: "dot" and "builtin" choose the layout; "auto" takes dot where there is one, for up to 150 boxes.
        timeout: seconds that dot may take before the built-in layout is used instead.
        title: heading of the picture.

    Returns:
        A `Picture`. Nothing is laid out before it is shown or saved.

    Raises:
        OptionError: an unknown mode, theme, colouring or module, or numbers that were not recorded.

    >>> from tinygrad_cnn import tensor, viz
    >>> x = tensor([1.0, 2.0], requires_grad=True)
    >>> with viz.record(title="a square") as rec:
    ...     (x * x).sum().backward()
    >>> viz.draw(rec, "both")
    <picture of 'a square': 5 boxes; .save('graph.svg') writes it>
    >>> [box.title for box in viz.draw(rec).diagram.boxes]
    ['parameter', 'mul', 'sum']
    """
    if theme not in THEMES:
        raise OptionError(f"theme must be one of {', '.join(THEMES)}, got {theme!r}")
    if engine not in ENGINES:
        raise OptionError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if isinstance(graph, GraphIR):
        ir = graph
    elif isinstance(graph, Recorder):
        ir = graph.graph
    elif hasattr(graph, "named_modules"):
        ir = GraphIR.of_module(graph)
    else:
        ir = GraphIR.of(graph)
    chosen = diagram(ir, mode=mode, depth=depth, collapse=collapse, color_by=color_by, fold=fold, parameters=parameters)
    if title is not None:
        chosen.title = title
    return Picture(ir, chosen, theme=theme, engine=engine, timeout=timeout)


class Picture:
    """A drawing of a graph. Notebooks show it; `save` writes .svg, .pdf, .png, .dot, .json, .html or .txt.

    Attributes:
        graph: the `GraphIR` behind it.
        diagram: the boxes and links that were chosen from it.
    """

    def __init__(self, graph: GraphIR, diagram: Diagram, *, theme: str, engine: str, timeout: float) -> None:
        self.graph = graph
        self.diagram = diagram
        self.theme = theme
        self.engine = engine
        self.timeout = timeout

    def __repr__(self) -> str:
        return f"<picture of {self.graph.title!r}: {len(self.diagram.boxes)} boxes; .save('graph.svg') writes it>"

    @cached_property
    def dot(self) -> str:
        """The DOT text."""
        return to_dot(self.diagram, theme=self.theme)

    @cached_property
    def text(self) -> str:
        """The graph as indented text."""
        return to_text(self.graph)

    @cached_property
    def svg(self) -> str:
        """The drawing as SVG. Made by dot where there is one and it is quick enough, else by the built-in layout."""
        if self.engine == "dot" or (self.engine == "auto" and len(self.diagram.boxes) <= _DOT_UP_TO):
            drawn = run_dot(to_dot(self.diagram, theme=self.theme, legend=False), "svg", timeout=self.timeout)
            if drawn is not None:
                try:
                    return wrap_dot(self.diagram, drawn.decode(), self._tooltip, self.theme)
                except ValueError:
                    pass
        return to_svg(self.diagram, theme=self.theme)

    @cached_property
    def _tips(self) -> dict[str, str]:
        tips = {box.id.replace("\n", " "): box.tooltip or box.title for box in self.diagram.boxes}
        for link in self.diagram.links:
            tips[f"{link.tail}->{link.head}".replace("\n", " ")] = link.tooltip
        return tips

    def _tooltip(self, name: str) -> str:
        return self._tips.get(name, "")

    def json(self) -> str:
        """Return the graph in its JSON form."""
        return self.graph.to_json()

    def html(self) -> str:
        """Return the interactive page."""
        from .html import to_html

        return str(to_html(self.graph))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture in the form that the suffix of `path` names, and return the path.

        Raises:
            OptionError: a suffix that is none of these.
            MissingExtraError: .pdf or .png where there is neither `dot` nor Matplotlib.
        """
        target = Path(path)
        suffix = target.suffix.lower()
        if suffix not in SUFFIXES:
            raise OptionError(f"cannot save as {suffix or 'a file without suffix'!r}; use one of {', '.join(SUFFIXES)}")
        if not target.parent.is_dir():
            raise OptionError(f"cannot save {target}: there is no folder {target.parent}")
        if suffix in (".pdf", ".png"):
            data = self._printed(suffix[1:])
        else:
            text = {
                ".svg": lambda: self.svg,
                ".dot": lambda: self.dot,
                ".txt": lambda: self.text,
                ".json": self.json,
                ".html": self.html,
            }[suffix]()
            data = text.encode()
        write_bytes(target, data)
        return target

    def _printed(self, form: str) -> bytes:
        boxes = len(self.diagram.boxes)
        if form == "png" and boxes > _PNG_UP_TO:
            warnings.warn(
                f"a PNG of {boxes} boxes cannot be read; give depth= or collapse=, or save as .svg or .html",
                stacklevel=3,
            )
        if self.engine != "builtin" and boxes <= _PNG_UP_TO:
            drawn = run_dot(self.dot, form, timeout=self.timeout)
            if drawn is not None:
                return drawn
        try:
            from .paper import to_paper
        except ImportError as error:
            missing = "" if find_dot() else "there is no dot program (Graphviz), and "
            raise MissingExtraError(
                f"cannot save as .{form}: {missing}Matplotlib is missing; pip install 'tinygrad-cnn[plot]', install "
                "Graphviz, or save as .svg"
            ) from error
        return to_paper(self.diagram, form, theme=self.theme)

    def graphviz(self) -> Any:
        """Return the drawing as a `graphviz.Source`, for use with the Python package graphviz.

        Raises:
            MissingExtraError: the package is not installed.
        """
        try:
            import graphviz
        except ImportError as error:
            raise MissingExtraError(
                "Picture.graphviz() needs the package graphviz; pip install 'tinygrad-cnn[graph]'"
            ) from error
        return graphviz.Source(self.dot)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"image/svg+xml": self.svg, "text/plain": repr(self)}
