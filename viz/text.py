"""The graph as plain text, for terminals and screen readers: one line per op, indented by module."""

from __future__ import annotations

from .colors import number_text
from .diagram import NO_GRADIENT, bytes_text, clip, count_text, norm_of, shape_text
from .ir import GraphIR, OpNode, Value

__all__ = ["to_text"]


def to_text(ir: GraphIR) -> str:
    """Return every op in order of creation with its inputs, its result's shape and its gradient's norm."""
    values = {value.id: value for value in ir.values}
    modules = {module.id: module for module in ir.modules}
    parameters = [value for value in ir.values if value.role == "parameter"]
    total = 0
    for value in parameters:
        size = 1
        for n in value.shape:
            size *= n
        total += size
    lines = [f"{clip(ir.title, 60)}: {len(ir.nodes)} ops, {count_text(total)} parameter elements"]
    lines += [f"! {note}" for note in ir.notes]
    if not ir.has_gradients:
        lines.append(NO_GRADIENT)
    inside: list[str] = []
    for node in ir.nodes:
        path: list[str] = []
        id = node.module
        while id is not None:
            path.append(id)
            id = modules[id].parent
        path.reverse()
        same = 0
        while same < min(len(path), len(inside)) and path[same] == inside[same]:
            same += 1
        for level in range(same, len(path)):
            module = modules[path[level]]
            name = module.id if level == 0 else module.id.removeprefix(f"{path[level - 1].partition('@')[0]}.")
            note = f", {count_text(module.parameters)} parameters" if module.parameters else ""
            lines.append("  " * level + clip(f"{name}: {module.kind}", 60) + note)
        inside = path
        lines.append("  " * len(path) + _line(node, values))
    return "\n".join(lines) + "\n"


def _line(node: OpNode, values: dict[str, Value]) -> str:
    arguments = ", ".join(
        clip(_name(values[x.value]) if x.value is not None else str(x.literal), 40) for x in node.inputs
    )
    result = values[node.output]
    text = f"{node.id.rpartition('/')[2]}({arguments}) -> {shape_text(result.shape)}, {bytes_text(node.bytes)}"
    norm = norm_of(result.grad)
    if norm is not None:
        text += f", |g| {number_text(norm)}"
    if node.freed:
        text += ", freed"
    return text


def _name(value: Value) -> str:
    if value.maker is not None:
        module, _, op = value.maker.rpartition("/")
        return f"{module.rpartition('.')[2]}/{op}" if module else op
    return value.name.rpartition(".")[2] if value.name else value.id
