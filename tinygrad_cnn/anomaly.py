"""detect_anomaly: find the op, and the line of the user's program, that first made a NaN or an infinity."""

from __future__ import annotations

import linecache
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .backend import Device, is_float, namespace
from .errors import AnomalyError
from .graph import Node, Observer, Scope, Traced, observing, state

__all__ = ["detect_anomaly"]

_PACKAGE = str(Path(__file__).parent)
_VIZ = str(Path(__file__).parent.parent / "viz")


@contextmanager
def detect_anomaly() -> Iterator[None]:
    """Stop at the first op or gradient rule that makes a NaN or an infinity, inside a `with` block.

    Forward, an op is stopped at if its result holds a NaN, or an infinity that none of its inputs held: scores
    masked by -inf may pass. Backward, a rule is stopped at if the gradient it returns is not finite, and the error
    names the line that ran the op forward. Every result is inspected, so use it to search, not to train. NumPy's
    warnings are silent meanwhile, since the error says more.

    Raises:
        AnomalyError: the op, the inputs or the formula of the rule, and the line.

    >>> from tinygrad_cnn import Tensor, detect_anomaly
    >>> x = Tensor([4.0, 0.0], requires_grad=True)
    >>> with detect_anomaly():
    ...     x.sqrt().sum().backward()
    Traceback (most recent call last):
    ...
    tinygrad_cnn.errors.AnomalyError: backward of sqrt: its rule for input 'x', g / (2 y), made inf in 1 of 2 ...
    """
    with Device("cpu").xp.errstate(all="ignore"), observing(_Detector()):
        yield


class _Detector(Observer):
    """Looks at every result, and remembers which line ran each op."""

    def __init__(self) -> None:
        self.lines: weakref.WeakKeyDictionary[Node, str] = weakref.WeakKeyDictionary()
        self.in_rule = False

    def op_finished(self, op: Any, inputs: tuple[Any, ...], options: dict[str, Any], output: Any, result: Any) -> None:
        node = result.node if isinstance(result, Traced) else None
        if node is not None:
            self.lines[node] = _users_line()
        if self.in_rule:  # what a rule makes on its way may be masked by its end; `contributed` sees the end
            return
        found = _not_finite(output)
        if found is None:
            return
        held = [(name, _not_finite(_raw(x))) for name, x in _named(op, inputs)]
        came_in = [name for name, what in held if what is not None]
        if "nan" not in found and came_in:
            return
        sick = [name for name, what in held if what is not None and "nan" in what]
        origin = f"; its input {sick[0]!r} holds NaN already" if sick else ""
        raise AnomalyError(
            f"{op.name}: made {found}{origin}, at {_users_line()}{_where(state.mode.scope)}; "
            f"inputs: {', '.join(f'{name} {_described(_raw(x))}' for name, x in _named(op, inputs))}"
        )

    def backward_started(self, nodes: list[Node], seeds: dict[int, Any]) -> None:
        self.in_rule = False
        for seed in seeds.values():
            found = _not_finite(_raw(seed))
            if found is not None:
                raise AnomalyError(f"backward: the gradient to start with holds {found}, at {_users_line()}")

    def node_started(self, node: Node, g: Any) -> None:
        self.in_rule = True

    def contributed(self, node: Node, position: int, x: Traced, gx: Any, total: Any) -> None:
        made = _not_finite(_raw(gx))
        name = node.op.inputs[min(position, len(node.op.inputs) - 1)]
        if made is not None:
            formula = node.op.texts.get(name, "")
            what = f"its rule for input {name!r}{f', {formula},' if formula else ''} made {made}"
        else:
            made = _not_finite(_raw(total))
            what = f"the sum of the gradients of its input {name!r} became {made}"
        if made is None:
            return
        self.in_rule = False
        line = self.lines.get(node, "a line that is not known, since it ran outside of detect_anomaly()")
        raise AnomalyError(
            f"backward of {node.op.name}: {what}; the op ran at {line}{_where(node.scope)}; "
            f"inputs: {', '.join(f'{n} {_described(_raw(v))}' for n, v in _named(node.op, node.inputs or ()))}"
        )

    def node_finished(self, node: Node, freed: bool) -> None:
        self.in_rule = False


def _raw(x: Any) -> Any:
    return x.array if isinstance(x, Traced) else x


def _named(op: Any, inputs: tuple[Any, ...]) -> list[tuple[str, Any]]:
    names = op.inputs if not op.variadic else [f"{op.inputs[-1]}[{i}]" for i in range(len(inputs))]
    return [(name, x) for name, x in zip(names, inputs, strict=False) if x is not None]


def _not_finite(array: Any) -> str | None:
    """Say what an array holds that is no finite number, and how often; None if there is nothing."""
    if isinstance(array, (int, bool)) or array is None or not is_float(getattr(array, "dtype", float)):
        return None
    xp = namespace(array)
    array = xp.asarray(array)
    if bool(xp.isfinite(array).all()):
        return None
    nan = int(xp.isnan(array).sum())
    count = array.size - int(xp.isfinite(array).sum())
    kinds = (["nan"] if nan else []) + (["inf"] if bool((array == xp.inf).any()) else [])
    kinds += ["-inf"] if bool((array == -xp.inf).any()) else []
    return f"{' and '.join(kinds)} in {count} of {array.size} elements"


def _described(array: Any) -> str:
    """Describe an input in a few words."""
    if not hasattr(array, "dtype"):
        return repr(array)
    kind = f"{tuple(array.shape)} {array.dtype}"
    if not array.size or array.dtype.kind == "b":
        return kind
    return f"{kind} from {array.min().item():.4g} to {array.max().item():.4g}"


def _users_line() -> str:
    """Return the innermost line of the call stack that is not this package's own."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_PACKAGE, _VIZ)):
        frame = frame.f_back
    code = frame.f_code
    source = linecache.getline(code.co_filename, frame.f_lineno).strip()
    shown = f": {source}" if source else ""
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_name}{shown}"


def _where(scope: Scope | None) -> str:
    """Name the modules whose calls an op ran in, outermost first."""
    names: list[str] = []
    while scope is not None:
        names.append(type(scope.module).__name__)
        scope = scope.parent
    return f" (inside {' > '.join(reversed(names))})" if names else ""
