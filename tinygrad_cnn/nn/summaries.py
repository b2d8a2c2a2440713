"""What a network is made of and what it costs, measured by watching one forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..backend.dtypes import as_dtype
from ..errors import OptionError
from ..graph import Observer, Scope, no_grad, observing
from ..op import Op
from ..tensor import Tensor, zeros
from .module import Module

__all__ = ["Row", "Summary", "summary"]

Shape = tuple[int, ...]


@dataclass
class Row:
    """One call of a module, and the ops that ran in it but in no module below it.

    Attributes:
        path: the module's name in the network, as in its state dict; "" for the network itself.
        kind: the class of the module.
        output_shape: the shape of what came out, with the batch.
        parameters: numbers the module itself learns; 0 when it is called again, as they are the same.
        connections: for one image: how often a unit reads another or a bias, counted where sums, maxima or averages of
            a window are taken; elementwise functions belong to the unit they follow.
        flops: floating point operations of the batch.
        bytes: memory of the arrays that were made.
        dense_parameters: weights and biases of the fully connected layer that could compute the same map, for
            convolutions and fully connected layers, else None.
    """

    path: str
    kind: str
    output_shape: Shape
    parameters: int = 0
    connections: int = 0
    flops: int = 0
    bytes: int = 0
    dense_parameters: int | None = None


@dataclass
class Summary:
    """The rows of a network in the order of the calls, and their totals. Printing it gives a table."""

    name: str
    input_shape: Shape
    rows: list[Row]
    parameters: int
    trainable_parameters: int
    parameter_bytes: int

    @property
    def connections(self) -> int:
        """Connections for one image, of all layers."""
        return sum(row.connections for row in self.rows)

    @property
    def flops(self) -> int:
        """Floating point operations of a forward pass of the batch."""
        return sum(row.flops for row in self.rows)

    @property
    def bytes(self) -> int:
        """Memory of all arrays that a forward pass of the batch makes."""
        return sum(row.bytes for row in self.rows)

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return the rows as dicts of plain values, for JSON or CSV."""
        return [asdict(row) for row in self.rows]

    def __rich__(self) -> Any:
        """Return the table that rich prints."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        trained = "all" if self.trainable_parameters == self.parameters else f"{self.trainable_parameters:,}"
        table = Table(
            title=f"{self.name}, input {_shape(self.input_shape)}",
            caption=f"{self.parameters:,} parameters ({_memory(self.parameter_bytes)}), "
            f"{trained} trained; {self.connections:,} connections per image",
            title_justify="left",
            caption_justify="left",
            box=SIMPLE_HEAD,
            show_footer=True,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        table.add_column("layer", "total", no_wrap=True)
        table.add_column("kind", no_wrap=True)
        table.add_column("output", no_wrap=True)
        table.add_column("params", f"{self.parameters:,}", justify="right")
        table.add_column("connections", f"{self.connections:,}", justify="right")
        table.add_column("FLOPs", _short(self.flops), justify="right")
        table.add_column("memory", _memory(self.bytes), justify="right")
        table.add_column("as dense", justify="right")
        for row in self.rows:
            table.add_row(
                row.path or "(itself)",
                row.kind,
                _shape(row.output_shape),
                f"{row.parameters:,}" if row.parameters else "",
                f"{row.connections:,}" if row.connections else "",
                _short(row.flops) if row.flops else "",
                _memory(row.bytes) if row.bytes else "",
                "" if row.dense_parameters is None else f"{row.dense_parameters:,}",
            )
        return table

    def __str__(self) -> str:
        """Return the table as text without colours, as wide as it needs."""
        from io import StringIO

        from rich.console import Console

        console = Console(file=StringIO(), width=200, color_system=None, legacy_windows=False)
        console.print(self)
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")

    __repr__ = __str__


def _shape(shape: Shape) -> str:
    return "×".join(map(str, shape))


def _short(number: float) -> str:
    """Return a number with a prefix: 1.23M."""
    prefixes = iter(("", "k", "M", "G", "T"))
    prefix = next(prefixes)
    while number >= 999.5:
        number, prefix = number / 1000, next(prefixes, "P")
    return f"{number:.3g}{prefix}"


def _memory(number: float) -> str:
    return f"{_short(number)}B"


def summary(model: Module, input_shape: Any, dtype: Any = None) -> Summary:
    """Run a network once on zeros, in evaluation mode and without recording, and return what each layer is and costs.

    Args:
        model: the network; its mode, parameters and buffers are left as they are.
        input_shape: the shape of the input with the batch, such as (1, 1, 28, 28).
        dtype: the element type of the input; by default that of the first parameter.

    Returns:
        A `Summary`: `print()` it, or read its `rows`.

    Raises:
        OptionError: input_shape is no shape with a batch.
        ShapeError: the network does not take such inputs.

    >>> from tinygrad_cnn import nn
    >>> found = nn.summary(nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU()), (1, 1, 28, 28))
    >>> conv = found.rows[0]
    >>> conv.output_shape, conv.parameters, conv.connections, conv.dense_parameters
    ((1, 6, 28, 28), 156, 122304, 3692640)
    """
    shape = tuple(input_shape) if isinstance(input_shape, (tuple, list)) else ()
    if len(shape) < 2 or any(not hasattr(n, "__index__") or n < 1 for n in shape):
        raise OptionError(
            f"summary: input_shape is a shape with the batch, such as (1, 1, 28, 28), got {input_shape!r}"
        )
    parameters = list(model.parameters())
    like = parameters[0] if parameters else None
    kind = as_dtype(dtype) if dtype is not None else like.dtype if like is not None else None
    x = zeros(shape, dtype=kind, device=None if like is None else like.device)
    watcher = _Watcher(model, shape)
    training = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with no_grad(), observing(watcher):
            model(x)
    finally:
        for module, mode in training:
            module.training = mode
    return Summary(
        name=type(model).__name__,
        input_shape=shape,
        rows=watcher.finished(),
        parameters=sum(p.size for p in parameters),
        trainable_parameters=sum(p.size for p in parameters if p.requires_grad),
        parameter_bytes=sum(p.nbytes for p in parameters),
    )


class _Watcher(Observer):
    """Collects a row per module call, in the order in which the calls begin."""

    def __init__(self, model: Module, input_shape: Shape) -> None:
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.calls: list[tuple[Scope, Row]] = []
        self.open: list[tuple[Scope, Row]] = []
        self.counted: set[int] = set()
        self.parents: set[int] = set()
        self.latest = input_shape

    def scope_entered(self, scope: Scope) -> None:
        row = Row(self.paths.get(id(scope.module), "?"), type(scope.module).__name__, self.latest)
        for tensor in _own_parameters(scope.module):
            if id(tensor) not in self.counted:
                self.counted.add(id(tensor))
                row.parameters += tensor.size
        if self.open:
            self.parents.add(id(self.open[-1][1]))
        self.calls.append((scope, row))
        self.open.append((scope, row))

    def scope_left(self, scope: Scope) -> None:
        scope, row = self.open.pop()
        row.output_shape = self.latest
        counts = getattr(scope.module, "connections", None)
        if callable(counts):
            row.connections = int(counts((1, *row.output_shape[1:])))

    def op_finished(self, op: Op, inputs: tuple[Any, ...], options: dict[str, Any], output: Any, result: Any) -> None:
        if not isinstance(result, Tensor) or not self.open:
            return
        shapes = [tuple(getattr(getattr(x, "array", x), "shape", ())) if x is not None else None for x in inputs]
        self.latest = tuple(output.shape)
        row = self.open[-1][1]
        row.flops += int(op.flops(self.latest, *shapes, **options))
        if all(_owner(output) is not _owner(getattr(x, "array", x)) for x in inputs):  # not just another view
            row.bytes += int(output.nbytes)
        if op.name in _CONNECTIONS:
            row.connections += _CONNECTIONS[op.name](self.latest, *shapes, **options)
        if op.name in _DENSE:
            has_bias = len(shapes) > 2 and shapes[2] is not None
            row.dense_parameters = (row.dense_parameters or 0) + _dense(self.latest, _DENSE[op.name](*shapes), has_bias)

    def finished(self) -> list[Row]:
        """Return the rows without those of mere containers: calls that did nothing but call others."""
        return [
            row
            for _, row in self.calls
            if id(row) not in self.parents or row.flops or row.parameters or row.connections
        ]


def _owner(array: Any) -> Any:
    """Return the array whose memory this one looks at."""
    while getattr(array, "base", None) is not None and isinstance(array.base, type(array)):
        array = array.base
    return array


def _own_parameters(module: Module) -> Iterator[Tensor]:
    return module.parameters(recurse=False)


def _units(y: Shape) -> int:
    return math.prod(y[1:])


def _weighted(y: Shape, x: Shape, weight: Shape, bias: Shape | None = None, **_: Any) -> int:
    return _units(y) * (math.prod(weight[1:]) + (bias is not None))


def _transposed(y: Shape, g: Shape, weight: Shape, **_: Any) -> int:
    return _units(g) * math.prod(weight[1:])


def _pooled(y: Shape, x: Shape, *, kernel: tuple[int, int], **_: Any) -> int:
    return _units(y) * math.prod(kernel)


_CONNECTIONS: dict[str, Callable[..., int]] = {
    "conv2d": _weighted,
    "linear": _weighted,
    "conv2d_input_gradient": _transposed,
    "max_pool2d": _pooled,
    "avg_pool2d": _pooled,
}

# Which input is mapped, for the ops that a dense layer could replace.
_DENSE: dict[str, Callable[..., Shape]] = {
    "conv2d": lambda x, *_: x,
    "linear": lambda x, *_: x,
    "conv2d_input_gradient": lambda g, *_: g,
}


def _dense(y: Shape, x: Shape, has_bias: bool) -> int:
    return _units(y) * (_units(x) + has_bias)
