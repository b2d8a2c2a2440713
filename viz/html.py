"""The interactive page: one HTML file that walks through the forward and the backward pass.

The file holds a stylesheet, a script and the recording as JSON. It loads nothing, and its content security policy lets
it load nothing: `default-src 'none'`, and only this script and this stylesheet, by their hashes.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import GraphError, OptionError
from ..files import write_bytes
from ..graph import Traced, nodes_from
from .ir import FULL_VALUES, GraphIR, Maps, OpNode, Stats, Value
from .record import Recorder, record

__all__ = ["html", "to_html"]

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
# Images per array and their longest side, from generous to frugal; the first that fits into the budget is taken.
_IMAGE_SIZES = ((16, 32), (12, 32), (8, 32), (8, 24), (8, 16), (4, 16), (4, 12), (2, 12), (1, 12), (1, 8))
_IMAGE_BUDGET = 1_700_000  # bytes before base64, less what the numbers of a large graph need
_IMAGE_LEAST = 200_000
_NODE_BYTES = 240
_ARRAY_BUDGET = 100_000  # numbers kept in full for filters and the microscope
_ARRAY_MOST = 16_384
_FRAME_BUDGET = 6_000  # nodes times iterations whose numbers a tape keeps beside the gradient norms

# fmt: off
_KEYS = (
    "key", "role", "op", "name", "scope", "options", "shape", "dtype", "device", "params", "flops", "bytes", "tf", "tb",
    "source", "inputs", "literals", "args", "rules", "saved", "needs", "family", "data", "grad", "conv", "array",
    "garray", "error", "update", "dead", "diff", "difftext",
)
# fmt: on

Packed = dict[str, Any]


def html(
    subject: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    title: str | None = None,
    errors: Any = None,
    tolerance: float = 1e-5,
    tape: Sequence[Any] = (),
    labels: Sequence[str] = (),
    other: Any = None,
    depth: int | None = None,
    images: bool = True,
    learning_rate: float = 0.1,
) -> str:
    """Write the interactive page of a loss or of a recording, and return its text.

    A loss whose graph is alive is walked backward once for the page; its leaves keep the `.grad` they had. A recording
    (`viz.record()`) is shown as it happened, with what `record(maps=True, elements=5000)` kept.

    Args:
        subject: a tensor, a `Recorder` or a `GraphIR`.
        path: where to write the file; None only returns its text.
        title: heading; by default that of the recording.
        errors: what `gradcheck.check_graph(loss)` found, or relative errors by id of a node or leaf. The page paints
            them and names the first op beyond `tolerance` on the way back. Default: the marks "gradient_check" of the
            recording.
        tolerance: largest relative error that passes.
        tape: recordings of several iterations of the same model, oldest first, for the training tape.
        labels: what the iterations are called; by default "1", "2", ...
        other: a second tensor or recording, to show the difference between the two graphs.
        depth: how deep modules are opened at first; by default as deep as stays readable.
        images: whether recorded feature maps, filters and whole arrays go into the file.
        learning_rate: step size in the picture of the filters after the step, w − ηg.

    Raises:
        GraphError: `subject` is none of these, or `errors` names a node that the graph does not have.
        OptionError: as many labels as recordings are needed, and a depth from 1 on.
    """
    graph = _graph(subject, images)
    page = to_html(
        graph,
        title=title,
        errors=errors.mark(graph) if hasattr(errors, "mark") else errors,
        tolerance=tolerance,
        tape=[_graph(each, False) for each in tape],
        labels=labels,
        other=None if other is None else _graph(other, images),
        depth=depth,
        images=images,
        learning_rate=learning_rate,
    )
    if path is not None:
        write_bytes(Path(path), page.encode())
    return page


def to_html(
    graph: GraphIR,
    *,
    title: str | None = None,
    errors: Mapping[str, float] | None = None,
    tolerance: float = 1e-5,
    tape: Sequence[GraphIR] = (),
    labels: Sequence[str] = (),
    other: GraphIR | None = None,
    depth: int | None = None,
    images: bool = True,
    learning_rate: float = 0.1,
) -> str:
    """Return the interactive page of a described graph as text; the arguments are those of `html`."""
    if depth is not None and depth < 1:
        raise OptionError(f"depth must be at least 1, got {depth}")
    if labels and len(labels) != len(tape):
        raise OptionError(f"{len(tape)} recordings on the tape need as many labels, got {len(labels)}")
    packer = _Packer(graph, other, images)
    data = packer.data(title or graph.title)
    data["depth"] = depth
    data["tolerance"] = tolerance
    data["rate"] = learning_rate
    packer.check(data, errors)
    if tape:
        data["tape"] = packer.tape(tape, [str(label) for label in labels] or [str(k + 1) for k in range(len(tape))])
    if other is not None:
        data["diff"] = [f"{graph.title}, {len(graph.nodes)} ops", f"{other.title}, {len(other.nodes)} ops"]
    template, style, script = _parts()
    filled = {
        "csp": f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        "title": escape(data["title"]),
        "style": style,
        "script": script,
        "data": _inert(data),
    }
    first, *rest = template.split("{{")
    out = [first]
    for piece in rest:  # once over the template: what is put in is not looked into again
        name, _, text = piece.partition("}}")
        out += [filled[name], text]
    return "".join(out)


@cache
def _parts() -> tuple[str, str, str]:
    folder = files(__package__)
    template, style, script = ((folder / f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    return template, style, script


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _inert(data: Any) -> str:
    """Return JSON in which nothing can end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _graph(subject: Any, images: bool) -> GraphIR:
    if isinstance(subject, GraphIR):
        return subject
    if isinstance(subject, Recorder):
        return subject.graph
    if isinstance(subject, Traced):
        return _walked(subject, images)
    raise GraphError(f"a page is made of a tensor, a recording or a GraphIR; got {type(subject).__name__}")


def _walked(loss: Traced, images: bool) -> GraphIR:
    """Describe the graph of `loss`, with one backward walk where that is possible."""
    elements = _ARRAY_MOST if images else FULL_VALUES
    nodes = nodes_from([loss])
    walk = getattr(loss, "backward", None)
    if walk is None or loss.array.size != 1 or not nodes or any(node.inputs is None for node in nodes):
        return GraphIR.of(loss, maps=images, elements=elements)
    leaves = {x.index: x for node in nodes for x in node.inputs or () if isinstance(x, Traced) and x.node is None}
    before = [(x, x.grad) for x in leaves.values()]
    try:
        for x in leaves.values():
            x.grad = None
        with record(maps=images, elements=elements) as recorder:
            walk(retain_graph=True)
        return _freeing(recorder.graph)
    finally:
        for x, grad in before:
            x.grad = grad


def _freeing(graph: GraphIR) -> GraphIR:
    """Replace the bytes alive of a walk that kept the graph by those of an ordinary one, which frees as it goes."""
    sizes = {value.id: value.bytes for value in graph.values}
    leaves = {value.id for value in graph.values if value.maker is None}
    nodes = {node.id: node for node in graph.nodes}
    for walk in graph.walks:
        holders: dict[str, int] = {}
        for step in walk.steps:
            for entry in nodes[step.node].saved:
                holders[entry.value] = holders.get(entry.value, 0) + 1
        held = sum(sizes[id] for id in holders if id not in leaves)
        flying = {seed.value: sizes[seed.value] for seed in walk.seeds}
        for step in walk.steps:
            node = nodes[step.node]
            step.bytes_before = held + sum(flying.values())
            for contribution in step.contributions:
                flying[contribution.value] = sizes[contribution.value]
            flying.pop(node.output, None)
            for entry in node.saved:
                holders[entry.value] -= 1
                if holders[entry.value] == 0 and entry.value not in leaves:
                    held -= sizes[entry.value]
            step.bytes_after = held + sum(flying.values())
            step.freed = True
    return graph


# ------------------------------------------------------------------------------------------------ packing
#
# A network of a thousand ops must stay below 400 kB, so records become columns, equal entries are written once, and
# numbers that only pictures need have four digits.


def _column(values: list[Any]) -> Any:
    """Return the shortest of: the list, one value for all, or distinct values and positions."""
    if values and all(v == values[0] and type(v) is type(values[0]) for v in values[1:]):
        return {"c": values[0]}
    texts = [json.dumps(v, separators=(",", ":")) for v in values]
    distinct = list(dict.fromkeys(texts))
    position = {text: k for k, text in enumerate(distinct)}
    coded = sum(map(len, distinct)) + len(distinct) + sum(len(str(position[t])) + 1 for t in texts) + 12
    if coded >= sum(map(len, texts)) + len(texts):
        return values
    return {"d": [json.loads(text) for text in distinct], "i": [position[text] for text in texts]}


def _table(rows: list[Packed], keys: Sequence[str]) -> Packed:
    return {"n": len(rows), "columns": {key: _column([row.get(key) for row in rows]) for key in keys}}


def _number(x: float | None) -> Any:
    """Return four significant digits, and words for what JSON cannot say."""
    if x is None or isinstance(x, int):
        return x
    if not math.isfinite(x):
        return _exact(x)
    short = float(f"{x:.4g}")
    return int(short) if short == int(short) and abs(short) < 1e6 else short


def _exact(x: Any) -> Any:
    if isinstance(x, float):
        if not math.isfinite(x):
            return "NaN" if x != x else "Infinity" if x > 0 else "-Infinity"
        return int(x) if x == int(x) and abs(x) < 2**53 and (x != 0 or math.copysign(1, x) > 0) else x
    return x


def _levels(histogram: list[int] | None) -> str | None:
    """Return one letter per bin, 64 levels up to the highest."""
    if histogram is None:
        return None
    most = max(histogram)
    return "".join(_ALPHABET[max(1, round(63 * n / most)) if n else 0] for n in histogram)


class _Packer:
    """Turns a `GraphIR` (and a second one, to compare it with) into the columns that the page reads."""

    def __init__(self, graph: GraphIR, other: GraphIR | None, images: bool) -> None:
        self.graph = graph
        self.images = images
        self.size = self._image_size()
        self.nodes: list[tuple[OpNode | None, Value, str]] = []  # op or None, its value, "same" or "added"
        self.position: dict[str, int] = {}  # value id -> row
        self.rows_of_ops: dict[str, int] = {}
        self._list(graph, "same")
        self.modules = list(graph.modules)
        self.differences: dict[int, tuple[str, str]] = {}
        if other is not None:
            known = {module.id for module in self.modules}
            self.modules += [module for module in other.modules if module.id not in known]
            self._compare(other)
        self.module_row = {module.id: m for m, module in enumerate(self.modules)}

    def _list(self, graph: GraphIR, status: str) -> None:
        """Add ops in order of creation, each leaf just before its first reader."""
        values = {value.id: value for value in graph.values}
        for node in graph.nodes:
            for x in node.inputs:
                if x.value is not None and values[x.value].maker is None:
                    self._add(None, values[x.value], status)
            self._add(node, values[node.output], status)
        for value in graph.values:
            if value.maker is None:
                self._add(None, value, status)

    def _add(self, node: OpNode | None, value: Value, status: str) -> None:
        if value.id not in self.position:
            self.position[value.id] = len(self.nodes)
            if node is not None:
                self.rows_of_ops[node.id] = len(self.nodes)
            self.nodes.append((node, value, status))

    # -- two graphs

    def _compare(self, other: GraphIR) -> None:
        """Merge what only the second graph has, and say what differs where both have a node."""
        theirs = {value.id: value for value in other.values}
        makers = {node.output: node for node in other.nodes}
        for row, (node, value, _) in enumerate(list(self.nodes)):
            twin = theirs.get(value.id)
            if twin is None:
                self.differences[row] = ("removed", "not in the second graph")
                continue
            structure, numbers = _differences(node, value, makers.get(value.id), twin)
            if structure or numbers:
                self.differences[row] = ("changed" if structure else "numbers", "; ".join(structure + numbers))
        self._list(other, "added")
        for row, (_, _, status) in enumerate(self.nodes):
            if status == "added":
                self.differences[row] = ("added", "not in the first graph")

    # -- images and arrays

    def _image_size(self) -> tuple[int, int]:
        """Choose how many images of which size all arrays can have within the budget."""
        maps = [s.maps for v in self.graph.values for s in (v.data, v.grad) if s is not None and s.maps is not None]
        budget = max(_IMAGE_LEAST, _IMAGE_BUDGET - _NODE_BYTES * len(self.graph.values))
        for most, side in _IMAGE_SIZES:
            if sum(min(most, len(m.pixels)) * min(side, m.height) * min(side, m.width) for m in maps) <= budget:
                return most, side
        return _IMAGE_SIZES[-1]

    def _maps(self, maps: Maps) -> Packed:
        most, side = self.size
        planes = [base64.b64decode(text) for text in maps.pixels[:most]]
        shape = (len(planes), maps.height, maps.width)
        pixels = np.frombuffer(b"".join(planes), dtype=np.uint8).reshape(shape)
        for axis in (1, 2):
            n = pixels.shape[axis]
            if n > side:
                starts = np.arange(side) * n // side
                sums = np.add.reduceat(pixels.astype(np.float64), starts, axis=axis)
                widths = np.diff(np.append(starts, n))
                pixels = (sums / (widths[:, None] if axis == 1 else widths)).round().astype(np.uint8)
        return {
            "n": len(planes),
            "h": pixels.shape[1],
            "w": pixels.shape[2],
            "lo": _number(maps.low),
            "hi": _number(maps.high),
            "of": maps.of,
            "axis": maps.axis,
            "b": base64.b64encode(pixels.tobytes()).decode(),
        }

    def _stats(self, s: Stats | None, *, maps: bool = True) -> list[Any] | None:
        if s is None:
            return None
        row: list[Any] = [_number(v) for v in (s.min, s.max, s.mean, s.std, s.norm, s.zeros)]
        row += [s.nan + s.inf, _levels(s.histogram)]
        row.append([_exact(v) for v in s.values] if s.values is not None and len(s.values) <= FULL_VALUES else None)
        row.append(self._maps(s.maps) if maps and self.images and s.maps is not None else None)
        while row[-1] is None:
            row.pop()
        return row

    def _arrays(self) -> dict[int, Packed]:
        """Return whole arrays for filters and for the microscope, in order of the ops, as far as the budget goes."""
        out: dict[int, Packed] = {}
        left = _ARRAY_BUDGET
        if not self.images:
            return out
        for node, value, status in self.nodes:
            if node is None or node.kind != "conv2d" or status == "added":
                continue
            involved = [self.position[x.value] for x in node.inputs if x.value is not None]
            for row in [*involved, self.position[value.id]]:
                held = self.nodes[row][1]
                for key, s in (("array", held.data), ("garray", held.grad)):
                    values = None if s is None else s.values
                    if values is None or key in out.get(row, ()) or len(values) > min(left, _ARRAY_MOST):
                        continue
                    left -= len(values)
                    raw = np.asarray(values, dtype="<f4").tobytes()
                    out.setdefault(row, {})[key] = {"shape": held.shape, "b": base64.b64encode(raw).decode()}
        return out

    # -- the table of nodes

    def data(self, title: str) -> Packed:
        """Return everything about the graph itself."""
        arrays = self._arrays()
        rows = [self._row(row, arrays.get(row, {})) for row in range(len(self.nodes))]
        keys = [key for key in _KEYS if any(row.get(key) is not None for row in rows) or key in ("inputs", "role")]
        modules = [
            {"path": m.id, "cls": m.kind, "parent": -1 if m.parent is None else self.module_row[m.parent]}
            for m in self.modules
        ]
        backward = self._backward()
        seeds = [self.position[id] for id in self._seeds() if id in self.position]
        return {
            "title": title,
            "notes": self.graph.notes,
            "nodes": _table(rows, keys),
            "modules": _table(modules, ("path", "cls", "parent")),
            "backward": _table(backward, ("n", "to", "g", "freed", "before", "after")),
            "outputs": seeds,
        }

    def _row(self, row: int, arrays: Packed) -> Packed:
        node, value, _ = self.nodes[row]
        made: Packed = {
            "shape": value.shape,
            "dtype": value.dtype or None,
            "device": value.device,
            "needs": value.requires_grad,
            "bytes": value.bytes,
            "data": self._stats(value.data),
            "grad": self._stats(value.grad),
            "update": _number(value.update),
            **arrays,
        }
        status, text = self.differences.get(row, ("same", ""))
        made["diff"] = status if self.differences else None
        made["difftext"] = text or None
        if node is None:
            made.update(
                key=value.id,
                role=value.role,
                name=None if value.name == value.id else value.name,
                scope=-1,
                inputs=[],
                params=math.prod(value.shape) if value.role == "parameter" else None,
            )
            return made
        scope = -1 if node.module is None else self.module_row[node.module]
        path = "" if node.module is None else next(m.id for m in (self.modules[scope],)) + "/"
        stem, _, k = node.id.rpartition(":")
        names = [x.name for x in node.inputs]
        made.update(
            key=int(k) if k.isdecimal() and str(int(k)) == k and stem == path + node.kind else node.id,
            role="op",
            op=node.kind,
            name=value.name,
            scope=scope,
            family=node.family or None,
            options=", ".join(f"{key} = {text}" for key, text in node.options.items()) or None,
            params=node.parameters or None,
            flops=node.flops,
            tf=_number(node.forward_seconds),
            tb=_number(node.backward_seconds),
            dead=_number(node.dead),
            source=None if node.source is None else f"{node.source.file}:{node.source.line}  {node.source.code}",
            inputs=[None if x.value is None else self.position[x.value] for x in node.inputs],
            literals=[x.literal for x in node.inputs],
            args=names,
            rules=[x.derivative for x in node.inputs],
            saved=[
                [
                    "y" if entry.value == node.output else next(x.name for x in node.inputs if x.value == entry.value),
                    entry.bytes,
                    ", ".join(entry.read_by),
                ]
                for entry in node.saved
            ],
            conv=self._conv(node, value),
        )
        return made

    def _conv(self, node: OpNode, value: Value) -> Packed | None:
        """Return the geometry of a convolution for the microscope."""
        if node.kind != "conv2d" or len(value.shape) != 4 or len(node.inputs) < 2:
            return None
        if node.inputs[0].value is None or node.inputs[1].value is None:
            return None
        try:
            options = {key: ast.literal_eval(text) for key, text in node.options.items()}
            (top, _), (left, _) = options["padding"]
            stride, dilation, groups = list(options["stride"]), list(options["dilation"]), int(options["groups"])
        except (KeyError, TypeError, ValueError, SyntaxError):
            return None  # a conv2d of another make
        return {"stride": stride, "dilation": dilation, "groups": groups, "pad": [top, left]}

    # -- backward

    def _seeds(self) -> list[str]:
        walks = [walk for walk in self.graph.walks if walk.steps]
        return [seed.value for seed in walks[-1].seeds] if walks else []

    def _backward(self) -> list[Packed]:
        """Return the steps of the last walk. A gradient equal to the value's own is not written twice."""
        walks = [walk for walk in self.graph.walks if walk.steps]
        rows: list[Packed] = []
        for step in walks[-1].steps if walks else ():
            n = self.rows_of_ops[step.node]
            to = []
            for c in step.contributions:
                target = self.position[c.value]
                final = self.nodes[target][1].grad
                mine = None if c.gradient == final else self._stats(c.gradient, maps=len(self.nodes) <= 300)
                total = None if c.total == final else self._stats(c.total, maps=len(self.nodes) <= 300)
                entry: list[Any] = [c.position, target]
                if mine is not None or total is not None:
                    entry += [mine] if total is None else [mine, total]
                to.append(entry)
            upstream = None if step.upstream == self.nodes[n][1].grad else self._stats(step.upstream)
            rows.append(
                {
                    "n": n,
                    "to": to,
                    "g": upstream,
                    "freed": step.freed,
                    "before": step.bytes_before if not rows else None,
                    "after": step.bytes_after,
                }
            )
        return rows

    # -- what is laid over the graph

    def check(self, data: Packed, errors: Mapping[str, float] | None) -> None:
        """Attach the errors of a gradient check to the rows of nodes and leaves."""
        if errors is None:
            errors = {n.id: n.marks["gradient_check"] for n in self.graph.nodes if "gradient_check" in n.marks}
        data["checked"] = bool(errors)
        if not errors:
            return
        column: list[Any] = [None] * len(self.nodes)
        for id, error in errors.items():
            row = self.rows_of_ops.get(id, self.position.get(id))
            if row is None:
                raise GraphError(f"errors: the graph has no node or leaf {id!r}")
            column[row] = _number(float(error))
        data["nodes"]["columns"]["error"] = column

    def tape(self, graphs: Sequence[GraphIR], labels: list[str]) -> Packed:
        """Return gradient norms per parameter and iteration, and all numbers where there is room for them."""
        values = [{value.id: value for value in graph.values} for graph in graphs]
        rows = [
            row
            for row, (node, value, _) in enumerate(self.nodes)
            if node is None and value.role == "parameter" and any(self._of(v, row).grad for v in values)
        ]
        losses = [v[graph.outputs[0]] if graph.outputs else None for v, graph in zip(values, graphs, strict=True)]
        frames = None
        if len(graphs) * len(self.nodes) <= _FRAME_BUDGET:
            frames = [
                {
                    "data": _column([self._stats(self._of(v, row).data, maps=False) for row in range(len(self.nodes))]),
                    "grad": _column([self._stats(self._of(v, row).grad, maps=False) for row in range(len(self.nodes))]),
                }
                for v in values
            ]
        return {
            "labels": labels,
            "loss": [
                None
                if x is None or x.data is None or x.data.values is None or len(x.data.values) != 1
                else _number(x.data.values[0])
                for x in losses
            ],
            "rows": rows,
            "norms": [[_number(getattr(self._of(v, row).grad, "norm", None)) for v in values] for row in rows],
            "frames": frames,
        }

    def _of(self, values: Mapping[str, Value], row: int) -> Value:
        mine = self.nodes[row][1]
        return values.get(mine.id) or Value(mine.id, mine.role, mine.shape, mine.dtype)


def _differences(node: OpNode | None, value: Value, twin: OpNode | None, other: Value) -> tuple[list[str], list[str]]:
    """Say in words how two values of the same id differ: in structure, and in numbers."""
    found, numbers = [], []
    if value.shape != other.shape:
        found.append(f"shape {tuple(value.shape)} → {tuple(other.shape)}")
    if value.dtype != other.dtype:
        found.append(f"dtype {value.dtype} → {other.dtype}")
    if node is not None and twin is not None:
        for key in {**node.options, **twin.options}:
            a, b = node.options.get(key, "—"), twin.options.get(key, "—")
            if a != b:
                found.append(f"{key} {a} → {b}")
        if [x.value or x.literal for x in node.inputs] != [x.value or x.literal for x in twin.inputs]:
            found.append("reads other inputs")
    for what, first, second in (("data", value.data, other.data), ("gradient", value.grad, other.grad)):
        if first is None and second is None:
            continue
        if first is None or second is None:
            numbers.append(f"{what} only in the {'second' if first is None else 'first'}")
        elif (first.norm, first.mean, first.values) != (second.norm, second.mean, second.values):
            numbers.append(f"{what} norm {_number(first.norm)} → {_number(second.norm)}")
    return found, numbers
