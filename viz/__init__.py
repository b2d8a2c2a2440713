"""Pictures of the recorded graph.

with viz.record() as rec:          # sees ops, module calls and every backward step
    loss = cross_entropy(model(x), t)
    loss.backward()
rec.graph                          # a GraphIR: plain data, from which every picture is made
viz.html(rec, "backprop.html")     # one file that walks through the forward and the backward pass
"""

from .html import html, to_html
from .ir import GraphIR
from .record import Recorder, record

__all__ = ["GraphIR", "Recorder", "html", "record", "to_html"]
