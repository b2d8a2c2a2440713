"""The recorded graph: what ran, on what, in what order. Nothing here computes.

`index` is the order of creation, and one invariant carries the whole engine: *a node is younger than everything it
reads*. So sorting nodes by index is a topological sort, the index is the key of the gradient table, and a tensor that
was edited in place gives itself away, because an edit hands it a new index and makes it younger than its readers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any, ClassVar

__all__ = [
    "Node",
    "Observer",
    "Scope",
    "Traced",
    "as_recorded",
    "casting",
    "enable_grad",
    "entered",
    "is_recording",
    "next_index",
    "no_grad",
    "nodes_from",
    "observing",
    "recording",
    "state",
]

next_index: Callable[[], int] = count(1).__next__


class Traced:
    """An array that remembers how it was made.

    Attributes:
        array: the values, an array of the device's array module. Code inside the package reads this one.
        grad: the accumulated gradient (a `Traced`), or None before `backward()` reached this value.
        requires_grad: whether gradients flow into this value.
        node: the `Node` that made it; None for a leaf.
        index: order of creation, renewed by an edit in place.
        name: a name for pictures and messages, or None.
        hooks: functions called with the gradient of a leaf, or None (those of other values are on their node).
    """

    __slots__ = ("__weakref__", "array", "grad", "hooks", "index", "name", "node", "requires_grad")

    # The type of what an op returns for this input. A subclass that marks a role (a parameter) names its parent here.
    result_type: ClassVar[type[Traced]]

    array: Any
    grad: Any
    requires_grad: bool
    node: Node | None
    index: int
    name: str | None
    hooks: list[Callable[[Any], Any]] | None

    @classmethod
    def made(cls, array: Any, node: Node | None = None, index: int | None = None) -> Any:
        """Wrap a result without copying it: the way every op makes its output."""
        self = object.__new__(cls)
        self.array = array
        self.grad = None
        self.hooks = None
        self.index = next_index() if index is None else index
        self.name = None
        self.node = node
        self.requires_grad = node is not None
        return self

    def edited(self) -> None:
        """Note that `array` was written to or replaced: whoever read it before can no longer be differentiated."""
        self.index = next_index()

    @property
    def is_leaf(self) -> bool:
        """Whether nothing recorded made this value."""
        return self.node is None


Traced.result_type = Traced


class Node:
    """One call of an op: its inputs, its options and its raw result.

    The result is kept as an array, not as the `Traced` that wraps it, so that graph and value never refer to each
    other in a circle and memory is freed at once.

    Attributes:
        op: the `Op` record.
        inputs: what it was called with: `Traced` values, plain arrays, Python numbers, None. None once freed.
        options: keyword options, complete and normalised.
        output: the result, a plain array. None once freed.
        index: order of creation, equal to the index of the `Traced` it made.
        scope: the innermost module call this ran in, or None.
        hooks: functions called with the gradient of the output, or None.
        seals: checksums of those arrays (inputs, then output) that code outside the engine can write to, or None.
    """

    __slots__ = ("__weakref__", "hooks", "index", "inputs", "op", "options", "output", "scope", "seals")

    def __init__(
        self, op: Any, inputs: tuple[Any, ...], options: dict[str, Any], output: Any, index: int, scope: Scope | None
    ) -> None:
        self.op = op
        self.inputs: tuple[Any, ...] | None = inputs
        self.options = options
        self.output = output
        self.index = index
        self.scope = scope
        self.hooks: list[Callable[[Any], Any]] | None = None
        self.seals: tuple[int | None, ...] | None = None

    def free(self) -> None:
        """Let go of inputs and result, so that their memory can be reused."""
        self.inputs = None
        self.output = None

    def __repr__(self) -> str:
        return f"<node {self.op.name}:{self.index}>"


class Scope:
    """One call of a module, for grouping nodes in pictures and tables. `parent` is the call it happened in."""

    __slots__ = ("module", "parent")

    def __init__(self, module: Any, parent: Scope | None) -> None:
        self.module = module
        self.parent = parent


class Observer:
    """Sees everything that runs inside `with observing(observer)`. Subclass it and override what is of interest.

    Profilers, recorders, the anomaly detector and the gradient checker are observers, so the engine itself knows
    none of them, and a run without observers pays one test per op.
    """

    def op_started(self, op: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        """An op is about to run."""

    def op_finished(self, op: Any, inputs: tuple[Any, ...], options: dict[str, Any], output: Any, result: Any) -> None:
        """An op has run. `output` is the raw array; `result` what the caller gets: a `Traced` or the array itself."""

    def scope_entered(self, scope: Scope) -> None:
        """A module call began."""

    def scope_left(self, scope: Scope) -> None:
        """A module call ended."""

    def backward_started(self, nodes: list[Node], seeds: dict[int, Any]) -> None:
        """A backward walk begins: `nodes` newest first, `seeds` from index to gradient."""

    def node_started(self, node: Node, g: Any) -> None:
        """The gradient of this node's output is complete and its rules are about to run."""

    def contributed(self, node: Node, position: int, x: Traced, gx: Any, total: Any) -> None:
        """`node` contributed `gx` to its input number `position`; `total` is what that input has collected so far."""

    def node_finished(self, node: Node, freed: bool) -> None:
        """All rules of this node have run, and its arrays were let go if `freed`."""

    def backward_finished(self) -> None:
        """The walk ended."""


class Mode:
    """What the engine consults at every op.

    Attributes:
        recording: whether ops record what they do.
        scope: the innermost module call, or None.
        observers: those who see everything that runs.
    """

    __slots__ = ("observers", "recording", "scope")

    def __init__(self) -> None:
        self.recording = True
        self.scope: Scope | None = None
        self.observers: tuple[Observer, ...] = ()


class _State(threading.local):
    """Holds the mode of each thread: one object, because to look anything up here takes time."""

    def __init__(self) -> None:
        self.mode = Mode()


state = _State()

# Under `amp.autocast`, what brings the inputs of an op into the type it is to run in: `cast(name, inputs) -> inputs`.
casting: ContextVar[Callable[[str, tuple[Any, ...]], tuple[Any, ...]] | None] = ContextVar(
    "tinygrad_cnn_casting", default=None
)


@contextmanager
def as_recorded() -> Iterator[None]:
    """Cast nothing in this block: the backward pass runs in the types that the forward pass has recorded."""
    token = casting.set(None)
    try:
        yield
    finally:
        casting.reset(token)


def is_recording() -> bool:
    """Return whether ops record what they do in this thread."""
    return state.mode.recording


class recording:  # noqa: N801 - used like a function, `with recording(False):`
    """Turn recording on or off inside a `with` block, or for every call of a decorated function."""

    def __init__(self, on: bool) -> None:
        self.on = on
        self._before: list[bool] = []

    def __enter__(self) -> None:
        mode = state.mode
        self._before.append(mode.recording)
        mode.recording = self.on

    def __exit__(self, *exc: object) -> None:
        state.mode.recording = self._before.pop()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        from functools import wraps

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with recording(self.on):
                return function(*args, **kwargs)

        return wrapped


def no_grad() -> recording:
    """Compute without recording: `with no_grad(): ...` or `@no_grad()`. Results need no gradient."""
    return recording(False)


def enable_grad() -> recording:
    """Record again inside a `no_grad()` block."""
    return recording(True)


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Show `observer` everything that runs in this block, in this thread."""
    before = state.mode.observers
    state.mode.observers = (*before, observer)
    try:
        yield
    finally:
        state.mode.observers = before


@contextmanager
def entered(module: Any) -> Iterator[Scope]:
    """Nodes recorded in this block belong to a call of `module`."""
    scope = Scope(module, state.mode.scope)
    before, state.mode.scope = state.mode.scope, scope
    for observer in state.mode.observers:
        observer.scope_entered(scope)
    try:
        yield scope
    finally:
        state.mode.scope = before
        for observer in state.mode.observers:
            observer.scope_left(scope)


def nodes_from(outputs: Iterable[Traced]) -> list[Node]:
    """Return every node that `outputs` depend on, newest first. Freed nodes are included, but not what was behind them.

    A node is younger than everything it reads, so sorting by creation order is a topological sort.
    """
    found = {value.node.index: value.node for value in outputs if value.node is not None}
    pending = list(found.values())
    while pending:
        for x in pending.pop().inputs or ():
            if isinstance(x, Traced):
                node = x.node
                if node is not None and node.index not in found:
                    found[node.index] = node
                    pending.append(node)
    return [found[index] for index in sorted(found, reverse=True)]
