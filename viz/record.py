"""Recording a run: every op, module call and backward step that happens inside a `with` block."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from time import perf_counter
from typing import Any

import numpy as np

from ..graph import Node, Observer, Traced, observing, state
from .ir import Builder, Contribution, GraphIR, Seed, Source, Stats, Step, Value, Walk, host

__all__ = ["Recorder", "record"]

_PACKAGE = __name__.partition(".")[0]
# The files whose lines a user wants to see beside an op: their own, and the models'.
_SHOWN = (f"{_PACKAGE}.models", f"{_PACKAGE}.exercises")


@contextmanager
def record(
    *,
    title: str | None = None,
    statistics: bool = True,
    maps: bool = False,
    elements: int = 64,
    timed: bool = False,
    updates: bool = False,
) -> Iterator[Recorder]:
    """Record what runs in this block; `rec.graph` is a `GraphIR` that outlives the graph and its memory.

    Args:
        title: heading of the pictures; by default the class of the outermost module.
        statistics: look into every array and gradient as it is made.
        maps: also keep small images of arrays with two or more axes.
        elements: keep all elements of arrays up to this size; the conv microscope of the page calculates with them.
        timed: measure each op, forward and backward. Times differ between runs, so pictures then do too.
        updates: keep a copy of the parameters, to tell by how much an optimizer step in this block changed them.

    Everything that ran is recorded, also values that needed no gradient. Of the backward pass it keeps each upstream
    gradient, each contribution and each sum, so several walks and walks over walks can be replayed.

    >>> from tinygrad_cnn import tensor, viz
    >>> x = tensor([1.0, 2.0], requires_grad=True)
    >>> with viz.record() as rec:
    ...     (x * x).sum().backward()
    >>> [(step.node, [c.gradient.values for c in step.contributions]) for step in rec.graph.walks[0].steps]
    [('sum:1', [[1.0, 1.0]]), ('mul:1', [[1.0, 2.0], [1.0, 2.0]])]
    """
    recorder = Recorder(title=title, statistics=statistics, maps=maps, elements=elements, timed=timed, updates=updates)
    try:
        with observing(recorder):
            yield recorder
    finally:
        recorder.close()


class Recorder(Observer):
    """An observer that describes what it sees. `graph` may be read inside the block too."""

    def __init__(
        self,
        *,
        title: str | None = None,
        statistics: bool = True,
        maps: bool = False,
        elements: int = 64,
        timed: bool = False,
        updates: bool = False,
    ) -> None:
        self._title = title
        self._builder = Builder(statistics=statistics, maps=maps, elements=elements)
        self._statistics = statistics
        self._timed = timed
        self._updates = updates
        self._before: dict[int, Any] = {}
        self._started: list[float] = []
        self._walks: list[_LiveWalk] = []
        self._finished: GraphIR | None = None

    @property
    def graph(self) -> GraphIR:
        """The description of everything recorded so far."""
        if self._finished is not None:
            return self._finished
        graph = self._builder.finish(self._title)
        graph.outputs = self._outputs()
        return graph

    def _outputs(self) -> list[str]:
        """Return what was differentiated and what still could be: results with a gradient that nothing has read."""
        graph = self._builder.graph
        inner = {node.output for node in graph.nodes if node.rule_of is not None}
        ends = [v for v in graph.values if v.maker is not None and not v.readers and v.id not in inner]
        seeded = [seed.value for walk in graph.walks for seed in walk.seeds]
        outputs = list(dict.fromkeys([*seeded, *(value.id for value in ends if value.requires_grad)]))
        return outputs or [value.id for value in ends]

    def close(self) -> None:
        """Compare the parameters with the copies made at first sight, and let go of all arrays."""
        for index, before in self._before.items():
            x, value = self._builder.leaves[index], self._builder.values[index]
            after = host(x.array)
            change = float(np.linalg.norm((after - before).ravel()))
            if change > 0:
                size = float(np.linalg.norm(before.ravel()))
                value.update = float(f"{change / size:.6g}") if size else float("inf")
                value.after = self._builder.stats(after, value)
        self._before.clear()
        self._finished = self.graph
        self._builder = Builder(statistics=self._statistics)

    # -- what the engine tells

    def op_started(self, op: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        if self._updates:
            for x in inputs:
                if isinstance(x, Traced) and x.node is None and x.requires_grad and x.index not in self._before:
                    self._before[x.index] = host(x.array).copy()
        self._started.append(perf_counter())

    def op_finished(self, op: Any, inputs: tuple[Any, ...], options: dict[str, Any], output: Any, result: Any) -> None:
        if self._timed:
            _wait(output)
        seconds = perf_counter() - self._started.pop() if self._started else None
        if not isinstance(result, Traced):
            return  # plain arrays: a gradient rule at work, or the caller's own business
        node = result.node
        if node is not None:
            made = self._builder.node(node, output)
        else:
            made = self._builder.op(op, inputs, options, output, result.index, state.mode.scope, False)
        made.source = _source()
        if self._timed:
            made.forward_seconds = seconds
        step = self._walks[-1].step if self._walks else None
        if step is not None:
            made.rule_of, made.walk = step.node, self._walks[-1].number

    def backward_started(self, nodes: list[Node], seeds: dict[int, Any]) -> None:
        if self._walks and self._walks[-1].step is None:
            self._walks.pop()  # it ended in an error
        for node in reversed(nodes):  # those made before the recording began
            if node.index not in self._builder.nodes:
                self._builder.node(node)
        for g in seeds.values():
            if isinstance(g, Traced):  # of a walk that is recorded itself
                self._builder.value(g, "seed")
        self._walks.append(_LiveWalk(self._builder, self._statistics, self._timed, nodes, seeds))
        self._builder.graph.walks.append(self._walks[-1].walk)

    def node_started(self, node: Node, g: Any) -> None:
        if self._walks:
            self._walks[-1].start(node, g)

    def contributed(self, node: Node, position: int, x: Traced, gx: Any, total: Any) -> None:
        if self._walks:
            self._walks[-1].contribute(position, x, gx, total)

    def node_finished(self, node: Node, freed: bool) -> None:
        if self._walks:
            self._walks[-1].finish(node, freed)

    def backward_finished(self) -> None:
        if self._walks:
            self._walks.pop().close()


class _LiveWalk:
    """A backward walk while it runs."""

    def __init__(
        self, builder: Builder, statistics: bool, timed: bool, nodes: list[Node], seeds: dict[int, Any]
    ) -> None:
        self.number = len(builder.graph.walks)
        self.walk = Walk()
        self.step: Step | None = None
        self._builder = builder
        self._statistics = statistics
        self._timed = timed
        self._arrived: dict[str, list[Contribution]] = {}
        self._final: dict[str, tuple[Value, Stats]] = {}
        self._clock = 0.0
        self._seconds = 0.0
        # Bytes alive: arrays that the graph's nodes hold, each counted once, and gradients in flight.
        self._holders: dict[int, int] = {}
        self._held = 0
        self._flying: dict[int, int] = {}
        leaves = {_memory(x.array) for node in nodes for x in node.inputs or () if _is_leaf(x)}
        self._leaves = leaves
        for node in nodes:
            for key, size in _arrays(node):
                if key not in leaves:
                    self._held += size if key not in self._holders else 0
                    self._holders[key] = self._holders.get(key, 0) + 1
        for index, g in seeds.items():
            value = builder.values.get(index)
            if value is not None:
                gradient = self._stats(g, value)
                self.walk.seeds.append(Seed(value.id, gradient))
                self._final[value.id] = (value, gradient)
            self._flying[index] = _raw(g).nbytes

    @property
    def alive(self) -> int:
        return self._held + sum(self._flying.values())

    def _stats(self, g: Any, value: Value) -> Stats:
        return self._builder.stats(_raw(g), value) if self._statistics else Stats()

    def start(self, node: Node, g: Any) -> None:
        made = self._builder.nodes[node.index]
        value = self._builder.values[node.index]
        known = self._final.get(value.id)
        upstream = self._stats(g, value) if known is None or node.hooks else known[1]
        self._final[value.id] = (value, upstream)
        self._flying.setdefault(node.index, _raw(g).nbytes)
        self.step = Step(made.id, upstream, bytes_before=self.alive)
        # What a node holds is read now: once it is freed, its references are gone.
        self._holding = [key for key, _ in _arrays(node) if key not in self._leaves]
        self._sizes = dict(_arrays(node))
        self._seconds = 0.0
        self._clock = perf_counter()

    def contribute(self, position: int, x: Traced, gx: Any, total: Any) -> None:
        if self._timed:
            _wait(_raw(total))
        self._seconds += perf_counter() - self._clock
        step = self.step
        if step is not None:
            value = self._builder.value(x)
            so_far = self._arrived.setdefault(value.id, [])
            gradient = self._stats(gx, value)
            summed = gradient if not so_far and value.id not in self._final else self._stats(total, value)
            made = Contribution(value.id, position, gradient, summed, len(so_far) + 1)
            so_far.append(made)
            step.contributions.append(made)
            self._final[value.id] = (value, summed)
            self._flying[x.index] = _raw(total).nbytes
        self._clock = perf_counter()

    def finish(self, node: Node, freed: bool) -> None:
        step = self.step
        if step is None:
            return
        self._flying.pop(node.index, None)
        if freed:
            for key in self._holding:
                self._holders[key] -= 1
                if self._holders[key] == 0:
                    self._held -= self._sizes[key]
        step.bytes_after = self.alive
        step.freed = freed
        if self._timed:
            step.seconds = self._seconds
            self._builder.nodes[node.index].backward_seconds = self._seconds
        self.walk.steps.append(step)
        self.step = None

    def close(self) -> None:
        for parts in self._arrived.values():
            for part in parts:
                part.of = len(parts)
        if self._statistics:
            for value, gradient in self._final.values():
                value.grad = gradient


def _raw(g: Any) -> Any:
    return g.array if isinstance(g, Traced) else g


def _wait(array: Any) -> None:
    """Wait until the device of an array has done what it was given; on the CPU it has."""
    synchronize = getattr(getattr(array, "device", None), "synchronize", None)
    if synchronize is not None:
        synchronize()


def _is_leaf(x: Any) -> bool:
    return isinstance(x, Traced) and x.node is None


def _memory(array: Any) -> int:
    """Return the identity of the memory behind an array, the same for its views."""
    while getattr(array, "base", None) is not None and hasattr(array.base, "nbytes"):
        array = array.base
    return id(array)


def _arrays(node: Node) -> Iterator[tuple[int, int]]:
    """Yield (memory, bytes) for every array that a node holds."""
    for x in (*(node.inputs or ()), node.output):
        array = _raw(x)
        if hasattr(array, "nbytes"):
            yield _memory(array), int(array.nbytes)


def _source() -> Source | None:
    """Return the innermost line outside of the package's machinery that led to the running op."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        inside = name == _PACKAGE or name.startswith(_PACKAGE + ".") or name in ("contextlib", "functools")
        if not inside or name.startswith(_SHOWN):
            code = frame.f_code
            text = linecache.getline(code.co_filename, frame.f_lineno).strip()
            return Source(PurePath(code.co_filename).name, frame.f_lineno, text[:200])
        frame = frame.f_back
    return None
