"""What a picture shows: boxes, links and clusters, chosen from a GraphIR. The renderers only place and paint them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from ..errors import OptionError
from .colors import HATCHED, Legend, Paint, Scale, number_text, op_paint
from .ir import Contribution, GraphIR, Module, OpNode, Stats, Value

__all__ = ["COLORINGS", "MODES", "Box", "Cluster", "Diagram", "Link", "diagram"]

MODES = ("forward", "backward", "both")
COLORINGS = ("op", "gradient", "update", "dead", "time", "bytes", "flops", "check")
_ALIASES = {
    "gradient norm": "gradient",
    "grad": "gradient",
    "update ratio": "update",
    "dead relu share": "dead",
    "dead share": "dead",
    "gradient-check error": "check",
    "gradient_check": "check",
    "none": "",
}
_SHOW_PARAMETERS_UP_TO = 120  # ops; in larger graphs parameters are named inside the box that reads them
_SHOW_RULES_UP_TO = 40
NO_GRADIENT = "no gradient yet"


@dataclass(slots=True)
class Box:
    """One rectangle: a bold title above lines. `kind`: op, module, parameter, buffer, input, constant or saved."""

    id: str
    kind: str
    title: str
    lines: list[str] = field(default_factory=list)
    tooltip: str = ""
    cluster: str | None = None
    paint: Paint | None = None


@dataclass(slots=True)
class Link:
    """One arrow: `kind` is forward (solid), backward (dashed), saved (dotted) or order (not drawn, for the layout)."""

    tail: str
    head: str
    kind: str
    label: str = ""
    tooltip: str = ""


@dataclass(slots=True)
class Cluster:
    """A module call drawn as a frame around its boxes."""

    id: str
    label: str
    parent: str | None = None


@dataclass(slots=True)
class Diagram:
    """Everything a renderer needs, in a stable order."""

    title: str
    description: str
    mode: str
    boxes: list[Box]
    links: list[Link]
    clusters: list[Cluster]
    legend: Legend | None
    notes: list[str]

    @property
    def heading(self) -> str:
        """The title with what is drawn."""
        return self.title + {"forward": "", "backward": ": backward", "both": ": forward and backward"}[self.mode]


def diagram(
    ir: GraphIR,
    *,
    mode: str = "forward",
    depth: int | None = None,
    collapse: str | Sequence[str] = (),
    color_by: str | None = "op",
    fold: bool = True,
    parameters: bool | None = None,
) -> Diagram:
    """Choose what to draw of a graph. See `viz.draw` for the arguments."""
    if mode not in MODES:
        raise OptionError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if depth is not None and (not isinstance(depth, int) or depth < 0):
        raise OptionError(f"depth must be None or a whole number from 0 on, got {depth!r}")
    patterns = (collapse,) if isinstance(collapse, str) else tuple(collapse)
    return _Chooser(ir, mode, depth, patterns, color_by, fold, parameters).diagram()


def shape_text(shape: Sequence[int]) -> str:
    """Return "8×6×28×28", or "scalar"."""
    return "×".join(map(str, shape)) if shape else "scalar"


def bytes_text(n: float) -> str:
    """Return a size as 96 B, 3.1 kB, 2.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:.0f} {unit}" if n >= 100 or unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError


def count_text(n: float) -> str:
    """Return a count as 940, 61 706, 2.4 M."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n:,.0f}".replace(",", " ")


def norm_of(s: Stats | None) -> float | None:
    """Return the norm for a picture: NaN where the array has NaNs, infinity where it has infinities."""
    if s is None:
        return None
    return math.nan if s.nan else math.inf if s.inf else s.norm


def clip(text: str, width: int = 36) -> str:
    """Shorten in the middle, and replace what cannot be drawn."""
    text = "".join(c if c.isprintable() else "�" for c in text)
    return text if len(text) <= width else f"{text[: width // 2 - 1]}…{text[-(width // 2) :]}"


class _Chooser:
    def __init__(
        self,
        ir: GraphIR,
        mode: str,
        depth: int | None,
        patterns: tuple[str, ...],
        color_by: str | None,
        fold: bool,
        parameters: bool | None,
    ) -> None:
        self.ir = ir
        self.mode = mode
        self.values = {value.id: value for value in ir.values}
        self.nodes = {node.id: node for node in ir.nodes}
        self.modules = {module.id: module for module in ir.modules}
        self.roots = tuple(f"{module.path}." for module in ir.modules if module.parent is None)
        self.level: dict[str, int] = {}
        for module in ir.modules:  # parents stand before their children
            self.level[module.id] = 0 if module.parent is None else self.level[module.parent] + 1
        self.color_by = self._coloring(color_by)
        self.shown = self._shown_nodes()
        self.times: dict[str, int] = {}
        self.alias: dict[str, str] = {}
        self.copies: dict[str, dict[str, int]] = {}  # op -> folded run it is in -> which copy
        if fold:
            self._fold()
        self.closed = self._closed(depth, patterns)
        self.contributions: dict[tuple[str, int], Contribution] = {}
        for walk in ir.walks[-1:]:
            for step in walk.steps:
                self.contributions.update({(step.node, c.position): c for c in step.contributions})
        visible = sum(node.id not in self.alias for node in self.shown)
        self.show_parameters = visible <= _SHOW_PARAMETERS_UP_TO if parameters is None else parameters
        self.show_rules = visible <= _SHOW_RULES_UP_TO

    # -- what to show

    def _coloring(self, color_by: str | None) -> str:
        name = "" if color_by is None else _ALIASES.get(color_by.lower(), color_by)
        marks = {mark for node in self.ir.nodes for mark in node.marks}
        if name and name not in COLORINGS and name not in marks:
            known = ", ".join((*COLORINGS, *sorted(marks - {"gradient_check"})))
            raise OptionError(f"color_by must be one of {known} or None, got {color_by!r}")
        if name == "time" and all(node.forward_seconds is None for node in self.ir.nodes):
            raise OptionError('color_by="time": no times in this graph; record it with viz.record(timed=True)')
        if name == "update" and all(value.update is None for value in self.ir.values):
            raise OptionError(
                'color_by="update": no parameter update in this graph; record an iteration with its '
                "optimizer step with viz.record(updates=True)"
            )
        if name == "check" and "gradient_check" not in marks:
            raise OptionError(
                'color_by="check": no errors of a gradient check in this graph; attach them with '
                'graph.mark("gradient_check", {node id: relative error})'
            )
        return name

    def _shown_nodes(self) -> list[OpNode]:
        nodes = self.ir.nodes
        rules = [node for node in nodes if node.rule_of is not None]
        if self.mode == "backward":
            return rules or [node for node in nodes if any(x.live for x in node.inputs) or node.freed]
        leading = self._leading(rules)
        nodes = [node for node in nodes if node.id in leading]
        return nodes if self.mode == "both" else [node for node in nodes if node.rule_of is None]

    def _leading(self, rules: list[OpNode]) -> set[str]:
        """Return the ops that lead to an output or to an op of the backward pass; bookkeeping beside them is left out.

        A batch normalisation that counts its calls is such bookkeeping.
        """
        leading = {node.id for node in rules}
        pending = [self.values[id].maker for id in self.ir.outputs] + [node.id for node in rules]
        if not self.ir.outputs:
            return {node.id for node in self.ir.nodes}
        seen: set[str] = set()
        while pending:
            id = pending.pop()
            if id is None or id in seen:
                continue
            seen.add(id)
            leading.add(id)
            pending += [self.values[x.value].maker for x in self.nodes[id].inputs if x.value is not None]
        return leading

    def _real(self, id: str) -> str:
        while id in self.alias:
            id = self.alias[id]
        return id

    def _closed(self, depth: int | None, patterns: tuple[str, ...]) -> set[str]:
        closed = set()
        unused = set(patterns)
        for module in self.ir.modules:
            names = (module.id, module.path, module.path.partition(".")[2], module.kind)
            hits = {p for p in patterns if any(fnmatchcase(name, p) for name in names)}
            unused -= hits
            if hits or (depth is not None and self.level[module.id] >= depth):
                closed.add(module.id)
        if unused:
            kinds = sorted({module.kind for module in self.ir.modules})
            raise OptionError(
                f"collapse: no module is called {', '.join(map(repr, sorted(unused)))}; give paths such as "
                f"'features.0' (with * for anything) or kinds: {', '.join(kinds) or 'this graph has no modules'}"
            )
        return closed

    # -- folding equal blocks

    def _fold(self) -> None:
        """Map the ops of equal blocks in a row onto those of the first one."""
        inside: dict[str, list[OpNode]] = {}
        items: dict[str | None, list[str]] = {}  # parent -> its ops ("") and module calls in order
        for node in self.shown:
            child = ""
            module = node.module
            while module is not None:
                inside.setdefault(module, []).append(node)
                listed = items.setdefault(module, [])
                if not child or not listed or listed[-1] != child:
                    listed.append(child)
                child, module = module, self.modules[module].parent
            listed = items.setdefault(None, [])
            if not child or not listed or listed[-1] != child:
                listed.append(child)
        dropped: set[str] = set()
        for parent in (None, *(module.id for module in self.ir.modules)):
            if parent in dropped or (parent is not None and self.modules[parent].parent in dropped):
                if parent is not None:
                    dropped.add(parent)
                continue
            run: list[str] = []
            signature: Any = None
            for item in (*items.get(parent, ()), ""):
                mine = self._signature(inside[item]) if item else None
                if run and mine is not None and mine == signature and self._chained(inside[run[-1]], inside[item]):
                    run.append(item)
                    continue
                if len(run) > 1:
                    self._merge(run, inside)
                    dropped.update(run[1:])
                run, signature = ([item] if item else []), mine

    def _signature(self, nodes: list[OpNode]) -> Any:
        """Describe a block up to the names in it: equal signatures draw equal pictures."""
        position = {node.output: i for i, node in enumerate(nodes)}
        rows = []
        top = self.level[nodes[0].module] if nodes[0].module else 0
        for node in nodes:
            inputs = []
            for x in node.inputs:
                value = self.values[x.value] if x.value is not None else None
                if value is None:
                    inputs.append(("literal", x.literal))
                elif value.id in position:
                    inputs.append(("inner", str(position[value.id])))
                elif value.maker is None and self._held(value):
                    inputs.append((value.role, shape_text(value.shape)))
                else:
                    inputs.append(("outer", shape_text(value.shape)))
            module = self.modules[node.module] if node.module else None
            where = (module.kind, self.level[module.id] - top) if module else None
            shape = tuple(self.values[node.output].shape)
            rows.append((node.kind, where, tuple(sorted(node.options.items())), shape, tuple(inputs)))
        return tuple(rows)

    def _held(self, value: Value) -> bool:
        """Tell whether a leaf belongs to the module that reads it, rather than coming from outside."""
        if value.role == "parameter":
            return value.name is not None and value.name.startswith(self.roots)
        return value.role in ("constant", "buffer")

    def _chained(self, first: list[OpNode], second: list[OpNode]) -> bool:
        """Tell whether `second` reads nothing but one result of `first`, and nobody else reads `first`."""
        own = {node.id for node in first}
        next_ids = {node.id for node in second}
        inner = {node.output for node in second}
        read = {
            x.value
            for node in second
            for x in node.inputs
            if x.value is not None and x.value not in inner and self.values[x.value].maker is not None
        }
        if len(read) != 1 or self.values[next(iter(read))].maker not in own:
            return False
        shown = {node.id for node in self.shown} if len(self.shown) < len(self.ir.nodes) else None
        for node in first:
            for reader in self.values[node.output].readers:
                if reader not in own and reader not in next_ids and (shown is None or reader in shown):
                    return False
        return True

    def _merge(self, run: list[str], inside: dict[str, list[OpNode]]) -> None:
        first = inside[run[0]]
        self.times[run[0]] = len(run)
        for k, copy in enumerate(run):
            for node in inside[copy]:
                self.copies.setdefault(node.id, {})[run[0]] = k
        for copy in run[1:]:
            for a, b in zip(first, inside[copy], strict=True):
                self.alias[b.id] = a.id
                self.alias.setdefault(b.output, a.output)
                for x, y in zip(a.inputs, b.inputs, strict=True):
                    if x.value is None or y.value is None or x.value == y.value:
                        continue
                    ours, copied = self.values[x.value], self.values[y.value]
                    if ours.maker is None and copied.maker is None and self._held(copied):
                        self.alias.setdefault(copied.id, ours.id)

    # -- boxes and links

    def diagram(self) -> Diagram:
        boxes: dict[str, Box] = {}
        members: dict[str, list[OpNode]] = {}  # box -> the ops it stands for, copies of folded blocks included
        place: dict[str, str] = {}  # op -> its box
        for node in self.shown:
            shown = self.nodes[self._real(node.id)]
            hidden = self._collapsed(shown)
            id = hidden.id if hidden is not None else shown.id
            place[node.id] = id
            members.setdefault(id, []).append(node)
            if id not in boxes:
                parent = hidden.parent if hidden is not None else shown.module
                boxes[id] = Box(id, "op" if hidden is None else "module", "", cluster=parent)
        leaves: dict[str, list[Value]] = {}
        links: dict[tuple[str, str, str], Link] = {}
        for node in self.shown:
            for position, x in enumerate(node.inputs):
                if x.value is not None:
                    self._connect(node, position, self.values[x.value], place, boxes, leaves, links)
        for id, box in boxes.items():
            if box.kind in ("op", "module"):
                self._label(box, members[id])
        for id, values in leaves.items():
            self._label_leaf(boxes[id], values)
        if not self.shown:
            self._leaf_only(boxes, leaves, links)
        if self.mode == "both":
            self._add_saved(boxes, members, links)
        legend = self._paint(boxes, members, leaves)
        self._unframe(boxes)
        ordered = self._in_order(boxes, members, leaves)
        clusters = self._clusters(ordered)
        return Diagram(
            self.ir.title,
            self._description(ordered),
            self.mode,
            ordered,
            list(links.values()),
            clusters,
            legend,
            self._notes(),
        )

    def _collapsed(self, node: OpNode) -> Module | None:
        """Return the outermost closed module call around an op."""
        found = None
        id = node.module
        while id is not None:
            module = self.modules[id]
            if id in self.closed:
                found = module
            id = module.parent
        return found

    def _connect(
        self,
        node: OpNode,
        position: int,
        value: Value,
        place: dict[str, str],
        boxes: dict[str, Box],
        leaves: dict[str, list[Value]],
        links: dict[tuple[str, str, str], Link],
    ) -> None:
        x = node.inputs[position]
        head = place[node.id]
        ruled = node.rule_of is not None  # an op of a recorded backward pass: its own edges are gradients on their way
        if self.mode == "backward" and not ruled and not x.live:
            return
        if value.maker is not None and value.maker in place:
            mine, theirs = self.copies.get(node.id, {}), self.copies.get(value.maker, {})
            if any(theirs.get(run, k) != k for run, k in mine.items()):
                return  # from one folded copy to the next
            tail = place[value.maker]
        else:
            tail = self._leaf(value, node, boxes, leaves)
        if not tail or tail == head:
            return
        if self.mode != "backward" or ruled:
            key = (tail, head, "forward")
            if key not in links:
                links[key] = Link(tail, head, "backward" if ruled else "forward", tooltip=_link_tip(value))
        if self.mode != "forward" and x.live and not ruled and node.walk is None:
            self._connect_back(node, position, value, tail, head, links)

    def _connect_back(
        self,
        node: OpNode,
        position: int,
        value: Value,
        tail: str,
        head: str,
        links: dict[tuple[str, str, str], Link],
    ) -> None:
        key = (head, tail, "backward")
        part = self.contributions.get((node.id, position))
        norm = norm_of(part.gradient) if part is not None else None
        label = ""
        # Where one gradient arrives it is the one written in the box; where several do, each line says its share.
        if part is not None and part.of > 1 and norm is not None:
            label = f"|g| {number_text(norm)} ({part.arrived} of {part.of})"
        known = links.get(key)
        if known is None:
            x = node.inputs[position]
            tip = f"gradient of {value.id}" + (f"\n{x.derivative}" if x.derivative else "")
            links[key] = Link(head, tail, "backward", label, tip)
        elif known.label != label:
            known.label = ""  # several gradients flow along this line

    def _leaf(self, value: Value, reader: OpNode, boxes: dict[str, Box], leaves: dict[str, list[Value]]) -> str:
        """Return the box of a leaf, "" where it is not drawn."""
        id = self._real(value.id)
        if id in leaves:
            if value not in leaves[id]:
                leaves[id].append(value)
            if self._held(value) and not any(r in self.alias for r in value.readers):
                box = boxes[id]
                box.cluster = self._common(box.cluster, self.nodes[self._real(reader.id)].module)
            return id
        shown = self.nodes[self._real(reader.id)]
        hidden = self._collapsed(shown)
        held = self._held(value)
        if value.role in ("parameter", "constant", "buffer"):
            if not self.show_parameters:
                return ""
            inner = all(r in self.nodes and self._collapsed(self.nodes[self._real(r)]) is hidden for r in value.readers)
            if hidden is not None and inner and held:
                return ""  # belongs to a closed module alone
        cluster = shown.module if hidden is None else hidden.parent
        if not held:
            cluster = None  # what comes from outside is drawn outside
        kind = value.role if value.maker is None else "input"
        boxes[id] = Box(id, kind, "", cluster=cluster)
        leaves[id] = [value]
        return id

    def _common(self, a: str | None, b: str | None) -> str | None:
        """Return the innermost module call that holds both."""
        above = set()
        while a is not None:
            above.add(a)
            a = self.modules[a].parent
        while b is not None and b not in above:
            b = self.modules[b].parent
        return b

    def _leaf_only(
        self, boxes: dict[str, Box], leaves: dict[str, list[Value]], links: dict[tuple[str, str, str], Link]
    ) -> None:
        """A graph of leaves: nothing was recorded, or only modules are known."""
        for value in self.ir.values:
            boxes[value.id] = Box(value.id, value.role, "")
            leaves[value.id] = [value]
            self._label_leaf(boxes[value.id], [value])
        if not self.ir.values:
            self._structure(boxes, links)

    def _structure(self, boxes: dict[str, Box], links: dict[tuple[str, str, str], Link]) -> None:
        """Modules that were not called: one below the other in the order they were written.

        Only inside a Sequential does that order say what flows where, so only there arrows are drawn.
        """
        children: dict[str | None, list[str]] = {}
        for module in self.ir.modules:
            children.setdefault(module.parent, []).append(module.id)
        ends: dict[str, tuple[str, str]] = {}  # module -> its first and last box
        for module in reversed(self.ir.modules):  # children before their parents
            inner = children.get(module.id, [])
            if not inner or module.id in self.closed:
                name = self._short_name(module)
                title = clip(f"{name}: {module.kind}" if name != module.kind else name)
                lines = [clip(module.options, 48)] if module.options else []
                if module.parameters:
                    lines.append(f"{count_text(module.parameters)} parameters")
                boxes[module.id] = Box(module.id, "module", title, lines, module.id, module.parent)
                ends[module.id] = (module.id, module.id)
            else:
                ends[module.id] = (ends[inner[0]][0], ends[inner[-1]][1])
        hidden = {id for id in boxes if self._inside_closed(id)}
        for id in hidden:
            del boxes[id]
        for module in self.ir.modules:
            inner = [id for id in children.get(module.id, []) if ends[id][0] in boxes and ends[id][1] in boxes]
            kind = "forward" if module.kind == "Sequential" else "order"
            for a, b in pairwise(inner):
                key = (ends[a][1], ends[b][0], "forward")
                links[key] = Link(key[0], key[1], kind)

    def _inside_closed(self, id: str) -> bool:
        parent = self.modules[id].parent
        while parent is not None:
            if parent in self.closed:
                return True
            parent = self.modules[parent].parent
        return False

    # -- what is written in them

    def _label(self, box: Box, members: list[OpNode]) -> None:
        first = members[0]
        if box.kind == "module":
            module = self.modules[box.id]
            name = self._short_name(module)
            box.title = clip(f"{name}: {module.kind}" if name != module.kind else module.kind)
            box.title += self._times(module.id)
            outgoing = [n for n in members if any(r not in {m.id for m in members} for r in self._readers(n))]
            last = self.values[(outgoing or members)[-1].output]
            box.lines = [shape_text(last.shape)]
            if module.parameters:
                copies = self.times.get(module.id, 1)
                box.lines.append(f"{count_text(module.parameters)} parameters" + (" each" if copies > 1 else ""))
            box.tooltip = f"{module.id}: {module.kind}({module.options})\n{len(members)} ops"
            return
        value = self.values[first.output]
        box.title = clip(first.kind)
        if value.name:
            box.lines.append(clip(value.name))
        if value.dtype:
            given = {self.values[x.value].dtype for x in first.inputs if x.value is not None}
            changed = given and value.dtype not in given  # a conversion, a comparison: there the type is news
            box.lines.append(f"{shape_text(value.shape)} {value.dtype}" if changed else shape_text(value.shape))
        literals = [f"{x.name} = {clip(x.literal, 16)}" for x in first.inputs if x.literal not in (None, "None")]
        if literals:
            box.lines.append(clip(", ".join(literals)))
        if not self.show_parameters and first.parameters:
            sizes = [self.values[x.value] for x in first.inputs if x.value is not None]
            box.lines.append(
                clip(
                    ", ".join(shape_text(v.shape) for v in sizes if v.role == "parameter" and len(v.shape) > 1)
                    or f"{first.parameters} parameters"
                )
            )
        if self.mode != "forward" and first.rule_of is None:
            if self.show_rules and self.mode == "backward":
                box.lines += [clip(f"{x.name} ← {x.derivative}", 56) for x in first.inputs if x.live and x.derivative]
            if value.requires_grad and self.color_by != "gradient":
                box.lines.append(self._gradient_text(members))
        if first.freed:
            box.lines.append("freed")
        box.tooltip = node_tip(first, self.values)

    def _gradient_text(self, members: list[OpNode]) -> str:
        norms = [norm_of(self.values[node.output].grad) for node in members]
        known = [norm for norm in norms if norm is not None]
        if not known:
            return NO_GRADIENT
        worst = next((norm for norm in known if not math.isfinite(norm)), None)
        return f"|g| {number_text(sum(known) / len(known) if worst is None else worst)}"

    def _readers(self, node: OpNode) -> list[str]:
        readers = [r for r in self.values[node.output].readers if r in self.nodes]
        return readers or ["(nobody)"]

    def _times(self, module: str) -> str:
        return f" × {self.times[module]}" if module in self.times else ""

    def _label_leaf(self, box: Box, values: list[Value]) -> None:
        value = values[0]
        name = value.name or ("labels" if value.role == "constant" and value.dtype.startswith("int") else value.role)
        path = self.modules[box.cluster].path + "." if box.cluster is not None else ""
        if value.maker is not None:
            name = f"result of {value.maker}"
        box.title = clip(name.removeprefix(path) if path else name)
        box.lines = [shape_text(value.shape)]
        if self.mode != "forward" and value.requires_grad and self.color_by != "gradient":
            norms = [norm for norm in (norm_of(v.grad) for v in values) if norm is not None]
            box.lines.append(f"|g| {number_text(sum(norms) / len(norms))}" if norms else NO_GRADIENT)
        if len(values) > 1:
            box.lines.append(f"and {len(values) - 1} alike")
        box.tooltip = value_tip(value)

    def _add_saved(
        self, boxes: dict[str, Box], members: dict[str, list[OpNode]], links: dict[tuple[str, str, str], Link]
    ) -> None:
        """One dotted box beside each op or module: what it keeps for its gradient rules."""
        for id in list(members):
            box = boxes[id]
            names: dict[str, None] = {}
            total: dict[str, int] = {}
            for node in members[id]:
                for saved in node.saved:
                    if not saved.read_by or node.rule_of is not None:
                        continue
                    total[saved.value] = saved.bytes
                    own = [x.name for x in node.inputs if x.value == saved.value]
                    names[own[0] if own else "its result"] = None
            if not total:
                continue
            what = ", ".join(names) if box.kind == "op" else f"{len(total)} array{'' if len(total) == 1 else 's'}"
            saved_id = f"{id} saved"
            boxes[saved_id] = Box(
                saved_id,
                "saved",
                f"saved {clip(what, 24)}",
                [bytes_text(sum(total.values()))],
                "Read again by the gradient rules:\n" + "\n".join(f"{v}: {bytes_text(b)}" for v, b in total.items()),
                box.cluster,
            )
            links[saved_id, id, "saved"] = Link(saved_id, id, "saved")

    # -- colours

    def _number(self, box: Box, nodes: list[OpNode], values: list[Value]) -> float | None:
        """Return the number that `color_by` paints a box with, None where it has none."""
        name = self.color_by
        if name == "gradient":
            if box.kind == "module":
                own = [self.values[x.value] for n in nodes for x in n.inputs if x.value is not None]
                held = {v.id: v.grad for v in own if v.role == "parameter" and v.grad is not None}
                if held:
                    return _root_of_squares([norm_of(g) for g in held.values()])
                return norm_of(self.values[nodes[-1].output].grad)
            if nodes:
                return _mean([norm_of(self.values[n.output].grad) for n in nodes])
            return _mean([norm_of(v.grad) for v in values])
        if name == "update":
            own = values or [self.values[x.value] for n in nodes for x in n.inputs if x.value is not None]
            return _mean([v.update for v in own])
        if name == "check":
            return _worst([n.marks.get("gradient_check") for n in nodes])
        if name == "dead":
            return _mean([n.dead for n in nodes])
        if name == "time":
            return _sum([None if n.forward_seconds is None else _seconds(n) * 1e6 for n in nodes])
        if name == "bytes":
            return _sum([n.bytes for n in nodes] + [v.bytes for v in values])
        if name == "flops":
            return _sum([n.flops for n in nodes])
        return _worst([n.marks.get(name) for n in nodes])

    def _paint(
        self, boxes: dict[str, Box], members: dict[str, list[OpNode]], leaves: dict[str, list[Value]]
    ) -> Legend | None:
        if not self.color_by:
            return None
        if self.color_by == "op":
            return self._paint_by_family(boxes, members)
        numbers: dict[str, float] = {}
        for id, box in boxes.items():
            if box.kind != "saved":
                number = self._number(box, members.get(id, []), leaves.get(id, []))
                if number is not None:
                    numbers[id] = number
        title, log = _SCALES.get(self.color_by, (self.color_by, True))
        bounds = (0.0, 1.0) if self.color_by == "dead" else (None, None)
        scale = Scale(numbers.values(), log=log, low=bounds[0], high=bounds[1])
        hatched = False
        text: Callable[[float], str] = _TEXTS.get(self.color_by, number_text)
        short = {"gradient": "|g| ", "update": "Δ ", "dead": "dead ", "check": "error "}.get(self.color_by, "")
        for id, number in numbers.items():
            boxes[id].paint = scale.paint(number)
            hatched |= not math.isfinite(number)
            boxes[id].lines.append(short + text(number))
        missing = None
        if self.color_by == "gradient":
            waiting = [id for id, b in boxes.items() if b.kind != "saved" and id not in numbers]
            missing = "no gradient" if numbers else NO_GRADIENT
            if not numbers:
                for id in waiting:
                    if self._wants_gradient(members.get(id, []), leaves.get(id, [])):
                        boxes[id].lines.append(NO_GRADIENT)
            elif not waiting:
                missing = None
        legend = scale.legend(title, text, hatched=hatched, missing=missing)
        return legend if legend.rows else None

    def _wants_gradient(self, nodes: list[OpNode], values: list[Value]) -> bool:
        return any(self.values[n.output].requires_grad for n in nodes) or any(v.requires_grad for v in values)

    def _paint_by_family(self, boxes: dict[str, Box], members: dict[str, list[OpNode]]) -> Legend | None:
        used: dict[str, Paint] = {}
        for id, nodes in members.items():
            box = boxes[id]
            if box.kind != "op":
                continue
            box.paint, name = op_paint(nodes[0].family, nodes[0].kind)
            used[name] = box.paint
            grad = self.values[nodes[0].output]
            bad = [s for s in (grad.data, grad.grad if self.mode != "forward" else None) if s and (s.nan or s.inf)]
            if bad:
                box.paint = HATCHED
                box.lines.append(f"{sum(s.nan for s in bad)} NaN, {sum(s.inf for s in bad)} inf")
                used["NaN or infinite"] = HATCHED
        order = ["convolution", "pooling", "activation", "normalisation", "matrix product", "loss", "other"]
        rows = [(used[name], name) for name in (*order, "NaN or infinite") if name in used]
        return Legend("kind of op", tuple(rows)) if len(rows) > 1 else None

    # -- order, clusters, words

    def _in_order(
        self, boxes: dict[str, Box], members: dict[str, list[OpNode]], leaves: dict[str, list[Value]]
    ) -> list[Box]:
        """Sort by creation: leaves stand just before their first reader, saved boxes just before their op."""
        first: dict[str, float] = {}
        for id, nodes in members.items():
            first[id] = nodes[0].order
            first[f"{id} saved"] = nodes[0].order - 0.25
        for id, values in leaves.items():
            readers = [self.nodes[r].order for v in values for r in v.readers if r in self.nodes]
            first[id] = min(readers, default=0) - 0.5
        position = {module.id: i for i, module in enumerate(self.ir.modules)} if not self.shown else {}
        position = {id: position.get(id, i) for i, id in enumerate(boxes)}
        return sorted(boxes.values(), key=lambda box: (first.get(box.id, 0.0), position[box.id]))

    def _clusters(self, boxes: list[Box]) -> list[Cluster]:
        used: set[str] = set()
        for box in boxes:
            id = box.cluster
            while id is not None and id not in used:
                used.add(id)
                id = self.modules[id].parent
        result = []
        for module in self.ir.modules:
            if module.id not in used:
                continue
            name = self._short_name(module)
            label = f"{name}: {module.kind}" if module.parent is not None else module.id
            result.append(Cluster(module.id, clip(label, 48) + self._times(module.id), module.parent))
        return result

    def _unframe(self, boxes: dict[str, Box]) -> None:
        """Draw a module that is nothing but one op as that op, with the module's name in it."""
        inside: dict[str, list[Box]] = {}
        outer = {self.modules[id].parent for box in boxes.values() if (id := box.cluster) is not None}
        for box in boxes.values():
            if box.cluster is not None:
                inside.setdefault(box.cluster, []).append(box)
        for id, found in inside.items():
            module = self.modules[id]
            ops = [box for box in found if box.kind != "saved"]
            if len(ops) == 1 and ops[0].kind == "op" and id not in outer and id not in self.times and module.parent:
                ops[0].lines.insert(0, clip(self._short_name(module)))
                for box in found:
                    box.cluster = module.parent

    def _short_name(self, module: Module) -> str:
        """Return a module call's path from its parent on."""
        parent = self.modules[module.parent].path + "." if module.parent is not None else ""
        return module.id.removeprefix(parent)

    def _notes(self) -> list[str]:
        notes = list(self.ir.notes)
        if self.mode != "forward" and not self.ir.has_gradients and self.shown:
            notes.append("No gradient yet: backward() has not run.")
        return notes

    def _description(self, boxes: list[Box]) -> str:
        ops = len(self.shown)
        if not ops and self.ir.modules:
            return f"The modules of {self.ir.title}, drawn as {len(boxes)} boxes."
        parameters = [v for v in self.ir.values if v.role == "parameter"]
        text = f"{'The graph' if self.mode == 'forward' else f'The {self.mode} graph'} of {self.ir.title}: {ops} ops"
        if self.ir.modules:
            text += f" in {len(self.ir.modules)} module calls"
        if parameters:
            text += f", {count_text(sum(math.prod(v.shape) for v in parameters))} parameters"
        text += f", drawn as {len(boxes)} boxes."
        beside = sum(node.rule_of is None for node in self.ir.nodes) - sum(n.rule_of is None for n in self.shown)
        if self.mode != "backward" and beside:
            text += f" {beside} ops that do not lead to the result are left out."
        if self.mode != "backward":
            text += " Solid arrows: values flowing forward."
        if self.mode != "forward":
            text += " Dashed arrows: gradients flowing back."
        if self.mode == "both":
            text += " Dotted: arrays kept for the gradient rules."
        return text


_SCALES = {  # heading, logarithmic
    "gradient": ("gradient norm", True),
    "update": ("update ratio", True),
    "dead": ("share of dead units", False),
    "time": ("time forward + backward", True),
    "bytes": ("size of the result", True),
    "flops": ("floating point operations", True),
    "check": ("error of the gradient check", True),
}
_TEXTS: dict[str, Callable[[float], str]] = {
    "time": lambda x: f"{number_text(x)} µs",
    "bytes": bytes_text,
    "flops": lambda x: f"{count_text(x)}flop" if x >= 1e6 else f"{count_text(x)} flop",
    "dead": lambda x: f"{100 * x:.0f} %",
}


def _known(numbers: Sequence[float | None]) -> list[float]:
    return [x for x in numbers if x is not None]


def _mean(numbers: Sequence[float | None]) -> float | None:
    known = _known(numbers)
    return sum(known) / len(known) if known else None


def _sum(numbers: Sequence[float | None]) -> float | None:
    known = _known(numbers)
    return float(sum(known)) if known else None


def _worst(numbers: Sequence[float | None]) -> float | None:
    known = _known(numbers)
    return next((x for x in known if math.isnan(x)), max(known)) if known else None


def _root_of_squares(numbers: Sequence[float | None]) -> float:
    return math.sqrt(sum(x * x for x in _known(numbers)))


def _seconds(node: OpNode) -> float:
    return (node.forward_seconds or 0.0) + (node.backward_seconds or 0.0)


def _link_tip(value: Value) -> str:
    return f"{value.id}\n{shape_text(value.shape)} {value.dtype}".rstrip()


def node_tip(node: OpNode, values: dict[str, Value]) -> str:
    """Return everything known about an op, line by line."""
    value = values[node.output]
    lines = [node.id, f"result: {shape_text(value.shape)} {value.dtype}, {bytes_text(node.bytes)}, {value.device}"]
    lines += [f"{name} = {text}" for name, text in node.options.items()]
    lines += [f"input {x.name}: {x.value or x.literal}" for x in node.inputs]
    lines += [x.derivative for x in node.inputs if x.derivative]
    if node.flops is not None:
        lines.append(f"{count_text(node.flops)} floating point operations")
    if node.source is not None:
        lines.append(f"{node.source.file}:{node.source.line}: {node.source.code}")
    lines += [f"{what}: {stats_text(s)}" for what, s in (("data", value.data), ("gradient", value.grad)) if s]
    return "\n".join(lines)


def value_tip(value: Value) -> str:
    """Return everything known about a leaf, line by line."""
    lines = [value.id, f"{value.role}: {shape_text(value.shape)} {value.dtype}, {bytes_text(value.bytes)}"]
    lines += [f"{what}: {stats_text(s)}" for what, s in (("data", value.data), ("gradient", value.grad)) if s]
    if value.update is not None:
        lines.append(f"update ratio {number_text(value.update)}")
    return "\n".join(lines)


def stats_text(s: Stats) -> str:
    """Return the numbers about an array in one line."""
    if s.min is None or s.max is None or s.mean is None or s.std is None:
        text = "no finite element"
    else:
        text = (
            f"{number_text(s.min)} to {number_text(s.max)}, mean {number_text(s.mean)}, std {number_text(s.std)}, "
            f"{100 * s.zeros:.0f} % zeros"
        )
    return text + (f", {s.nan} NaN" if s.nan else "") + (f", {s.inf} infinite" if s.inf else "")
