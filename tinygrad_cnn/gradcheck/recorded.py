"""Check every op of a recorded graph where it stands: which rule is wrong, and how much, for painting on a picture.

loss = cross_entropy(model(x), labels)
found = check_graph(loss)                       before loss.backward() frees the graph
picture = viz.GraphIR.of(loss)
found.mark(picture)
viz.draw(picture, color_by="check")             or viz.html(picture, "page.html")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import backend
from ..errors import GraphError
from ..graph import Node, Traced, nodes_from
from .report import Report
from .tensors import gradcheck

__all__ = ["GraphCheck", "NodeCheck", "check_graph"]

# Ops with more input elements than this are checked along random directions.
SMALL = 1_000


@dataclass(frozen=True)
class NodeCheck:
    """The verdict on the rules of one node.

    Attributes:
        kind: the op.
        index: order of creation, the key of the graph.
        error: the largest relative error among its inputs' gradients.
        report: the whole verdict, None for an op that passes no gradient.
    """

    kind: str
    index: int
    error: float
    report: Report | None

    @property
    def ok(self) -> bool:
        """Whether its rules are right."""
        return self.report is None or self.report.ok


@dataclass
class GraphCheck:
    """The verdicts on all nodes of a graph, oldest first. True if all rules are right."""

    nodes: list[NodeCheck] = field(default_factory=list)

    def __bool__(self) -> bool:
        return all(n.ok for n in self.nodes)

    @property
    def first_wrong(self) -> NodeCheck | None:
        """The first wrong op on the way back from the output."""
        return next((n for n in reversed(self.nodes) if not n.ok), None)

    def __str__(self) -> str:
        wrong = [n for n in self.nodes if not n.ok]
        worst = max((n.error for n in self.nodes if n.ok), default=0.0)
        if not wrong:
            return f"{len(self.nodes)} ops, all rules right, largest relative difference {worst:.1e}"
        first = wrong[-1]
        lines = [f"{len(wrong)} of {len(self.nodes)} ops wrong; the first on the way back is {first.kind}"]
        return "\n".join([*lines, str(first.report)])

    def mark(self, picture: Any) -> dict[str, float]:
        """Attach the errors to a picture of the same graph, under "gradient_check", and return them by node id.

        Args:
            picture: a `viz.GraphIR` of the same outputs, or of the recording in which they were computed.

        Raises:
            GraphError: the picture is of another graph.
        """
        own = [n for n in picture.nodes if n.rule_of is None]
        errors: dict[str, float] = {}
        place = 0
        for node in self.nodes:  # the picture may hold more: what ran besides, and was not recorded
            while place < len(own) and own[place].kind != node.kind:
                place += 1
            if place == len(own):
                raise GraphError(f"the picture has no node for {node.kind}:{node.index}; it shows another graph")
            errors[own[place].id] = node.error
            place += 1
        picture.mark("gradient_check", errors)
        return errors


def check_graph(outputs: Traced | Sequence[Traced], *, seed: int = 0) -> GraphCheck:
    """Check the gradient rules of every op in the graph of `outputs`, at the values that flowed through it.

    Raises:
        GraphError: the graph was freed by `backward()`.
    """
    outputs = [outputs] if isinstance(outputs, Traced) else list(outputs)
    found = GraphCheck()
    for node in reversed(nodes_from(outputs)):
        if node.inputs is None:
            raise GraphError(
                f"{node.op.name}: the graph was freed by backward(); check it before, or pass retain_graph=True"
            )
        found.nodes.append(_check(node, seed))
    return found


def _check(node: Node, seed: int) -> NodeCheck:
    inputs = node.inputs or ()
    args = [_on_cpu(x) for x in inputs]
    options = {name: _on_cpu(value) for name, value in node.options.items()}
    wrt = [
        i
        for i, x in enumerate(inputs)
        if isinstance(x, Traced) and x.requires_grad and x.array.size and node.op.rule(i) is not None
    ]
    if not wrt:
        return NodeCheck(node.op.name, node.index, 0.0, None)
    large = sum(args[i].size for i in wrt) > SMALL
    mode: Any = "screen" if large else "auto"
    report = gradcheck(node.op, args, options=options, wrt=wrt, mode=mode, seed=seed, kinks="accept")
    error = max((p.max_rel_err for p in report.parts), default=0.0)
    return NodeCheck(node.op.name, node.index, error if report.ok else max(error, 1e-3), report)


def _on_cpu(value: Any) -> Any:
    """Return an input or an option of an op with its arrays on the CPU, where rules are checked."""
    if isinstance(value, tuple):
        return tuple(_on_cpu(v) for v in value)
    value = value.array if isinstance(value, Traced) else value
    return np.asarray(backend.to_host(value)) if type(value) in backend.device.namespaces else value
