"""Reverse mode: walk the recorded graph from newest to oldest and apply the chain rule.

    table[y.index] = g                      the gradient of the output with respect to y
    table[x.index] += rule_x(g, y, *inputs) for every input x of the node that made y

Source: Linnainmaa, BIT 16, 1976; Griewank & Walther, Evaluating Derivatives, 2nd ed., SIAM 2008, chapter 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush, heappushpop
from typing import Any

from . import graph
from .backend import device_of, float32, float64, is_float, namespace
from .backend.device import namespaces
from .backend.exposure import changed, exposed, memory_of
from .errors import DTypeError, GraphError, ShapeError
from .graph import Node, Traced, state
from .op import TABLE

__all__ = ["backward", "gradients", "hessian", "jacobian", "jvp", "vjp"]

_SCALARS = frozenset({float32.type, float64.type})


def gradients(
    outputs: Traced | Sequence[Traced],
    inputs: Traced | Sequence[Traced],
    seeds: Any = None,
    *,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> list[Any]:
    """Return d(sum of outputs · seeds) / dx for every x in `inputs`.

    Args:
        outputs: one value or several, of any shape; a value with a single element needs no seed.
        inputs: the values to differentiate with respect to; they need not be leaves.
        seeds: for each output an array of its shape, the gradient flowing in from above, or None.
        retain_graph: keep the arrays of the graph for another walk. Default: the value of `create_graph`.
        create_graph: record the gradients themselves, so that they can be differentiated again.
        allow_unused: return None for an input that the outputs do not depend on, instead of raising.

    Returns:
        A list of tensors, each of the shape, type and device of its input.

    Raises:
        GraphError: an output was not recorded, has no seed, was freed, or an array of the graph was edited.
        ShapeError: a seed or the result of a gradient rule has the wrong shape.
    """
    outputs = [outputs] if isinstance(outputs, Traced) else list(outputs)
    inputs = [inputs] if isinstance(inputs, Traced) else list(inputs)
    for i, x in enumerate(inputs):
        if not isinstance(x, Traced):
            raise GraphError(f"grad(): input number {i} is {type(x).__name__}, not a tensor")
        if not x.requires_grad:
            raise GraphError(
                f"grad(): input number {i} ({_called(x)}) needs no gradient, so nothing was recorded for it; "
                "make it with requires_grad=True before computing the outputs"
            )
    table = _walk(outputs, seeds, inputs, retain_graph, create_graph)
    found = [table.get(x.index) for x in inputs]
    if not create_graph:
        found = _owned(found, _arrays_in(seeds))
    for i, (x, gx) in enumerate(zip(inputs, found, strict=True)):
        if gx is None and not allow_unused:
            raise GraphError(
                f"grad(): the outputs do not depend on input number {i} ({_called(x)}); "
                "pass allow_unused=True to get None for it"
            )
    return [None if gx is None else _as_traced(x, gx) for x, gx in zip(inputs, found, strict=True)]


def backward(output: Traced, seed: Any = None, *, retain_graph: bool | None = None, create_graph: bool = False) -> None:
    """Add d(output · seed) / dx to `x.grad` of every leaf x that requires a gradient."""
    leaves: dict[int, Traced] = {}
    seeds = None if seed is None else [seed]
    table = _walk([output], seeds, None, retain_graph, create_graph, leaves)
    found = [table.get(index) for index in leaves]
    if not create_graph:
        found = _owned(found, _arrays_in(seeds))
    for x, gx in zip(leaves.values(), found, strict=True):
        if gx is None:
            continue
        gx = _as_traced(x, gx)
        if x.grad is None:
            x.grad = gx
        elif create_graph:
            x.grad = x.grad + gx
        else:
            x.grad = x.result_type.made(_sum(x.grad.array, gx.array))


def _arrays_in(seeds: Any) -> list[Any]:
    """Return the arrays among the seeds."""
    given = seeds if isinstance(seeds, (list, tuple)) else [seeds]
    raws = [seed.array if isinstance(seed, Traced) else seed for seed in given]
    return [raw for raw in raws if raw.__class__ in namespaces]


def _walk(
    outputs: Sequence[Traced],
    seeds: Any,
    wrt: Sequence[Traced] | None,
    retain_graph: bool | None,
    create_graph: bool,
    leaves: dict[int, Traced] | None = None,
) -> dict[int, Any]:
    """Return the table of gradients: of `wrt`, or of all leaves (collected into `leaves`) where `wrt` is None."""
    retain = create_graph if retain_graph is None else retain_graph
    table = _seeds(outputs, seeds, create_graph)
    observers = state.mode.observers
    made = outputs[0].result_type.made
    keep = wanted = passing = None
    nodes: list[Node] = []
    # The nodes that a gradient has reached and that are still to be visited, as (-index, node): the newest comes first.
    reached = [(-y.index, y.node) for y in {y.index: y for y in outputs}.values() if y.node is not None]
    if wrt is not None or observers:
        nodes = graph.nodes_from(outputs)
    if wrt is not None:
        keep = {x.index for x in wrt}
        wanted, passing = _leading_to(keep, nodes)
    hooked: dict[int, Traced] = {}
    for x in outputs:
        if x.node is None:
            if leaves is not None:
                leaves[x.index] = x
            if x.hooks:
                hooked[x.index] = x
    for observer in observers:
        observer.backward_started(nodes, table)
    nodes = []  # the walk alone keeps nodes alive, so that a freed one is gone before the next rule runs
    heapify(reached)
    newest = heappop(reached) if reached else None
    as_array = namespace().asarray
    with graph.recording(create_graph), graph.as_recorded():
        while newest is not None:
            node, newest = newest[1], None
            index = node.index
            g = table[index] if keep is not None and index in keep else table.pop(index)
            if node.hooks:
                g = _run_hooks(node.hooks, g, made, create_graph)
                if keep is not None and index in keep:
                    table[index] = g
            if passing is None or index in passing:
                inputs, output, options, op = node.inputs, node.output, node.options, node.op
                if inputs is None:
                    raise GraphError(
                        f"{op.name}: this part of the graph was already walked and its arrays were freed; "
                        "to walk it twice, pass retain_graph=True the first time (or compute the output again)"
                    )
                if observers:
                    for observer in observers:
                        observer.node_started(node, g)
                if exposed or node.seals:
                    _check_unchanged(node)
                values: Any = []
                asked = []  # positions of the inputs whose gradients are to be computed
                for position, x in enumerate(inputs):
                    if isinstance(x, Traced):
                        values.append(x.array)
                        target = x.index
                        if target > index:
                            raise _edited(node, position, x)
                        if x.requires_grad and (wanted is None or target in wanted):
                            asked.append(position)
                    else:
                        values.append(x)
                if create_graph:
                    values, y = inputs, made(output, node, index)
                elif g.dtype is not float32 and g.dtype.itemsize == 2:
                    # Floats of 16 bits pass through the ops, which compute in float32 and round once; the operators of
                    # plain arrays would round each step of a rule and its numbers (a factor of 1e-8 would be 0).
                    values = [made(x.array) if isinstance(x, Traced) else x for x in inputs]
                    g, y = made(g), made(output)
                else:
                    y = output
                rules = op.rules
                found = None if create_graph or op.together is None else op.together(g, y, *values, **options)
                for position in asked:
                    rule = op.rule(position) if op.variadic else rules[position]
                    if rule is None:
                        continue
                    x = inputs[position]
                    maker, target, array = x.node, x.index, x.array
                    if maker is not None and maker.index != target:
                        raise _replaced(x)
                    if found is not None:
                        gx = found[position]
                    else:
                        gx = rule(g, y, *values, **options) if options else rule(g, y, *values)
                    if gx is None:
                        continue
                    if gx.__class__ in _SCALARS:  # NumPy's arithmetic returns them where an array has no axes
                        gx = as_array(gx)
                    if gx.__class__ is not array.__class__ or gx.shape != array.shape or gx.dtype is not array.dtype:
                        gx = _fitted(node, position, array, gx, create_graph)
                    total = table.get(target)
                    if total is not None:
                        total = _sum(total, gx)
                    else:
                        total = gx
                        if maker is None:
                            if leaves is not None:
                                leaves[target] = x
                            if x.hooks:
                                hooked[target] = x
                        elif newest is None:
                            newest = (-target, maker)
                        else:
                            heappush(reached, (-target, maker))
                    table[target] = total
                    if observers:
                        for observer in observers:
                            observer.contributed(node, position, x, gx, total)
                if not retain:
                    node.inputs = node.output = None
                if observers:
                    for observer in observers:
                        observer.node_finished(node, not retain)
                # The names of this turn would keep its arrays alive during the next one.
                inputs = output = values = found = y = g = gx = array = total = x = node = maker = None  # type: ignore[assignment]
            if reached:
                newest = heappop(reached) if newest is None else heappushpop(reached, newest)
        for index, x in hooked.items():
            if index in table:
                table[index] = _run_hooks(x.hooks or [], table[index], made, create_graph)
    for observer in observers:
        observer.backward_finished()
    return table


def _fitted(node: Node, position: int, array: Any, gx: Any, create_graph: bool) -> Any:
    """Return what a rule made for an input as an array, or a `Traced`, of the shape and type of that input.

    Raises:
        ShapeError: the op does not broadcast, and the rule returned another shape.
    """
    op = node.op
    raw = gx.array if isinstance(gx, Traced) else gx
    if not create_graph:
        gx = raw
    if raw.__class__ not in namespaces:
        gx = raw = namespace(array).asarray(raw)
    if raw.shape != array.shape:
        if not op.broadcasts:
            raise ShapeError(
                f"{op.name}: the gradient rule of input {op.inputs[min(position, len(op.inputs) - 1)]!r} "
                f"returned shape {raw.shape}, but that input has shape {array.shape}"
            )
        gx = TABLE["sum_to"](gx, shape=array.shape)
        raw = gx.array if isinstance(gx, Traced) else gx
    if raw.dtype is not array.dtype and raw.dtype != array.dtype:
        gx = TABLE["astype"](gx, dtype=array.dtype)
    return gx


def _seeds(outputs: Sequence[Traced], seeds: Any, create_graph: bool) -> dict[int, Any]:
    """Return the table the walk starts with, after checking that every output can be differentiated."""
    if seeds is None:
        seeds = [None] * len(outputs)
    elif isinstance(seeds, Traced) or not isinstance(seeds, (list, tuple)):
        seeds = [seeds]
    if len(seeds) != len(outputs):
        raise GraphError(
            f"{len(outputs)} outputs need as many seeds (None where an output is a scalar), got {len(seeds)}"
        )
    table: dict[int, Any] = {}
    for y, seed in zip(outputs, seeds, strict=True):
        if not isinstance(y, Traced):
            raise GraphError(f"cannot differentiate {type(y).__name__}: it is not a tensor")
        if y.node is not None and y.node.index != y.index:
            raise _replaced(y)
        if not y.requires_grad:
            raise GraphError(
                f"nothing to differentiate: {_called(y)} does not depend on anything with requires_grad=True, "
                "or it was computed under no_grad() or from a detached value"
            )
        array = y.array
        xp = namespace(array)
        if seed is None:
            if array.size != 1:
                raise GraphError(
                    f"backward() needs a gradient to start with: {_called(y)} has shape {array.shape}, not a single "
                    "element; reduce it (for example with .sum() or .mean()) or pass gradient= of that shape"
                )
            seed = xp.ones_like(array)
        else:
            if not isinstance(seed, Traced):
                seed = device_of(array).asarray(seed, dtype=array.dtype)
            raw = seed.array if isinstance(seed, Traced) else seed
            if raw.shape != array.shape:
                raise ShapeError(f"the gradient has shape {raw.shape}, but the output it belongs to has {array.shape}")
            if raw.dtype != array.dtype:
                seed = TABLE["astype"](seed, dtype=array.dtype)
        if create_graph and not isinstance(seed, Traced):
            seed = y.result_type.made(seed)
        elif not create_graph and isinstance(seed, Traced):
            seed = seed.array
        before = table.get(y.index)
        table[y.index] = seed if before is None else _sum(before, seed)
    return table


def _leading_to(keep: set[int], nodes: list[Node]) -> tuple[set[int], set[int]]:
    """Return through which values something in `keep` can be reached, `keep` included, and which nodes lead there."""
    wanted, passing = set(keep), set()
    for node in reversed(nodes):
        for x in node.inputs or ():
            if isinstance(x, Traced) and x.index in wanted:
                wanted.add(node.index)
                passing.add(node.index)
                break
        if node.inputs is None and node.index not in keep:  # what was behind it is gone: the walk has to say so
            wanted.add(node.index)
            passing.add(node.index)
    return wanted, passing


def _run_hooks(hooks: list[Callable[[Any], Any]], g: Any, made: Callable[..., Any], create_graph: bool) -> Any:
    for hook in hooks:
        seen = g if isinstance(g, Traced) else made(g)
        replaced = hook(seen)
        if replaced is None:
            continue
        if not isinstance(replaced, Traced):
            raise GraphError(f"a gradient hook must return a tensor or None, got {type(replaced).__name__}")
        if replaced.array.shape != seen.array.shape:
            raise ShapeError(
                f"a gradient hook returned shape {replaced.array.shape} for a gradient of {seen.array.shape}"
            )
        g = replaced if create_graph else replaced.array
    return g


def _as_traced(x: Traced, gx: Any) -> Any:
    if isinstance(gx, Traced):
        return gx
    xp = namespace(gx, x.array)
    return x.result_type.made(xp.asarray(gx))


def _called(x: Traced) -> str:
    """Say which tensor is meant, as well as can be."""
    array = x.array
    made = "a leaf" if x.node is None else f"made by {x.node.op.name}"
    return f"{'tensor' if x.name is None else repr(x.name)} of shape {tuple(array.shape)}, {array.dtype}, {made}"


def _sum(total: Any, gx: Any) -> Any:
    """Add two gradients of one type; NumPy's sum of arrays without axes would be a scalar."""
    if isinstance(gx, Traced):
        return total + gx
    result = TABLE["add"](total, gx) if gx.dtype.itemsize == 2 else total + gx
    return result if result.__class__ in namespaces else namespace(gx).asarray(result)


def _owned(found: list[Any], foreign: Iterable[Any]) -> list[Any]:
    """Copy gradients whose memory is shared with another one, or with a seed, or is a stretched view.

    A rule may pass g on as it is. Whoever gets a gradient may write to it, so each is given memory of its own.
    """
    taken = {id(memory_of(raw)) for raw in foreign}
    result = []
    for gx in found:
        if gx is not None:
            owner = memory_of(gx)
            if id(owner) in taken or any(step == 0 and n > 1 for step, n in zip(gx.strides, gx.shape, strict=True)):
                gx = gx.copy()
                owner = gx
            taken.add(id(owner))
        result.append(gx)
    return result


def _edited(node: Node, position: int, x: Traced) -> GraphError:
    name = node.op.inputs[min(position, len(node.op.inputs) - 1)]
    return GraphError(
        f"{node.op.name}: its input {name!r} ({_called(x)}) was edited in place after {node.op.name} had read it, so "
        "the gradient would be wrong; call backward() before the edit, or compute the value again after it"
    )


def _replaced(x: Traced) -> GraphError:
    return GraphError(
        f"{_called(x)} got new values in place after it was computed, so it no longer is what the graph says; "
        "compute the new values as a new tensor, or cut this one off with .detach() before the edit"
    )


def _check_unchanged(node: Node) -> None:
    inputs = node.inputs or ()
    arrays = [x.array if isinstance(x, Traced) else x for x in inputs] + [node.output]
    seals = node.seals or (None,) * len(arrays)
    for position, (array, sealed) in enumerate(zip(arrays, seals, strict=True)):
        if array.__class__ in (float, int, bool, type(None)) or not changed(array, sealed, node.index):
            continue
        x = inputs[position] if position < len(inputs) else None
        name = node.op.inputs[min(position, len(node.op.inputs) - 1)]
        what = f"its input {name!r} ({_called(x) if isinstance(x, Traced) else 'an array given as it is'})"
        if position == len(inputs):
            what = f"its output (shape {array.shape})"
        raise GraphError(
            f"{node.op.name}: {what} was written to (through .numpy(), .data or the array itself) after "
            f"{node.op.name} had used it, so the gradient would be wrong; write to a copy, or before the value is used"
        )


def vjp(function: Callable[..., Any], *inputs: Traced, seed: Any = None) -> tuple[Any, list[Any]]:
    """Return `function(*inputs)` and the products seedᵀ J with its Jacobians, one per input, shaped like the inputs."""
    values = [_fresh(x) for x in inputs]
    with graph.enable_grad():
        y = _value_of(function, *values)
    if not y.requires_grad:
        return y, [_zeros(x) for x in values]
    rows = gradients(y, values, None if seed is None else [seed], allow_unused=True)
    return y, [_zeros(x) if row is None else row for x, row in zip(values, rows, strict=True)]


def _zeros(x: Traced) -> Any:
    return x.result_type.made(namespace(x.array).zeros_like(x.array))


def jvp(function: Callable[..., Any], inputs: Sequence[Traced], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """Return `function(*inputs)` and the directional derivative J · tangents, shaped like the output.

    Computed by reverse mode twice: seedᵀ J is linear in the seed, and its derivative with respect to the seed in
    the direction of the tangents is J · tangents.
    """
    if len(inputs) != len(tangents):
        raise GraphError(f"jvp(): {len(inputs)} inputs need as many tangents, got {len(tangents)}")
    values = [_fresh(x) for x in inputs]
    with graph.enable_grad():
        y = _value_of(function, *values)
        if not y.requires_grad:
            return y, _zeros(y)
        seed = _fresh(y)
        rows = gradients(y, values, [seed], create_graph=True, allow_unused=True)
    used = [(row, t) for row, t in zip(rows, tangents, strict=True) if row is not None and row.requires_grad]
    if not used:
        return y, _zeros(y)
    return y, gradients([row for row, _ in used], [seed], [t for _, t in used])[0]


def jacobian(function: Callable[[Any], Any], x: Traced, *, create_graph: bool = False) -> Any:
    """Return dy/dx of `y = function(x)` with shape `y.shape + x.shape`, one backward pass per element of y."""
    x = x if create_graph and x.requires_grad else _fresh(x)
    with graph.enable_grad():
        y = _value_of(function, x)
        rows = _rows(y, x, create_graph)
    if create_graph and rows:
        flat = TABLE["stack"](*rows, axis=0)
        return TABLE["reshape"](flat, shape=y.array.shape + x.array.shape)
    xp = namespace(x.array)
    stacked = xp.stack([row.array for row in rows]) if rows else xp.zeros((0, x.array.size), dtype=x.array.dtype)
    return x.result_type.made(stacked.reshape(y.array.shape + x.array.shape))


def _rows(y: Traced, x: Traced, create_graph: bool) -> list[Any]:
    xp = namespace(y.array)
    rows = []
    for i in range(y.array.size):
        seed = xp.zeros(y.array.size, dtype=y.array.dtype)
        seed[i] = 1
        if y.requires_grad:
            row = gradients(
                y, x, [seed.reshape(y.array.shape)], retain_graph=True, create_graph=create_graph, allow_unused=True
            )[0]
        else:
            row = None
        rows.append(_zeros(x) if row is None else row)
    return rows


def hessian(function: Callable[[Any], Any], x: Traced) -> Any:
    """Return the second derivatives of a scalar `function(x)`, with shape `x.shape + x.shape`."""
    x = _fresh(x)
    with graph.enable_grad():
        y = _value_of(function, x)
        if y.array.size != 1:
            raise GraphError(f"hessian() needs a function with a scalar result, got shape {y.array.shape}")
        first = gradients(y, x, create_graph=True, allow_unused=True)[0] if y.requires_grad else None
        xp = namespace(x.array)
        if first is None:
            return x.result_type.made(xp.zeros(x.array.shape * 2, dtype=x.array.dtype))
        rows = _rows(first, x, create_graph=False)
    stacked = xp.stack([row.array for row in rows]) if rows else xp.zeros((0, 0), dtype=x.array.dtype)
    return x.result_type.made(stacked.reshape(x.array.shape * 2))


def _value_of(function: Callable[..., Any], *values: Any) -> Any:
    y = function(*values)
    if not isinstance(y, Traced):
        raise GraphError(f"the function must return a tensor, got {type(y).__name__}")
    return y


def _fresh(x: Any) -> Any:
    """Return a leaf with the values of x that requires a gradient."""
    if not isinstance(x, Traced):
        raise GraphError(f"expected a tensor, got {type(x).__name__}")
    if not is_float(x.array.dtype):
        raise DTypeError(f"only float tensors can be differentiated by, this one holds {x.array.dtype}")
    leaf = x.result_type.made(x.array)
    leaf.requires_grad = True
    leaf.name = x.name
    return leaf
