"""Gradient clipping, and parameters as one vector."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..backend import namespace, overflowing, widened
from ..errors import OptionError, ShapeError, TinygradError
from ..tensor import Tensor

__all__ = ["clip_grad_norm_", "clip_grad_value_", "parameters_to_vector", "vector_to_parameters"]


def _with_gradient(parameters: Any) -> list[Tensor]:
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [p for p in given if p.grad is not None]


def _replace(p: Tensor, g: Any) -> None:
    # A new array: the old one may be shared with the gradients of other tensors.
    p.grad = p.result_type.made(g)


def clip_grad_norm_(
    parameters: Iterable[Tensor] | Tensor,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients by one factor so that their norm, taken as one long vector, is at most `max_norm`.

    norm = (Σ |g|^norm_type)^(1/norm_type), and every g becomes g · min(1, max_norm / (norm + 1e-6)).

    Args:
        parameters: tensors; those without gradient are left out.
        max_norm: the largest norm allowed.
        norm_type: the exponent, or infinity for the largest absolute value.
        error_if_nonfinite: raise instead of spreading a norm that is NaN or infinite.

    Returns:
        The norm before, without axes.

    Raises:
        OptionError: max_norm or norm_type out of range.
        TinygradError: the norm is not finite and `error_if_nonfinite` is set.

    Source: Pascanu, Mikolov & Bengio, ICML 2013.

    >>> from tinygrad_cnn import Tensor, nn
    >>> x = Tensor([3.0, 4.0], requires_grad=True)
    >>> (x * x / 2).sum().backward()
    >>> nn.utils.clip_grad_norm_([x], 1.0).item()
    5.0
    >>> [round(g, 5) for g in x.grad.tolist()]
    [0.6, 0.8]
    """
    if not max_norm >= 0:
        raise OptionError(f"clip_grad_norm_: max_norm must be at least 0, got {max_norm}")
    if not norm_type > 0:
        raise OptionError(f"clip_grad_norm_: norm_type must be above 0, got {norm_type}")
    clipped = _with_gradient(parameters)
    if not clipped:
        return Tensor(0.0)
    xp = namespace(clipped[0].grad.array)
    sizes = [abs(widened(p.grad.array)) for p in clipped]
    if math.isinf(norm_type):
        norm = xp.stack([size.max() if size.size else xp.zeros((), size.dtype) for size in sizes]).max()
    else:
        total = xp.stack([(size**norm_type).sum() for size in sizes]).sum()
        norm = total ** (1 / norm_type)
    norm = xp.asarray(norm)
    if error_if_nonfinite and not bool(xp.isfinite(norm)):
        raise TinygradError(f"clip_grad_norm_: the norm of the gradients is {norm.item()}; look with detect_anomaly()")
    factor = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    with overflowing():  # after a scaled loss gradients may be infinite; the scaler then leaves out the step
        for p in clipped:
            g = p.grad.array
            _replace(p, g * factor.astype(g.dtype))
    result: Tensor = Tensor.made(norm)
    return result


def clip_grad_value_(parameters: Iterable[Tensor] | Tensor, clip_value: float) -> None:
    """Bring every element of the gradients into [-clip_value, clip_value].

    Raises:
        OptionError: clip_value < 0.
    """
    if not clip_value >= 0:
        raise OptionError(f"clip_grad_value_: clip_value must be at least 0, got {clip_value}")
    for p in _with_gradient(parameters):
        g = p.grad.array
        _replace(p, namespace(g).clip(g, -clip_value, clip_value))


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """Return the elements of all tensors one after the other along one axis; gradients flow through."""
    from ..ops import concatenate

    result: Tensor = concatenate(*[p.reshape(-1) for p in parameters])
    return result


def vector_to_parameters(vector: Tensor, parameters: Iterable[Tensor]) -> None:
    """Write the parts of a vector into tensors, in place: the way back from `parameters_to_vector`.

    Raises:
        ShapeError: the vector does not have as many elements as all tensors together.
    """
    given = list(parameters)
    needed = sum(p.size for p in given)
    if vector.shape != (needed,):
        raise ShapeError(f"vector_to_parameters: the vector has shape {vector.shape}, the parameters need ({needed},)")
    start = 0
    for p in given:
        p.array[...] = vector.array[start : start + p.size].reshape(p.shape)
        p.edited()
        start += p.size
