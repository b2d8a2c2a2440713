"""GraphIR: one description of a recorded graph, from which every picture and the interactive page are made.

A `GraphIR` is plain data. It comes from a walk over the graph behind an output (`GraphIR.of(loss)`) or from a recorder
(`viz.record()`, which also sees the backward pass and outlives the graph). Renderers read only this.

**JSON form** (`to_json`, read back with `from_json`). The keys are the attributes of the classes below, in their
order; an attribute equal to its default is left out. Numbers that JSON cannot say are the strings "NaN", "Infinity"
and "-Infinity" (`Number(...)` in JavaScript and `float(...)` in Python read all three)::

    {"schema": "tinygrad_cnn.graph/1", "title": "LeNet5",
     "outputs": ["cross_entropy:1.y"],                              ids of values
     "modules": [{"id": "LeNet5.c1", "path": "LeNet5.c1", "kind": "Conv2d", "parent": "LeNet5", "parameters": 156}],
     "nodes":   [{"id": "LeNet5.c1/conv2d:1", "kind": "conv2d", "order": 0, "module": "LeNet5.c1",
                  "inputs": [{"name": "x", "value": "input:1"},
                             {"name": "weight", "value": "LeNet5.c1.weight", "derivative": "gw = ...", "live": true},
                             {"name": "scale", "literal": "2.0"}],
                  "output": "LeNet5.c1/conv2d:1.y", "options": {"padding": "(2, 2)"}, "flops": 117600,
                  "saved": [{"value": "input:1", "bytes": 3136, "read_by": ["weight"]}]}],
     "values":  [{"id": "LeNet5.c1.weight", "name": "LeNet5.c1.weight", "role": "parameter", "shape": [6, 1, 5, 5],
                  "dtype": "float32", "bytes": 600, "requires_grad": true, "readers": ["LeNet5.c1/conv2d:1"],
                  "data": {"min": -0.2, "max": 0.2, "mean": 0.001, "std": 0.1, "norm": 1.4, "zeros": 0.0,
                           "histogram": [3, 9, ...], "low": -0.2, "high": 0.2},
                  "grad": {...}}],
     "walks":   [{"seeds": [{"value": "cross_entropy:1.y", "gradient": {...}}],
                  "steps": [{"node": "cross_entropy:1", "upstream": {...}, "bytes_before": 9000, "bytes_after": 8000,
                             "contributions": [{"value": "LeNet5.f7/linear:1.y", "position": 0, "gradient": {...},
                                                "total": {...}, "arrived": 1, "of": 1}]}]}]}

Nodes, modules and values stand in their order of creation, and ids are built from module paths, op names and counters
in that order, never from addresses: the same program gives the same bytes in every process. Times differ from run to
run, so they are recorded only on request (`record(timed=True)`).
"""

from __future__ import annotations

import base64
import dis
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any

import numpy as np

from ..errors import DataError, GraphError
from ..graph import Node, Scope, Traced, nodes_from

__all__ = [
    "SCHEMA",
    "Builder",
    "Contribution",
    "GraphIR",
    "Input",
    "Maps",
    "Module",
    "OpNode",
    "Saved",
    "Seed",
    "Source",
    "Stats",
    "Step",
    "Value",
    "Walk",
]

SCHEMA = "tinygrad_cnn.graph/1"
BINS = 16
FULL_VALUES = 64
MAP_COUNT = 16
MAP_SIDE = 32
_HISTOGRAM_SAMPLE = 1 << 16
_IN_DOUBLE_UP_TO = 1 << 12


@dataclass(slots=True)
class Maps:
    """Two-dimensional slices of an array as small grey images.

    Attributes:
        height, width: size of each image, at most 32; larger maps are averaged down.
        pixels: one base64 string per image, `height * width` bytes row by row: 0 is `low`, 255 is `high`.
        low, high: the numbers behind black and white, common to all images of the array.
        of: how many slices the array has; `pixels` holds the first 16.
        axis: what the slices are: "channel" (of sample 0) or "filter" (input channel 0), or "matrix".
    """

    height: int
    width: int
    pixels: list[str]
    low: float
    high: float
    of: int
    axis: str


@dataclass(slots=True)
class Stats:
    """Numbers about an array. min, max, mean, std, norm and histogram are over its finite elements, None if none.

    Attributes:
        min, max, mean, std: as named; std divides by n.
        norm: Euclidean norm.
        zeros: share of elements equal to 0.
        nan, inf: how many elements are NaN, and how many are plus or minus infinity.
        histogram: 16 counts of equally wide bins from `min` to `max`; None if all elements are equal. Of a regular
            sample of at most 65 536 elements.
        values: all elements in row-major order, for arrays of at most 64 elements (or as many as were asked for with
            `elements=`), else None.
        maps: the array as small images, where asked for and where it has at least two axes.
    """

    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None
    norm: float | None = None
    zeros: float = 0.0
    nan: int = 0
    inf: int = 0
    histogram: list[int] | None = None
    values: list[float] | None = None
    maps: Maps | None = None


@dataclass(slots=True)
class Source:
    """Where in the user's code an op was called: file name, line number and the text of the line."""

    file: str
    line: int
    code: str


@dataclass(slots=True)
class Module:
    """One call of a module.

    Attributes:
        id: its path, with "@2", "@3" behind it for later calls of the same module.
        path: class of the outermost module, then the attribute path, "LeNet5.features.0".
        kind: name of its class.
        parent: id of the module call it happened in, or None.
        call: 1 for the first call.
        parameters: number of parameter elements it holds, its children's included.
        options: how it was made, as text: "1, 6, kernel_size=5".
    """

    id: str
    path: str
    kind: str
    parent: str | None = None
    call: int = 1
    parameters: int = 0
    options: str = ""


@dataclass(slots=True)
class Input:
    """One argument of an op.

    Attributes:
        name: what the op calls it; inputs of an op that takes any number are "name[0]", "name[1]", ...
        value: id of the value, or None for a Python number or an argument left out.
        literal: text of a Python number ("2.0", "None") where `value` is None.
        derivative: the gradient rule of this input as one line of mathematics, "" without one.
        live: whether a gradient flows through this edge.
    """

    name: str
    value: str | None = None
    literal: str | None = None
    derivative: str = ""
    live: bool = False


@dataclass(slots=True)
class Saved:
    """An array that the graph keeps alive for the backward pass.

    Attributes:
        value: id of the value whose array it is.
        bytes: its size.
        read_by: names of the inputs whose gradient rules read its elements. Empty: it is kept, but not needed.
    """

    value: str
    bytes: int
    read_by: list[str] = field(default_factory=list)


@dataclass(slots=True)
class OpNode:
    """One call of an op.

    Attributes:
        id: "module.path/op:k", the k-th call of that op in that module; "op:k" outside of modules.
        kind: name of the op.
        order: 0, 1, 2, ... in order of creation.
        inputs: its arguments.
        output: id of the value it made.
        module: id of the innermost module call it ran in, or None.
        family: the op's family ("pooling").
        options: option name -> text.
        parameters: number of elements in parameters among its inputs.
        flops: floating point operations of the forward rule, None where the op cannot say.
        bytes: size of its output.
        saved: what it keeps for its gradient rules.
        source: the user's line, where a recorder saw it.
        forward_seconds, backward_seconds: where recorded with `timed=True`.
        dead: share of units of a ReLU (channels of maps) that gave 0 for the whole batch; None for other ops.
        rule_of: id of the node during whose backward step this op ran; None for ops of the forward pass.
        walk: number of that backward walk, counted from 0.
        freed: whether the graph had let go of its inputs, so that nothing is known of what lies before it.
        marks: numbers from elsewhere, by name: "gradient_check" for the relative error of its gradient.
    """

    id: str
    kind: str
    order: int
    inputs: list[Input]
    output: str
    module: str | None = None
    family: str = ""
    options: dict[str, str] = field(default_factory=dict)
    parameters: int = 0
    flops: int | None = None
    bytes: int = 0
    saved: list[Saved] = field(default_factory=list)
    source: Source | None = None
    forward_seconds: float | None = None
    backward_seconds: float | None = None
    dead: float | None = None
    rule_of: str | None = None
    walk: int | None = None
    freed: bool = False
    marks: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Value:
    """One array that flows along edges.

    Attributes:
        id: the maker's id and ".y"; a parameter's path; a given name; else "input:k" or "constant:k".
        role: "parameter" (a leaf that needs a gradient), "buffer" (a tensor that a module holds but does not learn),
            "input" (another leaf), "constant" (a plain array such as labels, or a leaf that a module made for itself
            while it ran, such as the mask of a dropout) or "result" (an op made it).
        shape, dtype, device, bytes: of the array.
        name: its given name or parameter path, or None.
        requires_grad: whether gradients flow into it.
        maker: id of the node that made it, None for leaves.
        readers: ids of the nodes that read it, once per argument.
        data: numbers about the array.
        grad: numbers about its gradient: of the last walk of a recording, else of `.grad`. None: no gradient yet.
        update: ‖after − before‖ / ‖before‖ of a parameter that was changed while recording with `updates=True`.
        after: numbers about the changed parameter.
    """

    id: str
    role: str
    shape: list[int]
    dtype: str
    device: str = "cpu"
    bytes: int = 0
    name: str | None = None
    requires_grad: bool = False
    maker: str | None = None
    readers: list[str] = field(default_factory=list)
    data: Stats | None = None
    grad: Stats | None = None
    update: float | None = None
    after: Stats | None = None


@dataclass(slots=True)
class Contribution:
    """What a backward step hands to one input.

    Attributes:
        value: id of the input's value.
        position: which argument of the op.
        gradient: what this step contributes.
        total: what that value has collected, this contribution included.
        arrived, of: this is contribution number `arrived` of `of` in this walk.
    """

    value: str
    position: int
    gradient: Stats
    total: Stats
    arrived: int = 1
    of: int = 1


@dataclass(slots=True)
class Step:
    """One node's turn in a backward walk.

    Attributes:
        node: id of the node.
        upstream: the complete gradient of its output.
        contributions: to its inputs, in the order they were made.
        bytes_before, bytes_after: arrays held by the graph (leaves not counted) plus gradients in flight.
        freed: whether the node's arrays were let go at the end of the step.
        seconds: time of its gradient rules, where recorded with `timed=True`.
    """

    node: str
    upstream: Stats
    contributions: list[Contribution] = field(default_factory=list)
    bytes_before: int = 0
    bytes_after: int = 0
    freed: bool = False
    seconds: float | None = None


@dataclass(slots=True)
class Seed:
    """A value the walk started from, with the gradient it was given."""

    value: str
    gradient: Stats


@dataclass(slots=True)
class Walk:
    """One backward pass: its seeds and its steps, in the order they ran."""

    seeds: list[Seed] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)


@dataclass(slots=True)
class GraphIR:
    """A recorded graph as plain data.

    Attributes:
        schema: name and version of this form.
        title: for the picture's heading.
        outputs: ids of the values the graph was made for.
        modules, nodes, values: in order of creation.
        walks: the backward passes a recorder saw; empty otherwise.
        notes: sentences the picture must say, such as that a part of the graph was freed.
    """

    schema: str = SCHEMA
    title: str = "graph"
    outputs: list[str] = field(default_factory=list)
    modules: list[Module] = field(default_factory=list)
    nodes: list[OpNode] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    walks: list[Walk] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        outputs: Traced | Sequence[Traced],
        *,
        title: str | None = None,
        statistics: bool = True,
        maps: bool = False,
        elements: int = FULL_VALUES,
    ) -> GraphIR:
        """Describe everything that `outputs` were computed from, by one walk over the recorded graph.

        Args:
            outputs: one value or several. A value that nothing was recorded for is a graph of one leaf.
            title: heading; by default the outermost module's class or the last op.
            statistics: look into the arrays; without it only shapes and types are described.
            maps: add small images of arrays with at least two axes.
            elements: keep all elements of arrays up to this size.
        """
        outputs = list(outputs) if isinstance(outputs, Sequence) else [outputs]
        for y in outputs:
            if not isinstance(y, Traced):
                raise GraphError(f"a graph hangs on tensors; got {type(y).__name__}")
        builder = Builder(statistics=statistics, maps=maps, elements=elements)
        nodes = nodes_from(outputs)
        # An output's array lives on its node until the graph is freed; the tensor still has it.
        arrays = {y.index: y.array for y in outputs}
        for node in reversed(nodes):
            builder.node(node, arrays.get(node.index))
        for y in outputs:
            builder.output(y)
        return builder.finish(title)

    @classmethod
    def of_module(cls, module: Any, *, title: str | None = None) -> GraphIR:
        """Describe what a module is made of, without running it: its modules and parameters, no ops.

        Args:
            module: an object with `named_modules()` and `named_parameters()`.
            title: heading; by default the module's class.
        """
        builder = Builder()
        builder.structure(module)
        graph = builder.finish(title)
        graph.notes.append("Structure only: what flows where is known once it has run on an input.")
        return graph

    def node(self, id: str) -> OpNode:
        """Return the node of that id."""
        found: OpNode = _find(self.nodes, id)
        return found

    def value(self, id: str) -> Value:
        """Return the value of that id."""
        found: Value = _find(self.values, id)
        return found

    @property
    def has_gradients(self) -> bool:
        """Whether any gradient is known; if not, pictures say "no gradient yet"."""
        return any(value.grad is not None for value in self.values)

    def edges(self) -> Iterator[tuple[str, str, OpNode, int]]:
        """Yield (maker's id or leaf's value id, value id, reading node, position) for every array argument."""
        makers = {value.id: value.maker for value in self.values}
        for node in self.nodes:
            for position, x in enumerate(node.inputs):
                if x.value is not None:
                    yield makers[x.value] or x.value, x.value, node, position

    def mark(self, name: str, numbers: dict[str, float]) -> None:
        """Attach a number to nodes, by id: `color_by=name` then paints them."""
        known = {node.id: node for node in self.nodes}
        for id, number in numbers.items():
            if id not in known:
                raise GraphError(f"mark {name!r}: the graph has no node {id!r}")
            known[id].marks[name] = float(number)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form as dicts, lists, strings and numbers."""
        result: dict[str, Any] = _plain(self)
        return {"schema": self.schema, **result}

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the JSON form as text."""
        separators = (",", ":") if indent is None else (",", ": ")
        text = json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, separators=separators, indent=indent)
        return text.encode(errors="replace").decode()  # half a surrogate pair in a name has no UTF-8

    @classmethod
    def from_json(cls, text: str) -> GraphIR:
        """Read what `to_json` wrote."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"not a recorded graph: {error}") from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise DataError(f"not a recorded graph of schema {SCHEMA!r}")
        try:
            made: GraphIR = _rebuild(cls, data)
            _check(made)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise DataError(f"a damaged recorded graph: {error}") from error
        return made


def _check(graph: GraphIR) -> None:
    """Raise ValueError if something in a graph has a wrong type or refers to what is not there."""
    _check_types(graph)
    modules: set[str | None] = {None}
    for module in graph.modules:
        if module.parent not in modules:
            raise ValueError(f"module {module.id!r} stands before its parent {module.parent!r}")
        modules.add(module.id)
    values = {value.id for value in graph.values}
    nodes = {node.id for node in graph.nodes}
    if len(values) != len(graph.values) or len(nodes) != len(graph.nodes):
        raise ValueError("two nodes or two values have one id")
    steps = [step for walk in graph.walks for step in walk.steps]
    named_values = [
        *graph.outputs,
        *(x.value for node in graph.nodes for x in node.inputs if x.value is not None),
        *(saved.value for node in graph.nodes for saved in node.saved),
        *(node.output for node in graph.nodes),
        *(seed.value for walk in graph.walks for seed in walk.seeds),
        *(part.value for step in steps for part in step.contributions),
    ]
    named_nodes = [
        *(value.maker for value in graph.values if value.maker is not None),
        *(reader for value in graph.values for reader in value.readers),
        *(node.rule_of for node in graph.nodes if node.rule_of is not None),
        *(step.node for step in steps),
    ]
    for named, known, what in ((named_values, values, "value"), (named_nodes, nodes, "node")):
        for id in named:
            if id not in known:
                raise ValueError(f"there is no {what} {id!r}")
    for node in graph.nodes:
        if node.module not in modules:
            raise ValueError(f"there is no module {node.module!r}")
    position = {node.id: i for i, node in enumerate(graph.nodes)}
    makers = {value.id: value.maker for value in graph.values}
    for i, node in enumerate(graph.nodes):
        if any(x.value is not None and position.get(makers[x.value] or "", -1) >= i for x in node.inputs):
            raise ValueError(f"node {node.id!r} reads what is made after it")


_TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "list": list,
    "dict": dict,
}


def _check_types(item: Any) -> None:
    for f in fields(item):
        v = getattr(item, f.name)
        name, _, optional = str(f.type).partition(" | ")
        outer, _, inner = name.partition("[")
        if v is None and optional:
            continue
        expected = _TYPES.get(outer) or globals()[outer]
        if not isinstance(v, expected) or (expected is int and isinstance(v, bool)):
            raise ValueError(f"{type(item).__name__}.{f.name} is {type(v).__name__}, not {name}")
        element = inner.rstrip("]").rpartition(", ")[2]
        kind: Any = _TYPES.get(element) or globals().get(element)
        for part in v if outer == "list" else v.values() if outer == "dict" else ():
            if not isinstance(part, kind):
                raise ValueError(f"an entry of {type(item).__name__}.{f.name} is {type(part).__name__}, not {element}")
            if not isinstance(part, (str, int, float)):
                _check_types(part)
        if outer not in _TYPES:
            _check_types(v)


def _find(items: Sequence[Any], id: str) -> Any:
    for item in items:
        if item.id == id:
            return item
    raise GraphError(f"the graph has no {id!r}")


# ------------------------------------------------------------------------------------------------------------ JSON

_FLOAT_FIELDS = {"min", "max", "mean", "std", "norm", "zeros", "low", "high", "update", "dead"}
_PARTS: dict[str, Any] = {
    "modules": Module,
    "nodes": OpNode,
    "values": Value,
    "walks": Walk,
    "inputs": Input,
    "saved": Saved,
    "source": Source,
    "data": Stats,
    "grad": Stats,
    "after": Stats,
    "maps": Maps,
    "seeds": Seed,
    "steps": Step,
    "contributions": Contribution,
    "gradient": Stats,
    "total": Stats,
    "upstream": Stats,
}


@cache
def _defaults(kind: type) -> tuple[tuple[str, Any], ...]:
    return tuple((f.name, f.default_factory() if f.default_factory is not MISSING else f.default) for f in fields(kind))


def _plain(item: Any) -> Any:
    kind = item.__class__
    if kind is float:
        return item if math.isfinite(item) else ("NaN" if item != item else "Infinity" if item > 0 else "-Infinity")
    if kind in (str, int, bool, type(None)):
        return item
    if kind in (list, tuple):
        return [_plain(part) for part in item]
    if kind is dict:
        return {key: _plain(part) for key, part in item.items()}
    return {name: _plain(v) for name, default in _defaults(kind) if (v := getattr(item, name)) != default}


def _rebuild(kind: Any, data: dict[str, Any]) -> Any:
    made = {}
    for name, v in data.items():
        part = _PARTS.get(name)
        # A Stats has numbers under "values", a GraphIR has Value records there.
        if part is not None and isinstance(v, list) and v and isinstance(v[0], dict):
            v = [_rebuild(part, entry) for entry in v]
        elif part is not None and isinstance(v, dict):
            v = _rebuild(part, v)
        elif name in _FLOAT_FIELDS and isinstance(v, str):
            v = float(v)
        elif kind is Stats and name == "values" and v is not None:
            v = [float(x) if isinstance(x, str) else x for x in v]
        elif name == "marks":
            v = {key: float(number) for key, number in v.items()}
        made[name] = v
    return kind(**made)


# ------------------------------------------------------------------------------------------------ looking into arrays


def host(array: Any) -> Any:
    """Return a NumPy array with the elements of an array of any device."""
    return np.asarray(array.get() if hasattr(array, "get") else array)


def device_name(array: Any) -> str:
    """Return "cpu" or "cuda:N"."""
    device = getattr(array, "device", "cpu")
    return device if isinstance(device, str) else f"cuda:{getattr(device, 'id', 0)}"


def _short(number: Any) -> float:
    """Round to six significant digits: enough for a picture, and short in a file."""
    return float(f"{float(number):.6g}")


def stats(array: Any, *, maps: bool = False, filters: bool = False, elements: int = FULL_VALUES) -> Stats:
    """Return the numbers about an array; `filters` says that its first two axes are output and input channels."""
    x = host(array)
    result = Stats()
    if x.size == 0:
        result.values = []
        return result
    if x.size <= max(elements, FULL_VALUES):
        # The shortest text of a float32 is read back as the nearest double: 0.1 stays 0.1.
        short = x.dtype.kind in "fV" and x.size <= FULL_VALUES
        result.values = [float(str(v)) for v in x.ravel()] if short else x.ravel().tolist()
    flat = x.ravel()
    result.zeros = _short(1.0 - np.count_nonzero(flat) / flat.size)
    with np.errstate(all="ignore"):
        # Large float32 arrays in their own type: a few passes at the speed of memory.
        moments = _moments(flat) if flat.dtype == np.float32 and flat.size > _IN_DOUBLE_UP_TO else None
        if moments is None:
            flat = flat.astype(np.float64, copy=False)
            moments = _moments(flat)
        if moments is None:  # a NaN or an infinity shows in the sum
            good = np.isfinite(flat)
            result.nan = int(np.isnan(flat).sum())
            result.inf = int(flat.size - good.sum()) - result.nan
            flat = flat[good]
            if flat.size == 0:
                return result
            moments = _moments(flat) or (float(flat.min()), float(flat.max()), math.nan, math.nan, math.inf)
    low, high, mean, std, norm = moments
    result.min, result.max, result.mean = _short(low), _short(high), _short(mean)
    result.std, result.norm = _short(std), _short(norm)
    width = high - low
    if 0 < width < math.inf:
        sample = flat[:: flat.size // _HISTOGRAM_SAMPLE + 1].astype(np.float64, copy=False)
        bins = np.minimum(((sample - low) * (BINS / width)).astype(np.intp), BINS - 1)
        result.histogram = np.bincount(bins, minlength=BINS).tolist()
    if maps and x.ndim >= 2:
        result.maps = _maps(x, low, high, filters)
    return result


def _moments(x: Any) -> tuple[float, float, float, float, float] | None:
    """Return min, max, mean, standard deviation and norm, or None where the type cannot hold what they need."""
    total = float(np.add.reduce(x))
    square = float(np.dot(x, x))
    if not math.isfinite(total):
        return None
    low, high = float(np.minimum.reduce(x)), float(np.maximum.reduce(x))
    mean = total / x.size
    variance = square / x.size - mean * mean
    double = x.dtype == np.float64
    if not double and not (1e-25 < square < math.inf and variance > 1e-3 * mean * mean):
        return None  # squares out of range, or digits lost in the difference
    if double:
        centred = x - mean
        variance = float(np.dot(centred, centred)) / x.size
    norm = math.sqrt(square)
    if double and not 1e-290 < square < math.inf and max(abs(low), abs(high)) > 0:
        scale = max(abs(low), abs(high))
        norm = scale * math.sqrt(float(np.dot(x / scale, x / scale)))
    return low, high, mean, math.sqrt(max(variance, 0.0)), norm


def _maps(x: Any, low: float, high: float, filters: bool) -> Maps | None:
    if x.ndim == 2:
        planes, axis = x[None], "matrix"
    elif x.ndim == 3:
        planes, axis = x, "channel"
    else:
        planes, axis = (x[:, 0], "filter") if filters else (x[0], "channel")
        planes = planes.reshape(-1, *x.shape[-2:])
    of, h, w = planes.shape
    if h < 2 or w < 2:
        return None
    planes = _shrink(_shrink(planes[:MAP_COUNT].astype(np.float64), 1), 2)
    scale = 255.0 / (high - low) if high > low else 0.0
    pixels = np.nan_to_num((planes - low) * scale, nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255).round()
    encoded = [base64.b64encode(plane.astype(np.uint8).tobytes()).decode() for plane in pixels]
    return Maps(planes.shape[1], planes.shape[2], encoded, _short(low), _short(high), of, axis)


def _shrink(planes: Any, axis: int) -> Any:
    """Average neighbours along `axis` until at most 32 are left."""
    n = planes.shape[axis]
    if n <= MAP_SIDE:
        return planes
    starts = np.arange(MAP_SIDE) * n // MAP_SIDE
    counts = np.diff(np.append(starts, n))
    shape = [1, 1, 1]
    shape[axis] = -1
    return np.add.reduceat(planes, starts, axis=axis) / counts.reshape(shape)


# ------------------------------------------------------------------------------------------------ reading the graph

_SHAPE_ONLY = {"shape", "ndim", "dtype", "size"}


@cache
def _reads(rule: Any) -> frozenset[str] | None:
    """Return the names of the arguments whose elements a gradient rule reads, or None if its code does not say.

    Taken from its bytecode: an argument that is loaded for anything but its shape counts as read.
    """
    code = getattr(rule, "__code__", None)
    if code is None or code.co_flags & 0x04:  # *inputs
        return None
    instructions = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
    found: set[str] = set()
    for i, instruction in enumerate(instructions):
        if not instruction.opname.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_CLOSURE")):
            continue
        names = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
        following = instructions[i + 1] if i + 1 < len(instructions) else None
        only_shape = following is not None and following.opname == "LOAD_ATTR" and str(following.argval) in _SHAPE_ONLY
        found.update(str(name) for name in (names[:-1] if only_shape else names))
    return frozenset(found & set(code.co_varnames[: code.co_argcount]))


def _argument_names(rule: Any) -> tuple[str, ...]:
    return tuple(rule.__code__.co_varnames[: rule.__code__.co_argcount])


def option_text(option: Any) -> str:
    """Return an option as short text: arrays by shape and type, never by address."""
    if hasattr(option, "shape") and hasattr(option, "dtype"):
        return f"array{tuple(option.shape)} {option.dtype}"
    if isinstance(option, (list, tuple)):
        inner = ", ".join(option_text(part) for part in option)
        return f"[{inner}]" if isinstance(option, list) else f"({inner}{',' if len(option) == 1 else ''})"
    if isinstance(option, (set, frozenset)):
        return "{" + ", ".join(sorted(option_text(part) for part in option)) + "}"
    if isinstance(option, np.dtype):
        return str(option)
    if callable(option):
        return str(getattr(option, "__name__", type(option).__name__))
    text = repr(option)
    return type(option).__name__ if " at 0x" in text else text if len(text) <= 60 else text[:57] + "..."


class Builder:
    """Collects nodes, values and modules in order of creation and gives them their ids."""

    def __init__(self, *, statistics: bool = True, maps: bool = False, elements: int = FULL_VALUES) -> None:
        self.graph = GraphIR()
        self.statistics = statistics
        self.maps = maps
        self.elements = elements
        self.nodes: dict[int, OpNode] = {}  # by index of creation
        self.values: dict[int, Value] = {}
        self.leaves: dict[int, Traced] = {}  # kept, so that their gradient can be read at the end
        self._scopes: dict[Scope, Module] = {}
        self._tops: dict[str, str] = {}  # module call -> outermost call around it
        self._begun: dict[str, int] = {}  # outermost module call -> index of the first node in it
        self._roots: list[Any] = []
        self._paths: dict[int, str] = {}  # id of a module or parameter -> path; the roots keep them alive
        self._calls: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._taken: set[str] = set()

    # -- ids

    def _numbered(self, stem: str) -> str:
        """Return "stem:k" for the k-th time that stem is asked for."""
        k = self._counts[stem] = self._counts.get(stem, 0) + 1
        return f"{stem}:{k}"

    def _free(self, id: str) -> str:
        """Return `id`, or `id#2`, `id#3`, ... where two values were given the same name."""
        k, result = 1, id
        while result in self._taken:
            k += 1
            result = f"{id}#{k}"
        self._taken.add(result)
        return result

    # -- modules

    def module(self, scope: Scope | None) -> Module | None:
        """Return the record of a module call, making those of its parents first."""
        if scope is None:
            return None
        chain = []
        while scope is not None and scope not in self._scopes:
            chain.append(scope)
            scope = scope.parent
        parent = None if scope is None else self._scopes[scope]
        for inner in reversed(chain):
            parent = self._scopes[inner] = self._called(inner, parent)
        return parent

    def _called(self, scope: Scope, parent: Module | None) -> Module:
        module = scope.module
        path = self._paths.get(id(module))
        if path is None:
            path = self._adopt(module, parent)
        call = self._calls[path] = self._calls.get(path, 0) + 1
        made = Module(
            path if call == 1 else f"{path}@{call}",
            path,
            type(module).__name__,
            None if parent is None else parent.id,
            call,
            sum(int(p.array.size) for _, p in _named(module, "named_parameters")),
            _options(module),
        )
        self.graph.modules.append(made)
        self._tops[made.id] = made.id if parent is None else self._tops[parent.id]
        return made

    def _adopt(self, module: Any, parent: Module | None) -> str:
        """Give a module that was not met before, and everything in it, a path."""
        kind = type(module).__name__
        if parent is None:
            same = sum(type(root) is type(module) for root in self._roots)
            path = kind if same == 0 else f"{kind}#{same + 1}"
        else:
            path = self._free(f"{parent.path}.({kind})")
        self._roots.append(module)
        self._paths[id(module)] = path
        for name, inner in (
            *_named(module, "named_modules"),
            *_named(module, "named_parameters"),
            *_named(module, "named_buffers"),
        ):
            self._paths.setdefault(id(inner), f"{path}.{name}" if name else path)
        return path

    def structure(self, module: Any) -> None:
        """Describe the modules inside a module that was not called."""
        scopes: dict[str, Scope] = {}
        for name, inner in _named(module, "named_modules"):
            parent = scopes.get(_parent(name, scopes)) if name else None
            scopes[name] = Scope(inner, parent)
            self.module(scopes[name])

    # -- values

    def value(self, x: Traced, name: str | None = None, module: Module | None = None) -> Value:
        """Return the record of a traced value, making that of a leaf met for the first time, in a call of `module`."""
        known = self.values.get(x.index)
        if known is not None:
            return known
        # A parameter's name is known once its module is; the name given by hand comes first.
        path = self._paths.get(id(x))
        name = x.name or path or name
        role = "parameter" if x.requires_grad else "input" if path is None else "buffer"
        if role == "input" and module is not None and x.index > self._begun.get(self._tops[module.id], x.index):
            role = "constant"
        id_ = self._free(name) if name is not None else self._free(self._numbered(role))
        made = self._value(id_, role, x.array, name, x.requires_grad)
        self.values[x.index] = made
        self.leaves[x.index] = x
        return made

    def _value(self, id: str, role: str, array: Any, name: str | None = None, requires_grad: bool = False) -> Value:
        made = Value(
            id, role, list(array.shape), str(array.dtype), device_name(array), int(array.nbytes), name, requires_grad
        )
        if self.statistics:
            made.data = self.stats(array, made)
        self.graph.values.append(made)
        return made

    def stats(self, array: Any, value: Value) -> Stats:
        """Return the numbers about an array that belongs to `value` (its data or a gradient)."""
        return stats(array, maps=self.maps, filters=value.role == "parameter", elements=self.elements)

    # -- nodes

    def node(self, node: Node, array: Any = None) -> OpNode:
        """Describe a recorded node; what it reads must have been described before."""
        known = self.nodes.get(node.index)
        if known is not None:
            return known
        output = node.output if node.output is not None else array
        made = self.op(node.op, node.inputs, node.options, output, node.index, node.scope, True)
        if node.inputs is None:
            made.freed = True
        return made

    def op(
        self,
        op: Any,
        inputs: Sequence[Any] | None,
        options: dict[str, Any],
        output: Any,
        index: int,
        scope: Scope | None,
        requires_grad: bool,
        name: str | None = None,
    ) -> OpNode:
        """Describe one call of an op. `inputs` and `output` are None where the graph let go of them."""
        module = self.module(scope)
        made = OpNode(
            self._numbered(op.name if module is None else f"{module.path}/{op.name}"),
            op.name,
            len(self.graph.nodes),
            [],
            "",
            None if module is None else module.id,
            op.family,
            {key: option_text(v) for key, v in options.items()},
        )
        if module is not None:
            self._begun.setdefault(self._tops[module.id], index)
        shapes: list[Any] = []
        for position, x in enumerate(inputs or ()):
            made.inputs.append(self._input(op, position, x, made, requires_grad, module))
            array = x.array if isinstance(x, Traced) else x
            shapes.append(None if array is None else tuple(getattr(array, "shape", ())))
        if output is not None:
            value = self._value(self._free(f"{made.id}.y"), "result", output, name, requires_grad)
            made.bytes = int(output.nbytes)
            made.flops = _flops(op, tuple(output.shape), shapes, options) if inputs is not None else None
            if self.statistics and op.name == "relu":
                made.dead = _dead(host(output))
        else:
            value = Value(self._free(f"{made.id}.y"), "result", [], "", requires_grad=requires_grad)
            self.graph.values.append(value)
        value.maker = made.id
        made.output = value.id
        self.values[index] = value
        self.nodes[index] = made
        self.graph.nodes.append(made)
        if requires_grad and inputs is not None:
            made.saved = self._saved(op, inputs, made, value)
        return made

    def _input(self, op: Any, position: int, x: Any, node: OpNode, recorded: bool, module: Module | None) -> Input:
        fixed = len(op.inputs) - 1 if op.variadic else len(op.inputs)
        name = op.inputs[position] if position < fixed else f"{op.inputs[-1]}[{position - fixed}]"
        key = op.inputs[min(position, len(op.inputs) - 1)]
        rule = op.vjps.get(key)
        made = Input(name, derivative=op.texts.get(key, ""))
        if isinstance(x, Traced):
            value = self.value(x, module=module)
            made.live = recorded and x.requires_grad and rule is not None
            if value.role == "parameter" and made.live:
                node.parameters += math.prod(value.shape)
        elif hasattr(x, "shape") and hasattr(x, "dtype"):
            value = self._value(self._free(self._numbered("constant")), "constant", x)
        else:
            made.literal = repr(x)
            return made
        made.value = value.id
        value.readers.append(node.id)
        return made

    def _saved(self, op: Any, inputs: Sequence[Any], node: OpNode, output: Value) -> list[Saved]:
        """List the arrays that the node keeps, with the rules that read them."""
        kept = {x.value: Saved(x.value, 0) for x in node.inputs if x.value is not None}
        kept[output.id] = Saved(output.id, output.bytes)
        sizes = {x.value: array_bytes(raw) for x, raw in zip(node.inputs, inputs, strict=True) if x.value is not None}
        for id, entry in kept.items():
            entry.bytes = sizes.get(id, entry.bytes)
        for position, x in enumerate(node.inputs):
            if not x.live:
                continue
            key = op.inputs[min(position, len(op.inputs) - 1)]
            rule = op.vjps[key]
            read = _reads(rule)
            names = () if read is None else _argument_names(rule)  # g, y, then the inputs
            places = [(1, output.id), *((2 + k, other.value) for k, other in enumerate(node.inputs))]
            for at, kept_id in places:
                if kept_id is None:
                    continue
                if read is None or (at < len(names) and names[at] in read):
                    readers = kept[kept_id].read_by
                    if x.name not in readers:
                        readers.append(x.name)
        return list(kept.values())

    # -- the end

    def output(self, y: Traced) -> None:
        """Note that the graph was made for `y`."""
        value = self.value(y)
        if y.name and value.name is None:
            value.name = y.name
        if value.id not in self.graph.outputs:
            self.graph.outputs.append(value.id)
        if value.maker is not None:
            self.leaves.setdefault(y.index, y)

    def finish(self, title: str | None = None) -> GraphIR:
        """Add gradients that values hold, and notes, and return the graph."""
        graph = self.graph
        for index, x in self.leaves.items():
            value = self.values[index]
            if x.grad is not None and value.grad is None and self.statistics:
                value.grad = self.stats(x.grad.array, value)
        freed = [node.id for node in graph.nodes if node.freed]
        if freed:
            more = "" if len(freed) <= 3 else f" and {len(freed) - 3} more"
            graph.notes = [
                f"Freed by backward(): what lies before {', '.join(freed[:3])}{more}. "
                "Draw before backward(), pass retain_graph=True, or use viz.record()."
            ]
        roots = [module.kind for module in graph.modules if module.parent is None]
        graph.title = title or (roots[0] if roots else graph.nodes[-1].kind if graph.nodes else "graph")
        return graph


def _parent(name: str, known: dict[str, Scope]) -> str:
    """Return the longest known path above `name`; lists and dicts in between have no module of their own."""
    while name:
        name = name.rpartition(".")[0]
        if name in known:
            break
    return name


def array_bytes(x: Any) -> int:
    """Return the size of an array or of a traced value's array."""
    array = x.array if isinstance(x, Traced) else x
    return int(getattr(array, "nbytes", 0))


def _named(module: Any, method: str) -> Iterable[tuple[str, Any]]:
    """Return what `module.named_modules()` or `.named_parameters()` gives, nothing for objects without them."""
    found = getattr(module, method, None)
    return list(found()) if callable(found) else []


def _options(module: Any) -> str:
    """Return `module.extra_repr()` in one short line, "" without one."""
    found = getattr(module, "extra_repr", None)
    text = " ".join(str(found()).split()) if callable(found) else ""
    return text if len(text) <= 120 and " at 0x" not in text else text.split(" at 0x")[0][:119] + "…"


def _flops(op: Any, output: tuple[int, ...], inputs: list[Any], options: dict[str, Any]) -> int | None:
    try:
        return int(op.flops(output, *inputs, **options))
    except Exception:  # an op made by hand may have no flop rule, and a picture must not fail for it
        return None


def _dead(y: Any) -> float | None:
    """Return the share of units that are 0 for every sample: channels of maps, else everything but the first axis."""
    if y.ndim < 2 or y.size == 0:
        return None
    axes = (0, *range(2, y.ndim)) if y.ndim > 2 else (0,)
    return _short(np.mean((y <= 0).all(axis=axes)))
