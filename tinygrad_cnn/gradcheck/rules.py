"""The engine's gradients as a plain rule: what a NumPy rule can be compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import graph
from ..tensor import Tensor

__all__ = ["forward_of", "rule_of"]


def forward_of(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of tensors as a function of NumPy arrays."""

    def forward(*args: Any, **options: Any) -> Any:
        with graph.no_grad():
            y = f(*[Tensor.made(a) if isinstance(a, np.ndarray) else a for a in args], **options)
        return tuple(t.array for t in y) if isinstance(y, (tuple, list)) else y.array

    forward.__name__ = getattr(f, "__name__", "forward")
    return forward


def rule_of(f: Callable[..., Any], wrt: Sequence[int] | int | None = None) -> Callable[..., Any]:
    """Return the gradient rule of a function of tensors on NumPy arrays: `rule(dout, *args, **options)`.

    Args:
        f: an op or a function of tensors.
        wrt: positions of the inputs; one number gives a bare gradient. Default: all arrays of floating point numbers.

    >>> from tinygrad_cnn.ops import tanh
    >>> rule_of(tanh, 0)(np.ones(1), np.zeros(1))
    array([1.])
    """
    from .tensors import _pull

    def rule(dout: Any, *args: Any, **options: Any) -> Any:
        bare = isinstance(wrt, int)
        chosen = (
            [wrt]
            if isinstance(wrt, int)
            else list(wrt)
            if wrt is not None
            else [i for i, a in enumerate(args) if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
        )
        tensors = [Tensor.made(a) if isinstance(a, np.ndarray) else a for a in args]
        for i in chosen:
            tensors[i].requires_grad = True
        with graph.enable_grad():
            y = f(*tensors, **options)
        outputs = list(y) if isinstance(y, (tuple, list)) else [y]
        found = [np.array(g.array) for g in _pull(outputs, [tensors[i] for i in chosen], dout, False)]
        return found[0] if bare or len(found) == 1 else tuple(found)

    return rule
