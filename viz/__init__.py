"""Pictures of the recorded graph.

with viz.record() as rec:          # sees ops, module calls and every backward step
    loss = cross_entropy(model(x), t)
    loss.backward()
viz.draw(rec, "both")              # shows itself in a notebook
viz.draw(rec, "backward", color_by="gradient").save("gradients.svg")
viz.html(rec, "backprop.html")     # one file that walks through the forward and the backward pass
rec.graph                          # a GraphIR: plain data, from which every picture is made
"""

from .draw import Picture, draw
from .html import html, to_html
from .ir import GraphIR
from .record import Recorder, record

__all__ = ["GraphIR", "Picture", "Recorder", "draw", "html", "record", "to_html"]
