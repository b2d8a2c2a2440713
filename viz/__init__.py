"""Pictures of the recorded graph.

with viz.record() as rec:          # sees ops, module calls and every backward step
    loss = cross_entropy(model(x), t)
    loss.backward()
rec.graph                          # a GraphIR: plain data, from which every picture is made
"""

from .ir import GraphIR
from .record import Recorder, record

__all__ = ["GraphIR", "Recorder", "record"]
