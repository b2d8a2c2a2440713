"""Pictures of the recorded graph.

with viz.record() as rec:          # sees ops, module calls and every backward step
    loss = cross_entropy(model(x), t)
    loss.backward()
viz.draw(rec, "both")              # shows itself in a notebook
viz.draw(rec, "backward", color_by="gradient").save("gradients.svg")
viz.html(rec, "backprop.html")     # one file that walks through the forward and the backward pass
rec.graph                          # a GraphIR: plain data, from which every picture is made

`viz.at_work` draws a trained network at work: filters, feature maps, explanations, mistakes.
"""

from importlib import import_module
from typing import Any

from .draw import Picture, draw
from .html import html, to_html
from .ir import GraphIR
from .record import Recorder, record

__all__ = ["GraphIR", "Picture", "Recorder", "draw", "html", "record", "to_html"]


def __getattr__(name: str) -> Any:
    """Load the pictures of networks at work when they are asked for: unlike the rest, they need the networks."""
    if name in ("at_work", "at_work_maps"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
