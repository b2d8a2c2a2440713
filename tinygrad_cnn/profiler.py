"""Where the time goes: `with profile() as p: ...`, then `print(p)`.

A profiler is an observer of the engine, so what it measures is what runs, and nothing is measured when it does not.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from .backend import device_of
from .backend.device import namespaces
from .errors import OptionError
from .graph import Node, Observer, Scope, Traced, observing, state

__all__ = ["Profile", "Row", "profile"]

_SORTS = ("total", "forward", "backward", "calls", "flops", "bytes", "name")


@dataclass
class Row:
    """The sums over all calls of one op, or of one module.

    Attributes:
        name: of the op, or the path of classes of the module.
        calls: of the forward function.
        forward, backward: seconds in it, and in its gradient rules.
        flops: floating point operations, those of the ops that gradient rules call included.
        bytes: sizes of the arrays read and written by these ops.
    """

    name: str
    calls: int = 0
    forward: float = 0.0
    backward: float = 0.0
    flops: int = 0
    bytes: int = 0

    @property
    def total(self) -> float:
        """Seconds, forward and backward."""
        return self.forward + self.backward

    @property
    def rate(self) -> float:
        """Floating point operations per second."""
        return self.flops / self.total if self.total else 0.0


class Profile(Observer):
    """What `profile()` hands out: the measurements, as a table, as rows, and as a trace for a viewer.

    On a GPU every op waits until the device has finished it: only then is its time its own.

    Attributes:
        elapsed: seconds from the start to the end of the block.
    """

    def __init__(self) -> None:
        self.elapsed = 0.0
        self._ops: dict[str, Row] = {}
        self._modules: dict[str, Row] = {}
        self._events: list[dict[str, Any]] = []
        self._began = perf_counter()
        self._started = 0.0  # of the op that is running
        self._node: tuple[Node, float] | None = None  # the node whose gradient rules are running
        self._scopes: list[tuple[Scope, float]] = []

    # What the engine reports

    def op_started(self, op: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._started = perf_counter()

    def op_finished(self, op: Any, inputs: tuple[Any, ...], options: dict[str, Any], output: Any, result: Any) -> None:
        _wait(output)
        now, started = perf_counter(), self._started
        arrays = [x.array if isinstance(x, Traced) else x for x in inputs]
        flops, size = _flops(op, output, arrays, options), _bytes(output, arrays)
        inside = self._node
        name, scope = (op.name, state.mode.scope) if inside is None else (inside[0].op.name, inside[0].scope)
        for row in self._rows(name, scope):
            row.flops += flops
            row.bytes += size
            if inside is None:
                row.calls += 1
                row.forward += now - started
        phase = "forward" if inside is None else "backward"
        self._event(op.name, phase, started, now, {"shape": list(output.shape), "flops": flops, "bytes": size})

    def node_started(self, node: Node, g: Any) -> None:
        self._node = node, perf_counter()

    def node_finished(self, node: Node, freed: bool) -> None:
        if self._node is None:
            return
        started = self._node[1]
        self._node = None
        now = perf_counter()
        for row in self._rows(node.op.name, node.scope):
            row.backward += now - started
        self._event(f"{node.op.name} backward", "backward", started, now, {})

    def scope_entered(self, scope: Scope) -> None:
        self._scopes.append((scope, perf_counter()))

    def scope_left(self, scope: Scope) -> None:
        while self._scopes:
            last, started = self._scopes.pop()
            if last is scope:
                self._event(type(scope.module).__name__, "module", started, perf_counter(), {})
                return

    def _rows(self, op: str, scope: Scope | None) -> Iterator[Row]:
        yield self._ops.setdefault(op, Row(op))
        path = _path(scope)
        yield self._modules.setdefault(path, Row(path))

    def _event(self, name: str, category: str, started: float, ended: float, arguments: dict[str, Any]) -> None:
        self._events.append(
            {
                "name": name, "cat": category, "ph": "X", "pid": 0, "tid": 0,
                "ts": (started - self._began) * 1e6, "dur": (ended - started) * 1e6, "args": arguments,
            }
        )  # fmt: skip

    # What the user asks for

    def rows(self, by: str = "op", sort: str = "total") -> list[Row]:
        """Return the sums per op or per module, largest first.

        Args:
            by: "op" or "module".
            sort: "total", "forward", "backward", "calls", "flops", "bytes" or "name".

        Raises:
            OptionError: another word.
        """
        if by not in ("op", "module"):
            raise OptionError(f"by must be 'op' or 'module', got {by!r}")
        if sort not in _SORTS:
            raise OptionError(f"sort must be one of {', '.join(_SORTS)}, got {sort!r}")
        rows = list((self._ops if by == "op" else self._modules).values())
        return sorted(rows, key=lambda row: getattr(row, sort), reverse=sort != "name")

    @property
    def engine(self) -> float:
        """Seconds of the block that no op and no gradient rule accounts for."""
        return max(0.0, self.elapsed - sum(row.total for row in self._ops.values()))

    def table(self, by: str = "op", sort: str = "total") -> Any:
        """Return the rows as a table of the library rich: `rich.print(p.table())`."""
        from rich.table import Table

        rows = self.rows(by, sort)
        whole = sum(row.total for row in rows) or 1.0
        table = Table(caption=f"{self.elapsed * 1e3:.2f} ms in all, {self.engine * 1e3:.2f} ms of them between the ops")
        table.add_column(by)
        for column in ("calls", "forward ms", "backward ms", "share", "GFLOP/s", "MB"):
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(
                row.name,
                str(row.calls),
                f"{row.forward * 1e3:.3f}",
                f"{row.backward * 1e3:.3f}",
                f"{row.total / whole:.1%}",
                f"{row.rate / 1e9:.2f}" if row.flops else "",
                f"{row.bytes / 1e6:.2f}",
            )
        return table

    def __str__(self) -> str:
        from io import StringIO

        from rich.console import Console

        text = StringIO()
        Console(file=text, width=100, no_color=True, force_terminal=False).print(self.table())
        return text.getvalue().rstrip()

    def chrome_trace(self) -> dict[str, Any]:
        """Return the calls in Chrome's trace format, which chrome://tracing and ui.perfetto.dev show on a time line.

        Modules, forward and backward lie on one line, nested as they ran; times are in microseconds.
        """
        return {"traceEvents": sorted(self._events, key=lambda e: (e["ts"], -e["dur"])), "displayTimeUnit": "ms"}

    def save(self, path: str | Path) -> None:
        """Write the trace to a JSON file, whole or not at all."""
        path = Path(path)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(self.chrome_trace(), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def profile() -> Iterator[Profile]:
    """Measure every op that runs in a `with` block, in this thread.

    >>> from tinygrad_cnn import nn, randn
    >>> layer = nn.Linear(20, 30)
    >>> with profile() as p:
    ...     layer(randn(10, 20)).sum().backward()
    >>> [(row.name, row.calls, row.flops) for row in p.rows(sort="name")]
    [('linear', 1, 24600), ('sum', 1, 300)]

    `print(p)` shows a table, `p.rows()` returns its numbers, and `p.save("trace.json")` writes a time line that
    chrome://tracing and ui.perfetto.dev can show. Observing costs a few microseconds per op, which count in no op.
    """
    measured = Profile()
    measured._began = perf_counter()
    try:
        with observing(measured):
            yield measured
    finally:
        measured.elapsed += perf_counter() - measured._began


def _path(scope: Scope | None) -> str:
    """Return the classes of the modules a scope lies in, outermost first."""
    names: list[str] = []
    while scope is not None:
        names.insert(0, type(scope.module).__name__)
        scope = scope.parent
    return " / ".join(names) or "outside of modules"


def _wait(output: Any) -> None:
    """Wait for a device that works on its own."""
    if output.__class__ in namespaces:
        device = device_of(output)
        if device.kind != "cpu":
            device.synchronize()


def _flops(op: Any, output: Any, arrays: list[Any], options: dict[str, Any]) -> int:
    shapes = [None if a is None else tuple(getattr(a, "shape", ())) for a in arrays]
    return int(op.flops(tuple(output.shape), *shapes, **options))


def _bytes(output: Any, arrays: list[Any]) -> int:
    return int(sum(getattr(a, "nbytes", 0) for a in (*arrays, output)))
